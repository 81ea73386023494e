"""An evaluation in parts, on as many machines: each part scores some of the cases and keeps their sums in a file; all
files together give the numbers of one run, to the last bit, in whichever order they come.

A file is safetensors: sums of each case, and of each group what is not kept by case, with JSON metadata of which
evaluation they are part. Promises: a file is complete or as it was; what is read is checked against the sums that this
evaluation takes; files of other cases, another calibrator or another release are a UsageError that says so. Costs: some
50 kB a case and stage.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from segcal import errors
from segcal.data.cohort import Cohort
from segcal.data.files import journal
from segcal.data.files.reading import check_there, json_value, readable, too_much
from segcal.data.rows import Record
from segcal.engine import accumulate
from segcal.engine.accumulate import Accumulator, State
from segcal.engine.need import state_bytes
from segcal.errors import DataError, MissingError, UnreadableError, UsageError
from segcal.methods.calibrator import Calibrator
from segcal.methods.files import METADATA, VALUES, digest, versions
from segcal.tasks.scoring import STRATA, Scoring, Slot

KEY = "segcal_sums"


@dataclass(frozen=True)
class Part:
    """Part `number` (from 1) of `of`. UsageError for one there cannot be."""

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise UsageError(
                "--part",
                found=f"{self.number}/{self.of}",
                expected="i/n with i from 1 to n",
                do="Number the parts from 1.",
            )

    @classmethod
    def named(cls, text: str) -> Part:
        """'2/3'."""
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if found is None:
            raise UsageError("--part", found=repr(text), expected="i/n, such as 1/3", do="Number the parts from 1.")
        return cls(int(found[1]), int(found[2]))

    def taken(self, cohort: Cohort) -> Cohort:
        """A run of the cases, as long as the others or one shorter. UsageError for more parts than cases."""
        count = len(cohort)
        if self.of > count:
            raise UsageError(
                "--part",
                found=f"{self.of} parts of {count} case(s)",
                expected="a case for every part",
                do="Take fewer parts.",
            )
        low, high = ((k * count) // self.of for k in (self.number - 1, self.number))
        return replace(cohort, cases=cohort.cases[low:high])


def mark(cohort: Cohort, calibrator: Calibrator | None, words: Sequence[Any]) -> str:
    """By which parts of one evaluation know each other: its cases and groups, calibrator, options and release."""
    told = [
        versions()["segcal"],
        [[case.id, group] for case, group in zip(cohort, cohort.groups, strict=True)],
        [cohort.kind, cohort.pool, cohort.head.to_json()],
        "" if calibrator is None else digest(calibrator),
        list(words),
    ]
    return journal.digest(json.dumps(told).encode())


@dataclass(frozen=True, eq=False)
class Sums:
    """What a part found. `cases`: names, in the order of the rows of `arrays`; `groups` likewise for what is summed by
    group. `failed`, `unscored` and `left_out` cases have no row.
    """

    of: str
    part: Part
    cases: Sequence[str]
    groups: Sequence[str]
    records: Sequence[Record]
    failed: Mapping[str, DataError]
    unscored: Sequence[str]
    left_out: Sequence[str]
    notes: Sequence[str]
    arrays: Mapping[str, np.ndarray[Any, Any]]

    def save(self, path: Path) -> None:
        """Write it."""
        told = {
            "schema": 1,
            "of": self.of,
            "part": [self.part.number, self.part.of],
            "cases": list(self.cases),
            "groups": list(self.groups),
            "records": [asdict(record) for record in self.records],
            "failed": {name: _described(error) for name, error in self.failed.items()},
            "unscored": list(self.unscored),
            "left_out": list(self.left_out),
            "notes": list(self.notes),
            "versions": versions(),
        }
        with journal.atomic(path) as aside:
            aside.write_bytes(safetensors.numpy.save(dict(self.arrays), {KEY: json.dumps(told)}))

    @classmethod
    def load(cls, path: Path) -> Sums:
        """Read it. MissingError for no file, UnreadableError for another one."""
        check_there(path, "sums that segcal evaluate --part wrote")
        try:
            with readable(path), path.open("rb") as raw:
                size = int.from_bytes(raw.read(8), "little")
            if METADATA < size < path.stat().st_size:
                raise too_much(path, f"metadata of {size} bytes", f"at most {METADATA}")
            with safetensors.safe_open(path, "np") as opened:
                told = json_value((opened.metadata() or {})[KEY], path, VALUES)
                arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
            return cls(
                str(told["of"]),
                Part(*map(int, told["part"])),
                [str(name) for name in told["cases"]],
                [str(name) for name in told["groups"]],
                [Record(**{**one, "roles": tuple(one["roles"])}) for one in told["records"]],
                {str(name): _error(described) for name, described in told["failed"].items()},
                [str(name) for name in told["unscored"]],
                [str(name) for name in told["left_out"]],
                [str(note) for note in told["notes"]],
                arrays,
            )
        except (safetensors.SafetensorError, LookupError, TypeError, ValueError, AttributeError, UsageError) as error:
            raise _not_sums(path, type(error).__name__) from error

    def states(self, scoring: Scoring, path: Path) -> Iterator[tuple[str, dict[Slot, State]]]:
        """The states of each case. UnreadableError where they are not those that are asked for."""
        if not self.cases:
            return
        held = {
            (stage, part, name, 0, -1): self._of(accumulator, f"{stage}/{part}/{name}", len(self.cases), path)
            for stage in scoring.stages
            for part in scoring.parts
            for name, accumulator in scoring.of_a_case(part).items()
        }
        for row, case in enumerate(self.cases):
            yield case, {slot: {leaf: values[row] for leaf, values in of.items()} for slot, of in held.items()}

    def strata(self, scoring: Scoring, stage: str, part: int, path: Path) -> Iterator[tuple[str, State]]:
        """The states of each group's strata."""
        if not self.groups:
            return
        of = self._of(scoring.strata[part], f"{stage}/{part}/{STRATA}", len(self.groups), path)
        for row, group in enumerate(self.groups):
            yield group, {leaf: values[row] for leaf, values in of.items()}

    def _of(self, accumulator: Accumulator, name: str, rows: int, path: Path) -> dict[str, np.ndarray[Any, Any]]:
        out = {}
        for leaf, empty in accumulate.zero(accumulator).items():
            found = self.arrays.get(f"{name}/{leaf}")
            if found is None or found.dtype != empty.dtype or found.shape != (rows, *empty.shape):
                raise _not_sums(path, f"no {name}/{leaf} of {rows} row(s)")
            out[leaf] = found
        return out


