"""The same numbers straight from arrays: probabilities (B, C, *spatial) and labels (B, *spatial), without sources or files.

Promises: what `evaluate` reports for the same voxels; images are cut into blocks of `segcal.cases.block_length`, so memory beyond the arrays is a block.
Voxels outside `mask` or carrying `ignore_index` are not scored. An image without any scored voxel: LabelError.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from segcal.accumulate import Accumulator, State, fold, merge, zero
from segcal.cases import Rows, block_length
from segcal.errors import LabelError, ShapeError, UsageError
from segcal.head import Softmax, check_labels
from segcal.metrics.summary import suite, summarise


def evaluate_arrays(
    probs: Any, labels: Any, *, mask: Any | None = None, ignore_index: int | None = None, background: int | None = None, reference: Any | None = None
) -> dict[str, Any]:
    """The block of numbers of `segcal.metrics.summary` for a batch of images; `cases` are its images.

    probs: (B, C, *spatial) array or tensor, summing to one over C. labels: (B, *spatial) integers. mask: same shape, non-zero where voxels count.
    reference: (B, *spatial), the labels before any calibrator, for flips; without it, flips are zero. background: the class left out of Dice and IoU.
    Free energy is not known from probabilities: its spread is None. Errors: UsageError, ShapeError, LabelError, ScoreError.
    """
    scores = _tensor(probs)
    if scores.ndim < 2 or scores.shape[0] == 0:
        raise ShapeError(
            "probs", found=f"shape {tuple(scores.shape)}", expected="(B, C, *spatial) with at least one image", do="Put images on the first axis and classes on the second."
        )
    head = Softmax(tuple(str(k) for k in range(scores.shape[1])), background, ignore_index)
    images, shape = scores.shape[0], (scores.shape[0], *scores.shape[2:])
    scores = scores.reshape(images, head.channels, -1)
    fields = {name: _field(name, value, shape) for name, value in (("labels", labels), ("mask", mask), ("reference", reference)) if value is not None}
    if "labels" not in fields:
        raise UsageError("labels", found="None", expected=f"integers of shape {shape}", do="Metrics need the true labels.")
    metrics = suite(head.channels, background)
    states = {str(i): _image(head, metrics, i, scores[i], {name: field[i] for name, field in fields.items()}) for i in range(images)}
    block: dict[str, Any] = summarise(metrics, states).block
    return block


def _image(head: Softmax, metrics: dict[str, Accumulator], index: int, scores: Tensor, fields: dict[str, Tensor]) -> dict[str, State]:
    states, step, scored = {name: zero(m) for name, m in metrics.items()}, block_length(head.rows), 0
    for start in range(0, scores.shape[1], step):
        cut = slice(start, start + step)
        labels = fields["labels"][cut].long()
        keep = fields["mask"][cut] != 0 if "mask" in fields else torch.ones_like(labels, dtype=torch.bool)
        if head.ignore is not None:
            keep = keep & (labels != head.ignore)
        p, labels = scores[:, cut][:, keep], labels[keep]
        check_labels(head, labels, f"labels of image {index}")
        head.check(p, "probs", f"probs of image {index}")
        decision = head.decide(p, "probs")[0]
        reference = fields["reference"][cut][keep].long() if "reference" in fields else decision
        rows = Rows(index, start, head.canonical(p, "probs"), labels, decision, reference)
        states = {name: merge(m, states[name], fold(m, rows)) for name, m in metrics.items()}
        scored += rows.voxels
    if scored == 0:
        raise LabelError(
            f"labels of image {index}",
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
        raise ShapeError(name, found=f"shape {tuple(field.shape)}", expected=f"{shape}, as the probabilities without their class axis", do="Bring both on the same grid.")
    if name != "mask" and field.is_floating_point():
        raise LabelError(name, found=f"type {field.dtype}", expected="integers", do="Convert labels to integers; they must not be interpolated.")
    return field.reshape(shape[0], -1)
