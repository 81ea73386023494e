"""Filed rows: every voxel in its group, in order where asked, in whole chunks, the same bits wherever it lies;
filed once for all passes.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segcal import cohort_from_arrays
from segcal.data.rows import Rows
from segcal.engine import accumulate
from segcal.engine.ask import Ask, Level
from segcal.engine.filed import GROUP_ROWS
from segcal.engine.pinned import SAMPLE_ROWS
from segcal.engine.serial import Serial
from segcal.engine.threads import Threads
from segcal.engine.view import View
from segcal.fitting.labels import LabelCount
from segcal.methods.conditional.sums import ConditionalNLL, Expert, ExpertFacts, Gaps, Margins, Scores
from segcal.testing.examples import learnable_cohort, learnable_regions
from segcal.testing.watching import spilling

THETA = (0.9, 0.2, 0.1, 0.0, 0.7, 0.3)


def pinned_of(engine, cohort, strata=None):
    pinned = engine.pin(cohort)
    pinned.resample(strata or [0] * len(cohort))
    return pinned


def facts(engine, pinned, kind, level=Level.ALL, **options):
    asks = {e: Ask(ExpertFacts(Expert(kind, e)), level=level, group=Expert(kind, e).group, **options) for e in range(3)}
    found = engine.reduce(pinned, asks)
    return {e: accumulate.result(asks[e].accumulator, state) for e, state in found.items()}


def rows_by_hand(pinned):
    """(C, n) rows, targets and decisions of a pinned cohort, together."""
    blocks = [pinned.shelf.load(case, start, kept).part(pinned.cohort.head, 0) for case, start, kept in pinned.blocks]
    return (
        torch.cat([b.log_probs for b in blocks], 1).double(),
        torch.cat([b.targets for b in blocks]),
        torch.cat([b.decision for b in blocks]),
    )


@pytest.mark.parametrize("kind", [Scores(), Margins(), Gaps()], ids=lambda k: k.name)
def test_every_voxel_is_under_its_expert(kind) -> None:
    engine = Serial()
    with pinned_of(engine, learnable_cohort(4)) as pinned:
        x, y, winner = rows_by_hand(pinned)
        found = facts(engine, pinned, kind)
        count = LabelCount(3)
        places = engine.reduce(pinned, {e: Ask(count, group=Expert(kind, e).group) for e in range(3)})
        for e in range(3):
            targets = accumulate.result(count, places[e]).tolist()
            mine = winner == e
            assert found[e].voxels == int(mine.sum())
            if kind.ranked:
                ranks = (x[:, mine].argsort(0, descending=True) == y[mine]).int().argmax(0)
                assert targets == torch.bincount(ranks, minlength=3).tolist()
            else:
                assert targets == torch.bincount(y[mine], minlength=3).tolist()


def by_target(rows: Rows) -> torch.Tensor:
    """Another key than the class decided."""
    return rows.targets


@pytest.mark.parametrize("ordered", [False, True])
def test_rows_can_be_grouped_by_any_key(ordered: bool) -> None:
    """By hand, and through another engine; the class decided comes first wherever classes are in order."""
    cohort, view = learnable_cohort(4), View(by_target, ordered)
    count = LabelCount(3)
    asks = {k: Ask(count, group=view.at(k)) for k in range(4)}
    with pinned_of(Serial(), cohort) as pinned:
        x, y, winner = rows_by_hand(pinned)
        found = {k: accumulate.result(count, s).tolist() for k, s in Serial().reduce(pinned, asks).items()}
    ranks = (x.scatter(0, winner[None], torch.inf).argsort(0, descending=True) == y).int().argmax(0)
    for k in range(4):
        mine = ranks[y == k] if ordered else y[y == k]
        assert found[k] == torch.bincount(mine, minlength=3).tolist()
    with pinned_of(Threads(3), cohort) as pinned:
        again = Threads(3).reduce(pinned, asks)
        assert {k: accumulate.result(count, s).tolist() for k, s in again.items()} == found
        passes = pinned.passes
        Threads(3).reduce(pinned, {"other": Ask(count, group=View(by_target, ordered).at(1))})
        assert pinned.passes == passes + 1  # equal views are filed once


def test_rows_are_filed_once_and_read_once_a_pass() -> None:
    engine = Serial()
    with pinned_of(engine, learnable_cohort(4)) as pinned:
        before = pinned.passes
        facts(engine, pinned, Margins())
        assert pinned.passes == before + 2  # filing, and the pass itself
        facts(engine, pinned, Scores())  # in the order of the classes too: already there
        facts(engine, pinned, Margins(), cases=frozenset({1}))
        assert pinned.passes == before + 4
        facts(engine, pinned, Gaps())
        assert pinned.passes == before + 6
        samples = pinned.sample_passes
        facts(engine, pinned, Gaps(), Level.SAMPLE)
        assert (pinned.passes, pinned.sample_passes) == (before + 6, samples + 1)


@pytest.mark.parametrize("engine", [Threads(1), Threads(3), spilling(Threads(2))], ids=["1", "3", "files"])
@pytest.mark.parametrize("kind", [Margins(), Gaps()], ids=lambda k: k.name)
def test_the_same_bits_wherever_rows_lie_and_whoever_folds_them(kind, engine) -> None:
    cohort = learnable_cohort(5)
    strata = [0, 1, 0, 1, 2]
    asks = {
        (e, level): Ask(
            ConditionalNLL(Expert(kind, e), 3, THETA, 2, (0, 2, 4)), level=level, group=Expert(kind, e).group
        )
        for e in range(3)
        for level in Level
    }
    with pinned_of(Serial(), cohort, strata) as pinned:
        expected = Serial().reduce(pinned, asks)
    with pinned_of(engine, cohort, strata) as pinned:
        found = engine.reduce(pinned, asks)
    for key, state in expected.items():
        for name, values in state.items():
            assert values.tobytes() == found[key][name].tobytes(), (key, name)


def test_cases_can_be_chosen_and_told_apart() -> None:
    engine = Serial()
    cohort = learnable_cohort(5)
    expert = Expert(Margins(), 1)
    with pinned_of(engine, cohort, [0, 1, 0, 1, 1]) as pinned:
        whole = facts(engine, pinned, Margins())[1].voxels
        ask = Ask(ExpertFacts(expert), group=expert.group, by_case=True)
        each = {
            case: accumulate.result(ask.accumulator, state).voxels
            for case, state in engine.reduce(pinned, {"it": ask})["it"].items()
        }
        assert sum(each.values()) == whole
        for some in (frozenset({1, 3, 4}), frozenset({0, 4}), frozenset({2})):
            assert facts(engine, pinned, Margins(), cases=some)[1].voxels == sum(
                n for case, n in each.items() if case in some
            )


def test_an_expert_without_a_voxel_gives_the_zero_state() -> None:
    z = np.zeros((2, 3, 40))
    z[:, 0] = 3.0
    engine = Serial()
    with pinned_of(engine, cohort_from_arrays(z, np.zeros((2, 40), int))) as pinned:
        found = facts(engine, pinned, Gaps())
        assert [found[e].voxels for e in range(3)] == [80, 0, 0]


def test_regions_are_filed_part_by_part() -> None:
    engine = Serial()
    with pinned_of(engine, learnable_regions()) as pinned:
        for part in (0, 1):
            asks = {e: Ask(ExpertFacts(Expert(Margins(), e)), part, group=Expert(Margins(), e).group) for e in (0, 1)}
            found = {
                e: accumulate.result(asks[e].accumulator, s).voxels for e, s in engine.reduce(pinned, asks).items()
            }
            inside = sum(int(pinned.shelf.load(c, s, k).decision[part].sum()) for c, s, k in pinned.blocks)
            assert found[1] == inside
            assert sum(found.values()) == pinned.voxels


def test_a_large_expert_gives_a_thin_even_sample_for_curvature() -> None:
    rng = np.random.default_rng(0)
    engine = Serial()
    n = 40_000
    z = rng.normal(size=(2, 2, n)).astype(np.float32)
    cohort = cohort_from_arrays(z, rng.integers(0, 2, (2, n)))
    assert 2 * n < SAMPLE_ROWS
    with pinned_of(engine, cohort) as pinned:
        asks = {
            level: Ask(ExpertFacts(Expert(Scores(), 0)), level=level, group=Expert(Scores(), 0).group)
            for level in Level
        }
        found = {
            level: accumulate.result(asks[level].accumulator, s).voxels
            for level, s in engine.reduce(pinned, asks).items()
        }
    assert found[Level.SAMPLE] == found[Level.ALL]
    assert abs(found[Level.CURVATURE] - GROUP_ROWS) < 5 * np.sqrt(GROUP_ROWS)
