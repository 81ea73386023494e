"""`segcal evaluate`: the contract of its JSON, held-out cases, mismatches."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

CONTRACT = {"nll", "brier", "ece", "ece_pooled", "classwise_ece", "ace", "dice", "iou", "flip_rate"}


def test_json_has_what_the_contract_says(segcal: Any, heldout: Any, calibrator: Path, tmp_path: Path) -> None:
    said = segcal(
        "evaluate",
        *heldout.labelled,
        "--calibrator",
        calibrator,
        "--json",
        tmp_path / "e.json",
        "--csv",
        tmp_path / "e.csv",
    )
    assert (said.code, said.err) == (0, "")
    found = json.loads((tmp_path / "e.json").read_text())
    assert {"cases", "voxels", "uncalibrated", "calibrated", "per_case"} <= set(found)
    assert found["cases"] == len(found["per_case"]) == 4
    assert found["voxels"] == 4 * 24 * 20
    for block in (found["uncalibrated"], found["calibrated"]):
        assert set(block) >= CONTRACT
    assert found["calibrated"]["flip_rate"] == 0
    assert found["calibrated"]["nll"] < found["uncalibrated"]["nll"]
    with (tmp_path / "e.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["case"] for r in rows] == [r["case"] for r in found["per_case"]]
    assert float(rows[0]["calibrated.nll"]) == found["per_case"][0]["calibrated"]["nll"]
    assert "95 % interval" in said.out
    assert "Classes" not in said.out or "class" in said.out


def test_json_on_stdout_is_alone(segcal: Any, heldout: Any, calibrator: Path) -> None:
    said = segcal("evaluate", *heldout.labelled, "--calibrator", calibrator, "--json")
    assert said.json["cases"] == 4
    assert said.err == ""


def test_without_a_calibrator_the_scores_are_taken_as_they_are(segcal: Any, heldout: Any) -> None:
    said = segcal("evaluate", *heldout.labelled, "--json")
    assert said.code == 0
    assert said.json["calibrated"] is None
    shown = segcal("evaluate", *heldout.labelled)
    assert shown.code == 0
    assert "uncalibrated" in shown.out


def test_cases_of_the_fit_are_no_test_whatever_they_are_called(
    segcal: Any, fitting: Any, heldout: Any, calibrator: Path, tmp_path: Path
) -> None:
    for source, target in ((fitting.results[0], tmp_path / "results"), (fitting.labels, tmp_path / "labels")):
        target.mkdir()
        for k, path in enumerate(sorted(source.iterdir())[:2]):
            shutil.copy(path, target / f"renamed{k}{path.suffix}")
    for source, target in ((heldout.results[0], tmp_path / "results"), (heldout.labels, tmp_path / "labels")):
        for path in source.iterdir():
            shutil.copy(path, target / path.name)
    words = ["evaluate", tmp_path / "results", "--labels", tmp_path / "labels", "--calibrator", calibrator]
    refused = segcal(*words)
    assert refused.code == 3
    assert "--fitted exclude" in refused.err
    assert "renamed0" in refused.err
    without = segcal(*words, "--fitted", "exclude", "--json")
    assert (without.code, without.json["cases"]) == (0, 4)
    included = segcal(*words, "--fitted", "include", "--json")
    assert included.json["in_sample"] == ["renamed0", "renamed1"]
    assert "In-sample: 2 of 6" in segcal(*words, "--fitted", "include").out


def test_scores_made_in_another_way_are_refused_unless_told_to_go_on(
    segcal: Any, cohort_writer: Any, calibrator: Path, tmp_path: Path
) -> None:
    pair = cohort_writer(tmp_path / "pair", ["x", "y"], members=2, seed=9)
    words = ["evaluate", *pair.labelled, "--calibrator", calibrator]
    refused = segcal(*words)
    assert refused.code == 2
    assert "--go-on" in refused.err
    gone_on = segcal(*words, "--go-on")
    assert gone_on.code == 0
    assert "note: " in gone_on.out


def test_groups_widen_the_interval(segcal: Any, heldout: Any, calibrator: Path) -> None:
    words = ["evaluate", *heldout.labelled, "--calibrator", calibrator, "--json"]
    by_case, by_group = segcal(*words).json, segcal(*words, "--groups", "consecutive:2").json
    assert by_case["differences"]["nll"]["groups"] == 4
    assert by_group["differences"]["nll"]["groups"] == 2
    assert by_case["differences"]["nll"]["mean"] == pytest.approx(by_group["differences"]["nll"]["mean"])
    one = segcal("evaluate", *heldout.labelled, "--calibrator", calibrator, "--groups", "^(q)")
    assert one.code == 0
    assert "none: one group" in one.out


def test_labels_are_needed(segcal: Any, heldout: Any, calibrator: Path) -> None:
    said = segcal("evaluate", *heldout.words, "--calibrator", calibrator)
    assert said.code == 3
    assert "--labels" in said.err
