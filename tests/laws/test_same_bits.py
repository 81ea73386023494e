"""Same bits: fitted parameters, cross-fitted numbers and evaluations do not depend on engine, workers, memory, or the
order of cases and merges.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segcal.data.cohort import Cohort
from segcal.data.files.journal import Scratch
from segcal.data.formats.arrays import cohort_from_arrays
from segcal.data.formats.discover import open_cohort
from segcal.engine import accumulate
from segcal.engine.ask import Ask
from segcal.engine.engine import Engine
from segcal.engine.need import MIB
from segcal.engine.serial import Serial
from segcal.engine.threads import Threads
from segcal.methods.affine.fit import DirichletCalibration, MatrixScaling
from segcal.methods.method import fit_methods
from segcal.methods.mixture import EnsembleTemperatureScaling
from segcal.methods.temperature import TemperatureScaling
from segcal.metrics.summary import suite
from segcal.tasks.evaluate import crossfitted, evaluate
from tests.lazy import random_cohort

METHODS = {
    "ts": TemperatureScaling(),
    "ets": EnsembleTemperatureScaling(),
    "dc": DirichletCalibration(lambda_=0.01),
    "dc-cv": DirichletCalibration(),
    "ms": MatrixScaling(lambda_=0.001, penalty="odir"),
}
LEAST = 256 * MIB


def cohort(cases: int = 4, voxels: int = 70_000) -> Cohort:
    """Cases of two blocks each, in three groups."""
    plain = random_cohort(cases, (voxels,))
    return plain.grouped({c.id: f"g{k % 3}" for k, c in enumerate(plain)})


def spilling(engine: Engine) -> Engine:
    """The engine with no memory at all: every row goes to a file.

    A limit that engines refuse, set behind their back.
    """
    engine.max_memory = 0
    return engine


def bits(of: Cohort, engine: Engine) -> str:
    """Everything that a fit and its evaluation give, as text: parameters in hexadecimal, numbers in full."""
    fits = fit_methods(METHODS, of, engine, crossfit=True, folds=3)
    parameters = {
        f"{name} {k} {key}": value.numpy().tobytes().hex()
        for name, fit in fits.items()
        for k, calibrator in enumerate((fit.calibrator, *fit.held_out))
        for key, value in calibrator.state_dict().items()
    }
    solutions = {name: fit.calibrator.solution.to_json() for name, fit in fits.items()}
    held_out = {name: evaluation.to_json() for name, evaluation in crossfitted(of, fits, engine).items()}
    after = evaluate(of, fits["dc"].calibrator, engine, fitted="include").to_json()
    return json.dumps([parameters, solutions, held_out, after], indent=1, sort_keys=True)


@pytest.fixture(scope="module")
def reference() -> str:
    found = bits(cohort(), Serial())
    assert '"dc-cv 3' in found
    return found


@pytest.mark.parametrize(
    "engine",
    [Threads(1, max_memory=LEAST), Threads(2), Threads(4, max_memory=LEAST), spilling(Serial()), spilling(Threads(2))],
    ids=["one worker", "two workers", "four workers", "serial, rows in files", "two workers, rows in files"],
)
def test_parameters_and_cross_fitted_numbers_are_the_same_bits(engine, reference, tmp_path, monkeypatch):
    monkeypatch.setenv("SEGCAL_SCRATCH", str(tmp_path))
    assert bits(cohort(), engine) == reference
    assert list(tmp_path.iterdir()) == []


def test_the_order_of_cases_changes_no_evaluation():
    one = cohort(4, 3000)
    turned = Cohort(one.cases[::-1], one.head, one.kind)
    found = [evaluate(c, None, Serial()).to_json() for c in (one, turned)]
    assert found[0]["uncalibrated"] == found[1]["uncalibrated"]
    assert found[0]["per_case"] == found[1]["per_case"][::-1]


def test_files_and_arrays_windows_and_streams_give_the_same_bits(tmp_path):
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(3, 3, 50, 60, 8)).astype(np.float32), rng.integers(3, size=(3, 50, 60, 8)).astype(np.uint8)
    (tmp_path / "labels").mkdir()
    for name in ("plain", "compressed", "raw"):
        (tmp_path / name).mkdir()
    for k in range(3):
        np.save(tmp_path / "labels" / f"case{k}.npy", y[k])
        np.save(tmp_path / "raw" / f"case{k}.npy", z[k])
        np.savez(tmp_path / "plain" / f"case{k}.npz", logits=z[k])
        np.savez_compressed(tmp_path / "compressed" / f"case{k}.npz", logits=z[k])
    ids = [f"case{k}" for k in range(3)]
    expected = evaluate(cohort_from_arrays(z, y, kind="logits", ids=ids), None, Serial()).to_json()
    for name in ("plain", "compressed", "raw"):
        of = open_cohort(tmp_path / name, tmp_path / "labels", kind="logits")
        for engine in (Serial(), spilling(Threads(2))):
            found = evaluate(of, None, engine).to_json()
            assert (found["uncalibrated"], [row["uncalibrated"] for row in found["per_case"]]) == (
                expected["uncalibrated"],
                [row["uncalibrated"] for row in expected["per_case"]],
            )


@pytest.fixture(scope="module")
def states():
    of = cohort(5, 4000)
    accumulators = suite(3, None)
    found, _ = Serial().survey(of, {name: Ask(a, by_case=True) for name, a in accumulators.items()})
    return accumulators, {name: list(found[name].values()) for name in accumulators}


@settings(max_examples=20)
@given(order=st.permutations(range(5)), cut=st.integers(1, 4))
def test_states_of_metrics_merged_in_any_order_are_the_same_bits(states, order, cut):
    for name, accumulator in states[0].items():
        parts = states[1][name]

        def merged(index, accumulator=accumulator, parts=parts):
            total = accumulate.zero(accumulator)
            for i in index:
                total = accumulate.merge(accumulator, total, parts[i])
            return total

        whole = merged(range(5))
        turned = accumulate.merge(accumulator, merged(order[:cut]), merged(order[cut:]))
        assert {k: v.tobytes() for k, v in whole.items()} == {k: v.tobytes() for k, v in turned.items()}


@pytest.mark.slow
def test_a_cohort_that_does_not_fit_the_least_memory_gives_the_bits_of_one_that_does(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGCAL_SCRATCH", str(tmp_path))
    of = cohort(9, 700_000)  # 88 MB of rows, where 53 MiB may stay in memory
    engines = [Serial(), Threads(2, max_memory=LEAST)]
    seen: list[int] = []
    original = Scratch.__exit__

    def leaving(self, *args):
        seen.append(sum(p.stat().st_size for p in Path(tmp_path).rglob("*-rows")))
        original(self, *args)

    monkeypatch.setattr(Scratch, "__exit__", leaving)
    monkeypatch.setitem(METHODS, "ms", TemperatureScaling())
    monkeypatch.setitem(METHODS, "dc-cv", TemperatureScaling())
    first = bits(of, engines[0])
    assert max(seen) == 0
    assert bits(of, engines[1]) == first
    assert max(seen) > 25e6
