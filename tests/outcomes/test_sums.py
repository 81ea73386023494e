"""The sums of a case are those of its voxels, for softmax and region heads."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from segcal.data.head import Regions, Softmax
from segcal.data.rows import Rows
from segcal.engine import accumulate
from segcal.outcomes.sums import THRESHOLDS, CaseOutcome, OutcomeSums, channels, joined, structures, sums_of


def rows(n: int = 500, classes: int = 4) -> Rows:
    generator = torch.Generator().manual_seed(n)
    logs = torch.log_softmax(2 * torch.randn(classes, n, generator=generator, dtype=torch.float64), 0)
    targets = torch.randint(classes, (n,), generator=generator)
    decision = logs.argmax(0)
    return Rows(0, 0, logs, targets, decision, decision)


def found(sums: OutcomeSums, given: Rows) -> CaseOutcome:
    return accumulate.result(sums, accumulate.fold(sums, given))


def test_by_hand() -> None:
    given = rows()
    p, y, d = given.log_probs.exp().numpy(), given.targets.numpy(), given.decision.numpy()
    one = found(OutcomeSums(4, 0), given)
    for s, k in enumerate((1, 2, 3)):
        assert one.decided[s] == (d == k).sum()
        assert one.labelled[s] == (y == k).sum()
        assert one.both[s] == ((y == k) & (d == k)).sum()
        assert one.inside[s] == pytest.approx(p[k, d == k].sum(), rel=1e-12)
        assert one.inside_spread[s] == pytest.approx((p[k] * (1 - p[k]))[d == k].sum(), rel=1e-12)
        assert one.total[s] == pytest.approx(p[k].sum(), rel=1e-12)
        assert one.spread[s] == pytest.approx((p[k] * (1 - p[k])).sum(), rel=1e-12)
    front = d != 0
    assert one.confidence == pytest.approx(p.max(0)[front].mean(), rel=1e-12)
    assert one.entropy == pytest.approx(-(p * np.log(p)).sum() / front.sum(), rel=1e-12)


def test_dice() -> None:
    one = found(OutcomeSums(4, 0), rows())
    assert one.true_dice == pytest.approx(2 * one.both / (one.decided + one.labelled))
    assert one.expected_dice == pytest.approx(2 * one.inside / (one.decided + one.total), abs=0.01)


def test_histograms_are_cut_at_the_thresholds() -> None:
    given = rows()
    one = found(OutcomeSums(4, 0), given)
    p = given.log_probs.exp().float()
    for cut in (0, 40, 128, 256):
        below = one.histogram[:, :, : cut + 1].sum(2)
        for s, k in enumerate((1, 2, 3)):
            for y in (0, 1):
                expected = (p[k] < THRESHOLDS[cut]) & ((given.targets == k) == bool(y))
                assert below[y, s] == expected.sum()


def test_nothing_delivered() -> None:
    given = rows()
    nothing = torch.zeros_like(given.decision)
    one = found(OutcomeSums(4, 0), Rows(0, 0, given.log_probs, given.targets, nothing, nothing))
    assert np.isnan(one.expected_dice).all()
    assert np.isnan([one.confidence, one.entropy]).all()
    assert CaseOutcome.from_json(json.loads(json.dumps(one.to_json(), allow_nan=False))).to_json() == one.to_json()


def test_plain_numbers_come_back() -> None:
    one = found(OutcomeSums(4, 0), rows())
    back = CaseOutcome.from_json(json.loads(json.dumps(one.to_json())))
    assert back.to_json() == one.to_json()
    assert back.histogram is None
    assert back.expected_dice.tolist() == one.expected_dice.tolist()


def test_structures_of_heads() -> None:
    softmax = Softmax(("air", "liver", "spleen"), 0)
    assert structures(softmax) == ("liver", "spleen")
    assert channels(softmax) == (1, 2)
    assert structures(Softmax(("sky", "road"))) == ("sky", "road")
    regions = Regions(("whole", "core"), ((1, 2), (2,)), (1, 2))
    assert structures(regions) == ("whole", "core")
    assert channels(regions) == (0, 1)
    parts = [found(sums, rows(classes=2)) for sums in sums_of(regions)]
    both = joined(parts)
    assert both.total.tolist() == [*parts[0].total, *parts[1].total]
    assert both.histogram.shape == (2, 2, len(THRESHOLDS) + 1)
    assert both.confidence == parts[0].confidence
