"""Figure 7: one image clean and shifted. Pictures: all five kinds of photometric corruption, strong. Volumes: one slice under each artefact, from the examples.

For pictures only the clean example is needed: the corruptions are made again, and are those of its file name. Grey pictures of 8 bits share one scale, the square root of the
value, so that brightness and fog show; volumes, whose units an artefact loses, are each on a scale of their own. Source: K26 Figure 7.
"""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from segcal.shift import photometric
from segcal.study.figures import style
from segcal.study.figures.material import TEST, Absent, Example

Picture = NDArray[np.generic]


def pictures(examples: Sequence[Example]) -> list[tuple[str, Picture]]:
    """Titles and pictures: the first clean example, and what is there of it under shift; Absent for no shift."""
    clean = [e for e in examples if e.cohort == TEST]
    shifted = {e.cohort for e in examples} - {TEST}
    if not clean or not shifted:
        raise Absent("no example of a clean and of a shifted cohort")
    first = clean[0]
    if shifted & set(photometric.SEVERITIES) and first.image.dtype == np.uint8:
        made = [(kind, photometric.choose(f"{first.case}.png", "strong", kind=kind).apply(first.image)) for kind in photometric.BANK]
        return [("clean", first.image), *made]
    for e in clean:
        same = [(o.cohort, o.image) for o in examples if o.cohort != TEST and o.case == e.case]
        if same:
            return [("clean", e.image), *same]
    raise Absent("no case with examples both clean and shifted")


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
        common = PowerNorm(0.5, min(int(image.min()) for _, image in shown), max(int(image.max()) for _, image in shown))
    for place, (title, image) in enumerate(shown):
        axes = figure.add_subplot(grid[place // columns, place % columns])
        style.picture(axes, image, f"({string.ascii_lowercase[place % 26]})  {title}", common)
    return figure
