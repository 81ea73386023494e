"""Dice, IoU and accuracy from the counts of delivered label against true label.

Promises: int64 counts; Dice_k = 2 TP / (2 TP + FP + FN), IoU_k = TP / (TP + FP + FN); means leave the declared
background out, and with none declared every class counts (definitions 16). A class neither labelled nor delivered is
NaN and left out of the mean (nnU-Net); `empty=1.0` scores it as in LostInFolds instead. Labelled empty but delivered:
0. Costs: C x C counts a state. No voxel: NaN everywhere (or `empty`), no accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segcal.data.rows import Rows
from segcal.engine.accumulate import Array, Count, Leaf
from segcal.errors import UsageError


@dataclass(frozen=True, eq=False)
class Overlaps:
    """`confusion` (C, C) counts, rows true, columns delivered; `dice` and `iou` (C,), NaN where a class is nowhere;
    their means over foreground classes; `accuracy`.
    """

    confusion: NDArray[np.int64]
    dice: NDArray[np.float64]
    iou: NDArray[np.float64]
    mean_dice: float
    mean_iou: float
    accuracy: float

    @property
    def labelled(self) -> NDArray[np.int64]:
        """Voxels of each class in the labels (C,)."""
        return np.asarray(self.confusion.sum(1))

    @property
    def delivered(self) -> NDArray[np.int64]:
        """Voxels of each class in the delivered map (C,)."""
        return np.asarray(self.confusion.sum(0))


@dataclass(frozen=True)
class Overlap:
    """Confusion counts for `classes` classes.

    `background`: the class left out of the means, or None. `empty`: score of a class that is nowhere, or None to leave
    it out.
    """

    classes: int
    background: int | None = None
    empty: float | None = None

    def __post_init__(self) -> None:
        if self.background is not None and not 0 <= self.background < self.classes:
            raise UsageError(
                "background",
                found=str(self.background),
                expected=f"a class from 0 to {self.classes - 1}, or None",
                do="Name the index of the background class.",
            )

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """The confusion counts."""
        return {"confusion": Count((self.classes, self.classes))}

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """Partial counts of one block."""
        return {"confusion": torch.bincount(rows.targets * self.classes + rows.decision, minlength=self.classes**2)}

    def result(self, values: Mapping[str, Array]) -> Overlaps:
        """Overlap of each class and the means."""
        confusion = values["confusion"]
        both, either = np.diag(confusion), confusion.sum(0) + confusion.sum(1)
        none = math.nan if self.empty is None else float(self.empty)
        dice = np.divide(2 * both, either, out=np.full(self.classes, none), where=either > 0)
        iou = np.divide(both, either - both, out=np.full(self.classes, none), where=either > 0)
        counted = [k for k in range(self.classes) if k != self.background]
        n = int(confusion.sum())
        return Overlaps(
            confusion, dice, iou, _mean(dice[counted]), _mean(iou[counted]), int(both.sum()) / n if n else math.nan
        )


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return math.fsum(known.tolist()) / known.size if known.size else math.nan
