"""What a check finds: each trap on a cohort that has it, and only there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segcal.data.case import Case, Provenance
from segcal.data.cohort import Cohort
from segcal.data.formats.arrays import ArrayField
from segcal.data.head import Regions, Softmax
from segcal.engine.serial import Serial
from segcal.engine.threads import Threads
from segcal.errors import KindWarning
from segcal.methods import find
from segcal.tasks.check import check
from segcal.tasks.check.check import FINDERS, TRAPS, Checkup, traps
from segcal.tasks.evaluate import evaluate

SHAPE = (9, 8)


def scores(n: int, classes: int = 3, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 2, (n, classes, *SHAPE))
    labels = (z + np.log(-1 / np.log(rng.random(z.shape)))).argmax(1)
    return (1.5 * z).astype(np.float32), labels.astype(np.uint8)


def probabilities(z: NDArray[Any]) -> NDArray[np.float32]:
    e = np.exp(z - z.max(1, keepdims=True))
    return (e / e.sum(1, keepdims=True)).astype(np.float32)


def cohort(
    s: Sequence[NDArray[Any]],
    labels: Sequence[NDArray[Any] | None],
    *,
    kind: Any = "logits",
    head: Any = None,
    names: Sequence[str] = (),
    groups: Sequence[str] = (),
    **case: Any,
) -> Cohort:
    cases = tuple(
        Case(
            names[k] if names else f"case{k:02d}",
            (ArrayField(a, True, f"scores {k}"),),
            None if y is None else ArrayField(y, False, f"labels {k}"),
            groups[k] if groups else "",
            **case,
        )
        for k, (a, y) in enumerate(zip(s, labels, strict=True))
    )
    return Cohort(cases, head or Softmax(("background", "a", "b"), 0), kind)


def simple(n: int = 6, **more: Any) -> Cohort:
    z, y = scores(n)
    return cohort(list(z), list(y), **more)


def topics(found: Checkup, severity: str) -> list[str]:
    return [f.topic for f in found.findings if f.severity == severity]


def told(found: Checkup, topic: str) -> str:
    return " ".join(f"{f.text} {f.do}" for f in found.findings if f.topic == topic)


def told_before(data: Cohort) -> str:
    """What every command says of groups."""
    return " ".join(f"{f.text} {f.do}" for f in traps(data, Serial()) if f.topic == "groups")


def test_sound_data_raise_no_alarm() -> None:
    found = check(simple(12), Serial())
    assert found.usable
    assert topics(found, "warning") == []
    assert found.methods == ("ts", "ets", "vs", "ms-c", "dc")
    assert found.facts["voxels"] == {"scored": 12 * 72, "ignored": 0, "padding": 0, "outside": 0}
    assert found.findings[0].topic == "data"
    assert traps(simple(12), Serial()) == ()
    assert "raw logits are known" in told(found, "free energy")


def test_numbers_are_those_of_an_evaluation() -> None:
    data = simple()
    found, scored = check(data, Serial()), evaluate(data, None, Serial())
    for name in ("nll", "ece", "ace", "dice", "confidence", "accuracy", "voxels"):
        assert found.facts["uncalibrated"][name] == scored.uncalibrated.block[name]
    assert f"{scored.uncalibrated.block['nll']:.4f}" in told(found, "calibration")
    assert "overconfident" in told(found, "calibration")


def test_findings_do_not_depend_on_workers_and_are_safe_for_json() -> None:
    data = simple()
    one, two = check(data, Threads(1)), check(data, Threads(2))
    assert one.to_json() == two.to_json()
    assert json.loads(json.dumps(one.to_json(), allow_nan=False)) == one.to_json()


def test_a_bad_case_does_not_hide_the_others() -> None:
    z, y = scores(4)
    z[1, 0, 2, 2] = np.nan
    y[2, 0, 0] = 9
    found = check(cohort(list(z), list(y)), Serial())
    assert not found.usable
    assert set(found.facts["failed"]) == {"case01", "case02"}
    assert "scores 1" in told(found, "case")
    assert "labels 2" in told(found, "case")
    assert found.facts["labelled"] == 2
    assert found.facts["uncalibrated"]["cases"] == 2


def test_many_bad_cases_are_counted() -> None:
    z, y = scores(9)
    found = check(cohort(list(np.full_like(z, np.nan)), list(y)), Serial())
    assert len([f for f in found.findings if f.topic == "case"]) == 6
    assert "4 more cannot be used" in told(found, "case")
    assert found.facts["uncalibrated"] is None


def test_a_case_without_a_voxel_to_score_is_left_out_with_a_note() -> None:
    z, y = scores(3)
    y[1] = 255
    found = check(cohort(list(z), list(y), head=Softmax(("0", "1", "2"), None, 255)), Serial())
    assert found.facts["failed"] == {}
    assert found.facts["cases"] == 2
    assert "no voxel to score (all ignored, or outside the mask), so left out: case01" in told(found, "cases")
    assert found.usable
    found = check(cohort(list(z), [np.full_like(y[0], 255)] * 3, head=Softmax(("0", "1", "2"), None, 255)), Serial())
    assert "no voxel to score" in told(found, "case")


def test_labels_missing() -> None:
    z, y = scores(4)
    some = check(cohort(list(z), [y[0], None, y[2], y[3]]), Serial())
    assert "labels" in topics(some, "warning")
    assert some.facts["unlabelled"] == ["case01"]
    none = check(cohort(list(z), [None] * 4), Serial())
    assert none.usable
    assert none.methods == ()
    assert "--labels" in told(none, "labels")
    assert none.facts["uncalibrated"] is None
    assert not {"calibration", "support", "classes"} & {f.topic for f in none.findings}


def test_roles_of_voxels() -> None:
    z, y = scores(2)
    y[:, 0] = 255
    data = cohort(
        list(z),
        list(y),
        head=Softmax(("0", "1", "2"), None, 255),
        crop=((0, 9), (0, 6)),
        mask=ArrayField(np.tile([0, 1], 36).reshape(SHAPE), False, "mask"),
    )
    found = check(data, Serial())
    roles = found.facts["voxels"]
    assert sum(roles.values()) == 2 * 72
    assert roles["padding"] == 2 * 18
    assert all(roles.values())
    assert "25.0 %" in told(found, "padding")


@pytest.mark.parametrize(("rows", "warned"), [(0, False), (4, True)])
def test_padding_that_is_not_declared(rows: int, warned: bool) -> None:
    z, y = scores(3)
    p = probabilities(z)
    p[:, :, :rows] = np.eye(3, dtype=np.float32)[0][:, None, None]
    found = check(cohort(list(p), list(y), kind="probs"), Serial())
    assert ("one-hot" in topics(found, "warning")) == warned
    assert found.facts["one_hot"] == 3 * rows * 8
    assert "nothing to measure" in told(found, "free energy")
    declared = check(cohort(list(p), list(y), kind="probs", crop=((rows, 9), (0, 8))), Serial())
    assert "one-hot" not in topics(declared, "warning")


def test_absent_and_rare_classes() -> None:
    z, y = scores(6)
    y[y == 2] = 0
    y[0, 0, 0] = 2
    found = check(cohort(list(z), list(y)), Serial())
    assert "b (1)" in told(found, "classes")
    y[0, 0, 0] = 0
    gone = check(cohort(list(z), list(y)), Serial())
    assert "in no label map: b" in told(gone, "classes")
    assert gone.facts["classes"][2]["cases"] == 0


def test_too_few_groups() -> None:
    one = check(simple(4, groups=["g"] * 4), Serial())
    assert "nothing can be held out" in told(one, "groups")
    assert one.methods == ("ts",)
    few = check(simple(4), Serial())
    assert "4 groups" in told(few, "groups")
    assert few.methods == ("ts", "ets")
    assert "groups" not in topics(check(simple(5), Serial()), "warning")


@pytest.mark.parametrize(
    ("names", "suggested"),
    [
        ([f"subject{k // 2}_{side}" for k, side in enumerate("LRLRLR")], "^(.+)[_-]"),
        ([f"0016E5_{7959 + 2 * k:05d}" for k in range(6)], "consecutive:20"),
        (["alice", "bob", "carol", "dave", "eve", "frank"], None),
    ],
)
def test_names_that_look_as_if_they_belonged_together(names: list[str], suggested: str | None) -> None:
    found = told(check(simple(6, names=names), Serial()), "groups")
    assert (suggested in found) if suggested else found == ""
    grouped = simple(6, names=names, groups=["g", "g", "h", "h", "i", "j"])
    assert "--groups '" not in told(check(grouped, Serial()), "groups")
    assert told_before(simple(6, names=names)) == found
    assert told_before(grouped) == ""
    unlabelled = simple(6, names=names)
    unlabelled = replace(unlabelled, cases=tuple(replace(c, labels=None) for c in unlabelled))
    assert told_before(unlabelled) == ""


def test_a_case_that_is_there_twice() -> None:
    z, y = scores(6)
    z[4], y[4] = z[1], y[1]
    assert "case01 and case04" in told(check(cohort(list(z), list(y)), Serial()), "groups")
    together = cohort(list(z), list(y), groups=["a", "twin", "b", "c", "twin", "d"])
    assert "two names" not in told(check(together, Serial()), "groups")


def test_single_networks_and_averages() -> None:
    z, y = scores(6)
    data = cohort(list(z), list(y), files={"folder": Path("validation")})
    single = check(replace(data, provenance=Provenance(1, folds=1)), Serial())
    assert "networks" in topics(single, "warning")
    assert "single network" in told(single, "networks")
    five = check(replace(data, provenance=Provenance(1, folds=5)), Serial())
    assert "networks" in topics(five, "ok")
    assert not {"networks"} & {f.topic for f in check(data, Serial()).findings}
    newer = check(replace(data, provenance=Provenance(1, origin="prediction")), Serial())
    assert "networks" in topics(newer, "note") and "--networks 5 for the mean of five" in told(newer, "networks")


@pytest.mark.parametrize("changed", [0, 5])
def test_a_delivered_map_that_was_post_processed(changed: int) -> None:
    z, y = scores(2)
    shown = z[0].argmax(0)
    flat = shown.reshape(-1)
    flat[:changed] = (flat[:changed] + 1) % 3
    data = cohort([z[0]], [y[0]], fields={"delivered": ArrayField(shown.astype(np.uint8), False, "delivered")})
    found = check(data, Serial())
    assert found.facts["delivered"] == {"cases": 1, "differ": int(changed > 0), "voxels": changed}
    assert ("post-processed" in told(found, "label maps")) == (changed > 0)


def test_a_region_head() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(0, 2, (5, 2, *SHAPE)).astype(np.float32)
    y = rng.integers(0, 3, (5, *SHAPE)).astype(np.uint8)
    head = Regions(("whole", "core"), ((1, 2), (2,)), (1, 2))
    found = check(cohort(list(z), list(y), head=head), Serial())
    assert "region head (whole, core)" in told(found, "head")
    assert [row["name"] for row in found.facts["classes"]] == ["whole", "core"]
    assert found.facts["classes"][1]["voxels"] == int((y == 2).sum())
    assert "free energy" not in {f.topic for f in found.findings}


def test_parameters_are_those_a_method_has() -> None:
    """Degrees of freedom of the map on generic log-probabilities: the rank of its Jacobian, over a class's worth of
    softmax gauge.
    """
    rng = np.random.default_rng(0)
    for c in (2, 3, 4):
        z = rng.normal(0, 1, (40, c))
        x = z - np.log(np.exp(z).sum(1, keepdims=True))
        centre = np.eye(c) - 1 / c
        full = np.stack([np.outer(e, row) for e in np.eye(c) for row in np.eye(c)])
        bias = np.eye(c)
        rank = {}
        for name, directions, inputs, with_bias in (
            ("ts", [np.eye(c)], x, False),
            ("vs", [np.diag(e) for e in np.eye(c)], z, True),
            ("ms-c", _equal_sums(c), x, True),
            ("dc", list(full), x, True),
        ):
            columns = [(centre @ (m @ inputs.T)).ravel() for m in directions]
            columns += [(centre @ np.outer(b, np.ones(len(inputs)))).ravel() for b in bias] if with_bias else []
            rank[name] = np.linalg.matrix_rank(np.stack(columns), tol=1e-8)
        assert rank == {name: find(name)().identifiable(c) for name in rank}


def _equal_sums(c: int) -> list[NDArray[np.float64]]:
    """A basis of the matrices with equal row sums."""
    basis = []
    for i in range(c):
        for j in range(1, c):
            m = np.zeros((c, c))
            m[i, 0], m[i, j] = -1, 1
            basis.append(m)
    return [*basis, np.outer(np.ones(c), np.eye(c)[0])]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.booleans(), st.sampled_from(["logits", "probs"]), st.integers(0, 3))
def test_any_small_cohort_gets_findings_that_hold_together(n: int, labelled: bool, kind: str, margin: int) -> None:
    z, y = scores(n, seed=n)
    data = cohort(
        list(z if kind == "logits" else probabilities(z)),
        list(y) if labelled else [None] * n,
        kind=kind,
        crop=((margin, 9 - margin), (0, 8)),
    )
    found = check(data, Serial())
    assert found.usable
    assert sum(found.facts["voxels"].values()) == n * 72
    order = [("error", "warning", "note", "ok").index(f.severity) for f in found.findings if f.topic != "data"]
    assert order == sorted(order)
    assert all(f.text and f.text == f.text.strip() for f in found.findings)
    assert bool(found.methods) == labelled


def test_every_finder_is_heard() -> None:
    z, y = scores(6)
    y[y == 2] = 0
    p = probabilities(z)
    p[0, :, 0, 0] = np.nan
    shown = {"delivered": ArrayField(p[1].argmax(0).astype(np.uint8), False, "delivered")}
    data = replace(
        cohort(list(p), list(y), kind="probs", fields=shown, groups=["g"] * 6), provenance=Provenance(1, folds=5)
    )
    bare = replace(data, cases=tuple(replace(c, group="", id=f"p{k // 2}_{k % 2}") for k, c in enumerate(data)))
    turned = cohort(list(scores(6)[0]), list(scores(6)[1][:, ::-1]))
    coarse = cohort(list(np.round(255 * p[1:])), list(y[1:]), kind="scores")
    doubtful = cohort(list(p[1:]), list(y[1:]), kind="logits")
    with pytest.warns(KindWarning, match="declared as logits, but all lie in"):
        doubtful.sampled()
    apart = replace(data, cases=(replace(data[0], elsewhere="an affine that differs"), *data.cases[1:]))
    every = (data, bare, turned, coarse, doubtful, apart)
    told = {f.__name__ for d in every for f in FINDERS if list(f(d, check(d, Serial()).facts))}
    assert told == {f.__name__ for f in FINDERS}


def test_a_trap_is_found_by_a_check_too_and_in_the_same_words() -> None:
    assert set(TRAPS) <= set(FINDERS)
    data = simple(6, names=[f"subject{k // 2}_{side}" for k, side in enumerate("LRLRLR")])
    found = traps(data, Serial())
    assert found
    assert set(map(str, found)) <= set(map(str, check(data, Serial()).findings))
    assert str(found[0]).startswith("warning: groups: 6 cases begin with one of 3 names")
