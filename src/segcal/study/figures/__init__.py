"""Figures of a study, one file each, from its tidy tables and samples alone, written as SVG, PDF and PNG.

    gauge         1  logits with an offset, free energy, flipped labels
    samples       2  images with labels and decision laid over
    energy        3  free-energy maps
    flips         4  which labels matrix scaling flips
    sizes         5  size of the calibration set
    bins          6  number of bins
    corruption    7  what the shifted images look like
    reliability   8  confidence against accuracy, with intervals
    bands            calibration over the distance to the label boundary (beyond the paper)
    spread           calibration image by image (beyond the paper)

Promises: the same results give the same bytes; each file is complete or absent; a figure whose data are not there is
left out and said so, never drawn empty. Costs: some seconds, most of them bootstraps and saving pictures. No table and
no example: nothing is written, and every figure is reported as absent.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from segcal.data.files import journal
from segcal.report.figures import RESOLUTION, STYLE
from segcal.study.figures import bands, bins, corruption, energy, flips, gauge, reliability, samples, sizes, spread
from segcal.study.figures.material import Absent, Columns, Example, Material, values
from segcal.study.samples import FLIPPING

__all__ = ["FIGURES", "Columns", "Example", "Material", "Written", "write"]

MOST = 3
"""Most examples in one figure."""

METADATA: Mapping[str, Mapping[str, None]] = {
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
    ".png": {"Software": None},
}
"""Formats, and what is left out of each so that the same figure gives the same file."""

FIGURES: Mapping[str, Callable[[Material], Figure]] = {
    "figure1-gauge": lambda r: gauge.draw(r.of_clean("energy", "flipped")[0], len(r.classes)),
    "figure2-samples": lambda r: samples.draw(r.of_clean("image")[:MOST], r.classes, r.background),
    "figure3-energy": lambda r: energy.draw(r.of_clean("energy")[:MOST]),
    "figure4-flips": lambda r: flips.draw(r.of_clean("flipped")[:MOST], r.classes, r.background, FLIPPING),
    "figure5-sizes": lambda r: sizes.draw(r.table("sizes"), r.table("sizes_pooled")),
    "figure6-bins": lambda r: bins.draw(r.table("scores"), r.table("pooled")),
    "figure7-corruption": lambda r: corruption.draw(
        corruption.pictures(r.examples, values(r.table("scores"), "cohort"))
    ),
    "figure8-reliability": lambda r: reliability.draw(r.table("curves"), r.table("pooled")),
    "bands": lambda r: bands.draw(r.table("bands")),
    "spread": lambda r: spread.draw(r.table("scores")),
}
"""File name without ending, and what draws it; Absent where its data are not there."""


@dataclass(frozen=True)
class Written:
    """What `write` left: paths by figure, and for each figure that was left out, why."""

    paths: Mapping[str, tuple[Path, ...]]
    absent: Mapping[str, str]


def write(
    results: Material,
    folder: str | os.PathLike[str],
    endings: tuple[str, ...] = tuple(METADATA),
    done: Callable[[], None] = lambda: None,
) -> Written:
    """Draw every figure whose data are there into `folder`, and call `done` after each of `FIGURES`. OutputError where
    it cannot be written.
    """
    paths: dict[str, tuple[Path, ...]] = {}
    absent: dict[str, str] = {}
    for name, draw in FIGURES.items():
        try:
            figure = _settled(draw(results))
        except Absent as why:
            absent[name] = str(why)
        else:
            paths[name] = tuple(_save(figure, Path(folder) / f"{name}{ending}") for ending in endings)
        done()
    return Written(paths, absent)


def _settled(figure: Figure) -> Figure:
    """The figure with its layout found and fixed: each drawing moves pictures of a fixed shape a little, and formats
    would differ by what was written before them.
    """
    with matplotlib.rc_context(STYLE):
        for _ in range(3):
            figure.draw_without_rendering()
        figure.set_layout_engine("none")
    return figure


def _save(figure: Figure, target: Path) -> Path:
    with matplotlib.rc_context(STYLE), journal.atomic(target) as temporary:
        figure.savefig(temporary, dpi=RESOLUTION, metadata=METADATA[target.suffix])
    return target
