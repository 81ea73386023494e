"""`segcal study` and `segcal merge` as a user types them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import Call, write_cohort


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    """A study of twelve small images by three networks."""
    cohort = write_cohort(tmp_path / "data", [f"c{k:02}" for k in range(12)], shape=(10, 9), members=3)
    whole: dict[str, Any] = {
        "name": "tiny",
        "data": {"results": [str(p) for p in cohort.results], "labels": str(cohort.labels), "background": "none"},
        "split": {"calibration": 4, "validation": 3},
        "repeats": 2,
        "pipelines": ["p0", "zbar", "TS(zbar)", "DC(zbar)"],
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(whole))
    return path


def test_a_dry_run_says_what_would_be_done_and_does_nothing(segcal: Call, configuration: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    said = segcal("study", configuration, "--dry-run")
    assert said.code == 0
    assert "12 cases in 12 groups, 3 classes, 3 members" in said.out
    assert "2 repeats of 4 calibration, 3 validation and 5 test cases" in said.out
    assert "the study: about" in said.out
    for pipeline in ("p0", "zbar", "TS(zbar)", "DC(zbar)"):
        line = next(line for line in said.out.splitlines() if line.split()[:1] == [pipeline])
        assert (" -" in line) == (pipeline in ("p0", "zbar"))  # nothing is fitted for them
    assert sorted(tmp_path.rglob("*")) == before


def test_a_study_is_run_resumed_and_read(segcal: Call, configuration: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = segcal("study", configuration, "-o", out)
    assert said.code == 0, said.err
    assert "TS(zbar)" in said.out
    assert "figure2-samples is left out" in said.out
    assert (out / "results" / "scores.parquet").is_file()
    assert "TS" in (out / "tables" / "table4.md").read_text()
    assert (out / "figures" / "figure8-reliability.svg").is_file()
    again = segcal("study", configuration, "-o", out)
    assert "left of a study begun earlier" in again.out
    assert segcal("study", configuration, "-o", out, "--json").json["tables"]["scores"] > 0


def test_what_dataset_json_says_stands_in_table_1(segcal: Call, nnunet: Any, tmp_path: Path) -> None:
    whole = {
        "name": "tiny",
        "data": {"results": nnunet.words, "labels": str(nnunet.labels)},
        "split": {"calibration": 1, "validation": 1},
        "repeats": 1,
        "pipelines": ["zbar", "TS(zbar)"],
    }
    path, out = tmp_path / "study.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(whole))
    assert segcal("study", path, "-o", out).code == 0
    assert "| tiny | 3D CT | 3 | 4 |" in (out / "tables" / "table1.md").read_text()
    # they may be told later on, since no result depends on them
    path.write_text(yaml.safe_dump({**whole, "modality": "3D MRI", "training_cases": 12}))
    assert segcal("study", path, "-o", out).code == 0
    assert "| tiny | 3D MRI | 3 | 12 |" in (out / "tables" / "table1.md").read_text()


def test_parts_are_merged(segcal: Call, configuration: Path, tmp_path: Path) -> None:
    for k in (1, 2):
        said = segcal("study", configuration, "-o", tmp_path / f"part{k}", "--part", f"{k}/2")
        assert said.code == 0
        assert "next: segcal merge" in said.out
        assert not (tmp_path / f"part{k}" / "tables").exists()
    assert segcal("merge", tmp_path / "part1", "-o", tmp_path / "half").code == 3
    merged = segcal("merge", tmp_path / "part1", tmp_path / "part2", "-o", tmp_path / "whole")
    assert merged.code == 0
    assert segcal("study", configuration, "-o", tmp_path / "once").code == 0
    for name in ("results/scores.csv", "results/fits.csv", "tables/table4.md", "figures/figure8-reliability.svg"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "once" / name).read_bytes()


def test_the_example_is_yaml(segcal: Call, capsys: pytest.CaptureFixture[str]) -> None:
    said = segcal("study", "--example")
    assert said.code == 0
    assert set(yaml.safe_load(said.out)) == {"name", "data", "split", "repeats", "seed"}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "--example"),
        (["CONFIGURATION"], 2, "Name one with -o"),
        (["CONFIGURATION", "-o", "OUT", "--part", "3/2"], 2, "3/2 of a study with 2 repeats"),
        (["CONFIGURATION", "-o", "OUT", "--part", "one"], 2, "such as 1/3"),
        (["nowhere.yaml", "-o", "OUT"], 3, "no such file"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(
    words: list[str], code: int, said: str, segcal: Call, configuration: Path, tmp_path: Path
) -> None:
    places = {"CONFIGURATION": str(configuration), "OUT": str(tmp_path / "out")}
    found = segcal("study", *(places.get(word, word) for word in words))
    assert found.code == code
    assert said in found.err
    assert not (tmp_path / "out").exists()
