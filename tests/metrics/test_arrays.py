from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from segcal.errors import LabelError, ScoreError, ShapeError, UsageError
from segcal.metrics.arrays import evaluate_arrays


def batch(seed: int = 0, shape: tuple[int, ...] = (3, 4, 9, 11)) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=shape)
    p = np.exp(logits)
    return p / p.sum(1, keepdims=True), rng.integers(0, shape[1], (shape[0], *shape[2:]))


@pytest.mark.parametrize("shape", [(2, 3, 40), (3, 4, 9, 11), (2, 5, 3, 4, 6)])
def test_numbers_are_those_of_the_formulas(shape: tuple[int, ...]) -> None:
    p, y = batch(1, shape)
    got = evaluate_arrays(p, y)
    chosen = np.take_along_axis(p, y[:, None], 1)[:, 0].reshape(shape[0], -1)
    assert got["nll"] == pytest.approx(-np.log(chosen).mean(), rel=1e-9)
    truth = np.moveaxis(np.eye(shape[1])[y], -1, 1)
    assert got["brier"] == pytest.approx(((p - truth) ** 2).sum(1).mean(), rel=1e-9)
    assert got["accuracy"] == (p.argmax(1) == y).mean() and got["cases"] == shape[0] and got["flip_rate"] == 0


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    p, y = batch(2)
    whole = evaluate_arrays(p, y)
    monkeypatch.setattr("segcal.metrics.arrays.block_length", lambda channels: 16)
    cut = evaluate_arrays(p, y)
    assert cut["reliability"]["counts"] == whole["reliability"]["counts"] and cut["dice"] == whole["dice"]
    assert cut["nll"] == pytest.approx(whole["nll"], rel=1e-12) and cut["ece"] == pytest.approx(whole["ece"], rel=1e-10)


@pytest.mark.parametrize(
    "convert",
    [
        torch.from_numpy,
        lambda a: torch.from_numpy(a).requires_grad_(a.dtype.kind == "f"),
        lambda a: a.astype(a.dtype.newbyteorder(">")),
    ],
)
def test_tensors_gradients_and_foreign_byte_orders_are_taken(convert: Any) -> None:
    p, y = batch(3)
    assert evaluate_arrays(convert(p), convert(y)) == evaluate_arrays(p, y)


def test_labels_of_any_integer_type_are_taken() -> None:
    p, y = batch(4)
    expected = evaluate_arrays(p, y)
    for kind in (np.uint8, np.uint16, np.int16, np.int32):
        assert evaluate_arrays(p, y.astype(kind)) == expected


def test_masked_and_ignored_voxels_do_not_count() -> None:
    p, y = batch(5)
    mask = np.random.default_rng(0).random(y.shape) < 0.5
    inside = evaluate_arrays(p, y, mask=mask)
    assert inside == evaluate_arrays(p, np.where(mask, y, 255), ignore_index=255)
    assert inside["voxels"] == mask.sum()
    spoiled = p.copy()
    spoiled[:, 0][~mask] = np.nan  # what is not scored is not looked at
    assert evaluate_arrays(spoiled, y, mask=mask) == inside


def test_flips_against_a_reference() -> None:
    p, y = batch(6)
    reference = np.where(np.random.default_rng(1).random(y.shape) < 0.2, y, p.argmax(1))
    got = evaluate_arrays(p, y, reference=reference)
    changed = reference != p.argmax(1)
    assert (
        got["flip_rate"] == pytest.approx(changed.mean())
        and got["flips"]["harmful"] == changed.sum() == got["flips"]["flipped"]
    )


def test_background_is_declared() -> None:
    p, y = batch(7)
    all_classes, foreground = evaluate_arrays(p, y), evaluate_arrays(p, y, background=0)
    assert foreground["dice"] == pytest.approx(
        np.mean([row["dice"] for row in all_classes["per_class"][1:]]), rel=1e-12
    )
    assert all_classes["dice"] != foreground["dice"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels": np.zeros((3, 9, 10), int)}, ShapeError, r"labels: found shape \(3, 9, 10\)"),
        ({"mask": np.zeros((3, 9), bool)}, ShapeError, "mask: found shape"),
        ({"labels": np.zeros((3, 9, 11))}, LabelError, "expected integers"),
        ({"labels": np.full((3, 9, 11), 4)}, LabelError, r"labels of image 0: found labels \[4\]"),
        ({"labels": np.full((3, 9, 11), 255), "ignore_index": 255}, LabelError, "no voxel to score"),
        ({"labels": None}, UsageError, "true labels"),
        ({"probs": np.ones(4)}, ShapeError, r"\(B, C, \*spatial\)"),
        ({"probs": np.ones((0, 4, 9, 11)), "labels": np.ones((0, 9, 11), int)}, ShapeError, "at least one image"),
        ({"probs": np.ones((3, 4, 9, 11))}, ScoreError, "probs of image 0"),
        ({"probs": np.full((3, 4, 9, 11), np.nan)}, ScoreError, "not finite"),
        ({"background": 9}, UsageError, "background"),
    ],
)
def test_bad_arguments_get_a_message(change: dict[str, Any], error: type[Exception], message: str) -> None:
    p, y = batch()
    arguments = {"probs": p, "labels": y, **change}
    with pytest.raises(error, match=message):
        evaluate_arrays(arguments.pop("probs"), arguments.pop("labels"), **arguments)
