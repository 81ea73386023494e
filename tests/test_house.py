"""The house gets no more doors: figures that may only fall, and what the counting counts."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from benchmarks import house

RECORD = json.loads((Path(__file__).parents[1] / "docs" / "results" / "house.json").read_text())["now"]


@pytest.fixture(scope="module")
def found() -> dict[str, int]:
    return house.measure()


@pytest.mark.parametrize("name", house.HELD)
def test_a_figure_may_only_fall(name: str, found: dict[str, int]) -> None:
    assert found[name] <= RECORD[name]


def test_the_record_has_every_figure(found: dict[str, int]) -> None:
    assert set(found) == set(RECORD)


def test_room_is_left_for_what_is_still_to_come(found: dict[str, int]) -> None:
    assert found["entries at the top"] <= 16
    assert found["layers"] <= 12
    assert found["circles"] == 0


def test_what_is_counted() -> None:
    tree = ast.parse(
        "def f(x):\n    import json\n    from segcal.data import head\n    return isinstance(x, (Regions, int))\n"
        "A = ['ts', 'dc', 'vs']\nB = [TemperatureScaling, VectorScaling]\nC = {'ts': 1, 'ets': 2, 'other': 3}\n"
    )
    assert house.deferred(tree) == (1, 1)
    assert house.asked(tree, house.HEADS) == 1
    assert house.asked(tree, house.MAPS) == 0
    assert house.lists("segcal.tasks.choose", tree) == 1
    assert house.lists("segcal.methods", tree) == 0
    assert house.tokens("a = 1  # one\n", ast.parse("a = 1  # one\n")) == 3


def test_a_circle_is_found() -> None:
    known = {"segcal.a": Path("a"), "segcal.b": Path("b"), "segcal.c": Path("c")}
    trees = {
        "segcal.a": ast.parse("from segcal import b"),
        "segcal.b": ast.parse("from segcal.a import x"),
        "segcal.c": ast.parse("import segcal.a"),
    }
    assert house.circles(known, trees) == [["segcal.a", "segcal.b"]]
