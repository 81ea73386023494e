"""What applying, evaluating and fitting cost, beside what they cannot go below: one pass of torch over the same scores.

    python -m benchmarks.speed -o docs/performance.md            applying and evaluating, some five minutes
    python -m benchmarks.speed --fits -o docs/performance.md     fits with many classes, up to an hour

Synthetic scores (logits, normal, of standard deviation 4). Times are medians of `--rounds` rounds, in each of which
everything is run once, in turn, on all cores; ratios are of one run, and nothing else should run beside it. Beside each
time how far probabilities are from those of NumPy in float64 (applied), and from those of a direct sum (ECE,
evaluated). Fits run in a process of their own: seconds of the processor and the most memory above that after the
imports. What is measured is added to the JSON beside the page; what is there stays.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import segcal
from segcal.data.files import journal
from segcal.data.head import Softmax
from segcal.engine.threads import Threads
from segcal.methods import methods
from segcal.methods.affine.map import AffineMap
from segcal.methods.calibrator import Calibrator
from segcal.methods.conditional.map import ConditionalMap
from segcal.methods.conditional.sums import Gaps, Margins
from segcal.methods.maps import Map
from segcal.methods.temperature import ScaleMap

APPLIED = {5: 10_000_000, 19: 2_000_000}
"""Voxels by classes."""

EVALUATED = (5, (200, 250, 200))
"""Classes and shape."""

FITTED = (("ts", 118), ("vs", 118), ("dc", 60), ("dc", 118))
"""Methods and classes, on 12 images of 48 x 48."""

MEMORY = 2 * 2**30


def medians(work: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Seconds of each, run in turn."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds + 1):
        for name, one in work.items():
            begun = time.perf_counter()
            one()
            taken[name].append(time.perf_counter() - begun)
    return {name: statistics.median(times[1:]) for name, times in taken.items()}  # the first round warms up


def maps(classes: int) -> dict[str, Map]:
    """A map of each kind, as fits leave them: near a temperature."""
    rng, k = np.random.default_rng(0), classes - 1
    weight = torch.from_numpy(0.8 * np.eye(classes) + 0.02 * rng.normal(size=(classes, classes)))
    experts = torch.from_numpy(0.8 * np.eye(k) + 0.02 * rng.random((classes, k, k)))
    gaps = torch.from_numpy(0.1 * rng.random((classes, k)))
    return {
        "ts": ScaleMap(0.7),
        "dc": AffineMap(weight, torch.from_numpy(0.1 * rng.normal(size=classes))),
        "cms-ap": ConditionalMap(experts, gaps, Margins()),
        "cms-op": ConditionalMap(experts, gaps, Gaps()),
    }


def by_numpy(name: str, m: Map, z: NDArray[np.float32]) -> NDArray[np.float64]:
    """Calibrated probabilities (C, n), from the formulas alone."""
    x = z.astype(np.float64)
    x = x - np.logaddexp.reduce(x, 0)
    if isinstance(m, ScaleMap):
        u = m.beta.item() * x
    elif isinstance(m, AffineMap):
        u = m.weight.numpy() @ x + m.bias.numpy()[:, None]
    else:
        assert isinstance(m, ConditionalMap)
        u = np.zeros_like(x)
        for v in range(x.shape[1]):
            winner = int(z[:, v].argmax())
            a, g = m.weight[winner].numpy(), m.bias[winner].numpy()
            if name == "cms-op":
                order = np.argsort(-z[:, v], kind="stable")
                u[order[1:], v] = -np.cumsum(a @ -np.diff(x[order, v]) + g)
            else:
                others = np.arange(len(x)) != winner
                u[others, v] = -(a @ (x[winner, v] - x[others, v]) + g)
    return np.asarray(np.exp(u - np.logaddexp.reduce(u, 0)))


def applied(classes: int, voxels: int, rounds: int) -> dict[str, Any]:
    """Each method's time in passes of `torch.log_softmax`."""
    z = 4 * torch.randn(1, classes, voxels, generator=torch.Generator().manual_seed(0))
    made = maps(classes)
    head = Softmax(tuple(map(str, range(classes))), 0)
    calibrators = {name: Calibrator(head, "logits", [m], name) for name, m in made.items()}
    work: dict[str, Callable[[], Any]] = {"log_softmax": lambda: torch.log_softmax(z, 1)}
    work |= {name: lambda c=c: c(z) for name, c in calibrators.items()}
    seconds = medians(work, rounds)
    some = z[..., :2000]
    off = {
        name: float(np.abs(c(some)[0].numpy() - by_numpy(name, made[name], some[0].numpy())).max())
        for name, c in calibrators.items()
    }
    kept = {name: bool(torch.equal(c(z).argmax(1), z.argmax(1))) for name, c in calibrators.items() if c.keeps_label}
    return {"classes": classes, "voxels": voxels, "seconds": seconds, "off": off, "labels kept": kept}


def evaluated(rounds: int) -> dict[str, Any]:
    """All metrics, distances included, in passes of `torch.exp`."""
    classes, shape = EVALUATED
    rng = torch.Generator().manual_seed(0)
    z = 3 * torch.randn(1, classes, *shape, generator=rng)
    y = torch.where(
        torch.rand(1, *shape, generator=rng) < 0.2, torch.randint(classes, (1, *shape), generator=rng), z.argmax(1)
    )
    block: dict[str, Any] = {}
    work: dict[str, Callable[[], Any]] = {
        "exp": lambda: torch.exp(z),
        "all metrics": lambda: block.update(segcal.evaluate_arrays(z, y, kind="logits")),
    }
    seconds = medians(work, rounds)
    p = torch.softmax(z.double(), 1)
    confidence, hit = p.amax(1).flatten(), (z.argmax(1) == y).flatten().double()
    index = (confidence * 50).ceil().long().clamp(1, 50) - 1
    gap = torch.bincount(index, confidence - hit, minlength=50).abs().sum() / len(index)
    return {"classes": classes, "voxels": y.numel(), "seconds": seconds, "off": abs(float(gap) - block["ece"])}


