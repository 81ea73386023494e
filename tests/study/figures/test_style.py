"""Names, looks and overlays."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import rgb_to_hsv, to_rgb

from segcal.study.figures import style
from segcal.study.tables.names import symbol


@pytest.mark.parametrize("pipeline", ["p0", "MSc(zbar)", "LTS(logS(zbar))", "CMSop(pbar) recipe", "some_other"])
def test_names_are_those_of_the_tables_and_can_be_set(pipeline: str) -> None:
    figure = style.page(2, 1)
    figure.text(0, 0, style.named(pipeline))
    figure.draw_without_rendering()
    assert style.named(pipeline) == (symbol(pipeline).latex or pipeline)


def test_in_grey_pipelines_differ_by_marker_and_line() -> None:
    names = [
        "p0",
        "pbar",
        "zbar",
        *(
            f"{c}({i})"
            for c in ("TS", "ETS", "MS", "MSc", "DC", "LTS", "CDC", "CMSap", "CMSop")
            for i in ("zbar", "pbar", "logS(zbar)")
        ),
    ]
    looks = [(style.look(n).marker, str(style.look(n).line)) for n in names]
    # p0 and the uncalibrated mean of logits share a round marker, and differ in lightness
    assert len(set(looks)) >= len(names) - 1
    assert (
        len({style.look(f"{c}(zbar)").color for c in ("TS", "MS", "MSc", "LTS", "CDC", "DC", "CMSop", "CMSap", "ETS")})
        == 9
    )


def test_fields_grow_lighter() -> None:
    colours = matplotlib.colormaps[style.FIELD](np.linspace(0, 1, 50))[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(colours) > 0).all()


def test_overlays_colour_classes_and_leave_the_rest() -> None:
    image = np.full((500, 500, 3), 100, np.uint8)
    labels = np.zeros((500, 500), int)
    labels[100:200, 100:200] = 1
    labels[300:400, 300:400] = 255
    out = style.overlaid(image, labels, 2, 0)
    assert out.shape == (500, 500, 3)
    assert np.allclose(out[10, 10], 0.92 * 100 / 255)
    assert np.allclose(out[350, 350], 0.92 * 100 / 255)
    expected = 0.55 * 0.92 * 100 / 255 + 0.45 * np.array(to_rgb(style.CLASSES[1]))
    assert np.allclose(out[150, 150], expected)
    assert rgb_to_hsv(out[150, 150])[1] > 0.05
    assert (out[99, 150] < out[10, 10]).all()
    # a coarse picture is drawn on finer pixels, so that its outlines are thin
    assert style.overlaid(image[:50, :40], labels[:50, :40], 2, 0).shape == (600, 480, 3)


def test_grey_pictures_are_stretched_and_flat_ones_are_not() -> None:
    assert style.shown(np.array([[3, 5], [4, 3]], np.int16))[..., 0].tolist() == [[0, 1], [0.5, 0]]
    assert np.isfinite(style.shown(np.full((2, 2), 7))).all()


def test_panels() -> None:
    assert [style.panels(n) for n in range(1, 8)] == [(1, 1), (1, 2), (1, 3), (2, 2), (2, 3), (2, 3), (3, 3)]
