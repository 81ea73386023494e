"""How figures of a study look: sizes, names and marks of pipelines, colours of classes, pictures with labels laid over.

Colours are those that colour-blind readers can tell apart: Okabe and Ito's for pipelines and flips, with three of Paul
Tol's 'muted' scheme where eight are not enough; Tol's 'muted' for classes; cividis for fields. In grey, pipelines
differ by marker (the calibrator) and line (its input), bars by hatching, classes by outlines, and cividis by lightness.
Promises: no window system, no state of matplotlib outside a figure; a pipeline looks the same in every figure. A
pipeline that is not one of the papers' gets a grey mark.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from segcal.report.figures import GREY, STYLE, WIDE, words
from segcal.study.figures.material import Example
from segcal.study.tables.names import RECIPE, symbol

__all__ = [
    "BLACK",
    "BLUE",
    "CLASSES",
    "FIELD",
    "GREY",
    "GRID",
    "STYLE",
    "VERMILION",
    "WIDE",
    "Look",
    "class_keys",
    "look",
    "named",
    "overlaid",
    "page",
    "panels",
    "picture",
    "shown",
    "styled",
    "words",
]

BLACK, BLUE, SKY, GREEN, VERMILION, ORANGE, PURPLE = (
    "#000000",
    "#0072B2",
    "#56B4E9",
    "#009E73",
    "#D55E00",
    "#E69F00",
    "#CC79A7",
)
INDIGO, WINE, OLIVE = "#332288", "#882255", "#999933"
CLASSES = (
    "#88CCEE",
    "#CC6677",
    "#DDCC77",
    "#117733",
    "#AA4499",
    "#44AA99",
    "#E69F00",
    "#882255",
    "#999933",
    "#332288",
    "#DDDDDD",
    "#D55E00",
)
FIELD = "cividis"
GRID = "#e3e3e3"
TALL = 7.0
FINE = 480

LOOKS = {
    "p0": (GREY, "o"),
    "pbar": (BLACK, "d"),
    "zbar": (BLACK, "o"),
    "TS": (BLUE, "s"),
    "ETS": (SKY, "D"),
    "MS": (VERMILION, "^"),
    "MSc": (ORANGE, "v"),
    "DC": (OLIVE, "h"),
    "LTS": (PURPLE, "P"),
    "CDC": (GREEN, "X"),
    "CMSap": (WINE, ">"),
    "CMSop": (INDIGO, "<"),
}
LINES: dict[str, Any] = {"zbar": "-", "pbar": (0, (5, 2)), "logS(zbar)": (0, (1, 1.2)), "": (0, (3, 1.5, 1, 1.5))}

P = ParamSpec("P")


@dataclass(frozen=True)
class Look:
    """How a pipeline is drawn."""

    color: str
    marker: str
    line: Any


def look(pipeline: str) -> Look:
    """Colour and marker say the calibrator, the line its input."""
    calibrator, given = _parts(pipeline)
    color, marker = LOOKS.get(calibrator, (GREY, "*"))
    return Look(color, marker, LINES.get(given, "-"))


def named(pipeline: str) -> str:
    """A pipeline as the tables print it."""
    printed = symbol(pipeline)
    return printed.latex or printed.plain


def _parts(pipeline: str) -> tuple[str, str]:
    found = re.fullmatch(r"(\w+)\((.+)\)", pipeline.removesuffix(RECIPE))
    return (found[1], found[2]) if found else (pipeline, "")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """A figure made with the study's settings, whatever those of the process are."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def page(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, which no window system knows of."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def picture(axes: Axes, image: NDArray[Any], title: str = "", scale: Normalize | None = None) -> None:
    """A picture (H, W) in grey, on `scale` or from its darkest to its brightest value, or (H, W, 3) in colour."""
    if image.ndim == 2:
        axes.imshow(image, cmap="gray", norm=scale, interpolation="nearest")
    else:
        axes.imshow(shown(image), interpolation="nearest")
    bare(axes, title)


def panels(count: int) -> tuple[int, int]:
    """Lines and columns for so many panels."""
    columns = 2 if count == 4 else min(3, count)
    return -(-count // columns), columns


def cells(examples: Sequence[Example]) -> tuple[float, list[float]]:
    """Width of three pictures side by side, and the height of each example's line, on a page of at most `TALL` inches
    of pictures.
    """
    aspects = [e.labels.shape[0] / e.labels.shape[1] for e in examples]
    width = min((WIDE - 0.35) / 3, TALL / sum(aspects))
    return width, [width * a for a in aspects]


def bare(axes: Axes, title: str = "") -> None:
    """No frame and no ticks."""
    axes.set(xticks=[], yticks=[])
    if title:
        axes.set_title(title)
    axes.spines[:].set_visible(False)


def shown(image: NDArray[Any]) -> NDArray[np.float64]:
    """A picture as colours (H, W, 3) in [0, 1]: bytes as they are, grey ones from darkest to brightest."""
    x = image.astype(np.float64)
    if image.ndim == 3:
        return np.clip(x / (255 if image.dtype.kind in "ui" or x.max() > 1 else 1), 0, 1)
    low, high = float(x.min()), float(x.max())
    return np.repeat(((x - low) / (high - low if high > low else 1))[..., None], 3, axis=2)


def overlaid(
    image: NDArray[Any], labels: NDArray[Any], classes: int, background: int | None, opacity: float = 0.45
) -> NDArray[np.float64]:
    """The picture with classes in their colours and outlines (k H, k W, 3), k = 1 or more; background and what is no
    class stay as they are.
    """
    # coarse pictures on finer pixels, so that outlines are thin
    fine = max(1, FINE // min(labels.shape))
    labels = labels.repeat(fine, 0).repeat(fine, 1)
    out = 0.92 * shown(image).repeat(fine, 0).repeat(fine, 1)
    inside = (labels >= 0) & (labels < classes)
    for k in range(classes):
        if k != background:
            chosen = inside & (labels == k)
            out[chosen] = (1 - opacity) * out[chosen] + opacity * np.array(to_rgb(CLASSES[k % len(CLASSES)]))
    edge = np.zeros(labels.shape, bool)
    edge[:-1] |= labels[:-1] != labels[1:]
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    # light outlines on grey pictures, which are mostly dark, and dark ones on colour
    out[edge & inside] = 0.25 * out[edge & inside] + 0.75 if image.ndim == 2 else 0.35 * out[edge & inside]
    return out


def class_keys(names: Sequence[str], background: int | None) -> list[Patch]:
    """A key for each class that is laid over."""
    return [
        Patch(facecolor=CLASSES[k % len(CLASSES)], edgecolor="#404040", linewidth=0.4, label=words(name))
        for k, name in enumerate(names)
        if k != background
    ]
