"""Calibration over the distance to the label boundary: how much more sure than right a pipeline is, band by band, a panel a cohort.

Above zero it is too sure. Mean over repeats with [min, max]; the share of voxels in each band stands below it. Bands without voxels are left out. Beyond the paper, whose BA-
ECE averages the absolute gaps of these bands, weighted by nearness.
"""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from segcal.study.figures import style
from segcal.study.figures.material import Columns, among, rows, values

PIPELINES = ("p0", "zbar", "TS(zbar)", "MS(zbar)", "DC(zbar)", "LTS(zbar)", "CMSop(zbar)")


def edges(bands: Columns) -> list[tuple[float, float]]:
    """Bands [low, high), in order."""
    return sorted(dict.fromkeys(zip(bands["low"].tolist(), bands["high"].tolist(), strict=True)))


@style.styled
def draw(bands: Columns) -> Figure:
    """From the table `bands`."""
    pipelines = among(bands, PIPELINES)
    cohorts = values(bands, "cohort")
    cuts = edges(bands)
    lines, columns = style.panels(len(cohorts))
    figure = style.page(style.WIDE if columns == 3 else 3.6 * columns, 0.45 + 2.3 * lines)
    first = None
    for place, cohort in enumerate(cohorts):
        axes = figure.add_subplot(lines, columns, place + 1, sharey=first)
        first = first or axes
        axes.axhline(0, color=style.GREY, lw=0.8, zorder=0)
        for k, pipeline in enumerate(pipelines):
            how = style.look(pipeline)
            found = []
            for low, high in cuts:
                one = rows(bands, cohort=cohort, pipeline=pipeline, low=low, high=high)
                gap = (one["confidence"] - one["accuracy"]).astype(np.float64)[one["voxels"] > 0]
                found.append((gap.mean(), gap.min(), gap.max()) if gap.size else (math.nan,) * 3)
            mean, lowest, highest = np.array(found).T
            x = np.arange(len(cuts)) + 0.09 * (k - (len(pipelines) - 1) / 2)
            axes.plot(x, mean, color=how.color, marker=how.marker, ms=3.8, lw=1, ls=how.line, label=style.named(pipeline))
            axes.vlines(x, lowest, highest, color=how.color, lw=1.2)
        counts = rows(bands, cohort=cohort, pipeline=pipelines[0])
        total = counts["voxels"].sum()
        shares = [rows(counts, low=low, high=high)["voxels"].sum() / total if total else math.nan for low, high in cuts]
        axes.set_xticks(range(len(cuts)), [f"{_band(*cut)}\n{s:.0%}" for cut, s in zip(cuts, shares, strict=True)], fontsize=7)
        axes.set_title(cohort)
        axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
        axes.grid(axis="y", color=style.GRID, lw=0.6)
        axes.set_axisbelow(True)
        if place % columns:
            axes.tick_params(labelleft=False)
        else:
            axes.set_ylabel("confidence $-$ accuracy")
    assert first is not None
    figure.supxlabel("distance to the label boundary; share of voxels", fontsize=8)
    handles, labels = first.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(pipelines), 7 if columns == 3 else 4), frameon=False, columnspacing=1, handlelength=2.2)
    return figure


def _band(low: float, high: float) -> str:
    return f"{low:g} to {high:g}" if math.isfinite(high) else f"from {low:g}"
