"""Pin, reduce, map: the three verbs every computation over voxels is made of."""

from segcal.engine.ask import Ask, Level
from segcal.engine.engine import Engine, Outcome, damaged
from segcal.engine.need import Need
from segcal.engine.pinned import Pinned
from segcal.engine.serial import Serial
from segcal.engine.threads import Threads

__all__ = ["REGISTERED", "Ask", "Engine", "Level", "Need", "Outcome", "Pinned", "Serial", "Threads", "damaged"]

REGISTERED: tuple[type[Engine], ...] = (Serial, Threads)
"""Engines the conformance kit holds against each other."""
