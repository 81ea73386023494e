"""A law: one sentence that everything of a kind must keep, with the test that looks for a counter-example.

Promises: a broken law raises `BrokenLawError`, which names the law, its statement and what was seen; an unexpected
error of the subject counts as a broken law and is its cause. Examples are drawn by Hypothesis from a fixed seed, so a
law gives the same verdict each time and leaves no files behind. Torch computes on one thread meanwhile, as inside an
engine. Costs: said by each kit. No law: nothing is checked, and `check_all` says so with a ValueError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import InvalidArgument, Unsatisfiable
from hypothesis.strategies import SearchStrategy

from segcal.engine.single import one_thread

S = TypeVar("S")

EXAMPLES = 15
"""Examples drawn for each use of `forall`."""


class BrokenLawError(AssertionError):
    """`law` does not hold for `subject`, for this `reason`."""

    def __init__(self, law: Law[Any], subject: object, reason: str) -> None:
        self.law, self.subject, self.reason = law, subject, reason
        super().__init__(f"{_called(subject)} breaks the law {law.name!r} ({law.statement}) {reason}")

    def __reduce__(self) -> tuple[object, ...]:
        return (AssertionError, (str(self),))


@dataclass(frozen=True)
class Law(Generic[S]):
    """`name`, `statement` (one line) and the `test` that raises unless the law holds for a subject."""

    name: str
    statement: str
    test: Callable[[S], None]

    def __str__(self) -> str:
        return self.name

    def check(self, subject: S) -> None:
        """Raise BrokenLawError, naming this law, unless it holds."""
        try:
            with one_thread():
                self.test(subject)
        except (InvalidArgument, Unsatisfiable):  # the law's own mistake
            raise
        except Exception as error:
            reason = str(error) if isinstance(error, CounterExampleError) else f"{type(error).__name__}: {error}"
            broken = BrokenLawError(self, subject, reason)
            for note in getattr(error, "__notes__", ()):
                broken.add_note(note)
            raise broken from error


class CounterExampleError(AssertionError):
    """What a law's test raises where it sees a counter-example."""


def law(test: Callable[[S], None]) -> Law[S]:
    """Make a law of a function: its name is the law's, the first paragraph of its docstring the statement."""
    statement = " ".join((test.__doc__ or "").strip().split("\n\n")[0].split())
    if not statement:
        raise ValueError(f"{test.__name__}: found no docstring; expected the law in one line. Write it.")
    return Law(test.__name__, statement, test)


def require(holds: bool, reason: str) -> None:
    """Raise CounterExampleError with `reason` unless `holds`; unlike `assert`, under `python -O` too."""
    if not holds:
        raise CounterExampleError(reason)


def check_all(laws: Sequence[Law[S]], subject: S) -> None:
    """Check every law. One broken: its BrokenLawError; several: an ExceptionGroup of them."""
    if not laws:
        raise ValueError("laws: found none; expected at least one. Name the laws to check.")
    broken: list[BrokenLawError] = []
    for one in laws:
        try:
            one.check(subject)
        except BrokenLawError as error:
            broken.append(error)
    if len(broken) == 1:
        raise broken[0]
    if broken:
        raise ExceptionGroup(f"{_called(subject)} breaks {len(broken)} of {len(laws)} laws", broken)


def forall(*drawn: SearchStrategy[Any], examples: int = EXAMPLES) -> Callable[[Callable[..., None]], None]:
    """A decorator that runs a function at once on `examples` drawn values."""

    def run(body: Callable[..., None]) -> None:
        chosen = settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
            # examples are small as they are; making them smaller can take a minute where a law is broken
            phases=(Phase.generate,),
        )
        chosen(given(*drawn)(body))()

    return run


def _called(subject: object) -> str:
    """A function's or class's own name, else what an object calls itself, else its type."""
    return str(getattr(subject, "__qualname__", None) or getattr(subject, "name", None) or type(subject).__name__)
