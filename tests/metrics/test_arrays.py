from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from segcal.data.formats.arrays import cohort_from_arrays
from segcal.data.head import Regions
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


def one_sigmoid(seed: int = 0) -> tuple[Any, Any]:
    z = 3 * np.random.default_rng(seed).normal(size=(3, 1, 9, 11)).astype(np.float32)
    return z, (np.random.default_rng(seed + 1).random((3, 9, 11)) < 1 / (1 + np.exp(-z[:, 0] / 2))).astype(np.uint8)


def test_one_sigmoid_is_the_softmax_of_its_two_sides() -> None:
    """The same probabilities, so the same NLL and ECE; Dice is of the region; a head of one region says the same."""
    z, y = one_sigmoid()
    both = evaluate_arrays(np.concatenate([0 * z, z], 1), y, kind="logits", background=0)
    for found in (
        evaluate_arrays(z, y, kind="logits"),
        evaluate_arrays(1 / (1 + np.exp(-z.astype(np.float64))), y),
        evaluate_arrays(z, y, kind="logits", head=Regions(("foreground",), ((1,),), (1,))),
    ):
        for name in ("nll", "brier", "ece", "dice", "iou", "ba_ece"):
            assert found[name] == pytest.approx(both[name], rel=1e-6), name
        assert [row["name"] for row in found["per_class"]] == ["foreground"]
    masks = evaluate_arrays(z, 255 * y, kind="logits", label_map={255: 1})
    assert masks == evaluate_arrays(z, y, kind="logits")
    for wrong in ({"background": 0}, {"ignore_index": 9}):
        with pytest.raises(UsageError, match="a head beside background or ignore_index"):
            evaluate_arrays(z, y, kind="logits", head=Regions(("x",), ((1,),), (1,)), **wrong)


def test_the_kind_is_declared() -> None:
    p, y = batch(3)
    expected = evaluate_arrays(p, y)
    for kind, scores in (("log_probs", np.log(p)), ("scores", 5 * p), ("logits", np.log(p) + 2)):
        found = evaluate_arrays(scores, y, kind=kind)
        assert found["nll"] == pytest.approx(expected["nll"], rel=1e-9)
        assert (found["free_energy_std"] is None) == (kind != "logits")
    with pytest.raises(UsageError, match="kind"):
        evaluate_arrays(p, y, kind="odds")


def test_an_image_of_which_nothing_counts_is_left_out() -> None:
    p, y = batch(5)
    y = y.copy()
    y[1] = 255
    assert evaluate_arrays(p, y, ignore_index=255) == evaluate_arrays(p[[0, 2]], y[[0, 2]], ignore_index=255)


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (
            lambda y: y[:, None],
            r"found shape \(3, 1, 9, 11\).*a channel axis of one: leave it out, labels\[0\] of",
        ),
        (lambda y: y[..., None], r"channel axis of one: leave it out, labels\[\.\.\., 0\] of each case"),
        (lambda y: np.eye(4, dtype=int)[y], r"one-hot labels.*labels\.argmax\(-1\)"),
        (lambda y: np.moveaxis(np.eye(4, dtype=int)[y], -1, 1), r"one-hot labels.*labels\.argmax\(0\)"),
    ],
)
def test_labels_with_axes_too_many_are_called_what_they_are(turn: Any, message: str) -> None:
    p, y = batch()
    with pytest.raises(ShapeError, match=message):
        evaluate_arrays(p, turn(y))
    with pytest.raises(ShapeError, match=message.partition(".*")[2] or message):
        cohort_from_arrays(p, turn(y), kind="probs")
