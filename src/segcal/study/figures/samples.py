"""Figure 2: example images with labels and the deployed decision laid over, an example a row.

Ignored pixels stay as they are. Source: K26 Figure 2.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from segcal.study.figures import style
from segcal.study.figures.material import Example


@style.styled
def draw(examples: Sequence[Example], classes: Sequence[str], background: int | None) -> Figure:
    """From examples of one cohort."""
    width, heights = style.cells(examples)
    keys = style.class_keys(classes, background)
    figure = style.page(3 * width + 0.35, sum(heights) + 0.3 + 0.06 * len(examples) + 0.22 * -(-len(keys) // 6))
    grid = figure.add_gridspec(len(examples), 3, height_ratios=heights, hspace=0.02, wspace=0.02)
    for row, e in enumerate(examples):
        axes = [figure.add_subplot(grid[row, k]) for k in range(3)]
        style.picture(axes[0], e.seen, "" if row else "image")
        for place, field, title in ((axes[1], e.labels, "labels"), (axes[2], e.decision, "decision of the ensemble")):
            style.picture(place, style.overlaid(e.seen, field, len(classes), background), "" if row else title)
        axes[0].set_ylabel(style.words(e.case), fontsize=7)
    figure.legend(
        handles=keys,
        loc="outside lower center",
        ncols=min(6, len(keys)),
        frameon=False,
        handlelength=1,
        handletextpad=0.4,
        columnspacing=1,
    )
    return figure
