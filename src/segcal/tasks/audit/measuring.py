"""One case being audited: its blocks are measured as they are read, or, for a callable, once the case is whole.

Promises: every file is read once, whatever is measured; what a calibrator delivers here is bit for bit what `apply`
writes, because blocks are the same. Costs: for a calibrator a block, and four bytes a voxel for the label map; for a
callable the whole case, members included. Padding is measured nowhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segcal.data.case import PADDING, SCORED, Case
from segcal.data.cohort import Cohort
from segcal.data.files.journal import Scratch
from segcal.data.places.label_map import NOWHERE
from segcal.data.ranking import winner
from segcal.data.reader import CaseReader
from segcal.data.rows import Block, Rows
from segcal.engine import accumulate
from segcal.engine.accumulate import Mergeable, State
from segcal.metrics.energy import FreeEnergySpread
from segcal.metrics.flips import Flips
from segcal.tasks.audit.boundaries import near_boundary
from segcal.tasks.audit.energy_maps import EnergyMap, energy_map
from segcal.tasks.audit.measures import Movement, Preservation, Saturation, View, scores_by_part
from segcal.tasks.audit.probes import Probe
from segcal.tasks.audit.subjects import VoxelWise, WholeCase

Key = str | tuple[str, int] | Probe


@dataclass(frozen=True, eq=False)
class Plan:
    """What is measured of every case.

    `maps`: the folder of images of the free energy, or None; `zyx`: axes of plain arrays are reversed.
    """

    subject: VoxelWise | WholeCase
    probes: Sequence[Probe]
    flips: bool
    maps: Path | None = None
    zyx: bool = False

    def measures(self, cohort: Cohort) -> dict[Key, Mergeable]:
        """What is summed, by key."""
        head = cohort.head
        out: dict[Key, Mergeable] = {
            "preservation": Preservation(head),
            "saturation": Saturation(head, cohort.resolution),
            "energy": FreeEnergySpread(),
        }
        out |= {probe: Movement(head, isinstance(self.subject, VoxelWise)) for probe in self.probes}
        if self.flips:
            out |= {("flips", part): Flips(len(head.part_classes(part))) for part in range(len(head.parts))}
        return out

    @contextlib.contextmanager
    def case(self, reader: CaseReader, scratch: Scratch) -> Iterator[AuditedCase]:
        """Open one case."""
        cohort, index = reader.cohort, reader.index
        with contextlib.ExitStack() as stack:
            drawn = (
                None
                if self.maps is None
                else stack.enter_context(energy_map(self.maps, cohort[index], scratch, zyx=self.zyx))
            )
            if isinstance(self.subject, VoxelWise):
                yield AuditedCase(self, cohort, index, self.measures(cohort), drawn)
                return
            fields: dict[str, Tensor] = {}
            for name in self.subject.fields:
                assert reader.fields is not None
                fields[name] = reader.fields.read(name, 0, cohort[index].voxels)
            yield GatheredCase(self, cohort, index, self.measures(cohort), drawn, fields=fields)


@dataclass(eq=False)
class AuditedCase:
    """A case of a calibrator that works voxel by voxel."""

    plan: Plan
    cohort: Cohort
    index: int
    measures: Mapping[Key, Mergeable]
    drawn: EnergyMap | None
    states: dict[Key, State] = field(default_factory=dict)
    roles: Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.int64))
    changed: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.states = {key: accumulate.zero(measure) for key, measure in self.measures.items()}
        self.labels = np.full(self.case.voxels, NOWHERE, np.int32)

    @property
    def case(self) -> Case:
        """The case."""
        return self.cohort[self.index]

    def block(self, block: Block) -> None:
        """Measure one block."""
        subject = self.plan.subject
        assert isinstance(subject, VoxelWise)
        base = self._view(block.scores, subject.deliver(block.scores, block.kind), subject)
        self._base(block, base.delivered)
        for probe in self.plan.probes:
            shifted = probe.shifted(self.cohort, self.index, block.start, block.members)
            self._moved(probe, block.role, base, self._view(shifted, subject.deliver(shifted, block.kind), subject))

    def summary(self) -> dict[str, Any]:
        """States, voxels by role, and changed labels near a boundary."""
        changed = torch.cat(self.changed).numpy() if self.changed else np.empty(0, np.int64)
        near = near_boundary(self.labels.reshape(self.case.shape), changed)
        return {"states": self.states, "roles": self.roles.tolist(), "near": near}

    def _base(self, block: Block, delivered: Tensor) -> None:
        head, kind = self.cohort.head, block.kind
        inside = block.role != PADDING
        self.roles += torch.bincount(block.role.long(), minlength=4)
        scores, p = (t if bool(inside.all()) else t[:, inside] for t in (block.scores, delivered))
        self._add("preservation", Preservation(head).fold(scores, kind, p))
        self._add("saturation", Saturation(head, self.cohort.resolution).fold(scores, kind))
        before = scores_by_part(scores, kind, head)
        after = scores_by_part(p, "probs", head)
        moved = torch.stack([winner(a) != winner(b) for a, b in zip(before, after, strict=True)]).any(0)
        at = torch.arange(block.start, block.start + block.voxels)[inside]
        self.changed.append(at[moved])
        self.labels[at.numpy()] = head.predicted(scores, kind).numpy()
        self._scored(block, delivered)

    def _scored(self, block: Block, delivered: Tensor) -> None:
        """What is measured over scored voxels only, as in `evaluate`."""
        head, kind, keep = self.cohort.head, block.kind, block.role == SCORED
        energy = head.free_energy(block.scores, kind)
        if energy is not None and self.drawn is not None:
            self.drawn.put(block.start, energy, block.role != PADDING)
        scores, p = block.scores[:, keep], delivered[:, keep]
        decision = head.decide(scores, kind)
        none = torch.zeros_like(decision)
        targets = head.targets(block.labels[keep]) if self.plan.flips and block.labels is not None else none
        after = scores_by_part(p, "probs", head)
        for part in range(len(head.parts)):
            # neither measure looks at log-probabilities; the delivered ones stand in for them
            own = Rows(
                block.case,
                block.start,
                p,
                targets[part],
                winner(after[part]),
                decision[part],
                None if energy is None else energy[keep],
            )
            if self.plan.flips:
                self._add(("flips", part), Flips(len(head.part_classes(part))).fold(own))
            if part == 0:
                self._add("energy", FreeEnergySpread().fold(own))

    def _moved(self, probe: Probe, role: Tensor, base: View, moved: View) -> None:
        keep = role != PADDING
        both = (base, moved) if bool(keep.all()) else (base.take(keep), moved.take(keep))
        self._add(probe, Movement(self.cohort.head, base.exact is not None).fold(*both))

    def _view(self, scores: Tensor, delivered: Tensor, subject: VoxelWise | WholeCase) -> View:
        kind, head = self.cohort.pooled_kind, self.cohort.head
        exact = subject.exact(scores, kind) if isinstance(subject, VoxelWise) and self.plan.probes else None
        return View(delivered, exact, head.probabilities(head.canonical(scores, kind)))

    def _add(self, key: Key, raw: Mapping[str, Any]) -> None:
        measure = self.measures[key]
        self.states[key] = accumulate.merge(measure, self.states[key], accumulate.lift(measure, raw))


@dataclass(eq=False)
class GatheredCase(AuditedCase):
    """A case of a callable, which sees it whole."""

    blocks: list[Block] = field(default_factory=list)
    fields: Mapping[str, Tensor] = field(default_factory=dict)

    def block(self, block: Block) -> None:
        """Keep one block."""
        self.blocks.append(block)

    def summary(self) -> dict[str, Any]:
        """Measure the whole case, then as for any other."""
        base = self._delivered([b.scores for b in self.blocks])
        for block, p in zip(self.blocks, base, strict=True):
            self._base(block, p)
        for probe in self.plan.probes:
            shifted = [probe.shifted(self.cohort, self.index, b.start, b.members) for b in self.blocks]
            moved = self._delivered(shifted)
            for block, scores, p, q in zip(self.blocks, shifted, base, moved, strict=True):
                self._moved(
                    probe,
                    block.role,
                    self._view(block.scores, p, self.plan.subject),
                    self._view(scores, q, self.plan.subject),
                )
        return super().summary()

    def _delivered(self, scores: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Probabilities of the whole case, cut as the scores are."""
        subject = self.plan.subject
        assert isinstance(subject, WholeCase)
        counted = torch.cat([b.role for b in self.blocks]) != PADDING
        whole = subject.deliver(torch.cat(list(scores), 1), self.case, self.fields, counted)
        return torch.split(whole, [s.shape[1] for s in scores], 1)
