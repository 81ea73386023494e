"""Scoring: each case read once, however many pipelines, repeats and views look at it; its sums written to a file before
the next case is begun.

A case's file holds, for one repeat, the states of all accumulators for every pipeline (`Scored`), stacked, so that
errors of a case, of a repeat and of any merge are readings of the same exact sums. The three views of an ensemble share
the case's open files; places in the label map are found once. Beside the scores, the spread of the free energy is
measured for the first 1 ... M members, on every case of the clean cohort. A case without a file is to be done: that is
all an interrupted study needs to know.
"""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segcal.data.case import SCORED
from segcal.data.files import journal
from segcal.data.files.journal import Scratch
from segcal.data.files.reading import readable, too_much
from segcal.data.head import Head
from segcal.data.places.distance import BoundaryDistance
from segcal.data.places.objects import ObjectBoxes
from segcal.data.places.place import Places, Predicted
from segcal.data.reader import CaseReader
from segcal.data.rows import Block, Note, Rows
from segcal.data.surroundings import Contexts
from segcal.engine import accumulate
from segcal.engine.accumulate import Accumulator, State
from segcal.engine.ask import Ask
from segcal.engine.engine import Engine, fold_parts
from segcal.errors import UnreadableError
from segcal.methods.calibrator import Calibrator
from segcal.metrics.energy import FreeEnergySpread
from segcal.metrics.spatial import SpatialCalibration
from segcal.metrics.strata import PredictedStrata
from segcal.metrics.summary import ECE_BINS, suite
from segcal.study.configuration import CLEAN, Configuration
from segcal.study.design import Design
from segcal.study.fits import loaded
from segcal.study.pipelines import VIEWS, View

BASE = "zbar"
"""The view the engine reads; the others are made beside it."""

STRATA = "strata"
"""The accumulator of what lies where the scores, before any calibrator, predict foreground or a boundary."""

OBJECTS = "objects"
"""The accumulator of what lies in the bounding boxes of objects."""

OBJECT_BINS = 10
"""Bins of its ECE, W23's."""

BESIDE = (STRATA, OBJECTS)
"""Accumulators that are no part of a suite."""


@dataclass(frozen=True, eq=False)
class Scored:
    """Something that scores a case: called `label`, on a `view`, through a `calibrator` (None: as it is), for some
    `repeats` of the case.
    """

    label: str
    view: str
    calibrator: Calibrator | None
    repeats: frozenset[int]


def suites(head: Head, configuration: Configuration) -> dict[tuple[int, str], Accumulator]:
    """What is summed over the voxels of a case, by part and name."""
    distance = BoundaryDistance(mm=configuration.distance == "mm")
    out: dict[tuple[int, str], Accumulator] = {}
    for part in range(len(head.parts)):
        classes = len(head.part_classes(part))
        spatial = SpatialCalibration(classes, bands=configuration.bands, distance=distance)
        background = head.part_background(part)
        found = suite(classes, background, configuration.bins, spatial=spatial)
        found |= {STRATA: PredictedStrata(classes, background, (ECE_BINS,))}
        if configuration.objects:
            found |= {OBJECTS: replace(spatial, bins=OBJECT_BINS, region=ObjectBoxes())}
        out |= {(part, name): accumulator for name, accumulator in found.items()}
    return out


def file_of(folder: Path, repeat: int, cohort: str, case: str) -> Path:
    """Where the sums of a case lie."""
    return folder / "scores" / f"r{repeat}" / cohort / f"{case}.npz"


def energy_file(folder: Path, case: str) -> Path:
    """Where the free-energy spreads of a case lie."""
    return folder / "energy" / f"{case}.json"


