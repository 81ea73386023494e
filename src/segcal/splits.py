"""Partitions of cases in which every group (subject, sequence) stays whole, and where groups come from.

`folds` balances the folds by cases, or by given weights: groups are shuffled by the seed, taken from the heaviest down, and each goes to the lightest fold.
Promises: the same seed gives the same folds for the same groups, whatever the order of the cases; every case is in exactly one fold, no fold is empty, no group is
in two. Fewer groups than folds asked for: fewer folds, and the result says so. Fewer than two groups: UsageError, there is nothing to hold out.
Groups are read from names (`groups_by_pattern`), a table (`groups_from_table`), or runs of neighbouring frames (`consecutive`); each returns case id to group.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segcal.errors import DataError, MissingError, UnreadableError, UsageError


@dataclass(frozen=True)
class Folds:
    """`test[i]`: indices of the cases held out in fold i, ascending. `requested`: folds asked for. `groups`: number of groups."""

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
        return f"{len(self.test)} folds instead of {self.requested}: there are only {self.groups} groups, and a group is never split" if self.reduced else ""


def folds(groups: Sequence[str], k: int, seed: int = 0, weights: Sequence[float] | None = None) -> Folds:
    """Partition cases (`groups`: the group of each) into `k` folds, balanced by `weights` (one a case, not negative; else by cases).

    Raises UsageError for k < 2, for fewer than two groups, and for weights that are not such.
    """
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
    weight = {name: float(len(cases[name])) if weights is None else sum(sorted(weights[i] for i in cases[name])) for name in names}
    count = min(k, len(names))
    load, members = [0.0] * count, [list[str]() for _ in range(count)]
    for name in sorted(shuffled, key=lambda n: -weight[n]):
        lightest = min(range(count), key=lambda f: (load[f], len(members[f])))
        load[lightest] += weight[name]
        members[lightest].append(name)
    return Folds(tuple(tuple(sorted(i for name in fold for i in cases[name])) for fold in members), k, len(names))


def groups_by_pattern(ids: Sequence[str], pattern: str) -> dict[str, str]:
    """The group of each case from its id: what the first parenthesis of the regular expression matches, or the whole match. An id without a match, or a bad pattern: UsageError."""
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
    """Groups from a CSV or TSV file (UTF-8) whose header names the columns `case` and `group`; other columns are left alone.

    Raises MissingError (no file, no such column, an empty cell), UnreadableError (not text), DataError (a case in two groups). A table without rows: an empty mapping.
    """
    where = str(path)
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        separator = "\t" if "\t" in text.partition("\n")[0] else ","
        table = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    except FileNotFoundError as error:
        raise MissingError(where, found="no such file", expected="a table with the columns case and group", do="Check the path given with --groups.") from error
    except (UnicodeDecodeError, csv.Error, IsADirectoryError, PermissionError) as error:
        raise UnreadableError(
            where, found=f"something that cannot be read as a table ({type(error).__name__})", expected="CSV or TSV in UTF-8", do="Save the table as CSV."
        ) from error
    header = [name.strip() for name in table[0]] if table else []
    if "case" not in header or "group" not in header:
        raise MissingError(where, found=f"the columns {header[:8]}", expected="columns named case and group, separated by commas or tabs", do="Name them in the first line.")
    case_at, group_at = header.index("case"), header.index("group")
    out: dict[str, str] = {}
    for number, row in enumerate(table[1:], 2):
        if not any(cell.strip() for cell in row):
            continue
        case, group = (row[at].strip() if at < len(row) else "" for at in (case_at, group_at))
        if not case or not group:
            raise MissingError(f"{where}, row {number}", found="an empty case or group", expected="both", do="Complete the line or remove it.")
        if out.setdefault(case, group) != group:
            raise DataError(f"{where}, row {number}", found=f"case {case!r} in group {group!r} and in {out[case]!r}", expected="one group a case", do="Remove one of the lines.")
    return out


def consecutive(ids: Sequence[str], length: int, sequence: str | None = None) -> dict[str, str]:
    """Runs of `length` neighbouring frames as groups, each named by its first frame; the last run may be shorter.

    Frames are ordered by name, numbers in it as numbers. `sequence`: a regular expression (as in `groups_by_pattern`) naming the sequence of each frame;
    runs do not cross sequences. No frame: an empty mapping.
    """
    if length < 1:
        raise UsageError("length", found=str(length), expected="at least 1 frame", do="Give the number of neighbouring frames that belong together.")
    belongs = groups_by_pattern(ids, sequence) if sequence is not None else dict.fromkeys(ids, "")
    out = {}
    for name in sorted(set(belongs.values())):
        frames = sorted((i for i in ids if belongs[i] == name), key=lambda frame: (_natural(frame), frame))
        out.update({frame: frames[position - position % length] for position, frame in enumerate(frames)})
    return {case: out[case] for case in ids}


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UsageError("groups", found=f"the pattern {pattern!r} ({error})", expected="a regular expression", do="Escape special characters with a backslash.") from error


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
