"""What parameters prove: the conditions under which a map keeps the label, keeps the order, or ignores an offset of the
logits, with the numbers they rest on.

    one affine map    keeps label and order iff W = lambda I + 1 c^T, lambda > 0, b a multiple of 1 (K26 App. A.2)
    an affine map     on raw logits ignores an offset iff all row sums of W are equal; of a diagonal W: all scales
    one that does not tends, as the offset grows, to the class of the largest row sum, and as it falls, to that of the
    smallest (definitions 2.3)
    an expert         of a class-conditional map, in canonical order, keeps its cone iff W' = G W G^-1 has zeros below
                      its first entry, the rest of W'
                      below and to the right is >= 0, and G b is >= 0 below its first entry (definitions 4.3)

Promises: conditions are necessary and sufficient for the map in exact arithmetic; entries count as equal within
`TOLERANCE` of the largest, as in `AffineMap`. An expert of log-probabilities (CDC) may keep its label although it does
not keep the whole cone, since the log-probability of the winner is never above 0: what it promises is what its
guarantees say. Costs: nothing next to a block of voxels. A kind of map without a proof of its own gives what its
guarantees say, without numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from segcal.methods.affine.map import AffineMap
from segcal.methods.conditional.map import ConditionalMap
from segcal.methods.conditional.sums import Gaps, Scores
from segcal.methods.maps import PartMap

TOLERANCE = 1e-12
"""Share of the largest entry by which entries may differ and still count as equal."""

ROW_SUMS = 1e-10
"""The same for row sums, which are sums of entries."""

SHOWN = 5
"""Experts whose failures are put into words; the numbers name all."""

PROMISES = ("translation_invariant", "preserves_argmax", "preserves_order")


@dataclass(frozen=True)
class Proof:
    """Whether one promise `holds` for one map, by its parameters; `why` in words, and the `numbers` it rests on."""

    promise: str
    holds: bool
    why: str
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A plain description."""
        return asdict(self)


@singledispatch
def proofs(m: PartMap, classes: Sequence[str]) -> list[Proof]:
    """What the parameters of a map say about each promise; `classes` names its classes."""
    given = m.guarantees()
    return [Proof(name, getattr(given, name) == "proven", given.reasons.get(name, "")) for name in PROMISES]


@proofs.register
def _(m: AffineMap, classes: Sequence[str]) -> list[Proof]:
    on_logits = bool(m.on_logits)
    return [
        offset(m.weight, classes) if on_logits else Proof(PROMISES[0], True, "it sees log-probabilities only"),
        *single_affine(m.weight, m.bias),
    ]


@proofs.register
def _(m: ConditionalMap, classes: Sequence[str]) -> list[Proof]:
    given = m.guarantees()
    cone, promise = (order_cone, PROMISES[2]) if isinstance(m.coordinates, Gaps) else (argmax_cone, PROMISES[1])
    experts = [expert(*canonical_expert(m, e), cone(len(classes)), promise, name) for e, name in enumerate(classes)]
    numbers = {"experts": {name: dict(p.numbers) for name, p in zip(classes, experts, strict=True)}}
    out = []
    for name in PROMISES:
        holds = getattr(given, name) == "proven"
        failed = [p.why for p in experts if not p.holds] if name == promise and not holds else []
        out.append(
            Proof(
                name,
                holds,
                "; ".join([given.reasons.get(name, ""), *failed[:SHOWN]]),
                numbers if name == promise else {},
            )
        )
    return out


def canonical_expert(m: ConditionalMap, index: int) -> tuple[Tensor, Tensor]:
    """W (C, C) and b (C,) of one expert in canonical order: the decided class first and the others in their order, or
    all of them sorted.
    """
    weight, bias = m.weight[index], m.bias[index]
    c = len(m.bias)
    if isinstance(m.coordinates, Scores):
        order = [index, *(k for k in range(c) if k != index)]
        return weight[order][:, order], bias[order]
    ranked = isinstance(m.coordinates, Gaps)
    steps = torch.ones(c - 1, c - 1, dtype=weight.dtype).tril() if ranked else torch.eye(c - 1, dtype=weight.dtype)
    k = torch.cat([torch.zeros(1, c - 1, dtype=weight.dtype), steps])
    margins = (order_cone(c) if ranked else argmax_cone(c))[1:]
    return -k @ weight @ margins, -k @ bias


