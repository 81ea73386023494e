"""`segcal inspect`: the contract of its JSON, and that everything of a file is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import segcal as package

CONTRACT = {"method", "classes", "kind", "pool", "parameters", "guarantees", "solution", "data", "versions"}


@pytest.mark.parametrize("words", [["--json"], ["--json", "-"]])
def test_json_has_what_the_contract_says(segcal: Any, calibrator: Path, words: list[str]) -> None:
    found = segcal("inspect", calibrator, *words).json
    assert set(found) >= CONTRACT
    assert found["method"] == "ts"
    assert found["classes"] == ["0", "1", "2"]
    assert (found["kind"], found["pool"]) == ("logits", "probs")
    assert found["parameters"]["softmax"]["temperature"] == pytest.approx(2, rel=0.1)
    assert found["guarantees"]["preserves_argmax"] == "proven"
    assert found["solution"]["status"] == "optimal"
    assert len(found["data"]["records"]) == 8
    assert found["versions"]["segcal"] == package.__version__
    assert found["crossfit"]["groups"] == 8


def test_json_before_the_file_does_not_write_over_it(segcal: Any, calibrator: Path) -> None:
    before = calibrator.read_bytes()
    said = segcal("inspect", "--json", calibrator)
    assert said.json["method"] == "ts"
    assert calibrator.read_bytes() == before


def test_text_and_json_together(segcal: Any, calibrator: Path, tmp_path: Path) -> None:
    said = segcal("inspect", calibrator, "--json", tmp_path / "i.json")
    assert json.loads((tmp_path / "i.json").read_text())["method"] == "ts"
    for told in (
        "temperature",
        "Promises",
        "proven",
        "Solution: optimal",
        "8 cases in 8 groups",
        "Cross-fitted",
        "made by segcal",
    ):
        assert told in said.out


def test_a_cross_validated_path_and_a_matrix_are_shown(segcal: Any, fitting: Any, tmp_path: Path) -> None:
    path = tmp_path / "vs.safetensors"
    assert segcal("fit", *fitting.labelled, "--method", "vs", "--no-crossfit", "-o", path).code == 0
    said = segcal("inspect", path)
    assert said.code == 0
    assert "Strengths by cross-validation" in said.out
    assert "No cross-fitted numbers" in said.out
    assert said.out.count("\n  ") >= 3


def test_a_region_calibrator_names_its_regions(segcal: Any, regions: Any, tmp_path: Path) -> None:
    path = tmp_path / "cal.safetensors"
    assert segcal("fit", *regions.labelled, "--method", "ts", "-o", path).code == 0
    found = segcal("inspect", path, "--json").json
    assert list(found["parameters"]) == ["whole", "core"]
    assert found["keeps_decision"] is True
    shown = segcal("inspect", path).out
    assert "whole: temperature" in shown
    freed = tmp_path / "freed.safetensors"
    assert (
        segcal("fit", *regions.labelled, "--method", "vs", "--lambda", "0.1", "--free-decision", "-o", freed).code == 0
    )
    assert segcal("inspect", freed, "--json").json["keeps_decision"] is False


@pytest.mark.parametrize("method", ["cms-op", "cms-ap", "cdc"])
def test_a_matrix_for_each_predicted_class_is_shown(method: str, segcal: Any, fitting: Any, tmp_path: Path) -> None:
    path = tmp_path / "cal.safetensors"
    assert segcal("fit", *fitting.labelled, "--method", method, "--no-crossfit", "-o", path).code == 0
    said = segcal("inspect", path)
    assert said.code == 0
    found = segcal("inspect", path, "--json").json
    assert said.out.count("is predicted:") == len(found["classes"])
    assert f"{found['parameters']['softmax']['weight'][1][0][0]:9.4f}" in said.out
    assert "Strengths by cross-validation" in said.out
