"""What an offset that all classes share does to each method (K26's translation invariance): fields of offsets are added
to every voxel's logits, which changes no probability of the network.

    python studies/predict.py --shared ../shared --work WORK camvid        # and hippocampus, nuclei; clean
    python -m benchmarks.gauge --work WORK --keep KEEP -o docs/results/gauge.md

Mean logits of five networks, half of the groups fitted on (`--fit` cases of them), half judged (`--judges`). Offsets
have a standard deviation of 0, 1, 2.5 and 8.8 (those of the free energy on the main paper's three data sets), `white`
(each voxel its own) or `smooth` (a Gaussian of `WIDTH` voxels), seeded by case. `at test`: fitted without them; `at
both`: fitted on cases that have them, too (`REFITTED`). `ms, lambda 0`: without a penalty,
since the default pulls towards temperature scaling, an invariant map. NLL and Brier score, mean over cases, ECE (50
bins, mean of cases), flips: voxels whose label is not that of the scores as they came. Invariant methods are fitted
once and judged under every offset all the same: the largest change of a probability is shown. Finished rows lie in
KEEP.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

import segcal
from benchmarks.pages import written
from segcal.data.case import SCORED
from segcal.data.files import journal
from segcal.data.files.journal import Scratch
from segcal.methods import methods
from segcal.methods.calibrator import Calibrator

Array = NDArray[Any]

COHORTS: dict[str, dict[str, Any]] = {
    "nuclei": {"background": 0},
    "hippocampus": {"background": 0},
    "camvid": {"ignore_index": 255},
}
SPREADS = (0.0, 1.0, 2.5, 8.8)
KINDS = ("white", "smooth")
WIDTH = 4.0
IGNORED = 255
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "ts": ("ts", {}),
    "vs": ("vs", {}),
    "ms": ("ms", {}),
    "ms, lambda 0": ("ms", {"lambda_": 0.0}),
    "ms-c": ("ms-c", {}),
    "dc": ("dc", {}),
    "cms-op": ("cms-op", {}),
    "lts-raw": ("lts-raw", {"epochs": 40}),
    "lts": ("lts", {"epochs": 40}),
}
VARIANT = ("vs", "ms", "ms, lambda 0", "lts-raw")
"""Those that an offset changes."""

REFITTED = ("vs", "ms", "ms, lambda 0")
"""Those of them that are fitted with offsets, too; training a field takes minutes."""


@dataclass(frozen=True, eq=False)
class Case:
    """Mean logits (C, *spatial) float32 and labels, `IGNORED` where not scored."""

    id: str
    group: str
    logits: Array
    labels: Array

    def moved(self, kind: str, spread: float) -> Case:
        """With an offset field of a standard deviation."""
        rng = np.random.default_rng([*self.id.encode("utf-8"), KINDS.index(kind)])
        field = rng.normal(size=self.labels.shape)
        if kind == "smooth":
            field = ndimage.gaussian_filter(field, WIDTH, mode="wrap")
        field *= spread / field.std()
        return replace(self, logits=(self.logits + field[None]).astype(np.float32))


def cases_of(work: Path, name: str, fit: int, judges: int) -> tuple[list[Case], list[Case]]:
    """Cases to fit on and to judge, of different groups, evenly over each half."""
    root = work / f"{name}-clean"
    options = {"pool": "logits", **COHORTS[name]}
    cohort = segcal.open_cohort(sorted(root.glob("member*")), root / "labels", **options)
    with (root / "groups.csv").open() as file:
        group_of = {row["case"]: row["group"] for row in csv.DictReader(file)}
    groups = sorted(set(group_of.values()))
    first = {groups[i] for i in np.random.default_rng(0).permutation(len(groups))[: len(groups) // 2]}
    sides: tuple[list[int], list[int]] = ([], [])
    for index, case in enumerate(cohort):
        sides[group_of[case.id] not in first].append(index)
    out: list[list[Case]] = []
    for side, count in zip(sides, (fit, judges), strict=True):
        found = []
        for index in [side[i] for i in np.unique(np.linspace(0, len(side) - 1, count).round().astype(int))]:
            logits, labels = [], []
            with Scratch(2**30) as scratch, cohort.open(index, scratch) as reader:
                for start, stop in cohort.cuts(index):
                    block = reader.block(start, stop)
                    assert block.labels is not None
                    logits.append(block.scores.numpy())
                    labels.append(np.where((block.role == SCORED).numpy(), block.labels.numpy(), IGNORED))
            shape = cohort[index].shape
            whole = np.concatenate(logits, 1).astype(np.float32)
            flat = np.concatenate(labels).astype(np.int64)
            name_of = cohort[index].id
            found.append(Case(name_of, group_of[name_of], whole.reshape(-1, *shape), flat.reshape(shape)))
        out.append(found)
    return out[0], out[1]


def fitted(name: str, cases: Sequence[Case], background: int | None) -> Calibrator:
    """A method at its defaults, or as `METHODS` has it."""
    method, options = METHODS[name]
    cohort = segcal.cohort_from_arrays(
        [case.logits for case in cases],
        [case.labels for case in cases],
        kind="logits",
        background=background,
        ignore_index=IGNORED,
        groups=[case.group for case in cases],
        ids=[case.id for case in cases],
    )
    return methods()[method](**options).fit(cohort, engine=segcal.Threads(1))


def judged(calibrator: Calibrator, cases: Sequence[Case], kind: str, spread: float) -> dict[str, float]:
    """Means over cases."""
    rows, largest = [], 0.0
    for case in cases:
        kept = case.labels.ravel() != IGNORED
        labels = case.labels.ravel()[kept]
        with torch.no_grad():
            plain = calibrator(torch.from_numpy(case.logits)[None])[0].numpy().reshape(len(case.logits), -1)[:, kept]
            moved = case.moved(kind, spread)
            p = calibrator(torch.from_numpy(moved.logits)[None])[0].numpy().reshape(len(case.logits), -1)[:, kept]
        largest = max(largest, float(np.abs(p - plain).max()))
        p = p.astype(np.float64)
        own = p[labels, np.arange(labels.size)]
        confidence, decided = p.max(0), p.argmax(0)
        bins = np.clip(np.ceil(confidence * 50).astype(int) - 1, 0, 49)
        gap = np.abs(np.bincount(bins, confidence - (decided == labels), 50)).sum() / labels.size
        before = case.logits.reshape(len(case.logits), -1)[:, kept].argmax(0)
        nll = -np.log(np.maximum(own, 1e-12)).mean()
        rows.append((nll, ((p**2).sum(0) - 2 * own + 1).mean(), gap, (decided != before).mean()))
    return dict(zip(("nll", "brier", "ece", "flips"), np.mean(rows, 0).tolist(), strict=True)) | {"changed": largest}


def cells(name: str) -> Iterator[tuple[str, str, str, float]]:
    """Method, where the offset is, its kind and spread."""
    for method in METHODS:
        for spread in SPREADS:
            for kind in KINDS if spread else KINDS[:1]:
                yield method, "at test", kind, spread
        for kind in KINDS if method in REFITTED else ():
            for spread in SPREADS[1:]:
                yield method, "at both", kind, spread


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every row, finished ones from `args.keep`."""
    rows: list[dict[str, Any]] = json.loads(args.keep.read_text()) if args.keep.is_file() else []
    known = {(r["data"], r["method"], r["offset"], r["kind"], r["spread"]) for r in rows}
    for name in args.cohorts:
        missing = [cell for cell in cells(name) if (name, *cell) not in known and cell[0] in args.methods]
        if not missing:
            continue
        fit, judges = cases_of(args.work, name, args.fit, args.judges)
        background = COHORTS[name].get("background")
        made: dict[tuple[str, str, float], Calibrator] = {}
        for method, where, kind, spread in missing:
            key = (method, kind, spread if where == "at both" else 0.0)
            began = time.monotonic()
            if key not in made and (method, KINDS[0], 0.0) in made and key[2] == 0.0:
                made[key] = made[method, KINDS[0], 0.0]
            if key not in made:
                some = fit if key[2] == 0.0 else [case.moved(kind, spread) for case in fit]
                made[key] = fitted(method, some, background)
            found = judged(made[key], judges, kind, spread)
            row = {"data": name, "fit": len(fit), "method": method, "offset": where, "kind": kind, "spread": spread}
            row |= found
            rows.append(row)
            with journal.atomic(args.keep) as aside:
                aside.write_text(json.dumps(rows, indent=1) + "\n")
            print(
                name,
                method,
                where,
                kind,
                spread,
                round(found["nll"], 4),
                f"{time.monotonic() - began:.0f} s",
                flush=True,
            )
    return rows


