"""Heads: targets, decisions, canonical rows and label maps of softmax and region outputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segcal.data import scores as scores_
from segcal.data.head import NO_TARGET, Regions, Softmax, check_labels, from_json
from segcal.data.scores import FULL, Resolution
from segcal.errors import LabelError, ScoreError, UsageError

NESTED = Regions(("whole", "core", "enhancing"), ((1, 2, 3), (2, 3), (3,)), (1, 2, 3), 255)
CLASSES = Softmax(("background", "organ", "lesion"), 0, 255)


def test_a_softmax_head_is_one_problem():
    assert (CLASSES.channels, CLASSES.rows, CLASSES.labels, CLASSES.parts) == (3, 3, 3, ("softmax",))
    assert (CLASSES.slice(0), CLASSES.part_classes(0), CLASSES.part_background(0)) == (slice(0, 3), CLASSES.classes, 0)


def test_a_region_head_is_a_binary_problem_a_region():
    assert (NESTED.channels, NESTED.rows, NESTED.labels, NESTED.parts) == (3, 6, 4, NESTED.names)
    assert (NESTED.slice(1), NESTED.part_classes(1), NESTED.part_background(1)) == (
        slice(2, 4),
        ("not core", "core"),
        0,
    )
    assert NESTED.classes == NESTED.names


@pytest.mark.parametrize("names", [(), ("one",)])
def test_one_class_is_no_softmax(names):
    with pytest.raises(UsageError, match="at least 2"):
        Softmax(names)


@pytest.mark.parametrize(
    "parts",
    [
        ((), (), ()),
        (("a",), ((1,),), (1, 2)),
        (("a",), ((1,), (2,)), (1,)),
        (("a", "b"), ((1,), ()), (1, 2)),
        (("a",), ((-1,),), (1,)),
    ],
)
def test_incomplete_regions_are_refused(parts):
    with pytest.raises(UsageError, match="regions: found"):
        Regions(*parts)


@pytest.mark.parametrize("head", [CLASSES, NESTED, Softmax(("a", "b")), Regions(("a",), ((1,),), (1,))])
def test_a_head_comes_through_json(head):
    import json

    assert from_json(json.loads(json.dumps(head.to_json()))) == head


def test_targets_of_classes():
    assert CLASSES.targets(torch.tensor([0, 2, 255, 1], dtype=torch.uint8)).tolist() == [[0, 2, NO_TARGET, 1]]
    assert Softmax(("a", "b")).targets(torch.tensor([1, 0])).tolist() == [[1, 0]]


def test_targets_of_nested_regions():
    assert NESTED.targets(torch.tensor([0, 1, 2, 3, 255])).tolist() == [
        [0, 1, 1, 1, NO_TARGET],
        [0, 0, 1, 1, NO_TARGET],
        [0, 0, 0, 1, NO_TARGET],
    ]


@pytest.mark.parametrize(("kind", "half"), [("probs", 0.5), ("logits", 0.0)])
def test_a_region_at_exactly_one_half_is_outside(kind, half):
    s = torch.tensor(
        [[half, np.nextafter(np.float32(half), np.float32(1)), np.nextafter(np.float32(half), np.float32(-1))]],
        dtype=torch.float32,
    )
    head = Regions(("a",), ((1,),), (1,))
    assert head.decide(s, kind).tolist() == [[0, 1, 0]]
    assert head.canonical(s, kind)[:, :1].argmax(0).tolist() == [0]


@given(st.lists(st.floats(-50, 50, width=32).filter(lambda z: z == 0 or abs(z) > 1e-6), min_size=1, max_size=8))
def test_the_decision_of_a_region_is_the_arg_max_of_its_rows(values):
    head = Regions(("a",), ((1,),), (1,))
    z = torch.tensor([values])
    assert head.canonical(z, "logits").argmax(0).tolist() == head.decide(z, "logits")[0].tolist()


def test_ties_between_classes_go_to_the_lowest_index():
    p = torch.tensor([[0.4, 0.2], [0.4, 0.4], [0.2, 0.4]])
    assert CLASSES.decide(p, "probs").tolist() == [[0, 1]]
    assert CLASSES.label_map(p).tolist() == p.numpy().argmax(0).tolist()


def test_later_regions_are_written_over_earlier_ones_in_the_order_of_the_labels():
    p = torch.tensor([[0.9, 0.9, 0.9, 0.1, 0.5], [0.1, 0.9, 0.9, 0.9, 0.5], [0.1, 0.1, 0.9, 0.1, 0.5]])
    assert NESTED.label_map(p).tolist() == [1, 2, 3, 2, 0]
    swapped = Regions(NESTED.names, NESTED.members, (7, 1, 4))
    assert swapped.label_map(p).tolist() == [7, 1, 4, 1, 0]


def test_a_region_decision_is_kept_apart_from_the_others():
    p = torch.tensor([[0.2], [0.8], [0.5]])
    assert NESTED.decide(p, "probs")[:, 0].tolist() == [0, 1, 0]


def test_region_rows_from_logits_are_never_floored():
    rows = NESTED.canonical(torch.tensor([[1e4], [-1e4], [0.0]]), "logits")
    assert rows[:, 0].tolist() == [-1e4, 0.0, 0.0, -1e4, math.log(0.5), math.log(0.5)]
    assert NESTED.probabilities(rows)[:, 0].tolist() == [1.0, 0.0, 0.5]


def test_region_rows_from_probabilities_are_normalised_pairs():
    p = torch.tensor([[0.0, 1.0, 0.3]])
    head = Regions(("a",), ((1,),), (1,))
    rows = head.canonical(p, "probs")
    assert rows.logsumexp(0).abs().max() < 1e-15
    assert rows[:, 0].tolist() == pytest.approx([0.0, math.log(1e-12)], abs=1e-11)
    torch.testing.assert_close(head.probabilities(rows), p.double(), rtol=0, atol=2e-12)


def test_probabilities_and_canonical_rows_are_each_others_inverse():
    p = torch.softmax(torch.randn(3, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), 0)
    torch.testing.assert_close(CLASSES.probabilities(CLASSES.canonical(p, "probs")), p, rtol=0, atol=1e-15)


def test_free_energy_is_known_from_softmax_logits_only():
    z = torch.tensor([[1.0], [0.0], [0.0]])
    assert CLASSES.free_energy(z, "logits").item() == pytest.approx(math.log(math.e + 2), abs=1e-15)
    assert CLASSES.free_energy(z, "probs") is None
    assert NESTED.free_energy(z, "logits") is None


def test_what_scores_of_a_head_may_be():
    NESTED.check(torch.tensor([[0.9], [0.8], [0.7]]), "probs", "here")
    with pytest.raises(ScoreError, match=r"sum to 2\.4"):
        CLASSES.check(torch.tensor([[0.9], [0.8], [0.7]]), "probs", "here")
    with pytest.raises(UsageError, match="'probs' or 'logits' for a region head"):
        NESTED.check(torch.zeros(3, 1), "log_probs", "here")


def test_labels_out_of_range_are_named():
    check_labels(CLASSES, torch.tensor([0, 1, 2, 255]), "case.nii.gz")
    check_labels(CLASSES, torch.zeros(0, dtype=torch.int64), "case.nii.gz")
    with pytest.raises(
        LabelError,
        match=r"found labels \[-1, 3, 9\] in 3 of 5 voxels, beside 0; expected 0 to 2 or the ignored 255\. .*--ign",
    ):
        check_labels(CLASSES, torch.tensor([0, 9, 3, -1, 255]), "case.nii.gz")
    with pytest.raises(LabelError, match=r"expected 0 to 1\. "):
        check_labels(Softmax(("a", "b")), torch.tensor([255]), "case.nii.gz")
    with pytest.raises(LabelError, match=r"labels \[4\]"):
        check_labels(NESTED, torch.tensor([3, 4]), "case.nii.gz")


@pytest.mark.parametrize("head", [CLASSES, NESTED])
def test_no_voxel_is_nothing(head):
    empty = torch.zeros(3, 0)
    assert head.canonical(empty, "probs").shape == (head.rows, 0)
    assert head.decide(empty, "probs").shape == (len(head.parts), 0)
    assert head.targets(torch.zeros(0, dtype=torch.int64)).shape == (len(head.parts), 0)
    assert head.label_map(empty).shape == (0,)


COARSE = Resolution(0.01, 0.1)


def test_stored_zeros_of_classes_count_as_half_a_step():
    p = torch.tensor([[1.0, 0.0, 0.004], [0.0, 1.0, 0.996]]).T.contiguous()
    rows = Softmax(("a", "b", "c")).canonical(p, "probs", COARSE)
    expected = torch.tensor([[1.0, 0.01, 0.01], [0.01, 1.0, 0.996]], dtype=torch.float64).T
    torch.testing.assert_close(rows.exp(), expected / expected.sum(0))
    low = Softmax(("a", "b", "c")).floored(p, "probs", COARSE)
    assert low.T.tolist() == [[False, True, True], [True, False, False]]


def test_regions_are_kept_from_zero_and_from_one_each_by_its_own():
    s = torch.tensor([[0.0, 0.5, 1.0]])
    head = Regions(("r",), ((1,),), (1,))
    rows = head.canonical(s, "probs", COARSE).exp()
    assert rows[1].tolist() == pytest.approx([0.01 / 1.01, 0.5, 1 / 1.1]) and rows.sum(0).tolist() == pytest.approx(
        [1] * 3
    )
    assert head.floored(s, "probs", COARSE).tolist() == [[False, False, True], [True, False, False]]


@given(
    arrays(np.float32, (3, 7), elements=st.floats(0, 1, width=32)), st.sampled_from(["probs", "scores", "log_probs"])
)
def test_at_full_resolution_no_bit_is_another(p, kind):
    p = torch.from_numpy(p) + (0 if kind != "scores" else 0.5)
    s = p.double().log() if kind == "log_probs" else p.double()
    s = s if kind == "log_probs" else (s / s.sum(0) if kind == "scores" else s).clamp_min(1e-12).log()
    s = s.clamp_min(torch.log(torch.tensor(1e-12, dtype=torch.float64)).item()) if kind == "log_probs" else s
    plain = s - torch.logsumexp(s, 0, keepdim=True)
    given_ = p.double().log() if kind == "log_probs" else p
    assert torch.equal(Softmax(("a", "b", "c")).canonical(given_, kind, FULL), plain)


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=9), st.floats(1e-12, 0.2), st.floats(1e-12, 0.2))
def test_floors_never_move_a_decision_or_turn_two_classes(values, zero, one):
    s = torch.tensor([values])
    head = Regions(("r",), ((1,),), (1,))
    rows = head.canonical(s, "probs", Resolution(zero, one))
    inside = (rows[1] > rows[0]).long()
    assert ((inside == head.decide(s, "probs")[0]) | (abs(s[0] - 0.5) < 1e-6)).all()
    p = torch.tensor(values)[:, None]
    floored = scores_.canonical(p, "probs", resolution=Resolution(zero))
    order = torch.argsort(p[:, 0], stable=True)
    assert (floored[order, 0].diff() >= 0).all()


@pytest.mark.parametrize("wrong", [(0.0, 1e-3), (1e-3, 0.6), (float("nan"), 1e-3)])
def test_a_resolution_is_half_a_step(wrong):
    with pytest.raises(UsageError, match="resolution"):
        Resolution(*wrong)


@pytest.mark.parametrize("label", [2**63, -(2**63) - 1, 10**30])
def test_an_ignored_label_that_no_array_can_hold(label):
    for make in (lambda: Softmax(("a", "b"), None, label), lambda: Regions(("r",), ((1,),), (1,), label)):
        with pytest.raises(UsageError, match="ignore_index: found a number of more than 64 bits"):
            make()


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (Softmax(("a", "b", "c"), 0), [False, True, True]),
        (Softmax(("a", "b", "c")), [True, True, True]),
        (Regions(("whole", "core"), ((1, 2), (2,)), (1, 2)), [False, True, True]),
        (Regions(("core",), ((2,),), (2,)), [False, False, True]),
    ],
)
def test_foreground_is_what_is_not_background_or_in_any_region(head, expected):
    assert head.foreground(np.array([0, 1, 2])).tolist() == expected


@given(seed=st.integers(0, 10**6), head=st.sampled_from([CLASSES, NESTED]), kind=st.sampled_from(["logits", "probs"]))
def test_what_heads_say_of_their_scores_agrees(seed, head, kind):
    """Answers that can be had in two ways are the same."""
    z = torch.randn(3, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    s = z if kind == "logits" else head.probabilities(head.canonical(z, "logits"))
    decision, rows = head.decide(s, kind), head.canonical(s, kind)
    ranking = head.ranking(s, kind)
    for part in range(len(head.parts)):
        assert torch.equal(decision[part], ranking[head.slice(part)].argmax(0))
        assert torch.equal(head.held(rows[head.slice(part)], decision[part]), rows[head.slice(part)])
    predicted = head.predicted(s, kind)
    assert torch.equal(predicted, head.label_map(head.probabilities(rows)))
    assert int(predicted.max()) <= head.highest < head.labels
    by_class = [predicted == k for k in range(3)] if head.sums_to_one else [inside == 1 for inside in decision]
    assert head.tally(decision).tolist() == [int(where.sum()) for where in by_class]
    assert torch.equal(head.probabilities(rows), head.channel_rows(rows).exp())
    torch.testing.assert_close(head.canonical(head.logits(rows), head.logits_kind), rows, rtol=0, atol=1e-12)
    assert (head.free_energy(s, kind) is not None) == (head.has_free_energy and kind == "logits")
    assert len(head.floors(FULL)) == head.rows


@given(seed=st.integers(0, 10**6))
def test_probabilities_sum_to_one_where_the_head_says_so(seed):
    z = torch.randn(3, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    for head in (CLASSES, NESTED):
        off = (head.probabilities(head.canonical(z, "logits")).sum(0) - 1).abs().max()
        assert (off < 1e-12) == head.sums_to_one


def test_maps_of_a_voxel_by_hand():
    p = torch.tensor([[0.7, 0.2], [0.2, 0.5], [0.1, 0.3]])
    assert CLASSES.confidence(p).tolist() == pytest.approx([0.7, 0.5])
    assert CLASSES.error(p, torch.tensor([1, 1])).tolist() == pytest.approx([0.8, 0.5])
    assert CLASSES.error(p, torch.tensor([255, 0])).isnan().tolist() == [True, False]
    assert CLASSES.entropy(p)[0].item() == pytest.approx(-sum(q * math.log(q) for q in (0.7, 0.2, 0.1)))
    assert NESTED.confidence(p).tolist() == pytest.approx([0.7, 0.5])
    assert NESTED.error(p, torch.tensor([1, 3])).tolist() == pytest.approx([0.3, 0.8])
    assert NESTED.entropy(p)[1].item() == pytest.approx(math.log(2))


def test_rows_are_held_on_the_side_of_the_decision():
    rows = torch.tensor([[0.2, 0.8], [0.8, 0.2]], dtype=torch.float64).log()
    assert NESTED.held(rows, torch.tensor([0, 1])).exp().flatten().tolist() == pytest.approx([0.5] * 4)
    assert torch.equal(CLASSES.held(rows, torch.tensor([0, 1])), rows)


def test_what_a_user_declares_completes_a_head_or_is_refused():
    plain = Softmax(("0", "1", "2"))
    assert plain.declared(("a", "b", "c"), 1, 9) == Softmax(("a", "b", "c"), 1, 9)
    assert CLASSES.declared(None, ..., None) == CLASSES
    assert CLASSES.declared(None, None, 255) == Softmax(CLASSES.classes, None, 255)
    assert NESTED.declared(None, ..., 255) == NESTED
    for head, given_, found in (
        (plain, (("a", "b"), ..., None), "2 names"),
        (plain, (None, 3, None), "background: found 3"),
        (CLASSES, (None, ..., 7), "255 as in dataset.json"),
        (NESTED, (("a", "b", "c"), ..., None), "beside a region head"),
        (NESTED, (None, None, None), "beside a region head"),
    ):
        with pytest.raises(UsageError, match=found):
            head.declared(*given_)


def test_numbered_classes_take_the_names_of_another_head():
    plain = Softmax(("0", "1", "2"))
    assert plain.completed(CLASSES, background=True) == CLASSES
    assert plain.completed(CLASSES, background=False) == Softmax(CLASSES.classes, None, 255)
    assert Softmax(("x", "y", "z")).completed(CLASSES, background=True) == Softmax(("x", "y", "z"))
    assert Softmax(("0", "1")).completed(CLASSES, background=True) == Softmax(("0", "1"))
    assert plain.completed(NESTED, background=True) == plain
    assert NESTED.completed(CLASSES, background=True) == NESTED
