"""Calibration over the distance to the label boundary: how much more sure than right a pipeline is, band by band, a
panel a cohort.

Above zero it is too sure. A band stands at the mean distance of its voxels; mean over repeats with [min, max]; below,
each band's share of the voxels. Bands without voxels are left out. The axis of distances is drawn by its square root,
so that the bands near the boundary have room. Beyond the paper, whose BA-ECE averages the absolute gaps of wider bands,
weighted by nearness.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from segcal.study.figures import style
from segcal.study.figures.material import Columns, among, rows, values

PIPELINES = ("p0", "zbar", "TS(zbar)", "MS(zbar)", "DC(zbar)", "LTS(zbar)", "CMSop(zbar)")
TICKS = (0, 1, 3, 7, 15, 30, 60, 100, 200, 400)


def gaps(bands: Columns) -> NDArray[np.float64]:
    """One pipeline's and cohort's bands in order of distance, (bands, 5): mean distance, mean gap over repeats, its
    [min, max], voxels of all repeats; only bands with voxels.
    """
    out = []
    for low in sorted(values(bands, "low")):
        one = rows(bands, low=low)
        known = one["voxels"] > 0
        if known.any():
            gap = (one["confidence"] - one["accuracy"])[known].astype(np.float64)
            voxels = one["voxels"][known].astype(np.float64)
            out.append(
                (
                    np.average(one["distance"][known].astype(np.float64), weights=voxels),
                    gap.mean(),
                    gap.min(),
                    gap.max(),
                    voxels.sum(),
                )
            )
    return np.array(out, np.float64).reshape(-1, 5)


@style.styled
def draw(bands: Columns) -> Figure:
    """From the table `bands`."""
    pipelines = among(bands, PIPELINES)
    cohorts = values(bands, "cohort")
    lines, columns = style.panels(len(cohorts))
    figure = style.page(style.WIDE if columns > 1 else 4.2, 0.45 + 2.6 * lines)
    grid = figure.add_gridspec(lines, columns)
    first: Axes | None = None
    for place, cohort in enumerate(cohorts):
        cell = grid[place // columns, place % columns].subgridspec(2, 1, height_ratios=(5, 1), hspace=0.05)
        axes = figure.add_subplot(cell[0], sharey=first, sharex=first)
        first = first or axes
        axes.axhline(0, color=style.GREY, lw=0.8, zorder=0)
        found = {p: gaps(rows(bands, cohort=cohort, pipeline=p)) for p in pipelines}
        for pipeline, (x, mean, low, high, _) in ((p, f.T) for p, f in found.items()):
            how = style.look(pipeline)
            axes.plot(
                x,
                mean,
                color=how.color,
                marker=how.marker,
                ms=3.4,
                lw=1,
                ls=how.line,
                label=style.named(pipeline),
                clip_on=False,
                zorder=3,
            )
            axes.vlines(x, low, high, color=how.color, lw=1, clip_on=False)
        axes.set_xscale("function", functions=(lambda d: np.sqrt(np.maximum(d, 0)), np.square))
        axes.set_title(cohort)
        axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
        axes.grid(axis="y", color=style.GRID, lw=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelbottom=False, labelleft=place % columns == 0)
        below = figure.add_subplot(cell[1], sharex=axes)
        distance, voxels = max(found.values(), key=len).T[[0, 4]]
        below.vlines(distance, 0, voxels / max(voxels.sum(), 1), color=style.GREY, lw=3)
        below.set_ylim(bottom=0)
        below.yaxis.set_major_formatter(PercentFormatter(1, 0))
        below.yaxis.set_major_locator(MaxNLocator(2))
        if place % columns == 0:
            axes.set_ylabel("confidence $-$ accuracy")
            below.set_ylabel("voxels")
        top = float(distance.max()) if distance.size else 1.0
        axes.set_xticks([t for t in TICKS if t <= 1.05 * top])
        below.set_xticks([t for t in TICKS if t <= 1.05 * top], [f"{t}" for t in TICKS if t <= 1.05 * top])
    assert first is not None
    first.set_xlim(left=0)
    figure.supxlabel("distance to the label boundary", fontsize=8)
    handles, labels = first.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper center",
        ncols=7 if columns > 1 else 4,
        frameon=False,
        columnspacing=1,
        handlelength=2.2,
    )
    return figure
