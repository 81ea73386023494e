"""Arrays and tensors as cohorts: every accepted shape, and errors that name the argument."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from segcal.data.cohort import Cohort
from segcal.data.files.journal import Scratch
from segcal.data.formats.arrays import cohort_from_arrays
from segcal.data.head import Regions, Softmax
from segcal.errors import LabelError, MissingError, ScoreError, SegcalError, ShapeError, UsageError


def blocks(
    cohort: Cohort, index: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None, np.ndarray[Any, Any]]:
    """Scores, labels and roles of a case, read by blocks."""
    with Scratch(1) as scratch, cohort.open(index, scratch) as reader:
        got = [reader.block(a, b) for a, b in cohort.cuts(index)]
    labels = None if got[0].labels is None else np.concatenate([b.labels.numpy() for b in got if b.labels is not None])
    return np.concatenate([b.scores.numpy() for b in got], 1), labels, np.concatenate([b.role.numpy() for b in got])


@pytest.mark.parametrize("spatial", [(9,), (4, 5), (3, 4, 5), (300, 301)])
@pytest.mark.parametrize(
    "make",
    [
        np.asarray,
        torch.from_numpy,
        lambda a: torch.from_numpy(a).requires_grad_() if a.dtype.kind == "f" else torch.from_numpy(a),
    ],
)
def test_batch(make: Any, spatial: tuple[int, ...], rng: np.random.Generator) -> None:
    z, y = rng.normal(size=(2, 3, *spatial)).astype(np.float32), rng.integers(0, 3, (2, *spatial))
    mask = rng.integers(0, 2, (2, *spatial))
    cohort = cohort_from_arrays(
        make(z), make(y), mask=make(mask), groups=["a", "b"], classes=["x", "y", "z"], background=1
    )
    assert [c.id for c in cohort] == ["0", "1"] and cohort.groups == ("a", "b") and cohort.has_logits
    assert cohort.head == Softmax(("x", "y", "z"), 1, None)
    for k, case in enumerate(cohort):
        assert case.shape == spatial
        scores, labels, roles = blocks(cohort, k)
        assert scores.dtype == np.float32 and np.array_equal(scores, z[k].reshape(3, -1))
        assert labels is not None and np.array_equal(labels, y[k].reshape(-1))
        assert np.array_equal(roles == 0, mask[k].reshape(-1) != 0)


def test_views_of_other_strides(rng: np.random.Generator) -> None:
    last = rng.normal(size=(2, 40, 50, 3))
    for z in (np.moveaxis(last, -1, 1), torch.from_numpy(last).movedim(-1, 1)):
        scores, labels, _ = blocks(cohort_from_arrays(z), 1)
        assert labels is None and np.array_equal(scores, np.moveaxis(last, -1, 1)[1].reshape(3, -1))


def test_lists_of_different_shapes(rng: np.random.Generator) -> None:
    shapes = [(4, 5), (7, 3), (6, 6)]
    z = [rng.normal(size=(2, *s)) for s in shapes]
    y = [rng.integers(0, 2, s) for s in shapes]
    cohort = cohort_from_arrays([z[0], torch.from_numpy(z[1]), z[2]], y, ids=["p", "q", "r"], kind="logits")
    assert [c.id for c in cohort] == ["p", "q", "r"] and [c.shape for c in cohort] == shapes
    for k in range(3):
        scores, labels, _ = blocks(cohort, k)
        assert np.array_equal(scores, z[k].reshape(2, -1)) and np.array_equal(labels, y[k].reshape(-1))


@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy])
def test_table_with_the_case_of_each_row(make: Any, rng: np.random.Generator) -> None:
    z, y, groups = rng.normal(size=(50, 4)), rng.integers(0, 4, 50), rng.integers(0, 3, 50)
    mask = rng.integers(0, 2, 50).astype(bool)
    cohort = cohort_from_arrays(make(z), make(y), groups=make(groups), mask=make(mask))
    assert [c.id for c in cohort] == [str(g) for g in dict.fromkeys(groups.tolist())]
    for k, case in enumerate(cohort):
        rows = groups == int(case.id)
        scores, labels, roles = blocks(cohort, k)
        assert (
            np.array_equal(scores, z[rows].T)
            and np.array_equal(labels, y[rows])
            and np.array_equal(roles == 0, mask[rows])
        )
    whole = cohort_from_arrays(make(z), make(y))
    assert len(whole) == 1 and np.array_equal(blocks(whole, 0)[0], z.T)


def test_fields_heads_and_half_precision(rng: np.random.Generator) -> None:
    z = torch.from_numpy(rng.normal(size=(2, 2, 4, 5))).to(torch.bfloat16)
    image, features = rng.normal(size=(2, 4, 5)), rng.normal(size=(2, 6, 4, 5))
    head = Regions(("a", "b"), ((1, 2), (2,)), (1, 2))
    cohort = cohort_from_arrays(z, head=head, fields={"image": image, "features": features})
    assert cohort.head is head
    assert np.array_equal(blocks(cohort, 0)[0], z[0].float().numpy().reshape(2, -1))
    assert {k: (f.channels, f.shape) for k, f in cohort[1].fields.items()} == {
        "image": (None, (4, 5)),
        "features": (6, (4, 5)),
    }
    with Scratch(1) as scratch, cohort[1].fields["features"].open(scratch) as window:
        assert np.array_equal(window.read(3, 9), features[1].reshape(6, -1)[:, 3:9])


Z, Y = np.zeros((2, 3, 4, 5)), np.zeros((2, 4, 5), int)


@pytest.mark.parametrize(
    ("scores", "labels", "options", "error", "where"),
    [
        (Z, Y[:1], {}, ShapeError, "labels"),
        (Z, Y[:, :3], {}, ShapeError, r"labels\[0\]"),
        (Z, [Y[0], Y[1, :2]], {}, ShapeError, r"labels\[1\]"),
        (Z[0], Y[0], {}, ShapeError, "labels"),
        (Z, Y, {"mask": Y[..., :2]}, ShapeError, r"mask\[0\]"),
        (Z, Y, {"groups": ["a"]}, ShapeError, "groups"),
        (Z, Y, {"ids": ["a"]}, ShapeError, "ids"),
        (Z, Y, {"fields": {"image": Y[0]}}, ShapeError, "image"),
        (Z, np.full((2, 4, 5), "a"), {}, LabelError, "labels"),
        ([np.zeros((2, 3)), np.array([[None]])], None, {}, ScoreError, r"scores\[1\]"),
        (torch.zeros(2, 3, 4, dtype=torch.complex64), None, {}, ScoreError, "scores"),
        ([np.zeros(3)], None, {}, ShapeError, r"scores\[0\]"),
        ([[1.0], [1.0, 2.0]], None, {}, ShapeError, r"scores\[0\]"),
        (np.zeros((6, 2)), np.zeros(5), {}, ShapeError, "labels"),
        (np.zeros((6, 2)), np.zeros((6, 1)), {}, ShapeError, "labels"),
        (np.zeros((6, 2)), np.zeros(6), {"groups": [1, 2]}, ShapeError, "groups"),
        (np.zeros((6, 2)), np.zeros(6), {"ids": ["a"]}, UsageError, "ids"),
        (np.zeros((0, 3, 4)), None, {}, MissingError, "scores"),
        (np.zeros((0, 3)), None, {}, MissingError, "scores"),
        ([], None, {}, MissingError, "scores"),
        (Z, Y, {"kind": "softmax"}, UsageError, "kind"),
        (Z, Y, {"classes": ["a", "b"]}, ShapeError, r"scores\[0\]"),
        (Z, Y, {"head": Softmax(("a", "b", "c")), "background": 0}, UsageError, "head"),
        (np.float64(3), None, {}, ShapeError, "scores"),
    ],
)
def test_errors_name_the_argument(
    scores: Any, labels: Any, options: dict[str, Any], error: type[SegcalError], where: str
) -> None:
    with pytest.raises(error, match=f"^{where}: found "):
        cohort_from_arrays(scores, labels, **options)
