"""Figure 4: which labels one pipeline (matrix scaling of the mean logits) flips, beside image and labels: where the
label was right before, and where it was wrong.

Shares are of the pixels with a label; flips on ignored pixels are not drawn. A flip where the label was wrong may end
in another wrong one. Source: K26 Figure 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from segcal.study.figures import style
from segcal.study.figures.material import Example

RIGHT, WRONG = style.VERMILION, style.BLUE


def share(example: Example, classes: int) -> float:
    """Share of labelled pixels whose label flips; NaN for none labelled."""
    assert example.flipped is not None
    valid = (example.labels >= 0) & (example.labels < classes)
    return float(example.flipped[valid].mean()) if valid.any() else float("nan")


def overlay(axes: Axes, example: Example, classes: int) -> None:
    """Flips on a pale image."""
    assert example.flipped is not None
    out = 0.55 + 0.4 * style.shown(example.seen).mean(2, keepdims=True).repeat(3, axis=2)
    valid = (example.labels >= 0) & (example.labels < classes) & example.flipped
    right = example.decision == example.labels
    out[valid & right] = to_rgb(RIGHT)
    out[valid & ~right] = to_rgb(WRONG)
    axes.imshow(np.clip(out, 0, 1), interpolation="nearest")
    style.bare(axes)


def keys() -> list[Patch]:
    """What the colours say."""
    return [Patch(color=RIGHT, label="was right, now wrong"), Patch(color=WRONG, label="was wrong before")]


@style.styled
def draw(examples: Sequence[Example], classes: Sequence[str], background: int | None, pipeline: str) -> Figure:
    """From examples of one cohort, an example a row; `pipeline`: whose flips they are."""
    width, heights = style.cells(examples)
    figure = style.page(3 * width + 0.35, sum(heights) + 0.3 + 0.24 * len(examples))
    grid = figure.add_gridspec(len(examples), 3, height_ratios=heights, wspace=0.02)
    for row, e in enumerate(examples):
        axes = [figure.add_subplot(grid[row, k]) for k in range(3)]
        style.picture(axes[0], e.seen, "image" if row == 0 else "")
        style.picture(axes[1], style.overlaid(e.seen, e.labels, len(classes), background), "labels" if row == 0 else "")
        overlay(axes[2], e, len(classes))
        axes[2].set_title(f"flipped by {style.named(pipeline)}: {share(e, len(classes)):.2%} of the pixels")
        axes[0].set_ylabel(style.words(e.case), fontsize=7)
    figure.legend(handles=keys(), loc="outside lower center", ncols=2, frameon=False)
    return figure
