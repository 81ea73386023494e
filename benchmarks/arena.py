"""Calibrators side by side on frozen cohorts that nobody tuned on: who removes how much, on few and on many patients.

    python -m benchmarks.arena COHORT [COHORT ...] --keep KEEP -o docs/results/arena.md
    python -m benchmarks.arena nuclei=FOLDER --shifted nuclei:strong=OTHER --keep KEEP -o arena.md
    python -m benchmarks.arena --simulated 3 --keep KEEP -o arena.md

A frozen cohort is a folder: `scores/CASE.npz` with log-probabilities (key `log_probs`, (C, *spatial)), or `member0`,
`member1`, ... as `studies/predict.py` leaves them; `labels/`; `groups.csv` with columns case and group; and where there
are such, `cohort.json` with `ignore_index` and `background`. Or files that hold all of it (`plain`): a folder of
CASE.npz with `log_probs`, `labels` and, if it is known, `spacing` in mm; or one .npz of a batch with `groups`. Half of
the groups is for calibration, the other half judges; both halves are the same for everyone and every draw. A draw is
some groups of the first half, one case of each (`--per-group`). Shifted cohorts are judged only, by groups that are not
of the calibration half.

Entrants are the short files of `benchmarks/entrants` (`--entrants` for others): each has a `VERSION` and `ENTRANTS`,
names of functions that are given a `Training` and return what makes log-probabilities (C, *spatial) of a `Case`, or
that and the interval in which they expect the change of NLL, mean over cases. One whose package is not installed is
left out by name; one that fails, or does not return probabilities, is called failed in every table.

Judged: NLL (floor 1e-12) and Brier score, pooled over the voxels of each predicted label (of the scores as they came),
mean over those strata, and what share of the uncalibrated number is removed. Ranks by NLL. Intervals: bootstrap over
the judging groups, the same resampled groups for everybody. `auto` against temperature scaling in every cell (a cohort,
a condition, a number of groups): t test on the jackknife over groups, Holm over cells. Simulated cohorts have a known
truth: the order of entrants by NLL is compared with that by divergence from it (Kendall's tau). `--permuted`: labels
are shuffled over the voxels of each case before fitting (one draw, the middle size), and judged as they are: nobody
may gain.

Peers: `pip install -c constraints.txt -e . -r benchmarks/entrants/requirements.txt`. What is finished lies in KEEP, and
the same command goes on from there.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import math
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

import segcal
from segcal.data.case import SCORED
from segcal.data.cohort import Cohort
from segcal.data.files import journal
from segcal.data.files.journal import Scratch
from segcal.data.simulate.cohort import Design, Simulation
from segcal.data.simulate.truth import Truth

Array = NDArray[Any]

SIZES = (3, 5, 10, 20)
FLOOR = 1e-12
LOWEST = -70.0
"""No score is below this: 0 has no logarithm."""

IDENTITY = "identity"
REFERENCE = "segcal ts"
OURS = "segcal auto"
SHUFFLED = ", labels permuted"
UNSCORED = -1
ROUNDING = 1e-6
TRUTHS = {"temperature": Truth.temperature(4, 0.6), "rows": Truth.equal_row_sums(4), "general": Truth.general(4)}
SIMULATED = Design(shape=(6, 28, 28), margin=(0, 0, 0), members=1)


@dataclass(frozen=True, eq=False)
class Case:
    """`log_probs` (C, *spatial) float32; `labels` (*spatial) int64, `UNSCORED` where not scored; `spacing` or None.

    `truth` (C, *spatial): log-posterior, where it is known.
    """

    id: str
    group: str
    read: Callable[[], tuple[Array, Array]]
    spacing: tuple[float, ...] | None = None
    truth: Array | None = None

    @cached_property
    def arrays(self) -> tuple[Array, Array]:
        """Both, read once."""
        return self.read()

    @property
    def log_probs(self) -> Array:
        """As above."""
        return self.arrays[0]

    @property
    def labels(self) -> Array:
        """As above."""
        return self.arrays[1]

    def shuffled(self, seed: int) -> Case:
        """Its labels permuted over the voxels that are scored."""
        scores, labels = self.log_probs, self.labels.copy()
        labels[labels != UNSCORED] = np.random.default_rng(seed).permutation(labels[labels != UNSCORED])
        return replace(self, read=lambda: (scores, labels))


@dataclass(frozen=True, eq=False)
class Training:
    """What an entrant is fitted on. `background`: the class left out of Dice, or None."""

    cases: Sequence[Case]
    background: int | None
    limit: int

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.cases[0].log_probs)

    def rows(self) -> tuple[Array, Array]:
        """Log-probabilities (n, C) float32 and labels (n,) of at most `limit` scored voxels, as many of each case."""
        each, scores, labels = self.limit // len(self.cases), [], []
        for k, case in enumerate(self.cases):
            at = np.flatnonzero(case.labels.ravel() != UNSCORED)
            at = np.sort(np.random.default_rng(k).permutation(at)[:each])
            scores.append(case.log_probs.reshape(self.classes, -1)[:, at].T)
            labels.append(case.labels.ravel()[at])
        return np.concatenate(scores), np.concatenate(labels)


@dataclass(frozen=True, eq=False)
class Frozen:
    """A cohort: cases to calibrate on and, by condition, those that judge."""

    name: str
    background: int | None
    calibration: Sequence[Case]
    judging: Mapping[str, Sequence[Case]]
    permuted: bool = False

    def draw(self, size: int, number: int, per_group: int) -> list[Case] | None:
        """Cases of `size` groups of the calibration half; None where there are not so many."""
        groups = sorted({case.group for case in self.calibration})
        if len(groups) < size:
            return None
        rng = np.random.default_rng([number, size])
        found = []
        for group in sorted(rng.permutation(groups)[:size]):
            some = [case for case in self.calibration if case.group == group]
            found += [some[i] for i in sorted(rng.permutation(len(some))[:per_group])]
        return [case.shuffled(k) for k, case in enumerate(found)] if self.permuted else found


def opened(folder: Path) -> tuple[Cohort, int | None]:
    """The cases of a frozen folder, with groups."""
    told = folder / "cohort.json"
    options = json.loads(told.read_text()) if told.is_file() else {}
    members = sorted(folder.glob("member*"))
    found = segcal.open_cohort(members or folder / "scores", folder / "labels", **options)
    with (folder / "groups.csv").open() as file:
        groups = {row["case"]: row["group"] for row in csv.DictReader(file)}
    return found.grouped(groups), options.get("background")


def cases_of(cohort: Cohort) -> list[Case]:
    """Each case, read whole when it is first looked at."""

    def reader(index: int) -> Callable[[], tuple[Array, Array]]:
        def read() -> tuple[Array, Array]:
            scores, labels, shape = [], [], cohort[index].shape
            with Scratch(2**30) as scratch, cohort.open(index, scratch) as opened:
                for start, stop in cohort.cuts(index):
                    block = opened.block(start, stop)
                    assert block.labels is not None
                    logs = block.scores.double()
                    logs = (logs.log() if cohort.pooled_kind == "probs" else logs).clamp_min(LOWEST)
                    scores.append(torch.log_softmax(logs, 0).float().numpy())
                    labels.append(np.where((block.role == SCORED).numpy(), block.labels.numpy(), UNSCORED))
            whole = np.concatenate(scores, 1)
            return whole.reshape(len(whole), *shape), np.concatenate(labels).astype(np.int64).reshape(shape)

        return read

    return [
        Case(case.id, group, reader(i), case.spacing)
        for i, (case, group) in enumerate(zip(cohort, cohort.groups, strict=True))
    ]


def evenly(cases: Sequence[Case], count: int) -> list[Case]:
    """At most `count` of them, over the whole."""
    return [cases[i] for i in np.unique(np.linspace(0, len(cases) - 1, min(count, len(cases))).round().astype(int))]


def plain(path: Path) -> tuple[list[Case], int | None]:
    """The cases of files that hold everything: one .npz with `log_probs` (B, C, *spatial), `labels` (B, *spatial) and
    `groups` (B,); or a folder of one a case, (C, *spatial) and (*spatial), groups in `groups.csv` or in each file's
    `group`; without either each case is a group. Labels that are negative or `ignore_index` (255) are not scored.
    """
    told = path / "cohort.json"
    options = json.loads(told.read_text()) if told.is_file() else {}
    ignored, background = options.get("ignore_index", 255), options.get("background")

    def of(arrays: Mapping[str, Array], where: str) -> tuple[Array, Array]:
        scores, labels = np.asarray(arrays["log_probs"]), np.asarray(arrays["labels"]).astype(np.int64)
        if scores.shape[1:] != labels.shape:
            sys.exit(f"{where}: log_probs {scores.shape}, labels {labels.shape}; expected (C, *spatial), (*spatial)")
        labels = np.where((labels < 0) | (labels == ignored), UNSCORED, labels)
        if labels.max(initial=0) >= len(scores):
            sys.exit(f"{where}: label {labels.max()} of {len(scores)} classes; name an ignored one in cohort.json")
        logs = torch.from_numpy(scores).double().clamp_min(LOWEST)
        return torch.log_softmax(logs, 0).float().numpy(), labels

    if path.is_file():
        whole = dict(np.load(path))
        groups = whole.get("groups", np.arange(len(whole["labels"])))
        each = [{"log_probs": z, "labels": y} for z, y in zip(whole["log_probs"], whole["labels"], strict=True)]
        found = [of(one, f"{path}, case {k}") for k, one in enumerate(each)]
        return [Case(f"{k:06d}", str(groups[k]), lambda one=one: one) for k, one in enumerate(found)], background
    table = path / "groups.csv"
    group_of = {}
    if table.is_file():
        with table.open() as file:
            group_of = {row["case"]: row["group"] for row in csv.DictReader(file)}
    cases = []
    for file_of in sorted(path.glob("*.npz")):
        with np.load(file_of) as held:
            spacing = tuple(map(float, held["spacing"])) if "spacing" in held else None
            group = group_of.get(file_of.stem, str(held["group"]) if "group" in held else file_of.stem)
        cases.append(Case(file_of.stem, group, lambda f=file_of: of(dict(np.load(f)), str(f)), spacing))
    if not cases:
        sys.exit(f"{path}: no scores/, no member0/ and no .npz; see --help for what a frozen cohort is")
    return cases, background


def held(path: Path) -> tuple[list[Case], int | None]:
    """The cases of a frozen cohort, and the class left out of Dice."""
    if path.is_file() or not ((path / "scores").is_dir() or any(path.glob("member*"))):
        return plain(path)
    cohort, background = opened(path)
    return cases_of(cohort), background


def frozen(name: str, folder: Path, shifted: Mapping[str, Path], judges: int) -> Frozen:
    """A folder's two halves, and of shifted folders what is not of the calibration half."""
    cases, background = held(folder)
    groups = sorted({case.group for case in cases})
    first = {groups[i] for i in np.random.default_rng(0).permutation(len(groups))[: len(groups) // 2]}
    judging = {"clean": [case for case in cases if case.group not in first]}
    for condition, other in shifted.items():
        judging[condition] = [case for case in held(other)[0] if case.group not in first]
    return Frozen(
        name,
        background,
        [case for case in cases if case.group in first],
        {condition: evenly(some, judges) for condition, some in judging.items()},
    )


def simulated(count: int, judges: int) -> Iterator[Frozen]:
    """Cohorts with a known truth: a temperature, a matrix of equal row sums, a general one; then other seeds."""
    for number in range(count):
        name = list(TRUTHS)[number % len(TRUTHS)]
        made = Simulation(SIMULATED, TRUTHS[name], 1000 + number)

        def case(index: int, made: Simulation = made) -> Case:
            one = made.case(index)
            arrays = one.log_probs.astype(np.float32), one.labels.astype(np.int64)
            return Case(one.name, one.name, lambda: arrays, SIMULATED.spacing, one.log_posterior)

        cases = [case(i) for i in range(max(SIZES) + judges)]
        calibration, judging = cases[: max(SIZES)], cases[max(SIZES) :]
        yield Frozen(f"simulated {name} {number // len(TRUTHS)}", 0, calibration, {"clean": judging})


Fit = Callable[[Training], Any]


def entrants(folder: Path) -> tuple[dict[str, Fit], dict[str, str], list[str]]:
    """Every entrant, the version of each file's package, and what is left out."""
    found: dict[str, Fit] = {}
    versions, missing = {}, []
    # where this file is run as a script, its neighbours (coverage.py) would be taken for packages of that name
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != Path(__file__).resolve().parent]
    for file in sorted(folder.glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"entrant_{file.stem}", file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except ModuleNotFoundError as error:
            missing.append(f"{file.stem} ({error.name} is not installed)")
            continue
        versions[file.stem] = module.VERSION
        found |= module.ENTRANTS
    return found, versions, missing


@dataclass(frozen=True, eq=False)
class Judged:
    """One entrant on the cases of one condition. `sums` (G, S, 4): voxels, NLL, Brier score and divergence from the
    truth (NaN), by group and predicted label; `cases` (n, 4): NLL before and after, change of Dice, flips.
    """

    groups: list[str]
    sums: Array
    cases: Array
    seconds: float


def judged(cases: Sequence[Case], apply: Callable[[Case], Array], background: int | None) -> Judged:
    """ValueError where it does not return probabilities of every voxel."""
    groups = sorted({case.group for case in cases})
    classes = len(cases[0].log_probs)
    sums, rows, took = np.zeros((len(groups), classes, 4)), [], 0.0
    for case in cases:
        began = time.perf_counter()
        given = np.asarray(apply(case))
        took += time.perf_counter() - began
        if given.shape != case.log_probs.shape:
            raise ValueError(f"shape {given.shape} for {case.log_probs.shape}")
        kept = case.labels.ravel() != UNSCORED
        labels = case.labels.ravel()[kept]
        before = case.log_probs.reshape(classes, -1)[:, kept].astype(np.float64)
        after = given.reshape(classes, -1)[:, kept].astype(np.float64)
        if not np.abs(np.exp(after).sum(0) - 1).max(initial=0) < 1e-3:
            raise ValueError("its probabilities do not add up to 1")
        stratum = before.argmax(0)
        own = np.arange(labels.size)
        losses = [np.maximum(of[labels, own], math.log(FLOOR)) for of in (before, after)]
        p = np.exp(after)
        brier = (p**2).sum(0) - 2 * p[labels, own] + 1
        far = np.full(labels.size, np.nan)
        if case.truth is not None:
            q = case.truth.reshape(classes, -1)[:, kept]
            far = (np.exp(q) * (q - np.maximum(after, math.log(FLOOR)))).sum(0)
        at = groups.index(case.group)
        for k, values in enumerate((np.ones(labels.size), -losses[1], brier, far)):
            sums[at, :, k] += np.bincount(stratum, values, classes)
        decided = after.argmax(0)
        change = dice(decided, labels, classes, background) - dice(stratum, labels, classes, background)
        rows.append((-losses[0].mean(), -losses[1].mean(), change, (decided != stratum).mean()))
    return Judged(groups, sums, np.array(rows), took)


def dice(decided: Array, labels: Array, classes: int, background: int | None) -> float:
    """Mean over the classes that one of both has; 1 where there is none."""
    both = [
        2 * ((decided == k) & (labels == k)).sum() / ((decided == k).sum() + (labels == k).sum())
        for k in range(classes)
        if k != background and ((decided == k).any() or (labels == k).any())
    ]
    return float(np.mean(both)) if both else 1.0


def run(cohort: Frozen, fits: Mapping[str, Fit], args: argparse.Namespace) -> None:
    """Every draw of a cohort, into `args.keep`, but for what is there."""
    sizes, draws = ([args.sizes[len(args.sizes) // 2]], 1) if cohort.permuted else (args.sizes, args.draws)
    for size in sizes:
        for number in range(draws):
            drawn = cohort.draw(size, number, args.per_group)
            if drawn is None:
                print(f"{cohort.name}: fewer than {size} groups to calibrate on", flush=True)
                break
            for name, fit in fits.items():
                place = args.keep / cohort.name / f"{size}-{number}" / f"{name}.npz"
                if not place.is_file():
                    place.parent.mkdir(parents=True, exist_ok=True)
                    entered(cohort, Training(drawn, cohort.background, args.limit), fit, place)


def entered(cohort: Frozen, training: Training, fit: Fit, place: Path) -> None:
    """Fit, judge, and keep what came of it."""
    began, told = time.perf_counter(), {"failed": "", "interval": None, "seconds": math.nan}
    arrays: dict[str, Array] = {}
    try:
        made = fit(training)
        apply, told["interval"] = made if isinstance(made, tuple) else (made, None)
        told["seconds"] = time.perf_counter() - began
        for condition, cases in cohort.judging.items():
            one = judged(cases, apply, cohort.background)
            arrays |= {f"{condition}/sums": one.sums, f"{condition}/cases": one.cases}
            told[f"{condition}/groups"], told[f"{condition}/seconds"] = one.groups, one.seconds
    except Exception as error:  # noqa: BLE001 (a peer's failure is a result: told in every table)
        traceback.print_exc()
        arrays, told["failed"] = {}, f"{type(error).__name__}: {error}"[:200]
    with journal.atomic(place) as aside, aside.open("wb") as file:
        np.savez(file, told=np.array(json.dumps(told)), **arrays)
    print(
        place.parent.parent.name,
        place.parent.name,
        place.stem,
        told["failed"] or f"{told['seconds']:.1f} s",
        flush=True,
    )


@dataclass(frozen=True, eq=False)
class Cell:
    """A cohort, a condition, a number of groups: of each entrant its draws. `sums` (D, G, S, 4) by entrant, `cases`
    (D, n, 4), `seconds` (D,), `expected`: the interval of each draw. `failed`: why, of those that did.
    """

    cohort: str
    condition: str
    size: int
    sums: Mapping[str, Array]
    cases: Mapping[str, Array]
    seconds: Mapping[str, Array]
    expected: Mapping[str, Sequence[Sequence[float] | None]]
    failed: Mapping[str, str]

    @property
    def groups(self) -> int:
        """How many judge."""
        return int(next(iter(self.sums.values())).shape[1])

    def macro(self, entrant: str, column: int, weights: Array) -> Array:
        """Mean over strata of a pooled number under `weights` (B, G) of groups: (B, D)."""
        sums = self.sums[entrant]
        total = np.einsum("bg,dgs->bds", weights, sums[..., column])
        voxels = np.einsum("bg,dgs->bds", weights, sums[..., 0])
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.where(voxels > 0, total / voxels, 0).sum(-1) / (voxels > 0).sum(-1))

    def removed(self, entrant: str, column: int, weights: Array) -> Array:
        """Share of the uncalibrated number that is removed, mean over draws: (B,)."""
        return np.asarray((1 - self.macro(entrant, column, weights) / self.macro(IDENTITY, column, weights)).mean(1))

    def resampled(self, count: int) -> Array:
        """Weights of groups: all once first, then `count` bootstrap samples; the same for every cell of a cohort."""
        rng = np.random.default_rng(0)
        drawn = rng.multinomial(self.groups, np.full(self.groups, 1 / self.groups), count)
        return np.concatenate([np.ones((1, self.groups)), drawn]).astype(float)

    def against(self, entrant: str, other: str) -> tuple[float, float, int]:
        """Share removed by one minus that by another, its jackknife standard error and the groups."""
        weights = np.concatenate([np.ones((1, self.groups)), 1 - np.eye(self.groups)])
        change = self.removed(entrant, NLL, weights) - self.removed(other, NLL, weights)
        without, count = change[1:], self.groups
        return float(change[0]), math.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum()), count


NLL, BRIER, DIVERGENCE = 1, 2, 3


def collected(keep: Path, names: Sequence[str]) -> list[Cell]:
    """What lies in `keep`, cell by cell; draws in which an entrant has not been yet are left out."""
    cells = []
    for cohort in sorted(path for path in keep.iterdir() if path.is_dir()):
        sizes = sorted({int(path.name.split("-")[0]) for path in cohort.iterdir()})
        for size in sizes:
            drawn = [
                path for path in sorted(cohort.glob(f"{size}-*")) if all((path / f"{n}.npz").is_file() for n in names)
            ]
            if not drawn:
                continue
            files = {name: [path / f"{name}.npz" for path in drawn] for name in names}
            read = {name: [dict(np.load(file)) for file in some] for name, some in files.items()}
            told = {name: [json.loads(str(one["told"])) for one in some] for name, some in read.items()}
            failed = {
                n: next(t["failed"] for t in some if t["failed"])
                for n, some in told.items()
                if any(t["failed"] for t in some)
            }
            fine = [name for name in names if name not in failed]
            for condition in sorted({key.split("/")[0] for key in read[IDENTITY][0] if key != "told"}):
                sums, cases = (
                    {name: np.stack([one[f"{condition}/{what}"] for one in read[name]]) for name in fine}
                    for what in ("sums", "cases")
                )
                seconds = {name: np.array([t["seconds"] for t in told[name]]) for name in fine}
                expected = {name: [t["interval"] for t in told[name]] for name in fine}
                cells += [Cell(cohort.name, condition, size, sums, cases, seconds, expected, failed)]
    return cells


def ranks(shares: Array) -> Array:
    """Rank of each entrant, 1 for the most removed: (E, B) to (E, B); ties share."""
    return np.asarray(stats.rankdata(-shares, axis=0))


def percent(values: Array) -> str:
    """All groups once, and the interval over resampled groups."""
    low, high = np.percentile(values[1:], (2.5, 97.5))
    return f"{100 * values[0]:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def standings(cells: Sequence[Cell], names: Sequence[str], replicates: int) -> dict[str, Any]:
    """Every figure of the page."""
    out: dict[str, Any] = {"cells": [], "overall": {}}
    every: dict[str, list[Array]] = {name: [] for name in names}
    for cell in cells:
        weights, fine = cell.resampled(replicates), list(cell.sums)
        removed = {name: cell.removed(name, NLL, weights) for name in fine}
        ranked = dict(zip(fine, ranks(np.stack([removed[name] for name in fine])), strict=True))
        alone = {
            name: 1 - cell.macro(name, NLL, weights[:1])[0] / cell.macro(IDENTITY, NLL, weights[:1])[0] for name in fine
        }
        rows = {
            name: {
                "nll": percent(removed[name]),
                "nll removed": float(removed[name][0]),
                "brier": percent(cell.removed(name, BRIER, weights)),
                "worst draw": float(alone[name].min()),
                "rank": [float(ranked[name][0]), *map(float, np.percentile(ranked[name][1:], (2.5, 97.5)))],
                "flips": float(cell.cases[name][..., 3].mean()),
                "dice": float(cell.cases[name][..., 2].mean()),
                "seconds": float(np.median(cell.seconds[name])),
            }
            for name in fine
        }
        found = {
            "cohort": cell.cohort,
            "condition": cell.condition,
            "groups": cell.size,
            "judges": cell.groups,
            "draws": len(cell.seconds[IDENTITY]),
            "rows": rows,
        }
        found["failed"] = dict(cell.failed)
        if OURS in fine and REFERENCE in fine and not cell.cohort.endswith(SHUFFLED):
            change, error, count = cell.against(OURS, REFERENCE)
            t = change / error if error > 0 else 0.0
            found["auto minus ts"] = {"change": change, "error": error, "p": float(2 * stats.t.sf(abs(t), count - 1))}
            told = [
                (one[:, 1].mean() - one[:, 0].mean(), *interval)
                for one, interval in zip(cell.cases[OURS], cell.expected[OURS], strict=True)
                if interval is not None and None not in interval and np.isfinite(interval).all()
            ]
            # what is left as it came is given back rounded
            found["intervals"] = {
                "told": len(told),
                "gained more": sum(bool(change < low - ROUNDING) for change, low, _ in told),
                "gained less": sum(bool(change > high + ROUNDING) for change, _, high in told),
            }
        truth = {name: float(cell.macro(name, DIVERGENCE, weights[:1]).mean()) for name in fine}
        if not any(math.isnan(value) for value in truth.values()):
            found["kendall"] = float(stats.kendalltau([-removed[n][0] for n in fine], [truth[n] for n in fine])[0])
        if not cell.cohort.endswith(SHUFFLED):
            worst = np.full(replicates + 1, float(len(names)))
            for name in names:
                every[name].append(ranked.get(name, worst))
        out["cells"].append(found)
    for name, some in every.items():
        if some:
            mean = np.mean(some, 0)
            out["overall"][name] = [float(mean[0]), *map(float, np.percentile(mean[1:], (2.5, 97.5)))]
    return out


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p values (Holm 1979)."""
    order, out, largest = np.argsort(p), [0.0] * len(p), 0.0
    for k, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - k) * p[i]))
        out[i] = largest
    return out


def page(found: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    """Overall ranks, what is claimed, then a table a cohort and condition."""
    cells = found["cells"]
    plain = [cell for cell in cells if not cell["cohort"].endswith(SHUFFLED)]
    lines = [
        "# Arena",
        "",
        "Made by " + ", ".join(f"`{one}`" for one in told["commands"]) + ".",
        "",
        *told["about"],
        "",
        "## Mean rank over all cells",
        "",
    ]
    lines += ["| entrant | rank by NLL [95 % over groups] |", "|---|---|"]
    for name, (mean, low, high) in sorted(found["overall"].items(), key=lambda kv: kv[1][0]):
        lines.append(f"| {name} | {mean:.2f} [{low:.2f}, {high:.2f}] |")
    tested = [cell for cell in plain if "auto minus ts" in cell]
    if tested:
        adjusted = holm([cell["auto minus ts"]["p"] for cell in tested])
        worse = [c for c, p in zip(tested, adjusted, strict=True) if p < 0.05 and c["auto minus ts"]["change"] < 0]
        better = [c for c, p in zip(tested, adjusted, strict=True) if p < 0.05 and c["auto minus ts"]["change"] > 0]
        lowest = min(tested, key=lambda c: c["auto minus ts"]["change"])
        lines += ["", "## `auto` against temperature scaling", ""]
        lines.append(
            f"Of {len(tested)} cells `auto` is better in {len(better)} and worse in {len(worse)} (5 %, after Holm)"
            + "".join(f"; worse: {where(c)}" for c in worse)
            + f". Lowest: {100 * lowest['auto minus ts']['change']:+.1f} points of the NLL ({where(lowest)},"
            f" standard error {100 * lowest['auto minus ts']['error']:.1f})."
        )
        for clean in (True, False):
            some = [c["intervals"] for c in tested if (c["condition"] == "clean") is clean]
            of, more, less = (sum(one[k] for one in some) for k in ("told", "gained more", "gained less"))
            if of:
                kind = "clean" if clean else "shifted"
                lines.append(
                    f"On {kind} cases its own 95 % intervals hold the change in {of - more - less} of {of} draws;"
                    f" it gained more than that in {more}, less in {less}."
                )
    known = [cell for cell in plain if "kendall" in cell]
    if known:
        taus = [cell["kendall"] for cell in known]
        lines += ["", "## Known truth", ""]
        lines.append(
            f"Kendall's tau of the order by NLL with that by divergence from the truth: mean {np.mean(taus):.2f},"
            f" lowest {min(taus):.2f} ({where(known[int(np.argmin(taus))])}), {len(taus)} cells."
        )
    shuffled = [cell for cell in cells if cell["cohort"].endswith(SHUFFLED)]
    if shuffled:
        most = max((row["nll removed"], name, where(cell)) for cell in shuffled for name, row in cell["rows"].items())
        lines += ["", "## Labels permuted before fitting", ""]
        lines.append(f"Most that anyone removes: {100 * most[0]:.1f} % ({most[1]}, {most[2]}), {len(shuffled)} cells.")
    for cohort, condition in dict.fromkeys((cell["cohort"], cell["condition"]) for cell in plain):
        some = [cell for cell in plain if (cell["cohort"], cell["condition"]) == (cohort, condition)]
        lines += [
            "",
            f"## {cohort}, {condition}",
            "",
            f"{some[0]['judges']} judging groups; draws: "
            + ", ".join(f"{cell['draws']} of {cell['groups']} groups" for cell in some)
            + ".",
            "",
        ]
        lines.append(
            "| entrant | "
            + " | ".join(f"NLL removed, {cell['groups']} groups, %" for cell in some)
            + " | Brier removed, most groups, %"
            + " | worst draw, fewest groups, % | rank, mean | flips, % | Dice | fit, s |"
        )
        lines.append("|---|" + "---|" * (len(some) + 6))
        names = [name for name in found["overall"] if any(name in cell["rows"] for cell in some)]
        mean = {n: np.mean([c["rows"][n]["rank"][0] if n in c["rows"] else len(names) for c in some]) for n in names}
        for name in sorted(names, key=lambda n: mean[n]):
            shares = [cell["rows"][name]["nll"] if name in cell["rows"] else "failed" for cell in some]
            last = [cell["rows"][name] for cell in some if name in cell["rows"]]
            lines.append(
                f"| {name} | {' | '.join(shares)} | {last[-1]['brier']} | {100 * last[0]['worst draw']:.1f} |"
                f" {mean[name]:.1f} | {100 * last[-1]['flips']:.2f} | {last[-1]['dice']:+.4f} |"
                f" {last[-1]['seconds']:.1f} |"
            )
        lost = {name: why for cell in some for name, why in cell["failed"].items()}
        lines += [f"\nFailed: {name}: {why}" for name, why in lost.items()]
    return "\n".join(lines) + "\n"


def where(cell: Mapping[str, Any]) -> str:
    """A cell in words."""
    return f"{cell['cohort']}, {cell['condition']}, {cell['groups']} groups"


def named(word: str) -> tuple[str, Path]:
    """NAME=FOLDER, or a folder that has the name."""
    name, _, folder = word.rpartition("=")
    return (name, Path(folder)) if name else (Path(folder).resolve().name, Path(folder))


def main() -> None:
    """Run what is not there yet, and write the page and its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohorts", nargs="*", metavar="[NAME=]COHORT")
    parser.add_argument("--shifted", nargs="+", default=[], metavar="COHORT:CONDITION=FOLDER")
    parser.add_argument("--simulated", type=int, default=0, help="so many simulated cohorts with a known truth")
    parser.add_argument("--permuted", action="store_true", help="each cohort once more, labels shuffled first")
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), help="groups to calibrate on")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--per-group", type=int, default=1, help="cases of each group drawn")
    parser.add_argument("--judges", type=int, default=40, help="cases that judge, at most, a condition")
    parser.add_argument("--limit", type=int, default=100_000, help="voxels given to entrants that take rows")
    parser.add_argument("--replicates", type=int, default=500)
    parser.add_argument("--entrants", type=Path, default=Path(__file__).parent / "entrants")
    parser.add_argument("--only", nargs="+", help="these entrants (identity goes along)")
    parser.add_argument("--keep", type=Path, required=True, help="folder of what is finished")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    fits, versions, missing = entrants(args.entrants)
    if args.only:
        fits = {name: fits[name] for name in (IDENTITY, *(n for n in args.only if n != IDENTITY))}
    if missing:
        print("left out: " + "; ".join(missing), file=sys.stderr)
    commands = settled(args, versions)
    shifted: dict[str, dict[str, Path]] = {}
    for word in args.shifted:
        place, _, folder = word.partition("=")
        cohort, _, condition = place.partition(":")
        shifted.setdefault(cohort, {})[condition] = Path(folder)
    every = [frozen(name, folder, shifted.get(name, {}), args.judges) for name, folder in map(named, args.cohorts)]
    every += simulated(args.simulated, args.judges)
    if args.permuted:
        every += [
            replace(one, name=one.name + SHUFFLED, judging={"clean": one.judging["clean"]}, permuted=True)
            for one in every
        ]
    for cohort in every:
        run(cohort, fits, args)
    cells = collected(args.keep, list(fits))
    found = standings(cells, list(fits), args.replicates)
    about = [
        f"{args.per_group} case(s) of each group drawn; at most {args.judges} judging cases a condition. Entrants that"
        f" take rows of voxels were given {args.limit} of each draw. Versions: "
        + ", ".join(f"{name} {version}" for name, version in versions.items() if version != "-")
        + "."
    ]
    about += [f"Left out: {'; '.join(missing)}."] if missing else []
    told = {"commands": commands, "about": about}
    for path, text in (
        (args.output.with_suffix(".json"), json.dumps({**told, **found}, indent=1) + "\n"),
        (args.output, page(found, told)),
    ):
        with journal.atomic(path) as aside:
            aside.write_text(text)


def settled(args: argparse.Namespace, versions: Mapping[str, str]) -> list[str]:
    """The commands that `args.keep` is of, this one last. SystemExit where it holds results of other settings."""
    file = args.keep / "settings.json"
    names = ("per_group", "judges", "limit")
    now = {**{name: getattr(args, name) for name in names}, "versions": dict(versions)}
    args.keep.mkdir(parents=True, exist_ok=True)
    known = json.loads(file.read_text()) if file.is_file() else {"settings": now, "commands": []}
    if known["settings"] != now:
        sys.exit(f"{args.keep} holds results of other settings or versions; name another folder with --keep")
    command = "python -m benchmarks.arena " + shlex.join(sys.argv[1:])
    commands = [*(one for one in known["commands"] if one != command), command]
    file.write_text(json.dumps({"settings": now, "commands": commands}))
    return commands


if __name__ == "__main__":
    main()
