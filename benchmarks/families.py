"""What W23's Fig. 2 asks: does calibration depend on a network's size, on its crops, on multi-scale testing; and on
whether a voxel's prediction is correct?

    python studies/predict.py --shared ../shared --work WORK nuclei         # and hippocampus, camvid; clean
    python studies/networks.py --shared ../shared --work WORK --widths 4 8 16 32
    python studies/networks.py --shared ../shared --work WORK --widths 8 --crops 64 96 192
    python studies/scales.py --shared ../shared --work WORK nuclei          # and hippocampus
    python -m benchmarks.families --work WORK -o docs/results/families.md

Three networks of each kind, of different seeds, on all cases of the pool: ECE (10 bins), NLL, mIoU, and the ECE of
correct and of mispredicted voxels, means of cases; then ECE and NLL after temperature scaling fitted on the other half
of the groups. A change is from the first row to the last of a family, case by case, the networks' mean, with an
interval over groups of cases; it counts as told where the interval leaves out 0 and each seed's own change has its
sign. Else it cannot be told, and the smallest change is named that this many cases would show in four of five designs
like this one. Networks in the JSON already are kept; families without predictions are left out and named.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch

import segcal
from benchmarks.boundary import DATASETS, halves, opened
from segcal.data.cohort import Cohort
from segcal.data.files import journal
from segcal.metrics.statistics.clustered import paired_difference
from segcal.metrics.statistics.verdict import seen

SEEDS = 3
NUMBERS = ("ece_10", "nll", "iou", "ece_correct", "ece_incorrect")
AFTER = ("ece_10", "nll")
HEADS = {
    "ece_10": "ECE, 10 bins",
    "nll": "NLL",
    "iou": "mIoU",
    "ece_correct": "ECE, correct",
    "ece_incorrect": "ECE, mispredicted",
    "ts ece_10": "ECE after ts",
    "ts nll": "NLL after ts",
}


@dataclass(frozen=True)
class Family:
    """Kinds of networks of one data set, in order; `folders` names each kind's, with `{seed}` for a network's."""

    title: str
    dataset: str
    folders: Mapping[str, str]


def _networks(widths: Sequence[int], crops: Sequence[int]) -> dict[tuple[int, int], str]:
    return {(w, c): f"networks/w{w}-c{c}-n1000-s{{seed}}" for w in widths for c in crops}


def _scales(dataset: str) -> Family:
    folders = {"one scale": f"{dataset}-clean/member{{seed}}", "six scales": f"{dataset}-scales/member{{seed}}"}
    return Family(f"Multi-scale testing (2c), {dataset}", dataset, folders)


FAMILIES = {
    "capacity": Family(
        "Width of the first level (2a), nuclei",
        "nuclei",
        {f"width {w}": folder for (w, _), folder in _networks((4, 8, 16, 32), (128,)).items()},
    ),
    "crops": Family(
        "Side of the training crops at equal pixels (2b), nuclei, width 8",
        "nuclei",
        {f"crop {c}": folder for (_, c), folder in _networks((8,), (64, 96, 128, 192)).items()},
    ),
    "scales, nuclei": _scales("nuclei"),
    "scales, hippocampus": _scales("hippocampus"),
    **{
        f"zoo, {name}": Family(f"The networks of {name} (2d)", name, {"as trained": f"{name}-clean/member{{seed}}"})
        for name in DATASETS
    },
}


def cases_of(work: Path, family: Family, folder: str, engine: Any) -> dict[str, dict[str, float]]:
    """Numbers of each case, without a calibrator and after temperature scaling fitted on the other half."""
    clean = opened(work, family.dataset)
    found = segcal.open_cohort([work / folder], work / f"{family.dataset}-clean" / "labels", **DATASETS[family.dataset])
    cohort: Cohort = found.grouped(dict(zip((case.id for case in clean), clean.groups, strict=True)))
    out = {}
    sides = halves(cohort, 0, None)
    for fit, judged in (sides, sides[::-1]):
        scores = segcal.evaluate(judged, segcal.TemperatureScaling().fit(fit, engine=engine), engine, bins=(10,))
        assert scores.calibrated is not None
        for before, after in zip(scores.uncalibrated.per_case, scores.calibrated.per_case, strict=True):
            row = {name: before[name] for name in NUMBERS} | {f"ts {name}": after[name] for name in AFTER}
            out[before["case"]] = {name: None if value is None else round(value, 7) for name, value in row.items()}
    return out


def means(found: Mapping[str, Mapping[str, Any]], metric: str, cases: Sequence[str]) -> np.ndarray[Any, Any]:
    """Of each network (a row) and case a number; what is not defined NaN."""
    values = [[found[seed][case][metric] for case in cases] for seed in sorted(found)]
    return np.array([[np.nan if v is None else v for v in row] for row in values])


End = tuple[Mapping[str, Any], str]
"""Networks of one kind by seed, and a number of theirs."""


def changed(first: End, last: End, groups: Mapping[str, str]) -> dict[str, Any]:
    """From one number of networks to another."""
    cases = sorted(groups)
    before, after = (means(networks, metric, cases) for networks, metric in (first, last))
    change = paired_difference(before.mean(0), after.mean(0), [groups[case] for case in cases])
    each = np.nanmean(after - before, 1)
    told = change.excludes_zero and bool((np.sign(each) == np.sign(change.mean)).all())
    return {
        "mean": change.mean,
        "low": change.low,
        "high": change.high,
        "each": each.tolist(),
        "told": told,
        "smallest": seen(change),
        "groups": change.groups,
    }


def rows_of(found: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """A family's table: means of each kind, and changes from the first to the last."""
    kinds = list(family.folders)
    table = {
        kind: {
            m: float(np.nanmean([np.nanmean(row) for row in means(found["kinds"][kind], m, sorted(found["groups"]))]))
            for m in HEADS
        }
        for kind in kinds
    }
    first, last = (found["kinds"][kinds[k]] for k in (0, -1))
    changes = {m: changed((first, m), (last, m), found["groups"]) for m in HEADS} if len(kinds) > 1 else {}
    apart = changed((first, "ece_incorrect"), (first, "ece_correct"), found["groups"])
    return {"table": table, "changes": changes, "apart": apart}


