"""What a probability stored as 0 should count as: rules compared on simulated and real cohorts, in several stores.

    python -m benchmarks.coarse --shared SHARED -o docs/results/coarse.md

Every cohort is fitted and scored by halves of its cases in order of name, in float32 and stored in steps; a rule is as
good as little is lost against float32. Simulated labels are drawn from a posterior that is known; scores are that
posterior with its logits times 1, 2.5 or 4. Real cases: CamVid's validation clip, the validation images of the nuclei,
the first 40 held-out hippocampus volumes, one of each two that may be one person's. No test image is read.

"Mean, by zeros" is what segcal does: step / 2 a / (a + 1), a = log((zeros + ones) / zeros) / log 3, from how many
values are stored as 0 and as one step. No constant tried does as well in NLL. "Root mean" loses less with temperature
scaling, and more NLL with dc and cms-op on real cohorts, where it puts T too high; the mean is kept, as the simpler,
and as the one that does not fall so fast with many exact zeros. NLL before any fit is higher than with half a step.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import special

import segcal
from segcal.cases import Cohort, Storage
from segcal.cases.storage import Sampling
from segcal.evaluation import evaluate
from segcal.methods import DirichletCalibration, Method, OrderPreservingMatrixScaling, TemperatureScaling
from segcal.scores import FLOOR, FULL, Resolution
from segcal.simulate import Design, Simulation, Truth

Array = NDArray[np.float64]

CLASSES, SHARPER = (2, 3, 11), (1.0, 2.5, 4.0)
CASES, HIPPOCAMPUS = 8, 40
TRIED: Mapping[str, Sequence[str]] = {
    "ts": ("2 decimals", "bytes", "3 decimals", "4 decimals", "float16"),
    "dc": ("2 decimals", "bytes", "3 decimals", "4 decimals"),
    "cms-op": ("bytes",),
}
METHODS: Mapping[str, Method] = {
    "ts": TemperatureScaling(),
    "dc": DirichletCalibration(lambda_=1e-3, mu=1e-3),
    "cms-op": OrderPreservingMatrixScaling(lambda_=1e-3, mu=1e-3),
}


def decimals(count: int) -> tuple[float, Callable[[Array], Array]]:
    """Step and rounding of so many decimals."""
    return 10.0**-count, lambda p: np.round(p, count)


STORES: Mapping[str, tuple[float, Callable[[Array], Array]]] = {
    "2 decimals": decimals(2),
    "bytes": (1 / 255, lambda p: np.round(p * 255) / 255),
    "3 decimals": decimals(3),
    "4 decimals": decimals(4),
    "float16": (2.0**-24, lambda p: p.astype(np.float16).astype(np.float64)),
}


def slope(stored: Sequence[Array], step: float) -> float:
    """a, where the share of probabilities below p is taken to grow as p^a: as many are stored as 0 and as one step."""
    zeros, ones = (sum(int((abs(p / step - k) < 0.25).sum()) for p in stored) for k in (0, 1))
    return float(np.log((zeros + ones + 1) / (zeros + 0.5)) / np.log(3))


Rule = Callable[[Sequence[Array], float], float]
RULES: Mapping[str, Rule] = {
    "1e-12": lambda stored, step: FLOOR,
    "step / 2": lambda stored, step: step / 2,
    "step / 8": lambda stored, step: step / 8,
    "step / 16": lambda stored, step: step / 16,
    "mean, by zeros": lambda stored, step: step / 2 * (a := slope(stored, step)) / (a + 1),
    "root mean, by zeros": lambda stored, step: step / 2 * ((a := slope(stored, step)) / (a + 0.5)) ** 2,
}
"""What a stored 0 counts as. By zeros: of what a power law puts below half a step, the mean of p, or the square of the
mean of its root, between mean and geometric mean.
"""


Cases = list[tuple[Array, NDArray[np.int64]]]


def simulated(classes: int, sharper: float) -> Cases:
    """Probabilities and labels of `CASES` cases."""
    design = Design(tuple(map(str, range(classes))), shape=(4, 24, 24), margin=(0, 0, 0), members=1)
    simulation = Simulation(design, Truth.temperature(classes, 1.0))
    drawn = [simulation.case(i) for i in range(CASES)]
    return [(special.softmax(sharper * c.log_probs, 0), c.labels.astype(np.int64)) for c in drawn]


def real(name: str, shared: Path, root: Path, every: int, thin: int, *options: str) -> Cases:
    """Each `every`-th case of the zoo's first network, each `thin`-th voxel along every axis."""
    if not (root / name).is_dir():
        script = str(shared / "zoo" / "write_predictions.py")
        words = [sys.executable, script, name, str((root / name).resolve()), "--members", "1", *options]
        subprocess.run(words, check=True, cwd=shared / "zoo")
    out: Cases = []
    for file in sorted((root / name / "member0").glob("*.npz"))[::every]:
        z = np.load(file)["logits"].astype(np.float64)
        (path,) = (root / name / "labels").glob(f"{file.stem}.*")
        if path.suffix == ".png":
            labels = np.asarray(Image.open(path))
        else:
            import nibabel

            labels = np.asarray(nibabel.load(path).dataobj)
        cut = (slice(None, None, thin),) * labels.ndim
        out.append((special.softmax(z, 0)[(slice(None), *cut)], labels[cut].astype(np.int64)))
    return out


