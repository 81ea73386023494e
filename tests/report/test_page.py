"""A page needs nothing, asks for nothing, and takes every text for a text."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from segcal.report import strips
from segcal.report.page import Frames, Page, Picture, Table, render
from segcal.report.slices import Slice

HOSTILE = ('<script>alert("x")</script>', '"><img src=x onerror=alert(1)>', "\x1b[31mred", "{{ 7 * 7 }}", "a\x00b")


def png(side: int = 4) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(out, "PNG")
    return out.getvalue()


def page(name: str = "case 1") -> Page:
    shown = (Picture(png(), f"{name}, slice 1", "slice 1"), Picture(png(), f"{name}, slice 2", "slice 2"))
    return Page(
        f"Evaluation of {name}",
        f"segcal evaluate {name}",
        (f"Better for {name}.",),
        (f"Of {name}.",),
        (f"Note {name}.",),
        (Table(f"Table {name}", ("", name), ((name, "0.1"), ("b", name * 3)), name, frozenset({0})),),
        (Picture(png(), f"picture of {name}", f"Picture {name}"),),
        (Frames(name, name, ("labels", name), shown, 1),),
        f"Worst {name}",
        ((name, "#123456"),),
        (("fitted on", name),),
    )


class Found(HTMLParser):
    """Tags, attributes and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_texts_and_nothing_else(name: str) -> None:
    usual, found = Found(render(page())), Found(render(page(name)))
    assert [tag for tag, _ in found.tags] == [tag for tag, _ in usual.tags]
    # a long text is set in another way
    named = [[sorted(set(attrs) - {"class"}) for _, attrs in one.tags] for one in (found, usual)]
    assert named[0] == named[1]
    assert not any(key.startswith("on") or key == "style" for _, attrs in found.tags for key in attrs)
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", render(page(name)))
    assert "49" not in render(page("{{ 7 * 7 }}")).split("<main>")[0].split("<title>")[1]


def test_its_policy_allows_its_own_style_and_script_and_pictures_in_it() -> None:
    text = render(page())
    policy = next(a["content"] for tag, a in Found(text).tags if tag == "meta" and a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag in ("style", "script"):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_nothing_outside_is_named() -> None:
    for _, attrs in Found(render(page())).tags:
        for key in ("src", "href", "action", "srcset"):
            assert (attrs.get(key) or "data:").startswith("data:")


def test_what_there_is_none_of_has_no_heading() -> None:
    text = render(Page("Title", "segcal"))
    assert re.findall(r"<h2[^>]*>([^<]*)", text) == ["How this was made"]


def test_the_same_content_gives_the_same_bytes() -> None:
    assert render(page()) == render(page())


def test_one_slice_is_shown_and_a_slider_where_there_are_several() -> None:
    tags = Found(render(page())).tags
    hidden = ["hidden" in attrs for tag, attrs in tags if tag == "img" and attrs.get("class") == "slice"]
    assert hidden == [True, False]
    (slider,) = [attrs for tag, attrs in tags if tag == "input"]
    assert (slider["min"], slider["max"], slider["value"]) == ("1", "2", "2")
    assert slider["aria-label"] == "Slice of case 1"


def drawn(shape: tuple[int, int] = (20, 30), image: bool = True, aspect: float = 1.0) -> Slice:
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(-1, 3, (2, *shape))
    errors = {"uncalibrated": rng.random(shape), "calibrated": rng.random(shape)}
    errors["calibrated"][0] = np.nan
    return Slice(labels, predicted, errors, rng.random(shape) if image else None, "", aspect)


@pytest.mark.parametrize("image", [False, True])
def test_strips_have_a_panel_for_each_thing(image: bool) -> None:
    one = drawn(image=image)
    panels = len(strips.heads(one))
    assert panels == 4 + image
    found = Image.open(io.BytesIO(strips.strip(one, 3, 0, 1.0)))
    assert found.size == (panels * (150 + strips.GAP) - strips.GAP, 100)
    assert found.mode == "P"


def test_large_slices_are_thinned_and_tall_voxels_drawn_tall() -> None:
    thinned = Image.open(io.BytesIO(strips.strip(drawn((600, 400)), 3, 0, 1.0)))
    assert thinned.size[1] <= strips.SIDE
    tall = Image.open(io.BytesIO(strips.strip(drawn(aspect=3.0), 3, 0, 1.0)))
    assert tall.size[1] == 300


def test_errors_are_outlined() -> None:
    labels, predicted = np.zeros((11, 11), int), np.zeros((11, 11), int)
    predicted[3:8, 3:8] = 1
    one = Slice(labels, predicted, {"uncalibrated": np.zeros((11, 11))})
    shown = np.asarray(Image.open(io.BytesIO(strips.strip(one, 2, 0, 1.0))).convert("RGB"), int)
    times = strips.SIDE // 11
    panel = shown[:, 11 * times + strips.GAP : 22 * times + strips.GAP]
    dark = (panel < 40).all(-1)
    assert dark[3 * times, 3 * times : 8 * times].all()
    assert not dark[5 * times + times // 2, 5 * times + times // 2]
    assert not dark[: 3 * times].any()


def test_the_legend_leaves_out_what_is_clear() -> None:
    assert [name for name, _ in strips.legend(("air", "liver", "spleen"), 0)] == ["liver", "spleen"]
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for _, colour in strips.legend(("a", "b"), None))
