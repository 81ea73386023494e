"""A method of an installed package, as the docs show one, in every command."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import Call, Folder, write_cohort

pytestmark = pytest.mark.usefixtures("outside")


@pytest.fixture
def fitted(segcal: Call, fitting: Folder, tmp_path: Path) -> Path:
    path = tmp_path / "bcts.safetensors"
    said = segcal("fit", *fitting.labelled, "--method", "bcts", "--option", "ridge=1e-6", "-o", path)
    assert said.code == 0, said.err
    assert "bcts: optimal" in said.out
    assert "bcts may change labels; ts, ets, " in said.out
    return path


def test_its_calibrator_is_inspected_evaluated_audited_and_applied(
    segcal: Call, fitted: Path, heldout: Folder, tmp_path: Path
) -> None:
    told = segcal("inspect", fitted, "--json").json
    assert (told["method"], told["guarantees"]["translation_invariant"]) == ("bcts", "proven")
    found = segcal("evaluate", *heldout.labelled, "--calibrator", fitted, "--json").json
    assert found["calibrated"]["nll"] < found["uncalibrated"]["nll"]
    audit = segcal("audit", fitted, *heldout.words, "--json").json
    assert (audit["parameters"]["optimised"], audit["parameters"]["identifiable"]) == (4, 3)
    said = segcal("apply", fitted, *heldout.words, "-o", tmp_path / "out")
    assert said.code == 0, said.err


def test_auto_compares_it_and_the_listing_tells_of_it(segcal: Call, fitting: Folder, tmp_path: Path) -> None:
    words = ["--method", "auto", "--among", "ts,bcts", "--may-change-labels", "-o", tmp_path / "cal.safetensors"]
    found = segcal("fit", *fitting.labelled, *words, "--json").json
    assert {c["name"] for c in found["recommendation"]["candidates"]} == {"uncalibrated", "ts", "bcts"}
    said = segcal("methods", "--classes", "3")
    assert "4 / 3 / 4" in next(line for line in said.out.splitlines() if line.startswith("bcts "))
    assert "bcts: Bias-corrected temperature scaling: p = S(z / T + b)" in " ".join(said.out.split())
    assert "options: ridge (pulls to the scores as they are" in " ".join(said.out.split())


def test_a_study_runs_it_by_name_and_its_tables_show_it(segcal: Call, tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "data", [f"c{k:02}" for k in range(12)], shape=(10, 9), members=2)
    described = {
        "name": "tiny",
        "data": {"results": [str(p) for p in cohort.results], "labels": str(cohort.labels), "background": "none"},
        "split": {"calibration": 4, "validation": 3},
        "repeats": 1,
        "pipelines": ["zbar", "TS(zbar)", "bcts(zbar)"],
        "methods": {"bcts": {"ridge": 1e-6}},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(described))
    said = segcal("study", tmp_path / "study.yaml", "-o", tmp_path / "out")
    assert said.code == 0, said.err
    assert "bcts" in (tmp_path / "out" / "tables" / "table4.md").read_text()
    (row,) = [r for r in (tmp_path / "out" / "tables" / "table2.md").read_text().splitlines() if "bcts" in r]
    assert [cell.strip() for cell in row.split("|")[2:6]] == ["yes", "×", "4", "3"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--option", "ridge"], "NAME=VALUE"),
        (["--option", "=1"], "NAME=VALUE"),
        (["--option", "ridge=1", "--option", "ridge=2"], "each name once"),
        (["--option", "epochs=3"], "--epochs"),
        (["--option", "warp=3"], "--warp"),
        (["--lambda", "1"], "one of vs, ms, ms-c, dc, cdc, cms-ap, cms-op"),
    ],
)
def test_options_that_it_does_not_have_are_refused(
    segcal: Call, fitting: Folder, tmp_path: Path, words: list[str], told: str
) -> None:
    said = segcal("fit", *fitting.labelled, "--method", "bcts", *words, "-o", tmp_path / "cal.safetensors")
    assert said.code == 2
    assert told in " ".join(said.err.split())
