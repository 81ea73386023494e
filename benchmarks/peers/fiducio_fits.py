"""Exact fits beside fiducio's, on the same voxels of real ensembles: NLL in float64 and time.

    python benchmarks/peers/fiducio_fits.py --shared ../shared --work WORK -o docs/results/fiducio_fits.md

Every method is fitted without a penalty (segcal keeps its ridge of 1e-8) on the same float32 mean logits of five
networks. fiducio runs as it comes (Adam, 200 steps), with L-BFGS (500 iterations) and with Adam for 3000 steps at its
default rate. Fits are interleaved, so that a busy machine slows all of them alike; times are medians over repeats. The
NLL is computed here, in float64, from the parameters each of them ends with. Needs: fiducio, onnxruntime. Exits with an
error where segcal is above fiducio's best by more than 1e-6.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fiducio
import numpy as np
import torch
from ensembles import TOLERANCE, arguments, blocks, ensemble, predictions
from torch import Tensor

import segcal
from segcal.methods import methods
from segcal.methods.method import Method

PEERS: dict[str, type[fiducio.Calibrator]] = {
    "ts": fiducio.TemperatureScaling,
    "vs": fiducio.VectorScaling,
    "ms-c": fiducio.TranslationInvariantMatrixScaling,
    "ms": fiducio.MatrixScaling,
    "dc": fiducio.DirichletCalibration,
}


@dataclass(frozen=True)
class Run:
    """One way of fitting one method: where it ended and how long it took (median seconds)."""

    dataset: str
    method: str
    fitted_by: str
    nll: float
    seconds: float
    gap: float | None
    status: str


@dataclass(frozen=True)
class Effort:
    """How long the peer may try, and how many threads either side gets."""

    adam: int = 3000
    lbfgs: int = 500
    repeats: int = 3
    threads: int = 1


def nll(phi: Tensor, labels: Tensor, weight: Tensor, bias: Tensor) -> float:
    """Mean NLL of S(W phi + b) in float64; phi (n, C)."""
    return torch.nn.functional.cross_entropy(phi @ weight.T + bias, labels).item()


def of_segcal(name: str, calibrator: segcal.Calibrator, logits: Tensor, labels: Tensor) -> float:
    """NLL of a fitted calibrator, from its parameters."""
    fitted = dict(calibrator.maps[0].state_dict())
    phi, c = logits.double(), logits.shape[1]
    if name == "ts":
        return nll(phi, labels, fitted["beta"] * torch.eye(c, dtype=torch.float64), torch.zeros(c, dtype=torch.float64))
    return nll(phi if fitted["on_logits"] else torch.log_softmax(phi, 1), labels, fitted["weight"], fitted["bias"])


def of_peer(name: str, calibrator: fiducio.Calibrator, logits: Tensor, labels: Tensor) -> float:
    """NLL of a fitted peer, from the state it would save."""
    state: dict[str, Any] = calibrator._get_state()
    phi, c = logits.double(), logits.shape[1]
    if name == "ts":
        return nll(
            phi,
            labels,
            torch.eye(c, dtype=torch.float64) / state["temperature"].double(),
            torch.zeros(c, dtype=torch.float64),
        )
    weight = state["weight"].double()
    if name == "vs":
        weight = torch.diag(weight)
    elif name == "ms-c":
        weight = torch.cat([weight, state["row_sum"].double() - weight.sum(1, keepdim=True)], 1)
    return nll(torch.log_softmax(phi, 1) if name == "dc" else phi, labels, weight, state["bias"].double())


def exact(name: str) -> Method:
    """segcal's method without a penalty."""
    return methods()[name]() if name == "ts" else methods()[name](lambda_=0.0, mu=0.0)


