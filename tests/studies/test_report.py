"""`studies/report.py` on a tiny study: its numbers are the study's, and its pictures are drawn from the same sums."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import report
import yaml
from PIL import Image

from segcal.engine.serial import Serial
from segcal.study import configuration, results, study
from segcal.study.configuration import CLEAN
from segcal.study.results import Finished
from tests.study.conftest import CASES, described, write_ensemble


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A study of the single network and its temperature, with few cases too."""
    root = tmp_path_factory.mktemp("reported")
    write_ensemble(root / "clean", CASES, members=2)
    changes = {
        "pipelines": ["p0", "TS(p0)", "vs(p0)"],
        "methods": {},
        "bins": [10],
        "samples": 0,
        "sensitivity": {"sizes": [2], "pipelines": ["TS(p0)", "vs(p0)"]},
    }
    path = root / "study.yaml"
    path.write_text(yaml.safe_dump(described(root, **changes)))
    study.run(configuration.read(path), root / "finished", Serial())
    return results.read(root / "finished")


def test_page_and_pictures(finished: Finished, tmp_path: Path) -> None:
    for name in ("results", "images"):
        (tmp_path / name).mkdir()
    page = tmp_path / "results" / "page.md"
    report.main(
        [
            str(finished.folder),
            "--base=TS(p0)",
            "--metrics",
            "nll",
            "ece_10",
            "--boxes",
            "ece_boundary",
            "ece_interior",
            "--reliability",
            "p0",
            "TS(p0)",
            f"-o{page}",
        ]
    )
    found = json.loads(page.with_suffix(".json").read_text())["finished"]
    scores = [r for r in finished.rows("scores") if r["cohort"] == CLEAN and r["pipeline"] == "vs(p0)"]
    by_case: dict[str, list[float]] = {}
    for row in scores:
        if row["metric"] == "ece_10":
            by_case.setdefault(row["case"], []).append(row["value"])
    expected = np.mean([np.mean(values) for values in by_case.values()])
    assert found["cohorts"][CLEAN]["vs(p0)"]["ece_10"] == pytest.approx(expected, rel=1e-12)
    assert found["cohorts"][CLEAN]["TS(p0)"]["change"]["mean"] == 0
    assert found["sizes"]["2"]["TS(p0)"]["of"] == 2
    text = page.read_text()
    assert f"| vs(p0) | {found['cohorts'][CLEAN]['vs(p0)']['nll']:.4f} | {expected:.4f} |" in text
    assert len(found["pictures"]) == 2
    for image in found["pictures"].values():
        assert f"({image})" in text
        with Image.open(page.parent / image) as picture:
            assert picture.width > 400


def test_curves_are_those_of_the_scores(finished: Finished) -> None:
    panels = report.curves(finished, ["p0", "TS(p0)"])
    assert next(iter(panels)) == "8 test cases"
    assert len(panels) == 4
    scores = {
        (r["case"], r["pipeline"]): r["value"]
        for r in finished.rows("scores")
        if r["repeat"] == 0 and r["cohort"] == CLEAN and r["metric"] == "ece_10"
    }
    for case, pipelines in list(panels.items())[1:]:
        for pipeline, curve in pipelines.items():
            assert curve.bins == 10
            assert curve.ece == pytest.approx(scores[case, pipeline], rel=1e-12)
    pooled = {
        r["pipeline"]: r["value"]
        for r in finished.rows("pooled")
        if r["repeat"] == 0 and r["cohort"] == CLEAN and r["metric"] == "voxels"
    }
    assert panels["8 test cases"]["p0"].voxels == pooled["p0"]
    assert not math.isnan(panels["8 test cases"]["TS(p0)"].ece)
