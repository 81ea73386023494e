"""Each condition on the parameters, with a specimen that meets it and specimens that miss it by one entry."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segcal.methods.affine.map import AffineMap
from segcal.methods.conditional.map import ConditionalMap
from segcal.methods.conditional.sums import Coordinates, Gaps, Margins, Scores
from segcal.methods.mixture import MixtureMap
from segcal.methods.temperature import ScaleMap
from segcal.tasks.audit.proofs import argmax_cone, canonical_expert, expert, offset, order_cone, proofs, single_affine

NAMES = ("a", "b", "c")
CONES = {"preserves_argmax": argmax_cone, "preserves_order": order_cone}


def form(factor: float = 1.3, common: tuple[float, ...] = (0.2, -1.0, 0.4)) -> torch.Tensor:
    """lambda I + 1 c^T."""
    c = torch.tensor(common, dtype=torch.float64)
    return factor * torch.eye(len(common), dtype=torch.float64) + c[None, :]


def test_the_form_of_a_single_affine_map_is_recognised_with_its_factor() -> None:
    found = single_affine(form(), torch.full((3,), 0.7, dtype=torch.float64))
    assert [p.holds for p in found] == [True, True]
    assert [p.promise for p in found] == ["preserves_argmax", "preserves_order"]
    assert found[0].numbers["lambda"] == pytest.approx(1.3) and found[0].numbers["bias_spread"] == 0


@pytest.mark.parametrize("entry", [(i, j) for i in range(3) for j in range(3)])
def test_one_entry_off_the_form_breaks_it(entry: tuple[int, int]) -> None:
    w = form()
    w[entry] += 1e-3
    found = single_affine(w, torch.zeros(3, dtype=torch.float64))
    assert not any(p.holds for p in found) and "away from lambda I + 1 c^T" in found[0].why


def test_a_negative_factor_or_unequal_biases_break_it() -> None:
    negative = single_affine(form(-1.0), torch.zeros(3, dtype=torch.float64))
    assert not negative[0].holds and "not above 0" in negative[0].why
    biased = single_affine(form(), torch.tensor([0.0, 0.0, 0.25], dtype=torch.float64))
    assert not biased[0].holds and biased[0].numbers["bias_spread"] == 0.25 and "biases differ by 0.25" in biased[0].why


def test_equal_scales_of_a_vector_scaling_are_invariant_and_unequal_ones_are_not() -> None:
    assert offset(torch.eye(3, dtype=torch.float64) * 0.8, NAMES).holds
    found = offset(torch.diag(torch.tensor([0.8, 0.8, 0.9], dtype=torch.float64)), NAMES)
    assert not found.holds and found.why.startswith("the scales run from 0.8 to 0.9")


def test_equal_row_sums_are_invariant() -> None:
    w = torch.tensor([[1.0, 0.5, 0.0], [0.25, 0.75, 0.5], [-1.0, 0.5, 2.0]], dtype=torch.float64)
    assert offset(w, NAMES).holds
    assert offset(w, NAMES).numbers["row_sum_spread"] == 0


def test_the_class_an_offset_leads_to_is_the_one_softmax_reaches(unequal: AffineMap) -> None:
    found = offset(unequal.weight, NAMES)
    up, down = found.numbers["tends_to_as_logits_rise"], found.numbers["tends_to_as_logits_fall"]
    z = torch.tensor(np.random.default_rng(0).normal(size=(3, 50)))
    for sign, named in ((1e6, up), (-1e6, down)):
        p = torch.softmax(unequal.weight @ (z + sign) + unequal.bias[:, None], 0)
        assert p[NAMES.index(named[0])].min() == 1
    assert (up, down) == (["b"], ["c"])


def test_classes_that_share_the_largest_row_sum_are_all_named() -> None:
    found = offset(torch.diag(torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64)), NAMES)
    assert found.numbers["tends_to_as_logits_rise"] == ["a", "b"]


def test_a_map_of_log_probabilities_is_invariant_whatever_its_row_sums(unequal: AffineMap) -> None:
    on_log_probs = proofs(AffineMap(unequal.weight, unequal.bias), NAMES)
    assert on_log_probs[0].holds and not proofs(unequal, NAMES)[0].holds


@pytest.mark.parametrize(
    "m",
    [
        ScaleMap(2.0),
        MixtureMap(1.5, torch.tensor([0.5, 0.25, 0.25])),
        AffineMap(form(), torch.zeros(3)),
        AffineMap(torch.linspace(-1, 2, 9).reshape(3, 3), torch.zeros(3), True),
    ],
)
def test_proofs_agree_with_what_the_map_guarantees(m: ScaleMap | MixtureMap | AffineMap) -> None:
    given_ = m.guarantees()
    for proof in proofs(m, NAMES):
        assert proof.holds == (getattr(given_, proof.promise) == "proven") and proof.why


def margins(classes: int, order: bool) -> np.ndarray:
    """K of definitions 4.4."""
    lower = np.tril(np.ones((classes - 1, classes - 1))) if order else np.eye(classes - 1)
    return np.concatenate([np.zeros((1, classes - 1)), lower])


def made(
    a: np.ndarray, g: np.ndarray, order: bool, level: np.ndarray, beta: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """W = 1 w^T - K A D, b = beta 1 - K g."""
    classes = len(a) + 1
    d = (order_cone(classes) if order else argmax_cone(classes)).numpy()[1:]
    k = margins(classes, order)
    return torch.from_numpy(np.ones((classes, 1)) * level - k @ a @ d), torch.from_numpy(beta - k @ g)


@pytest.mark.parametrize("promise", CONES)
@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(2, 5))
def test_experts_with_nonnegative_entries_keep_their_cone(promise: str, seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    a = rng.exponential(size=(classes - 1, classes - 1)) * (rng.random((classes - 1, classes - 1)) < 0.6)
    g = rng.exponential(size=classes - 1) * (rng.random(classes - 1) < 0.5)
    w, b = made(a, g, promise == "preserves_order", rng.normal(size=classes), rng.normal())
    assert expert(w, b, CONES[promise](classes), promise, "a").holds


@pytest.mark.parametrize("promise", CONES)
@pytest.mark.parametrize("broken", ["A", "g", "column"])
def test_one_negative_entry_breaks_an_expert_and_some_scores_show_it(promise: str, broken: str) -> None:
    rng = np.random.default_rng(3)
    order = promise == "preserves_order"
    a, g = rng.exponential(size=(3, 3)), rng.exponential(size=3)
    if broken == "A":
        a[1, 2] = -0.4
    if broken == "g":
        g[0] = -0.3
    w, b = made(a, g, order, rng.normal(size=4), 0.0)
    if broken == "column":
        w[2] += torch.tensor([0.05, 0.0, 0.0, 0.0], dtype=torch.float64)
    found = expert(w, b, CONES[promise](4), promise, "a")
    assert not found.holds
    assert ("smallest entry of A" in found.why) == (broken == "A")
    assert ("bias leaves" in found.why) == (broken == "g")
    assert ("first column" in found.why) == (broken == "column")
    # the condition is necessary: rays of the cone, far out, leave it
    cone = CONES[promise](4).numpy()
    rays = np.concatenate([np.ones((4, 1)) * np.array([0.0, 1e6, -1e6]), np.linalg.inv(cone)[:, 1:] * 1e6], 1)
    image = cone @ (w.numpy() @ rays + b.numpy()[:, None])
    assert image[1:].min() < -0.1


@pytest.mark.parametrize("classes", [2, 5])
def test_cones_are_what_they_say(classes: int) -> None:
    z = np.sort(np.random.default_rng(1).normal(size=classes))[::-1].copy()
    assert np.allclose(order_cone(classes).numpy() @ z, [z[0], *(a - b for a, b in pairwise(z))])
    assert np.allclose(argmax_cone(classes).numpy() @ z, [z[0], *(z[0] - v for v in z[1:])])


def test_a_descending_cone_is_not_kept_by_an_argmax_expert_in_general() -> None:
    a = np.array([[1.0, 0.0], [0.0, 0.2]])
    w, b = made(a, np.zeros(2), False, np.array([1.0, 0.0, 0.0]), 0.0)
    assert expert(w, b, argmax_cone(3), "preserves_argmax", "a").holds
    assert not expert(w, b, order_cone(3), "preserves_order", "a").holds


@pytest.mark.parametrize("coordinates", [Margins(), Gaps(), Scores()])
@given(seed=st.integers(0, 2**32 - 1))
def test_an_expert_in_canonical_order_is_the_expert_applied(coordinates: Coordinates, seed: int) -> None:
    rng = np.random.default_rng(seed)
    k = coordinates.size(4)
    m = ConditionalMap(
        torch.from_numpy(rng.exponential(size=(4, k, k))), torch.from_numpy(rng.exponential(size=(4, k))), coordinates
    )
    x = torch.log_softmax(torch.from_numpy(rng.normal(size=(4, 1))), 0)
    winner = int(x.argmax())
    order = (
        x[:, 0].argsort(descending=True)
        if isinstance(coordinates, Gaps)
        else torch.tensor([winner, *(j for j in range(4) if j != winner)])
    )
    w, b = canonical_expert(m, winner)
    u = w @ x[order] + b[:, None]
    torch.testing.assert_close(torch.log_softmax(u, 0), m(x)[order], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("coordinates", "promise"), [(Margins(), "preserves_argmax"), (Gaps(), "preserves_order")])
def test_experts_are_proven_one_by_one_and_the_broken_one_is_named(coordinates: Coordinates, promise: str) -> None:
    a, g = torch.rand(3, 2, 2, generator=torch.Generator().manual_seed(0)), torch.zeros(3, 2)
    holds = next(p for p in proofs(ConditionalMap(a, g, coordinates), NAMES) if p.promise == promise)
    assert holds.holds and set(holds.numbers["experts"]) == set(NAMES)
    assert holds.numbers["experts"]["b"]["smallest_entry"] == pytest.approx(float(a[1].min()))
    a[1, 0, 1] = -0.25
    broken = next(p for p in proofs(ConditionalMap(a, g, coordinates), NAMES) if p.promise == promise)
    assert not broken.holds and "expert b: the smallest entry of A is -0.25" in broken.why
    assert [name for name, n in broken.numbers["experts"].items() if n["smallest_entry"] < 0] == ["b"]
