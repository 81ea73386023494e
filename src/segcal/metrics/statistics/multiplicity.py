"""Many comparisons at once: Holm's adjusted p-values, and a sentence on what chance alone would give.

Holm (1979) and not Benjamini-Hochberg: the comparisons of a study share cases, draws and pipelines, and Holm bounds the
chance of a single false finding under any dependence, while there are too few of them (28 a data set in the paper) for
a rate of false findings to mean much. It rejects whatever Bonferroni rejects, and more. Nothing to adjust: NaN stays
NaN and is not counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segcal.metrics.statistics.resamples import Comparison


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Step-down adjusted p-values (m,): the i-th smallest times m - i + 1, made monotone, at most 1."""
    given = np.asarray(p, np.float64).ravel()
    out = np.full(given.size, np.nan)
    tested = np.flatnonzero(~np.isnan(given))
    ranked = tested[np.argsort(given[tested], kind="stable")]
    out[ranked] = np.minimum(np.maximum.accumulate(given[ranked] * np.arange(ranked.size, 0, -1)), 1)
    return out


def note(comparisons: Sequence[Comparison], replicates: int) -> str:
    """How many paired comparisons were made, how many intervals exclude zero, how many would by chance, and what the
    draws can resolve.
    """
    tested = [c for c in comparisons if not np.isnan(c.p)]
    same = sum(c.identical for c in comparisons)
    if not tested:
        return (
            f"No paired comparison was made ({same} differences are exactly zero)."
            if same
            else "No paired comparison was made."
        )
    level = tested[0].estimate.level
    adjusted = holm([c.p for c in tested])
    found = sum(c.estimate.excludes_zero for c in tested)
    text = (
        f"{len(tested)} paired comparisons; {found} intervals exclude 0, where {(1 - level) * len(tested):.2f} would by"
        f" chance if no pair differed and intervals covered what they say. {int((adjusted < 1 - level).sum())} stay"
        f" below {1 - level:.2g} after Holm's adjustment."
    )
    least = min(1.0, len(tested) * 2 / (replicates + 1))
    if least >= 1 - level:
        text += f" With {replicates} draws the smallest p comes out at {least:.2g} after adjustment: draw more to tell."
    return text + (f" Differences exactly zero in every case, and not counted: {same}." if same else "")
