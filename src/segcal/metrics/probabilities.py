"""Probabilities of a block, computed once for all the metrics that fold it.

Promises: float64 whatever the rows are kept in; the exponential is taken once a block and thread, because the last
block of each thread is remembered (weakly: a block that is gone is never mistaken for another). Costs: C x n float64
numbers a thread. No voxel: an empty (C, 0) tensor. The tensor is shared: read it, never write to it.
"""

from __future__ import annotations

import threading
import weakref

import torch
from torch import Tensor

from segcal.data.rows import Rows


class _Last(threading.local):
    rows: weakref.ref[Rows] | None = None
    value: Tensor | None = None


_last = _Last()


def probabilities(rows: Rows) -> Tensor:
    """Probabilities (C, n) of `rows`, float64. Do not change them."""
    if _last.rows is not None and _last.rows() is rows and _last.value is not None:
        return _last.value
    # the old block goes first: two are never held at a time
    _last.rows = _last.value = None
    value = rows.log_probs.exp() if rows.log_probs.dtype == torch.float64 else rows.log_probs.double().exp_()
    _last.rows, _last.value = weakref.ref(rows), value
    return value


def entropy(log_probs: Tensor) -> Tensor:
    """Of finite log-probabilities (C, ...), natural logarithm: the shape without C."""
    return -(log_probs.exp() * log_probs).sum(0)


def at(values: Tensor, index: Tensor) -> Tensor:
    """The entry of each column of `values` (C, n) at row `index` (n,): shape (n,)."""
    return values.gather(0, index[None])[0]
