"""How scores are stored, told from a sample: steps of every sort, full precision left alone, kinds only doubted."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segcal import Serial, Threads, cohort_from_arrays
from segcal.cases import Storage
from segcal.cases.storage import Rounded, common_step, own_step, tell
from segcal.errors import KindWarning, UnreadableError
from segcal.head import Regions, Softmax
from segcal.scores import FLOOR, FULL, Resolution
from segcal.sources.arrays import ArrayField


def softmax(z):
    e = np.exp(z - z.max(0, keepdims=True))
    return e / e.sum(0, keepdims=True)


def drawn(classes=4, sharper=2.5, n=20_000, seed=0):
    z = np.random.default_rng(seed).normal(0, 1.5, (classes, n))
    z[0] += 1
    return softmax(sharper * z)


def head(classes=4):
    return Softmax(tuple(map(str, range(classes))))


def regions(count=2):
    names = tuple("abcdefgh"[:count])
    return Regions(names, tuple((k + 1,) for k in range(count)), tuple(range(1, count + 1)))


def told(values, kind="scores", of=None):
    return tell([np.asarray(values, np.float64)], kind, of or head(len(values))).storage


def renormalised(q):
    q = q.astype(np.float32)
    return q / q.sum(0, keepdims=True)


COARSE = {
    "bytes": (lambda p: np.round(p * 255), "scores", 1 / 255, "steps of 1/25"),
    "bytes over 255": (lambda p: (np.round(p * 255) / 255).astype(np.float32), "scores", 1 / 255, "steps of 1/25"),
    "bytes in half precision": (
        lambda p: (np.round(p * 255) / 255).astype(np.float16),
        "scores",
        1 / 255,
        "steps of 1/25",
    ),
    "bytes by their sum": (lambda p: renormalised(np.round(p * 255)), "probs", 1 / 255, "steps of about 0.0039"),
    "logarithms of bytes": (lambda p: np.log(renormalised(np.round(p * 255))), "log_probs", 1 / 255, "about 0.0039"),
    "two bytes": (lambda p: np.round(p * 65535), "scores", 1 / 65535, "steps of 1/65535"),
    "two bytes by their sum": (lambda p: renormalised(np.round(p * 65535)), "probs", 1 / 65535, "about 1.5e-05"),
    "three decimals": (lambda p: np.round(p, 3).astype(np.float32), "scores", 1e-3, "steps of 0.001"),
    "three decimals, float64": (lambda p: np.round(p, 3), "scores", 1e-3, "steps of 0.001"),
    "six decimals": (lambda p: np.round(p, 6).astype(np.float32), "scores", 1e-6, "steps of 1e-06"),
    "per cent": (lambda p: np.round(100 * p, 1), "scores", 1e-3, "steps of 0.001"),
    "half precision": (lambda p: p.astype(np.float16), "probs", 2.0**-24, "half precision (float16)"),
}


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("classes", [2, 4, 19])
@pytest.mark.parametrize("name", list(COARSE))
def test_the_step_is_found_and_a_zero_counts_as_the_mean_of_what_was_rounded_to_it(name, classes):
    stored, kind, step, called = COARSE[name]
    p = drawn(classes)
    found = told(stored(p), kind)
    assert found.coarse and found.resolution.step == pytest.approx(step, rel=0.03)
    mean = p[p < step / 2].mean()
    assert mean / 1.6 < found.resolution.zero < mean * 1.6
    positive = np.exp(stored(drawn(classes))) if kind == "log_probs" else stored(drawn(classes)).astype(np.float64)
    positive = positive / positive.sum(0)
    assert found.resolution.zero < positive[positive > 0].min()  # so that no order is lost
    if classes > 2:  # two classes rounded are complements: their sums are whole, and their step is common
        assert called in found.steps


@pytest.mark.parametrize("sharper", [0.5, 1.0, 2.5, 8.0, 30.0])
@pytest.mark.parametrize("classes", [2, 4, 19])
@pytest.mark.parametrize("precise", [np.float32, np.float64, lambda p: torch.from_numpy(p).bfloat16().float().numpy()])
def test_full_precision_is_left_alone(classes, sharper, precise):
    assert told(precise(drawn(classes, sharper))).resolution == FULL
    assert told(precise(drawn(classes, sharper)), "scores").steps == ""


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 6), st.integers(1, 400), st.floats(0.1, 60), st.integers(0, 10**6), st.booleans())
def test_no_sample_of_float32_probabilities_passes_for_coarse(classes, n, sharper, seed, with_padding):
    p = drawn(classes, sharper, n, seed).astype(np.float32)
    if with_padding:
        p = np.concatenate([p, np.eye(classes, dtype=np.float32)[:, :1].repeat(n, 1)], 1)
    assert told(p, "probs") == Storage()


def test_votes_of_few_networks_are_steps():
    votes = (np.random.default_rng(0).multinomial(5, [0.7, 0.2, 0.1], 3000) / 5).T
    assert told(votes, "probs").resolution.step == pytest.approx(0.2)


def test_sigmoids_beside_what_they_leave_of_one_have_the_steps_of_that():
    s = (1 / (1 + np.exp(-np.random.default_rng(0).normal(0, 12, 20_000)))).astype(np.float32)
    assert (s == 1).any()
    assert told(np.stack([1 - s, s]), "probs").resolution.step == 2.0**-24


REGIONS = {
    "float32": (np.float32, 0, 2.0**-24),
    "float64": (np.float64, 0, 0),
    "float16": (np.float16, 2.0**-24, 2.0**-11),
    "bfloat16": (lambda s: torch.from_numpy(s).bfloat16().float().numpy(), 0, 2.0**-8),
    "bytes": (lambda s: (np.round(s * 255) / 255).astype(np.float32), 1 / 255, 1 / 255),
    "decimals": (lambda s: np.round(s, 2), 0.01, 0.01),
}


@pytest.mark.parametrize("name", list(REGIONS))
def test_regions_are_told_from_one_as_well_as_from_zero(name):
    stored, zero, one = REGIONS[name]
    s = 1 / (1 + np.exp(-np.random.default_rng(0).normal(0, 6, (2, 20_000))))
    found = tell([stored(s).astype(np.float64)], "probs", regions()).storage.resolution
    assert (found.step, found.step_one) == pytest.approx((zero, one), rel=1e-6)
    for p, step, counts in ((s, zero, found.zero), (1 - s, one, found.one)):
        mean = p[p < step / 2].mean() if step else FLOOR
        assert mean / 1.6 < counts < mean * 1.6


@pytest.mark.parametrize("values", [np.empty((3, 0)), np.eye(3), np.eye(3)[:, np.arange(900) % 3], [[0.5], [0.5]]])
def test_too_little_to_tell_is_full_precision(values):
    assert told(values, "probs") == Storage()


def test_what_cannot_be_scores_is_left_to_the_pass_that_refuses_it():
    p = drawn(3)
    p[0, ::2], p[1, 1::4] = np.nan, -1
    assert told(p, "probs") == Storage()


def test_steps_of_single_values():
    assert common_step(np.arange(1, 200) * 0.25, 1e-6) == 0.25
    assert common_step(np.array([0.3, 0.5]), 1e-6) is None  # too few
    assert common_step(np.random.default_rng(0).random(500), 1e-6) is None
    assert own_step(renormalised(np.round(drawn(5) * 100)).astype(np.float64), 1e-6) == pytest.approx(0.01, rel=0.03)
    assert own_step(drawn(5), 1e-6) is None


def test_logits_are_never_coarse_but_may_be_doubted():
    p = drawn(3, n=500)
    assert told(np.round(p * 8), "logits") == Storage()
    assert told(p.astype(np.float32), "logits").doubtful
    assert not told(p * 1.01, "logits").doubtful and not told(p[:, :0], "logits").doubtful
    sigmoids = 1 / (1 + np.exp(-np.random.default_rng(0).normal(size=(2, 100))))
    assert tell([sigmoids], "logits", regions()).doubtful and not tell([5 * sigmoids], "logits", regions()).doubtful


def cohort(arrays, kind="scores", **more):
    labels = [a.argmax(0) for a in arrays]
    return cohort_from_arrays(list(arrays), labels, kind=kind, **more)


def images(count=4, sharper=2.5, side=32):
    return [drawn(4, sharper, side * side, seed).reshape(4, side, side) for seed in range(count)]


def test_a_cohort_is_sampled_once_and_a_selection_of_it_shares_what_was_found():
    opened = []

    @dataclass(frozen=True, eq=False)
    class Counted(ArrayField):
        @contextlib.contextmanager
        def open(self, scratch):
            opened.append(self.where)
            with super().open(scratch) as window:
                yield window

    data = cohort([np.round(255 * p) for p in images(40)])
    cases = tuple(replace(c, scores=(Counted(c.scores[0].array, True, c.id),)) for c in data)
    data = replace(data, cases=cases)
    found = data.storage
    assert found.steps == "steps of 1/255" and len(opened) == len(set(opened)) <= 16
    before = len(opened)
    assert data.select(["0*"]).storage is found and data[3:5].storage is found and data.sampled().storage is found
    assert len(opened) == before
    other = replace(data, cases=cohort(images(2)).cases)
    assert other.storage == Storage()  # other scores are looked at themselves


def test_the_coarsest_case_decides():
    assert cohort([*images(3), np.round(255 * images(5)[4])]).storage.steps == "steps of 1/255"


def test_cases_in_like_steps_are_counted_together_and_the_coarsest_alone():
    one, other, coarse = Rounded(0.01, 10, 5), Rounded(0.0098, 30, 1), Rounded(0.1, 3, 0)
    assert one.beside(other) == other.beside(one) == Rounded(0.01, 40, 6)
    assert one.beside(coarse) == coarse.beside(other) == coarse
    assert Rounded(1e-3, 10**9, 0).mean < 1e-12 * 1.5 and Rounded().mean == FLOOR  # never below the floor
    assert Rounded(1.0, 10**6, 2 * 10**6).mean == pytest.approx(0.25, rel=1e-3)  # as dense near 0 as elsewhere
    assert Rounded(1.0, 0, 10**9).mean == pytest.approx(0.5, rel=0.06)


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9), st.floats(1e-9, 1))
def test_what_a_zero_counts_as_lies_below_half_a_step_and_falls_with_more_zeros(zeros, more, ones, step):
    assert FLOOR <= Rounded(step, zeros + more, ones).mean <= Rounded(step, zeros, ones).mean <= step / 2


def test_a_case_that_cannot_be_read_is_passed_over():
    @dataclass(frozen=True, eq=False)
    class Damaged(ArrayField):
        @contextlib.contextmanager
        def open(self, scratch):
            raise UnreadableError(self.where, found="half a file", expected="a whole one", do="Copy it again.")
            yield

    data = cohort([np.round(255 * p) for p in images(4)])
    first = replace(data[0], scores=(Damaged(data[0].scores[0].array, True, "c0"),))
    assert replace(data, cases=(first, *data.cases[1:])).storage.steps == "steps of 1/255"


def test_the_sample_keeps_off_what_is_not_scored():
    coarse, fine = np.round(255 * images(1)[0]) / 255, images(1, side=32)[0]
    mixed = np.where(np.arange(32) < 16, coarse, fine)
    data = cohort([mixed], mask=[np.tile(np.arange(32) < 16, (32, 1))])
    assert data.storage.steps == "steps of 1/255" and cohort([mixed]).storage.steps == ""
    padded = replace(data, cases=(replace(data[0], mask=None, crop=((0, 32), (0, 16))),))
    assert padded.storage.steps == "steps of 1/255"


def test_a_cohort_counts_zeros_as_coarsely_as_it_is_told_to():
    data = cohort(images(2))
    assert data.resolution == FULL and data.at_least(FULL) is data
    floored = data.at_least(Resolution(0.01))
    assert floored.resolution == Resolution(0.01) and floored[:1].resolution == Resolution(0.01)
    assert not floored.storage.coarse  # its own scores are not


def test_notes_say_the_step_and_the_share_of_labels_stored_as_zero():
    rng = np.random.default_rng(5)
    scores = [np.round(255 * p).astype(np.uint8) for p in images(3)]
    labels = [rng.integers(0, 4, (32, 32)) for _ in scores]
    data = cohort_from_arrays(scores, labels, kind="scores")
    lost = sum(int((np.take_along_axis(s, y[None], 0) == 0).sum()) for s, y in zip(scores, labels, strict=True))
    for engine in (Serial(), Threads(3)):
        records = engine.survey(data, {})[1]
        assert sum(r.floored for r in records) == lost > 100
    (note,) = data.storage.notes(records)
    assert note.startswith("scores are stored in steps of 1/255: a stored 0 counts as 0.00035; the label's is 0 at ")
    assert f"at {100 * lost / 3072:.2g} % of the labelled voxels" in note
    assert data.storage.notes() == [note.split("; ")[0]]


def test_labels_at_zero_are_told_at_full_precision_too():
    p = np.stack(
        [np.array([1.0, 0, 0])[:, None, None] * np.ones((3, 9, 9)), *(softmax(p[:3]) for p in images(1, side=9))]
    )
    data = cohort_from_arrays(p.astype(np.float32), np.ones((2, 9, 9), int), kind="probs")
    records = Serial().survey(data, {})[1]
    (note,) = data.storage.notes(records)
    assert "stored as 0, or as good as, at 50 % of the labelled voxels" in note


def test_probabilities_declared_as_logits_are_warned_of_once_and_used_as_declared():
    data = cohort([p.astype(np.float32) for p in images(2)], kind="logits")
    with pytest.warns(KindWarning, match=r"all lie in \[0, 1\] and sum to 1 over the classes: .*kind='probs'"):
        assert data.doubts
    assert data.doubts and data.resolution == FULL and data.kind == "logits"


@pytest.mark.parametrize(
    ("logits", "unit"),
    [
        ([[np.nan, np.nan], [np.nan, np.nan]], 1.0),
        ([[-np.inf, 0.0], [8.0, -np.inf]], 1.0),
        ([[8e4, 0.0], [0.0, 8e4]], 2.0**13),
        ([[8e-5, 0.0], [0.0, 8e-5]], 2.0**-17),
        ([[0.0, 0.0], [0.0, 0.0]], 1.0),
    ],
)
def test_the_unit_of_logits_is_that_of_their_usual_size(logits: list[list[float]], unit: float) -> None:
    found = tell([np.array(logits)], "logits", Softmax(("a", "b"))).storage
    assert found.resolution.unit == pytest.approx(unit, rel=0.5)
    assert np.log2(found.resolution.unit) == int(np.log2(found.resolution.unit))
