"""`segcal fit --method auto`: what it writes and says, where nothing gains too, and what it refuses before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from segcal.methods.files import load


def test_it_chooses_writes_and_says_why(segcal: Any, fitting: Any, tmp_path: Path) -> None:
    path = tmp_path / "cal.safetensors"
    said = segcal(
        "fit",
        *fitting.labelled,
        "--method",
        "auto",
        "--among",
        "ts,ets,isotonic",
        "-o",
        path,
        "--json",
        tmp_path / "fit.json",
    )
    assert (said.code, said.err) == (0, "")
    calibrator = load(path)
    assert calibrator.method == "ts"
    assert calibrator.maps[0].describe()["temperature"] == pytest.approx(fitting.temperature, rel=0.1)
    for told in (
        "Chosen: ts (1 parameter)",
        "Must keep the label of every voxel",
        "not allowed",
        "cal.safetensors",
        "next: segcal evaluate",
    ):
        assert told in said.out
    found = json.loads((tmp_path / "fit.json").read_text())
    assert found["recommendation"]["chosen"] == "ts"
    assert [c["name"] for c in found["recommendation"]["candidates"]][:2] == ["uncalibrated", "ts"]
    assert found["methods"]["ts"]["crossfit"]["differences"]["nll"]["high"] < 0
    assert calibrator.crossfit is not None
    assert calibrator.crossfit["recommendation"]["chosen"] == "ts"
    assert "Chosen: ts" in segcal("inspect", path).out


def test_no_gain_is_said_and_the_file_changes_nothing(segcal: Any, cohort_writer: Any, tmp_path: Path) -> None:
    right = cohort_writer(tmp_path / "right", [f"r{k}" for k in range(6)], temperature=1.0, seed=3)
    path = tmp_path / "cal.safetensors"
    said = segcal("fit", *right.labelled, "--method", "auto", "--among", "ts,isotonic", "-o", path)
    assert said.code == 0
    assert "No gain" in said.out
    assert load(path).method == "uncalibrated"
    assert segcal("apply", path, *right.words, "-o", tmp_path / "out").code == 0
    assert "No gain" in segcal("inspect", path).out


def test_labels_may_change_where_that_is_allowed(segcal: Any, fitting: Any, tmp_path: Path) -> None:
    said = segcal(
        "fit",
        *fitting.labelled,
        "--method",
        "auto",
        "--may-change-labels",
        "--invariant",
        "--among",
        "ts,vs",
        "-o",
        tmp_path,
        "--json",
    )
    found = said.json["recommendation"]
    assert (found["keep_map"], found["invariant"]) == (False, True)
    assert {c["name"] for c in found["candidates"]} == {"uncalibrated", "ts", "vs"}
    assert [p.name for p in tmp_path.iterdir()] == ["auto.safetensors"]


def test_regions(segcal: Any, regions: Any, tmp_path: Path) -> None:
    said = segcal(
        "fit", *regions.labelled, "--method", "auto", "--among", "ts,isotonic", "-o", tmp_path / "cal.safetensors"
    )
    assert said.code == 0
    assert "isotonic, free" in said.out
    assert load(tmp_path / "cal.safetensors").keeps_label


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--method", "auto,ts"], "auto"),
        (["--method", "auto", "--lambda", "0.1"], "--lambda"),
        (["--method", "auto", "--penalty", "odir"], "--penalty"),
        (["--method", "auto", "--no-crossfit"], "--no-crossfit"),
        (["--method", "auto", "--free-decision"], "--free-decision"),
        (["--method", "auto", "--among", "magic"], "magic"),
        (["--method", "auto", "--groups", "^(p)"], "one group only"),
        (["--method", "ts", "--among", "ts"], "--among"),
        (["--method", "ts", "--may-change-labels"], "--may-change-labels"),
        (["--method", "ts", "--invariant"], "--invariant"),
    ],
)
def test_wrong_arguments_are_code_2_and_leave_nothing(
    segcal: Any, fitting: Any, tmp_path: Path, words: list[str], told: str
) -> None:
    said = segcal("fit", *fitting.labelled, "-o", tmp_path / "cal.safetensors", *words)
    assert said.code == 2
    assert told in said.err
    assert list(tmp_path.iterdir()) == []
