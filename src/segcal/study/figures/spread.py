"""How calibration differs from image to image: ECE of every test image by pipeline, since a small mean may hide images
that are badly off.

An image's value is its mean over the repeats in which it was tested. Box: quartiles and median; whiskers: from 5 to 95
%; points: the images. Images without a value are left out. Beyond the paper.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from segcal.study.configuration import CLEAN
from segcal.study.figures import style
from segcal.study.figures.material import Absent, Columns, rows, values


def by_image(table: Columns) -> NDArray[np.float64]:
    """Mean over repeats of each case's value, one pipeline's and one metric's rows given; NaN left out."""
    sums: dict[str, list[float]] = {}
    for case, value in zip(table["case"].tolist(), table["value"].tolist(), strict=True):
        if np.isfinite(value):
            sums.setdefault(case, []).append(value)
    return np.array([np.mean(v) for _, v in sorted(sums.items())], np.float64)


@style.styled
def draw(scores: Columns) -> Figure:
    """From the table `scores`, on the clean test cases."""
    table = rows(scores, cohort=CLEAN, metric="ece")
    found = {p: by_image(rows(table, pipeline=p)) for p in values(table, "pipeline")}
    found = {p: v for p, v in found.items() if v.size}
    if not found:
        raise Absent("no ECE by image on clean test cases")
    figure = style.page(5.2, 0.7 + 0.25 * len(found))
    axes = figure.add_subplot()
    draws = np.random.default_rng(0)
    for row, (pipeline, v) in enumerate(found.items()):
        how = style.look(pipeline)
        axes.scatter(v, row + draws.uniform(-0.28, 0.28, v.size), s=7, color=how.color, alpha=0.6, lw=0, zorder=1)
        low, q1, median, q3, high = np.percentile(v, [5, 25, 50, 75, 95])
        axes.hlines(row, low, high, color="#202020", lw=0.9, zorder=2)
        axes.barh(row, q3 - q1, 0.5, left=q1, facecolor=(1, 1, 1, 0.55), edgecolor="#202020", lw=0.9, zorder=3)
        axes.vlines(median, row - 0.25, row + 0.25, color="#000000", lw=2, zorder=4)
    axes.set_yticks(range(len(found)), [style.named(p) for p in found])
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=style.GRID, lw=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("ECE of an image (50 bins)")
    return figure
