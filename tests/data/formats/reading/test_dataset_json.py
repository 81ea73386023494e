"""dataset.json: softmax and region heads as nnU-Net reads them, and numberings that it would not train on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from segcal.data.formats.dataset_json import head_of, read_json
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
        ({"background": 0, "a": []}, UnreadableError),
        ({}, UnreadableError),
        (None, UnreadableError),
    ],
)
def test_other_numberings_are_refused(labels: Any, error: type[DataError]) -> None:
    with pytest.raises(error, match=r"folder/dataset\.json"):
        head_of({"labels": labels}, WHERE)


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
