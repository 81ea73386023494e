"""Names of methods, of packages too, without importing what bears them, so that a wrong one is told before torch is."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from segcal.errors import UsageError
from segcal.methods import BUILT_IN

if TYPE_CHECKING:
    from segcal.methods.registry import Named

GROUP = "segcal.methods"
"""Under which packages name their methods."""

REGISTERED: dict[str, Named] = {}
"""Methods registered by a script, or of packages that have been asked for."""


@cache
def packaged() -> tuple[EntryPoint, ...]:
    """What installed packages name as methods; none of them is imported."""
    return tuple(entry_points(group=GROUP))


def names() -> list[str]:
    """Every name of a method, as `methods` has them; nothing is imported."""
    return list(dict.fromkeys([*BUILT_IN, *REGISTERED, *(entry.name for entry in packaged())]))


def named(words: str, where: str = "method") -> list[str]:
    """The names in a list with commas. UsageError, of the argument `where`, for a name that no method has."""
    wanted = [word.strip() for word in words.split(",")]
    for name in wanted:
        if name not in BUILT_IN and name not in names():
            raise UsageError(
                where,
                found=repr(name),
                expected="one of " + ", ".join(names()) + ", or auto alone",
                do="Separate several with commas.",
            )
    return wanted