def cases(classes: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """12 images whose logits are sure beyond what they know."""
    rng, scores, labels = np.random.default_rng(0), [], []
    for _ in range(12):
        y = np.kron(rng.integers(classes, size=(8, 8)), np.ones((6, 6), np.int64))
        z = rng.normal(size=(classes, 48, 48))
        np.put_along_axis(z, y[None], np.take_along_axis(z, y[None], 0) + 3.2, 0)
        scores.append((2.2 * z).astype(np.float32))
        labels.append(y)
    return np.stack(scores), np.stack(labels)


def fit_here(name: str, classes: int) -> dict[str, Any]:
    """One fit in this process, with its cross-validation and within `MEMORY`."""
    z, y = cases(classes)
    segcal.TemperatureScaling().fit(z[:2], y[:2], engine=Threads(1, max_memory=MEMORY))
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    calibrator = methods()[name]().fit(z, y, engine=Threads(1, max_memory=MEMORY))
    seconds, peak = time.process_time() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    solution = calibrator.solution
    assert solution is not None
    return {
        "method": name,
        "classes": classes,
        "seconds": seconds,
        "megabytes": peak / 1024,
        "nll": solution.nll,
        "status": solution.status,
        "gap": solution.certificate["gap"],
    }


def fitted(name: str, classes: int) -> dict[str, Any]:
    """One fit in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.speed", "--one", name, str(classes)]
    found: dict[str, Any] = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    return found


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A table in Markdown, and an empty line."""
    lines = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines] + [""]


APPLYING = """## Applying

`calibrator(scores)` on an array in memory, in passes of `torch.log_softmax` over the same scores, most of which is
fresh memory for the result. The goals are 2, 3 and 4 passes for ts, dc and cms-op.
"""

EVALUATING = """## Evaluating

`evaluate_arrays`, all metrics, on {voxels:,} voxels of {classes} classes: {seconds:.1f} s, {passes:.0f} passes of
`torch.exp` with a fresh output (the goal is 20 without `edt`). Its ECE is {off:.0e} from a direct sum.
"""

FITTING = """## Fitting many classes

12 images of 48 x 48, strengths chosen by cross-validation, one worker, `max_memory` {limit} GiB: seconds of the
processor, most memory above that after the imports, NLL reached, and what is proven of it.
"""


def page(found: dict[str, Any]) -> str:
    """The tables, in words."""
    lines = ["# Performance", "", "Made by `python -m benchmarks.speed -o docs/performance.md` (and `--fits`).", ""]
    if "applied" in found:
        rows = []
        for row in found["applied"]:
            for name, off in row["off"].items():
                kept, seconds = row["labels kept"].get(name), row["seconds"]
                word = "not promised" if kept is None else "all" if kept else "NO"
                passes = f"{seconds[name] / seconds['log_softmax']:.1f}"
                rows.append(
                    [name, row["classes"], f"{row['voxels']:,}", f"{seconds[name]:.2f}", passes, f"{off:.0e}", word]
                )
        heads = ["method", "classes", "voxels", "seconds", "passes", "furthest from NumPy in float64", "labels kept"]
        lines += [APPLYING, *table(heads, rows)]
    if "evaluated" in found:
        row = found["evaluated"]
        seconds = row["seconds"]["all metrics"]
        told = {"voxels": row["voxels"], "classes": row["classes"], "off": row["off"]}
        lines.append(EVALUATING.format(seconds=seconds, passes=seconds / row["seconds"]["exp"], **told))
    if "fits" in found:
        fits = sorted(found["fits"].values(), key=lambda r: (r["classes"], r["method"]))
        rows = [
            [
                r["method"],
                r["classes"],
                *(f"{r[key]:.0f}" for key in ("seconds", "megabytes")),
                f"{r['nll']:.4f}",
                r["status"],
                f"{r['gap']:.0e}",
            ]
            for r in fits
        ]
        heads = ["method", "classes", "seconds", "MB", "NLL", "status", "gap at most"]
        lines += [FITTING.format(limit=MEMORY // 2**30), *table(heads, rows)]
    return "\n".join(lines)


def _write(path: Path, text: str) -> None:
    with journal.atomic(path) as temporary:
        temporary.write_text(text)


def main() -> None:
    """Measure, and write page and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", type=Path, help="the page, .md; its numbers go beside it, .json")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--fits", action="store_true", help="fits with many classes")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "CLASSES"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(fit_here(asked.one[0], int(asked.one[1]))))
        return
    if asked.o is None:
        parser.error("-o is needed")
    numbers = asked.o.with_suffix(".json")
    found: dict[str, Any] = json.loads(numbers.read_text()) if numbers.exists() else {}
    if asked.fits:
        for name, classes in FITTED:
            found.setdefault("fits", {})[f"{name} {classes}"] = fitted(name, classes)
            _write(numbers, json.dumps(found, indent=1) + "\n")
    else:
        found["applied"] = [applied(classes, voxels, asked.rounds) for classes, voxels in APPLIED.items()]
        found["evaluated"] = evaluated(asked.rounds)
        _write(numbers, json.dumps(found, indent=1) + "\n")
    _write(asked.o, page(found))


if __name__ == "__main__":
    main()
