"""What `segcal check` finds out about predictions before anything is fitted, and what other commands must say too."""

from segcal.checking.check import FINDERS, TRAPS, Checkup, check, traps
from segcal.checking.finding import Finding
from segcal.checking.grouping import PARAMETERS

__all__ = ["FINDERS", "PARAMETERS", "TRAPS", "Checkup", "Finding", "check", "traps"]
