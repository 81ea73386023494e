"""`segcal fit` keeps reference cases; `segcal apply --triage --volumes --outer` tells what they allow, however the run
was cut; `evaluate` says what an order by expected Dice is worth; pages are written by all of them.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcal.methods.files import load
from segcal.outcomes.reference import Reference
from segcal.outcomes.sums import THRESHOLDS


@pytest.fixture(scope="module")
def many(cohort_writer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Thirty cases of fifteen patients."""
    names = [f"s{k:02d}_{scan}" for k in range(15) for scan in "ab"]
    return cohort_writer(tmp_path_factory.mktemp("many"), names, seed=11, shape=(10, 12))


@pytest.fixture(scope="module")
def aside(many: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A temperature fitted on five patients, with ten set aside."""
    from segcal.cli import run

    path = tmp_path_factory.mktemp("aside") / "cal.safetensors"
    words = [*many.labelled, "--background", "0", "--groups", r"s(\d+)", "--set-aside", "0.67", "-o", str(path)]
    assert run(["fit", *words, "--quiet", "--workers", "1"]) == 0
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_fit_keeps_cross_fitted_reference_cases(calibrator: Path) -> None:
    found = Reference.from_json(load(calibrator).reference or {})
    assert (found.how, found.cases, found.groups) == ("cross-fitted", 8, 8)
    assert found.structures == ("1", "2")


def test_set_aside_patients_are_whole_and_not_fitted_on(aside: Path) -> None:
    made = load(aside)
    found = Reference.from_json(made.reference or {})
    assert (found.how, found.cases, found.groups) == ("set aside", 20, 10)
    assert made.data is not None
    assert len(made.data.records) == 10
    assert len({record.group for record in made.data.records}) == 5


@pytest.mark.parametrize("share", ["0", "1", "0.01", "-2", "1e999", "-inf", "nan"])
def test_a_share_that_leaves_nobody_is_refused(segcal: Any, fitting: Any, tmp_path: Path, share: str) -> None:
    said = segcal("fit", *fitting.labelled, "-o", tmp_path / "c.safetensors", f"--set-aside={share}")
    assert said.code == 2
    assert "leaves groups on both sides" in said.err


def test_triage_and_volumes_say_what_the_probabilities_say(
    segcal: Any, heldout: Any, aside: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    said = segcal("apply", aside, *heldout.words, "-o", out, "--triage", "--volumes", "--json", tmp_path / "a.json")
    assert said.code == 0, said.err
    assert "Cases to look at first" in said.out
    reference = Reference.from_json(load(aside).reference or {})
    listed = rows(out / "triage.csv")
    assert [float(r["expected_dice"]) for r in listed] == sorted(float(r["expected_dice"]) for r in listed)
    volumes = {(r["case"], r["structure"]): r for r in rows(out / "volumes.csv")}
    for row in listed:
        p = np.load(out / f"{row['case']}.npz")["probabilities"].astype(np.float64).reshape(3, -1)
        d = p.argmax(0)
        for k in (1, 2):
            inside, soft = p[k, d == k].sum(), p[k].sum()
            assert float(row[f"expected_dice.{k}"]) == pytest.approx(2 * inside / ((d == k).sum() + soft), abs=0.01)
            one = volumes[row["case"], str(k)]
            assert float(one["label_map_voxels"]) == (d == k).sum()
            assert float(one["expected_voxels"]) == pytest.approx(soft, rel=1e-6)
            reach = reference.volume_bound(k - 1, 0.1) * (1 + (p[k] * (1 - p[k])).sum())
            assert float(one["high_voxels"]) == pytest.approx(soft + reach, rel=1e-6)
            assert one["expected_ml"] == ""
        bound = float(row["expected_dice"]) - reference.dice_bound(-1, 0.1)
        assert float(row["at_least"]) == pytest.approx(max(0, bound), abs=1e-12)
    found = json.loads((tmp_path / "a.json").read_text())
    assert len(found["triage"]) == 4
    assert len(found["volumes"]) == 8
    assert found["drift"]["groups"] == 10


def test_outer_masks_are_cut_where_the_reference_says(segcal: Any, heldout: Any, aside: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = segcal("apply", aside, *heldout.words, "-o", out, "--outer", "0.2")
    assert said.code == 0, said.err
    reference = Reference.from_json(load(aside).reference or {})
    for k in (1, 2):
        cut = np.float32(reference.threshold(k - 1, 0.2))
        assert cut in THRESHOLDS.numpy()
        for path in heldout.results[0].iterdir():
            p = np.load(out / path.name)["probabilities"]
            np.testing.assert_array_equal(np.load(out / f"outer_{k}" / f"{path.stem}.npy"), (p[k] >= cut) * 1.0)
    assert not (out / "triage.csv").exists()


def test_too_few_patients_are_refused_with_the_number_needed(
    segcal: Any, heldout: Any, aside: Path, tmp_path: Path
) -> None:
    said = segcal("apply", aside, *heldout.words, "-o", tmp_path / "out", "--outer", "0.05")
    assert said.code == 2
    assert "at least 19" in said.err
    assert not (tmp_path / "out").exists()
    said = segcal("apply", aside, *heldout.words, "-o", tmp_path / "out", "--triage", "--alpha", "0.05")
    assert said.code == 0
    assert "95 % take 19 patients" in said.out
    assert {row["at_least"] for row in rows(tmp_path / "out" / "triage.csv")} == {""}


def test_without_reference_cases_there_is_a_list_and_no_bound(
    segcal: Any, fitting: Any, heldout: Any, tmp_path: Path
) -> None:
    cal = tmp_path / "c.safetensors"
    assert segcal("fit", *fitting.labelled, "--background", "0", "-o", cal, "--no-crossfit").code == 0
    said = segcal("apply", cal, *heldout.words, "-o", tmp_path / "out", "--triage")
    assert said.code == 0
    assert "no reference cases" in said.out
    assert len(rows(tmp_path / "out" / "triage.csv")) == 4
    refused = segcal("apply", cal, *heldout.words, "-o", tmp_path / "other", "--outer", "0.2")
    assert refused.code == 2
    assert "without reference cases" in refused.err


def test_a_run_that_goes_on_tells_of_all_cases(segcal: Any, heldout: Any, aside: Path, tmp_path: Path) -> None:
    words = [aside, *heldout.words, "--triage", "--volumes"]
    assert segcal("apply", *words, "-o", tmp_path / "whole").code == 0
    out = tmp_path / "out"
    assert segcal("apply", *words, "-o", out).code == 0
    first = next(out.glob("*.npz"))
    first.unlink()
    (out / "triage.csv").unlink()
    said = segcal("apply", *words, "-o", out, "--resume")
    assert said.code == 0, said.err
    assert "3 case(s) were finished before" in said.out
    for name in ("triage.csv", "volumes.csv"):
        assert (out / name).read_text() == (tmp_path / "whole" / name).read_text()
    other = segcal("apply", aside, *heldout.words, "-o", out, "--resume")
    assert other.code == 2
    assert "same arguments" in other.err


def test_cases_from_elsewhere_are_called_unlike(segcal: Any, cohort_writer: Any, aside: Path, tmp_path: Path) -> None:
    other = cohort_writer(tmp_path / "other", [f"x{k}" for k in range(12)], seed=5, shape=(10, 12), temperature=20.0)
    said = segcal("apply", aside, *other.words, "-o", tmp_path / "out", "--triage")
    assert said.code == 0
    assert "UNLIKE the 10 groups" in said.out


def test_regions(segcal: Any, regions: Any, tmp_path: Path) -> None:
    cal = tmp_path / "c.safetensors"
    assert segcal("fit", *regions.labelled, "-o", cal).code == 0
    out = tmp_path / "out"
    said = segcal("apply", cal, *regions.words, "-o", out, "--triage", "--volumes", "--outer", "0.4", "--alpha", "0.4")
    assert said.code == 0, said.err
    assert {row["structure"] for row in rows(out / "volumes.csv")} == {"whole", "core"}
    for row in rows(out / "volumes.csv"):
        p = np.load(out / f"{row['case']}.npz")["probabilities"][("whole", "core").index(row["structure"])]
        assert float(row["expected_voxels"]) == pytest.approx(p.astype(np.float64).sum(), rel=1e-6)
    assert (out / "outer_whole").is_dir()


def test_evaluate_says_what_the_order_is_worth(segcal: Any, heldout: Any, calibrator: Path) -> None:
    said = segcal("evaluate", *heldout.labelled, "--calibrator", calibrator, "--json", "-")
    found = said.json["triage"]
    assert set(found) == {"uncalibrated", "calibrated"}
    for one in found.values():
        assert one["cases"] == 4
        assert one["aurc_best"] <= one["aurc"]
    shown = segcal("evaluate", *heldout.labelled, "--calibrator", calibrator).out
    assert "Expected Dice against true Dice" in shown


def test_pages_of_every_command(
    segcal: Any,
    fitting: Any,
    heldout: Any,
    calibrator: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = tmp_path / "page.html"
    commands = [
        (["fit", *fitting.labelled, "--background", "0", "-o", tmp_path / "c.safetensors"], "Calibration fitted on"),
        (["evaluate", *heldout.labelled, "--calibrator", calibrator], "Evaluation of"),
        (["apply", calibrator, *heldout.words, "-o", tmp_path / "out", "--triage"], "Calibrated probabilities of"),
        (["audit", calibrator, *heldout.words], "Audit of ts on"),
    ]
    for words, title in commands:
        monkeypatch.setattr("sys.argv", ["segcal", *map(str, words)])
        said = segcal(*words, "--report", page)
        assert said.code == 0, said.err
        text = page.read_text()
        assert f"<title>{title}" in text
        assert f"written: {page}" in said.out
        assert f"segcal {words[0]}" in text
    assert segcal("evaluate", *heldout.labelled, "--report", page).code == 0  # an earlier page is replaced


def test_a_page_shows_verdict_reliability_and_the_worst_cases(
    segcal: Any, heldout: Any, calibrator: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    said = segcal("evaluate", *heldout.labelled, "--calibrator", calibrator, "--report", page, "--quiet")
    assert (said.code, said.out) == (0, "")
    text = page.read_text()
    assert 'class="lead"' in text
    assert text.count('class="slice"') == 4
    assert "The 4 held-out cases of highest NLL, of 4" in text
    assert "keeps every label" in text


def test_the_page_of_new_cases_shows_those_to_look_at_first(
    segcal: Any, heldout: Any, calibrator: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    said = segcal("apply", calibrator, *heldout.words, "-o", tmp_path / "out", "--report", page)
    assert said.code == 0, said.err
    text = page.read_text()
    assert "Cases to look at first" in said.out
    assert "The 4 cases to look at first, of 4" in text
    assert text.count('class="slice"') == 4
    assert text.count("expected Dice 0.") == 4
    assert not (tmp_path / "out" / "triage.csv").exists()  # asked of the page alone


def test_a_file_that_is_no_page_is_not_replaced(segcal: Any, heldout: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<html>mine</html>")
    said = segcal("evaluate", *heldout.labelled, "--report", page)
    assert said.code == 3
    assert page.read_text() == "<html>mine</html>"


def test_a_temperature_after_a_calibrator(
    segcal: Any, cohort_writer: Any, calibrator: Path, heldout: Any, tmp_path: Path
) -> None:
    site = cohort_writer(tmp_path / "site", [f"y{k}" for k in range(6)], seed=21, temperature=5.0)
    made = tmp_path / "site.safetensors"
    said = segcal("fit", *site.labelled, "--after", calibrator, "-o", made)
    assert said.code == 0, said.err
    assert load(made).maps[0].named == "scale > scale"
    refused = segcal("fit", *site.labelled, "--after", calibrator, "--method", "dc", "-o", made)
    assert refused.code == 2
    assert "Leave --method out" in refused.err
    assert segcal("evaluate", *site.labelled, "--calibrator", made).code == 3  # it was fitted on these
    assert segcal("apply", made, *heldout.words, "-o", tmp_path / "out", "--triage").code == 0
