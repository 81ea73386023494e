"""The papers' recipe: a calibrator near the exact one, validated on cases it is not trained on, resumable to the last
bit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from segcal import (
    Cohort,
    DirichletCalibration,
    EnsembleTemperatureScaling,
    MatrixScaling,
    TemperatureScaling,
    Threads,
    cohort_from_arrays,
    fit_methods,
)
from segcal.engine.serial import Serial
from segcal.errors import UsageError
from segcal.methods.calibrator import Calibrator, Solution
from segcal.methods.method import Method
from segcal.study.recipe.recipe import Recipe
from segcal.study.recipe.search import Journal, Trial
from segcal.testing.examples import HEAD, learnable, learnable_cohort, learnable_regions
from segcal.testing.methods import fit_bits

pytest.importorskip("optuna")

SHORT = Recipe(trials=3, epochs=25)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cohort(cases: int = 4, seed: int = 0) -> Cohort:
    return learnable_cohort(cases, (12, 12), seed)


def fitted(method: Method, on: Cohort, validation: Cohort | None = None) -> Calibrator:
    return method.fit(on, validation=validation, engine=Serial())


def solution_of(calibrator: Calibrator) -> Solution:
    assert calibrator.solution is not None
    return calibrator.solution


def nll(calibrator: Calibrator | None, z: np.ndarray, y: np.ndarray) -> float:  # type: ignore[type-arg]
    scores = torch.from_numpy(z)
    x = torch.log_softmax(scores, 1) if calibrator is None else calibrator.log_probs(scores)
    return -float(x.gather(1, torch.from_numpy(y)[:, None]).mean())


@pytest.mark.parametrize(
    "method", [TemperatureScaling, EnsembleTemperatureScaling, MatrixScaling, DirichletCalibration]
)
def test_numbers_told_are_those_of_the_calibrator(method: type[Method]) -> None:
    """The NLL of the fit and of the validation cases, computed anew from the delivered map."""
    (z, y), (vz, vy) = learnable(3, seed=1), learnable(2, seed=2)
    found = fitted(method(solver=SHORT), cohort_from_arrays(z, y, head=HEAD), cohort_from_arrays(vz, vy, head=HEAD))
    solution = solution_of(found)
    # rows are kept in float32
    assert solution.nll == pytest.approx(nll(found, z, y), abs=1e-6)
    assert solution.settings["validation_nll"] == pytest.approx(nll(found, vz, vy), abs=1e-6)
    assert solution.settings["validation_nll"] <= nll(None, vz, vy) + 1e-3
    assert solution.settings["validation_nll"] == min(t["validation_nll"] for t in solution.selection)
    assert solution.objective >= solution.nll
    assert solution.status == "stopped"


def test_given_time_it_comes_near_the_exact_optimum_and_not_below() -> None:
    # validated on the fitted cases themselves, nothing but time keeps Adam from the optimum
    z, y = learnable(1, (24, 24))
    on = cohort_from_arrays(z, y, head=HEAD)
    exact = solution_of(fitted(DirichletCalibration(lambda_=0.0, eps=0.0), on))
    recipe = solution_of(fitted(DirichletCalibration(solver=Recipe(trials=4, epochs=600)), on))
    start = nll(None, z, y)
    assert exact.nll - 1e-9 <= recipe.nll <= exact.nll + 0.02 * (start - exact.nll)
    assert "validated on the fitted cases themselves" in recipe.message
    assert recipe.certificate["gap"] >= recipe.objective - exact.objective - 1e-9


def test_what_is_told_is_complete() -> None:
    solution = solution_of(fitted(DirichletCalibration(solver=SHORT), cohort()))
    assert solution.settings["solver"] == "recipe"
    assert solution.settings["optimised"] == 12
    assert [t["trial"] for t in solution.selection] == [0, 1, 2]
    assert "validated on 2 of 4 cases" in solution.message or "validated on 1 of 4 cases" in solution.message
    best = min(solution.selection, key=lambda t: t["validation_nll"])
    assert solution.settings["strengths"] == ({"lambda": best["lambda"], "mu": best["mu"], "weight": 1.0},)
    assert json.dumps(solution.to_json(), allow_nan=False)


class PulledPlugError(Exception):
    """Somebody pulled the plug."""


@pytest.mark.parametrize("after", [1, 4, 11])
def test_an_interrupted_search_goes_on_to_the_same_end(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def method(storage: Path | None) -> Method:
        return DirichletCalibration(solver=Recipe(trials=12, epochs=8, storage=storage))

    expected = fitted(method(None), cohort())
    write, count = Journal.write, 0

    def interrupted(self: Journal, trials: dict[int, Trial]) -> None:
        nonlocal count
        write(self, trials)
        count += 1
        if count == after:
            raise PulledPlugError

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "write", interrupted)
        with pytest.raises(PulledPlugError):
            fitted(method(tmp_path / "trials.json"), cohort())
    kept = json.loads((tmp_path / "trials.json").read_text())["searches"]
    assert [len(s["trials"]) for s in kept.values()] == [after]
    trained = []
    monkeypatch.setattr(Journal, "write", lambda self, trials: trained.append(len(trials)) or write(self, trials))  # type: ignore[func-returns-value]
    again = fitted(method(tmp_path / "trials.json"), cohort())
    assert len(trained) == 12 - after
    assert told(again) == told(expected)


def told(calibrator: Calibrator) -> tuple[object, object]:
    """Parameters and solution, all but the passes, which an interruption saves."""
    bits, solution = fit_bits(calibrator)
    return bits, {k: v for k, v in json.loads(solution).items() if k != "passes"}


def test_a_finished_search_is_not_trained_again_and_can_be_lengthened(tmp_path: Path) -> None:
    file = tmp_path / "trials.json"
    fitted(DirichletCalibration(solver=Recipe(trials=3, epochs=8, storage=file)), cohort())
    again = solution_of(fitted(DirichletCalibration(solver=Recipe(trials=3, epochs=8, storage=file)), cohort()))
    longer = solution_of(fitted(DirichletCalibration(solver=Recipe(trials=5, epochs=8, storage=file)), cohort()))
    assert again.passes < 6
    assert list(longer.selection[:3]) == list(again.selection)
    assert list(longer.selection) == list(
        solution_of(fitted(DirichletCalibration(solver=Recipe(trials=5, epochs=8)), cohort())).selection
    )


def test_the_trials_of_other_data_are_refused(tmp_path: Path) -> None:
    solver = Recipe(trials=1, epochs=4, storage=tmp_path / "trials.json")
    fitted(TemperatureScaling(solver=solver), cohort())
    with pytest.raises(UsageError, match="other cases"):
        fitted(TemperatureScaling(solver=solver), cohort(seed=1))


def test_validation_cases_are_remembered_and_not_trained_on() -> None:
    on, validation = cohort(3, 1), cohort(2, 2)
    found = fitted(DirichletCalibration(solver=SHORT), on, validation)
    assert found.data is not None
    assert [r.id for r in found.data.records] == ["0", "1", "2", "validation/0", "validation/1"]
    assert found.data.voxels == sum(c.voxels for c in on)
    # training makes the network less sure; validation cases on which it is always right keep the start
    z, _ = learnable(2, (12, 12), 2)
    other = fitted(
        DirichletCalibration(solver=Recipe(trials=1, epochs=5)), on, cohort_from_arrays(z, z.argmax(1), head=HEAD)
    )
    same = fitted(DirichletCalibration(solver=Recipe(trials=1, epochs=5)), on, validation)
    assert "best at step 0 of" in solution_of(other).message
    assert "best at step 5 of 5" in solution_of(same).message


def test_an_exact_fit_beside_it_does_not_see_the_validation_cases() -> None:
    on, validation = cohort(3, 1), cohort(2, 2)
    both = fit_methods(
        {"exact": DirichletCalibration(lambda_=0.1), "recipe": DirichletCalibration(solver=SHORT)},
        on,
        Serial(),
        validation=validation,
    )
    alone = fit_methods({"exact": DirichletCalibration(lambda_=0.1)}, on, Serial())
    for a, b in zip(
        both["exact"].calibrator.state_dict().values(), alone["exact"].calibrator.state_dict().values(), strict=True
    ):
        # its start comes from a sample of another size
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_on_a_sample_that_is_everything_it_is_the_same() -> None:
    """A cohort smaller than the sample: the same rows in another order, so the same descent up to rounding, and the
    objective of all voxels.
    """
    every, some = (fitted(DirichletCalibration(solver=replace(SHORT, sample=s)), cohort()) for s in (False, True))
    assert some.solution.settings["sample"] is True
    assert some.solution.nll == pytest.approx(every.solution.nll, abs=1e-6)
    assert some.solution.settings["learning_rate"] == every.solution.settings["learning_rate"]


def test_validation_cases_nobody_uses_are_refused() -> None:
    with pytest.raises(UsageError, match="leave it out"):
        fitted(DirichletCalibration(0.1), cohort(), cohort(2, 2))


def test_validation_cases_must_be_others_made_the_same_way() -> None:
    method = TemperatureScaling(solver=SHORT)
    z, y = learnable(2, seed=3)
    with pytest.raises(UsageError, match="Give each case to one side"):
        fitted(method, cohort_from_arrays(z, y, head=HEAD), cohort_from_arrays(z[1:], y[1:], head=HEAD))
    with pytest.raises(UsageError, match="the same way"):
        fitted(method, cohort_from_arrays(z, y), learnable_regions(2))
    a, b = (
        cohort_from_arrays(*learnable(2, seed=s), head=HEAD, groups=["anna", name])
        for s, name in ((1, "bob"), (2, "carl"))
    )
    with pytest.raises(UsageError, match="'anna'"):
        fitted(method, a, b)


def test_the_split_keeps_groups_whole() -> None:
    z, y = learnable(6, (8, 8))
    on = cohort_from_arrays(z, y, head=HEAD, groups=["a", "a", "b", "b", "c", "c"])
    assert "validated on 2 of 6 cases" in solution_of(fitted(TemperatureScaling(solver=SHORT), on)).message


def test_strengths_beside_the_recipe_are_refused() -> None:
    with pytest.raises(UsageError, match="searches its strengths"):
        DirichletCalibration(lambda_=0.1, solver=SHORT)


def test_cross_fitted_and_on_several_threads_the_bits_are_the_same() -> None:
    methods = {"dc": DirichletCalibration(solver=SHORT), "ts": TemperatureScaling()}
    serial = fit_methods(methods, cohort(6), Serial(), crossfit=True, folds=3)["dc"]
    threads = fit_methods(methods, cohort(6), Threads(2), crossfit=True, folds=3)["dc"]
    assert [fit_bits(c) for c in (serial.calibrator, *serial.held_out)] == [
        fit_bits(c) for c in (threads.calibrator, *threads.held_out)
    ]
    assert len({str(fit_bits(c)[0]) for c in (serial.calibrator, *serial.held_out)}) == 4


def test_every_region_has_a_search_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "trials.json"
    found = fitted(DirichletCalibration(solver=Recipe(trials=2, epochs=10, storage=file)), learnable_regions(4))
    assert set(solution_of(found).parts) == {"whole", "core"}
    assert len(json.loads(file.read_text())["searches"]) == 2
