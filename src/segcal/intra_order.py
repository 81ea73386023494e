"""Intra-order-preserving functions (Rahimi et al., NeurIPS 2020): scores whose order is that of their input, whatever
the parameters.

With x the log-probabilities sorted from highest to lowest and d_j = x_(j) - x_(j+1) >= 0 their gaps, u_(j) = sum over k
>= j of d_k f_k(x), where f > 0 is the softplus of a small net of the sorted x. Sums of non-negative terms do not fall,
so the order is kept exactly, also in floating point, up to ties. The original appends a constant 1 to the gaps; its
term is common to all classes, so the softmax does not see it, and it is left out. It would be the only term that is not
translation-invariant on logits.

The net: two hidden layers, tanh, of log(1 - x), which keeps it calm for any score; C - 1 outputs. C = 2: one factor
that depends on the confidence. No voxel: empty results.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

Layers = Sequence[tuple[Tensor, Tensor]]
"""Weight (out, in) and bias (out,) of each layer; the last has C - 1 outputs."""


def shapes(classes: int, hidden: int) -> list[tuple[int, int]]:
    """(out, in) of each layer."""
    return [(hidden, classes), (hidden, hidden), (classes - 1, hidden)]


def factors(x: Tensor, layers: Layers) -> Tensor:
    """What each gap is multiplied by, (C - 1, n), for sorted log-probabilities (C, n)."""
    inner = torch.log1p(-x.clamp_max(0))
    for weight, bias in layers[:-1]:
        inner = torch.tanh(weight @ inner + bias[:, None])
    weight, bias = layers[-1]
    return softplus(weight @ inner + bias[:, None])


def scores(x: Tensor, layers: Layers) -> Tensor:
    """Scores before the softmax, (C, n), for sorted log-probabilities (C, n); the last is 0."""
    # a gap below zero can only be rounding: the ranking was read off the scores as given
    steps = (x[:-1] - x[1:]).clamp_min(0) * factors(x, layers)
    return torch.cat([steps.flip(0).cumsum(0).flip(0), torch.zeros_like(x[:1])])


def unpacked(theta: Tensor, classes: int, hidden: int) -> list[tuple[Tensor, Tensor]]:
    """Layers from a flat vector: each layer's weight, row-major, then its bias."""
    out, at = [], 0
    for rows, columns in shapes(classes, hidden):
        weight = theta[at : at + rows * columns].reshape(rows, columns)
        at += rows * columns
        out.append((weight, theta[at : at + rows]))
        at += rows
    return out
