"""Which class is the largest at each voxel, and the order of all of them: ties to the lowest index, as everywhere in
segcal.

`winner` and `descending` say what `argmax` and a stable descending `sort` of the rows say, a column a voxel; tests hold
them equal. They exist for speed (`benchmarks/operations.py`): over the leading axis torch's `argmax` takes ten times as
long as whole rows compared with the largest, and few classes are sorted faster by exchanging rows, some by counting.
Promises: plain tensor operations that can be traced (where they are, classes are ranked by counting, which no runtime's
sort can get wrong); NaN is not expected. No voxel: an empty result.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segcal.data.tracing import traced

FEW = 3
"""Most classes that are sorted by exchanging neighbours."""

SOME = 9
"""Most classes that are sorted by counting."""

ROWS = 16
"""Most classes whose largest is found by comparing rows."""


def winner(values: Tensor) -> Tensor:
    """Index of the largest of each column of `values` (C, *shape), the lowest where several are: int64, (*shape)."""
    if traced() or len(values) > ROWS:
        return values.max(0).indices
    # the classes before the first that is as large as the largest, counted
    top, index = values.amax(0), torch.zeros(values.shape[1:], dtype=torch.uint8, device=values.device)
    below = torch.ones_like(index, dtype=torch.bool)
    for row in values[:-1]:
        index += below.logical_and_(row != top)
    return index.long()


def descending(values: Tensor) -> Tensor:
    """Classes of each column of `values` (C, n) from the largest down, the lower index first where two are equal:
    int64, (C, n).
    """
    count = values.shape[0]
    if traced() or FEW < count <= SOME:
        return _by_counting(values)
    if count > FEW:
        # over rows of one voxel, which is much the faster way round
        return values.T.contiguous().sort(dim=1, descending=True, stable=True).indices.T
    rows = list(values.unbind(0))
    places = [torch.full_like(rows[0], k, dtype=torch.uint8) for k in range(count)]
    for last in range(count - 1, 0, -1):
        for a in range(last):
            x, y, i, j = rows[a], rows[a + 1], places[a], places[a + 1]
            swap = y > x
            rows[a], rows[a + 1] = torch.maximum(x, y), torch.minimum(x, y)
            places[a], places[a + 1] = torch.where(swap, j, i), torch.where(swap, i, j)
    return torch.stack(places).long()


def _by_counting(values: Tensor) -> Tensor:
    """`descending`, from how many classes come before each: C (C - 1) / 2 comparisons a column."""
    rows, small = values.unbind(0), torch.int32 if traced() else torch.uint8  # runtimes add no bytes
    ranks = [torch.full(row.shape, k, dtype=small, device=row.device) for k, row in enumerate(rows)]
    for later in range(len(rows)):
        for earlier in range(later):
            passes = rows[later] > rows[earlier]
            one = passes.to(small) if traced() else passes.view(small)
            ranks[earlier] = ranks[earlier] + one
            ranks[later] = ranks[later] - one
    rank = torch.stack(ranks).long()
    index = torch.arange(len(ranks), device=values.device)[:, None].expand_as(rank)
    return torch.zeros_like(rank).scatter(0, rank, index)
