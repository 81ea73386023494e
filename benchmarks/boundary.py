"""Boundary temperature scaling beside the other methods on three real ensembles: held-out numbers, knots, a picture.

    python studies/predict.py --shared ../shared --work WORK hippocampus    # and nuclei, camvid; clean, shifted
    python -m benchmarks.boundary --work WORK -o docs/results/boundary.md

Half of the groups is fitted on, the other half judged; `--seeds` draws of the halves, `--cases` cases of each half at
most, evenly over it. `own entropy`: T by the voxel's own entropy alone; `net`: what bts-both looks at, in a net of two
hidden layers of 16, trained by Adam and stopped by a fifth of the cases. Of averaged probabilities `lts` on log S and
on scores are one. `knots`: other knots, fitted on a half of the first draw's calibration half and judged on the rest of
that half; the test half is not read for it. Means over the draws; intervals of a change over the groups of the first
draw. Nuclei fitted on clean images are judged on other acquisitions, too, where WORK has them. Methods that are in the
JSON already are kept, so that an interrupted run goes on. The picture goes to docs/images beside the results.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch

import segcal
from segcal import BoundaryTemperatureScaling
from segcal.data.cohort import Cohort
from segcal.data.files import journal
from segcal.data.files.journal import Scratch
from segcal.data.surroundings import Contexts
from segcal.engine.ask import Level
from segcal.engine.pinned import Chunk
from segcal.methods import find
from segcal.methods.boundary.fit import DISTANCES, ENTROPIES
from segcal.methods.boundary.look import Look
from segcal.methods.boundary.map import BoundaryMap
from segcal.methods.boundary.sums import Looked
from segcal.methods.calibrator import Calibrator
from segcal.metrics.statistics.clustered import paired_difference

DATASETS: dict[str, dict[str, Any]] = {
    "hippocampus": {"background": 0},
    "nuclei": {"background": 0},
    "camvid": {"ignore_index": 255},
}
METHODS = ("ts", "ets", "lts", "cms-ap", "cms-op", "dc", "cdc", "bts", "bts-class", "bts-both")
ON = {"bts-class on cms-op": "held-out", "bts-class on cms-op, fitted outputs": "fitted"}
KNOTS: dict[str, tuple[float, ...]] = {
    "0 1 2 4 8 16": (0, 1, 2, 4, 8, 16),
    "0 2 8": (0, 2, 8),
    "0 1 3 9": (0, 1, 3, 9),
    "0 1 2 4 8": (0, 1, 2, 4, 8),
    "0 1 2 3 4 6 8 12 16 24": (0, 1, 2, 3, 4, 6, 8, 12, 16, 24),
}
COLUMNS = ("nll", "brier", "ece", "foreground ece", "boundary ece", "ba_ece", "flips, %", "fit, s")


def opened(work: Path, name: str, cohort: str = "clean") -> Cohort:
    """The five networks' mean probabilities, with groups."""
    root = work / f"{name}-{cohort}"
    found = segcal.open_cohort(sorted(root.glob("member*")), root / "labels", **DATASETS[name])
    with (root / "groups.csv").open() as file:
        return found.grouped({row["case"]: row["group"] for row in csv.DictReader(file)})


def evenly(names: Sequence[str], count: int | None) -> list[str]:
    """At most `count` of them."""
    if count is None or count >= len(names):
        return list(names)
    return [names[i] for i in np.unique(np.linspace(0, len(names) - 1, count).round().astype(int))]


