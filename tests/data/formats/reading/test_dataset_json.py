"""dataset.json: softmax and region heads as nnU-Net reads them, and numberings that it would not train on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from segcal.data.formats.dataset_json import head_of, named_head, read_json
from segcal.data.head import Regions, Softmax
from segcal.errors import DataError, LabelError, MissingError, UnreadableError

WHERE = Path("folder/dataset.json")


def test_softmax() -> None:
    assert head_of({"labels": {"tumour": 1, "background": 0}}, WHERE) == Softmax(("background", "tumour"), 0, None)
    assert head_of({"labels": {"Sky": 0, "Road": 1, "ignore": 2}}, WHERE) == Softmax(("Sky", "Road"), None, 2)
    # one label in a list is no region by itself
    assert head_of({"labels": {"background": 0, "a": [1], "b": 2}}, WHERE) == Softmax(("background", "a", "b"), 0, None)


def test_regions() -> None:
    labels: dict[str, Any] = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}
    expected = Regions(("whole", "core", "enhancing"), ((1, 2, 3), (2, 3), (3,)), (1, 2, 3), 4)
    assert head_of({"labels": labels, "regions_class_order": [1, 2, 3]}, WHERE) == expected
    for order in (None, [1, 2], "123"):
        with pytest.raises(LabelError, match="regions_class_order"):
            head_of({"labels": labels, "regions_class_order": order}, WHERE)


@pytest.mark.parametrize(
    ("labels", "error"),
    [
        ({"background": 0, "a": 2}, LabelError),
        ({"a": 1, "b": 2}, LabelError),
        ({"background": 0, "a": 1, "ignore": 255}, LabelError),
        ({"background": 0, "a": 1, "ignore": 1}, LabelError),
        ({"background": 0, "a": 1, "ignore": [2]}, LabelError),
        ({"background": 0, "a": 1, "b": 1}, LabelError),
        ({"background": 0}, LabelError),
        ({"0": "background", "1": "a"}, UnreadableError),
        ({"background": 0, "a": -1}, UnreadableError),
        ({"background": False, "a": True}, UnreadableError),
        ({"background": "0", "a": "b"}, UnreadableError),
        ({"background": 0, "a": "1" * 5000}, UnreadableError),
        ({"background": 0, "a": 1.5}, UnreadableError),
        ({"background": 0, "a": float("inf")}, UnreadableError),
        ({"background": 0, "a": []}, UnreadableError),
        ({}, UnreadableError),
        (None, UnreadableError),
    ],
)
def test_other_numberings_are_refused(labels: Any, error: type[DataError]) -> None:
    with pytest.raises(error, match=r"folder/dataset\.json"):
        head_of({"labels": labels}, WHERE)


def test_numbers_may_be_written_as_text() -> None:
    """nnU-Net calls `int` on every label."""
    texts = {"background": "0", "whole": ["1", "2"], "core": ["2"], "ignore": "3"}
    numbers = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3.0}
    for labels in (texts, numbers):
        for order in (["1", 2], [1, "2"]):
            described = {"labels": labels, "regions_class_order": order}
            assert head_of(described, WHERE) == Regions(("whole", "core"), ((1, 2), (2,)), (1, 2), 3)
    assert head_of({"labels": {"background": "0", "a": "1", "ignore": "2"}}, WHERE) == Softmax(
        ("background", "a"), 0, 2
    )


def test_beside_plain_scores_other_styles_are_left_alone() -> None:
    decathlon = {"labels": {"1": "anterior", "0": "Background"}, "training": []}
    assert named_head(decathlon, WHERE, 2) == Softmax(("Background", "anterior"), 0)
    assert named_head({"labels": {"0": "sky", "1": "road"}}, WHERE, 2) == Softmax(("sky", "road"), None)
    other: tuple[object, ...] = (
        {"0": "background", "1": "a", "3": "b"},
        {"0": "background", "1": "background"},
        {"zero": "background", "one": "a"},
        {"0": {"name": "background"}, "1": {}},
        ["background", "a"],
        "background",
        None,
    )
    for labels in other:
        assert named_head({"labels": labels}, WHERE, 2) is None
    assert named_head(decathlon, WHERE, 3) is None and named_head([decathlon], WHERE, 2) is None
    assert named_head({"labels": {"0": "background"}}, WHERE, 1) is None
    assert named_head({"labels": {"background": 0, "a": 1}}, WHERE, 3) == Softmax(("background", "a"), 0)


def test_reading(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"a": [1]}))
    assert read_json(tmp_path / "a.json") == {"a": [1]}
    (tmp_path / "b.json").write_text("[1]")
    (tmp_path / "c.json").write_text("{")
    (tmp_path / "d.json").write_bytes(b"\xff\xfe{")
    for name in "bcd":
        with pytest.raises(UnreadableError, match=rf"{name}\.json"):
            read_json(tmp_path / f"{name}.json")
    with pytest.raises(MissingError):
        read_json(tmp_path / "none.json")
