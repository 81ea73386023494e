"""Pictures of slices: what a network was shown, the labels, the predicted map, and how probable an error is, before and
after calibration.

A slice is a row of panels under its own caption. With an image, labels and errors lie over it, so that one sees where
in the body they are. Predicted labels that are wrong are outlined. Voxels that are not scored (label -1, error NaN)
stay white. All probabilities of a figure share one scale. Promises and formats: as `segcal.report.figures`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, ListedColormap, Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from segcal.errors import ShapeError, UsageError
from segcal.report.figures import GREY, WIDE, StrPath, drawing, words

CLASSES = ("#f2f2f2", "#56B4E9", "#D55E00", "#F0E442", "#009E73", "#CC79A7", "#0072B2", "#E69F00")
"""Colours of classes, the background first; more classes get others."""

NAMED, LONGEST = 12, 40
"""Most classes in the legend, and most letters of a name there."""

ERROR = LinearSegmentedColormap.from_list(
    "error", [(0, (0.8, 0.3, 0, 0)), (0.25, (0.84, 0.37, 0, 0.55)), (0.6, (0.9, 0.62, 0, 0.9)), (1, (1, 0.96, 0.4, 1))]
)
"""Over an image: what is certain lets it through."""

BROAD = 112
"""Letters of a line of a caption."""

TALLEST = 1.3
"""Height of a panel over its width, at most."""


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice; all arrays (rows, columns): `labels`, None where nobody knows them, and `predicted` map, -1 where
    nothing is scored; `errors`: by name, the probability that the predicted label is wrong, NaN there. `image`: what
    was segmented, grey or (rows, columns, 3) from 0 to 1. `caption`: a line or two above it. `aspect`: height of a
    pixel over its width. `which`: its place in the case.
    """

    labels: NDArray[Any] | None
    predicted: NDArray[Any]
    errors: Mapping[str, NDArray[Any]]
    image: NDArray[Any] | None = None
    caption: str = ""
    aspect: float = 1.0
    which: str = ""

    def __post_init__(self) -> None:
        for name, image in {"labels": self.labels, **self.errors, "image": self.image}.items():
            if image is not None and image.shape[:2] != self.predicted.shape:
                raise ShapeError(
                    name,
                    found=f"shape {image.shape}",
                    expected=f"{self.predicted.shape} as the predicted map",
                    do="Give the same slice of each.",
                )
        if not self.errors:
            raise UsageError(
                "errors", found="no map", expected="at least one", do="Give the probability of error by name."
            )

    @property
    def maps(self) -> dict[str, NDArray[Any]]:
        """What is drawn in the colours of classes, by what it is called."""
        if self.labels is None:
            return {"predicted": self.predicted}
        return {"labels": self.labels, "predicted, errors outlined": self.predicted}

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """Where the predicted map is known to be wrong."""
        if self.labels is None:
            return np.zeros(self.predicted.shape, bool)
        return np.asarray((self.predicted != self.labels) & (self.labels >= 0) & (self.predicted >= 0))

    @property
    def height(self) -> float:
        """Of a panel, over its width."""
        rows, columns = self.predicted.shape
        return min(self.aspect * float(rows) / float(columns), TALLEST)


