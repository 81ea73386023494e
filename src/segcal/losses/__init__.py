"""Losses to train segmentation networks with, whose probabilities then need less calibration: `torch.nn.Module`s for
images and volumes, with ignored labels, masks and mixed precision. They import torch and nothing else of segcal.

    loss = segcal.losses.NACL(ignore_index=255)
    loss(network(images), labels).backward()

    CrossEntropy        what the others are compared with
    CrossEntropyDice    its sum with the soft Dice loss
    LabelSmoothing      part of the mass on all classes alike
    Focal               less for what is right already
    ConfidencePenalty   less the entropy
    MarginSmoothing     MbLS: logits no further apart than a margin
    SVLS                labels smoothed by those around
    NACL                logits near the shares of classes around

Definitions and what each deviates in: their docstrings. Sources: definitions 10 and 17.
"""

from segcal.losses.loss import Loss
from segcal.losses.neighbours import NACL, SVLS
from segcal.losses.voxelwise import (
    ConfidencePenalty,
    CrossEntropy,
    CrossEntropyDice,
    Focal,
    LabelSmoothing,
    MarginSmoothing,
)

__all__ = [
    "NACL",
    "SVLS",
    "ConfidencePenalty",
    "CrossEntropy",
    "CrossEntropyDice",
    "Focal",
    "LabelSmoothing",
    "Loss",
    "MarginSmoothing",
]
