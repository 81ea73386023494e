"""Partitions of cases in which every group (subject, sequence) stays whole, and where groups come from.

`folds` balances the folds by cases, or by given weights: groups are shuffled by the seed, taken from the heaviest down,
and each goes to the lightest fold. Promises: the same seed gives the same folds for the same groups, whatever the order
of the cases; every case is in exactly one fold, no fold is empty, no group is in two. Fewer groups than folds asked
for: fewer folds, and the result says so. Fewer than two groups: UsageError, there is nothing to hold out. `partition`
deals whole groups out to calibration, validation and test, one random order a repeat (K26 4.1). Groups are read from
names (`groups_by_pattern`), a table (`groups_from_table`), or runs of neighbouring frames (`consecutive`); each returns
case id to group. `grouped` reads one word for all of these.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from segcal.data.cohort import Cohort
from segcal.data.files.reading import content, shown, too_much
from segcal.errors import DataError, MissingError, UnreadableError, UsageError

_TABLES = (".csv", ".tsv")
TABLE = "table:"
"""What the remembered word of a table begins with."""

LONGEST, REPEATS = 200, 3
"""Characters and repeats of a pattern up to which it is quick on any name, if no group is repeated."""

CELLS = 1_000_000
"""Most cells of a table of groups."""


@dataclass(frozen=True)
class Folds:
    """`test[i]`: indices of the cases held out in fold i, ascending.

    `requested`: folds asked for. `groups`: number of groups.
    """

    test: tuple[tuple[int, ...], ...]
    requested: int
    groups: int

    def __len__(self) -> int:
        return len(self.test)

    def train(self, fold: int) -> tuple[int, ...]:
        """Indices of the cases of all other folds, ascending."""
        return tuple(sorted(i for k, cases in enumerate(self.test) if k != fold for i in cases))

    @property
    def fold_of(self) -> tuple[int, ...]:
        """The fold each case is held out in."""
        where = {case: k for k, cases in enumerate(self.test) for case in cases}
        return tuple(where[i] for i in range(len(where)))

    @property
    def reduced(self) -> bool:
        """Whether there are fewer folds than asked for."""
        return len(self.test) < self.requested

    @property
    def message(self) -> str:
        """What to tell the user where there are fewer folds than asked for; else empty."""
        return (
            f"{len(self.test)} folds instead of {self.requested}: there are only {self.groups} groups, and a group is"
            " never split"
            if self.reduced
            else ""
        )


def folds(groups: Sequence[str], k: int, seed: int = 0, weights: Sequence[float] | None = None) -> Folds:
    """Partition cases (`groups`: the group of each) into `k` folds, balanced by `weights` (one a case, not negative;
    else by cases).

    Raises UsageError for k < 2, for a negative seed, for fewer than two groups, and for weights that are not such.
    """
    _check_seed(seed)
    if k < 2:
        raise UsageError("folds", found=str(k), expected="at least 2", do="One fold would leave nothing to fit on.")
    if weights is not None and (len(weights) != len(groups) or any(not 0 <= w < float("inf") for w in weights)):
        raise UsageError(
            "weights",
            found=f"{len(weights)} weights for {len(groups)} cases, or one that is negative or not finite",
            expected="one non-negative number a case",
            do="Weigh cases by voxels or leave the weights out.",
        )
    cases: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        cases.setdefault(group, []).append(index)
    if len(cases) < 2:
        raise UsageError(
            "groups",
            found=f"{len(cases)} group(s) for {len(groups)} case(s)",
            expected="at least 2 groups",
            do="Cross-fitting needs cases of different groups; add cases, or give finer groups with --groups.",
        )
    names = sorted(cases)
    shuffled = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    weight = {
        name: float(len(cases[name])) if weights is None else sum(sorted(weights[i] for i in cases[name]))
        for name in names
    }
    count = min(k, len(names))
    load, members = [0.0] * count, [list[str]() for _ in range(count)]
    for name in sorted(shuffled, key=lambda n: -weight[n]):
        lightest = min(range(count), key=lambda f: (load[f], len(members[f])))
        load[lightest] += weight[name]
        members[lightest].append(name)
    return Folds(tuple(tuple(sorted(i for name in fold for i in cases[name])) for fold in members), k, len(names))


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise UsageError("seed", found=str(seed), expected="0 or more", do="Leave it out for 0.")


CALIBRATION, VALIDATION, TEST, UNUSED = "calibration", "validation", "test", "unused"


@dataclass(frozen=True)
class Partition:
    """Cases dealt out in a random `order` (indices, groups together): the first `calibration` are fitted on, the next
    `validation` chosen by, the next `test` scored.
    """

    order: tuple[int, ...]
    calibration: int
    validation: int
    test: int

    @property
    def roles(self) -> tuple[str, ...]:
        """The role of each case: calibration, validation, test or unused."""
        names = [CALIBRATION] * self.calibration + [VALIDATION] * self.validation + [TEST] * self.test
        names += [UNUSED] * (len(self.order) - len(names))
        by_case = dict(zip(self.order, names, strict=True))
        return tuple(by_case[i] for i in range(len(self.order)))

    def having(self, role: str) -> tuple[int, ...]:
        """Indices of the cases with a role, in the order they were dealt."""
        return tuple(i for i in self.order if self.roles[i] == role)


def partition(
    groups: Sequence[str], calibration: int, validation: int, test: int | None, *, seed: int = 0, repeat: int = 0
) -> Partition:
    """Deal whole groups out at random until calibration, then validation, then test hold at least so many cases; `test`
    None: all that are left.

    A group is never split, so a part may hold up to one group less one case more than asked for. The order depends on
    `seed`, `repeat` and the names of groups alone. Raises UsageError for a negative seed, and where the groups do not
    suffice.
    """
    _check_seed(seed)
    cases: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        cases.setdefault(group, []).append(index)
    names = sorted(cases)
    shuffled = [cases[names[i]] for i in np.random.default_rng([seed, repeat]).permutation(len(names))]
    order = [i for group in shuffled for i in group]
    sizes, ends = [len(group) for group in shuffled], []
    position = taken = 0
    for wanted in (calibration, validation, len(groups) if test is None else test):
        start = taken
        while taken - start < wanted and position < len(sizes):
            taken += sizes[position]
            position += 1
        ends.append(taken - start)
    wanted_all = [calibration, validation, 1 if test is None else test]
    if any(got < wanted for got, wanted in zip(ends, wanted_all, strict=True)):
        raise UsageError(
            "split",
            found=(
                f"{len(groups)} cases in {len(names)} groups, of which a random order gives {ends[0]}, {ends[1]} and"
                f" {ends[2]} cases"
            ),
            expected=f"at least {calibration} to calibrate, {validation} to validate and {wanted_all[2]} to test",
            do="Ask for fewer cases, add cases, or give finer groups; a group is never split.",
        )
    return Partition(tuple(order), *ends)


def grouped(cohort: Cohort, how: str) -> Cohort:
    """The cohort with the groups a word asks for: a table (.csv, .tsv), 'consecutive:20' or 'consecutive:20:PATTERN',
    'source' for what the files say, else a pattern on names. The cohort remembers the word; of a table its name.
    """
    ids = [case.id for case in cohort]
    if how == "source":
        bare = [case.id for case in cohort if not case.group]
        if bare:
            raise UsageError(
                "groups",
                found=f"'source', and no group for {bare[0]} in the files",
                expected="files that name groups",
                do="Give a table, a pattern, or consecutive:N.",
            )
        return replace(cohort, grouping=how)
    if (run := runs_of(how)) is not None:
        return cohort.grouped(consecutive(ids, *run), how)
    if how.lower().endswith(_TABLES) or Path(how).is_file():
        return cohort.grouped(groups_from_table(how), f"{TABLE}{Path(how).name}")
    return cohort.grouped(groups_by_pattern(ids, how), how)


def rule_of(grouping: str) -> str:
    """What two remembered words must share for equal names to be equal groups: all tables are one rule."""
    return TABLE if grouping.startswith(TABLE) else grouping


def regroupable(grouping: str) -> bool:
    """Whether a remembered word may group other cases without being typed again: it is not a table, and a pattern that
    cannot take long on any name, since a calibrator's file may come from anywhere.
    """
    if not grouping or grouping.startswith(TABLE) or len(grouping) > LONGEST:
        return False
    return not re.search(r"\)[*+{]", grouping) and len(re.findall(r"[*+{]", grouping)) <= REPEATS


def runs_of(how: str) -> tuple[int, str | None] | None:
    """Length and sequence pattern of 'consecutive:20:PATTERN'; None for another word."""
    run = re.fullmatch(r"consecutive:(\d{1,9})(?::(.+))?", how)
    return None if run is None else (int(run.group(1)), run.group(2))


def groups_by_pattern(ids: Sequence[str], pattern: str) -> dict[str, str]:
    """The group of each case from its id: what the first parenthesis of the regular expression matches, or the whole
    match. An id without a match, or a bad pattern: UsageError.
    """
    compiled = _compiled(pattern)
    out = {}
    for case in ids:
        found = compiled.search(case)
        group = None if found is None else found.group(1 if compiled.groups else 0)
        if not group:
            raise UsageError(
                "groups",
                found=f"{pattern!r}, which finds no group in {case!r}",
                expected="a pattern that matches every case",
                do="Try it on that name; r'^([^_]+)' takes what stands before the first underscore.",
            )
        out[case] = group
    return out


def groups_from_table(path: str | os.PathLike[str]) -> dict[str, str]:
    """Groups from a CSV or TSV file (UTF-8) whose header names the columns `case` and `group`; other columns are left
    alone.

    Raises MissingError (no file, no such column, an empty cell), UnreadableError (not text), DataError (a case in two
    groups). A table without rows: an empty mapping.
    """
    where = str(path)
    try:
        text = content(Path(path)).decode("utf-8-sig")
        separator = "\t" if "\t" in text.partition("\n")[0] else ","
        if (cells := text.count(separator) + text.count("\n")) > CELLS:
            raise too_much(Path(path), f"a table of about {cells} cells", f"at most {CELLS}")
        table = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UnreadableError(
            where,
            found=f"something that cannot be read as a table ({type(error).__name__})",
            expected="CSV or TSV in UTF-8",
            do="Save the table as CSV.",
        ) from error
    header = [name.strip() for name in table[0]] if table else []
    if "case" not in header or "group" not in header:
        raise MissingError(
            where,
            found=f"the columns {shown(header)}",
            expected="columns named case and group, separated by commas or tabs",
            do="Name them in the first line.",
        )
    case_at, group_at = header.index("case"), header.index("group")
    out: dict[str, str] = {}
    for number, row in enumerate(table[1:], 2):
        if not any(cell.strip() for cell in row):
            continue
        case, group = (row[at].strip() if at < len(row) else "" for at in (case_at, group_at))
        if not case or not group:
            raise MissingError(
                f"{where}, row {number}",
                found="an empty case or group",
                expected="both",
                do="Complete the line or remove it.",
            )
        if out.setdefault(case, group) != group:
            raise DataError(
                f"{where}, row {number}",
                found=f"case {case!r} in group {group!r} and in {out[case]!r}",
                expected="one group a case",
                do="Remove one of the lines.",
            )
    return out


def consecutive(ids: Sequence[str], length: int, sequence: str | None = None) -> dict[str, str]:
    """Runs of `length` neighbouring frames as groups, each named by its first frame; the last run may be shorter.

    Frames are ordered by name, numbers in it as numbers. `sequence`: a regular expression (as in `groups_by_pattern`)
    naming the sequence of each frame; runs do not cross sequences. No frame: an empty mapping.
    """
    if length < 1:
        raise UsageError(
            "length",
            found=str(length),
            expected="at least 1 frame",
            do="Give the number of neighbouring frames that belong together.",
        )
    out = {
        frame: frames[position - position % length]
        for frames in _sequences(ids, sequence)
        for position, frame in enumerate(frames)
    }
    return {case: out[case] for case in ids}


def between_runs(ids: Sequence[str], length: int, gap: int, sequence: str | None = None) -> frozenset[str]:
    """The first `gap` frames of every run but a sequence's first: left out, they keep neighbouring runs (as in
    `consecutive`) so many frames apart.

    Raises UsageError for a gap that leaves nothing of a run.
    """
    if not 0 <= gap < length:
        raise UsageError(
            "gap",
            found=str(gap),
            expected=f"from 0 to {length - 1}, less than the length of a run",
            do="Give longer runs or a smaller gap.",
        )
    return frozenset(
        frame
        for frames in _sequences(ids, sequence)
        for position, frame in enumerate(frames)
        if position >= length and position % length < gap
    )


def _sequences(ids: Sequence[str], sequence: str | None) -> list[list[str]]:
    """Frames of each sequence in their natural order."""
    belongs = groups_by_pattern(ids, sequence) if sequence is not None else dict.fromkeys(ids, "")
    return [
        sorted((i for i in ids if belongs[i] == name), key=lambda frame: (natural(frame), frame))
        for name in sorted(set(belongs.values()))
    ]


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UsageError(
            "groups",
            found=f"the pattern {pattern!r} ({error})",
            expected="a regular expression",
            do="Escape special characters with a backslash.",
        ) from error


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts names with the numbers in them as numbers: frame 9 before frame 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
