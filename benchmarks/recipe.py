"""The papers' recipe beside the exact solver, on real ensembles: NLL of training, validation and held-out cases, and
seconds.

    python benchmarks/recipe.py --work WORK --shared ../shared -o docs/results/recipe.md

WORK holds predictions in the npz layout (`WORK/NAME-npz/member0 ... labels`, as benchmarks/real_ensembles.py writes
them); members are pooled by the mean of their logits. Half of the groups are held out. Of the other half a third, by
the recipe's own split, is validated on and the rest trained on. Three fits of each method: the recipe; the exact solver
on the same training cases with the penalty the recipe chose (the same problem, solved); and the exact solver as it
comes, on training and validation cases together, since it needs none. Fits see every STRIDE-th voxel of their cases
(the recipe reads them some thousand times), held-out numbers are of all voxels.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from real_ensembles import group_of, halves

import segcal
from segcal import cohort_from_arrays
from segcal.data import splits
from segcal.data.case import SCORED
from segcal.data.cohort import Cohort
from segcal.data.files.journal import Scratch
from segcal.engine import accumulate
from segcal.engine.ask import Ask
from segcal.engine.threads import Threads
from segcal.methods import methods
from segcal.methods.calibrator import Calibrator
from segcal.methods.descent import VALIDATION_SHARE
from segcal.metrics.likelihood import LogLikelihood

METHODS = ("ts", "dc", "ms-c", "cms-ap", "cdc")
MEMBERS = 5
OWN_PENALTY = ("dc", "ms-c", "cms-ap", "cdc")


@dataclass(frozen=True)
class Result:
    """One fit: which data, method and solver, mean NLL over the voxels of each part, seconds, how it ended."""

    data: str
    method: str
    solver: str
    train: float
    validation: float
    test: float
    seconds: float
    message: str


def parts(work: Path, shared: Path, name: str, stride: int) -> dict[str, Cohort]:
    """Cases to train on, to validate on and held out, whole groups."""
    root = work / f"{name}-npz"
    names = sorted(p.stem for p in (root / "member0").glob("*.npz"))
    groups = group_of(shared, name, names)
    fit, test = halves(groups)
    ignore = 255 if name == "camvid" else None
    whole = segcal.open_cohort(
        [root / f"member{k}" for k in range(MEMBERS)], root / "labels", pool="logits", ignore_index=ignore
    ).grouped(groups)
    fitted = whole.select(fit)
    held = set(splits.folds(fitted.groups, VALIDATION_SHARE, 0).test[0])
    ids = [c.id for c in fitted]
    train, validation = [n for i, n in enumerate(ids) if i not in held], [ids[i] for i in sorted(held)]
    thin = thinned(fitted, stride)
    return {"train": thin.select(train), "validation": thin.select(validation), "fit": thin, "test": whole.select(test)}


def thinned(cohort: Cohort, stride: int) -> Cohort:
    """Every `stride`-th scored voxel of each case, as arrays in memory."""
    scores, labels = [], []
    with Scratch(2**30) as scratch:
        for index in range(len(cohort)):
            pieces: list[tuple[Any, Any]] = []
            with cohort.open(index, scratch) as reader:
                for start, stop in cohort.cuts(index):
                    block = reader.block(start, stop)
                    keep = torch.nonzero(block.role == SCORED).flatten()[::stride]
                    assert block.labels is not None
                    pieces.append((block.scores[:, keep], block.labels[keep]))
            scores.append(torch.cat([s for s, _ in pieces], 1))
            labels.append(torch.cat([y for _, y in pieces]))
    return cohort_from_arrays(
        scores, labels, kind="logits", head=cohort.head, groups=list(cohort.groups), ids=[c.id for c in cohort]
    )


def timed(method: Any, cohort: Cohort, validation: Cohort | None = None) -> tuple[Calibrator, float]:
    """A fit and its seconds, reading included."""
    begin = time.perf_counter()
    found = method.fit(cohort, validation=validation, engine=Threads())
    return found, time.perf_counter() - begin


def scored(cohorts: Mapping[str, Cohort], calibrators: Mapping[Any, Calibrator | None]) -> dict[str, dict[Any, float]]:
    """Mean NLL over voxels of each part under each calibrator, one pass a part."""
    out: dict[str, dict[Any, float]] = {}
    engine = Threads()
    for part in ("train", "validation", "test"):
        metric = LogLikelihood(len(cohorts[part].head.part_classes(0)))
        asks = {k: Ask(metric, through=None if c is None else c.through(0)) for k, c in calibrators.items()}
        found, _ = engine.survey(cohorts[part], asks)
        out[part] = {k: accumulate.result(metric, state).nll for k, state in found.items()}
    return out


def run(name: str, cohorts: Mapping[str, Cohort], trials: int, only: tuple[str, ...]) -> list[Result]:
    """All fits of one data set."""
    found: dict[tuple[str, str], tuple[Calibrator | None, float]] = {("none", "none"): (None, 0.0)}
    for method in only:
        if method not in methods():
            continue
        make: Any = methods()[method]
        recipe, seconds = timed(make(solver=segcal.Recipe(trials=trials)), cohorts["train"], cohorts["validation"])
        found[method, "recipe"] = recipe, seconds
        print(
            f"{name} {method} recipe {seconds:.1f} s: {recipe.solution.message if recipe.solution else ''}", flush=True
        )
        if method in OWN_PENALTY and recipe.solution is not None:
            (chosen,) = recipe.solution.settings["strengths"]
            found[method, "exact, the recipe's penalty"] = timed(
                make(lambda_=chosen["lambda"], mu=chosen["mu"], penalty="odir"), cohorts["train"]
            )
        found[method, "exact, default"] = timed(make(), cohorts["fit"])
    numbers = scored(cohorts, {k: c for k, (c, _) in found.items()})
    return [
        Result(
            name,
            *k,
            *(numbers[part][k] for part in ("train", "validation", "test")),
            seconds,
            "" if c is None or c.solution is None else c.solution.message,
        )
        for k, (c, seconds) in found.items()
    ]


def page(results: list[Result], command: str, stride: int, sizes: Mapping[str, str]) -> str:
    """The results as Markdown."""
    lines = [
        "# The papers' recipe beside the exact solver",
        "",
        f"    {command}",
        "",
        (
            "Mean of the logits of five networks; NLL is the mean over voxels, of the cases trained on, validated on,"
            " and held out. `exact, the recipe's penalty` minimises, on the"
        ),
        (
            "same training cases, the objective the recipe stopped short of; `exact, default` is what a user gets,"
            " fitted on training and validation cases together. Fits see"
        ),
        (
            f"one voxel in {stride}, held-out numbers are of all voxels. Seconds include reading from memory; two"
            " cores, shared."
        ),
    ]
    for data in dict.fromkeys(r.data for r in results):
        lines += [
            "",
            f"**{data}**: {sizes[data]}.",
            "",
            "| method | solver | training | validation | held out | seconds |",
            "|---|---|---|---|---|---|",
        ]
        for r in (r for r in results if r.data == data):
            who = "uncalibrated |" if r.method == "none" else f"`{r.method}` | {r.solver}"
            lines.append(f"| {who} | {r.train:.6f} | {r.validation:.6f} | {r.test:.6f} | {r.seconds:.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--data", nargs="+", default=["nuclei", "hippocampus"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--stride", type=int, default=25)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    results: list[Result] = []
    sizes: dict[str, str] = {}
    for name in args.data:
        cohorts = parts(args.work, args.shared, name, args.stride)
        sizes[name] = ", ".join(
            f"{len(cohorts[p])} cases and {sum(c.voxels for c in cohorts[p].cases):,} voxels {what}"
            for p, what in (("train", "to train on"), ("validation", "to validate on"), ("test", "held out"))
        )
        results += run(name, cohorts, args.trials, tuple(args.methods))
        command = "python benchmarks/recipe.py --work WORK --shared ../shared -o docs/results/recipe.md"
        command += "" if args.data == ["nuclei", "hippocampus"] else f" --data {' '.join(args.data)}"
        command += "" if args.stride == 25 else f" --stride {args.stride}"
        command += "" if args.trials == 20 else f" --trials {args.trials}"
        args.output.write_text(page(results, command, args.stride, sizes))
        args.output.with_suffix(".json").write_text(json.dumps([asdict(r) for r in results], indent=1) + "\n")
    print(args.output.read_text())


if __name__ == "__main__":
    main()
