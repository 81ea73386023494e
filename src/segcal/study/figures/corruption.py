"""Figure 7: one image clean and shifted. Pictures: all five kinds of photometric corruption, strong. Volumes: one slice
under each artefact, from the examples.

For pictures only the clean example is needed: the corruptions are made again, on the picture as the study keeps it
(stretched to its own range), with the noise of its file name. Grey pictures of 8 bits share one scale, the square root
of the value, so that brightness and fog show; volumes, whose units an artefact loses, are each on a scale of their own.
Source: K26 Figure 7.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from segcal.study.configuration import CLEAN
from segcal.study.figures import style
from segcal.study.figures.material import Absent, Example
from segcal.study.shift import photometric

Picture = NDArray[Any]


def pictures(examples: Sequence[Example], cohorts: Sequence[str]) -> list[tuple[str, Picture]]:
    """Titles and pictures: the first clean example that has an image, and what it becomes under the shifts among
    `cohorts`; Absent for no such shift.
    """
    for e in examples:
        if e.cohort == CLEAN and e.image is not None:
            if set(cohorts) & set(photometric.SEVERITIES):
                return [
                    ("clean", octets(e.image)),
                    *(
                        (k, photometric.choose(f"{e.case}.png", "strong", kind=k).apply(octets(e.image)))
                        for k in photometric.BANK
                    ),
                ]
            same = [
                (o.cohort, o.image) for o in examples if o.cohort != CLEAN and o.case == e.case and o.image is not None
            ]
            if same:
                return [("clean", e.image), *same]
    raise Absent("no image of a clean test case, or none of it under shift")


def octets(image: Picture) -> NDArray[np.uint8]:
    """The picture in 8 bits; floats are in [0, 1]."""
    return image if image.dtype == np.uint8 else np.rint(255 * np.clip(image.astype(np.float64), 0, 1)).astype(np.uint8)


@style.styled
def draw(shown: Sequence[tuple[str, Picture]]) -> Figure:
    """From titles and pictures of one shape."""
    columns = min(3, len(shown))
    lines = -(-len(shown) // columns)
    height, width = shown[0][1].shape[:2]
    side = min(style.WIDE / columns, 3.0 * width / height)
    figure = style.page(side * columns, lines * (side * height / width + 0.25))
    grid = figure.add_gridspec(lines, columns, wspace=0.02)
    common = None
    if all(image.ndim == 2 and image.dtype == np.uint8 for _, image in shown):
        common = PowerNorm(
            0.5, min(int(image.min()) for _, image in shown), max(int(image.max()) for _, image in shown)
        )
    for place, (title, image) in enumerate(shown):
        axes = figure.add_subplot(grid[place // columns, place % columns])
        style.picture(axes, image, f"({string.ascii_lowercase[place % 26]})  {title}", common)
    return figure
