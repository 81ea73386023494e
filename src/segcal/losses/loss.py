"""What all training losses share: `loss(logits, labels, mask=None)`, a mean over the voxels that count.

Logits are (B, C, *spatial), raw, of any floating type; labels (B, *spatial), whole numbers; `mask` (B, *spatial),
non-zero where voxels count. Voxels of the label `ignore_index` never count. Promises: work is in float32 at least, also
under autocast; logits of voxels that do not count get a gradient of exactly 0, whatever they hold; nothing of it is
random. No voxel that counts: 0, with a gradient of 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from segcal.errors import LabelError, ShapeError


class Loss(nn.Module, ABC):
    """A loss of a network's logits, with labels that may be ignored.

    ShapeError where labels or mask do not fit the logits, LabelError for labels there is no class for (looked for on
    the processor only: elsewhere it would wait for the device).
    """

    def __init__(self, ignore_index: int | None = None) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, labels: Tensor, mask: Tensor | None = None, **given: Tensor) -> Tensor:
        """The mean over voxels that count, a number."""
        wanted = (len(logits), *logits.shape[2:])
        for name, value in (("labels", labels), ("mask", mask)):
            if value is not None and tuple(value.shape) != wanted:
                raise ShapeError(
                    name,
                    found=f"shape {tuple(value.shape)}",
                    expected=f"{wanted}, as the logits without their classes",
                    do="Give one label a voxel; remove an axis of length 1 with labels[:, 0].",
                )
        counts = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask.bool()
        if self.ignore_index is not None:
            counts = counts & (labels != self.ignore_index)
        known = torch.where(counts, labels, 0).long()
        if (
            known.device.type == "cpu"
            and known.numel()
            and not 0 <= int(known.min()) <= int(known.max()) < logits.shape[1]
        ):
            raise LabelError(
                "labels",
                found=f"{int(known.min())} to {int(known.max())}",
                expected=f"0 to {logits.shape[1] - 1}",
                do="Name the label of voxels that do not count: ignore_index=.",
            )
        with torch.autocast(logits.device.type, enabled=False):
            z = logits if logits.dtype == torch.float64 else logits.float()
            z = torch.where(counts[:, None], z, 0.0)
            return self.of(z, known, counts, **given)

    @abstractmethod
    def of(self, z: Tensor, labels: Tensor, counts: Tensor, **given: Tensor) -> Tensor:
        """The loss of logits that are 0, and labels that are 0, where a voxel does not count."""


def mean(values: Tensor, counts: Tensor) -> Tensor:
    """Of values (B, *spatial) over the voxels that count; 0 where there is none."""
    return torch.where(counts, values, 0.0).sum() / counts.sum().clamp_min(1)


def of_label(values: Tensor, labels: Tensor) -> Tensor:
    """Of values (B, C, *spatial) those of the labels (B, *spatial)."""
    return values.gather(1, labels[:, None])[:, 0]


def cross_entropy(z: Tensor, labels: Tensor) -> Tensor:
    """-log p of the label of each voxel (B, *spatial)."""
    return -of_label(torch.log_softmax(z, 1), labels)


def one_hot(labels: Tensor, classes: int, like: Tensor) -> Tensor:
    """(B, C, *spatial) in the type of `like`."""
    return nn.functional.one_hot(labels, classes).movedim(-1, 1).to(like.dtype)