def cohorts(shared: Path, root: Path) -> Iterator[tuple[str, Cases]]:
    """All cohorts, by name."""
    for classes in CLASSES:
        for sharper in SHARPER:
            yield f"simulated, {classes} classes, logits x {sharper:g}", simulated(classes, sharper)
    yield "CamVid", real("camvid", shared, root, 6, 3, "--split", "val")
    yield "hippocampus", real("hippocampus", shared, root, 2, 2, "--limit", str(HIPPOCAMPUS))
    yield "nuclei", real("nuclei", shared, root, 3, 4, "--split", "val")


def opened(cases: Cases, resolution: Resolution) -> Cohort:
    """A cohort whose zeros count as told."""
    classes = len(cases[0][0])
    scores, labels = [p.astype(np.float32) for p, _ in cases], [y for _, y in cases]
    ignore = 255 if any((y >= classes).any() for y in labels) else None
    data = segcal.cohort_from_arrays(scores, labels, kind="scores", ignore_index=ignore)
    return replace(data, sampling=Sampling(data, Storage(resolution, "" if resolution == FULL else "steps")))


def scored(cases: Cases, zero: float, method: Method, engine: segcal.Serial) -> dict[str, float]:
    """NLL and ECE of each half by the fit of the other, and of all as they are: means over cases."""
    half, rows = len(cases) // 2, []
    for fit, held in ((cases[:half], cases[half:]), (cases[half:], cases[:half])):
        calibrator = method.fit(opened(fit, Resolution(zero)), engine=engine)
        found = evaluate(opened(held, Resolution(zero)), calibrator, engine)
        before, after = found.uncalibrated.block, found.calibrated.block
        beta = getattr(calibrator.maps[0], "beta", None)
        rows.append(
            {
                **{f"{k} before": before[k] for k in ("nll", "ece")},
                **{k: after[k] for k in ("nll", "ece")},
                "T": float("nan") if beta is None else 1 / float(beta),
                "weight": len(held),
            }
        )
    weights = [r["weight"] for r in rows]
    return {k: float(np.average([r[k] for r in rows], weights=weights)) for k in rows[0] if k != "weight"}


def measured(cases: Cases, method: str, engine: segcal.Serial, known: Mapping[tuple[str, str], Any]) -> Iterator[Any]:
    """A row for float32, then one for each store and rule; `known`: those of before, by store and rule."""
    yield known.get(("float32", "")) or {
        "store": "float32",
        "rule": "",
        "share": 0.0,
        **scored(cases, FLOOR, METHODS[method], engine),
    }
    for store in TRIED[method]:
        step, rounded = STORES[store]
        held = [(rounded(p), y) for p, y in cases]
        for rule, counts in RULES.items():
            zero = max(counts([p for p, _ in held], step), FLOOR)
            yield known.get((store, rule)) or {
                "store": store,
                "rule": rule,
                "share": zero / step,
                **scored(held, zero, METHODS[method], engine),
            }


