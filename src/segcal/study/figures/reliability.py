"""Figure 8: reliability on the test cases, a panel a cohort: the single network, the uncalibrated ensemble, the best
pipeline by ACE, and the best of those that keep the order of classes.

The best are those of each cohort itself, by mean ACE over its repeats; where both are one, it is drawn once. The
ensemble is pooled as the best pipeline's input is. A point is a bin's mean confidence and accuracy over repeats, its
bar [min, max] of the accuracy over repeats; bins without voxels are left out. Numbers in parentheses are mean ACE.
Source: K26 Figure 8.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray

from segcal.study.figures import style
from segcal.study.figures.material import Absent, Columns, rows, values

UNCALIBRATED = ("p0", "pbar", "zbar")
ORDER_PRESERVING = ("TS", "ETS", "LTS", "CMSop")
"""Calibrators that keep the ranking of classes at every voxel."""

LOWEST, ORDERED = "*", "°"
"""Marks of the cohort's lowest ACE, and of the lowest among those that keep the order."""


def mean_ace(pooled: Columns, cohort: str) -> dict[str, float]:
    """Mean ACE over repeats by pipeline; pipelines without a number are left out."""
    chosen = rows(pooled, cohort=cohort, metric="ace")
    means = {p: rows(chosen, pipeline=p)["value"].astype(np.float64) for p in values(chosen, "pipeline")}
    return {p: float(np.nanmean(v)) for p, v in means.items() if np.isfinite(v).any()}


def chosen_of(ace: Mapping[str, float]) -> dict[str, str]:
    """Pipelines to draw, each with what it is; Absent where nothing calibrated has a number."""
    calibrated = {p: v for p, v in ace.items() if p not in UNCALIBRATED}
    if not calibrated:
        raise Absent("no calibrated pipeline with an ACE")
    best = min(calibrated, key=lambda p: calibrated[p])
    kept = {p: v for p, v in calibrated.items() if p.split("(")[0] in ORDER_PRESERVING}
    ordered = min(kept, key=lambda p: kept[p]) if kept else ""
    out = dict.fromkeys([p for p in ("p0", "pbar" if "pbar" in best else "zbar") if p in ace], "")
    out[best] = LOWEST + ORDERED if best == ordered else LOWEST
    if ordered:
        out.setdefault(ordered, ORDERED)
    return out


def curve(table: Columns) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean confidence (bins,) and accuracy over repeats, and [min, max] of the accuracy (2, bins), of bins with voxels
    in at least one repeat.
    """
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
    cohorts = values(curves, "cohort")
    chosen = {cohort: chosen_of(mean_ace(pooled, cohort)) for cohort in cohorts}
    lines, columns = style.panels(len(cohorts))
    side = {1: 3.4, 2: 2.8}.get(columns, style.WIDE / 3)
    figure = style.page(columns * side, lines * (side + 0.3) + (0.6 if columns == 1 else 0.3))
    drawn = {(c, p): curve(rows(curves, cohort=c, pipeline=p)) for c in cohorts for p in chosen[c]}
    start = min((float(min(x.min(), extent.min())) for x, _, extent in drawn.values() if x.size), default=0.0)
    low = np.floor(10 * start) / 10
    keys: dict[str, Line2D] = {}
    for place, cohort in enumerate(cohorts):
        axes = figure.add_subplot(lines, columns, place + 1)
        axes.plot([0, 1], [0, 1], color=style.GREY, lw=0.9, ls=(0, (4, 3)), zorder=1)
        ace = mean_ace(pooled, cohort)
        for pipeline, role in chosen[cohort].items():
            x, y, extent = drawn[cohort, pipeline]
            if not x.size:
                continue
            how = style.look(pipeline)
            axes.plot(
                x,
                y,
                color=how.color,
                marker=how.marker,
                ms=3.6,
                lw=1.1,
                ls=how.line,
                label=f"({ace.get(pipeline, np.nan):.3f}{role})",
            )
            keys.setdefault(style.named(pipeline), axes.get_lines()[-1])
            axes.vlines(x, *extent, color=how.color, lw=1.2)
        axes.set(xlim=(low, 1.01), ylim=(low, 1.01), title=cohort)
        axes.set_aspect("equal")
        axes.xaxis.set_major_formatter(PercentFormatter(1, 0))
        axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
        # below the label of the axis, whatever the panel's size
        below = axes.transAxes + ScaledTranslation(0, -32 / 72, figure.dpi_scale_trans)
        numbers = {
            "ncols": 4,
            "frameon": False,
            "fontsize": 7,
            "handlelength": 1.3,
            "handletextpad": 0.3,
            "columnspacing": 0.7,
            "borderaxespad": 0,
        }
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below, **numbers).set_in_layout(False)
        if place % columns == 0:
            axes.set_ylabel("accuracy")
        axes.set_xlabel("confidence\n\n", labelpad=1)
    figure.legend(
        keys.values(),
        keys.keys(),
        loc="outside upper center",
        ncols=columns if columns < 3 else len(keys),
        frameon=False,
        title=f"mean ACE in brackets; {LOWEST} the cohort's lowest, {ORDERED} of those that keep the order",
        title_fontsize=7,
    )
    return figure
