"""The same numbers straight from arrays: probabilities (B, C, *spatial) and labels (B, *spatial), without sources or
files.

Promises: what `evaluate` reports for the same voxels; images are cut into blocks of `segcal.data.case.block_length`, so
memory beyond the arrays is a block, and up to 20 bytes a voxel of one image while its distances to label boundaries are
found. Voxels outside `mask` or carrying `ignore_index` are not scored. An image without any scored voxel: LabelError.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcal.data.case import block_length
from segcal.data.files.journal import Scratch
from segcal.data.head import Softmax, check_labels
from segcal.data.places.label_map import LabelMap
from segcal.data.places.place import Place, Places
from segcal.data.rows import Rows
from segcal.engine.accumulate import Accumulator, State, fold, merge, needs, zero
from segcal.errors import LabelError, ShapeError, UsageError
from segcal.metrics.summary import suite, summarise

IN_MEMORY = 2**62
"""Scratch limit for images that are in memory already: nothing goes to a file."""


def evaluate_arrays(
    probs: Any,
    labels: Any,
    *,
    mask: Any | None = None,
    ignore_index: int | None = None,
    background: int | None = None,
    reference: Any | None = None,
) -> dict[str, Any]:
    """The block of numbers of `segcal.metrics.summary` for a batch of images; `cases` are its images.

    probs: (B, C, *spatial) array or tensor, summing to one over C. labels: (B, *spatial) integers. mask: same shape,
    non-zero where voxels count. reference: (B, *spatial), the labels before any calibrator, for flips; without it,
    flips are zero. background: the class left out of Dice and IoU. Images without spatial axes have no boundaries: what
    depends on them is None. Free energy is not known from probabilities: its spread is None. Errors: UsageError,
    ShapeError, LabelError, ScoreError.
    """
    scores = _tensor(probs)
    if scores.ndim < 2 or scores.shape[0] == 0:
        raise ShapeError(
            "probs",
            found=f"shape {tuple(scores.shape)}",
            expected="(B, C, *spatial) with at least one image",
            do="Put images on the first axis and classes on the second.",
        )
    head = Softmax(tuple(str(k) for k in range(scores.shape[1])), background, ignore_index)
    images, spatial = scores.shape[0], tuple(scores.shape[2:])
    shape = (images, *spatial)
    scores = scores.reshape(images, head.channels, -1)
    fields = {
        name: _field(name, value, shape)
        for name, value in (("labels", labels), ("mask", mask), ("reference", reference))
        if value is not None
    }
    if "labels" not in fields:
        raise UsageError(
            "labels", found="None", expected=f"integers of shape {shape}", do="Metrics need the true labels."
        )
    metrics = suite(head.channels, background)
    states = {
        str(i): _image(metrics, _Image(head, i, scores[i], {name: field[i] for name, field in fields.items()}, spatial))
        for i in range(images)
    }
    block: dict[str, Any] = summarise(metrics, states).block
    return block


@dataclass(frozen=True, eq=False)
class _Image:
    """One image: `scores` (C, n), and `fields` (n,)."""

    head: Softmax
    index: int
    scores: Tensor
    fields: Mapping[str, Tensor]
    spatial: tuple[int, ...]

    def labels(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Labels and whether they count, of voxels start..stop, checked."""
        labels = self.fields["labels"][start:stop].long()
        keep = (
            self.fields["mask"][start:stop] != 0 if "mask" in self.fields else torch.ones_like(labels, dtype=torch.bool)
        )
        if self.head.ignore is not None:
            keep = keep & (labels != self.head.ignore)
        check_labels(self.head, labels[keep], f"labels of image {self.index}")
        return labels, keep

    @property
    def label_map(self) -> LabelMap:
        """Its labels as a whole."""

        def read(start: int, stop: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
            labels, keep = self.labels(start, stop)
            return labels.numpy(), keep.numpy()

        return LabelMap(f"labels of image {self.index}", self.spatial, self.head, read, table=not self.spatial)

    def rows(self, start: int, stop: int, places: Places) -> Rows:
        """The voxels that count."""
        labels, keep = self.labels(start, stop)
        p, labels = self.scores[:, start:stop][:, keep], labels[keep]
        self.head.check(p, "probs", f"probs of image {self.index}")
        decision = self.head.decide(p, "probs")[0]
        reference = self.fields["reference"][start:stop][keep].long() if "reference" in self.fields else decision
        lie: dict[Place, Tensor] = {place: value[keep] for place, value in places.of(start, stop).items()}
        return Rows(self.index, start, self.head.canonical(p, "probs"), labels, decision, reference, places=lie)


def _image(metrics: dict[str, Accumulator], image: _Image) -> dict[str, State]:
    states, step, scored, voxels = (
        {name: zero(m) for name, m in metrics.items()},
        block_length(image.head.rows),
        0,
        image.scores.shape[1],
    )
    with Scratch(IN_MEMORY) as scratch:
        places = Places(image.label_map, scratch, (place for m in metrics.values() for place in needs(m)))
        for start in range(0, voxels, step):
            rows = image.rows(start, min(start + step, voxels), places)
            states = {name: merge(m, states[name], fold(m, rows)) for name, m in metrics.items()}
            scored += rows.voxels
    if scored == 0:
        raise LabelError(
            f"labels of image {image.index}",
            found="no voxel to score",
            expected="at least one labelled voxel inside the mask",
            do="Leave this image out, or check ignore_index and mask.",
        )
    return states


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    array = np.asarray(value)
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    return torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False)))


def _field(name: str, value: Any, shape: tuple[int, ...]) -> Tensor:
    field = _tensor(value)
    if tuple(field.shape) != shape:
        raise ShapeError(
            name,
            found=f"shape {tuple(field.shape)}",
            expected=f"{shape}, as the probabilities without their class axis",
            do="Bring both on the same grid.",
        )
    if name != "mask" and field.is_floating_point():
        raise LabelError(
            name,
            found=f"type {field.dtype}",
            expected="integers",
            do="Convert labels to integers; they must not be interpolated.",
        )
    return field.reshape(shape[0], -1)
