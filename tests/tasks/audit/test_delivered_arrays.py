"""No preserving calibrator changes a delivered label, and no order-preserving one swaps a strict order in the float32
array: adversarial scores, every kind of map.

`MADE` holds maps that promise to preserve, made by hand, for each registered kind; a kind without an entry fails here,
so that a new one is tried too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segcal.data.head import Regions, Softmax
from segcal.data.scores import check_kind
from segcal.engine import accumulate
from segcal.methods.affine.map import AffineMap
from segcal.methods.binned import BinnedMap
from segcal.methods.calibrator import Calibrator
from segcal.methods.conditional.map import ConditionalMap
from segcal.methods.conditional.sums import Coordinates, Gaps, Margins, Scores
from segcal.methods.intra_order import IntraOrderMap
from segcal.methods.maps import Map
from segcal.methods.meta_cal import MetaCalMap
from segcal.methods.mixture import MixtureMap
from segcal.methods.selective.map import SelectiveMap, shapes
from segcal.methods.temperature import ScaleMap
from segcal.tasks.audit.measures import Preservation
from segcal.testing.strategies import scores
from tests.kinds import OF_ROWS


def _tempered(c: int, beta: float, logits: bool) -> AffineMap:
    common = torch.linspace(-2, 1.5, c, dtype=torch.float64)
    return AffineMap(beta * torch.eye(c, dtype=torch.float64) + common[None], torch.full((c,), 0.3), logits)


def _experts(c: int, coordinates: Coordinates, size: float, seed: int) -> ConditionalMap:
    """Experts with many entries at their bounds, as fits have them."""
    rng = np.random.default_rng(seed)
    a = rng.exponential(size, (c, c - 1, c - 1)) * (rng.random((c, c - 1, c - 1)) < 0.4)
    g = rng.exponential(size, (c, c - 1)) * (rng.random((c, c - 1)) < 0.3)
    return ConditionalMap(torch.from_numpy(a), torch.from_numpy(g), coordinates)


def _conditional(c: int) -> list[ConditionalMap]:
    flat = [ConditionalMap(torch.zeros(c, c - 1, c - 1), torch.zeros(c, c - 1), k) for k in (Margins(), Gaps())]
    steep = [_experts(c, k, size, seed) for k in (Margins(), Gaps()) for seed, size in enumerate((1.0, 1e-9, 1e4))]
    return [*flat, *steep, ConditionalMap(0.7 * torch.eye(c).repeat(c, 1, 1), torch.zeros(c, c), Scores())]


def _net(c: int, size: float) -> IntraOrderMap:
    g = torch.Generator().manual_seed(c)
    shapes = [(3, c), (3, 3), (c - 1, 3)]
    return IntraOrderMap(
        [
            (
                size * torch.randn(s, dtype=torch.float64, generator=g),
                size * torch.randn(s[0], dtype=torch.float64, generator=g),
            )
            for s in shapes
        ]
    )


def _selective(c: int, high: float, low: float) -> SelectiveMap:
    g = torch.Generator().manual_seed(c)
    layers = [(torch.randn(a, b, generator=g), torch.randn(a, generator=g)) for a, b in shapes(c)]
    return SelectiveMap(layers, high, low)


MADE: dict[type[Map], Any] = {
    ScaleMap: lambda c: [ScaleMap(beta) for beta in (1e-10, 1e-4, 0.3, 1.0, 7.0, 1e4)],
    MixtureMap: lambda c: (
        [MixtureMap(0.4, torch.tensor(w)) for w in ([1.0, 0.0, 0.0], [0.5, 0.25, 0.25], [0.0, 1.0, 0.0])]
        + [MixtureMap(1e4, torch.tensor([0.5, 0.5, 0.0]))]
    ),
    ConditionalMap: _conditional,
    # with more than two classes, classes that share a bin tie, and nothing is promised
    BinnedMap: lambda c: (
        [BinnedMap(torch.linspace(0.1, 0.9, bins).repeat(2, 1), 6.0) for bins in (2, 30)] if c == 2 else []
    ),
    IntraOrderMap: lambda c: [_net(c, size) for size in (0.0, 1.0, 30.0)],
    SelectiveMap: lambda c: [_selective(c, high, low) for high, low in ((1e10, 1.0), (2.0, 0.5))],
    MetaCalMap: lambda c: [MetaCalMap(threshold, 0.7, 1e-4) for threshold in (0.0, 0.3, 10.0)],
    AffineMap: lambda c: [_tempered(c, 0.5, False), _tempered(c, 3.0, True)],
}
"""Preserving maps of each kind, for C classes."""


def test_every_kind_of_map_is_tried() -> None:
    assert set(MADE) == set(OF_ROWS)
    for kind in OF_ROWS:
        assert all(m.guarantees().preserves_argmax == "proven" for m in [*MADE[kind](2), *MADE[kind](3)])
        assert MADE[kind](2)


def broken(calibrator: Calibrator, z: np.ndarray, kind: Any) -> tuple[int, int]:
    """Labels and orders that the delivered array changes."""
    given_ = torch.from_numpy(z)
    delivered = calibrator(given_.T[:, :, None], kind=kind)[:, :, 0].T.contiguous()
    measure = Preservation(calibrator.head)
    found = accumulate.result(measure, accumulate.lift(measure, measure.fold(given_, kind, delivered)))
    return found.labels_changed, found.orders_changed


@pytest.mark.parametrize("kind_of_map", OF_ROWS, ids=lambda k: k.type_name)
@settings(max_examples=60)
@given(st.data())
def test_no_label_and_no_order_changes_in_what_is_delivered(kind_of_map: type[Map], data: st.DataObject) -> None:
    classes = data.draw(st.integers(2, 6).filter(lambda c: bool(MADE[kind_of_map](c))))
    head = Softmax(tuple("abcdef"[:classes]))
    m = data.draw(st.sampled_from(MADE[kind_of_map](classes)))
    kind = (
        "logits"
        if m.needs.logits
        else data.draw(st.sampled_from([check_kind(k) for k in ("logits", "log_probs", "probs", "scores")]))
    )
    z = data.draw(scores(head, kind, 60))
    labels, orders = broken(Calibrator(head, kind, [m], "made"), z, kind)
    assert labels == 0
    if m.guarantees().preserves_order == "proven":
        assert orders == 0


@settings(max_examples=60)
@given(st.data())
def test_no_region_changes_its_side_under_any_map(data: st.DataObject) -> None:
    head = Regions(("x", "y"), ((1, 2), (2,)), (1, 2))
    kind = data.draw(st.sampled_from([check_kind("logits"), check_kind("probs")]))
    entries = data.draw(st.lists(st.floats(-5, 5), min_size=6, max_size=6))
    anything = AffineMap(torch.tensor(entries[:4]).reshape(2, 2), torch.tensor(entries[4:]))
    z = data.draw(scores(head, kind, 60))
    assert broken(Calibrator(head, kind, [anything, ScaleMap(1e-6)], "made"), z, kind) == (0, 0)


def test_a_map_that_preserves_nothing_is_noticed() -> None:
    head = Softmax(("a", "b", "c"))
    turned = AffineMap(-torch.eye(3), torch.zeros(3))
    labels, orders = broken(
        Calibrator(head, "logits", [turned], "made"), np.random.default_rng(0).normal(size=(3, 100)), "logits"
    )
    assert labels == 100 and orders == 100


@pytest.mark.slow
@pytest.mark.parametrize("kind_of_map", OF_ROWS, ids=lambda k: k.type_name)
def test_neighbouring_float64_scores_keep_their_order_through_rounding(kind_of_map: type[Map]) -> None:
    """Pairs one float64 unit apart, a million of them: rounding of exp, log and sums may not show in float32."""
    rng = np.random.default_rng(0)
    for classes in (2, 3):
        head = Softmax(tuple("abc"[:classes]))
        for m in MADE[kind_of_map](classes):
            calibrator = Calibrator(head, "logits", [m], "made")
            for _ in range(3):
                z = rng.normal(size=(classes, 65_536))
                z[1] = np.nextafter(z[0], rng.choice([-np.inf, np.inf], size=65_536))
                labels, orders = broken(calibrator, z, "logits")
                assert labels == 0
                # maps that keep the label only, experts in margins among them, may pass competitors by each other
                assert orders == 0 or m.guarantees().preserves_order != "proven"
