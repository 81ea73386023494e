"""Figure 5: what the size of the calibration set changes, as differences to a reference size, paired by repeat and
case.

NLL, ECE and BA-ECE: mean difference with a bootstrap interval over groups and repeats (95 %). ACE, one number a repeat:
mean and [min, max]. Sizes lie where they are on a logarithmic axis. The reference size is 50 where it was fitted, else
the largest. A case that is missing on one side, or NaN, is dropped. Source: K26 Figure 5, Appendix F.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from segcal.study.figures import style
from segcal.study.figures.material import Absent, Columns, among, interval, rows, values

PIPELINES = ("TS(zbar)", "MS(zbar)", "MSc(zbar)", "LTS(zbar)", "CDC(zbar)")
BY_CASE = {"nll": "NLL", "ece": "ECE", "ba_ece": "BA-ECE"}
USUAL = 50


def reference(sizes: Sequence[int]) -> int:
    """The size that others are compared with."""
    return USUAL if USUAL in sizes else max(sizes)


def paired(table: Columns, size: int, base: int) -> Columns:
    """Differences of one pipeline and metric to the size `base`, a row a repeat and case that both have."""
    now, was = rows(table, size=size), rows(table, size=base)
    before = dict(
        zip(zip(was["repeat"].tolist(), was["case"].tolist(), strict=True), was["value"].tolist(), strict=True)
    )
    keys = list(zip(now["repeat"].tolist(), now["case"].tolist(), strict=True))
    keep = np.array([key in before for key in keys], bool)
    base_values = np.array([before[key] for key in keys if key in before], np.float64)
    return {
        **{name: now[name][keep] for name in ("repeat", "case", "group")},
        "value": now["value"][keep].astype(np.float64) - base_values,
    }


def pooled(table: Columns, size: int, base: int) -> NDArray[np.float64]:
    """Differences of one pipeline's ACE to the size `base`, repeat by repeat."""
    now, was = (
        dict(zip(r["repeat"].tolist(), r["value"].tolist(), strict=True))
        for r in (rows(table, size=size), rows(table, size=base))
    )
    return np.array([now[r] - was[r] for r in sorted(now) if r in was], np.float64)


@style.styled
def draw(sizes: Columns, sizes_pooled: Columns) -> Figure:
    """From the tables `sizes` and `sizes_pooled`."""
    pipelines = among(sizes, PIPELINES)
    every = sorted(int(n) for n in values(sizes, "size"))
    if len(every) < 2:
        raise Absent("only one calibration set size")
    base = reference(every)
    figure = style.page(style.WIDE, 4.3)
    panels = [figure.add_subplot(2, 2, k + 1) for k in range(4)]
    for pipeline in pipelines:
        for axes, metric in zip(panels, BY_CASE, strict=False):
            chosen = rows(sizes, pipeline=pipeline, metric=metric)
            found = [interval(paired(chosen, n, base)) for n in every]
            _line(axes, pipeline, every, [e.mean for e in found], [e.low for e in found], [e.high for e in found])
        chosen = rows(sizes_pooled, pipeline=pipeline, metric="ace")
        spread = [pooled(chosen, n, base) for n in every]
        numbers = [(d.mean(), d.min(), d.max()) if d.size else (np.nan,) * 3 for d in spread]
        _line(panels[3], pipeline, every, *(list(column) for column in zip(*numbers, strict=True)))
    for axes, title in zip(panels, (*BY_CASE.values(), "ACE [min, max]"), strict=True):
        axes.axhline(0, color=style.GREY, lw=0.8, zorder=0)
        axes.set_title(title)
        axes.set_xscale("log")
        axes.set_xticks(every, [str(n) for n in every])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(axis="y", color=style.GRID, lw=0.6)
        axes.set_axisbelow(True)
    for axes in panels[2:]:
        axes.set_xlabel("cases to calibrate on")
    figure.supylabel(f"difference to {base} cases", fontsize=8)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(pipelines), frameon=False)
    return figure


def _line(
    axes: Axes, pipeline: str, every: Sequence[int], mean: Sequence[float], low: Sequence[float], high: Sequence[float]
) -> None:
    """Points at the sizes themselves; intervals are bands, which may lie over each other."""
    how = style.look(pipeline)
    axes.plot(every, mean, color=how.color, marker=how.marker, ms=4, lw=1, ls=how.line, label=style.named(pipeline))
    axes.fill_between(every, low, high, color=how.color, alpha=0.13, lw=0)
    for edge in (low, high):
        axes.plot(every, edge, color=how.color, lw=0.5, alpha=0.6)