def compare(
    dataset: str,
    logits: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any],
    effort: Effort,
    methods: Sequence[str] = tuple(PEERS),
) -> list[Run]:
    """Fit each method every way on float32 `logits` (n, C) and `labels` (n,)."""
    z, y = torch.from_numpy(logits), torch.from_numpy(labels)
    out = []
    for name in methods:
        peer = PEERS[name]
        ways: dict[str, Callable[[], Any]] = {
            "segcal": lambda name=name: exact(name).fit(logits, labels, engine=segcal.Threads(effort.threads)),
            "fiducio": lambda peer=peer: peer(device="cpu").fit(z, y),
            f"fiducio, L-BFGS {effort.lbfgs}": (
                lambda peer=peer: peer(optimizer="lbfgs", max_iter=effort.lbfgs, device="cpu").fit(z, y)
            ),
            f"fiducio, Adam {effort.adam}": (
                lambda peer=peer: peer(optimizer="adam", max_iter=effort.adam, device="cpu").fit(z, y)
            ),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        fitted: dict[str, Any] = {}
        before = torch.get_num_threads()
        torch.set_num_threads(effort.threads)
        for _ in range(effort.repeats):
            for way, fit in ways.items():
                begin = time.perf_counter()
                fitted[way] = fit()
                seconds[way].append(time.perf_counter() - begin)
        torch.set_num_threads(before)
        for way, calibrator in fitted.items():
            ours = isinstance(calibrator, segcal.Calibrator)
            value = (of_segcal if ours else of_peer)(name, calibrator, z, y)
            solution = calibrator.solution if ours else None
            out.append(
                Run(
                    dataset,
                    name,
                    way,
                    value,
                    statistics.median(seconds[way]),
                    solution.certificate["gap"] if solution else None,
                    solution.status if solution else "",
                )
            )
    return out


def behind(runs: Sequence[Run]) -> dict[tuple[str, str], float]:
    """By how much segcal's NLL is above the peer's best, by data set and method; negative where it is below."""
    ours = {(r.dataset, r.method): r.nll for r in runs if r.fitted_by == "segcal"}
    return {
        key: value - min(r.nll for r in runs if (r.dataset, r.method) == key and r.fitted_by != "segcal")
        for key, value in ours.items()
    }


def voxels(folder: Path, dataset: str, count: int, members: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A seeded sample of `count` scored voxels of all cases: mean logits (n, C) float32, labels (n,)."""
    cohort = ensemble(folder, dataset, members)
    found = [(z[kept], y[kept]) for _, z, y, kept in blocks(cohort, range(len(cohort)))]
    z, y = np.concatenate([z for z, _ in found]), np.concatenate([y for _, y in found])
    chosen = np.sort(np.random.default_rng(0).permutation(len(y))[:count])
    return np.ascontiguousarray(z[chosen]), y[chosen]


def page(runs: Sequence[Run], sizes: Mapping[str, tuple[int, int]], effort: Effort, command: str) -> str:
    """The results as a page."""
    lines = [
        "# Exact fits beside fiducio's",
        "",
        (
            f"Made by `{command}`. Mean logits of five networks, no penalty; NLL in float64 from the parameters;"
            f" seconds are medians of {effort.repeats} interleaved run(s) with {effort.threads} thread(s)"
            f" ({platform.machine()}), torch {torch.__version__}, fiducio {fiducio.__version__}, segcal"
            f" {segcal.__version__}."
        ),
        "",
        (
            "`above`: NLL above segcal's. `gap`: segcal's own bound on what its objective, ridge included, has left to"
            " gain."
        ),
        "",
        "| data | method | fitted by | NLL | above | gap | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    ours = {(r.dataset, r.method): r.nll for r in runs if r.fitted_by == "segcal"}
    for r in runs:
        n, c = sizes[r.dataset]
        first = r.fitted_by == "segcal"
        above = "" if first else f"{r.nll - ours[r.dataset, r.method]:+.1e}"
        gap = "" if r.gap is None else f"{r.gap:.0e}"
        lines.append(
            f"| {f'{r.dataset}, {n} voxels, {c} classes' if first else ''} | {r.method if first else ''} |"
            f" {r.fitted_by} | {r.nll:.8f} | {above} | {gap} | {r.seconds:.2f} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = arguments(__doc__, list(PEERS), 100_000, Effort.repeats, Effort.threads)
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--adam", type=int, default=Effort.adam)
    parser.add_argument("--lbfgs", type=int, default=Effort.lbfgs)
    args = parser.parse_args()
    effort = Effort(args.adam, args.lbfgs, args.repeats, args.threads)
    runs: list[Run] = []
    sizes: dict[str, tuple[int, int]] = {}
    for dataset in args.datasets:
        folder = predictions(
            args.shared, args.work / f"{dataset}-{args.cases}-5", dataset, "--limit", str(args.cases), "--members", "5"
        )
        z, y = voxels(folder, dataset, args.voxels, 5)
        sizes[dataset] = (len(y), z.shape[1])
        for method in args.methods:
            runs += compare(dataset, z, y, effort, [method])
            for r in runs[-4:]:
                print(f"{r.dataset:12} {r.method:5} {r.fitted_by:22} {r.nll:.9f} {r.seconds:8.2f} s", flush=True)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(
        page(runs, sizes, effort, "python benchmarks/peers/fiducio_fits.py --work WORK -o docs/results/fiducio_fits.md")
    )
    args.output.with_suffix(".json").write_text(json.dumps([asdict(r) for r in runs], indent=1))
    worse = {key: above for key, above in behind(runs).items() if above > TOLERANCE}
    if worse:
        raise SystemExit(f"above fiducio's best by more than {TOLERANCE:g}: {worse}")


if __name__ == "__main__":
    main()
