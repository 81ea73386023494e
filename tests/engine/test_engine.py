"""Pin, reduce, survey, map: answers are sums over the right voxels, one pass a reduce, failures leave nothing
behind.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch

from segcal.data.case import Case
from segcal.data.cohort import Cohort
from segcal.data.formats.arrays import ArrayField, cohort_from_arrays
from segcal.data.head import Regions, Softmax
from segcal.engine import accumulate
from segcal.engine.ask import Ask, Level, Through
from segcal.engine.need import MIB
from segcal.engine.serial import Serial
from segcal.engine.single import one_thread
from segcal.engine.threads import Threads
from segcal.errors import LabelError, MissingError, ScoreError, UsageError
from segcal.methods.calibrator import Calibrator
from segcal.methods.temperature import ScaleMap, ScaleNLL
from segcal.metrics.calibration import CalibrationError
from segcal.metrics.likelihood import LogLikelihood
from tests.lazy import random_cohort

ENGINES = [Serial(), Threads(2)]


def small(bad: int | None = None) -> Cohort:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4, 3, 6, 7)).astype(np.float32)
    y = rng.integers(3, size=(4, 6, 7))
    y[1, 0] = 255
    if bad is not None:
        z[bad, 0, 0, 0] = np.nan
    return cohort_from_arrays(z, y, kind="logits", ignore_index=255)


def nll(beta: float, cohort: Cohort, case: int) -> float:
    z = torch.from_numpy(cohort[case].scores[0].array).double()
    y = torch.from_numpy(cohort[case].labels.array)
    return torch.nn.functional.cross_entropy(
        beta * torch.log_softmax(z, 0)[None], y[None], reduction="sum", ignore_index=255
    ).item()


def value(ask: Ask, state) -> float:
    return accumulate.result(ask.accumulator, state).value * int(state["voxels"])


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGCAL_SCRATCH", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("engine", ENGINES)
def test_a_reduction_is_the_sum_over_the_scored_voxels_of_the_cases_asked_for(engine):
    cohort = small()
    asks = {
        "all": Ask(ScaleNLL(0.7)),
        "some": Ask(ScaleNLL(0.7), cases=frozenset({1, 2})),
        "each": Ask(ScaleNLL(0.7), by_case=True),
        "none": Ask(ScaleNLL(0.7), cases=frozenset()),
    }
    with engine.pin(cohort) as pinned:
        found = engine.reduce(pinned, asks)
        assert pinned.voxels == 3 * 42 + 35
    direct = [nll(0.7, cohort, i) for i in range(4)]
    assert value(asks["all"], found["all"]) == pytest.approx(sum(direct), rel=1e-6)
    assert value(asks["some"], found["some"]) == pytest.approx(direct[1] + direct[2], rel=1e-6)
    assert {i: value(asks["each"], s) for i, s in found["each"].items()} == pytest.approx(
        dict(enumerate(direct)), rel=1e-6
    )
    assert int(found["none"]["voxels"]) == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_a_survey_answers_the_same_from_the_files_themselves(engine):
    cohort = small()
    asks = {"all": Ask(ScaleNLL(0.7)), "each": Ask(ScaleNLL(0.7), cases=frozenset({1}), by_case=True)}
    found, records = engine.survey(cohort, asks)
    assert value(asks["all"], found["all"]) == pytest.approx(sum(nll(0.7, cohort, i) for i in range(4)), rel=1e-12)
    assert list(found["each"]) == [1]
    with engine.pin(cohort) as pinned:
        assert pinned.records == records
    assert [r.roles for r in records] == [(42, 0, 0, 0), (35, 7, 0, 0), (42, 0, 0, 0), (42, 0, 0, 0)]


def test_many_asks_are_one_pass_and_samples_are_none():
    cohort, engine = small(), Serial()
    with engine.pin(cohort) as pinned:
        assert (pinned.passes, pinned.sample_passes) == (1, 0)
        engine.reduce(pinned, {k: Ask(ScaleNLL(0.1 * (k + 1)), cases=frozenset({k % 4})) for k in range(20)})
        assert (pinned.passes, pinned.sample_passes) == (2, 0)
        pinned.resample([0, 0, 1, 1])
        assert (pinned.passes, pinned.sample_passes) == (3, 0)
        engine.reduce(pinned, {0: Ask(ScaleNLL(1.0), level=Level.SAMPLE)})
        assert (pinned.passes, pinned.sample_passes) == (3, 1)
        engine.reduce(pinned, {level: Ask(ScaleNLL(1.0), level=level) for level in Level})
        assert (pinned.passes, pinned.sample_passes) == (4, 3)
        engine.reduce(pinned, {})
        assert (pinned.passes, pinned.sample_passes) == (4, 3)


def test_rows_are_mapped_once_for_all_asks_that_look_through_the_same_map():
    calls = 0

    class Counting(Through):
        def __call__(self, rows):
            nonlocal calls
            calls += 1
            return rows

    through, other = Counting(), Counting()
    cohort = small()
    asks = {
        (name, k): Ask(ScaleNLL(0.5 + k), through=t)
        for k in range(3)
        for name, t in (("one", through), ("other", other), ("bare", None))
    }
    Serial().survey(cohort, asks)
    assert calls == 2 * len(cohort)


def test_a_calibrator_is_looked_through_with_its_own_decision():
    cohort = small()
    calibrator = Calibrator(cohort.head, "logits", [ScaleMap(0.25)], "scale")
    ask = {"after": Ask(LogLikelihood(3), through=calibrator.through(0)), "before": Ask(LogLikelihood(3))}
    found, _ = Serial().survey(cohort, ask)
    after, before = (accumulate.result(ask[k].accumulator, found[k]) for k in ("after", "before"))
    z = torch.from_numpy(np.stack([c.scores[0].array for c in cohort])).double()
    y = torch.from_numpy(np.stack([c.labels.array for c in cohort]))
    for measured, beta in ((after, 0.25), (before, 1.0)):
        assert measured.nll == pytest.approx(
            torch.nn.functional.cross_entropy(beta * z, y, ignore_index=255).item(), rel=1e-12
        )


@pytest.mark.parametrize("engine", ENGINES)
def test_regions_are_reduced_one_by_one(engine):
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(2, 2, 50)).astype(np.float32), rng.integers(3, size=(2, 50))
    head = Regions(("whole", "core"), ((1, 2), (2,)), (1, 2))
    cohort = cohort_from_arrays(z, y, kind="logits", head=head)
    asks = {part: Ask(ScaleNLL(1.0), part) for part in range(2)}
    with engine.pin(cohort) as pinned:
        found = engine.reduce(pinned, asks)
    for part, members in enumerate(head.members):
        direct = torch.nn.functional.binary_cross_entropy_with_logits(
            torch.from_numpy(z[:, part]).double(), torch.from_numpy(np.isin(y, members)).double(), reduction="sum"
        )
        assert value(asks[part], found[part]) == pytest.approx(direct.item(), rel=1e-6)


def test_a_case_of_two_cuts_is_put_together():
    cohort = random_cohort(1, (70_000,), classes=2)
    found, _ = Serial().survey(cohort, {0: Ask(CalibrationError(2, (10,)), by_case=True)})
    assert len(cohort.cuts(0)) == 2
    assert int(found[0][0]["counts"].sum()) == 70_000


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("verb", ["pin", "survey"])
def test_a_case_that_cannot_be_read_is_named_and_nothing_is_left(engine, verb, scratch):
    cohort = small(bad=2)
    with pytest.raises(ScoreError, match=r"scores\[2\]: found 1 value"):
        engine.pin(cohort) if verb == "pin" else engine.survey(cohort, {})
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_files_are_removed_when_pinned_rows_are_closed_even_after_an_error(engine, scratch, monkeypatch):
    monkeypatch.setattr(engine, "max_memory", 0)
    with pytest.raises(KeyboardInterrupt), engine.pin(small()) as pinned:
        assert len(list(scratch.rglob("*-rows"))) == 4
        assert all(isinstance(b[2].place, Path) for b in pinned.blocks)
        raise KeyboardInterrupt
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_an_interrupted_pin_leaves_nothing(engine, scratch, monkeypatch):
    monkeypatch.setattr(engine, "max_memory", 0)
    steps = 0

    class Interrupting:
        def start(self, what, total):
            assert (what, total) == ("reading cases", 4)

        def step(self):
            nonlocal steps
            steps += 1
            if steps == 2:
                assert list(scratch.rglob("*-rows"))
                raise KeyboardInterrupt

    monkeypatch.setattr(engine, "progress", Interrupting())
    with pytest.raises(KeyboardInterrupt):
        engine.pin(small())
    assert list(scratch.iterdir()) == []


def test_cohorts_without_labels_are_refused_before_any_reading():
    class Unread:
        where, shape, channels = "x", (3,), 2

        def open(self, scratch):
            raise AssertionError("opened")

    cohort = Cohort((Case("a", (Unread(),)),), Softmax(("a", "b")), "probs")
    for verb in (Serial().pin, lambda c: Serial().survey(c, {})):
        with pytest.raises(MissingError, match="case a"):
            verb(cohort)


def test_an_all_ignored_case_is_an_error():
    cohort = cohort_from_arrays(np.zeros((1, 2, 4)), np.full((1, 4), 9), kind="logits", ignore_index=9)
    with pytest.raises(LabelError, match="no voxel to score"):
        Serial().survey(cohort, {})


@pytest.mark.parametrize("memory", [0, 255 * MIB])
def test_too_little_memory_is_refused(memory):
    with pytest.raises(UsageError, match="at least 256 MiB"):
        Threads(2, max_memory=memory)


class Taking:
    """A mapper that remembers starts, and breaks on one case."""

    def __init__(self, breaks=None):
        self.breaks, self.taken, self.closed = breaks, {}, set()

    @contextlib.contextmanager
    def case(self, reader, scratch):
        owner, index = self, reader.index

        class Opened:
            def block(self, block):
                if index == owner.breaks:
                    raise ScoreError("here", found="a", expected="b", do="c")
                owner.taken.setdefault(index, []).append((block.start, block.voxels))

            def summary(self):
                return {"case": index}

        yield Opened()
        self.closed.add(index)


@pytest.mark.parametrize("engine", ENGINES)
def test_map_hands_out_every_block_in_order_and_goes_on_after_a_failure(engine):
    cohort, mapper = small(), Taking(breaks=2)
    outcomes = engine.map(cohort, mapper)
    assert [o.id for o in outcomes] == ["0", "1", "2", "3"]
    assert [o.summary for o in outcomes] == [{"case": 0}, {"case": 1}, None, {"case": 3}]
    assert isinstance(outcomes[2].error, ScoreError)
    assert mapper.taken == {k: [(0, 42)] for k in (0, 1, 3)}
    assert mapper.closed == {0, 1, 3}


def test_map_does_not_hide_what_is_no_error_of_the_data():
    class Broken(Taking):
        def case(self, reader, scratch):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Serial().map(small(), Broken())


def test_map_does_without_labels():
    cohort = Cohort((Case("a", (ArrayField(np.zeros((2, 5)), True, "x"),)),), Softmax(("a", "b")), "logits")
    assert Serial().map(cohort, Taking())[0].error is None


@pytest.mark.parametrize("engine", ENGINES)
def test_progress_is_told_of_every_case(engine, monkeypatch):
    told: list[object] = []

    class Told:
        def start(self, what, total):
            told.append((what, total))

        def step(self):
            told.append("step")

    monkeypatch.setattr(engine, "progress", Told())
    engine.survey(small(), {})
    engine.map(small(), Taking())
    assert told == [("scoring cases", 4), *["step"] * 4, ("writing cases", 4), *["step"] * 4]


def test_torch_gets_its_threads_back_after_an_error_too():
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError), one_thread():
        assert torch.get_num_threads() == 1
        raise RuntimeError
    assert torch.get_num_threads() == before
