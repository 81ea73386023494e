"""Figure 8: reliability on the test cases, a panel a cohort: the single network, the uncalibrated ensemble, the best pipeline by ACE, and the best of those that keep the order
of classes.

The best are chosen once, by mean ACE over repeats on clean test cases, so that a shifted cohort shows the same pipelines; where both are one, it is drawn once. The ensemble
is pooled as the best pipeline's input is. A point is a bin's mean confidence and accuracy over repeats, its bar [min, max] of the accuracy over repeats; bins without voxels
are left out. Numbers in parentheses are mean ACE. Source: K26 Figure 8.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from segcal.study.figures import style
from segcal.study.figures.material import TEST, Absent, Columns, rows, values

UNCALIBRATED = ("p0", "pbar", "zbar")
ORDER_PRESERVING = ("TS", "ETS", "LTS", "CMSop")
"""Calibrators that keep the ranking of classes at every voxel."""


def mean_ace(pooled: Columns, cohort: str) -> dict[str, float]:
    """Mean ACE over repeats by pipeline; pipelines without a number are left out."""
    chosen = rows(pooled, cohort=cohort, metric="ace")
    means = {p: rows(chosen, pipeline=p)["value"].astype(np.float64) for p in values(chosen, "pipeline")}
    return {p: float(np.nanmean(v)) for p, v in means.items() if np.isfinite(v).any()}


def chosen_of(ace: Mapping[str, float]) -> dict[str, list[str]]:
    """Pipelines to draw, each with what it is; Absent where nothing calibrated has a number."""
    calibrated = {p: v for p, v in ace.items() if p not in UNCALIBRATED}
    if not calibrated:
        raise Absent("no calibrated pipeline with an ACE")
    best = min(calibrated, key=lambda p: calibrated[p])
    kept = {p: v for p, v in calibrated.items() if p.split("(")[0] in ORDER_PRESERVING}
    out: dict[str, list[str]] = {p: [] for p in ("p0", "pbar" if "pbar" in best else "zbar") if p in ace}
    out.setdefault(best, []).append("best")
    if kept:
        out.setdefault(min(kept, key=lambda p: kept[p]), []).append("best that keeps the order")
    return out


def curve(table: Columns) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean confidence (bins,) and accuracy over repeats, and [min, max] of the accuracy (2, bins), of bins with voxels in at least one repeat."""
    confidence, accuracy, extent = [], [], []
    for b in sorted(values(table, "bin")):
        one = rows(table, bin=b)
        known = one["voxels"] > 0
        if known.any():
            hit = one["accuracy"][known].astype(np.float64)
            confidence.append(one["confidence"][known].astype(np.float64).mean())
            accuracy.append(hit.mean())
            extent.append((hit.min(), hit.max()))
    return np.array(confidence), np.array(accuracy), np.array(extent, np.float64).reshape(-1, 2).T


@style.styled
def draw(curves: Columns, pooled: Columns) -> Figure:
    """From the tables `curves` and `pooled`."""
    chosen = chosen_of(mean_ace(pooled, TEST))
    cohorts = values(curves, "cohort")
    columns = min(3, len(cohorts))
    lines = -(-len(cohorts) // columns)
    side = 2.9 if columns < 3 else style.WIDE / 3
    figure = style.page(columns * side, lines * (side + 0.1))
    for place, cohort in enumerate(cohorts):
        axes = figure.add_subplot(lines, columns, place + 1)
        axes.plot([0, 1], [0, 1], color=style.GREY, lw=0.9, ls=(0, (4, 3)), zorder=1)
        ace = mean_ace(pooled, cohort)
        start = 1.0
        for pipeline, roles in chosen.items():
            x, y, extent = curve(rows(curves, cohort=cohort, pipeline=pipeline))
            if not x.size:
                continue
            how = style.look(pipeline)
            start = min(start, float(x.min()), float(extent.min()))
            role = f"\n{' and '.join(roles)}" if roles and place == 0 else ""
            axes.plot(x, y, color=how.color, marker=how.marker, ms=3.6, lw=1.1, ls=how.line, label=f"{style.named(pipeline)} ({ace.get(pipeline, np.nan):.3f}){role}")
            axes.vlines(x, *extent, color=how.color, lw=1.2)
        low = np.floor(10 * start) / 10
        axes.set(xlim=(low, 1.01), ylim=(low, 1.01), title=cohort)
        axes.set_aspect("equal")
        axes.xaxis.set_major_formatter(PercentFormatter(1, 0))
        axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
        axes.legend(loc="lower right", frameon=False, fontsize=6.5, handlelength=1.8, borderaxespad=0.2)
        if place % columns == 0:
            axes.set_ylabel("accuracy")
        if place >= len(cohorts) - columns:
            axes.set_xlabel("confidence")
    return figure
