"""Figure 1: one prediction, three sets of logits; what calibrators make of them, where such offsets occur, and which
labels flip.

(a) is an illustration with fixed numbers: the logits (2, 1, 0) plus a constant give one softmax; a matrix that scales
the first class twice as much as the others sees the constant, the same matrix with equal row sums does not, and neither
does one on log-probabilities. (b) and (c) are the first example's free energy and flips. Source: K26 Figure 1.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from segcal.study.figures import energy, flips, style
from segcal.study.figures.material import Example
from segcal.study.samples import FLIPPING

OFFSETS = (-3.0, 0.0, 3.0)
LOGITS = np.array([2.0, 1.0, 0.0])
MATRIX = np.diag([0.5, 1.0, 1.0])
LOOKS = ((style.BLUE, ""), ("#bdbdbd", "///"), (style.VERMILION, "..."))


def softmax(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of a vector (C,)."""
    e = np.exp(z - z.max())
    return np.asarray(e / e.sum())


def constrained(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The matrix with a last column that makes all row sums one."""
    out = matrix.copy()
    out[:, -1] += 1 - matrix.sum(1)
    return out


def outputs(offset: float) -> dict[str, NDArray[np.float64]]:
    """Probabilities from the logits plus `offset`, by what is done to them."""
    z = LOGITS + offset
    return {
        "softmax": softmax(z),
        "MS": softmax(MATRIX @ z),
        r"MS$_{\mathrm{c}}$": softmax(constrained(MATRIX) @ z),
        "DC": softmax(MATRIX @ np.log(softmax(z))),
    }


@style.styled
def draw(example: Example, number_of_classes: int) -> Figure:
    """From one example of the test cohort."""
    tall = 2.3 * example.seen.shape[0] / example.seen.shape[1]
    figure = style.page(style.WIDE, 2.65 + min(tall, 3.4))
    grid = figure.add_gridspec(2, 1, height_ratios=(1.75, min(tall, 3.4)))
    upper = grid[0].subgridspec(1, 4)
    results = [outputs(k) for k in OFFSETS]
    for column, name in enumerate(results[0]):
        axes = figure.add_subplot(upper[column])
        for place, (k, found, (color, hatch)) in enumerate(zip(OFFSETS, results, LOOKS, strict=True)):
            label = f"logits {'$+$' if k >= 0 else '$-$'} {abs(k):g}" if column == 0 else None
            axes.bar(
                np.arange(3) + 0.27 * (place - 1),
                found[name],
                0.25,
                color=color,
                hatch=hatch,
                edgecolor="#202020",
                lw=0.5,
                label=label,
            )
        axes.set_xticks(range(3), ("class 1", "2", "3"))
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
        same = all(np.allclose(found[name], results[0][name]) for found in results)
        axes.set_title(
            f"{name}: {'one answer' if same else 'three answers'}"
            + ("" if same or len({int(f[name].argmax()) for f in results}) == 1 else ", two labels")
        )
        if column:
            axes.tick_params(labelleft=False)
        else:
            axes.set_ylabel("(a)  probability")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    lower = grid[1].subgridspec(1, 3)
    maps = [figure.add_subplot(lower[k]) for k in range(3)]
    style.picture(maps[0], example.seen, "image")
    shown = energy.field(maps[1], example, None)
    maps[1].set_title("(b)  free energy of the mean logits")
    bar = figure.colorbar(shown, ax=maps[1], shrink=0.85, pad=0.02)
    bar.outline.set_visible(False)
    flips.overlay(maps[2], example, number_of_classes)
    maps[2].set_title(f"(c)  labels flipped by {style.named(FLIPPING)}: {flips.share(example, number_of_classes):.2%}")
    figure.legend(handles=flips.keys(), loc="outside lower right", ncols=2, frameon=False)
    return figure
