"""Means, spreads and the first few scores of what a network says of copies of each image, a file a case.

`condense` reads predictions of copies that somebody made, as members of an ensemble, block by block; `predict` draws
the copies and runs the network. Both write what `segcal.data.formats.case_copies` reads, and `copies.json` first, which
says how. Promises: a file is complete or absent, and one of the same making is left alone, so that an interrupted run
goes on; a folder of another making is refused; the same bits for any number of workers, and as if all copies had been
stacked, to rounding. Copies are one stream: the state after `at` of them, a folder firstN within the folder, is that of
the first N. Costs: of `condense` the arrays of one case a worker, of `predict` besides as much again in float64. No
case: only the record.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segcal.data.case import Case
from segcal.data.cohort import Cohort
from segcal.data.files import claims, journal
from segcal.data.files.journal import Scratch
from segcal.data.files.reading import json_object
from segcal.data.formats.case_copies import OF, RECORD, Of
from segcal.data.head import Head
from segcal.data.reader import CaseReader
from segcal.data.rows import Block
from segcal.data.running import Running
from segcal.data.scores import FULL, Kind, Resolution
from segcal.engine.engine import Engine
from segcal.engine.single import one_thread
from segcal.errors import OutputError, ScoreError, ShapeError, UsageError
from segcal.tasks.copies.ranges import Ranges
from segcal.tasks.copies.segmenters import Normalisation, Segmenter, normalised

COUNT = 180
"""Copies of an image (O22)."""

KEPT = 18
"""Copies whose scores are kept, to learn from."""


@dataclass(frozen=True)
class Making:
    """Mean and spread are `of` probabilities (as O22 released) or of log-probabilities (it prints logits, which see a
    constant added to all of a voxel); `kept` copies have their scores kept. UsageError for none.
    """

    of: Of = "probs"
    kept: int = KEPT

    def __post_init__(self) -> None:
        if self.of not in OF:
            raise UsageError("of", found=repr(self.of), expected=" or ".join(OF), do="Leave it out for probs.")
        if self.kept < 1:
            raise UsageError("kept", found=str(self.kept), expected="1 or more", do=f"Leave it out for {KEPT}.")


class Condensed:
    """What is kept of the copies of some voxels of a case, by the `head` and from scores of a `kind`."""

    def __init__(self, head: Head, kind: Kind, resolution: Resolution, making: Making) -> None:
        self._head, self._kind, self._resolution, self._making = head, kind, resolution, making
        self.running = Running()
        self.scores: list[NDArray[np.float32]] = []

    def add(self, scores: torch.Tensor) -> None:
        """The scores (channels, n) of one more copy."""
        rows = self._head.canonical(scores.double(), self._kind, self._resolution)
        logs = self._head.channel_rows(rows)
        self.running.add((self._head.probabilities(rows) if self._making.of == "probs" else logs).numpy())
        if len(self.scores) < self._making.kept:
            self.scores.append(logs.float().numpy())

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Mean, spread (channels, n), and scores (kept times channels, n)."""
        mean, spread = (a.astype(np.float32) for a in (self.running.mean, self.running.spread))
        return {"mean": mean, "spread": spread, "scores": np.concatenate(self.scores)}


def file_of(folder: Path, case: Case) -> Path:
    """Where the copies of a case are."""
    return folder / f"{case.id}.npz"


def condense(copies: Cohort, folder: Path, engine: Engine, making: Making, *, overwrite: bool = False) -> list[str]:
    """Condense predictions of copies, which are the members of a cohort; the cases done. Raises what reading raises,
    OutputError for a folder of another making.
    """
    if copies.members < 2:
        raise UsageError(
            "copies",
            found="one folder of predictions",
            expected="two or more, a folder a copy",
            do="Name the folder of each copy, or give the network: --segmenter.",
        )
    made = {"copies": copies.members, "of": making.of, "drawn": "predictions of copies"}
    left = begun(folder, copies, made, making, overwrite=overwrite)
    some = copies.select([case.id for case in left]) if left else copies
    if left:
        for outcome in engine.map(some, _Condenser(folder, making), "condensing cases", keep_members=True):
            if outcome.error is not None:
                raise outcome.error
    return [case.id for case in left]


@dataclass(frozen=True, eq=False)
class _Condenser:
    """A mapper."""

    folder: Path
    making: Making

    @contextlib.contextmanager
    def case(self, reader: CaseReader, scratch: Scratch) -> Iterator[_CaseCondenser]:
        """One case."""
        del scratch
        yield _CaseCondenser(self, reader)


class _CaseCondenser:
    """One case being condensed."""

    def __init__(self, whole: _Condenser, reader: CaseReader) -> None:
        self._whole, self._cohort, self._case = whole, reader.cohort, reader.cohort[reader.index]
        channels, voxels = self._cohort.head.channels, self._case.voxels
        kept = min(whole.making.kept, self._cohort.members)
        sizes = {"mean": channels, "spread": channels, "scores": kept * channels}
        self._arrays = {name: np.zeros((rows, voxels), np.float32) for name, rows in sizes.items()}

    def block(self, block: Block) -> None:
        """See CaseMapper."""
        cohort = self._cohort
        found = Condensed(cohort.head, cohort.kind, cohort.resolution, self._whole.making)
        for member in block.members:
            found.add(member)
        for name, values in found.arrays().items():
            self._arrays[name][:, block.start : block.start + block.voxels] = values

    def summary(self) -> dict[str, Any]:
        """Write the file."""
        _write(file_of(self._whole.folder, self._case), self._arrays, self._case.shape)
        return {}