def single_affine(weight: Tensor, bias: Tensor) -> list[Proof]:
    """Whether one affine map W (C, C), b (C,) for all voxels keeps the label and the order.

    For one affine map both hold or neither.
    """
    c = weight.shape[0]
    scale = max(weight.abs().max().item(), 1e-300)
    common = torch.stack([weight[(j + 1) % c, j] for j in range(c)])
    rest = weight - common[None, :]
    factor = rest.diagonal().mean().item()
    off = (rest - factor * torch.eye(c, dtype=rest.dtype)).abs().max().item()
    spread = (bias.max() - bias.min()).item()
    shape_ok, bias_ok = off <= TOLERANCE * scale * c, spread <= TOLERANCE * max(1.0, scale)
    failed = []
    if not shape_ok:
        failed.append(f"an entry of W is {off:.3g} away from lambda I + 1 c^T")
    if not factor > 0:
        failed.append(f"lambda is {factor:.3g}, not above 0")
    if not bias_ok:
        failed.append(f"the biases differ by {spread:.3g}")
    why = "; ".join(failed) or "W = lambda I + 1 c^T with lambda > 0, and equal biases"
    numbers = {"lambda": factor, "distance_from_form": off, "bias_spread": spread}
    return [Proof(name, not failed, why, numbers) for name in PROMISES[1:]]


def offset(weight: Tensor, classes: Sequence[str]) -> Proof:
    """Whether an affine map of raw logits ignores a constant added to all of them; if not, the classes it tends to."""
    sums = weight.sum(1)
    spread, scale = (sums.max() - sums.min()).item(), max(weight.abs().max().item(), 1e-300)
    diagonal = bool((weight == torch.diag(weight.diagonal())).all())
    of_what = "scales" if diagonal else "row sums of W"
    numbers: dict[str, Any] = {"row_sums": sums.tolist(), "row_sum_spread": spread}
    if spread <= ROW_SUMS * scale:
        return Proof(PROMISES[0], True, f"all {of_what} are equal", numbers)
    up = [name for name, s in zip(classes, sums.tolist(), strict=True) if s >= sums.max().item() - ROW_SUMS * scale]
    down = [name for name, s in zip(classes, sums.tolist(), strict=True) if s <= sums.min().item() + ROW_SUMS * scale]
    numbers |= {"tends_to_as_logits_rise": up, "tends_to_as_logits_fall": down}
    run = f"the {of_what} run from {sums.min().item():.4g} to {sums.max().item():.4g}"
    return Proof(
        PROMISES[0],
        False,
        f"{run}: raising all logits leads to {' or '.join(up)}, lowering them to {' or '.join(down)}",
        numbers,
    )


def argmax_cone(classes: int) -> Tensor:
    """G (C, C) whose rows are the first score and its margins to the others: the first is a maximum where the margins
    are >= 0.
    """
    g = -torch.eye(classes, dtype=torch.float64)
    g[:, 0] = 1
    return g


def order_cone(classes: int) -> Tensor:
    """G (C, C) whose rows are the first score and the gaps of neighbours: scores do not increase where the gaps are >=
    0.
    """
    eye = torch.eye(classes, dtype=torch.float64)
    g = torch.cat([eye[:1], eye[:-1] - eye[1:]])
    return g


def expert(weight: Tensor, bias: Tensor, cone: Tensor, promise: str, name: str) -> Proof:
    """Whether an expert W (C, C), b (C,) that acts in canonical order maps the cone of `cone` (`argmax_cone`,
    `order_cone`) into itself.
    """
    inner = cone @ weight.double() @ torch.linalg.inv(cone)
    moved = cone @ bias.double()
    scale = max(weight.abs().max().item(), 1e-300)
    tolerance = TOLERANCE * scale * cone.shape[0]
    column = inner[1:, 0].abs().max().item()
    least, bias_least = inner[1:, 1:].min().item(), moved[1:].min().item()
    failed = []
    if column > tolerance:
        failed.append(
            f"the first column below the first entry reaches {column:.3g}, not 0: the level of the scores matters"
        )
    if least < -tolerance:
        failed.append(f"the smallest entry of A is {least:.3g}, below 0")
    if bias_least < -TOLERANCE * max(1.0, scale):
        failed.append(f"the bias leaves the cone by {-bias_least:.3g}")
    why = f"expert {name}: " + ("; ".join(failed) or "block form with A >= 0, and its bias lies in the cone")
    return Proof(
        promise, not failed, why, {"first_column": column, "smallest_entry": least, "smallest_bias": bias_least}
    )
