"""What is delivered: float32 probabilities whose arg max is the promised one.

A calibrator that preserves the label does so in exact arithmetic; rounding to float32 can tie or swap neighbours (T =
1e10 makes whole rows equal). Where the promised winner is not strictly first, it gets the float32 number just above the
largest other: one unit in the last place. Rows still sum to one within 1e-6. For region heads the promised side of 0.5
is kept the same way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segcal.data.head import Head, Softmax


def deliver(log_rows: Tensor, head: Head, decision: Tensor | None) -> Tensor:
    """Probabilities (channels, n), float32, from calibrated log-probability rows (head.rows, n); `decision` (parts, n)
    is kept where given.
    """
    p = head.probabilities(log_rows).float()
    if decision is None or p.numel() == 0:
        return p
    return _winner_first(p, decision[0].long()) if isinstance(head, Softmax) else _side_kept(p, decision)


def _winner_first(p: Tensor, winner: Tensor) -> Tensor:
    at = winner[None]
    own = p.gather(0, at)[0]
    others = p.scatter(0, at, -1.0).amax(0)
    raised = torch.nextafter(others, torch.full_like(others, torch.inf))
    return p.scatter(0, at, torch.where(own > others, own, raised)[None])


def _side_kept(p: Tensor, inside: Tensor) -> Tensor:
    half = torch.full_like(p, 0.5)
    above = torch.nextafter(half, torch.ones_like(half))
    return torch.where(inside.bool(), torch.maximum(p, above), torch.minimum(p, half))
