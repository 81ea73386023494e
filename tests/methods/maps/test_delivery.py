"""What is delivered: float32 rows that sum to one, and the promised label at every voxel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segcal.data.head import Regions, Softmax
from segcal.methods.affine.map import AffineMap
from segcal.methods.calibrator import Calibrator
from segcal.methods.mixture import MixtureMap
from segcal.methods.temperature import ScaleMap

PRESERVING = {
    "T = 1": lambda c: ScaleMap(1.0),
    "T = 1e10": lambda c: ScaleMap(1e-10),
    "T = 1e-4": lambda c: ScaleMap(1e4),
    "T = 1.37": lambda c: ScaleMap(1 / 1.37),
    "T = 1e300": lambda c: ScaleMap(1e-300),
    "affine temperature": lambda c: AffineMap(
        0.7 * torch.eye(c, dtype=torch.float64) + torch.linspace(-1, 1, c, dtype=torch.float64)[None], torch.zeros(c)
    ),
    "mixture": lambda c: MixtureMap(0.5, torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)),
    "nearly uniform": lambda c: MixtureMap(0.5, torch.tensor([1e-12, 0.0, 1 - 1e-12], dtype=torch.float64)),
}


@pytest.mark.parametrize("name", PRESERVING)
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 20))
def test_the_label_is_kept_and_rows_sum_to_one(name, seed, classes, hostile, softmax_calibrator) -> None:
    z = hostile(seed, classes)
    calibrator = softmax_calibrator(PRESERVING[name](classes), classes)
    assert calibrator.keeps_label
    p = calibrator(torch.from_numpy(z)[None])[0].numpy()
    assert p.dtype == np.float32
    np.testing.assert_array_equal(np.argmax(p, 0), np.argmax(z, 0))
    winner = np.argmax(z, 0)
    others = np.where(np.arange(classes)[:, None] == winner, -1, p).max(0)
    assert (p[winner, np.arange(z.shape[1])] > others).all()
    assert np.abs(p.astype(np.float64).sum(0) - 1).max() < 1e-6
    assert ((p >= 0) & (p <= 1)).all()


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 20))
def test_the_label_of_stored_probabilities_is_kept(seed, classes, hostile, softmax_calibrator) -> None:
    """Saturated probabilities are equal after the floor; the label is that of the array as given."""
    p = torch.softmax(torch.from_numpy(hostile(seed, classes)), 0)
    out = softmax_calibrator(ScaleMap(0.5), classes, "probs")(p[None])[0]
    np.testing.assert_array_equal(np.argmax(out.numpy(), 0), np.argmax(p.numpy(), 0))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 20), steps=st.sampled_from([1, 3, 10**6]))
def test_keeping_is_delivering_the_decision(seed, classes, steps, hostile) -> None:
    """Also where scores are tied, and where probabilities are tied or swapped."""
    z = torch.from_numpy(hostile(seed, classes))
    z = torch.where(z.abs() < 1e3, (z * steps).round() / steps, z)
    head = Softmax(tuple(map(str, range(classes))))
    for rows in (
        torch.log_softmax(z.double() / 1.7, 0),
        torch.log_softmax(z.double() * 1e-10, 0),
        torch.log_softmax(z.double().flip(0), 0),
    ):
        assert torch.equal(head.keeping(rows, z, "logits"), head.deliver(rows, head.decide(z, "logits")))
    assert head.keeping(rows[:, :0], z[:, :0], "logits").shape == (classes, 0)


@pytest.mark.parametrize("name", ["ts", "dc", "regions"])
@pytest.mark.parametrize("inference", [False, True])
def test_many_voxels_are_mapped_by_pieces_as_the_same_in_one(name, inference, softmax_calibrator) -> None:
    generator = torch.Generator().manual_seed(0)
    classes = 3 if name != "regions" else 2
    if name == "regions":
        calibrator = Calibrator(REGIONS, "logits", [ScaleMap(0.5), ScaleMap(1.5)], "one")
    else:
        weight = 0.9 * torch.eye(3, dtype=torch.float64) + 0.05
        m = ScaleMap(0.7) if name == "ts" else AffineMap(weight, torch.tensor([0.1, 0.0, -0.1]))
        calibrator = softmax_calibrator(m, classes)
    z = 4 * torch.randn(2, classes, 300, 301, generator=generator)
    flat = z.movedim(1, 0).flatten(1)
    whole = calibrator.deliver(flat, "logits").reshape(classes, 2, 300, 301).movedim(0, 1)
    with torch.inference_mode(inference):
        found = calibrator(z)
    assert found.is_contiguous()
    # a matrix product may round otherwise in pieces of another length
    torch.testing.assert_close(found, whole, atol=1e-7, rtol=0)
    assert torch.equal(calibrator(z), calibrator(z))
    assert calibrator(z.clone().requires_grad_()).requires_grad


def test_without_a_promise_nothing_is_moved() -> None:
    x = torch.log_softmax(torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64), 0)
    head = Softmax(("a", "b"))
    assert torch.equal(head.deliver(x, None), x.exp().float())
    assert head.deliver(x[:, :0], torch.zeros(1, 0)).shape == (2, 0)


REGIONS = Regions(("whole", "core"), ((1, 2), (2,)), (1, 2))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), kind=st.sampled_from(["probs", "logits"]))
def test_regions_stay_on_their_side_unless_given_up(seed, kind) -> None:
    """A bias of 3 moves every region inside; kept, the side of 0.5 stays, and so does the label map."""
    rng = np.random.default_rng(seed)
    s = rng.choice([0.0, 0.3, 0.5, 0.5 + 1e-7, 0.9, 1.0], size=(1, 2, 40)).astype(np.float32)
    scores = torch.from_numpy(s if kind == "probs" else 10 * (s - 0.5))
    maps = [AffineMap(torch.eye(2), torch.tensor([0.0, 3.0])) for _ in range(2)]
    kept, moved = (Calibrator(REGIONS, kind, maps, "hand-made", keep_decision=keep) for keep in (None, False))
    decision = (scores > (0.5 if kind == "probs" else 0)).numpy()
    p = kept(scores)
    np.testing.assert_array_equal((p > 0.5).numpy(), decision)
    assert torch.equal(REGIONS.label_map(p[0]), REGIONS.label_map(torch.from_numpy(decision[0]).float()))
    assert kept.guarantees().preserves_argmax == "proven"
    assert not np.array_equal((moved(scores) > 0.5).numpy(), decision) or decision.all()
    assert moved.guarantees().preserves_argmax == "no"
    assert ((p >= 0) & (p <= 1)).all()
