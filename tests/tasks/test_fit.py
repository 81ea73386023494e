"""Fitting by name, with cross-fitted numbers kept; the same from Python and from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from segcal.data.cohort import Cohort
from segcal.data.formats.arrays import cohort_from_arrays
from segcal.engine.serial import Serial
from segcal.errors import OutputError, UsageError
from segcal.methods.files import load
from segcal.methods.temperature import TemperatureScaling
from segcal.tasks.choose import recommend
from segcal.tasks.fit import files_of, fit, fit_chosen, methods_of

RNG = np.random.default_rng(0)
Y = RNG.integers(3, size=(6, 9, 10))
Z = (3 * (RNG.normal(size=(6, 3, 9, 10)) + 1.5 * np.moveaxis(np.eye(3)[Y], -1, 1))).astype(np.float32)


def cohort(groups: list[str] | None = None) -> Cohort:
    return cohort_from_arrays(Z, Y, kind="logits", groups=groups)


def test_every_method_is_fitted_scored_without_each_fold_and_written(tmp_path: Path) -> None:
    done = fit(methods_of("ts, vs", {"lambda_": 0.5}, 3), cohort(), Serial(), folds=3, seed=3)
    assert list(done.fits) == list(done.evaluations) == ["ts", "vs"]
    assert done.choice is None
    nll = {name: e.calibrated.block["nll"] for name, e in done.evaluations.items() if e.calibrated is not None}
    assert done.best == min(nll, key=nll.__getitem__)
    files = files_of(tmp_path / "out", list(done.fits))
    done.save(files)
    told = json.loads(json.dumps(done.to_json(files), allow_nan=False))
    assert (told["cases"], told["groups"], told["crossfitted"], told["why_not"]) == (6, 6, True, "")
    for name, path in files.items():
        kept = load(path).crossfit
        assert kept is not None
        assert (kept["folds"], kept["seed"], kept["groups"]) == (3, 3, 6)
        assert kept["calibrated"]["nll"] == pytest.approx(nll[name])
        assert told["methods"][name]["file"] == str(path)
        assert told["methods"][name]["crossfit"] == json.loads(json.dumps(kept))


@pytest.mark.parametrize(
    ("groups", "crossfit", "why"), [(["p"] * 6, True, "one group: nothing can be held out"), (None, False, "as asked")]
)
def test_where_nothing_is_held_out_it_says_why(groups: list[str] | None, crossfit: bool, why: str) -> None:
    done = fit({"ts": TemperatureScaling()}, cohort(groups), Serial(), crossfit=crossfit)
    assert why in done.why_not
    assert done.evaluations == {}
    assert done.fits["ts"].calibrator.crossfit is None
    assert done.best == "ts"
    assert done.to_json({"ts": Path("x")})["crossfitted"] is False


def test_a_choice_has_the_form_of_a_fit() -> None:
    methods = methods_of("ts,isotonic", {}, 0)
    done = fit_chosen(cohort(), Serial(), methods=methods, folds=3)
    alone = recommend(cohort(), Serial(), methods=methods, folds=3)
    assert done.choice is not None
    assert (done.choice.chosen, done.choice.reasons) == (alone.chosen, alone.reasons)
    assert list(done.fits) == list(done.evaluations) == [done.best] == [alone.chosen]
    kept = done.fits[done.best].calibrator.crossfit
    assert kept is not None
    assert kept["recommendation"]["chosen"] == alone.chosen
    assert "candidates" not in kept["recommendation"]
    assert kept["folds"] == 3


@pytest.mark.parametrize(
    ("names", "options", "said"),
    [("nope", {}, "method: found 'nope'"), ("ts", {"lambda_": 1.0}, "--lambda: found 1.0 beside --method ts")],
)
def test_what_no_method_takes_is_refused(names: str, options: dict[str, float], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        methods_of(names, options, 0)


def test_an_option_goes_to_the_methods_that_take_it() -> None:
    made = methods_of("ts,dc", {"lambda_": 0.25, "penalty": None}, 7)
    assert made["dc"].lambda_ == 0.25
    assert made["ts"] == TemperatureScaling()


def test_files_of_methods(tmp_path: Path) -> None:
    assert files_of(tmp_path / "a.safetensors", ["ts"]) == {"ts": tmp_path / "a.safetensors"}
    assert files_of(tmp_path, ["ts"]) == {"ts": tmp_path / "ts.safetensors"}
    assert files_of(tmp_path / "new", ["ts", "dc"])["dc"] == tmp_path / "new" / "dc.safetensors"
    with pytest.raises(UsageError, match="for 2 methods"):
        files_of(tmp_path / "a.safetensors", ["ts", "dc"])
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="found a file"):
        files_of(tmp_path / "file", ["ts", "dc"])
