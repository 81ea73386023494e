"""`segcal fit`: what it finds, what it keeps, what it refuses before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from segcal.methods.files import load


def test_it_finds_the_temperature_and_keeps_cross_fitted_numbers(segcal: Any, fitting: Any, tmp_path: Path) -> None:
    path = tmp_path / "cal.safetensors"
    said = segcal("fit", *fitting.labelled, "--background", "0", "-o", path)
    assert (said.code, said.err) == (0, "")
    calibrator = load(path)
    found = calibrator.maps[0].describe()["temperature"]
    assert found == pytest.approx(fitting.temperature, rel=0.1)
    kept = calibrator.crossfit
    assert kept is not None
    assert kept["folds"] == 5
    assert kept["calibrated"]["nll"] < kept["uncalibrated"]["nll"]
    assert kept["differences"]["nll"]["high"] < 0
    assert "per_case" not in kept
    assert "reliability" not in kept["calibrated"]
    assert "Cross-fitted" in said.out
    assert f"next: segcal evaluate HELDOUT --labels LABELS --calibrator {path}" in said.out
    assert "95 % interval" in said.out


def test_cross_fitted_numbers_do_not_depend_on_workers(segcal: Any, fitting: Any, tmp_path: Path) -> None:
    for workers in (1, 2):
        assert (
            segcal("fit", *fitting.labelled, "-o", tmp_path / f"{workers}.safetensors", "--workers", workers).code == 0
        )
    assert load(tmp_path / "1.safetensors").crossfit == load(tmp_path / "2.safetensors").crossfit


@pytest.mark.parametrize("method", ["lts", "iop"])
def test_the_seed_reaches_what_is_trained(segcal: Any, fitting: Any, tmp_path: Path, method: str) -> None:
    found = []
    for run, seed in enumerate((0, 0, 1)):
        path = tmp_path / f"{run}.safetensors"
        assert (
            segcal(
                "fit", *fitting.labelled, "--method", method, "--epochs", 1, "--seed", seed, "--no-crossfit", "-o", path
            ).code
            == 0
        )
        found.append([v.numpy().tobytes() for v in load(path).maps[0].state_dict().values()])
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_several_methods_make_a_folder(segcal: Any, fitting: Any, tmp_path: Path) -> None:
    said = segcal("fit", *fitting.labelled, "--method", "ts,vs", "--lambda", "0.1", "-o", tmp_path / "cals", "--json")
    assert said.code == 0
    assert sorted(p.name for p in (tmp_path / "cals").iterdir()) == ["ts.safetensors", "vs.safetensors"]
    found = said.json
    assert found["crossfitted"] is True
    assert set(found["methods"]) == {"ts", "vs"}
    assert found["methods"]["vs"]["solution"]["settings"]["strengths"] == [{"lambda": 0.1, "mu": 0.1, "weight": 1.0}]
    assert found["methods"]["ts"]["crossfit"]["uncalibrated"] == found["methods"]["vs"]["crossfit"]["uncalibrated"]


def test_the_folder_one_is_in_is_a_folder(
    segcal: Any, fitting: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = segcal("fit", *fitting.labelled, "--method", "ts,vs", "--no-crossfit", "-o", ".")
    assert said.code == 0, said.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ts.safetensors", "vs.safetensors"]


def test_methods_that_may_change_labels_are_named(segcal: Any, fitting: Any, tmp_path: Path) -> None:
    said = segcal(
        "fit", *fitting.labelled, "--method", "ts,vs", "--lambda", "0.01", "--no-crossfit", "-o", tmp_path / "cals"
    )
    assert "note: vs may change labels" in said.out
    assert "No cross-fitted numbers: left out, as asked" in said.out
    assert load(tmp_path / "cals" / "vs.safetensors").crossfit is None


def test_one_group_is_fitted_and_says_why_there_are_no_numbers(segcal: Any, fitting: Any, tmp_path: Path) -> None:
    said = segcal(
        "fit",
        *fitting.labelled,
        "--groups",
        "^(p)",
        "-o",
        tmp_path / "cal.safetensors",
        "--json",
        tmp_path / "fit.json",
    )
    assert said.code == 0
    assert "nothing can be held out" in said.out
    assert "--groups" in said.out
    assert load(tmp_path / "cal.safetensors").crossfit is None
    assert json.loads((tmp_path / "fit.json").read_text())["crossfitted"] is False


def test_an_existing_file_is_replaced_whole(segcal: Any, fitting: Any, tmp_path: Path) -> None:
    path = tmp_path / "cal.safetensors"
    path.write_bytes(b"something else")
    assert segcal("fit", *fitting.labelled, "--no-crossfit", "-o", path).code == 3
    assert path.read_bytes() == b"something else"
    assert segcal("fit", *fitting.labelled, "--no-crossfit", "-o", path, "--overwrite").code == 0
    assert load(path).method == "ts"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--method", "magic"], "magic"),
        (["--method", "ts,"], "''"),
        (["--method", "ts", "--lambda", "0.1"], "--lambda"),
        (["--method", "vs", "--lambda", "-1"], "lambda"),
        (["--method", "dc", "--mu", "1"], "mu"),
        (["--folds", "1"], "folds"),
        (["--free-decision"], "--free-decision"),
        (["--max-memory", "lots"], "--max-memory"),
        (["--workers", "0"], "workers"),
        (["--cases", "zz*"], "zz*"),
    ],
)
def test_wrong_arguments_are_code_2_and_leave_nothing(
    segcal: Any, fitting: Any, tmp_path: Path, words: list[str], told: str
) -> None:
    said = segcal("fit", *fitting.labelled, "-o", tmp_path / "cal.safetensors", *words)
    assert said.code == 2
    assert told in said.err
    assert list(tmp_path.iterdir()) == []


def test_several_methods_do_not_fit_into_one_file(segcal: Any, fitting: Any, tmp_path: Path) -> None:
    assert segcal("fit", *fitting.labelled, "--method", "ts,ets", "-o", tmp_path / "cal.safetensors").code == 2
    (tmp_path / "file").touch()
    assert segcal("fit", *fitting.labelled, "--method", "ts,ets", "-o", tmp_path / "file").code == 3
    assert segcal("fit", *fitting.labelled, "-o", tmp_path / "file" / "cal.safetensors").code == 3


def test_labels_are_needed(segcal: Any, fitting: Any, tmp_path: Path) -> None:
    said = segcal("fit", *fitting.words, "-o", tmp_path / "cal.safetensors")
    assert said.code == 3
    assert "--labels" in said.err


def test_a_folder_is_taken_for_one_method_too(segcal: Any, fitting: Any, tmp_path: Path) -> None:
    assert segcal("fit", *fitting.labelled, "--no-crossfit", "-o", tmp_path).code == 0
    assert (tmp_path / "ts.safetensors").is_file()


def test_the_papers_recipe_is_a_solver(segcal: Any, fitting: Any, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    words = (
        "fit",
        *fitting.labelled,
        "--method",
        "ts,ms-c",
        "--solver",
        "recipe",
        "--trials",
        "2",
        "--storage",
        tmp_path / "trials.json",
        "--no-crossfit",
        "-o",
        tmp_path / "cals",
    )
    said = segcal(*words, "--json")
    assert said.code == 0
    solutions = {name: found["solution"] for name, found in said.json["methods"].items()}
    assert [s["settings"]["solver"] for s in solutions.values()] == ["recipe", "recipe"]
    assert all(len(s["selection"]) == 2 for s in solutions.values())
    again = segcal(*words, "--json").json["methods"]
    assert {n: again[n]["solution"]["selection"] for n in again} == {n: s["selection"] for n, s in solutions.items()}
    shown = segcal("inspect", tmp_path / "cals" / "ms-c.safetensors")
    assert "Trials of the papers' recipe" in shown.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--trials", "3"), "expected --solver recipe"),
        (("--storage", "trials.json"), "expected --solver recipe"),
        (("--solver", "recipe", "--trials", "0"), "expected at least 1"),
        (("--method", "dc", "--solver", "recipe", "--lambda", "0.1"), "searches its strengths"),
    ],
)
def test_options_of_the_recipe_are_checked_before_any_work(
    segcal: Any, fitting: Any, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    pytest.importorskip("optuna")
    said = segcal("fit", *fitting.labelled, *words, "-o", tmp_path / "cal.safetensors")
    assert said.code == 2
    assert message in said.err
    assert not (tmp_path / "cal.safetensors").exists()