def score(design: Design, folder: Path, engine: Engine, repeats: frozenset[int]) -> None:
    """Score what is not yet scored. Fits must be there. Raises what reading raises; files of finished cases stay."""
    calibrators = {
        (arm.repeat, label): (arm.size, found)
        for arm in design.arms
        if arm.repeat in repeats
        for label, found in loaded(folder, arm).items()
    }
    views = {arm.label(p): p.view for arm in design.arms for p in arm.pipelines}
    for name, cohort in design.cohorts.items():
        wanted = {r: set(design.tested(name, r)) for r in sorted(repeats)}
        energies = name == CLEAN and design.has_energy and 0 in repeats
        todo: dict[str, frozenset[int]] = {}
        for case in cohort:
            rest = frozenset(
                r for r in wanted if case.id in wanted[r] and not file_of(folder, r, name, case.id).is_file()
            )
            if rest or (energies and not energy_file(folder, case.id).is_file()):
                todo[case.id] = rest
        if not todo:
            continue
        asleep = [Scored(p.name, p.view, None, repeats) for p in design.pipelines if p.method is None]
        fitted = [
            Scored(label, views[label], found, frozenset({r}))
            for (r, label), (size, found) in calibrators.items()
            if size is None or name == CLEAN
        ]
        mapper = Scorer(design, name, folder, (*asleep, *fitted), todo, energies)
        some = VIEWS[BASE].of(replace(cohort, cases=tuple(c for c in cohort if c.id in todo)))
        for outcome in engine.map(some, mapper, f"scoring {name} cases", keep_members=energies):
            if outcome.error is not None:
                raise outcome.error


@dataclass(frozen=True, eq=False)
class Scorer:
    """A mapper that scores cases:

    `todo` says for which repeats, `energies` whether the free energy is measured beside.
    """

    design: Design
    cohort: str
    folder: Path
    scored: tuple[Scored, ...]
    todo: Mapping[str, frozenset[int]]
    energies: bool

    @contextlib.contextmanager
    def case(self, reader: CaseReader, scratch: Scratch) -> Iterator[CaseScorer]:
        """Score one case; its files are written when all its blocks have been seen."""
        case = reader.cohort[reader.index].id
        yield CaseScorer(self, reader, scratch, case, tuple(s for s in self.scored if s.repeats & self.todo[case]))


class CaseScorer:
    """One case being scored."""

    def __init__(
        self, scorer: Scorer, reader: CaseReader, scratch: Scratch, case: str, scored: Sequence[Scored]
    ) -> None:
        head, configuration = reader.cohort.head, scorer.design.configuration
        self._scorer, self._case, self._scored, self._reader = scorer, case, scored, reader
        self._suites = suites(head, configuration)
        self._views = {name: viewed(reader, VIEWS[name]) for name in sorted({s.view for s in scored})}
        wanted = sorted({place for a in self._suites.values() for place in accumulate.needs(a)}, key=repr)
        self._places = Places(reader.label_map, scratch, (p for p in wanted if not isinstance(p, Predicted)))
        # what is predicted is another thing in each view
        self._predicted = {
            name: Places(view.label_map, scratch, (p for p in wanted if isinstance(p, Predicted)))
            for name, view in self._views.items()
        }
        self._asks = {
            view: {
                (k, *key): Ask(
                    accumulator, key[0], through=None if s.calibrator is None else s.calibrator.through(key[0])
                )
                for k, s in enumerate(scored)
                if s.view == view
                for key, accumulator in self._suites.items()
            }
            for view in self._views
        }
        self._contexts = {
            view: Contexts(self._views[view], scratch, (c for a in asks.values() for c in a.contexts))
            for view, asks in self._asks.items()
        }
        self._total: dict[Any, State] = {}
        self._notes: list[Note] = []
        self._energy, self._energies = FreeEnergySpread(), dict[int, State]()
        self._wants_energy = scorer.energies and not energy_file(scorer.folder, case).is_file()

    def block(self, block: Block) -> None:
        """Fold one block for everything that scores the case."""
        stop = block.start + block.voxels
        self._notes.append(self._reader.note(block))
        scored = block.role == SCORED
        places = {place: value[scored] for place, value in self._places.of(block.start, stop).items()}
        for view, reader in self._views.items() if bool(scored.any()) else ():
            mine = block if view == BASE else reader.block(block.start, stop)
            prepared = reader.prepare(mine, self._predicted[view], self._contexts[view].of)
            prepared = replace(prepared, places={**places, **prepared.places})
            asks = self._asks[view]
            found = fold_parts(reader.cohort.head, asks, prepared, block.case)
            for (key, _), state in found.items():
                self._total[key] = (
                    state
                    if key not in self._total
                    else accumulate.merge(asks[key].accumulator, self._total[key], state)
                )
        if self._wants_energy:
            self._measure_energy(block, self._reader.prepare(block).part(self._reader.cohort.head, 0))

    def summary(self) -> dict[str, Any]:
        """Write the files."""
        record = self._reader.record(self._notes)
        for repeat in sorted(self._scorer.todo[self._case]):
            mine = [(k, s.label) for k, s in enumerate(self._scored) if repeat in s.repeats]
            arrays: dict[str, Any] = {
                "pipelines": np.array([label for _, label in mine]),
                "digests": np.array([record.labels, record.scores]),
            }
            for (part, name), accumulator in self._suites.items():
                empty = accumulate.zero(accumulator)
                states = [self._total.get((k, part, name), empty) for k, _ in mine]
                arrays |= {f"{part}/{name}/{leaf}": np.stack([s[leaf] for s in states]) for leaf in empty}
            with journal.atomic(file_of(self._scorer.folder, repeat, self._scorer.cohort, self._case)) as temporary:
                np.savez_compressed(temporary, **arrays)
        if self._wants_energy:
            spread = {m: accumulate.result(self._energy, state).std for m, state in self._energies.items()}
            with journal.atomic(energy_file(self._scorer.folder, self._case)) as temporary:
                temporary.write_text(json.dumps(spread), encoding="utf-8")
        return {}

    def _measure_energy(self, block: Block, rows: Rows) -> None:
        """Free energy of the mean logits of the first 1 ... M members, over scored voxels."""
        head, scored = self._reader.cohort.head, block.role == SCORED
        total = torch.zeros((head.channels, rows.voxels), dtype=torch.float64)
        for m, member in enumerate(block.members, 1):
            total += member[:, scored]
            state = accumulate.fold(self._energy, replace(rows, free_energy=head.free_energy(total / m, block.kind)))
            self._energies[m] = (
                state if m not in self._energies else accumulate.merge(self._energy, self._energies[m], state)
            )


