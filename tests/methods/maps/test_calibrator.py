"""The fitted calibrator: shapes, kinds, types, what it refuses, what it promises, what it does to rows."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from segcal.data.head import Regions, Softmax
from segcal.data.rows import Rows
from segcal.errors import ScoreError, ShapeError, UsageError
from segcal.methods.affine.map import AffineMap
from segcal.methods.calibrator import Calibrator, Solution
from segcal.methods.mixture import MixtureMap
from segcal.methods.temperature import ScaleMap, TemperatureScaling

HEAD = Softmax(("sky", "road", "tree"))
SKEWED = AffineMap(
    torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.2, 0.0], [0.3, 0.0, 0.8]], dtype=torch.float64),
    torch.tensor([0.1, 0.0, -0.1]),
    logits=True,
)
SHAPES = [(4, 3), (2, 3, 5), (2, 3, 4, 5), (2, 3, 3, 4, 2), (1, 3, 1, 1), (0, 3, 4), (2, 3, 0)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_class_axis_is_the_second_and_stays_there(shape) -> None:
    scores = torch.randn(shape)
    for m in (ScaleMap(0.5), SKEWED):
        calibrator = Calibrator(HEAD, "logits", [m], "hand-made")
        p, x = calibrator(scores), calibrator.log_probs(scores)
        assert p.shape == x.shape == scores.shape
        assert (p.dtype, x.dtype) == (torch.float32, torch.float64)
        assert p.is_contiguous()
        torch.testing.assert_close(p, x.exp().float(), rtol=0, atol=1e-6)
        if m is SKEWED:
            flat = scores.double().movedim(1, -1) @ SKEWED.weight.T + SKEWED.bias
            torch.testing.assert_close(x, torch.log_softmax(flat, -1).movedim(-1, 1), rtol=1e-9, atol=1e-9)


def test_kinds_are_declared_and_may_be_declared_anew() -> None:
    z = torch.randn(2, 3, 6, dtype=torch.float64)
    calibrator = Calibrator(HEAD, "logits", [ScaleMap(0.5)], "hand-made")
    expected = calibrator.log_probs(z)
    p = torch.softmax(z, 1)
    torch.testing.assert_close(calibrator.log_probs(p, kind="probs"), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(calibrator.log_probs(p.log(), kind="log_probs"), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(calibrator.log_probs(7 * p, kind="scores"), expected, rtol=1e-9, atol=1e-9)
    with pytest.raises(UsageError, match="kind"):
        calibrator(z, kind="logit")
    with pytest.raises(UsageError, match="kind"):
        Calibrator(HEAD, "logit", [ScaleMap(0.5)], "hand-made")


def test_what_was_fitted_on_offsets_refuses_probabilities() -> None:
    calibrator = Calibrator(HEAD, "logits", [SKEWED], "hand-made")
    assert calibrator.needs.logits
    with pytest.raises(UsageError, match="raw logits"):
        calibrator(torch.full((1, 3, 2), 1 / 3), kind="probs")


@pytest.mark.parametrize("shape", [(3,), (2, 4, 5), (3, 5, 3)], ids=str)
def test_other_channels_are_refused(shape) -> None:
    with pytest.raises(ShapeError, match="sky, road, tree"):
        Calibrator(HEAD, "logits", [ScaleMap(1.0)], "hand-made")(torch.zeros(shape))


def test_scores_are_looked_at_unless_told_not_to() -> None:
    calibrator = Calibrator(HEAD, "logits", [ScaleMap(1.0)], "hand-made")
    bad = torch.tensor([[0.0, float("nan"), 1.0]])
    with pytest.raises(ScoreError, match="not finite"):
        calibrator(bad)
    assert calibrator(bad, check=False).shape == bad.shape
    with pytest.raises(ScoreError, match="sum to"):
        calibrator(torch.full((1, 3), 0.5), kind="probs")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_scores_of_any_precision_and_a_calibrator_made_half(dtype) -> None:
    z = torch.randn(2, 3, 50).to(dtype)
    calibrator = Calibrator(HEAD, "logits", [SKEWED], "hand-made")
    expected = Calibrator(HEAD, "logits", [copy.deepcopy(SKEWED)], "hand-made")(z.double())
    assert torch.equal(calibrator(z), expected)
    assert torch.equal(calibrator.half()(z), expected)
    assert torch.equal(calibrator.to(torch.bfloat16)(z), expected)


def test_composes_after_a_model_and_needs_no_gradient() -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3, padding=1), Calibrator(HEAD, "logits", [ScaleMap(0.5)], "hand-made")
    )
    p = model(torch.randn(1, 1, 6, 6))
    assert p.shape == (1, 3, 6, 6)
    assert sum(t.numel() for t in model[1].parameters()) == 0
    assert "hand-made" in repr(model)


def test_maps_must_be_those_of_the_head() -> None:
    with pytest.raises(UsageError, match="2 map"):
        Calibrator(HEAD, "logits", [ScaleMap(1.0), ScaleMap(1.0)], "hand-made")
    with pytest.raises(ShapeError, match="2 classes"):
        Calibrator(HEAD, "logits", [AffineMap(torch.eye(2), torch.zeros(2))], "hand-made")


def test_a_softmax_decision_is_kept_by_its_map_or_not_at_all() -> None:
    """Raising a loser to the top would leave rows that do not sum to one, so it is refused rather than done."""
    with pytest.raises(UsageError, match="keep_decision"):
        Calibrator(HEAD, "logits", [SKEWED], "hand-made", keep_decision=True)
    moved = Calibrator(HEAD, "logits", [SKEWED], "hand-made", keep_decision=False)
    assert not moved.keeps_label
    z = torch.randn(1, 3, 2000)
    assert (moved(z).argmax(1) != z.argmax(1)).any()
    assert (moved(z).double().sum(1) - 1).abs().max() < 1e-6


def test_promises_are_the_weakest_of_the_parts() -> None:
    regions = Regions(("a", "b"), ((1,), (2,)), (1, 2))
    uniform = MixtureMap(1.0, torch.tensor([0.0, 0.0, 1.0]))
    found = Calibrator(regions, "probs", [ScaleMap(1.0), uniform], "hand-made", keep_decision=False).guarantees()
    assert (found.translation_invariant, found.preserves_argmax) == ("proven", "no")
    assert "uniform" in found.reasons["preserves_argmax"]


def test_rows_through_a_part_are_what_is_delivered() -> None:
    z = torch.randn(3, 500, dtype=torch.float64)
    energy = z.logsumexp(0)
    x, y = z - energy, torch.zeros(500, dtype=torch.int64)
    rows = Rows(0, 0, x, y, z.argmax(0), z.argmax(0), energy)
    for m in (ScaleMap(0.3), SKEWED):
        calibrator = Calibrator(HEAD, "logits", [m], "hand-made")
        out = calibrator.through(0)(rows)
        torch.testing.assert_close(out.log_probs, calibrator.log_probs(z[None])[0], rtol=1e-12, atol=1e-12)
        assert torch.equal(out.decision, calibrator(z[None])[0].argmax(0))
        assert torch.equal(out.reference, rows.reference)
    assert calibrator.through(0) == calibrator.through(0)
    assert calibrator.through(0) != Calibrator(HEAD, "logits", [SKEWED], "hand-made").through(0)


@pytest.mark.parametrize("keep", [True, False])
def test_region_rows_stay_on_the_side_that_is_delivered(keep) -> None:
    head = Regions(("a",), ((1,),), (1,))
    calibrator = Calibrator(
        head, "logits", [AffineMap(torch.eye(2), torch.tensor([0.0, 2.0]))], "hand-made", keep_decision=keep
    )
    z = torch.linspace(-4, 4, 41, dtype=torch.float64)[None]
    decision = head.decide(z, "logits")[0]
    rows = Rows(0, 0, head.canonical(z, "logits"), torch.zeros(41, dtype=torch.int64), decision, decision)
    out = calibrator.through(0)(rows)
    p = calibrator(z[None])[0, 0]
    assert torch.equal(out.decision, (p > 0.5).long())
    np.testing.assert_allclose(out.log_probs[1].exp().numpy(), p.numpy(), atol=1e-6)
    torch.testing.assert_close(out.log_probs.logsumexp(0), torch.zeros(41, dtype=torch.float64), atol=1e-12, rtol=0)


def test_a_solution_is_plain_data_and_back() -> None:
    part = Solution(0.5, 0.4, "optimal", "m", 3, {"gap": 1e-12}, {"lambda": 1.0}, ({"lambda": None, "nll": 0.5},))
    whole = replace(part, parts={"a": part})
    assert Solution.from_json(json.loads(json.dumps(whole.to_json()))) == replace(
        whole, selection=[*part.selection], parts={"a": replace(part, selection=[*part.selection])}
    )


def test_parameters_of_another_fit_leave_nothing_said_of_this_one() -> None:
    z = torch.randn(4, 3, 50)
    y = torch.distributions.Categorical(logits=z.movedim(1, -1)).sample()  # T is the scale, no bound of it
    one, other = (TemperatureScaling().fit(scale * z, y) for scale in (2, 5))
    assert one.solution is not None
    assert one.solution.status == "optimal"
    whole = torch.nn.Sequential(one)
    whole.load_state_dict(torch.nn.Sequential(copy.deepcopy(one)).state_dict())  # its own
    assert one.solution is not None
    assert one.data is not None
    for into in (whole, torch.nn.Sequential(copy.deepcopy(one), torch.nn.Identity()), torch.nn.Sequential(other)):
        into.load_state_dict(torch.nn.Sequential(other).state_dict())
    assert other.solution is not None
    assert one.solution is one.data is one.crossfit is None
    assert torch.equal(one(z), other(z))
    assert "logits divided by 1024 first" in repr(Calibrator(HEAD, "logits", [ScaleMap(0.5)], "ts", unit=1024.0))
