"""What every map of one softmax problem shares.

A `PartMap` is a fitted map and its promises, which are read off its parameters. A `Map` acts on each voxel alone; a
`LocalMap` (`segcal.methods.local.map`) looks at its neighbours too. A `Map` takes canonical log-probabilities (C, n),
and the free energy (n,) if it `needs_logits`, to calibrated log-probabilities (C, n). Where the class decided or the
ranking matters it is read off `given` (C, n), numbers in the order of the scores as they came, which rounding may tie
in log-probabilities; without it, off those. It is plain traceable tensor code in the dtype it is given. No voxel: an
empty result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from segcal.methods.guarantees import Guarantees


class PartMap(nn.Module, ABC):
    """One softmax problem's map.

    Parameters are float64 buffers, fixed once fitted; they move with `.to(device)`, and `.half()` or other changes of
    type leave them as they are.
    """

    type_name: ClassVar[str]

    def parameter(self, name: str, value: Tensor) -> None:
        """Register a fitted parameter: a float64 buffer, so that it moves with the module, is saved, and is not trained
        by accident.
        """
        self.register_buffer(name, value.detach().to(torch.float64, copy=True))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch does not annotate it
        for name, kept in before.items():
            moved = self._buffers[name]
            if kept is not None and moved is not None and moved.dtype != kept.dtype:
                self._buffers[name] = kept.to(moved.device)
        return self

    @property
    @abstractmethod
    def classes(self) -> int | None:
        """Classes it is for; None where any number will do."""

    @property
    def needs_logits(self) -> bool:
        """Whether raw logits (log-probabilities and free energy) are needed."""
        return False

    @abstractmethod
    def guarantees(self) -> Guarantees:
        """What the parameters promise."""

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """Fitted numbers a person wants to see."""

    def in_units(self, unit: float) -> PartMap | None:
        """The map of scores `unit` times as large that gives what this one gives of them divided by it; None where
        there is none of its kind.
        """
        return None

    def sensitivity(self) -> float | None:
        """A bound on how far a calibrated log-probability moves, by how far the log-probabilities it is made from move
        at most; None where there is none.
        """
        return None

    @classmethod
    @abstractmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> PartMap:
        """The map with these parameters; KeyError if one is missing."""


class Map(PartMap):
    """A map of each voxel alone."""

    @abstractmethod
    def forward(self, log_probs: Tensor, free_energy: Tensor | None = None, given: Tensor | None = None) -> Tensor:
        """Calibrated log-probabilities (C, n)."""
