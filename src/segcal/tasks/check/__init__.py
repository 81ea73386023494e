"""What `segcal check` finds out about predictions before anything is fitted, and what other commands must say too."""

from segcal.tasks.check.check import FINDERS, TRAPS, Checkup, check, traps
from segcal.tasks.check.finding import Finding

__all__ = ["FINDERS", "TRAPS", "Checkup", "Finding", "check", "traps"]
