"""What the strategies draw is what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segcal.data.case import SCORED
from segcal.data.cohort import Cohort
from segcal.data.files.journal import Scratch
from segcal.data.head import Head, check_labels
from segcal.engine.serial import Serial
from segcal.testing import strategies
from segcal.testing.examples import DEGENERATE, learnable, learnable_cohort, learnable_regions

few = settings(max_examples=25, deadline=None)


@few
@given(st.data())
def test_scores_are_valid_for_their_kind_and_labels_for_their_head(data: st.DataObject) -> None:
    head: Head = data.draw(strategies.heads())
    kind = data.draw(strategies.kinds(head))
    z = data.draw(strategies.scores(head, kind, 30))
    assert z.shape == (head.channels, 30)
    head.check(torch.from_numpy(z), kind, "scores")
    check_labels(head, torch.from_numpy(data.draw(strategies.labels(head, 30))), "labels")


@few
@given(strategies.rows(4))
def test_rows_are_canonical(rows: object) -> None:
    assert isinstance(rows, strategies.Rows)
    assert rows.log_probs.is_contiguous() and rows.log_probs.dtype == torch.float64
    assert torch.allclose(rows.log_probs.exp().sum(0), torch.ones(rows.voxels, dtype=torch.float64))
    assert bool((rows.targets < 4).all()) and rows.targets.shape == rows.decision.shape == rows.reference.shape == (
        rows.voxels,
    )


@pytest.mark.parametrize("name", list(strategies.REGIMES))
def test_a_regime_is_what_its_name_says(name: str) -> None:
    z = strategies.fill(3, 500, [name], np.random.default_rng(0)).astype(np.float32)
    top = np.sort(z, 0)[::-1]
    holds = {
        "ordinary": (np.abs(z) < 30).all(),
        "faint": np.abs(z).max() < 0.01,
        "saturated": set(np.unique(z)) == {-1e4, 1e4},
        "nearly tied": (np.nextafter(top[1], np.float32(np.inf)) == top[0]).all(),
        "tied": (top[0] == top[1]).any() and (top[0] > top[1]).any(),
        "constant": len(np.unique(z)) == 1,
        "extreme": np.abs(z).max() > 1e25,
        "denormal": 0 < np.abs(z).max() < np.finfo(np.float32).tiny,
    }
    assert holds[name]


@few
@given(strategies.cohorts())
def test_cohorts_have_a_voxel_to_score_in_every_case(cohort: Cohort) -> None:
    _, records = Serial().survey(cohort, {})
    assert all(r.roles[SCORED] > 0 for r in records)
    with Scratch(0) as scratch, cohort.open(0, scratch) as reader:
        assert reader.block(0, 1).labels is not None


def test_learnable_data_are_overconfident_and_right_more_often_than_not() -> None:
    z, y = learnable(6, (20, 20))
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    accuracy = (p.argmax(1) == y).mean()
    assert 0.5 < accuracy < p.max(1).mean() - 0.05
    assert learnable_cohort().has_logits and not learnable_regions().has_logits


@pytest.mark.parametrize("name", list(DEGENERATE))
def test_degenerate_data_are_a_labelled_cohort(name: str) -> None:
    assert Serial().survey(DEGENERATE[name](), {})[1]
