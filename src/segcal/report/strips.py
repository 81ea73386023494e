"""A slice as a strip of panels, for a page: image, labels, predicted map, and how probable an error is.

A panel has at most `SIDE` points a side: a voxel is several points, or one of several voxels is drawn; panels are
higher where voxels are. What the predicted map has wrong is outlined, white over an image, dark otherwise. Colours are
those of `segcal.report.slices`. Promises: the same slice, the same bytes; a PNG of 256 colours at most.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import ListedColormap, to_hex
from numpy.typing import NDArray
from PIL import Image

from segcal.report.slices import ERROR, LONGEST, Slice, colours, painted

SIDE = 176
"""Most points of a side of a panel."""

GAP = 2
"""Points between panels."""


def heads(one: Slice) -> tuple[str, ...]:
    """What the panels of a strip are."""
    image = ("image",) if one.image is not None else ()
    return (*image, *one.maps, *(f"error, {name}" for name in one.errors))


def legend(classes: Sequence[str], background: int | None) -> tuple[tuple[str, str], ...]:
    """Names of labels and their colours, but for one that is left clear over an image."""
    found = colours(len(classes))
    return tuple(
        (name[:LONGEST], to_hex(found(k))) for k, name in enumerate(classes) if k != background and name.strip()
    )


def strip(one: Slice, classes: int, background: int | None, top: float) -> bytes:
    """The panels of a slice beside each other; `classes`: how many labels there are; `top`: the error probability that
    has the last colour.
    """
    beneath = None if one.image is None else _rgb(_scaled(one.image))
    found = colours(classes)
    clear = background if beneath is not None else None
    maps = [_painted(_scaled(each), found, clear, beneath) for each in one.maps.values()]
    maps[-1][_outline(_scaled(one.wrong))] = 1.0 if beneath is not None else 0.07
    errors = [_error(_scaled(error), top, beneath) for error in one.errors.values()]
    panels = [*([] if beneath is None else [beneath]), *maps, *errors]
    rows, columns = panels[0].shape[:2]
    whole = np.ones((rows, len(panels) * (columns + GAP) - GAP, 3))
    for k, panel in enumerate(panels):
        whole[:, k * (columns + GAP) : k * (columns + GAP) + columns] = panel
    picture = Image.fromarray(np.round(255 * whole).astype(np.uint8))
    # a voxel as high as it is wide stays a point; others are drawn in their proportions
    picture = picture.resize((picture.width, max(1, round(rows * one.aspect))), Image.Resampling.NEAREST)
    out = io.BytesIO()
    picture.quantize(256, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def _scaled(values: NDArray[Any]) -> NDArray[Any]:
    """Every so many voxels, or each as so many points, so that the longer side has at most `SIDE`."""
    longest = max(values.shape[:2])
    step, times = -(-longest // SIDE), max(1, SIDE // longest)
    return values[::step, ::step].repeat(times, 0).repeat(times, 1)


def _rgb(image: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(image if image.ndim == 3 else np.repeat(image[..., None], 3, -1), np.float64)


def _painted(
    labels: NDArray[Any], found: ListedColormap, clear: int | None, beneath: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    paint = painted(labels, found, clear, 0.6 if beneath is not None else 1.0)
    return _over(paint, beneath)


def _error(error: NDArray[Any], top: float, beneath: NDArray[np.float64] | None) -> NDArray[np.float64]:
    colour = ERROR if beneath is not None else matplotlib.colormaps["magma"]
    paint = np.asarray(colour(np.nan_to_num(error / top).clip(0, 1)), np.float64)
    paint[np.isnan(error), 3] = 0.0
    return _over(paint, beneath)


def _over(paint: NDArray[np.float64], beneath: NDArray[np.float64] | None) -> NDArray[np.float64]:
    alpha = paint[..., 3:]
    return np.asarray(alpha * paint[..., :3] + (1 - alpha) * (1.0 if beneath is None else beneath))


def _outline(wrong: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Wrong points beside one that is not."""
    wide = np.pad(wrong, 1, constant_values=False)
    surrounded = wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    return np.asarray(wrong & ~surrounded)
