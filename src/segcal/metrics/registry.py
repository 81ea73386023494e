"""Metrics from outside: what a class must say to stand beside segcal's own in `evaluate` and in a study's tables.

    @segcal.metrics.register                             in a script or a notebook
    @dataclass(frozen=True)
    class MaximumCalibrationError(Metric): ...

    [project.entry-points."segcal.metrics"]              in a package's pyproject.toml: known wherever it is installed
    mce = "my_package.maximum:MaximumCalibrationError"

A key that is taken, a class that cannot be one, a package that cannot be imported: UsageError.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Self, TypeVar

from segcal.data.rows import Rows
from segcal.engine.accumulate import Array, Leaf
from segcal.errors import UsageError

GROUP = "segcal.metrics"
"""Under which packages name their metrics."""


class Metric(ABC):
    """One number from sums over scored voxels: an accumulator that says what it is. Concrete ones are frozen
    dataclasses.
    """

    key: ClassVar[str]
    """Its name in JSON, CSV and studies."""

    label: ClassVar[str]
    """Its name in print."""

    better: ClassVar[int] = -1
    """-1 where lower is better, 1 where higher is, 0 where neither is."""

    pooled: ClassVar[bool] = False
    """Whether it is taken over all voxels of all cases at once, else the mean over cases is. Pooled ones have sums and
    counts for leaves only, for intervals leave cases out.
    """

    per_cent: ClassVar[bool] = False
    """Whether print shows it times 100; JSON and CSV never do."""

    @classmethod
    @abstractmethod
    def of(cls, classes: int, background: int | None) -> Self:
        """For one softmax problem of so many classes, of which `background` is left out where there is one."""

    @property
    @abstractmethod
    def leaves(self) -> Mapping[str, Leaf]:
        """What is summed."""

    @abstractmethod
    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """Partial sums of a block of scored voxels."""

    @abstractmethod
    def result(self, values: Mapping[str, Array]) -> float:
        """The number; NaN where it is not defined, as without a voxel."""


REGISTERED: dict[str, type[Metric]] = {}
"""By key."""

M = TypeVar("M", bound=type[Metric])


def register(kind: M) -> M:
    """Make a metric known; a decorator. The same class again, as in a notebook, takes the former's place."""
    if not (isinstance(kind, type) and issubclass(kind, Metric) and not kind.__abstractmethods__):
        raise UsageError(
            "register", found=repr(kind), expected="a finished subclass of segcal.metrics.Metric", do="See Metric."
        )
    there = REGISTERED.get(kind.key)
    again = there is None or (there.__module__, there.__qualname__) == (kind.__module__, kind.__qualname__)
    if not (re.fullmatch(r"[a-z][a-z0-9_]*", kind.key) and again):
        raise UsageError(
            f"register({kind.__qualname__})",
            found=f"the key {kind.key!r}",
            expected="lower-case letters, digits and underscores, and no key that is taken",
            do="Choose another key.",
        )
    REGISTERED[kind.key] = kind
    return kind


def added() -> dict[str, type[Metric]]:
    """Metrics beside segcal's own, by key."""
    for entry in packaged():
        if entry.name not in REGISTERED:
            try:
                kind = entry.load()
            except (ImportError, AttributeError) as error:
                raise UsageError(
                    f"the metric {entry.name}",
                    found=str(error),
                    expected=f"a metric at {entry.value}",
                    do="Mend the package that names it, or uninstall it.",
                ) from error
            if register(kind).key != entry.name:
                raise UsageError(
                    f"the metric {entry.name}",
                    found=f"a metric with the key {kind.key!r}",
                    expected="a metric with the key that the package gives it",
                    do="Give both the same name.",
                )
    return dict(REGISTERED)


@cache
def packaged() -> tuple[EntryPoint, ...]:
    """What installed packages name as metrics."""
    return tuple(entry_points(group=GROUP))
