"""A finding: one thing worth saying about predictions, and the words in which numbers and names are said.

    error     these cases cannot be used
    warning   a fit would run, and its numbers would mislead
    note      worth knowing
    ok        as it should be

A *finder* looks at a cohort and the facts found of it and yields findings; nothing to say: none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from segcal.data.cohort import Cohort

Severity = Literal["error", "warning", "note", "ok"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note", "ok")
"""From the worst."""

FEW_CASES = 5
"""Cases with a class (or groups) below which its numbers are anecdotes."""

SHOWN = 5
"""Cases or classes named in one finding."""


def conjoined(words: Sequence[object]) -> str:
    """Words as a sentence names them: a, b and c."""
    *first, last = map(str, words)
    return f"{', '.join(first)} and {last}" if first else last


@dataclass(frozen=True)
class Finding:
    """One thing worth saying.

    `topic`: what it is about, in a word; `do`: what to do about it, or nothing; `options`: the options of the command
    line that would do it, by the name of their field, for the command to type next.
    """

    severity: Severity
    topic: str
    text: str
    do: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, str]:
        """A plain description."""
        return {"severity": self.severity, "topic": self.topic, "text": self.text, "do": self.do}

    def __str__(self) -> str:
        return f"{self.severity}: {self.topic}: {self.text}" + (f". {self.do}" if self.do else "")


Finder = Callable[[Cohort, Mapping[str, Any]], Iterator[Finding]]


def count(n: int, what: str) -> str:
    """`3 cases`, `1 case`."""
    return f"{n} {what}{'' if n == 1 else 's'}"


def percent(n: int, total: int) -> str:
    """The share of `n` in `total`; `none` for 0, of nothing too."""
    share = 100 * n / total if total else 0.0
    return "none" if n == 0 else "less than 0.1 %" if share < 0.05 else "all" if n == total else f"{share:.1f} %"


def some(names: Sequence[str], shown: int = SHOWN) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:shown]) + (f", and {len(names) - shown} more" if len(names) > shown else "")