def written(rows: Sequence[Mapping[str, Any]], command: str) -> str:
    """The page."""
    lines = [
        "# What a stored 0 counts as",
        "",
        f"Made by `{command}`.",
        "",
        *(__doc__ or "").split("\n\n", 2)[2].split("\n"),
    ]
    lines += [
        "NLL and ECE: what is lost against float32, times 1e4, the mean over cohorts (the worst cohort). T: the mean of"
        " |log T / T of float32|. Strengths of dc and cms-op are given (1e-3), so that only the rule differs."
    ]
    for kind in ("simulated", "real"):
        for method in METHODS:
            chosen = [
                r for r in rows if r["method"] == method and r["cohort"].startswith("simulated") == (kind != "real")
            ]
            best = {r["cohort"]: r for r in chosen if not r["rule"]}
            if not best:
                continue
            ends = "NLL | ECE | T" if method == "ts" else "NLL | ECE"
            heading = [f"{s}: {ends}" for s in TRIED[method]]
            lines += [
                "",
                f"## {method}, {kind}: {len(best)} cohorts",
                "",
                f"| a stored 0 counts as | {' | '.join(heading)} |",
            ]
            lines += ["|---" * (1 + len(TRIED[method]) * (3 if method == "ts" else 2)) + "|"]
            for rule in RULES:
                cells = []
                for store in TRIED[method]:
                    pairs = [(r, best[r["cohort"]]) for r in chosen if (r["store"], r["rule"]) == (store, rule)]
                    for k in ("nll", "ece"):
                        lost = [1e4 * (r[k] - b[k]) for r, b in pairs]
                        cells.append(f"{np.mean(lost):.0f} ({max(lost):.0f})")
                    if method == "ts":
                        cells.append(f"{np.mean([abs(np.log(r['T'] / b['T'])) for r, b in pairs]):.2f}")
                lines.append(f"| {rule} | {' | '.join(cells)} |")
    lines += ["", "## CamVid, hippocampus, nuclei: ts", ""]
    lines += [
        "| cohort | stored in | a stored 0 counts as | part of a step | T | NLL | ECE | NLL before |",
        "|---" * 8 + "|",
    ]
    for r in rows:
        if (
            r["method"] == "ts"
            and not r["cohort"].startswith("simulated")
            and r["store"] in ("float32", "bytes", "3 decimals")
        ):
            told = " | ".join(f"{r[k]:.4f}" for k in ("nll", "ece", "nll before"))
            lines.append(f"| {r['cohort']} | {r['store']} | {r['rule']} | {r['share']:.3f} | {r['T']:.2f} | {told} |")
    return "\n".join(lines) + "\n"


def main(words: Sequence[str]) -> int:
    """Measure, print and write the page beside its numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder that holds zoo and data")
    parser.add_argument("--keep", type=Path, help="file of finished rows, from which an interrupted run goes on")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/results/coarse.md"))
    args = parser.parse_args(words)
    known: dict[tuple[str, str], dict[tuple[str, str], Any]] = {}
    if args.keep is not None and args.keep.is_file():
        for line in args.keep.read_text().splitlines():
            row = json.loads(line)
            known.setdefault((row["cohort"], row["method"]), {})[row["store"], row["rule"]] = row
    rows, engine = [], segcal.Serial()
    with tempfile.TemporaryDirectory() as folder:
        for name, cases in cohorts(args.shared.resolve(), Path(folder) if args.keep is None else args.keep.parent):
            for method in METHODS:
                had = known.get((name, method), {})
                for row in measured(cases, method, engine, had):
                    rows.append({"cohort": name, "method": method, **row})
                    if args.keep is not None and (row["store"], row["rule"]) not in had:
                        with args.keep.open("a") as file:
                            file.write(json.dumps(rows[-1]) + "\n")
                print(name, method, flush=True)
    command = "python -m benchmarks.coarse --shared SHARED -o docs/results/coarse.md"
    args.output.write_text(written(rows, command))
    args.output.with_suffix(".json").write_text(json.dumps({"command": command, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
