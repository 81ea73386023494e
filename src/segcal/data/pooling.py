"""Ensemble members to one score field, streaming: one member in memory at a time, float64 sums in the order of the
members.

`probs`: mean of probabilities p = mean_m S(z_m). `logits`: mean of logits, a product of experts. Where members are
stored as probabilities, `logits` averages their canonical log-probabilities, which gives the same S(z_bar): member-wise
shifts cancel (definitions 1.1). A single member is passed on as it is. No member: UsageError.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from segcal.data.head import Head
from segcal.data.scores import FULL, Kind, Resolution
from segcal.errors import UsageError

Pool = Literal["probs", "logits"]
POOLS: tuple[Pool, ...] = ("probs", "logits")


def pooled_kind(kind: Kind, pool: Pool, members: int, head: Head) -> Kind:
    """Kind of the pooled field: a single member keeps its own kind."""
    if members == 1:
        return kind
    if pool == "probs":
        return "probs"
    return "logits" if kind == "logits" else head.logits_kind


def pool_members(
    members: Iterable[Tensor], count: int, kind: Kind, pool: Pool, head: Head, resolution: Resolution = FULL
) -> Tensor:
    """Mean of `count` members (each (channels, n)), in the sense of `pool`: shape (channels, n); a single member is
    returned unchanged, several as float64.

    `resolution`, at which members are stored, floors what `logits` takes the logarithm of.
    """
    if count < 1:
        raise UsageError(
            "members", found="no member", expected="at least one", do="Name at least one folder of predictions."
        )
    total: Tensor | None = None
    for member in members:
        if count == 1:
            return member
        term = _term(member, kind, pool, head, resolution)
        total = term if total is None else total.add_(term)
    assert total is not None
    total /= count
    if pooled_kind(kind, pool, count, head) == "log_probs":
        total -= total.logsumexp(0, keepdim=True)
    return total


def _term(member: Tensor, kind: Kind, pool: Pool, head: Head, resolution: Resolution) -> Tensor:
    if pool == "probs":
        if kind == "probs":
            return member.to(torch.float64, copy=True)
        rows = head.canonical(member, kind)
        return head.probabilities(rows)
    if kind == "logits":
        return member.to(torch.float64, copy=True)
    return head.logits(head.canonical(member, kind, resolution))
