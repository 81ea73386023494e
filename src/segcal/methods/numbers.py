"""What the options of a method may be: one of a few values, or numbers that are finite, of any type of number, and no
more than can be worked off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

from segcal.data.files.reading import shown
from segcal.errors import UsageError

MOST = 100_000
"""Most epochs of a training, and most of whatever else is counted for one."""

SEEDS = (0, 2**63 - 1)
"""What a seed may be."""


def at_least_0(value: Any) -> bool:
    """Whether it is a number of 0 or more that a float can hold."""
    try:
        return isinstance(value, Real) and 0 <= float(value) < math.inf
    except OverflowError:  # a whole number may have any number of digits
        return False


def check_choices(method: object, **known: Sequence[object]) -> None:
    """UsageError unless each of these options of a method is one of the values known for it."""
    for name, values in known.items():
        if getattr(method, name) not in values:
            raise UsageError(
                name,
                found=shown(getattr(method, name)),
                expected=" or ".join(map(repr, values)),
                do="Leave it out for the default.",
            )


def check_numbers(method: object, *counts: str, **most: int) -> None:
    """UsageError unless the numbers of a method trained by epochs can be used: `learning_rate` above 0, `weight_decay`
    from 0, `seed`, and whole numbers from 1 to `MOST` called `epochs`, `patience` where it has one, and by `counts`, or
    up to as many as `most` says of one.
    """
    for name in ("learning_rate", "weight_decay"):
        value = getattr(method, name)
        known = at_least_0(value)
        if not known or (name == "learning_rate" and value == 0):
            raise UsageError(
                name,
                found=shown(value),
                expected="a finite number above 0" if name == "learning_rate" else "a finite number of 0 or more",
                do="Leave it out for the default.",
            )
    patience = ("patience",) if hasattr(method, "patience") else ()
    bounds = dict.fromkeys(("epochs", *patience, *counts), (1, MOST))
    bounds |= {name: (1, limit) for name, limit in most.items()} | {"seed": SEEDS}
    check_counts(method, **bounds)


def check_counts(method: object, **bounds: tuple[int, int]) -> None:
    """UsageError unless each of these options of a method is a whole number within its bounds."""
    for name, (least, limit) in bounds.items():
        value = getattr(method, name)
        if not (isinstance(value, int) and least <= value <= limit):
            raise UsageError(
                name,
                found=shown(value),
                expected=f"a whole number from {least} to {limit}",
                do="Leave it out for the default.",
            )