def page(rows: Sequence[Mapping[str, Any]], told: Mapping[str, Any]) -> str:
    """A table a data set: NLL over the spread; then ECE and flips at the largest."""
    lines = ["# An offset that all classes share", "", f"Made by `{told['command']}`.", "", *told["about"], ""]
    lines += ["![NLL over the offset's standard deviation](../images/gauge.png)", ""]
    for name in dict.fromkeys(row["data"] for row in rows):
        mine = [row for row in rows if row["data"] == name]
        lines += [f"## {name}", ""]
        lines.append(
            "| method | offset | "
            + " | ".join(f"NLL, s.d. {s:g}" for s in SPREADS)
            + " | Brier, 8.8 | ECE, 8.8 | flips, 8.8, % | largest change of a probability |"
        )
        lines.append("|---|---|" + "---|" * (len(SPREADS) + 4))
        for method in METHODS:
            for where in ("at test", "at both"):
                for kind in KINDS:
                    some = {
                        r["spread"]: r for r in mine if (r["method"], r["offset"], r["kind"]) == (method, where, kind)
                    }
                    some = {**{r["spread"]: r for r in mine if r["method"] == method and r["spread"] == 0}, **some}
                    if len(some) < len(SPREADS):
                        continue
                    last = some[SPREADS[-1]]
                    lines.append(
                        f"| {method} | {where}, {kind} | "
                        + " | ".join(f"{some[s]['nll']:.4f}" for s in SPREADS)
                        + f" | {last['brier']:.4f} | {last['ece']:.4f} | {100 * last['flips']:.2f} |"
                        + f" {last['changed']:.1g} |"
                    )
        lines.append("")
    return "\n".join(lines)


