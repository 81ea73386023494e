"""Figure 6: whether the number of bins matters. ECE by image with a two-level bootstrap interval, ACE pooled as mean
and [min, max] over repeats, a group of bars a pipeline.

Source: K26 Figure 6, Appendix G.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from segcal.study.configuration import CLEAN
from segcal.study.figures import style
from segcal.study.figures.material import Columns, among, interval, rows

PIPELINES = ("zbar", "TS(zbar)", "MS(zbar)", "MSc(zbar)", "LTS(zbar)", "CDC(zbar)")
ECE = {20: "ece_20", 30: "ece_30", 40: "ece_40", 50: "ece"}
ACE = {15: "ace", 20: "ace_20", 30: "ace_30", 40: "ace_40"}
FILLS = (("#ffffff", ""), ("#9fc8e3", "///"), ("#3f8fc4", "..."), ("#0b4f7d", ""))

Bar = tuple[float, float, float]


@style.styled
def draw(scores: Columns, pooled: Columns) -> Figure:
    """From the tables `scores` and `pooled`, on the clean test cases."""
    by_case, by_pool = rows(scores, cohort=CLEAN), rows(pooled, cohort=CLEAN)
    pipelines = among(by_case, PIPELINES)
    figure = style.page(style.WIDE, 2.9)
    first, second = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    _bars(first, pipelines, {f"{b} bins": [_bootstrapped(by_case, p, m) for p in pipelines] for b, m in ECE.items()})
    _bars(second, pipelines, {f"{b} bins": [_spread(by_pool, p, m) for p in pipelines] for b, m in ACE.items()})
    first.set_ylabel("ECE by image, mean (95 % interval)")
    second.set_ylabel("ACE, mean [min, max]")
    return figure


def _bootstrapped(table: Columns, pipeline: str, metric: str) -> Bar:
    found = interval(rows(table, pipeline=pipeline, metric=metric))
    return found.mean, found.low, found.high


def _spread(table: Columns, pipeline: str, metric: str) -> Bar:
    found = rows(table, pipeline=pipeline, metric=metric)["value"].astype(np.float64)
    found = found[~np.isnan(found)]
    return (float(found.mean()), float(found.min()), float(found.max())) if found.size else (np.nan,) * 3


def _bars(axes: Axes, pipelines: Sequence[str], groups: dict[str, list[Bar]]) -> None:
    for place, ((label, bars), (color, hatch)) in enumerate(zip(groups.items(), FILLS, strict=True)):
        x = np.arange(len(pipelines)) + 0.2 * (place - 1.5)
        mean, low, high = np.array(bars).T
        axes.bar(x, mean, 0.19, color=color, hatch=hatch, edgecolor="#303030", lw=0.6, label=label)
        axes.vlines(x, low, high, color="#000000", lw=1)
    axes.set_xticks(range(len(pipelines)), [style.named(p) for p in pipelines], fontsize=7)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color=style.GRID, lw=0.6)
    axes.set_axisbelow(True)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=4,
        frameon=False,
        handlelength=1.2,
        handletextpad=0.4,
        columnspacing=0.9,
        borderaxespad=0.2,
    )
