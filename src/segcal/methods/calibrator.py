"""A fitted calibrator: one map for each part of a head, what it promises, and what it remembers of its fit.

What a map needs of a case beside the rows of its own voxels is drawn from it first: of an open case by
`Contexts(reader, scratch, calibrator.contexts)`, of arrays by the calibrator itself; then every map is one of rows.

`calibrator(scores)` returns float32 probabilities in which a promised label is kept at every voxel;
`calibrator.log_probs(scores)` is plain traceable tensor code in float64. Scores are (B, C, *spatial) of the kind it was
fitted on, unless `kind` says otherwise. A region head's decision at 0.5 is kept unless `keep_decision` is False; a
softmax head's label is kept where the map guarantees it. An empty batch gives an empty result.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from segcal.data import scores as scores_
from segcal.data.case import Provenance, block_length
from segcal.data.formats.arrays import tensor_of
from segcal.data.head import Head
from segcal.data.pooling import Pool
from segcal.data.ranking import winner
from segcal.data.rows import Record, Rows
from segcal.data.scores import FULL, Kind, Resolution
from segcal.data.surroundings import Grid, Surroundings
from segcal.data.tracing import traced
from segcal.engine.threads import Threads
from segcal.errors import ShapeError, UsageError
from segcal.methods.context import Batch, Network, OfCase, Segmenter
from segcal.methods.guarantees import Guarantees, weakest
from segcal.methods.maps import Needs, PartMap

if TYPE_CHECKING:
    import os

NOTHING: Mapping[Hashable, Tensor] = {}


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

    `crossfit`: numbers of cases that each fit did not see; `reference`: what `segcal.outcomes.reference` keeps of such
    cases. Where other parameters are loaded into it (`load_state_dict`), `solution`, `data`, `crossfit` and `reference`
    become None: they speak of the fit.

    Raises ShapeError where scores do not have the head's channels, ScoreError where they cannot be of their kind
    (`check=False` skips that look).
    """

    maps: Sequence[PartMap]
    segmenter: Segmenter | None = None

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
        reference: Mapping[str, Any] | None = None,
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
        self.maps = nn.ModuleList(maps)  # type: ignore[assignment]  # a sequence of maps, which torch does not say
        self.method = method
        self.solution = solution
        self.data = data
        self.crossfit = crossfit
        self.reference = reference
        self.resolution = resolution
        self.unit = unit
        self.register_load_state_dict_post_hook(_forget_another_fit)  # type: ignore[no-untyped-call]
        self.keep_decision = head.can_keep_decision if keep_decision is None else keep_decision
        self._derive()

    def _derive(self) -> None:
        """Read off the parameters, as a plain value, what would end a trace if `forward` did; when it is made and
        whenever other parameters are loaded.
        """
        known = not any(value.is_meta for value in self.state_dict().values())
        self._maps_keep = known and all(m.guarantees().preserves_argmax == "proven" for m in self.maps)

    @property
    def needs(self) -> Needs:
        """What its maps need together beside log-probabilities."""
        return reduce(or_, (m.needs for m in self.maps))

    @property
    def keeps_label(self) -> bool:
        """Whether the delivered label is the one of the scores, at every voxel."""
        return self.keep_decision or self._maps_keep

    def guarantees(self) -> Guarantees:
        """What the parameters promise, the weakest over parts; a kept region decision counts as preserved label."""
        found = weakest([m.guarantees() for m in self.maps])
        if self.keep_decision and found.preserves_argmax != "proven":
            reason = "probabilities are kept on their side of 0.5"
            found = replace(found, preserves_argmax="proven", reasons={**found.reasons, "preserves_argmax": reason})
        return found

    def at_least(self, resolution: Resolution) -> Calibrator:
        """The same maps for scores that are stored at `resolution`, or at the calibrator's own, if that is coarser."""
        other = copy.copy(self)
        other.resolution = self.resolution.coarser(resolution)
        return other

    def with_segmenter(self, segmenter: Segmenter) -> Calibrator:
        """The same calibrator with the network whose scores it calibrates, for maps that need it: from images (B,
        channels, *spatial) to scores (B, channels of the head, *spatial). It is not saved. Engines call it from several
        threads at once, for one case each.
        """
        other = copy.copy(self)
        # a network would be taken for a part of the module, and saved with it
        other.__dict__["segmenter"] = segmenter
        return other

    def check_segmenter(self) -> None:
        """Raise UsageError where a map needs the network and nobody gave it."""
        if self.needs.segmenter:
            self.network().given()

    @property
    def contexts(self) -> frozenset[ThroughPart]:
        """What has to be drawn from a case before scores of it can be mapped; nothing, where rows alone will do."""
        return frozenset().union(*(self.through(part).contexts for part in range(len(self.maps))))

    def forward(
        self,
        scores: Tensor | ArrayLike,
        *,
        kind: Kind | None = None,
        check: bool = True,
        counted: Tensor | ArrayLike | None = None,
        spacing: Sequence[float] | None = None,
        **fields: Any,
    ) -> Tensor:
        """Calibrated probabilities, a float32 tensor with the shape of `scores` (B, channels, *spatial), a tensor or an
        array.

        `counted`, `spacing`, `fields`: as `log_probs`.
        """
        scores, counted, fields = _tensors(scores, counted, fields)
        flat, kind = self._flat(scores, kind, check)
        drawn = self._drawn(scores, flat, kind, fields, counted, spacing)
        p = self.deliver(flat, kind, drawn) if _at_once(flat) else self._by_blocks(flat, kind, drawn)
        return p.reshape(p.shape[0], scores.shape[0], *scores.shape[2:]).movedim(0, 1).contiguous()

    def _by_blocks(self, flat: Tensor, kind: Kind, contexts: Mapping[Hashable, Tensor]) -> Tensor:
        """`deliver`, a piece at a time, so that what is made on the way stays in the processor's cache, and each piece
        on one of as many threads as torch would use.
        """
        out, step, inference = (
            torch.empty(flat.shape, dtype=torch.float32),
            _piece(flat),
            torch.is_inference_mode_enabled(),
        )

        def piece(low: int) -> None:
            at = slice(low, low + step)
            with torch.inference_mode(inference):  # a thread does not inherit it
                out[:, at] = self.deliver(flat[:, at], kind, {c: values[..., at] for c, values in contexts.items()})

        Threads(torch.get_num_threads()).gather(piece, range(0, flat.shape[1], step))
        return out

    def log_probs(
        self,
        scores: Tensor | ArrayLike,
        *,
        kind: Kind | None = None,
        check: bool = True,
        counted: Tensor | ArrayLike | None = None,
        spacing: Sequence[float] | None = None,
        **fields: Any,
    ) -> Tensor:
        """Calibrated log-probabilities, float64: of the classes, or of each region's inside; shape of `scores`.

        `fields`: what the calibrator needs beside scores (`needs.fields`), such as image (B, *spatial) or (B, channels,
        *spatial); UsageError for one it has no use for or one missing. `counted` (B, *spatial), bool: the voxels the
        network looked at, over which what is one number a case is averaged and beside which there is no boundary;
        None: all of them. `spacing`: of each spatial axis, in mm, for a calibrator that measures distances so.
        """
        scores, counted, fields = _tensors(scores, counted, fields)
        flat, kind = self._flat(scores, kind, check)
        drawn = self._drawn(scores, flat, kind, fields, counted, spacing)
        rows = self.head.channel_rows(self._mapped(flat, kind, drawn))
        return rows.reshape(rows.shape[0], scores.shape[0], *scores.shape[2:]).movedim(0, 1)

    def _mapped(self, flat: Tensor, kind: Kind, contexts: Mapping[Hashable, Tensor]) -> Tensor:
        """All parts' maps on flattened scores."""
        rows, energy = self.head.canonical(flat, kind, self.resolution), self._energy(flat, kind)
        if self.needs.case and not flat.numel():
            return rows
        return self.map_rows(rows, energy, self.head.ranking(flat, kind), contexts)

    def map_rows(
        self,
        log_rows: Tensor,
        free_energy: Tensor | None,
        given: Tensor | None = None,
        contexts: Mapping[Hashable, Tensor] = NOTHING,
    ) -> Tensor:
        """All parts' maps on canonical rows (head.rows, n).

        `given`, as for a map, has as many rows; `contexts` (..., n), of these voxels, are what `self.contexts` names.
        """
        parts = [self.head.slice(part) for part in range(len(self.maps))]
        mapped = [
            self.map_part(part, log_rows[at], free_energy, None if given is None else given[at], contexts)
            for part, at in enumerate(parts)
        ]
        return mapped[0] if len(mapped) == 1 else torch.cat(mapped)

    def map_part(
        self,
        part: int,
        log_probs: Tensor,
        free_energy: Tensor | None,
        given: Tensor | None = None,
        contexts: Mapping[Hashable, Tensor] = NOTHING,
    ) -> Tensor:
        """One part's map on its rows (C, n). UsageError where it needs a context that is not there."""
        m = self.maps[part]
        if self.unit != 1:
            log_probs = log_probs / self.unit
            offset = torch.logsumexp(log_probs, 0)
            log_probs = (log_probs - offset).clamp_min(scores_.LOWEST)
            free_energy = None if free_energy is None else free_energy / self.unit + offset
        wanted = self.through(part).contexts
        if not wanted <= contexts.keys():
            raise UsageError(
                "rows",
                found="voxels without their neighbours",
                expected="what this calibrator draws from the case around them",
                do="Apply this calibrator to images, volumes or a cohort, not to loose rows.",
            )
        mapped: Tensor = m(log_probs, free_energy, given, *(contexts[context] for context in wanted))
        return mapped

    def deliver(self, flat: Tensor, kind: Kind, contexts: Mapping[Hashable, Tensor] = NOTHING) -> Tensor:
        """Probabilities (channels, n), float32, of flattened scores (channels, n), with every promised label kept.

        `contexts`: as `map_rows`.
        """
        rows = self._mapped(flat, kind, contexts)
        return self.head.keeping(rows, flat, kind) if self.keeps_label else self.head.deliver(rows, None)

    def through(self, part: int) -> ThroughPart:
        """One part of this calibrator, as metrics see it."""
        return ThroughPart(self, part)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file with JSON metadata; complete or absent."""
        from segcal.methods.files import save

        save(self, path)

    def extra_repr(self) -> str:
        """What `print` shows, beside the maps."""
        divided = "" if self.unit == 1 else f", logits divided by {self.unit:g} first"
        return f"method={self.method}, classes={list(self.head.classes)}, kind={self.kind}{divided}"

    def _load_from_state_dict(self, *args: Any) -> None:
        # called before the maps are loaded, also where the calibrator is a part of a larger module
        self.__dict__["_before"] = {name: value.clone() for name, value in self.state_dict().items()}
        super()._load_from_state_dict(*args)

    def network(self) -> Network:
        """Its network, if it has one, and how the scores of that are read."""
        resolution = replace(self.resolution, unit=self.resolution.unit / self.unit)
        return Network(self.segmenter, self.head, self.kind, resolution, self.unit)

    def _drawn(
        self,
        scores: Tensor,
        flat: Tensor,
        kind: Kind,
        fields: Mapping[str, Tensor],
        counted: Tensor | None,
        spacing: Sequence[float] | None,
    ) -> dict[Hashable, Tensor]:
        """What its maps draw from a batch held in memory."""
        needs = self.needs
        if set(fields) != set(needs.fields):
            wrong = sorted(set(fields) ^ set(needs.fields))[0]
            found, expected = ("a value", "nothing") if wrong in fields else ("nothing", f"the {wrong} of each case")
            raise UsageError(
                wrong,
                found=found,
                expected=expected,
                do=f"This calibrator needs, beside scores: {', '.join(needs.fields) or 'nothing'}.",
            )
        if not needs.case or not flat.numel():
            return {}
        network = self.network()
        scaled = flat if self.unit == 1 else flat / self.unit
        batch = Batch(
            self.head.canonical(scaled, kind, network.resolution),
            self._energy(scaled, kind),
            len(scores),
            tuple(scores.shape[2:]),
            network,
            lambda part: self.head.predicted(flat, kind) if part is None else self.head.decide(flat, kind)[part],
            {name: _flat_field(name, value, scores) for name, value in fields.items()},
            None if counted is None else counted.reshape(len(scores), -1).bool(),
            _steps(spacing, scores.dim() - 2),
        )
        return {c: batch.drawn(self.maps[c.part], c.part) for c in self.contexts}

    def _energy(self, flat: Tensor, kind: Kind) -> Tensor | None:
        if not self.needs.logits:
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
        if self.needs.places and traced() and not torch.compiler.is_dynamo_compiling():
            raise UsageError(
                "calibrator",
                found=f"{self.method}, which looks for places in whole label maps",
                expected="a calibrator of tensor operations alone, to be traced or exported",
                do="Apply it as it is, or fit one that needs nothing but a voxel's own scores (ts, dc, cms-op, ...).",
            )
        if scores.dim() < 2 or scores.shape[1] != self.head.channels:
            raise ShapeError(
                "scores",
                found=f"shape {tuple(scores.shape)}",
                expected=f"(B, {self.head.channels}, *spatial) for {', '.join(self.head.classes)}",
                do="Put the classes on axis 1; add a batch axis with scores[None].",
            )
        Grid.of(tuple(scores.shape[2:]), 0, "scores", self.needs.reach, lie=bool(self.needs.places))
        kind = self.kind if kind is None else scores_.check_kind(kind)
        flat = scores.movedim(1, 0).flatten(1)
        if check and not traced():
            self.head.check(flat, kind, "scores")
        return flat, kind


def _at_once(flat: Tensor) -> bool:
    """Whether scores are mapped in one go: where operations are recorded, for a gradient too, on another device, and
    where there are few.
    """
    return traced() or flat.requires_grad or flat.device.type != "cpu" or flat.shape[1] <= _piece(flat)


def _piece(flat: Tensor) -> int:
    """Voxels that are mapped at once: half a block, which is where time a voxel was least."""
    return block_length(2 * len(flat))


def _forget_another_fit(calibrator: Calibrator, keys: object) -> None:
    """What was said of the fit is not true of other parameters: where some were loaded, nothing is said any more."""
    before = calibrator.__dict__.pop("_before")
    calibrator._derive()
    if all(torch.equal(before[name], value) for name, value in calibrator.state_dict().items()):
        return
    calibrator.solution = calibrator.data = calibrator.crossfit = calibrator.reference = None


def _tensors(
    scores: Tensor | ArrayLike, counted: Tensor | ArrayLike | None, fields: Mapping[str, Any]
) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
    """What a caller gives, arrays as tensors."""
    count = None if counted is None else tensor_of(counted, "counted")
    return tensor_of(scores, "scores"), count, {name: tensor_of(value, name) for name, value in fields.items()}


def _steps(spacing: Sequence[float] | None, axes: int) -> tuple[float, ...] | None:
    """The spacing as given. UsageError where it is not one length above 0 an axis."""
    if spacing is None:
        return None
    steps = tuple(float(step) for step in spacing)
    if len(steps) != axes or not all(0 < step < math.inf for step in steps):
        raise UsageError(
            "spacing",
            found=str(steps),
            expected=f"{axes} lengths above 0, in mm",
            do="Give the size of a voxel along each spatial axis of the scores.",
        )
    return steps


def _flat_field(name: str, value: Tensor, scores: Tensor) -> Tensor:
    """A field (B, *spatial) or (B, channels, *spatial) as (channels, n)."""
    spatial = tuple(scores.shape[2:])
    whole = value[:, None] if value.dim() == scores.dim() - 1 else value
    if whole.dim() != scores.dim() or len(whole) != len(scores) or tuple(whole.shape[2:]) != spatial:
        raise ShapeError(
            name,
            found=f"shape {tuple(value.shape)}",
            expected=f"({len(scores)}, *{spatial}) or ({len(scores)}, channels, *{spatial})",
            do=f"Give one {name} a case, on the grid of the scores.",
        )
    return whole.movedim(1, 0).flatten(1)


@dataclass(frozen=True)
class ThroughPart:
    """One part of a calibrator: what it draws from a case, and its map applied to rows that bring this. Equal where
    calibrator and part are the same.
    """

    calibrator: Calibrator
    part: int

    @property
    def contexts(self) -> frozenset[ThroughPart]:
        """Itself, where its map needs more of a case than rows."""
        return frozenset({self} if self.calibrator.maps[self.part].needs.case else ())

    def on(self, around: Surroundings) -> OfCase:
        """What it draws from an open case, whose logits are read in the units of the fit."""
        c = self.calibrator
        if c.unit != 1:
            reader = around.reader
            around = Surroundings(replace(reader, cohort=reader.cohort.scaled(c.unit)), around.scratch)
        return OfCase(c.maps[self.part], self.part, around, c.network())

    def __call__(self, rows: Rows) -> Rows:
        """Rows of calibrated log-probabilities, with the decision that is delivered."""
        # the class decided comes first, whatever rounding has tied with it
        given = rows.log_probs.scatter(0, rows.decision[None], torch.inf)
        mapped = self.calibrator.map_part(self.part, rows.log_probs, rows.free_energy, given, rows.contexts)
        if not self.calibrator.keeps_label:
            return replace(rows, log_probs=mapped, decision=winner(mapped))
        return replace(rows, log_probs=self.calibrator.head.held(mapped, rows.decision))