def drawn(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """NLL over the spread, white offsets at test, a panel a data set."""
    names = list(dict.fromkeys(row["data"] for row in rows))
    figure, axes = plt.subplots(1, len(names), figsize=(4 * len(names), 3.4), squeeze=False, layout="constrained")
    for ax, name in zip(axes[0], names, strict=True):
        for k, method in enumerate(METHODS):
            points = {
                r["spread"]: r["nll"]
                for r in rows
                if (r["data"], r["method"], r["offset"], r["kind"]) == (name, method, "at test", "white")
            }
            if points:
                style = "-" if method in VARIANT else "--"
                ax.plot(
                    list(points), list(points.values()), style, marker="o", ms=3, lw=1.2, color=f"C{k}", label=method
                )
        ax.set(title=name, xlabel="s.d. of the offset at test", ylabel="NLL", yscale="log")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run what is not there yet; page, JSON and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cohorts", nargs="+", default=list(COHORTS), choices=list(COHORTS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--fit", type=int, default=30)
    parser.add_argument("--judges", type=int, default=20)
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    if args.keep.resolve() == args.output.with_suffix(".json").resolve():
        sys.exit("--keep and the JSON beside -o are one file; name another to keep rows in")
    rows = run(args)
    sizes = {row["data"]: row["fit"] for row in rows}
    about = [
        "Cases fitted on: "
        + ", ".join(f"{size} of {name}" for name, size in sizes.items())
        + f"; {args.judges} of other groups judged. What lay in KEEP already was kept."
    ]
    told = {"command": "python -m benchmarks.gauge " + shlex.join(sys.argv[1:]), "about": about}
    picture = args.output.parent.parent / "images" / "gauge.png"
    picture.parent.mkdir(exist_ok=True, parents=True)
    drawn(rows, picture)
    written(args.output, page(rows, told), {**told, "rows": rows})


if __name__ == "__main__":
    main()
