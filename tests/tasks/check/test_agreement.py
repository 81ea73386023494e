"""Other readings of label maps and members: each trap is seen and named, and only where it is."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from segcal.data.case import Case
from segcal.data.cohort import Cohort
from segcal.data.formats.arrays import ArrayField
from segcal.data.head import Regions, Softmax
from segcal.engine.serial import Serial
from segcal.tasks.check import check
from segcal.tasks.check.agreement import FEW, LATTICE, Pair, Turn, better, kappa, kappa_of, lattice, looked_at, turns
from segcal.tasks.check.check import traps
from segcal.tasks.check.finding import Finding


def blobs(shape: tuple[int, ...], classes: int, rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
    """Logits of a blob a class on background, off the centre, and labels that mostly follow them."""
    grid = np.stack(np.meshgrid(*[np.arange(n) / n for n in shape], indexing="ij"))
    z = [np.zeros(shape)]
    for k in range(1, classes):
        centre = np.clip(0.25 + 0.5 * k / classes + rng.normal(0, 0.1, len(shape)), 0.1, 0.9)
        far = np.sqrt(((grid - centre.reshape(-1, *[1] * len(shape))) ** 2).sum(0))
        z.append(30 * (0.22 - far))
    scores = np.stack(z)
    labels = (scores + rng.gumbel(size=scores.shape)).argmax(0)
    return scores.astype(np.float32), labels.astype(np.uint8)


def cohort(
    shape: tuple[int, ...] = (16, 16, 16),
    classes: int = 3,
    n: int = 6,
    *,
    label: Any = lambda y: y,
    members: Any = (lambda z: z,),
    head: Any = None,
    seed: int = 0,
) -> Cohort:
    rng = np.random.default_rng(seed)
    cases = []
    for k in range(n):
        z, y = blobs(shape, classes, rng)
        noisy = [z + rng.normal(0, 0.3, z.shape).astype(np.float32) for _ in members]
        scores = tuple(
            ArrayField(np.ascontiguousarray(turn(z)), True, f"member{m}/c{k}.npz")
            for m, (turn, z) in enumerate(zip(members, noisy, strict=True))
        )
        cases.append(Case(f"c{k}", scores, ArrayField(np.ascontiguousarray(label(y)), False, f"labels/c{k}.npy")))
    return Cohort(tuple(cases), head or Softmax(tuple(str(c) for c in range(classes)), 0), "logits")


def seen(data: Cohort) -> list[Finding]:
    """What is said of agreement: the same by a check and before other commands."""
    before = [f for f in traps(data, Serial()) if f.topic in ("labels", "members")]
    checked = [f for f in check(data, Serial()).findings if f.topic in ("labels", "members") and f.severity != "ok"]
    assert [f for f in checked if "agree" in f.text] == before
    return before


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (lambda y: y.T, "with their axes reversed"),
        (lambda y: y.transpose(1, 2, 0), "with their axes in the order (2, 0, 1)"),
        (lambda y: y[:, ::-1], "with axis 1 flipped"),
        (lambda y: y[::-1, :, ::-1], "with axes 0 and 2 flipped"),
        (lambda y: y.T[::-1], "with their axes in the order (2, 1, 0) and axis 2 flipped"),
        (lambda y: np.array([0, 2, 1], np.uint8)[y], "with label 1 as 2, 2 as 1"),
        (lambda y: np.array([1, 2, 255], np.uint8)[y], "with one taken from every label"),
        (lambda y: np.array([255, 0, 1], np.uint8)[y], "with one added to every label"),
    ],
)
def test_label_maps_that_are_read_in_a_wrong_way(label: Any, said: str) -> None:
    head = Softmax(("0", "1", "2"), None, 255)
    (found,) = seen(cohort(label=label, head=head))
    assert (found.severity, found.topic) == ("warning", "labels")
    assert said in found.text
    assert f"6 of {FEW} cases looked at" in found.text
    assert seen(cohort(head=head)) == []


def test_what_is_told_to_do_in_numpy_does_it() -> None:
    for wrong in (lambda y: y.transpose(1, 2, 0), lambda y: y[::-1], lambda y: y.T[::-1]):
        (found,) = seen(cohort(label=wrong))
        code = found.do.partition("would be ")[2].removesuffix(" in NumPy.")
        names = {"np": np}
        assert seen(cohort(label=lambda y, w=wrong, c=code, n=names: eval(c, {**n, "y": w(y)}))) == []


def test_inverted_binary_labels() -> None:
    (found,) = seen(cohort((24, 20), 2, label=lambda y: 1 - y))
    assert "label 0 as 1, 1 as 0" in found.text
    assert "Cohen's kappa 0." in found.text
    assert "against -0." in found.text


def test_a_transposed_image() -> None:
    (found,) = seen(cohort((24, 24), 3, label=lambda y: y.T))
    assert "axes reversed" in found.text
    assert found.options == {}


def test_shapes_that_forbid_an_order() -> None:
    data = cohort((16, 16, 16))
    assert {t.order for t in turns(data.cases)} == set(permutations(range(3)))
    odd = cohort((16, 12, 16), n=1)
    both = replace(data, cases=(*data.cases, replace(odd[0], id="odd")))
    assert {t.order for t in turns(both.cases)} == {(0, 1, 2), (2, 1, 0)}
    assert turns((replace(data[0], table=True),)) == (Turn((0, 1, 2)),)
    assert len(turns(cohort((1, 8, 8), n=1).cases)) == len(turns(cohort((8, 8), n=1).cases)) == 8
    assert len(turns((*data.cases, *cohort((8, 8), n=1).cases))) == 1


@pytest.mark.parametrize("odd", [0, 1, 2])
def test_a_member_with_its_classes_in_another_order(odd: int) -> None:
    order = [lambda z: z] * 3
    order[odd] = lambda z: z[[0, 2, 1]]
    (found,) = seen(cohort(members=order))
    assert found.topic == "members"
    assert "class 1 as 2, 2 as 1" in found.text
    assert ("likely the first" in found.do) == (odd == 0)
    assert odd == 0 or f"scores such as member{odd}/c0.npz" in found.text
    assert seen(cohort(members=[lambda z: z] * 3)) == []


def test_members_are_compared_without_labels() -> None:
    data = cohort(members=[lambda z: z, lambda z: z.transpose(0, 3, 2, 1)])
    bare = replace(data, cases=tuple(replace(c, labels=None) for c in data))
    (found,) = seen(bare)
    assert found.topic == "members"
    assert "with their axes reversed" in found.text
    single = replace(bare, cases=tuple(replace(c, scores=c.scores[:1]) for c in bare))
    assert looked_at(single) == ()
    assert seen(single) == []


def test_a_region_head() -> None:
    head = Regions(("whole", "core"), ((1, 2), (2,)), (1, 2))

    def regions(z: NDArray[Any]) -> NDArray[Any]:
        return np.stack([np.maximum(z[1], z[2]) - z[0], z[2] - z[:2].max(0)])

    assert seen(cohort(members=[regions], head=head)) == []
    (found,) = seen(cohort(members=[regions], head=head, label=lambda y: y.T))
    assert "axes reversed" in found.text


def test_one_bad_case_does_not_hide_the_finding_and_is_no_error_here() -> None:
    data = cohort(label=lambda y: y.T)
    bad = ArrayField(np.full((16, 16, 16), 9, np.uint8), False, "bad")
    data = replace(data, cases=(replace(data[0], labels=bad), *data.cases[1:]))
    (found,) = traps(data, Serial())
    assert "5 of 5 cases looked at" in found.text


@pytest.mark.parametrize("seed", range(3))
def test_scores_that_have_nothing_to_do_with_the_labels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = cohort(label=lambda y: rng.integers(0, 3, y.shape).astype(np.uint8), seed=seed)
    assert seen(data) == []


def test_cases_are_chosen_from_all_over_the_cohort() -> None:
    data = cohort((4, 4), n=20)
    ids = [c.id for c in looked_at(data)]
    assert ids == ["c1", "c5", "c8", "c11", "c15", "c18"]
    labelled = replace(data, cases=tuple(replace(c, labels=None) if k > 2 else c for k, c in enumerate(data)))
    assert [c.id for c in looked_at(labelled)] == ["c0", "c1", "c2"]


@given(st.lists(st.integers(1, 300), min_size=1, max_size=3))
def test_every_turn_maps_the_lattice_onto_itself(shape: list[int]) -> None:
    axes = lattice(tuple(shape))
    assert math.prod(len(a) for a in axes) <= max(LATTICE, 2 ** len(shape))
    for n, at in zip(shape, axes, strict=True):
        assert (np.diff(at) > 0).all()
        np.testing.assert_array_equal(n - 1 - at[::-1], at)
        assert 0 <= at[0] <= at[-1] < n


@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(0, 40))
def test_kappa_of_maps_is_that_of_their_table(seed: int, classes: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    own, other = rng.integers(-1, classes, (2, n))
    order = tuple(int(c) for c in rng.permutation(classes))
    renumbered = np.where(own < 0, -1, np.array(order)[own])
    table = Pair.of(own, other, (Turn((0,)),), classes).table
    assert table is not None
    for which, direct in ((tuple(range(classes)), own), (order, renumbered)):
        np.testing.assert_allclose(kappa_of(table, which), kappa(direct, other, classes), rtol=1e-12, atol=1e-12)


def test_nothing_to_tell() -> None:
    assert better([]) is None
    empty = Pair.of(np.zeros(0, np.int64), np.zeros(0, np.int64), (Turn((0,)),), 2)
    assert math.isnan(empty.kappas[Turn((0,))])
    assert better([empty]) is None
    constant = Pair.of(np.zeros(9, np.int64), np.zeros(9, np.int64), (Turn((0,)),), 2)
    assert better([constant, constant]) is None
