"""Cases and cohorts: what they refuse, how cases are cut, which voxels are scored, what is remembered."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segcal.data.case import BLOCK, IGNORED, OUTSIDE, PADDING, SCORED, Case, Provenance, block_length
from segcal.data.cohort import Cohort
from segcal.data.files.journal import Scratch
from segcal.data.formats.arrays import ArrayField
from segcal.data.head import Regions, Softmax
from segcal.errors import LabelError, MissingError, ScoreError, ShapeError, UsageError

HEAD = Softmax(("a", "b", "c"), None, 255)


def scores(shape=(4, 5), seed=0, where="scores.npz", channels=3, dtype=np.float32):
    return ArrayField(np.random.default_rng(seed).normal(size=(channels, *shape)).astype(dtype), True, where)


def labels(shape=(4, 5), seed=0, where="labels.png", dtype=np.uint8):
    return ArrayField(np.random.default_rng(seed).integers(3, size=shape).astype(dtype), False, where)


def case(id="one", **changes):
    return replace(Case(id, (scores(),), labels()), **changes)


def cohort(*cases, **changes):
    return replace(Cohort(cases or (case(),), HEAD, "logits"), **changes)


@contextlib.contextmanager
def reader(of, index=0):
    with Scratch(2**20) as scratch, of.open(index, scratch) as opened:
        yield opened


def prepared(of, index=0):
    with reader(of, index) as opened:
        blocks = [opened.block(a, b) for a, b in of.cuts(index)]
        return [opened.prepare(b) for b in blocks], opened.record([opened.note(b) for b in blocks])


def record(of, index=0):
    return prepared(of, index)[1]


@given(st.integers(1, 2000))
def test_a_block_is_a_power_of_two_and_holds_a_quarter_million_numbers(channels):
    n = block_length(channels)
    assert n & (n - 1) == 0
    assert 1 <= n <= BLOCK
    assert n * channels <= 2**18
    assert 2 * n > BLOCK or 2 * n * channels > 2**18


@given(st.lists(st.integers(1, 70), min_size=1, max_size=3), st.integers(2, 400))
def test_cuts_cover_a_case_once_and_depend_on_shape_and_channels_alone(shape, classes):
    class Unread:
        where, channels = "x", classes

        def __init__(self, shape):
            self.shape = shape

    head = Softmax(tuple(str(k) for k in range(classes)))
    one = Cohort((Case("a", (Unread(tuple(shape)),)),), head, "probs")
    two = Cohort((Case("z", (Unread((7,)),) * 2), Case("b", (Unread(tuple(shape)),) * 2)), head, "logits", "logits")
    cuts = one.cuts(0)
    assert cuts == two.cuts(1)
    assert cuts[0][0] == 0
    assert cuts[-1][1] == np.prod(shape)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(cuts))
    assert all(b - a == block_length(classes) for a, b in cuts[:-1])


def test_a_case_without_scores_is_none():
    with pytest.raises(MissingError, match="case x: found no scores"):
        Case("x", ())


def test_members_of_other_classes_are_refused_by_name():
    with pytest.raises(ShapeError, match=r"second: found 2 classes; expected 3 as in first"):
        Case("x", (scores(where="first"), scores(where="second", channels=2)))


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": labels((5, 4), where="other")},
        {"mask": labels((4, 5, 1), where="other")},
        {"fields": {"image": labels((1,), where="other")}},
        {"scores": (scores(), scores((5, 4), where="other"))},
    ],
)
def test_what_is_on_another_grid_is_refused_by_name(changes):
    with pytest.raises(ShapeError, match=r"other: found .* expected \(4, 5\) as the scores in scores\.npz"):
        case(**changes)


def test_a_cohort_needs_cases_each_of_its_own_name():
    with pytest.raises(MissingError, match="found no case"):
        Cohort((), HEAD, "logits")
    with pytest.raises(UsageError, match=r"names used twice: \['one'\]"):
        cohort(case(), case("two"), case())
    with pytest.raises(MissingError):
        cohort(case())[1:]


def test_a_cohort_needs_the_classes_of_its_head_and_one_number_of_members():
    with pytest.raises(ShapeError, match=r"scores\.npz: found 3 classes; expected 2 \(a, b\)"):
        cohort(head=Softmax(("a", "b")))
    with pytest.raises(ShapeError, match=r"case two: found 2 members; expected 1 as in case one"):
        cohort(case(), case("two", scores=(scores(), scores())))


def test_cases_are_selected_by_name_and_pattern_in_the_order_of_the_cohort():
    many = cohort(*(case(n) for n in ("b_1", "a_1", "a_2")))
    assert [c.id for c in many.select(["a_*", "b_1"])] == ["b_1", "a_1", "a_2"]
    assert [c.id for c in many.select(["a_2"])] == ["a_2"]
    with pytest.raises(UsageError, match=r"'c\*', which names no case"):
        many.select(["a_1", "c*"])


def test_a_slice_of_a_cohort_is_a_cohort():
    many = cohort(*(case(n) for n in "abc"), name="mine", provenance=Provenance(1, 5))
    assert ([c.id for c in many[1:]], many[1:].name, many[1:].provenance.networks) == (["b", "c"], "mine", 5)
    assert many[0].id == "a"
    assert len(many) == 3


def test_a_case_without_a_group_is_its_own():
    many = cohort(case("a", group="g"), case("b"))
    assert many.groups == ("g", "b")
    assert many.grouped({"a": "x", "b": "x", "c": "y"}).groups == ("x", "x")
    with pytest.raises(UsageError, match="no group for 'a' and 1 more"):
        many.grouped({})


def test_cases_without_labels_are_named():
    many = cohort(case("a"), case("b", labels=None), case("c", labels=None))
    with pytest.raises(MissingError, match=r"case b: found no label file \(and 1 more cases without one\)"):
        many.labelled()
    assert many[:1].labelled()[0].id == "a"
    with pytest.raises(MissingError, match="case b"):
        prepared(many, 1)


@pytest.mark.parametrize(("members", "folds", "networks"), [(1, None, None), (5, None, None), (1, 5, 5), (5, 1, 5)])
def test_networks_behind_a_probability(members, folds, networks):
    assert Provenance(members, folds).networks == networks


@pytest.mark.parametrize(
    ("kind", "members", "pool", "head", "known"),
    [
        ("logits", 1, "probs", HEAD, True),
        ("logits", 2, "logits", HEAD, True),
        ("logits", 2, "probs", HEAD, False),
        ("probs", 1, "probs", HEAD, False),
    ],
)
def test_logits_are_known_where_none_were_turned_into_probabilities(kind, members, pool, head, known):
    assert cohort(case(scores=(scores(),) * members), kind=kind, pool=pool, head=head).has_logits is known


def test_regions_have_no_free_energy():
    head = Regions(("a", "b", "c"), ((1,), (2,), (3,)), (1, 2, 3))
    assert not cohort(head=head).has_logits


def test_roles_padding_before_mask_before_ignore():
    y = np.array([[0, 255, 1, 2], [255, 0, 1, 255]], np.uint8)
    mask = np.array([[1, 1, 0, 1], [0, 1, 1, 1]], np.uint8)
    one = case(
        scores=(scores((2, 4)),),
        labels=ArrayField(y, False, "y"),
        mask=ArrayField(mask, False, "m"),
        crop=((0, 2), (0, 3)),
    )
    with reader(cohort(one)) as opened:
        role = opened.block(0, 8).role.reshape(2, 4)
    assert role.tolist() == [[SCORED, IGNORED, OUTSIDE, PADDING], [OUTSIDE, SCORED, SCORED, PADDING]]


@given(st.data())
def test_a_crop_box_is_found_wherever_a_block_begins(data):
    shape = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)))
    crop = tuple(tuple(sorted((data.draw(st.integers(0, n)), data.draw(st.integers(0, n))))) for n in shape)
    start = data.draw(st.integers(0, int(np.prod(shape)) - 1))
    inside = np.zeros(shape, bool)
    inside[tuple(slice(a, b) for a, b in crop)] = True
    one = case(scores=(scores(shape),), labels=None, crop=crop)
    with reader(cohort(one)) as opened:
        role = opened.block(start, int(np.prod(shape))).role.numpy()
    assert ((role == PADDING) == ~inside.ravel()[start:]).all()


def test_only_scored_voxels_are_prepared():
    y = np.array([0, 255, 1, 2, 0], np.uint8)
    z = scores((5,)).array
    one = case(
        scores=(ArrayField(z, True, "z"),),
        labels=ArrayField(y, False, "y"),
        mask=ArrayField(np.array([1, 1, 1, 0, 1]), False, "m"),
    )
    (rows,), remembered = prepared(cohort(one))
    keep = [0, 2, 4]
    torch.testing.assert_close(rows.log_probs, torch.log_softmax(torch.from_numpy(z[:, keep]).double(), 0))
    assert rows.targets.tolist() == [[0, 1, 0]]
    assert rows.decision.tolist() == [z[:, keep].argmax(0).tolist()]
    torch.testing.assert_close(rows.free_energy, torch.logsumexp(torch.from_numpy(z[:, keep]).double(), 0))
    assert remembered.roles == (3, 1, 0, 1)


def test_ten_thousand_is_not_floored_on_the_way():
    z = np.array([[1e4, -1e4], [0, 0], [-1e4, 1e4]], np.float32)
    (rows,), _ = prepared(
        cohort(case(scores=(ArrayField(z, True, "z"),), labels=ArrayField(np.array([2, 2]), False, "y")))
    )
    assert rows.log_probs.tolist() == [[0.0, -2e4], [-1e4, -1e4], [-2e4, 0.0]]


@pytest.mark.parametrize(
    "change", ["big-endian", "float16", "float64", "integers", "transposed", "read-only", "int labels", "float labels"]
)
def test_numbers_may_lie_in_any_way(change):
    z, y = np.round(scores().array * 8), labels().array
    expected, _ = prepared(cohort(case(scores=(ArrayField(z, True, "z"),), labels=ArrayField(y, False, "y"))))
    changed = {
        "big-endian": z.astype(">f4"),
        "float16": z.astype(np.float16),
        "float64": z.astype(np.float64),
        "integers": z.astype(np.int16),
        "transposed": np.asfortranarray(z),
        "read-only": z.copy(),
    }.get(change, z)
    changed.flags.writeable = change != "read-only"
    y = {"int labels": y.astype(">i8"), "float labels": y.astype(np.float64)}.get(change, y)
    found, _ = prepared(cohort(case(scores=(ArrayField(changed, True, "z"),), labels=ArrayField(y, False, "y"))))
    assert torch.equal(found[0].log_probs, expected[0].log_probs)
    assert torch.equal(found[0].targets, expected[0].targets)


def test_labels_out_of_range_name_the_file_unless_the_mask_leaves_them_out():
    y = np.array([0, 7, 1], np.uint8)
    one = case(scores=(scores((3,)),), labels=ArrayField(y, False, "y.png"))
    with pytest.raises(LabelError, match=r"y\.png: found labels \[7\]"):
        prepared(cohort(one))
    masked = replace(one, mask=ArrayField(np.array([1, 0, 1]), False, "m"))
    assert prepared(cohort(masked))[1].roles == (2, 0, 0, 1)


@pytest.mark.parametrize("bad", [1.5, np.nan, np.inf])
def test_labels_that_are_no_whole_numbers_name_the_file(bad):
    one = case(scores=(scores((3,)),), labels=ArrayField(np.array([0, bad, 1]), False, "y.nii"))
    with pytest.raises(LabelError, match=r"y\.nii: found a label of (1\.5|nan|inf); expected whole numbers"):
        prepared(cohort(one))


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({"labels": ArrayField(np.full((4, 5), 255), False, "y")}, "20 ignored"),
        ({"mask": ArrayField(np.zeros((4, 5)), False, "m")}, "20 outside"),
        ({"crop": ((0, 0), (0, 5))}, "20 padding"),
    ],
)
def test_a_case_without_a_voxel_to_score_says_what_it_holds(changes, counts):
    with pytest.raises(LabelError, match=rf"no voxel to score \({counts}\)"):
        prepared(cohort(case(**changes)))


def test_scores_that_cannot_be_name_the_member_but_padding_is_not_looked_at():
    z = scores((2, 4)).array.copy()
    z[1, :, 3] = np.nan
    bad = case(scores=(scores((2, 4)), ArrayField(z, True, "member 2")), labels=None)
    with (
        reader(cohort(bad)) as opened,
        pytest.raises(ScoreError, match=r"member 2: found 2 value\(s\) that are not finite"),
    ):
        opened.block(0, 8)
    with reader(cohort(replace(bad, crop=((0, 2), (0, 3))))) as opened:
        assert int((opened.block(0, 8).role == PADDING).sum()) == 2


def test_members_are_kept_beside_the_pooled_scores_only_where_asked_for():
    own = (scores(seed=1), scores(seed=2))
    made = cohort(case(scores=own), pool="logits", provenance=Provenance(2))
    with Scratch(2**20) as scratch, made.open(0, scratch) as reader:
        plain, kept = reader.block(3, 9), reader.block(3, 9, keep_members=True)
    assert plain.members == () and torch.equal(plain.scores, kept.scores)
    assert [m.dtype for m in kept.members] == [torch.float32] * 2
    assert all(np.array_equal(m, f.array.reshape(3, -1)[:, 3:9]) for m, f in zip(kept.members, own, strict=True))


def test_members_are_pooled_block_by_block():
    members = (scores(seed=1), scores(seed=2))
    many = cohort(case(scores=members), pool="probs")
    with reader(many) as opened:
        block = opened.block(3, 9)
    expected = np.mean(
        [torch.softmax(torch.from_numpy(m.array.reshape(3, -1)[:, 3:9]).double(), 0).numpy() for m in members], 0
    )
    np.testing.assert_allclose(block.scores.numpy(), expected, atol=1e-15)
    assert (block.kind, block.start, block.voxels) == ("probs", 3, 6)


def test_a_case_is_remembered_by_its_content_not_its_name():
    one = record(cohort(case("one")))
    assert record(cohort(case("two", files={"label_map": Path("x")}))).is_same_case(one)
    assert record(cohort(case(labels=labels(dtype=np.int64)))).labels == one.labels
    relabelled, rescored = record(cohort(case(labels=labels(seed=5)))), record(cohort(case(scores=(scores(seed=5),))))
    assert relabelled.is_same_case(one)
    assert rescored.is_same_case(one)
    assert not relabelled.is_same_case(rescored)


def test_the_same_voxels_on_another_grid_are_another_case():
    one, other = (record(cohort(case(scores=(scores(shape),), labels=labels(shape)))) for shape in ((4, 5), (5, 4)))
    assert not one.is_same_case(other)


@pytest.mark.parametrize("with_ignored", [False, True])
def test_a_constant_label_map_identifies_nothing(with_ignored):
    y = np.ones((4, 5), np.uint8)
    if with_ignored:
        y[0] = 255
    a, b = (record(cohort(case(scores=(scores(seed=s),), labels=ArrayField(y, False, "y")))) for s in (1, 2))
    assert (a.labels, b.labels) == ("", "")
    assert not a.is_same_case(b)
    assert a.is_same_case(record(cohort(case("renamed", scores=(scores(seed=1),), labels=ArrayField(y, False, "y")))))


def test_a_label_in_a_later_block_makes_the_map_identify_its_case():
    n = BLOCK + 5
    y = np.zeros(n, np.uint8)
    y[-1] = 1
    assert record(cohort(case(scores=(scores((n,)),), labels=ArrayField(y, False, "y")))).labels != ""


def test_the_order_in_which_blocks_were_noted_does_not_matter():
    n = 3 * BLOCK
    many = cohort(case(scores=(scores((n,)),), labels=labels((n,))))
    with reader(many) as opened:
        notes = [opened.note(opened.block(a, b)) for a, b in many.cuts(0)]
        assert opened.record(notes[::-1]) == opened.record(notes)
