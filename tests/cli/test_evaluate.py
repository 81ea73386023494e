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


def test_another_image_of_a_patient_of_the_fit_is_not_held_out(
    segcal: Any, cohort_writer: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    """The word of the groups is remembered, carried into the next command, and applied without being typed."""
    monkeypatch.chdir(tmp_path)
    word = r"patient(\d+)"
    fitted = cohort_writer(tmp_path / "fit", [f"patient{k}_a" for k in range(6)], seed=1)
    offered = cohort_writer(tmp_path / "new", [f"patient{k}_b" for k in range(4, 8)], seed=2)
    apart = cohort_writer(tmp_path / "apart", [f"patient{k}_b" for k in range(6, 9)], seed=3)
    nameless = cohort_writer(tmp_path / "nameless", ["x0", "x1"], seed=4)
    said = segcal("fit", *fitted.labelled, "--groups", word, "-o", "cal.safetensors")
    assert f"--calibrator cal.safetensors --groups '{word}'" in said.out
    assert f"6 cases in 6 groups by {word!r}" in segcal("inspect", "cal.safetensors").out
    words = ("--calibrator", "cal.safetensors")
    for given in ((), ("--groups", word)):
        refused = segcal("evaluate", *offered.labelled, *words, *given)
        assert refused.code == 3
        assert "2 other case(s) of groups the calibrator was fitted on (4, 5)" in refused.err
        assert "--fitted exclude" in refused.err
    left = segcal("evaluate", *offered.labelled, *words, "--fitted", "exclude")
    assert "2 cases in 2 groups" in left.out
    assert f"groups by --groups '{word}', as in the fit" in left.out
    found = segcal("evaluate", *offered.labelled, *words, "--fitted", "include", "--json").json
    assert found["in_sample"] == ["patient4_b", "patient5_b"]
    assert [row["group"] for row in found["per_case"]] == ["4", "5", "6", "7"]
    assert any("are in-sample too" in note for note in found["notes"])
    assert segcal("evaluate", *apart.labelled, *words).code == 0
    other = segcal("evaluate", *nameless.labelled, *words)
    assert other.code == 0
    assert "do not fit here" in other.out


def test_groups_of_a_table_are_asked_for_again(segcal: Any, cohort_writer: Any, tmp_path: Path) -> None:
    fitted = cohort_writer(tmp_path / "fit", ["a", "b", "c", "d"], seed=1)
    offered = cohort_writer(tmp_path / "new", ["e", "f"], seed=2)
    table = tmp_path / "groups.csv"
    table.write_text("case,group\na,1\nb,1\nc,2\nd,3\ne,3\nf,4\n")
    file = tmp_path / "cal.safetensors"
    assert segcal("fit", *fitted.labelled, "--groups", table, "-o", file).code == 0
    said = segcal("evaluate", *offered.labelled, "--calibrator", file)
    assert said.code == 0
    assert "fitted in groups by groups.csv; give --groups" in said.out
    refused = segcal("evaluate", *offered.labelled, "--calibrator", file, "--groups", table)
    assert refused.code == 3
    assert "1 other case(s) of groups the calibrator was fitted on (3)" in refused.err


def test_the_ece_over_other_bins(segcal: Any, heldout: Any, calibrator: Path, tmp_path: Path) -> None:
    wanted = ("--calibrator", calibrator, "--bins", "10", "7", "--json", tmp_path / "e.json")
    said = segcal("evaluate", *heldout.labelled, *wanted)
    assert said.code == 0
    assert "ECE, 7 bins" in said.out and "ECE, 10 bins" in said.out and "mean entropy" in said.out
    found = json.loads((tmp_path / "e.json").read_text())
    for key in ("ece_7", "ece_10", "entropy"):
        before, after = (found[stage][key] for stage in ("uncalibrated", "calibrated"))
        assert found["differences"][key]["mean"] == pytest.approx(after - before)
        assert before == pytest.approx(sum(row["uncalibrated"][key] for row in found["per_case"]) / 4)
    assert found["uncalibrated"]["ece_10"] == found["uncalibrated"]["ece_by_bins"]["10"]["ece"]
    refused = segcal("evaluate", *heldout.labelled, "--bins", "1000000000")
    assert refused.code == 2 and "10,000" in refused.err
