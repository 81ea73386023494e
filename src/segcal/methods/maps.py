"""What every map of one softmax problem shares: what it promises, what it needs, and how it is applied.

There are two kinds. A map of rows (`Map`) turns canonical log-probabilities (C, n) into calibrated ones. A field of
temperatures (`TemperatureMap`) gives each voxel one T from what surrounds it, and divides by it. Both say in `needs`
what they need beside the rows of their own voxels; whoever opens a case provides it (`segcal.methods.context`), has the
map draw its numbers of each voxel from it (`context`), and hands them over with the rows. No caller asks which kind a
map is.

    forward(log_probs, free_energy, given[, context]) -> calibrated log-probabilities (C, n)

`free_energy` (n,) is there where `needs.logits`. Where the class decided or the ranking matters it is read off `given`
(C, n), numbers in the order of the scores as they came, which rounding may tie in log-probabilities; without it, off
those. `context` (..., n) is handed to maps that need something of the case, and to no other. All is plain traceable
tensor code in the dtype it is given. No voxel: an empty result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from segcal.data.places.place import Decided, Place
from segcal.data.surroundings import Neighbourhood
from segcal.errors import UsageError
from segcal.methods.guarantees import Guarantees, Status

FLOOR = 1e-6
"""Smallest temperature of a field."""


@dataclass(frozen=True)
class Needs:
    """What a map needs beside the log-probabilities of its own voxels.

    `logits`: their free energy, so raw logits have to be known. Of the case: `reach`, the voxels it looks at on each
    side in the planes across spatial axis `axis` (0: none, None: the whole case at once), and their `scores`, unless it
    has no use for them; `fields` by name, such as its image; `places`, such as the distance to the predicted boundary;
    `segmenter`: the network itself, for a case as a whole. `mean`: of the numbers it draws it takes their mean over the
    case, crop padding left out. `draws`: it draws numbers, although its own scores are all it looks at.
    """

    logits: bool = False
    reach: int | None = 0
    scores: bool = True
    axis: int = 0
    fields: tuple[str, ...] = ()
    places: tuple[Place | Decided, ...] = ()
    segmenter: bool = False
    mean: bool = False
    draws: bool = False

    def __post_init__(self) -> None:
        if self.segmenter and self.reach is not None:
            raise UsageError(
                "reach",
                found=f"{self.reach} for a map that needs the network",
                expected="None, the whole case",
                do="A network sees whole images; declare reach=None.",
            )

    @property
    def case(self) -> bool:
        """Whether rows alone will not do."""
        return self.reach != 0 or self.mean or self.draws or bool(self.fields or self.places)

    def __or__(self, other: Needs) -> Needs:
        """What two maps need together; they look along one axis."""
        return Needs(
            self.logits or other.logits,
            None if self.reach is None or other.reach is None else max(self.reach, other.reach),
            self.scores or other.scores,
            self.axis if self.reach != 0 else other.axis,
            tuple(sorted({*self.fields, *other.fields})),
            tuple(dict.fromkeys((*self.places, *other.places))),
            self.segmenter or other.segmenter,
            self.mean or other.mean,
            self.draws or other.draws,
        )


@dataclass(frozen=True)
class AtBound:
    """A fitted number `value` that sits at the end of what it may be; `meaning` says what that does."""

    name: str
    value: float
    meaning: str


KINDS: dict[str, type[PartMap]] = {}
"""Kinds of maps by `type_name`, from here or elsewhere: each enters when its class is made."""


class PartMap(nn.Module, ABC):
    """One softmax problem's map, of either kind.

    Parameters are float64 buffers, fixed once fitted; they move with `.to(device)`, and `.half()` or other changes of
    type leave them as they are. A concrete kind has a `type_name` of its own, by which a file names it: one that is
    taken is a UsageError where the class is made (again, as in a notebook, is allowed).
    """

    type_name: ClassVar[str]

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        name = cls.__dict__.get("type_name")
        if name is None:
            return
        there = KINDS.get(name)
        if there is not None and (there.__module__, there.__qualname__) != (cls.__module__, cls.__qualname__):
            raise UsageError(
                f"type_name of {cls.__qualname__}",
                found=repr(name),
                expected="a name that no other kind of map has",
                do=f"{there.__module__}.{there.__qualname__} has it: choose another.",
            )
        KINDS[name] = cls

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_post_hook(_derived_again)  # type: ignore[no-untyped-call]

    def derive(self) -> None:
        """Read off the parameters, as plain values, what would end a trace if `forward` did. Called by a map that needs
        it when it is made, and whenever other parameters are loaded into it, which may promise something else.
        """

    def parameter(self, name: str, value: Tensor) -> None:
        """Register a fitted parameter: a float64 buffer, so that it moves with the module, is saved, and is not trained
        by accident.
        """
        self.register_buffer(name, value.detach().to(torch.float64, copy=True))

    def extra_repr(self) -> str:
        """What `print` shows: what it says of itself, long tables by their shape."""
        if any(value.is_meta for value in self.state_dict().values()):
            return ""  # there are no numbers
        return ", ".join(f"{name}={_brief(value)}" for name, value in self.describe().items())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch does not annotate it
        for name, kept in before.items():
            moved = self._buffers[name]
            if kept is not None and moved is not None and moved.dtype != kept.dtype:
                self._buffers[name] = kept.to(moved.device)
        return self

    @property
    def named(self) -> str:
        """How a file names it."""
        return self.type_name

    @property
    @abstractmethod
    def classes(self) -> int | None:
        """Classes it is for; None where any number will do."""

    @property
    def needs(self) -> Needs:
        """What it needs beside log-probabilities: nothing, unless it says so."""
        return Needs()

    def context(self, near: Neighbourhood) -> Tensor:
        """The numbers of each voxel it draws from what surrounds it: (..., slices, rows, columns), the planes of `near`
        less their margin.

        `near.log_probs` are the rows of its own part; fields, places and the network are there as `needs` says.
        """
        raise NotImplementedError(f"{type(self).__name__} needs something of the case and does not say what it draws")

    def settled(self, context: Tensor) -> Tensor:
        """What is handed to `forward` of drawn numbers, of their mean where `needs.mean`."""
        return context

    @abstractmethod
    def guarantees(self) -> Guarantees:
        """What the parameters promise."""

    def at_bounds(self, classes: Sequence[str]) -> list[AtBound]:
        """Parameters that sit at a bound, by the names of the classes; none unless a kind says otherwise."""
        del classes
        return []

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


def _derived_again(loaded: PartMap, keys: object) -> None:
    del keys
    loaded.derive()


SHOWN = 12
"""Numbers of a table that `print` shows; of a longer one it says the shape."""


def _brief(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if not isinstance(value, list):
        return str(value)
    table = np.asarray(value)
    return f"{table.shape}" if table.size > SHOWN else f"[{', '.join(_brief(v) for v in value)}]"


def standardised(image: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """An image (channels, ...) less a mean, in units of a scale (channels,) each. Another number of channels:
    UsageError.
    """
    if len(image) != len(mean):
        raise UsageError(
            "image",
            found=f"{len(image)} channel(s)",
            expected=f"{len(mean)}, as the image of the fit" if len(mean) else "no image",
            do="Give images made as those the calibrator was fitted with.",
        )
    shape = (-1, *(1 for _ in image.shape[1:]))
    return (image - mean.reshape(shape)) / scale.reshape(shape)


class Map(PartMap):
    """A map of rows."""

    @abstractmethod
    def forward(self, log_probs: Tensor, free_energy: Tensor | None = None, given: Tensor | None = None) -> Tensor:
        """Calibrated log-probabilities (C, n); one that needs something of the case takes `context` last."""


class TemperatureMap(PartMap):
    """A field of temperatures: log S(x / T), T one positive number a voxel, drawn from what surrounds it.

    Whatever the parameters, and whatever T is drawn from, it keeps label and order: dividing all classes of a voxel by
    one T > 0 keeps the sign of each difference of two of them. A T below `FLOOR` counts as that, so that this holds of
    every field. `context`, `settled`, then `temperature` give T.
    """

    def forward(
        self,
        log_probs: Tensor,
        free_energy: Tensor | None = None,
        given: Tensor | None = None,
        context: Tensor | None = None,
    ) -> Tensor:
        """log S(x / T), (C, n)."""
        assert context is not None
        temperature = self.temperature(context, log_probs if given is None else given)
        return torch.log_softmax(log_probs / temperature.clamp_min(FLOOR).to(log_probs.dtype), 0)

    @abstractmethod
    def context(self, near: Neighbourhood) -> Tensor:
        """T of each voxel, or what `settled` or `temperature` makes it from."""

    def temperature(self, context: Tensor, given: Tensor) -> Tensor:
        """T (n,) of the context, and of the class decided, which is the first maximum of `given` (C, n)."""
        del given
        return context

    @abstractmethod
    def invariance(self) -> tuple[Status, str]:
        """Whether a constant added to all logits of a voxel leaves T as it is, and why."""

    def guarantees(self) -> Guarantees:
        """Label and order always; invariance as T has it."""
        return one_positive_factor(*self.invariance())


def one_positive_factor(invariant: Status, why: str) -> Guarantees:
    """What holds where the scores of each voxel are multiplied by one positive number, the same for all classes: label
    and order are kept, by whatever rule the number is chosen. `invariant`: whether the rule sees no offset, and `why`.
    """
    kept = "one positive factor for all classes"
    return Guarantees(
        invariant,
        "proven",
        "proven",
        {"translation_invariant": why, "preserves_argmax": kept, "preserves_order": kept},
    )