def stacked(
    scoring: Scoring, states: Mapping[int, Mapping[Slot, State]], answers: Mapping[Slot, State], groups: Sequence[str]
) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of `Sums`: states of cases, in the order of their numbers, and of blocks that are one group each."""
    arrays = {}
    for stage in scoring.stages:
        for part in scoring.parts:
            for name, accumulator in scoring.of_a_case(part).items():
                for leaf, empty in accumulate.zero(accumulator).items():
                    rows = [states[case][stage, part, name, 0, -1][leaf] for case in sorted(states)]
                    arrays[f"{stage}/{part}/{name}/{leaf}"] = _stacked(rows, empty)
            for leaf, empty in accumulate.zero(scoring.strata[part]).items():
                rows = [answers[stage, part, STRATA, 0, b][leaf] for b in range(len(groups))]
                arrays[f"{stage}/{part}/{STRATA}/{leaf}"] = _stacked(rows, empty)
    return arrays


def _stacked(rows: Sequence[np.ndarray[Any, Any]], empty: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.stack(rows) if rows else np.empty((0, *empty.shape), empty.dtype)


@dataclass(frozen=True, eq=False)
class Together:
    """All parts of one evaluation, each with the file it is from."""

    parts: Sequence[tuple[Path, Sums]]

    @classmethod
    def of(cls, files: Sequence[Path], expected: str) -> Together:
        """Files of every part, once each, in any order. UsageError for others."""
        parts = [(path, Sums.load(path)) for path in files]
        for path, one in parts:
            if one.of != expected:
                raise UsageError(
                    "--merge",
                    found=f"sums of another evaluation in {path}",
                    expected="the same cases and groups, calibrator, options and release as now",
                    do="Type the command as it was for the parts, or run them again.",
                )
        count = parts[0][1].part.of
        numbers = sorted(one.part.number for _, one in parts)
        if any(one.part.of != count for _, one in parts) or numbers != list(range(1, count + 1)):
            raise UsageError(
                "--merge",
                found="parts " + ", ".join(f"{one.part.number}/{one.part.of}" for _, one in parts),
                expected=f"each of 1/{count} to {count}/{count} once",
                do="Name the files of all parts; run those that are missing.",
            )
        return cls(sorted(parts, key=lambda found: found[1].part.number))

    @property
    def failed(self) -> dict[str, DataError]:
        """Cases that could not be scored."""
        return {name: error for _, one in self.parts for name, error in one.failed.items()}

    @property
    def records(self) -> list[Record]:
        """Of every case that was scored."""
        return [record for _, one in self.parts for record in one.records]

    @property
    def notes(self) -> list[str]:
        """What was said of parts, each once."""
        return list(dict.fromkeys(note for _, one in self.parts for note in one.notes))

    def scored(self, cohort: Cohort) -> Cohort:
        """The cases that were to be scored; those of which no voxel counts are its `unscored`."""
        unscored = tuple(name for _, one in self.parts for name in one.unscored)
        away = {*unscored, *(name for _, one in self.parts for name in one.left_out)}
        cases = tuple(case for case in cohort if case.id not in away)
        if not cases:
            raise MissingError(
                "--merge",
                found="no case in any part",
                expected="at least one that can be scored",
                do="All are ignored, or of the fit: see what the parts said.",
            )
        return replace(cohort, cases=cases, unscored=(*cohort.unscored, *unscored))

    def answers(self, scoring: Scoring) -> dict[Slot, State]:
        """Give a scoring all cases, and return what it asked of blocks."""
        number = {case.id: k for k, case in enumerate(scoring.cohort)}
        block = {group: b for b, some in enumerate(scoring.blocks) for group in self._groups(scoring.cohort, some)}
        out: dict[Slot, State] = {}
        for path, one in self.parts:
            for case, states in one.states(scoring, path):
                scoring.add(number[case], states)
            for stage in scoring.stages:
                for part in scoring.parts:
                    for group, state in one.strata(scoring, stage, part, path):
                        slot = (stage, part, STRATA, 0, block[group])
                        known = out.get(slot)
                        out[slot] = state if known is None else accumulate.merge(scoring.strata[part], known, state)
        return out

    @staticmethod
    def _groups(cohort: Cohort, cases: frozenset[int]) -> set[str]:
        return {cohort.groups[case] for case in cases}


def room_taken(scoring: Scoring) -> int:
    """Bytes of the states that a part keeps until it is written: as long as they are stacked, twice."""
    asks = scoring.asks.values()
    return 2 * sum(state_bytes({0: ask.accumulator}) * (len(scoring.cohort) if ask.by_case else 1) for ask in asks)


def _described(error: DataError) -> list[str]:
    return [type(error).__name__, error.where, error.found, error.expected, error.do]


def _error(described: Sequence[str]) -> DataError:
    kind, where, found, expected, do = map(str, described)
    known = getattr(errors, kind)
    if not (isinstance(known, type) and issubclass(known, DataError)):
        raise ValueError(kind)
    return known(where, found=found, expected=expected, do=do)


def _not_sums(path: Path, why: str) -> UnreadableError:
    return UnreadableError(
        str(path),
        found=f"what are no sums of this evaluation ({why})",
        expected="a file that segcal evaluate --part wrote",
        do="Run that part again.",
    )
