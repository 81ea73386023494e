"""A fitted calibrator: one map for each part of a head, what it promises, and what it remembers of its fit.

A map that looks at neighbours (`LocalMap`) gives each voxel a temperature, of whole arrays at once or tile by tile from
an open case (`temperatures`); from there on it is one factor a voxel.

`calibrator(scores)` returns float32 probabilities in which a promised label is kept at every voxel;
`calibrator.log_probs(scores)` is plain traceable tensor code in float64. Scores are (B, C, *spatial) of the kind it was
fitted on, unless `kind` says otherwise. A region head's decision at 0.5 is kept unless `keep_decision` is False; a
softmax head's label is kept where the map guarantees it. An empty batch gives an empty result.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from segcal.data import scores as scores_
from segcal.data.case import SCORED, Provenance
from segcal.data.head import Head
from segcal.data.pooling import Pool
from segcal.data.ranking import winner
from segcal.data.rows import Block, Record, Rows
from segcal.data.scores import FULL, Kind, Resolution
from segcal.data.surroundings import Grid, Surroundings
from segcal.errors import ShapeError, UsageError
from segcal.methods.guarantees import Guarantees, weakest
from segcal.methods.local.map import LocalMap, TemperatureField, temperatures_of
from segcal.methods.maps import PartMap

if TYPE_CHECKING:
    import os


@dataclass(frozen=True)
class Solution:
    """How a fit ended.

    `objective`: penalised mean NLL reached; `nll`: the NLL part, mean over fitted voxels. `status`: 'optimal',
    'trained' (its own rule ended it, no optimum is claimed), 'degenerate' (finite and usable, but the data do not
    determine it) or 'stopped'; `message` says it in words. `passes`: complete readings of the rows. `certificate`:
    bound on objective minus optimum (`gap`; None where the problem is not convex), its `proof`, the largest `gradient`
    entry. `settings`: penalty strengths and the like, as used. `selection`: the cross-validated path, if there was one.
    `parts`: per region.
    """

    objective: float
    nll: float
    status: str
    message: str
    passes: int
    certificate: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    selection: Sequence[Mapping[str, Any]] = ()
    parts: Mapping[str, Solution] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A plain description."""
        return {**asdict(replace(self, parts={})), "parts": {k: v.to_json() for k, v in self.parts.items()}}

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> Solution:
        """The solution that `to_json` described."""
        return cls(**{**described, "parts": {k: cls.from_json(v) for k, v in described["parts"].items()}})


@dataclass(frozen=True)
class FitData:
    """What a calibrator was fitted on: enough to recognise the cases and to notice a mismatch, nothing of the
    images. `notes`: what must be known of how their scores are stored.

    `grouping`: the word by which the cases were grouped, '' where none was said.
    """

    name: str
    pool: Pool
    provenance: Provenance
    records: tuple[Record, ...]
    voxels: int
    notes: tuple[str, ...] = ()
    grouping: str = ""

    def to_json(self) -> dict[str, Any]:
        """A plain description."""
        return asdict(self)

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> FitData:
        """The fit data that `to_json` described."""
        records = tuple(Record(**{**r, "roles": tuple(r["roles"])}) for r in described["records"])
        return cls(
            described["name"],
            described["pool"],
            Provenance.from_json(described["provenance"]),
            records,
            described["voxels"],
            tuple(described.get("notes", ())),
            described.get("grouping", ""),
        )


def check_keeps(head: Head, keep_decision: bool | None) -> None:
    """Raise UsageError where a kept decision is asked of a softmax head."""
    if keep_decision and not head.can_keep_decision:
        raise UsageError(
            "keep_decision",
            found="True for a softmax head",
            expected="True for region heads only",
            do=(
                "A map that moves the winner cannot keep it and sum to one; choose a method that preserves the label,"
                " such as ts or ets."
            ),
        )


