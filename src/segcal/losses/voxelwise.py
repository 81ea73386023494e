"""Losses that look at each voxel alone, or at all of an image: label smoothing, focal, confidence penalty, margin-based
smoothing, cross-entropy with Dice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segcal.losses.loss import Loss, cross_entropy, mean, of_label, one_hot


class CrossEntropy(Loss):
    """-log p of the label: what the others are compared with."""

    def of(self, z: Tensor, labels: Tensor, counts: Tensor, **given: Tensor) -> Tensor:
        return mean(cross_entropy(z, labels), counts)


class LabelSmoothing(Loss):
    """(1 - alpha) CE + alpha mean_k(-log p_k) (Szegedy et al. 2016; definitions 10)."""

    def __init__(self, alpha: float = 0.1, ignore_index: int | None = None) -> None:
        super().__init__(ignore_index)
        self.alpha = alpha

    def of(self, z: Tensor, labels: Tensor, counts: Tensor, **given: Tensor) -> Tensor:
        logs = torch.log_softmax(z, 1)
        return mean(-(1 - self.alpha) * of_label(logs, labels) - self.alpha * logs.mean(1), counts)


class Focal(Loss):
    """-(1 - p)^gamma log p of the label (Lin et al. 2017)."""

    def __init__(self, gamma: float = 3.0, ignore_index: int | None = None) -> None:
        super().__init__(ignore_index)
        self.gamma = gamma

    def of(self, z: Tensor, labels: Tensor, counts: Tensor, **given: Tensor) -> Tensor:
        logs = of_label(torch.log_softmax(z, 1), labels)
        return mean(-((1 - logs.exp()).clamp_min(0) ** self.gamma) * logs, counts)


class ConfidencePenalty(Loss):
    """CE less `weight` times the entropy (Pereyra et al. 2017), of which the mean over classes is taken, as M23's code
    does: 1 / C of the sum.
    """

    def __init__(self, weight: float = 0.1, ignore_index: int | None = None) -> None:
        super().__init__(ignore_index)
        self.weight = weight

    def of(self, z: Tensor, labels: Tensor, counts: Tensor, **given: Tensor) -> Tensor:
        logs = torch.log_softmax(z, 1)
        entropy = -(logs.exp() * logs).mean(1)
        return mean(-of_label(logs, labels) - self.weight * entropy, counts)


class MarginSmoothing(Loss):
    """Margin-based label smoothing, MbLS (Liu et al. 2022): CE + `weight` mean_k relu(max_j l_j - l_k - margin).

    Where weight / C is above exp(-margin) a voxel's optimum has every gap at the margin exactly: a confidence of 1 / (1
    + (C - 1) exp(-margin)).
    """

    def __init__(self, margin: float = 10.0, weight: float = 0.1, ignore_index: int | None = None) -> None:
        super().__init__(ignore_index)
        self.margin, self.weight = margin, weight

    def of(self, z: Tensor, labels: Tensor, counts: Tensor, **given: Tensor) -> Tensor:
        above = torch.relu(z.amax(1, keepdim=True) - z - self.margin).mean(1)
        return mean(cross_entropy(z, labels) + self.weight * above, counts)


SMOOTH = 1e-5
"""Added to both sides of a Dice ratio."""


class CrossEntropyDice(Loss):
    """CE + 1 - soft Dice, the mean over images and classes, background included (the sum that M23's baseline takes).

    Dice = (2 sum p y + 1e-5) / (sum p + sum y + 1e-5) over the voxels of an image that count.
    """

    def of(self, z: Tensor, labels: Tensor, counts: Tensor, **given: Tensor) -> Tensor:
        p, y, inside = torch.softmax(z, 1), one_hot(labels, z.shape[1], z), counts[:, None].to(z.dtype)
        axes = tuple(range(2, z.dim()))
        both, either = (2 * p * y * inside).sum(axes), ((p + y) * inside).sum(axes)
        dice = (both + SMOOTH) / (either + SMOOTH)
        return mean(cross_entropy(z, labels), counts) + (1 - dice).mean()