def _told(change: Mapping[str, Any]) -> str:
    text = f"{change['mean']:+.4f} [{change['low']:+.4f}, {change['high']:+.4f}]"
    return text if change["told"] else f"{text}, cannot be told (seen from {change['smallest']:.4f})"


def picture(rows: Mapping[str, Any], path: Path) -> None:
    """ECE, and mIoU beside it, of each family; of the zoo's networks correct and mispredicted voxels."""
    lines = [key for key in rows if rows[key]["changes"]]
    apart = [key for key in rows if not rows[key]["changes"]]
    figure, axes = plt.subplots(
        1,
        len(lines) + bool(apart),
        figsize=(3.4 * (len(lines) + bool(apart)), 3.2),
        squeeze=False,
        layout="constrained",
    )
    for axis, key in zip(axes[0], lines, strict=False):
        table = rows[key]["table"]
        axis.plot(list(table), [row["ece_10"] for row in table.values()], marker="o", color="C0", label="ECE")
        axis.plot(
            list(table),
            [row["ts ece_10"] for row in table.values()],
            marker="o",
            ls="--",
            color="C0",
            label="ECE after ts",
        )
        highest = max(max(row["ece_10"], row["ts ece_10"]) for row in table.values())
        axis.set(title=key, ylim=(0, 1.15 * highest), ylabel="ECE, 10 bins")
        beside = axis.twinx()
        beside.plot(list(table), [row["iou"] for row in table.values()], marker="s", color="C1", label="mIoU")
        beside.set_ylabel("mIoU", color="C1")
        axis.tick_params(axis="x", rotation=30)
        axis.legend(frameon=False, fontsize="small")
    if apart:
        axis, names = axes[0, -1], [key.partition(", ")[2] for key in apart]
        where = np.arange(len(apart))
        for k, metric in enumerate(("ece_correct", "ece_incorrect")):
            values = [next(iter(rows[key]["table"].values()))[metric] for key in apart]
            axis.bar(where + 0.4 * (k - 0.5), values, 0.4, label=HEADS[metric])
        axis.set_xticks(where, names, rotation=30)
        axis.set(title="correctness", ylim=(0, 1))
        axis.legend(frameon=False, fontsize="small")
    with journal.atomic(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    plt.close(figure)


def page(rows: Mapping[str, Any], missing: Sequence[str], made: str, image: str) -> str:
    """As Markdown."""
    text = " ".join((__doc__ or "").split("\n\n")[2].split())
    lines = ["# Families of networks", "", f"Made by `{made}`. {text}", "", f"![families]({image})", ""]
    if missing:
        lines += [f"Left out for want of predictions: {'; '.join(FAMILIES[key].title for key in missing)}.", ""]
    for key, family in FAMILIES.items():
        if key not in rows:
            continue
        lines += [f"## {family.title}", "", f"| | {' | '.join(HEADS.values())} |", "|---" * (len(HEADS) + 1) + "|"]
        for kind, row in rows[key]["table"].items():
            lines.append(f"| {kind} | {' | '.join(f'{row[m]:.4f}' for m in HEADS)} |")
        lines.append("")
        if rows[key]["changes"]:
            lines += ["From the first row to the last:", "", "| | change | of each seed |", "|---|---|---|"]
            for metric, change in rows[key]["changes"].items():
                each = ", ".join(f"{one:+.4f}" for one in change["each"])
                lines.append(f"| {HEADS[metric]} | {_told(change)} | {each} |")
            lines.append("")
    return "\n".join(lines)


@dataclass(frozen=True)
class Asked:
    """What a benchmark on trained networks is asked for: where predictions are and the page goes, an engine, and what
    of it was `found` before.
    """

    work: Path
    output: Path
    engine: Any
    found: dict[str, Any]

    @classmethod
    def of(cls, told: str | None) -> Asked:
        """From the command line, `told` being its help."""
        parser = argparse.ArgumentParser(description=told, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--work", type=Path, required=True)
        parser.add_argument("-o", "--output", type=Path, required=True)
        parser.add_argument("--workers", type=int, default=2)
        args = parser.parse_args()
        torch.set_num_threads(1)
        data = args.output.with_suffix(".json")
        found = json.loads(data.read_text()) if data.exists() else {}
        return cls(args.work, args.output, segcal.Threads(args.workers), found)

    def there(self, names: Sequence[str], dataset: str) -> bool:
        """Whether all these folders hold predictions of the whole pool."""
        pool = opened(self.work, dataset)
        return all((self.work / name / f"{case.id}.npz").is_file() for name in names for case in pool)

    def networks(self, known: dict[str, Any], names: Sequence[str], cases: Any, told: str) -> None:
        """Numbers of networks by seed, of which the `known` are kept; the record is written after each."""
        for seed, name in enumerate(names):
            if str(seed) not in known:
                known[str(seed)] = cases(name)
                print(told, seed, flush=True)
                with journal.atomic(self.output.with_suffix(".json")) as temporary:
                    temporary.write_text(json.dumps(self.found))

    def groups(self, dataset: str) -> dict[str, str]:
        """Of each case of the pool."""
        pool = opened(self.work, dataset)
        return dict(zip((case.id for case in pool), pool.groups, strict=True))


def main() -> None:
    args, missing = Asked.of(__doc__), []
    found = args.found
    for key, family in FAMILIES.items():
        names = {kind: [folder.format(seed=s) for s in range(SEEDS)] for kind, folder in family.folders.items()}
        if not all(args.there(some, family.dataset) for some in names.values()):
            missing += [] if key in found else [key]
            continue
        mine = found.setdefault(key, {"kinds": {}, "groups": args.groups(family.dataset)})
        cases = partial(cases_of, args.work, family, engine=args.engine)
        for kind, some in names.items():
            args.networks(mine["kinds"].setdefault(kind, {}), some, cases, f"{key} {kind}")
    rows = {key: rows_of(found[key], family) for key, family in FAMILIES.items() if key in found}
    image = args.output.parent.parent / "images" / f"{args.output.stem}.png"
    picture(rows, image)
    made = f"python -m benchmarks.families --work WORK -o {args.output}"
    with journal.atomic(args.output) as temporary:
        temporary.write_text(page(rows, missing, made, f"../images/{image.name}"))


if __name__ == "__main__":
    main()
