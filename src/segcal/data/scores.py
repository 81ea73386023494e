"""What a score is: its declared kind, its free energy, and its canonical log-probabilities.

Promises: the kind is declared by the caller and never guessed from values. From logits, canonical log-probabilities are
x = z - F(z) with F(z) = log sum_c exp z_c (K26 Eq. 8, 9), where no difference that any softmax can show is floored:
they end at `LOWEST`, in units of the logits' usual size (`Resolution.unit`), which is also what a logit of minus
infinity gives, a class that was ruled out. *Probabilities* are floored before the logarithm, at `FLOOR` or, where they
are stored in coarse steps, at the mean of what was rounded to 0 (`Resolution`). All of it is computed in float64. An
empty set of voxels gives an empty result. Deviation: probabilities and log-probabilities are renormalised (their rows
may sum to one only within `SUM_TOLERANCE`), so that F(x) = 0 holds exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from segcal.errors import ScoreError, UsageError

Kind = Literal["logits", "log_probs", "probs", "scores"]
KINDS: tuple[Kind, ...] = get_args(Kind)

FLOOR = 1e-12
"""Smallest probability whose logarithm is taken, for scores stored as probabilities (fiducio uses the same)."""

LOWEST = -(2.0**15)
"""Lowest log-probability made from logits: e^x is 0 below -745, and sums over a block stay finite."""


@dataclass(frozen=True)
class Resolution:
    """What a stored probability that cannot be told from 0, or from 1, counts as: `zero`, and 1 - `one`.

    At most half the step in which scores are stored, and no less than `FLOOR`. `one` matters to regions only, whose
    outside is what their inside leaves of 1; classes are told from 0 each on its own. `unit`: a power of two that
    brings logits of an odd size to a usual one; 1 for all others. `step`, `step_one`: the storage steps at either end,
    by which resolutions are compared; 0, as in files of before they were kept: twice what is counted.
    """

    zero: float = FLOOR
    one: float = FLOOR
    unit: float = 1.0
    step: float = 0.0
    step_one: float = 0.0

    def __post_init__(self) -> None:
        known = FLOOR <= self.zero <= 0.5 and FLOOR <= self.one <= 0.5 and 0 < self.unit < math.inf
        if not (known and 0 <= self.step <= 1 and 0 <= self.step_one <= 1):
            raise UsageError(
                "resolution",
                found=f"{self.zero}, {self.one}, {self.unit}, {self.step}, {self.step_one}",
                expected=f"two numbers from {FLOOR:g} to 0.5, a unit above 0, and two steps up to 1",
                do="They are what stored zeros count as, what logits are divided by, and steps of storage.",
            )

    @property
    def lowest(self) -> float:
        """The lowest log-probability made from logits of this unit."""
        return LOWEST * max(1.0, self.unit)

    def like(self, other: Resolution) -> bool:
        """Whether zeros were rounded off by as good as the same step."""
        one, two = self.step or 2 * self.zero, other.step or 2 * other.zero
        return max(one, two) <= LIKE * min(one, two)

    def coarser(self, other: Resolution) -> Resolution:
        """The coarser of two, at either end; where steps are alike, this one's counts."""
        zero, step = _coarser((self.zero, self.step), (other.zero, other.step))
        one, step_one = _coarser((self.one, self.step_one), (other.one, other.step_one))
        return Resolution(zero, one, max(self.unit, other.unit), step, step_one)


LIKE = 1.5
"""Times by which steps of storage may differ without a word."""


