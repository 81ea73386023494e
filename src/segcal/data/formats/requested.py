"""Which maps a user asked for beside the probabilities, and the folder each goes to.

A map is delivered by name (`entropy`, `confidence`, `error`) and goes to a folder of that name. `probability` stands
for one map a channel, taken from the probabilities themselves, in folders `probability_<class>`; characters of a class
name that a file system may refuse become '_', and names that are then alike end in the number of their channel. Nothing
asked for: no folder.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from segcal.data.head import Head
from segcal.errors import UsageError, visible

PROBABILITY = "probability"
"""Name of the request for one map a channel."""

OUTER = "outer_"
"""How the folder of a mask that holds nearly all of a structure begins."""


@dataclass(frozen=True)
class Shown:
    """What a file may say of its numbers: a description, and the least and largest to be displayed."""

    description: str
    low: float
    high: float


@dataclass(frozen=True)
class Map:
    """One map: the folder it goes to, which is also the name it is delivered by unless it is a `channel` of the
    probabilities.
    """

    folder: str
    channel: int | None = None

    def shown(self, head: Head) -> Shown | None:
        """What a viewer needs to know of it; None for a map that is not known here."""
        if self.channel is not None:
            return Shown(f"probability of {visible(head.classes[self.channel])}", 0, 1)
        largest = math.log(max(len(head.part_classes(part)) for part in range(len(head.parts))))
        return {
            "entropy": Shown("entropy of the class probabilities, nats", 0, largest),
            "confidence": Shown("probability of the decided label", 0, 1),
            "error": Shown("probability that the delivered label is wrong", 0, 1),
        }.get(self.folder, Shown("1 where the structure may be", 0, 1) if self.folder.startswith(OUTER) else None)


@dataclass(frozen=True)
class Requested:
    """The maps a sink writes, one folder each.

    `names` as asked for; `classes` name the channels and are needed for `probability` only.
    """

    names: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.names:
            if not re.fullmatch(r"\w[\w-]*", name) or self.names.count(name) > 1:
                known = "names of maps such as 'entropy', each once"
                raise UsageError(
                    "maps",
                    found=repr(name),
                    expected=known,
                    do="Name each map once, for example --maps entropy,confidence,error.",
                )
        if PROBABILITY in self.names and not self.classes:
            raise UsageError(
                "maps",
                found=f"{PROBABILITY!r} and no class names",
                expected="the names of the channels",
                do="Give the sink the head's classes.",
            )

    @property
    def delivered(self) -> tuple[str, ...]:
        """Maps that must come with every block."""
        return tuple(n for n in self.names if n != PROBABILITY)

    @property
    def maps(self) -> tuple[Map, ...]:
        """All maps, in the order asked for."""
        out: list[Map] = []
        for name in self.names:
            out += (
                [Map(folder, c) for c, folder in enumerate(folders(f"{PROBABILITY}_", self.classes))]
                if name == PROBABILITY
                else [Map(name)]
            )
        return tuple(out)

    def check(self, classes: Sequence[str]) -> None:
        """UsageError if the channels of a cohort are not those the folders are named after."""
        if PROBABILITY in self.names and tuple(classes) != self.classes:
            raise UsageError(
                "maps",
                found=f"channels {list(classes)}",
                expected=f"{list(self.classes)}",
                do="Make one sink a cohort.",
            )


def folders(begin: str, classes: Sequence[str]) -> list[str]:
    """A folder for each class, in whose name there is nothing that a file system may refuse."""
    safe = [re.sub(r"[^\w-]+", "_", name) for name in classes]
    # a file system may not tell upper from lower case
    alike = Counter(name.casefold() for name in safe)
    return [
        f"{begin}{name}" if name and alike[name.casefold()] == 1 else f"{begin}{name}_{channel}"
        for channel, name in enumerate(safe)
    ]
