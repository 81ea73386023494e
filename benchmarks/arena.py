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

if not __package__:  # run as a script: this folder's coverage.py would be taken for the package of that name
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from numpy.typing import NDArray

import segcal
from benchmarks.pages import written
from benchmarks.standings import IDENTITY, SHUFFLED, collected, page, standings
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

UNSCORED = -1
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
    written(args.output, page(found, told), {**told, **found})


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