def _coarser(own: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    (counts, step), (counts_other, step_other) = own, other
    return own if LIKE * (step or 2 * counts) >= (step_other or 2 * counts_other) else other


FULL = Resolution()
"""Of logits, and of probabilities precise enough for the floor of all."""

SUM_TOLERANCE = 1e-3
"""How far a row of probabilities may be from summing to one."""


def check_kind(kind: str) -> Kind:
    """Return `kind` if it is one of `KINDS`; otherwise raise UsageError."""
    if kind not in KINDS:
        raise UsageError(
            "kind",
            found=repr(kind),
            expected="one of " + ", ".join(KINDS),
            do=(
                "Declare what the model puts out: raw network outputs are 'logits', softmax outputs 'probs', positive"
                " unnormalised outputs 'scores'."
            ),
        )
    return kind


def free_energy(logits: Tensor, dim: int = 0) -> Tensor:
    """F(z) = log sum_c exp z_c in float64 (K26 Eq.

    9; its sign is opposite to the energy of the OOD literature). Shape: that of `logits` without `dim`.
    """
    return torch.logsumexp(logits.double(), dim)


def check(scores: Tensor, kind: Kind, where: str, *, dim: int = 0, classes_sum: bool = True) -> None:
    """Raise ScoreError, naming `where`, if `scores` (classes on `dim`) cannot be of `kind`.

    NaN and infinities are refused (but minus infinity, as a log-probability or as the logit of a class that was ruled
    out, where another class was not); probabilities must lie in [0, 1] and,
    with `classes_sum`, sum to one within `SUM_TOLERANCE`; `scores` must be >= 0 with a positive sum. No voxel: nothing
    to check.
    """
    if scores.numel() == 0:
        return
    # NaN counts as the smallest and the largest
    low, high = (value.item() for value in scores.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        _check_finite(scores, kind, where, dim, classes_sum=classes_sum)
    if kind == "logits":
        return
    if kind in ("probs", "scores") and (low < 0 or (kind == "probs" and high > 1 + SUM_TOLERANCE)):
        raise ScoreError(
            where,
            found=f"values from {low:.6g} to {high:.6g}",
            expected="probabilities in [0, 1]" if kind == "probs" else "scores of zero or more",
            do=_otherwise(low, kind, classes_sum),
        )
    if kind == "scores":
        if (scores.sum(dim) <= 0).any():
            raise ScoreError(
                where,
                found="a voxel whose scores are all zero",
                expected="a positive sum over classes at every voxel",
                do="Mask such voxels, or predict the case again.",
            )
        return
    if classes_sum:
        total = scores.sum(dim, dtype=torch.float64) if kind == "probs" else scores.double().logsumexp(dim).exp()
        least, most = total.aminmax()
        worst = max(least.item(), most.item(), key=lambda s: abs(s - 1))
        if abs(worst - 1) > SUM_TOLERANCE:
            raise ScoreError(
                where,
                found=f"a voxel whose probabilities sum to {worst:.6g}",
                expected=f"a sum of 1 within {SUM_TOLERANCE:g} over the classes",
                do=(
                    f"Check the class axis; sigmoids are of a region head (dataset.json). {_otherwise(low, kind, True)}"
                ),
            )


def _check_finite(scores: Tensor, kind: Kind, where: str, dim: int, *, classes_sum: bool) -> None:
    bad = ~torch.isfinite(scores)
    if kind in ("logits", "log_probs"):
        bad &= scores != -torch.inf
        bad |= (scores == -torch.inf).all(dim, keepdim=True) & classes_sum
    if bad.any():
        count = int(bad.sum())
        value = scores[bad][0].item()
        raise ScoreError(
            where,
            found=f"{count} value(s) that are not finite, the first {value}",
            expected=f"finite {kind}",
            do="Predict this case again; NaN usually comes from half-precision overflow in the network.",
        )


def undecided(scores: Tensor, kind: Kind, where: Tensor, *, classes_sum: bool = True) -> Tensor:
    """Scores (C, n), with those of the voxels `where` (n,) that cannot be of `kind` (`check`) put in place of which
    decide for no class: of voxels that do not count, in which there may be anything.
    """
    bad = ~torch.isfinite(scores)
    if kind in ("logits", "log_probs"):
        bad &= scores != -torch.inf
    wrong = bad.any(0)
    if kind in ("logits", "log_probs"):
        wrong |= (scores == -torch.inf).all(0) & classes_sum
    else:
        wrong |= (scores < 0).any(0) | (scores.sum(0) <= 0 if kind == "scores" else (scores > 1 + SUM_TOLERANCE).any(0))
    if classes_sum and kind in ("probs", "log_probs"):
        total = scores.double().sum(0) if kind == "probs" else scores.double().logsumexp(0).exp()
        wrong |= (total - 1).abs() > SUM_TOLERANCE
    classes = len(scores) if classes_sum else 2
    even = {"logits": 0.0, "log_probs": -math.log(classes), "probs": 1 / classes, "scores": 1.0}[kind]
    return torch.where(wrong & where, even, scores)


def _otherwise(low: float, kind: Kind, classes_sum: bool) -> str:
    """What else scores of `low` and more may be declared as, in words that are then taken."""
    if low < 0:
        return "If these are raw network outputs, declare them with kind='logits' (--kind logits)."
    if kind == "log_probs":
        return "If these are probabilities, declare them with kind='probs' (--kind probs)."
    if classes_sum:
        return (
            "Positive scores that need not sum to 1, as counts, bytes or rounded probabilities, are kind='scores'"
            " (--kind scores); raw network outputs are kind='logits' (--kind logits)."
        )
    return (
        "Divide them by what stands for 1, 255 in bytes; raw network outputs are declared with kind='logits' (--kind"
        " logits)."
    )


def less(logits: Tensor, energy: Tensor, resolution: Resolution = FULL, dim: int = 0) -> Tensor:
    """Logits less their free `energy` (the shape without `dim`), at least the resolution's lowest, in float64."""
    return (logits.double() - energy.unsqueeze(dim)).clamp_min(resolution.lowest)


def canonical(scores: Tensor, kind: Kind, dim: int = 0, resolution: Resolution = FULL) -> Tensor:
    """Canonical log-probabilities x = log S(z) in float64, with the shape of `scores`; logsumexp of x over `dim` is 0.

    logits: z - F(z), at least the resolution's lowest. probs: log(max(p, zero)). scores: normalised over classes, then
    as probs. log_probs: at least log(zero).
    """
    s, floor = scores.double(), resolution.zero
    if kind == "logits":
        return less(s, free_energy(s, dim), resolution, dim)
    if kind == "probs":
        s = s.clamp_min(floor).log()
    elif kind == "scores":
        s = (s / s.sum(dim, keepdim=True)).clamp_min(floor).log()
    elif kind == "log_probs":
        s = s.clamp_min(torch.log(torch.tensor(floor, dtype=torch.float64)).item())
    return s - torch.logsumexp(s, dim, keepdim=True)
