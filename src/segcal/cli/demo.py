"""`segcal demo`: the whole pipeline on a cohort whose true probabilities are known."""

from __future__ import annotations


def demo() -> int:
    """x"""
    return 0