def viewed(reader: CaseReader, view: View) -> CaseReader:
    """The same open case, pooled another way."""
    cohort = view.of(reader.cohort)
    return replace(reader, cohort=cohort, windows=reader.windows[: cohort.members])


@dataclass(frozen=True, eq=False)
class CaseSums:
    """What a case's file holds: states by pipeline, part and accumulator, and the digests of its labels and mean
    logits.
    """

    path: Path
    pipelines: tuple[str, ...]
    digests: tuple[str, str]
    arrays: Mapping[str, np.ndarray[Any, Any]]

    def states(self, label: str, keys: Mapping[tuple[int, str], Accumulator]) -> dict[tuple[int, str], State]:
        """The states of what is called `label`. UnreadableError where the file has none, or other ones."""
        if label not in self.pipelines:
            raise _no_sums(self.path, f"no sums of {label}")
        k, out = self.pipelines.index(label), dict[tuple[int, str], State]()
        for (part, name), a in keys.items():
            out[part, name] = state = {}
            for leaf, empty in accumulate.zero(a).items():
                held = self.arrays.get(f"{part}/{name}/{leaf}")
                if held is None or held.dtype != empty.dtype or held.shape != (len(self.pipelines), *empty.shape):
                    raise _no_sums(self.path, f"other sums of {name} than this study's")
                state[leaf] = held[k]
        return out


MOST = 1 << 28
"""Bytes of the sums of a case beyond which a file is not one of them."""


def read_sums(path: Path) -> CaseSums:
    """The sums of a case. A file that is not whole: UnreadableError."""
    with readable(path):
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MOST:
            raise too_much(path, f"sums of {size} bytes", f"at most {MOST}")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    pipelines, digests = arrays.pop("pipelines", None), arrays.pop("digests", None)
    if pipelines is None or pipelines.ndim != 1 or digests is None or digests.shape != (2,):
        raise _no_sums(path, "something else")
    return CaseSums(path, tuple(map(str, pipelines)), (str(digests[0]), str(digests[1])), arrays)


def _no_sums(path: Path, found: str) -> UnreadableError:
    return UnreadableError(
        str(path), found=found, expected="the sums of a case of this study", do="Remove it and go on."
    )
