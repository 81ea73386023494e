"""Thresholds with a guarantee that holds for new groups (patients), whatever the distribution.

    rank, bound       split-conformal prediction (Papadopoulos 2002; Vovk 2005): a new group's score is at most the
                      ceil((n + 1)(1 - alpha))-th smallest of n with probability at least 1 - alpha, and at most that
                      much plus 1 / (n + 1) where scores are never tied
    controlled        conformal risk control (Angelopoulos et al. 2024): of losses in [0, 1] that do not rise from one
                      setting to the next one below, the last whose (n mean + 1) / (n + 1) <= alpha has an expected loss
                      of at most alpha

Both need that the new group is exchangeable with the n, and that the n did not fit what is judged. `least(alpha)` is
the smallest n that either can do with: ceil(1 / alpha) - 1. Fewer: TooFewError, with the number; a threshold is never
clamped to the largest of too few scores, which would promise what nobody knows.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segcal.errors import UsageError

ROUNDING = 1e-12
"""What the rounding of a mean of shares may add without deciding."""


class TooFewError(UsageError):
    """Fewer groups than a guarantee takes."""


def check_alpha(alpha: float) -> None:
    """UsageError for a number that is no share."""
    if not 0 < alpha < 1:
        raise UsageError(
            "alpha", found=str(alpha), expected="a share between 0 and 1", do="Give one such as 0.1 or 0.05."
        )


def least(alpha: float) -> int:
    """The smallest number of groups with which a bound at 1 - alpha can be set."""
    check_alpha(alpha)
    return math.ceil(round(1 / alpha, 9)) - 1


def rank(n: int, alpha: float) -> int:
    """Which of n scores, counted from the smallest as 1, bounds a new one with probability 1 - alpha. TooFewError where
    there is no such.
    """
    check_alpha(alpha)
    k = math.ceil(round((n + 1) * (1 - alpha), 9))
    if k > n:
        raise too_few(n, alpha)
    return k


def bound(scores: ArrayLike, alpha: float) -> float:
    """What a new score does not exceed with probability 1 - alpha. TooFewError as `rank`."""
    x = np.sort(np.asarray(scores, np.float64).ravel())
    return float(x[rank(x.size, alpha) - 1])


def controlled(means: ArrayLike, n: int, alpha: float) -> int:
    """The index of the last of `means`, mean losses of n groups at settings of rising loss, whose expected loss for a
    new group is at most alpha; -1 where none is. TooFewError for n below `least(alpha)`.
    """
    losses: NDArray[np.float64] = np.asarray(means, np.float64)
    if n < least(alpha):
        raise too_few(n, alpha)
    low = (n * losses + 1) / (n + 1) <= alpha + ROUNDING
    return int(np.argmin(np.append(low, False))) - 1


def too_few(n: int, alpha: float) -> TooFewError:
    """What is said of so few."""
    return TooFewError(
        "groups",
        found=f"{n} groups of labelled cases to set a threshold by",
        expected=f"at least {least(alpha)} for {100 * alpha:g} %",
        do="Fit with more patients, or ask for a larger share.",
    )