def halves(cohort: Cohort, seed: int, count: int | None) -> tuple[Cohort, Cohort]:
    """Cases to fit on and to judge, of different groups."""
    groups = sorted(set(cohort.groups))
    np.random.default_rng(seed).shuffle(groups)
    first = set(groups[: len(groups) // 2])
    sides: tuple[list[str], list[str]] = ([], [])
    for case, group in zip(cohort, cohort.groups, strict=True):
        sides[group not in first].append(case.id)
    fit, judged = (cohort.select(evenly(side, count)) for side in sides)
    return fit, judged


class NetField(BoundaryMap):
    """T of what is looked at and of the class decided for, by a net."""

    type_name = "benchmark: net"

    def __init__(self, look: Look, classes: int) -> None:
        super().__init__(look.spread(1.0, classes), look, classes)
        torch.manual_seed(0)
        inputs, wide = look.numbers + classes, 16
        self.net = torch.nn.Sequential(
            torch.nn.Linear(inputs, wide),
            torch.nn.Tanh(),
            torch.nn.Linear(wide, wide),
            torch.nn.Tanh(),
            torch.nn.Linear(wide, 1),
        ).double()

    def temperature(self, context: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        """T (n,)."""
        return self.at(context, given.argmax(0))

    def at(self, context: torch.Tensor, decision: torch.Tensor) -> torch.Tensor:
        """T (n,) of a class."""
        tops = torch.tensor([len(knots) - 1.0 for knots in self.look.tables], dtype=torch.float64)
        classes = torch.nn.functional.one_hot(decision.long(), self.classes).double()
        raw = self.net(torch.cat([(context.double() / tops[:, None]).T, classes], 1))[:, 0]
        # 1 where the net says 0
        return torch.nn.functional.softplus(raw + math.log(math.e - 1)) + 1e-3


@dataclass(frozen=True)
class Net:
    """Trains a `NetField` on the sample of voxels that fits begin with."""

    epochs: int = 60

    def fit(self, cohort: Cohort, engine: Any) -> Calibrator:
        """By Adam; the epoch of the lowest NLL of a fifth of the cases."""
        classes, look = cohort.head.channels, Look(DISTANCES, ENTROPIES, background=0)
        field = NetField(look, classes)
        looked = tuple(Looked(one, 0) for one in look.quantities)
        with engine.pin(cohort, looked) as pinned:
            held = set(range(len(cohort))[min(4, len(cohort) - 1) :: 5])
            pinned.resample([int(i in held) for i in range(len(cohort))])
            chunks = pinned.chunks(Level.SAMPLE)
        apart, learn = ([c for c in chunks if (next(iter(c.cases)) in held) is one] for one in (True, False))
        optimiser = torch.optim.Adam(field.net.parameters(), lr=3e-3)
        rng, best, kept = np.random.default_rng(0), math.inf, field.net.state_dict()
        for _ in range(self.epochs):
            for k in rng.permutation(len(learn)):
                value = self._nll(field, learn[k], looked)
                optimiser.zero_grad()
                value.backward()
                optimiser.step()
            with torch.no_grad():
                sums = [(float(self._nll(field, c, looked)), c.rows.targets.shape[1]) for c in apart]
            now = sum(value * n for value, n in sums) / sum(n for _, n in sums)
            if now < best:
                best, kept = now, copy.deepcopy(field.net.state_dict())
        field.net.load_state_dict(kept)
        field.requires_grad_(requires_grad=False)
        return Calibrator(cohort.head, cohort.pooled_kind, [field], "net")

    @staticmethod
    def _nll(field: NetField, chunk: Chunk, looked: Sequence[Looked]) -> torch.Tensor:
        rows = chunk.rows
        context = torch.cat([rows.contexts[one] for one in looked])
        x = rows.log_probs.double() / field.at(context, rows.decision[0])
        return torch.nn.functional.cross_entropy(x.T, rows.targets[0].long())


def compared(
    fit: Cohort, tests: Mapping[str, Cohort], method: Any, engine: Any
) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Of each test cohort the numbers, and the NLL of each case, without and with a method."""
    began = time.process_time()
    calibrator = method.fit(fit, engine=engine)
    seconds = time.process_time() - began
    out = {}
    for where, test in tests.items():
        before, after = rows(calibrator, test, engine)
        out[where] = (before, after | {"fit, s": seconds})
    return out


def rows(calibrator: Calibrator, test: Cohort, engine: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Numbers without and with a calibrator."""
    found = segcal.evaluate(test, calibrator, engine)
    assert found.calibrated is not None
    assert found.verdict is not None
    out = []
    for side, summary in (("before", found.uncalibrated), ("after", found.calibrated)):
        strata = {(cell.where, cell.metric): getattr(cell, side) for cell in found.verdict.cells}
        out.append(
            {
                **{name: float(summary.block[name]) for name in ("nll", "brier", "ece", "ba_ece")},
                **{
                    f"{where} ece": strata[where, "ece"]
                    for where in ("foreground", "boundary")
                    if (where, "ece") in strata
                },
                "flips, %": 100 * float(summary.block.get("flip_rate") or 0.0),
                "cases": {r["case"]: r["nll"] for r in summary.per_case},
            }
        )
    return out[0], out[1]


def methods() -> dict[str, Any]:
    """Everything that is compared: what has a `fit`."""
    found: dict[str, Any] = {name: known() for name in METHODS if (known := find(name)) is not None}
    on = {name: BoundaryTemperatureScaling(by="class", on="cms-op", outputs=outputs) for name, outputs in ON.items()}
    return found | on | {"own entropy": BoundaryTemperatureScaling(of="entropy", reach=0), "net": Net()}


def run(args: argparse.Namespace, name: str, engine: Any, known: dict[str, Any], keep: Callable[[], None]) -> None:
    """All draws of one data set, into what is `known` of it."""
    pool = opened(args.work, name)
    shifted = {"shifted": opened(args.work, name, "shifted")} if (args.work / f"{name}-shifted").is_dir() else {}
    shifted = {where: c.select(evenly([case.id for case in c], args.cases)) for where, c in shifted.items()}
    for seed in range(args.seeds):
        fit, test = halves(pool, seed, args.cases)
        group = {case.id: g for c in (test, *shifted.values()) for case, g in zip(c, c.groups, strict=True)}
        mine = known.setdefault(
            str(seed), {"fit": len(fit), "test": len(test), "groups": len(set(test.groups)), "found": {}, "ts": {}}
        )
        for method, made in methods().items():
            if method in mine["found"].get("clean", {}):
                continue
            for where, (before, after) in compared(fit, {"clean": test, **shifted}, made, engine).items():
                table = mine["found"].setdefault(where, {})
                ts = mine["ts"].setdefault(where, after["cases"])  # the first of the methods
                table.setdefault("uncalibrated", told(before, ts, group))
                table[method] = told(after, ts, group)
                print(name, seed, where, method, {k: v for k, v in table[method].items() if k in COLUMNS}, flush=True)
            keep()


def told(one: Mapping[str, Any], ts: Mapping[str, float], group: Mapping[str, str]) -> dict[str, Any]:
    """A row with its change against the NLLs of temperature scaling in place of its cases."""
    cases = sorted(one["cases"])
    change = paired_difference([ts[c] for c in cases], [one["cases"][c] for c in cases], [group[c] for c in cases])
    numbers = {k: v for k, v in one.items() if k != "cases"}
    return numbers | {"against ts": {"mean": change.mean, "low": change.low, "high": change.high}}


def knots(args: argparse.Namespace, name: str, engine: Any) -> dict[str, float]:
    """NLL of other knots, within the calibration half."""
    fit, judged = halves(halves(opened(args.work, name), 0, None)[0], 1, args.cases)
    out = {}
    for label, wanted in KNOTS.items():
        made = BoundaryTemperatureScaling(by="class", knots=wanted).fit(fit, engine=engine)
        out[label] = rows(made, judged, engine)[1]["nll"]
        print(name, "knots", label, out[label], flush=True)
    return out


def picture(args: argparse.Namespace, path: Path, engine: Any) -> None:
    """T over a slice of a volume, beside the label map that is predicted, and by distance for each class."""
    fit, test = halves(opened(args.work, "hippocampus"), 0, args.cases)
    made = BoundaryTemperatureScaling(by="class").fit(fit, engine=engine)
    case = test[0]
    with Scratch(2**30) as scratch, test.open(0, scratch) as reader:
        z = reader.scores(0, case.voxels)
        drawn = Contexts(reader, scratch, made.contexts).of(0, case.voxels)
        (context,) = drawn.values()
        temperature = made.maps[0].temperature(context, z).reshape(case.shape).numpy()
        labels = test.head.predicted(z, test.pooled_kind).reshape(case.shape).numpy()
    middle = int((labels > 0).sum((1, 2)).argmax())
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.2), layout="constrained")
    axes[0].imshow(labels[middle].T, cmap="viridis", origin="lower", interpolation="nearest")
    axes[0].set_title("predicted label map")
    shown = axes[1].imshow(np.log2(temperature[middle]).T, cmap="RdBu_r", vmin=-1.5, vmax=1.5, origin="lower")
    axes[1].set_title("T")
    bar = figure.colorbar(shown, ax=axes[1], shrink=0.85)
    bar.set_ticks([-1, 0, 1], labels=["1/2", "1", "2"])
    table, at = made.maps[0].temperatures()["distance"], list(made.maps[0].look.distance)
    for name, line in zip(("background", "anterior", "posterior"), table.tolist(), strict=True):
        axes[2].plot(range(len(at)), line, marker="o", label=name)
    axes[2].set_xticks(range(len(at)), [f"{d:g}" for d in at])
    axes[2].axhline(1, color="grey", linewidth=0.8)
    unit = "mm" if made.maps[0].look.mm else "voxels"
    axes[2].set(xlabel=f"distance to the boundary, {unit}", ylabel="T", title="T by distance")
    axes[2].legend(frameon=False)
    for one in axes[:2]:
        one.set_axis_off()
    figure.savefig(path, dpi=150)


def shown(column: str, values: Sequence[float]) -> str:
    """A cell: the mean over the draws."""
    if not values:
        return ""
    return f"{np.mean(values):.1f}" if column == "fit, s" else f"{np.mean(values):.4f}"


def page(found: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    out = [
        "# Boundary temperature scaling on real ensembles",
        "",
        f"Made by `{found['made']['command']}`. {' '.join(__doc__.split(chr(10) * 2)[2].split())}",
        "",
    ]
    for name, one in found["halves"].items():
        draws = list(one.values())
        first = draws[0]
        for where in first["found"]:
            count = f"{len(draws)} draws of halves" if len(draws) > 1 else "one draw of halves"
            out += [f"## {name}, {where}", ""]
            out += [f"{count}, {first['fit']} cases fitted on, {first['test']} judged of {first['groups']} groups.", ""]
            out += ["| | " + " | ".join(COLUMNS) + " | NLL against ts |", "|---" * (len(COLUMNS) + 2) + "|"]
            for method in first["found"][where]:
                mine = [d["found"][where][method] for d in draws]
                cells = [shown(column, [m[column] for m in mine if column in m]) for column in COLUMNS]
                change = mine[0]["against ts"]
                cells.append(f"{change['mean']:+.4f} [{change['low']:+.4f}, {change['high']:+.4f}]")
                out.append(f"| {method} | " + " | ".join(cells) + " |")
            out.append("")
    if found["knots"]:
        names = list(found["knots"])
        out += ["## Knots", "", "NLL of `bts-class` within the calibration half.", ""]
        out += ["| knots, voxels | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
        out += [f"| {k} | " + " | ".join(f"{found['knots'][n][k]:.5f}" for n in names) + " |" for k in KNOTS]
        out.append("")
    return "\n".join(out)


def asked(told: str | None, seeds: int) -> tuple[argparse.Namespace, segcal.Threads]:
    """What a benchmark on halves of the ensembles is asked for, `told` being its help; and an engine."""
    parser = argparse.ArgumentParser(description=told, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS), choices=list(DATASETS))
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--cases", type=int, help="of each half, at most")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    return args, segcal.Threads(args.workers)


def main() -> None:
    args, engine = asked(__doc__, 1)
    data = args.output.with_suffix(".json")
    command = f"python -m benchmarks.boundary --work WORK --seeds {args.seeds} --cases {args.cases} -o {args.output}"
    found: dict[str, Any] = json.loads(data.read_text()) if data.exists() else {}
    if "halves" not in found:  # of an earlier version, whose rows lack what new ones are compared with
        found = {"made": {"command": command}, "halves": {}, "knots": {}}

    def keep() -> None:
        with journal.atomic(data) as temporary:
            temporary.write_text(json.dumps(found, indent=1))

    for name in args.datasets:
        run(args, name, engine, found["halves"].setdefault(name, {}), keep)
        if name not in found["knots"]:
            found["knots"][name] = knots(args, name, engine)
            keep()
    picture(args, args.output.parent.parent / "images" / "boundary_temperature.png", engine)
    with journal.atomic(args.output) as temporary:
        temporary.write_text(page(found))


if __name__ == "__main__":
    main()
