"""The papers' own way of fitting, for comparison with the exact solvers: Adam, and a search of hyper-parameters."""

from segcal.study.recipe.recipe import Recipe

__all__ = ["Recipe"]
