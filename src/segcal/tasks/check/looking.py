"""One case looked at, block by block: voxels by role, sums of metrics, what the delivered label map is.

Writes nothing. Costs: one reading of each case.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from segcal.data.case import PADDING, Window
from segcal.data.files.journal import Scratch
from segcal.data.head import Head
from segcal.data.places.place import Places
from segcal.data.reader import CaseReader
from segcal.data.rows import Block, Note
from segcal.engine import accumulate
from segcal.engine.accumulate import State
from segcal.metrics.summary import suite
from segcal.tasks.check.agreement import CaseGlance, Glance


def suites(head: Head) -> tuple[dict[str, Any], ...]:
    """The accumulators of each part of a head."""
    return tuple(suite(len(head.part_classes(part)), head.part_background(part)) for part in range(len(head.parts)))


@dataclass(frozen=True, eq=False)
class Look:
    """A mapper that writes nothing: what it learns of a case is the case's summary.

    `suites`: accumulators of each part; `glance`: what looks at the agreement of the cases named in `few`.
    """

    suites: tuple[dict[str, Any], ...]
    glance: Glance
    few: frozenset[str]

    @contextlib.contextmanager
    def case(self, reader: CaseReader, scratch: Scratch) -> Iterator[CaseLook]:
        """Open the delivered label map of the case."""
        case = reader.cohort[reader.index]
        delivered = case.fields.get("delivered")
        places = Places(
            reader.label_map,
            scratch,
            (place for accumulators in self.suites for a in accumulators.values() for place in accumulate.needs(a)),
        )
        with contextlib.ExitStack() as stack:
            window = None if delivered is None else stack.enter_context(delivered.open(scratch))
            glance = stack.enter_context(self.glance.case(reader, scratch)) if case.id in self.few else None
            yield CaseLook(self, reader, window, places, glance)


@dataclass(eq=False)
class CaseLook:
    """One case being looked at."""

    look: Look
    reader: CaseReader
    delivered: Window | None
    places: Places
    glance: CaseGlance | None
    notes: list[Note] = field(default_factory=list)
    states: dict[tuple[int, str], State] = field(default_factory=dict)
    one_hot: int = 0
    differs: int = 0

    def block(self, block: Block) -> None:
        """Count one block."""
        head = self.reader.cohort.head
        self.notes.append(self.reader.note(block))
        if self.glance is not None:
            self.glance.block(block)
        self.one_hot += int((certain(block) & (block.role != PADDING)).sum())
        if self.delivered is not None:
            shown = torch.from_numpy(self.delivered.read(block.start, block.start + block.voxels).astype("int64"))
            self.differs += int((shown != head.predicted(block.scores, block.kind)).sum())
        if block.labels is None:
            return
        prepared = self.reader.prepare(block, self.places)
        for part, accumulators in enumerate(self.look.suites):
            rows = prepared.part(head, part)
            for name, accumulator in accumulators.items():
                state, key = accumulate.fold(accumulator, rows), (part, name)
                self.states[key] = (
                    state if key not in self.states else accumulate.merge(accumulator, self.states[key], state)
                )

    def summary(self) -> dict[str, Any]:
        """Counts, states and the record of the case. LabelError where nothing is left to score."""
        return {
            "record": self.reader.record(self.notes),
            "states": self.states,
            "glance": None if self.glance is None else self.glance.summary(),
            "one_hot": self.one_hot,
            "differs": self.differs if self.delivered is not None else None,
        }


def certain(block: Block) -> Tensor:
    """Voxels whose scores, as probabilities, are exactly zero or one throughout."""
    if block.kind != "probs":
        return torch.zeros(block.voxels, dtype=torch.bool)
    return ((block.scores == 0) | (block.scores == 1)).all(0)