@dataclass(frozen=True)
class Drawing:
    """How many copies are drawn from which `ranges`, by which `seed`; after `at` of them states are kept too. `kind`:
    what the network gives; `normalise`: what is done to an image first. UsageError for fewer than two copies, or a
    state beyond them.
    """

    count: int = COUNT
    at: tuple[int, ...] = ()
    ranges: Ranges = field(default_factory=Ranges)
    seed: int = 0
    kind: Kind = "logits"
    normalise: Normalisation = "none"

    def __post_init__(self) -> None:
        if self.count < 2:
            raise UsageError("count", found=str(self.count), expected="2 or more", do=f"Leave it out for {COUNT}.")
        if not all(2 <= n < self.count for n in self.at):
            raise UsageError(
                "at",
                found=" ".join(map(str, self.at)),
                expected=f"numbers of copies from 2, below {self.count}",
                do="Leave it out for the state after all of them only.",
            )


def predict(
    cohort: Cohort,
    folder: Path,
    segmenter: Segmenter,
    drawing: Drawing,
    making: Making,
    engine: Engine,
    *,
    overwrite: bool = False,
) -> list[str]:
    """Draw copies of the image of each case and run the network on them; the cases done. MissingError where a case has
    no image, ShapeError where the network gives another number of classes than the cohort has.
    """
    cohort.having(["image"])
    made = {
        "copies": drawing.count,
        "of": making.of,
        "drawn": {"seed": drawing.seed, **drawing.ranges.to_json()},
        "normalise": drawing.normalise,
        "network": segmenter.digest,
    }
    folders = {drawing.count: folder, **{n: folder / f"first{n}" for n in drawing.at}}
    left = {
        case.id: case
        for n, where in folders.items()
        for case in begun(where, cohort, {**made, "copies": n}, making, overwrite=overwrite)
    }
    engine.progress.start("running the network on copies", len(left) * drawing.count)
    for case in left.values():
        _predict(cohort, case, folders, segmenter, drawing, making, engine)
    return list(left)


def _predict(
    cohort: Cohort,
    case: Case,
    folders: Mapping[int, Path],
    segmenter: Segmenter,
    drawing: Drawing,
    making: Making,
    engine: Engine,
) -> None:
    with engine.scratch(cohort) as scratch, case.fields["image"].open(scratch) as window:
        image = np.atleast_2d(window.read(0, case.voxels)).reshape(-1, *case.shape)
    if not np.isfinite(image).all():
        raise ScoreError(
            case.fields["image"].where,
            found="NaN or infinity",
            expected="finite values of the image",
            do="Repair the file, or leave the case out.",
        )
    x = normalised(image, drawing.normalise)
    found = Condensed(cohort.head, drawing.kind, FULL, making)
    images: list[NDArray[np.float32]] = []
    for number in range(drawing.count):
        copy = drawing.ranges.copy(x, case.id, number, drawing.seed)
        scores = segmenter(copy)
        if len(scores) != cohort.head.channels:
            raise ShapeError(
                "segmenter",
                found=f"scores of {len(scores)} classes",
                expected=f"{cohort.head.channels}, as the predictions of {cohort.name}",
                do="Give the network that made these predictions.",
            )
        flat = torch.from_numpy(np.ascontiguousarray(scores, np.float64)).flatten(1)
        cohort.head.check(flat, drawing.kind, "segmenter")
        with one_thread():
            found.add(flat)
        if number < making.kept:
            images.append(copy)
        engine.progress.step()
        if number + 1 in folders:
            arrays = {**found.arrays(), "image": x, "images": np.concatenate(images)}
            _write(file_of(folders[number + 1], case), arrays, case.shape)


def begun(
    folder: Path, cohort: Cohort, made: Mapping[str, Any], making: Making, *, overwrite: bool = False
) -> list[Case]:
    """The cases left to do, the record of the folder being written; it may not be one that is read from.

    OutputError for a folder of another making, unless it is to be overwritten.
    """
    claims.claim_folder(folder, [path for case in cohort for path in case.paths])
    told = {"made": dict(made), "kept": making.kept}
    there = folder / RECORD
    if there.is_file() and not overwrite:
        was = json_object(there, "Choose another folder, or use --overwrite.")
        if {name: was.get(name) for name in told} != json.loads(json.dumps(told)):
            raise OutputError(
                str(there),
                found="copies of another making",
                expected="none, or copies made as these",
                do="Choose another folder, or use --overwrite to make them anew.",
            )
        return [case for case in cohort if not file_of(folder, case).is_file()]
    for case in cohort:
        if (path := file_of(folder, case)).exists() and not overwrite:
            raise OutputError(
                str(path),
                found=f"a file of a case, and no {RECORD}",
                expected="a folder of its own for the copies",
                do="Choose another folder.",
            )
    with journal.atomic(there) as temporary:
        temporary.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return list(cohort)


def _write(path: Path, arrays: Mapping[str, NDArray[np.float32]], shape: Sequence[int]) -> None:
    whole: dict[str, Any] = {name: values.reshape(-1, *shape) for name, values in arrays.items()}
    with journal.atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **whole)