class Calibrator(nn.Module):
    """Maps of log-probabilities for every part of `head`, fitted by `method` on scores of `kind`, stored at
    `resolution`: what a probability that is stored as 0 counts as, here too. `unit`: logits are divided by it first.

    Raises ShapeError where scores do not have the head's channels, ScoreError where they cannot be of their kind
    (`check=False` skips that look).
    """

    def __init__(
        self,
        head: Head,
        kind: Kind,
        maps: Sequence[PartMap],
        method: str,
        *,
        solution: Solution | None = None,
        data: FitData | None = None,
        keep_decision: bool | None = None,
        crossfit: Mapping[str, Any] | None = None,
        resolution: Resolution = FULL,
        unit: float = 1.0,
    ) -> None:
        super().__init__()
        if len(maps) != len(head.parts):
            raise UsageError(
                "maps",
                found=f"{len(maps)} map(s)",
                expected=f"{len(head.parts)}, one a part of the head",
                do="Give one map a region, or one for a softmax head.",
            )
        for part, m in enumerate(maps):
            if m.classes not in (None, len(head.part_classes(part))):
                raise ShapeError(
                    "maps",
                    found=f"a map for {m.classes} classes",
                    expected=f"{len(head.part_classes(part))} for {head.parts[part]!r}",
                    do="Fit on scores of this head.",
                )
        check_keeps(head, keep_decision)
        self.head = head
        self.kind = scores_.check_kind(kind)
        self.maps = nn.ModuleList(maps)
        self.method = method
        self.solution = solution
        self.data = data
        self.crossfit = crossfit
        self.resolution = resolution
        self.unit = unit
        self.keep_decision = head.can_keep_decision if keep_decision is None else keep_decision

    @property
    def needs_logits(self) -> bool:
        """Whether raw logits are needed."""
        return any(m.needs_logits for m in self._maps())

    @property
    def keeps_label(self) -> bool:
        """Whether the delivered label is the one of the scores, at every voxel."""
        return self.keep_decision or all(m.guarantees().preserves_argmax == "proven" for m in self._maps())

    def guarantees(self) -> Guarantees:
        """What the parameters promise, the weakest over parts; a kept region decision counts as preserved label."""
        found = weakest([m.guarantees() for m in self._maps()])
        if self.keep_decision and found.preserves_argmax != "proven":
            reason = "probabilities are kept on their side of 0.5"
            found = replace(found, preserves_argmax="proven", reasons={**found.reasons, "preserves_argmax": reason})
        return found

    def at_least(self, resolution: Resolution) -> Calibrator:
        """The same maps for scores that are stored at `resolution`, or at the calibrator's own, if that is coarser."""
        other = copy.copy(self)
        other.resolution = self.resolution.coarser(resolution)
        return other

    @property
    def looks_around(self) -> bool:
        """Whether some map looks at a voxel's neighbours: then scores need two or three spatial axes."""
        return any(isinstance(m, LocalMap) for m in self.maps)

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields of a case that are needed beside its scores, such as its image."""
        return tuple(sorted({name for m in self.maps if isinstance(m, LocalMap) for name in m.fields}))

    def forward(
        self,
        scores: Tensor,
        *,
        kind: Kind | None = None,
        check: bool = True,
        counted: Tensor | None = None,
        **fields: Tensor,
    ) -> Tensor:
        """Calibrated probabilities, float32, with the shape of `scores` (B, channels, *spatial).

        `counted`, `fields`: as `log_probs`.
        """
        flat, kind = self._flat(scores, kind, check)
        p = self.deliver(flat, kind, self._around(scores, flat, kind, fields, counted))
        return p.reshape(p.shape[0], scores.shape[0], *scores.shape[2:]).movedim(0, 1).contiguous()

    def log_probs(
        self,
        scores: Tensor,
        *,
        kind: Kind | None = None,
        check: bool = True,
        counted: Tensor | None = None,
        **fields: Tensor,
    ) -> Tensor:
        """Calibrated log-probabilities, float64: of the classes, or of each region's inside; shape of `scores`.

        `fields`: what the calibrator needs beside scores (`self.fields`), such as image (B, *spatial) or (B, channels,
        *spatial); UsageError for one it has no use for or one missing. `counted` (B, *spatial), bool: the voxels the
        network looked at, over which a temperature of a whole case is averaged; None: all of them.
        """
        flat, kind = self._flat(scores, kind, check)
        around = self._around(scores, flat, kind, fields, counted)
        rows = self.head.channel_rows(self._mapped(flat, kind, around))
        return rows.reshape(rows.shape[0], scores.shape[0], *scores.shape[2:]).movedim(0, 1)

    def _mapped(self, flat: Tensor, kind: Kind, temperatures: Sequence[Tensor | None] | None) -> Tensor:
        """All parts' maps on flattened scores."""
        rows, energy = self.head.canonical(flat, kind, self.resolution), self._energy(flat, kind)
        return self.map_rows(rows, energy, self.head.ranking(flat, kind), temperatures)

    def map_rows(
        self,
        log_rows: Tensor,
        free_energy: Tensor | None,
        given: Tensor | None = None,
        temperatures: Sequence[Tensor | None] | None = None,
    ) -> Tensor:
        """All parts' maps on canonical rows (head.rows, n).

        `given`, as for a map, has as many rows; `temperatures` (n,) of the parts that look at neighbours, None for the
        others.
        """
        found = [None] * len(self.maps) if temperatures is None else temperatures
        parts = [self.head.slice(r) for r in range(len(self.maps))]
        mapped = [
            self.map_part(r, log_rows[at], free_energy, None if given is None else given[at], found[r])
            for r, at in enumerate(parts)
        ]
        return mapped[0] if len(mapped) == 1 else torch.cat(mapped)

    def map_part(
        self,
        part: int,
        log_probs: Tensor,
        free_energy: Tensor | None,
        given: Tensor | None = None,
        temperature: Tensor | None = None,
    ) -> Tensor:
        """One part's map on its rows (C, n)."""
        if self.unit != 1:
            log_probs = log_probs / self.unit
            offset = torch.logsumexp(log_probs, 0)
            log_probs = (log_probs - offset).clamp_min(scores_.LOWEST)
            free_energy = None if free_energy is None else free_energy / self.unit + offset
        if not isinstance(self.maps[part], LocalMap):
            out: Tensor = self.maps[part](log_probs, free_energy, given)
            return out
        if temperature is None:
            raise UsageError(
                "rows",
                found="voxels without their neighbours",
                expected="the temperature of each",
                do="Apply this calibrator to images, volumes or a cohort, not to loose rows.",
            )
        return torch.log_softmax(log_probs / temperature.to(log_probs.dtype), 0)

    def deliver(self, flat: Tensor, kind: Kind, temperatures: Sequence[Tensor | None] | None = None) -> Tensor:
        """Probabilities (channels, n), float32, of flattened scores (channels, n), with every promised label kept.

        `temperatures`: as `map_rows`.
        """
        rows = self._mapped(flat, kind, temperatures)
        return self.head.deliver(rows, self.head.decide(flat, kind) if self.keeps_label else None)

    def temperatures(self, surroundings: Surroundings) -> list[TemperatureField | None]:
        """The temperatures of an open case, a part; None where its map acts on each voxel alone."""
        if self.unit != 1:
            reader = surroundings.reader
            surroundings = Surroundings(replace(reader, cohort=reader.cohort.scaled(self.unit)))
        return [
            TemperatureField(m, self.head.slice(r), surroundings) if isinstance(m, LocalMap) else None
            for r, m in enumerate(self.maps)
        ]

    def through(self, part: int) -> ThroughPart | ThroughLocalPart:
        """This calibrator as a map of the rows of one part, for metrics."""
        return ThroughLocalPart(self, part) if isinstance(self.maps[part], LocalMap) else ThroughPart(self, part)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file with JSON metadata; complete or absent."""
        from segcal.methods.files import save

        save(self, path)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"method={self.method}, classes={list(self.head.classes)}, kind={self.kind}"

    def _maps(self) -> list[PartMap]:
        return [m for m in self.maps if isinstance(m, PartMap)]

    def _around(
        self, scores: Tensor, flat: Tensor, kind: Kind, fields: Mapping[str, Tensor], counted: Tensor | None
    ) -> list[Tensor | None] | None:
        """The temperatures of a batch held in memory, (n,) a part whose map looks at neighbours; None where no map
        does.
        """
        if set(fields) != set(self.fields):
            wrong = sorted(set(fields) ^ set(self.fields))[0]
            found, expected = ("a value", "nothing") if wrong in fields else ("nothing", f"the {wrong} of each case")
            raise UsageError(
                wrong,
                found=found,
                expected=expected,
                do=f"This calibrator needs, beside scores: {', '.join(self.fields) or 'nothing'}.",
            )
        if not self.looks_around:
            return None
        if not flat.numel():
            return [flat.new_ones(flat.shape[1])] * len(self.maps)
        flat, batch = flat if self.unit == 1 else flat / self.unit, len(scores)
        resolution = replace(self.resolution, unit=self.resolution.unit / self.unit)
        rows, energy = self.head.canonical(flat, kind, resolution), self._energy(flat, kind)
        out: list[Tensor | None] = []
        for r, m in enumerate(self.maps):
            if not isinstance(m, LocalMap):
                out.append(None)
                continue
            grid = Grid.of(tuple(scores.shape[2:]), m.slice_axis, "scores")
            image = _batched(fields["image"], scores).to(rows).reshape(-1, batch, *grid.shape) if m.fields else None
            near = rows[self.head.slice(r)].reshape(-1, batch, *grid.shape)
            energies = None if energy is None else energy.reshape(batch, *grid.shape)
            out.append(
                temperatures_of(
                    m, grid, near, energies, image, None if counted is None else counted.reshape(batch, -1)
                ).flatten()
            )
        return out

    def _energy(self, flat: Tensor, kind: Kind) -> Tensor | None:
        if not self.needs_logits:
            return None
        energy = self.head.free_energy(flat, kind)
        if energy is None:
            raise UsageError(
                "kind",
                found=kind,
                expected="logits",
                do=(
                    "This calibrator was fitted on raw logits and depends on their offset; give it the network's"
                    " logits."
                ),
            )
        return energy

    def _flat(self, scores: Tensor, kind: Kind | None, check: bool) -> tuple[Tensor, Kind]:
        if scores.dim() < 2 or scores.shape[1] != self.head.channels:
            raise ShapeError(
                "scores",
                found=f"shape {tuple(scores.shape)}",
                expected=f"(B, {self.head.channels}, *spatial) for {', '.join(self.head.classes)}",
                do="Put the classes on axis 1; add a batch axis with scores[None].",
            )
        if self.looks_around:
            Grid.of(tuple(scores.shape[2:]), 0, "scores")
        kind = self.kind if kind is None else scores_.check_kind(kind)
        flat = scores.movedim(1, 0).flatten(1)
        if check:
            self.head.check(flat, kind, "scores")
        return flat, kind


def _batched(image: Tensor, scores: Tensor) -> Tensor:
    """An image (B, *spatial) or (B, channels, *spatial) as (channels, B, *spatial)."""
    spatial = tuple(scores.shape[2:])
    whole = image[:, None] if image.dim() == scores.dim() - 1 else image
    if whole.dim() != scores.dim() or len(whole) != len(scores) or tuple(whole.shape[2:]) != spatial:
        raise ShapeError(
            "image",
            found=f"shape {tuple(image.shape)}",
            expected=f"({len(scores)}, *{spatial}) or ({len(scores)}, channels, *{spatial})",
            do="Give one image a case, on the grid of the scores.",
        )
    return whole.movedim(1, 0)


@dataclass(frozen=True)
class ThroughPart:
    """One part of a calibrator applied to rows; equal where calibrator and part are the same.

    `temperature` (n,): of each row, where the map looks at neighbours.
    """

    calibrator: Calibrator
    part: int
    temperature: Tensor | None = field(default=None, compare=False)

    def __call__(self, rows: Rows) -> Rows:
        """Rows of calibrated log-probabilities, with the decision that is delivered."""
        # the class decided comes first, whatever rounding has tied with it
        given = rows.log_probs.scatter(0, rows.decision[None], torch.inf)
        mapped = self.calibrator.map_part(self.part, rows.log_probs, rows.free_energy, given, self.temperature)
        if not self.calibrator.keeps_label:
            return replace(rows, log_probs=mapped, decision=winner(mapped))
        return replace(rows, log_probs=self.calibrator.head.held(mapped, rows.decision))


@dataclass(frozen=True)
class ThroughLocalPart:
    """One part whose map looks at neighbours: it has to be told the case, then the block, before it can map rows.

    Equal as `ThroughPart`.
    """

    calibrator: Calibrator
    part: int

    def __call__(self, rows: Rows) -> Rows:
        """Refused: rows alone have no neighbours."""
        return ThroughPart(self.calibrator, self.part)(rows)

    def on(self, surroundings: Surroundings) -> Callable[[Block], ThroughPart]:
        """For an open case: from a block to the map of its scored rows."""
        found = self.calibrator.temperatures(surroundings)[self.part]
        assert found is not None

        def at(block: Block) -> ThroughPart:
            return ThroughPart(
                self.calibrator, self.part, found.read(block.start, block.start + block.voxels)[block.role == SCORED]
            )

        return at