def slices(
    shown: Sequence[Slice], classes: Sequence[str], path: StrPath, *, background: int | None = 0, title: str = ""
) -> Path:
    """Draw slices, one below the other, each with the same errors by name, all with labels or none.

    `classes`: what each label stands for; `background`: the one that is left clear over an image. None to draw:
    UsageError.
    """
    if not shown:
        raise UsageError("slices", found="none", expected="at least one", do="Give a slice of a case.")
    with_image = any(one.image is not None for one in shown)
    names = ["image"] * with_image + [name.replace(", ", ",\n") for name in shown[0].maps]
    names += [f"error probability,\n{name}" for name in shown[0].errors]
    size = WIDE / len(names)
    top = max(float(np.nanmax(e, initial=0.01)) for one in shown for e in one.errors.values())
    captions = [
        [part for line in one.caption.splitlines() for part in textwrap.wrap(words(line), BROAD)] for one in shown
    ]
    heights = [
        h for one, said in zip(shown, captions, strict=True) for h in (0.16 * len(said) + 0.02, size * one.height)
    ]
    with drawing(path, WIDE, sum(heights) + 0.1 * len(shown) + 1.15 + (0.25 if title else 0)) as figure:
        grid = figure.add_gridspec(len(heights) + 1, len(names), height_ratios=(*heights, 0.13))
        palette = colours(len(classes))
        for row, one in enumerate(shown):
            if captions[row]:
                text = figure.add_subplot(grid[2 * row, :])
                text.set_axis_off()
                text.text(0, 0.5, "\n".join(captions[row]), va="center", fontsize=8, linespacing=1.35).set_in_layout(
                    False
                )
            axes = [figure.add_subplot(grid[2 * row + 1, k]) for k in range(len(names))]
            _panels(axes, one, with_image, palette, background, top)
            for axis, name in zip(axes, names, strict=True):
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set_visible(False)
                if not row:
                    axis.set_title("\n".join(map(words, name.split("\n"))), fontsize=8)
        split = len(names) - len(shown[0].errors)
        _legend(figure, shown, classes, palette, background if all(one.image is not None for one in shown) else None)
        bar = figure.colorbar(
            ScalarMappable(Normalize(0, top), ERROR if with_image else "magma"),
            cax=figure.add_subplot(grid[-1, split:]),
            orientation="horizontal",
            format=PercentFormatter(1, 0),
            ticks=MaxNLocator(5),
        )
        narrow = "\n" if len(shown[0].errors) == 1 else " "
        bar.set_label(f"probability that the{narrow}predicted label is wrong")
        bar.outline.set_visible(False)
        if title:
            figure.suptitle(words(title), fontsize=9, x=0.01, ha="left", fontweight="bold")
    return Path(path)


def _panels(
    axes: Sequence[Axes], one: Slice, with_image: bool, palette: ListedColormap, background: int | None, top: float
) -> None:
    beneath = one.image is not None
    for axis in axes:
        if one.image is not None:
            axis.imshow(one.image, cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect=one.aspect)
        elif with_image:
            axis.set_facecolor("white")
    rest = axes[with_image:]
    maps = one.maps
    for axis, labels in zip(rest, maps.values(), strict=False):
        axis.imshow(
            painted(labels, palette, background if beneath else None, 0.6 if beneath else 1.0),
            interpolation="nearest",
            aspect=one.aspect,
        )
    wrong = one.wrong
    if wrong.any() and min(wrong.shape) > 1:
        rest[1].contour(wrong.astype(float), levels=[0.5], colors="white" if beneath else "#111111", linewidths=0.6)
    for axis, error in zip(rest[len(maps) :], one.errors.values(), strict=True):
        axis.imshow(
            np.ma.masked_invalid(error),
            cmap=ERROR if beneath else "magma",
            vmin=0,
            vmax=top,
            interpolation="nearest",
            aspect=one.aspect,
        )


def painted(labels: NDArray[Any], palette: ListedColormap, clear: int | None, alpha: float) -> NDArray[np.float64]:
    """Labels as colours (rows, columns, 4); what is not scored, and the label `clear`, lets the image through."""
    paint = np.asarray(palette(np.clip(labels, 0, palette.N - 1)), np.float64)
    paint[..., 3] = np.where(labels < 0, 0.0, alpha)
    if clear is not None:
        paint[labels == clear, 3] = 0.0
    return paint


def colours(count: int) -> ListedColormap:
    """A colour for each of so many classes."""
    more = matplotlib.colormaps["tab20"]
    few = count <= len(CLASSES)
    return ListedColormap([to_rgba(CLASSES[k]) if few else more(k % more.N) for k in range(count)])


def _legend(
    figure: Figure, shown: Sequence[Slice], classes: Sequence[str], palette: ListedColormap, clear: int | None
) -> None:
    """The classes that are seen, under everything."""
    seen = np.unique(np.concatenate([part.ravel() for one in shown for part in one.maps.values()]))
    there = [int(k) for k in seen if 0 <= k < len(classes) and k != clear]
    names = [words(classes[k][:LONGEST]) for k in there[:NAMED]]
    keys = [
        Patch(facecolor=palette(k), edgecolor=GREY, linewidth=0.4, label=name)
        for k, name in zip(there, names, strict=False)
    ]
    if len(there) > NAMED:
        keys.append(Patch(facecolor="none", label=f"and {len(there) - NAMED} more"))
    width = 0.35 + 0.06 * max(map(len, names), default=0)
    figure.legend(
        handles=keys,
        loc="outside lower left",
        ncols=max(1, int(WIDE / width)),
        frameon=False,
        handlelength=0.9,
        handletextpad=0.4,
        columnspacing=1.1,
        fontsize=7.5,
    )
