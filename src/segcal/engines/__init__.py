"""Pin, reduce, map: the three verbs every computation over voxels is made of."""

from segcal.engines.ask import Ask, Level
from segcal.engines.engine import Engine, Outcome, damaged
from segcal.engines.need import Need
from segcal.engines.pinned import Pinned
from segcal.engines.serial import Serial
from segcal.engines.threads import Threads

__all__ = ["REGISTERED", "Ask", "Engine", "Level", "Need", "Outcome", "Pinned", "Serial", "Threads", "damaged"]

REGISTERED: tuple[type[Engine], ...] = (Serial, Threads)
"""Engines the conformance kit holds against each other."""
