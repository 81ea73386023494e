"""Means with honest intervals: what is independent is drawn or counted as a whole.

    estimate       what an interval is (`Estimate`), and a range over repeats (`repeat_range`)
    clustered      t intervals and a bootstrap of cases in groups
    hierarchical   the paper's two-level bootstrap of one column
    resamples      one resampling for every column of a study: two-level, or by group; paired differences
    multiplicity   Holm's adjustment, and what chance alone would give
    verdict        better, worse, or that it cannot be told, and one plain sentence of it
    coverage       how often such intervals cover the truth, measured by simulation, and the warning that follows

Promises: NaN values are dropped and counted; bootstraps are seeded (2000 replicates, linear percentiles), so pipelines
are compared on the same resamples.
"""

from __future__ import annotations

from segcal.metrics.statistics.clustered import (
    cluster_bootstrap,
    clustered_mean,
    jackknife,
    lowest_probabilities,
    one_standard_error,
    paired_difference,
)
from segcal.metrics.statistics.coverage import warning
from segcal.metrics.statistics.estimate import LEVEL, REPLICATES, Estimate, Range, repeat_range
from segcal.metrics.statistics.hierarchical import hierarchical_bootstrap
from segcal.metrics.statistics.multiplicity import holm, note
from segcal.metrics.statistics.resamples import ByGroup, Comparison, Resamples, Scheme, TwoLevel
from segcal.metrics.statistics.verdict import Band, Cell, Verdict

__all__ = [
    "LEVEL",
    "REPLICATES",
    "Band",
    "ByGroup",
    "Cell",
    "Comparison",
    "Estimate",
    "Range",
    "Resamples",
    "Scheme",
    "TwoLevel",
    "Verdict",
    "cluster_bootstrap",
    "clustered_mean",
    "hierarchical_bootstrap",
    "holm",
    "jackknife",
    "lowest_probabilities",
    "note",
    "one_standard_error",
    "paired_difference",
    "repeat_range",
    "warning",
]
