"""The same numbers straight from arrays: scores (B, C, *spatial) and labels (B, *spatial), without sources or files.

Promises: what `evaluate` reports for the same voxels; images are cut into blocks of `segcal.data.case.block_length`, so
memory beyond the arrays is a block, and up to 20 bytes a voxel of one image while its distances to label boundaries are
found. Voxels outside `mask` or carrying `ignore_index` are not scored, and need neither a valid score nor, outside the
mask, a valid label. An image without any scored voxel is left out; LabelError where no other is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import EllipsisType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcal.data.axes import likely
from segcal.data.case import block_length
from segcal.data.files.journal import Scratch
from segcal.data.formats.arrays import tensor_of
from segcal.data.head import Head, check_labels, undescribed
from segcal.data.numbering import Numbering, Numbers, listed
from segcal.data.places.label_map import LabelMap
from segcal.data.places.place import Place, Places
from segcal.data.rows import Prepared, selected
from segcal.data.scores import Kind, check_kind
from segcal.engine.accumulate import Accumulator, State, fold, merge, needs, zero
from segcal.errors import LabelError, ShapeError, UsageError
from segcal.metrics.summary import combine_parts, suite, summarise

IN_MEMORY = 2**62
"""Scratch limit for images that are in memory already: nothing goes to a file."""


def evaluate_arrays(
    probs: Any,
    labels: Any,
    *,
    kind: str = "probs",
    mask: Any | None = None,
    ignore_index: int | Sequence[int] | None = None,
    label_map: Numbers | None = None,
    background: int | None = None,
    head: Head | None = None,
    reference: Any | None = None,
) -> dict[str, Any]:
    """The block of numbers of `segcal.metrics.summary` for a batch of images; `cases` are its images with a voxel that
    counts.

    probs: (B, C, *spatial) array or tensor, of the `kind` that is said: probabilities that sum to one over C, unless
    it is 'logits', 'log_probs' or 'scores'; one channel is a sigmoid, whose region is label 1. labels: (B, *spatial)
    integers. mask: same shape, non-zero where voxels count. ignore_index: a label, or several, never scored. label_map:
    classes by the numbers that labels give them, as in `open_cohort`. background: the class left out of Dice and IoU.
    head: the network's head, in place of background and ignore_index; for regions. reference: (B, *spatial), the labels
    before any calibrator, for flips; without it, flips are zero. Images without spatial axes have no boundaries: what
    depends on them is None. Free energy is known from logits only: its spread is None. Errors: UsageError, ShapeError,
    LabelError, ScoreError.
    """
    scores, checked, ignored = tensor_of(probs, "probs").detach().cpu(), check_kind(kind), listed(ignore_index)
    if scores.ndim < 2 or scores.shape[0] == 0:
        raise ShapeError(
            "probs",
            found=f"shape {tuple(scores.shape)}",
            expected="(B, C, *spatial) with at least one image",
            do="Put images on the first axis and classes on the second.",
        )
    images, channels, *spatial = scores.shape
    named: int | EllipsisType = ... if background is None else background
    if head is None:
        head = undescribed(channels, None, named, ignored)
    elif background is not None or ignored:
        raise UsageError(
            "head",
            found="a head beside background or ignore_index",
            expected="one or the other",
            do="The head already says them.",
        )
    elif head.channels != channels:
        raise ShapeError(
            "probs",
            found=f"{channels} channels",
            expected=f"{head.channels} ({', '.join(head.classes)})",
            do="Give the scores that this head is of.",
        )
    numbering = Numbering.of(label_map, ignored[1:], head.labels - 1, head.ignore)
    shape = (images, *spatial)
    scores = scores.reshape(images, channels, -1)
    if labels is None:
        raise UsageError(
            "labels", found="None", expected=f"integers of shape {shape}", do="Metrics need the true labels."
        )
    fields = {
        name: _field(name, value, shape, channels)
        for name, value in (("labels", labels), ("mask", mask), ("reference", reference))
        if value is not None
    }
    parts = range(len(head.parts))
    suites = [suite(len(head.part_classes(part)), head.part_background(part)) for part in parts]
    states: list[dict[str, dict[str, State]]] = [{} for _ in parts]
    for i in range(images):
        one = {name: values[i] for name, values in fields.items()}
        found = _image(suites, _Image(head, checked, i, scores[i], one, tuple(spatial), numbering))
        for part, states_ in enumerate(found or ()):
            states[part][str(i)] = states_
    if not states[0]:
        raise LabelError(
            "labels",
            found="no voxel to score",
            expected="at least one labelled voxel inside the mask",
            do="Check ignore_index, label_map and mask.",
        )
    summaries = [summarise(suites[part], states[part], head.part_classes(part)) for part in parts]
    whole = summaries[0] if head.sums_to_one else combine_parts(summaries, head.parts)
    block: dict[str, Any] = whole.block
    return block


@dataclass(frozen=True, eq=False)
class _Image:
    """One image: `scores` (C, n) of `kind`, and `fields` (n,)."""

    head: Head
    kind: Kind
    index: int
    scores: Tensor
    fields: Mapping[str, Tensor]
    spatial: tuple[int, ...]
    numbering: Numbering

    def labels(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Labels and whether they count, of voxels start..stop, checked."""
        where, labels = f"labels of image {self.index}", self.fields["labels"][start:stop].long()
        keep = (
            self.fields["mask"][start:stop] != 0 if "mask" in self.fields else torch.ones_like(labels, dtype=torch.bool)
        )
        if self.numbering.pairs:
            labels, left_out = self.numbering.read(labels, keep, where)
            keep = keep & ~left_out
        if self.head.ignore is not None:
            keep = keep & (labels != self.head.ignore)
        check_labels(self.head, selected(labels, keep), where, numbering=self.numbering)
        return labels, keep

    @property
    def label_map(self) -> LabelMap:
        """Its labels as a whole."""

        def read(start: int, stop: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
            labels, keep = self.labels(start, stop)
            return labels.numpy(), keep.numpy()

        return LabelMap(f"labels of image {self.index}", self.spatial, self.head, read, table=not self.spatial)

    def prepared(self, start: int, stop: int, places: Places) -> tuple[Prepared, Tensor]:
        """The voxels that count, and what was decided for each part before any calibrator (parts, n)."""
        labels, keep = self.labels(start, stop)
        s, labels = selected(self.scores[:, start:stop], keep), selected(labels, keep)
        self.head.check(s, self.kind, f"probs of image {self.index}")
        decision = self.head.decide(s, self.kind)
        reference = (
            self.head.targets(selected(self.fields["reference"][start:stop], keep))
            if "reference" in self.fields
            else decision
        )
        lie: dict[Place, Tensor] = {place: selected(value, keep) for place, value in places.of(start, stop).items()}
        rows, energy = self.head.canonical_and_energy(s, self.kind)
        return Prepared(self.index, start, rows, self.head.targets(labels), decision, energy, lie), reference


def _image(suites: Sequence[Mapping[str, Accumulator]], image: _Image) -> list[dict[str, State]] | None:
    """The states of each part; None where no voxel counts."""
    head, voxels, scored = image.head, image.scores.shape[1], 0
    states = [{name: zero(metric) for name, metric in metrics.items()} for metrics in suites]
    with Scratch(IN_MEMORY) as scratch:
        wanted = (place for metrics in suites for metric in metrics.values() for place in needs(metric))
        lie = Places(image.label_map, scratch, wanted)
        for start in range(0, voxels, step := block_length(head.rows)):
            found, reference = image.prepared(start, min(start + step, voxels), lie)
            for part, metrics in enumerate(suites):
                rows = replace(found.part(head, part), reference=reference[part].long())
                states[part] = {name: merge(m, states[part][name], fold(m, rows)) for name, m in metrics.items()}
            scored += found.log_probs.shape[1]
    return states if scored else None


def _field(name: str, value: Any, shape: tuple[int, ...], channels: int) -> Tensor:
    field = tensor_of(value, name).detach().cpu()
    if tuple(field.shape) != shape:
        raise ShapeError(
            name,
            found=f"shape {tuple(field.shape)}",
            expected=f"{shape}, as the probabilities without their class axis",
            do=likely(channels, shape[1:], tuple(field.shape[1:])) or "Bring both on the same grid.",
        )
    if name != "mask" and field.is_floating_point():
        raise LabelError(
            name,
            found=f"type {field.dtype}",
            expected="integers",
            do="Convert labels to integers; they must not be interpolated.",
        )
    return field.reshape(shape[0], -1)
