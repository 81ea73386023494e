"""Figure 3: the free energy log sum_c exp z_c of the mean logits beside the image, examples on one scale, with its
standard deviation over the pixels. Source: K26 Figure 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from segcal.study.figures import style
from segcal.study.figures.material import Absent, Example


def field(axes: Axes, example: Example, limits: tuple[float, float] | None) -> Any:
    """One map; `limits` of its colours, or its own range without the outermost half per cent at either end."""
    low, high = limits or extent([example])
    assert example.energy is not None
    shown = axes.imshow(example.energy, cmap=style.FIELD, vmin=low, vmax=high, interpolation="nearest")
    style.bare(axes)
    return shown


def extent(examples: Sequence[Example]) -> tuple[float, float]:
    """Range of colours; Absent where no number is finite."""
    every = np.concatenate([e.energy[np.isfinite(e.energy)] for e in examples if e.energy is not None])
    if not every.size:
        raise Absent("no finite free energy")
    low, high = np.percentile(every, [0.5, 99.5])
    return float(low), float(high)


@style.styled
def draw(examples: Sequence[Example]) -> Figure:
    """From examples of one cohort, an example a column."""
    limits = extent(examples)
    count = len(examples)
    aspect = max(e.seen.shape[0] / e.seen.shape[1] for e in examples)
    width = min(style.WIDE / count, 3.2, style.TALL / (2 * aspect))
    tall = aspect * width * 0.95
    figure = style.page(width * count + 0.5, 2 * tall + 0.7)
    grid = figure.add_gridspec(2, count, hspace=0.02, wspace=0.03)
    maps = []
    for column, e in enumerate(examples):
        style.picture(figure.add_subplot(grid[0, column]), e.seen, style.words(e.case))
        axes = figure.add_subplot(grid[1, column])
        maps.append(axes)
        shown = field(axes, e, limits)
        axes.set_xlabel(f"std {_spread(e):.2f}")
    bar = figure.colorbar(shown, ax=maps, extend="both", pad=0.015, fraction=0.05)
    bar.set_label("free energy")
    bar.outline.set_visible(False)
    return figure


def _spread(example: Example) -> float:
    """Standard deviation over the scored pixels; NaN for none."""
    assert example.energy is not None
    known = example.energy[np.isfinite(example.energy) & (example.labels >= 0)]
    return float(known.std()) if known.size else float("nan")
