"""The demonstration: everything is written, the table is of unseen cases and does not depend on the engine; at full
size it ends in time and finds the truth.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import segcal
from benchmarks import readme
from segcal.data.simulate.cohort import Design
from segcal.data.simulate.truth import Truth
from segcal.errors import OutputError
from segcal.tasks import demo as demonstration

SMALL = Design(shape=(6, 18, 18), margin=(0, 1, 1), members=2)
PICTURE = Path(__file__).parents[2] / "docs" / "images" / "reliability.png"
CASES = {"fitting": 6, "held_out": 4}


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, told: list[str]) -> demonstration.DemoResult:
    return demonstration.run(
        tmp_path_factory.mktemp("demo") / "out", segcal.Serial(), echo=told.append, design=SMALL, **CASES
    )


def test_table_has_a_row_a_method(result: demonstration.DemoResult) -> None:
    rows = result.table()
    assert [row["method"] for row in rows] == ["uncalibrated", "ts", "ets", "vs", "ms", "ms-c", "dc"]
    assert set(rows[0]) == {"method", "nll", "ece", "ace", "dice", "flip_rate", "distance", "distance_se"}
    assert all(isinstance(v, float) and np.isfinite(v) for row in rows for k, v in row.items() if k != "method")
    assert rows[0]["flip_rate"] == 0
    by_name = {row["method"]: row for row in rows}
    assert by_name["ts"]["flip_rate"] == by_name["ets"]["flip_rate"] == 0
    assert by_name[result.best]["nll"] < by_name["uncalibrated"]["nll"]
    assert by_name[result.best]["distance"] < by_name["uncalibrated"]["distance"]
    assert by_name[result.best]["flip_rate"] == 0
    assert by_name["dc"]["distance"] < by_name["ts"]["distance"]


def test_json_is_plain(result: demonstration.DemoResult) -> None:
    found = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert found["cases"] == CASES
    assert found["table"] == result.table()
    assert found["best"] == result.best


def test_everything_is_there(result: demonstration.DemoResult) -> None:
    assert sorted(p.name for p in result.folder.iterdir()) == [
        "calibrated",
        "calibrators",
        "figures",
        "fitting",
        "heldout",
    ]
    assert set(result.calibrators) == set(demonstration.simple(3))
    assert all(path.is_file() for path in [*result.calibrators.values(), *result.figures.values()])
    assert set(result.figures) == {"reliability", "gains", "distances", "error_maps"}
    assert [o.id for o in result.outcomes] == [c.id for c in result.held_out]


def test_calibrators_on_disk_give_the_numbers_of_the_table(result: demonstration.DemoResult) -> None:
    opened = segcal.open_cohort(
        [result.folder / "heldout" / f"member{m}" for m in range(2)],
        result.folder / "heldout" / "labelsTr",
        pool="logits",
    )
    found = segcal.evaluate(opened, segcal.load(result.calibrators["dc"]), segcal.Serial())
    assert found.calibrated is not None
    assert found.calibrated.block["nll"] == result.table()[-1]["nll"]
    assert found.in_sample == []


def test_held_out_cases_were_not_fitted_on(result: demonstration.DemoResult) -> None:
    calibrator = result.fits["dc"].calibrator
    assert calibrator.data is not None
    assert not {r.id for r in calibrator.data.records} & {c.id for c in result.held_out}


def test_it_says_what_it_does(result: demonstration.DemoResult, told: list[str]) -> None:
    assert len(told) == 5
    assert "6 cases to fit on and 4 held out" in told[0]
    assert result.best in told[3]


@pytest.mark.slow
def test_engines_agree(result: demonstration.DemoResult, tmp_path: Path) -> None:
    other = demonstration.run(tmp_path / "out", segcal.Threads(2), design=SMALL, **CASES)
    assert other.table() == result.table()
    assert other.figures["reliability"].read_bytes() == result.figures["reliability"].read_bytes()


def test_distances_count_every_group_once(result: demonstration.DemoResult) -> None:
    truth, calibrators = result.simulation.truth, {"dc": result.fits["dc"].calibrator}
    apart = demonstration.distances_to_truth(result.held_out, truth, calibrators, segcal.Serial())
    together = demonstration.distances_to_truth(
        result.held_out.grouped({c.id: str(i // 2) for i, c in enumerate(result.held_out)}),
        truth,
        calibrators,
        segcal.Serial(),
    )
    assert list(apart) == ["uncalibrated", "dc"]
    assert apart["dc"].mean == result.distances["dc"].mean == together["dc"].mean
    assert (apart["dc"].groups, together["dc"].groups) == (4, 2)
    wrong = demonstration.distances_to_truth(result.held_out, Truth.temperature(4, 0.5), calibrators, segcal.Serial())
    assert wrong["dc"].mean > apart["dc"].mean


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(OutputError, match="not empty"):
        demonstration.run(tmp_path, segcal.Serial(), design=SMALL, **CASES)
    with pytest.raises(OutputError, match="found a file"):
        demonstration.run(tmp_path / "mine.txt", segcal.Serial(), design=SMALL, **CASES)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.slow
def test_at_full_size_it_finds_the_truth(tmp_path: Path) -> None:
    result = demonstration.run(tmp_path / "out", segcal.Threads())
    rows = {row["method"]: row for row in result.table()}
    assert result.best in ("ts", "ets") and rows[result.best]["ece"] < 0.3 * rows["uncalibrated"]["ece"]
    assert rows["dc"]["distance"] < 0.01 * rows["uncalibrated"]["distance"]
    assert rows["dc"]["ece"] < 0.3 * rows["uncalibrated"]["ece"]
    assert result.evaluations["dc"].differences["nll"].high < 0
    shown, drawn = (
        np.asarray(Image.open(path).convert("L"), float)
        for path in (PICTURE, readme.draw(result, tmp_path / "reliability.png"))
    )
    assert shown.shape == drawn.shape and np.abs(shown - drawn).mean() < 1  # the README's picture is this release's
