"""Methods of papers that are fitted in two ways: exactly, or as the paper trains its own module."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

from segcal.data.files.reading import shown
from segcal.errors import UsageError
from segcal.fitting.plans import Plan, Subset, Task
from segcal.methods.calibrator import Solution
from segcal.methods.maps import Map, PartMap
from segcal.methods.method import FittedMap, Method
from segcal.methods.parameterisation import ParameterCount, Parameterisation, count, drawn


@runtime_checkable
class ModuleSolver(Protocol):
    """Fits a family as its paper does: trains the paper's own module."""

    def fit(self, task: Task, make: Callable[[], Parameterisation]) -> Plan[dict[Subset, tuple[Map, Solution]]]:
        """Train on every subset the task names; `make` makes the module at its start."""


@dataclass(frozen=True)
class Published(Method):
    """A convex method that its paper fits in a way of its own.

    `solver`: None for the exact one, or what trains the paper's own module, such as `segcal.Recipe`.
    """

    parameterisation: ClassVar[type[Parameterisation]]
    """The module as its paper writes it."""

    solver: ModuleSolver | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.solver, ModuleSolver | None):
            raise UsageError(
                "solver",
                found=shown(self.solver),
                expected="a Recipe",
                do="Leave it out; --solver recipe, or the section recipe of a study, asks for the papers' own.",
            )

    def drawn(self, classes: int) -> PartMap:
        """Of the paper's module, on raw logits where it is defined on those."""
        return drawn(self.parameterisation, classes).map(not self.parameterisation.canonical)

    def counted(self, classes: int) -> ParameterCount:
        """Of the paper's module, its rank computed."""
        return count(self.parameterisation, classes, self.variables(classes))

    @classmethod
    def optimised(cls, classes: int) -> int:
        """All numbers of the paper's module."""
        return cls.parameterisation(classes).optimised

    @property
    def takes_validation(self) -> bool:
        """With the papers' recipe."""
        return self.solver is not None

    def plan(self, task: Task) -> Plan[dict[Subset, FittedMap]]:
        """Exactly, or by the recipe."""
        if self.solver is None:
            return (yield from self.exact(task))
        found = yield from self.solver.fit(task, lambda: self.parameterisation(task.classes))
        return {s: FittedMap(map_, solution) for s, (map_, solution) in found.items()}

    @abstractmethod
    def exact(self, task: Task) -> Plan[dict[Subset, FittedMap]]:
        """The optimum on every subset the task names."""
