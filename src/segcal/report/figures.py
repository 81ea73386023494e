"""Figures of an evaluation: reliability before and after, overall and by place, gains by method with their intervals,
distances to a known truth, and a field.

Each takes numbers that were already computed and writes one file, whose ending (.png, .svg, .pdf) chooses the format;
it returns the path. Promises: colours that colour-blind readers can tell apart (Okabe and Ito), text of at least 7
points at a column's or a page's width, no display and no global state of matplotlib, a file that is complete or absent.
What is empty is left out: a bin without voxels has no point, a method without an interval has no whisker. Nothing at
all to draw: UsageError.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, PercentFormatter
from numpy.typing import NDArray

from segcal.data.files import journal
from segcal.errors import ShapeError, UsageError, visible
from segcal.metrics.statistics.estimate import Estimate

BEFORE, AFTER, TRUTH, GREY = "#D55E00", "#0072B2", "#009E73", "#6b6b6b"
STYLE: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#404040",
    "axes.linewidth": 0.7,
    "xtick.color": "#404040",
    "ytick.color": "#404040",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "segcal",
}
RESOLUTION = 200
DASHED = (0, (4, 3))
WIDE = 7.4
FEW = 1e-3
"""Bins with a smaller share of the voxels are drawn as open points apart from the line: their accuracy is mostly
chance.
"""

Block = Mapping[str, Any]
StrPath = str | os.PathLike[str]


def words(name: str) -> str:
    """A name as a figure takes it: no formula between dollar signs, nothing that cannot be drawn, and not left out of a
    legend for its first character.
    """
    plain = visible(name).replace("$", r"\$")
    return f"\u200a{plain}" if plain.startswith("_") else plain


def reliability(
    before: Block,
    after: Block,
    path: StrPath,
    *,
    names: tuple[str, str] = ("uncalibrated", "calibrated"),
    title: str = "",
) -> Path:
    """How often the predicted label is right, against how sure the model is of it, before and after.

    `before`, `after`: blocks of `segcal.metrics.summary` with a reliability curve. A block of several regions has none
    (UsageError): give one region's own block.
    """
    for block, name in zip((before, after), names, strict=True):
        if block.get("reliability") is None or not sum(block["reliability"]["counts"]):
            raise UsageError(
                f"block '{name}'",
                found="no reliability curve",
                expected="one over some voxels",
                do="For regions, draw the own block of each, under 'regions'.",
            )
    top = max(max(_shares(b)) for b in (before, after))
    with drawing(path, 6.4, 4.3 if title else 4.1) as figure:
        grid = figure.add_gridspec(2, 2, height_ratios=(4.5, 1), wspace=0.07)
        for column, (block, name, colour) in enumerate(((before, names[0], BEFORE), (after, names[1], AFTER))):
            upper = figure.add_subplot(grid[0, column])
            lower = figure.add_subplot(grid[1, column], sharex=upper)
            _curve(upper, block, colour)
            _histogram(lower, block, colour, top)
            upper.set_title(name, color=colour, fontweight="bold")
            if column:
                upper.tick_params(labelleft=False)
                lower.tick_params(labelleft=False)
            else:
                upper.set_ylabel("share of voxels labelled correctly")
                lower.set_ylabel("voxels")
            lower.set_xlabel("confidence in the predicted label")
        if title:
            figure.suptitle(words(title), fontsize=9.5)
    return Path(path)


@dataclass(frozen=True)
class Panel:
    """Reliability in one place: the block `before`, and `after` where there is a calibrator. A block holds a
    `reliability` curve, and an `ece` that is written beside it.
    """

    title: str
    before: Block
    after: Block | None


def places(
    rows: Mapping[str, Sequence[Panel]], path: StrPath, *, names: tuple[str, str] = ("uncalibrated", "calibrated")
) -> Path:
    """Reliability before and after in each place, a place a column, a region (by name) a row.

    Places without voxels are left out by the caller; rows may differ in length. No panel: UsageError.
    """
    wide = max((len(panels) for panels in rows.values()), default=0)
    if not wide:
        raise UsageError(
            "rows", found="no place", expected="at least one with voxels", do="Evaluate at least one labelled case."
        )
    width, tall = WIDE / 3 * wide + (0.4 if wide == 1 else 0), 2.55 * len(rows) + 0.75
    with drawing(path, width, tall) as figure:
        grid = figure.add_gridspec(2 * len(rows), wide, height_ratios=(4.5, 1.1) * len(rows))
        for row, (region, panels) in enumerate(rows.items()):
            both = [b for panel in panels for b in (panel.before, panel.after) if b is not None]
            top = max(max(_shares(block)) for block in both)
            for column, panel in enumerate(panels):
                upper = figure.add_subplot(grid[2 * row, column])
                lower = figure.add_subplot(grid[2 * row + 1, column], sharex=upper)
                blocks = [(panel.before, BEFORE)] + ([] if panel.after is None else [(panel.after, AFTER)])
                for k, (block, colour) in enumerate(blocks):
                    _points(upper, block, colour)
                    _outline(lower, block, colour, top)
                    upper.text(
                        *(0.97, 0.05 + 0.1 * (len(blocks) - 1 - k), f"ECE  {block['ece']:.1%}"),
                        transform=upper.transAxes,
                        ha="right",
                        color=colour,
                    )
                upper.set_title(words(f"{region}: {panel.title}" if region else panel.title), fontsize=8.5)
                for axes in (upper, lower):
                    axes.tick_params(labelleft=not column)
                if not column:
                    upper.set_ylabel("labelled correctly")
                    lower.set_ylabel("voxels")
                if row == len(rows) - 1:
                    lower.set_xlabel("confidence in the predicted label")
        keys = [Line2D([], [], color=GREY, lw=0.9, ls=DASHED, label="confidence as it should be")]
        twice = any(panel.after is not None for panels in rows.values() for panel in panels)
        for name, colour in list(zip(names, (BEFORE, AFTER), strict=True))[: 1 + twice]:
            keys.append(Line2D([], [], color=colour, marker="o", ms=4, lw=1.5, label=words(name)))
        figure.legend(handles=keys, loc="outside upper center", ncols=3, frameon=False)
    return Path(path)


def gains(
    differences: Mapping[str, Estimate], path: StrPath, *, what: str = "NLL", highlight: str | None = None
) -> Path:
    """Change of a number against the uncalibrated one, a method a row, with intervals clustered by group; left of zero
    is better. `highlight`: the method to stand out.
    """
    drawn = _known(differences)
    level = next(iter(drawn.values())).level
    with drawing(path, 4.6, 0.9 + 0.27 * len(drawn)) as figure:
        axes = figure.add_subplot()
        axes.axvline(0, color=GREY, lw=0.8, ls=DASHED)
        for row, (name, e) in enumerate(drawn.items()):
            colour = AFTER if highlight in (None, name) else GREY
            if np.isfinite(e.low):
                axes.plot([e.low, e.high], [row, row], color=colour, lw=1.6, solid_capstyle="butt")
            axes.plot(e.mean, row, "o", color=colour, ms=4.5)
        _rows(axes, list(drawn), highlight)
        axes.set_xlabel(
            f"change in {what} from uncalibrated, mean over cases ({level:.0%} interval);\nleft of 0 is better"
        )
    return Path(path)


def distances(found: Mapping[str, Estimate], path: StrPath, *, highlight: str | None = None) -> Path:
    """Mean KL divergence from the known truth, a method a row, on a logarithmic axis, with plus and minus one standard
    error clustered by group.
    """
    drawn = {name: e for name, e in _known(found).items() if e.mean > 0}
    if not drawn:
        raise UsageError(
            "found",
            found="no distance above zero",
            expected="at least one",
            do="A distance of exactly zero cannot be drawn on a logarithmic axis.",
        )
    low = (
        min(
            max(e.mean - e.standard_error, e.mean / 10) if np.isfinite(e.standard_error) else e.mean
            for e in drawn.values()
        )
        / 1.6
    )
    with drawing(path, 4.6, 0.9 + 0.27 * len(drawn)) as figure:
        axes = figure.add_subplot()
        axes.set_xscale("log")
        for row, (name, e) in enumerate(drawn.items()):
            colour = BEFORE if row == 0 else AFTER if highlight in (None, name) else GREY
            axes.plot([low, e.mean], [row, row], color=colour, lw=0.8, alpha=0.4)
            if np.isfinite(e.standard_error):
                axes.plot(
                    [max(e.mean - e.standard_error, low), e.mean + e.standard_error],
                    [row, row],
                    color=colour,
                    lw=2.4,
                    solid_capstyle="butt",
                )
            axes.plot(e.mean, row, "o", color=colour, ms=4.5)
        axes.set_xlim(left=low)
        axes.xaxis.set_minor_formatter(NullFormatter())
        _rows(axes, list(drawn), highlight)
        axes.set_xlabel("KL divergence from the truth, nats a voxel (± standard error);\nfurther left is better")
    return Path(path)


def field(values: NDArray[Any], path: StrPath, *, title: str = "", label: str = "") -> Path:
    """A picture of one number a pixel (height, width) with its colour scale; NaN is left white.

    No finite number, or not two axes: ShapeError.
    """
    if values.ndim != 2 or not np.isfinite(values).any():
        raise ShapeError(
            "values",
            found=f"shape {values.shape} with {int(np.isfinite(values).sum())} finite numbers",
            expected="an image",
            do="Draw a case of two axes.",
        )
    width = 4.2
    with drawing(path, width, width * values.shape[0] / values.shape[1] * 0.85 + 0.4) as figure:
        axis = figure.add_subplot()
        shown = axis.imshow(values, cmap="viridis", interpolation="nearest")
        axis.set(xticks=[], yticks=[], title=words(title))
        axis.spines[:].set_visible(False)
        bar = figure.colorbar(shown, ax=axis)
        bar.set_label(label)
        bar.outline.set_visible(False)
    return Path(path)


def _curve(axes: Axes, block: Block, colour: str) -> None:
    _points(axes, block, colour)
    numbers = [
        (name, block.get(key), form)
        for name, key, form in (("ECE", "ece", "{:.1%}"), ("ACE", "ace", "{:.1%}"), ("NLL", "nll", "{:.3f}"))
    ]
    lines = "\n".join(f"{name}  {form.format(value)}" for name, value, form in numbers if value is not None)
    axes.text(0.97, 0.05, lines, transform=axes.transAxes, ha="right", va="bottom", linespacing=1.45, color="#202020")


def _points(axes: Axes, block: Block, colour: str) -> None:
    _, confidence, accuracy = _bins(block)
    axes.plot([0, 1], [0, 1], color=GREY, lw=0.9, ls=DASHED, zorder=1)
    share = np.array(_shares(block))
    many = share >= FEW
    x, y = confidence[many], accuracy[many]
    axes.fill_between(x, x, y, color=colour, alpha=0.15, lw=0, zorder=0)
    axes.plot(x, y, color=colour, lw=1.5, zorder=3)
    # a bin's point grows with its share of the voxels, down to a size that can still be seen
    axes.scatter(
        x, y, s=10 + 70 * np.sqrt(share[many]), color=colour, edgecolor="white", lw=0.6, zorder=4, clip_on=False
    )
    few = (share > 0) & ~many
    axes.scatter(
        confidence[few],
        accuracy[few],
        s=9,
        facecolor="white",
        edgecolor=colour,
        lw=0.7,
        alpha=0.7,
        zorder=4,
        clip_on=False,
    )
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.xaxis.set_major_formatter(PercentFormatter(1, 0))
    axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
    axes.tick_params(labelbottom=False)


def _histogram(axes: Axes, block: Block, colour: str, top: float) -> None:
    edges, _, _ = _bins(block)
    axes.bar(edges[:-1], _shares(block), np.diff(edges) * 0.92, align="edge", color=colour, alpha=0.75, lw=0)
    _share_axes(axes, top)


def _outline(axes: Axes, block: Block, colour: str, top: float) -> None:
    """Shares of the voxels by confidence, so that two lie over each other."""
    edges, _, _ = _bins(block)
    axes.stairs(_shares(block), edges, fill=True, color=colour, alpha=0.2, lw=0)
    axes.stairs(_shares(block), edges, color=colour, lw=1.0)
    _share_axes(axes, top)
    axes.locator_params(axis="x", nbins=5)


def _share_axes(axes: Axes, top: float) -> None:
    """Confidence along, shares of the voxels up to `top`."""
    axes.set(xlim=(0, 1), ylim=(0, 1.08 * top))
    axes.xaxis.set_major_formatter(PercentFormatter(1, 0))
    axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
    axes.locator_params(axis="y", nbins=2)


def _bins(block: Block) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Edges, mean confidence and accuracy, NaN where a bin is empty."""
    curve = block["reliability"]
    edges, confidence, accuracy = (np.array(curve[k], np.float64) for k in ("edges", "confidence", "accuracy"))
    return edges, confidence, accuracy


