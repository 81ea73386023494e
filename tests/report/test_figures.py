"""Figures: complete files that say the numbers they were given, the same bytes for the same numbers, and errors that
leave nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from PIL import Image

from segcal import evaluate_arrays
from segcal.errors import ShapeError, UsageError
from segcal.metrics.statistics.clustered import clustered_mean
from segcal.metrics.statistics.estimate import Estimate
from segcal.report import figures, slices


def block(sharpness: float, seed: int = 0) -> dict[str, Any]:
    """Numbers of a made-up evaluation: labels follow a softmax, probabilities are that softmax sharpened."""
    generator = np.random.default_rng(seed)
    scores = generator.normal(0, 1.5, (2, 3, 4000))
    labels = (scores + generator.gumbel(size=scores.shape)).argmax(1)
    p = np.exp(sharpness * scores)
    return evaluate_arrays(p / p.sum(1, keepdims=True), labels)


def estimate(mean: float, spread: float = 0.02) -> Estimate:
    return clustered_mean(mean + spread * np.random.default_rng(0).normal(size=8), list(range(8)))


BEFORE, AFTER = block(2.5), block(1.0)
FOUND = {"uncalibrated": estimate(0.2), "ts": estimate(0.03, 0.005), "dc": estimate(0.004, 0.001)}
SLICE = np.arange(24).reshape(4, 6) % 3
NAMES = ("air", "bone", "fat")


def a_slice(**given: Any) -> slices.Slice:
    wrong = {"before": SLICE / 9, "truth": np.where(SLICE == 1, np.nan, SLICE / 5)}
    shown = {"labels": SLICE, "predicted": SLICE[::-1], "errors": wrong, "caption": "case_1\nslice 3 of 9", **given}
    return slices.Slice(**{"aspect": 1.3, **shown})


DRAW: dict[str, Callable[[Path], Path]] = {
    "reliability": lambda path: figures.reliability(BEFORE, AFTER, path, title="made up"),
    "gains": lambda path: figures.gains({"ts": estimate(-0.1), "dc": estimate(-0.15)}, path, highlight="dc"),
    "distances": lambda path: figures.distances(FOUND, path, highlight="dc"),
    "slices": lambda path: slices.slices([a_slice(), a_slice(image=SLICE / 2)], NAMES, path, title="made up"),
    "places": lambda path: figures.places(
        {"": [figures.Panel("all voxels", BEFORE, AFTER), figures.Panel("boundary", BEFORE, AFTER)]}, path
    ),
    "field": lambda path: figures.field(np.where(SLICE > 1, np.nan, SLICE), path, title="made up", label="F"),
}


@pytest.mark.parametrize("name", DRAW)
def test_a_picture_is_written(name: str, tmp_path: Path) -> None:
    path = DRAW[name](tmp_path / "deep" / f"{name}.png")
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L"))
    assert min(pixels.shape) > 150
    # something is drawn, and most of the page is left white
    assert 0.005 < np.mean(pixels < 200) < 0.6
    # nothing is cut off: the outermost pixels are white
    assert all((edge > 250).all() for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", DRAW)
@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf"])
def test_the_same_numbers_give_the_same_bytes(name: str, ending: str, tmp_path: Path) -> None:
    first, again = DRAW[name](tmp_path / f"a{ending}"), DRAW[name](tmp_path / f"b{ending}")
    assert first.read_bytes() == again.read_bytes()


def test_reliability_says_the_numbers(tmp_path: Path) -> None:
    # matplotlib leaves each text of an SVG in a comment beside its outlines
    text = figures.reliability(BEFORE, AFTER, tmp_path / "r.svg", names=("as predicted", "calibrated")).read_text()
    for found in (
        "as predicted",
        "calibrated",
        f"ECE  {BEFORE['ece']:.1%}",
        f"ECE  {AFTER['ece']:.1%}",
        f"NLL  {AFTER['nll']:.3f}",
    ):
        assert f"<!-- {found} -->" in text
    assert BEFORE["ece"] > 2 * AFTER["ece"]


def test_a_slice_says_where_it_is_and_what_is_seen(tmp_path: Path) -> None:
    said = ["case_1", "slice 3 of 9", "error probability,", "before", "truth", "bone", "fat"]
    text = slices.slices([a_slice()], NAMES, tmp_path / "s.svg").read_text()
    assert all(f"<!-- {one} -->" in text for one in [*said, "air"])
    over = slices.slices([a_slice(image=SLICE / 2)], NAMES, tmp_path / "o.svg").read_text()
    assert all(f"<!-- {one} -->" in over for one in [*said, "image"])
    assert "<!-- air -->" not in over  # the background lets the image through
    many = slices.slices(
        [a_slice(labels=np.arange(24).reshape(4, 6))], [f"n{k}" for k in range(24)], tmp_path / "m.svg"
    )
    assert "<!-- n11 -->" in many.read_text() and "<!-- and 12 more -->" in many.read_text()


def test_places_stand_beside_each_other_with_their_numbers(tmp_path: Path) -> None:
    panels = [figures.Panel("all voxels", BEFORE, AFTER), figures.Panel("foreground", AFTER, None)]
    text = figures.places({"core": panels, "<whole>": panels[:1]}, tmp_path / "p.svg").read_text()
    for said in ("core: all voxels", "core: foreground", f"ECE  {BEFORE['ece']:.1%}", f"ECE  {AFTER['ece']:.1%}"):
        assert f"<!-- {said} -->" in text
    assert "<whole>" not in text


def test_methods_are_named(tmp_path: Path) -> None:
    text = figures.distances(FOUND, tmp_path / "d.svg").read_text()
    assert all(f"<!-- {name} -->" in text for name in FOUND)


def test_a_method_without_a_number_or_an_interval(tmp_path: Path) -> None:
    alone = clustered_mean([0.5], ["one"])
    nothing = clustered_mean([], [])
    assert math.isnan(alone.standard_error)
    for draw in (figures.gains, figures.distances):
        text = draw({"alone": alone, "nothing": nothing}, tmp_path / "f.svg").read_text()
        assert "<!-- alone -->" in text
        assert "<!-- nothing -->" not in text


def test_nothing_to_draw_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    empty = {**BEFORE, "reliability": {**BEFORE["reliability"], "counts": [0] * 15}}
    for attempt in (
        lambda: figures.reliability(BEFORE, {**AFTER, "reliability": None}, tmp_path / "f.png"),
        lambda: figures.reliability(empty, AFTER, tmp_path / "f.png"),
        lambda: figures.gains({}, tmp_path / "f.png"),
        lambda: figures.distances({"a": clustered_mean([0.0, 0.0], ["a", "b"])}, tmp_path / "f.png"),
        lambda: a_slice(errors={}),
        lambda: slices.slices([], NAMES, tmp_path / "f.png"),
        lambda: figures.places({"": []}, tmp_path / "f.png"),
        lambda: figures.gains(FOUND, tmp_path / "f.docx"),
    ):
        with pytest.raises(UsageError):
            attempt()
    with pytest.raises(ShapeError, match="as the predicted map"):
        a_slice(predicted=SLICE[:2])
    assert list(tmp_path.iterdir()) == []


def test_matplotlib_is_left_as_it_was(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    DRAW["reliability"](tmp_path / "r.png")
    assert dict(matplotlib.rcParams) == before


def test_a_field_without_a_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="0 finite numbers"):
        figures.field(np.full((3, 4), np.nan), tmp_path / "f.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["$x", "$\\frac{$", "$$", "_hidden", "a\x1b[31m\nb", "\udcff", "<script>", "\u202e"])
def test_any_name_can_be_drawn(name: str, tmp_path: Path) -> None:
    target = tmp_path / "field.svg"
    figures.field(np.eye(4), target, title=name, label="F")
    text = target.read_text(encoding="utf-8")
    assert "<script>" not in text
    figures.field(np.eye(4), tmp_path / "field.png", title=name, label="F")


def test_no_formula_and_no_name_that_a_legend_leaves_out() -> None:
    assert figures.words("$x$_") == r"\$x\$_"
    assert not figures.words("_x").startswith("_")