def _shares(block: Block) -> list[float]:
    counts = block["reliability"]["counts"]
    return [n / sum(counts) for n in counts]


def _known(estimates: Mapping[str, Estimate]) -> dict[str, Estimate]:
    drawn = {name: e for name, e in estimates.items() if np.isfinite(e.mean)}
    if not drawn:
        raise UsageError(
            "estimates",
            found="nothing to draw",
            expected="at least one method with a number",
            do="Evaluate at least one method.",
        )
    return drawn


def _rows(axes: Axes, names: Sequence[str], highlight: str | None) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e3e3e3", lw=0.6)
    axes.set_axisbelow(True)
    for label in axes.get_yticklabels():
        if label.get_text() == highlight:
            label.set_fontweight("bold")


@contextlib.contextmanager
def drawing(path: StrPath, width: float, height: float) -> Iterator[Figure]:
    """A figure of this size in inches that no window system knows of; written to `path` when the block ends without an
    error.
    """
    target = Path(path)
    # dates and versions are left out, so that the same numbers give the same file
    metadata = {".png": {"Software": "segcal"}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    if target.suffix not in metadata:
        raise UsageError(
            str(target),
            found=f"the ending {target.suffix!r}",
            expected="one of " + ", ".join(metadata),
            do="Name the figure with one of these endings.",
        )
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        with journal.atomic(target) as temporary:
            figure.savefig(temporary, dpi=RESOLUTION, metadata=metadata[target.suffix])
