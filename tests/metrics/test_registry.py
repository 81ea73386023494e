"""A metric from outside: refused where it cannot be one, and beside segcal's own up to a study's table where it can."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from segcal.data.formats.arrays import cohort_from_arrays
from segcal.engine.serial import Serial
from segcal.errors import UsageError
from segcal.methods.temperature import TemperatureScaling
from segcal.metrics import Metric, added, evaluate_arrays, register
from segcal.metrics.flips import Flips
from segcal.tasks.evaluate import evaluate
from tests.outside import shown


@pytest.fixture
def mce(apart: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The metric of the docs, registered for a test."""
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    exec(compile(shown("class MaximumCalibrationError"), "extend.md", "exec"), module.__dict__)
    return module.__dict__["MaximumCalibrationError"]


def scores() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(6, 3, 12, 12, generator=generator)
    p = truth.softmax(1).movedim(1, -1).reshape(-1, 3)
    labels = torch.multinomial(p, 1, generator=generator).reshape(6, 12, 12)
    return 2.5 * truth, labels


def by_hand(p: np.ndarray, y: np.ndarray) -> float:
    confidence, right = p.max(1).ravel(), p.argmax(1).ravel() == y.ravel()
    at = np.minimum((confidence * 15).astype(int), 14)
    return max(abs(confidence[at == k].mean() - right[at == k].mean()) for k in np.unique(at))


def test_its_numbers_are_those_by_hand_and_intervals_are_paired(mce: Any) -> None:
    assert added() == {"mce": mce}
    z, y = scores()
    cohort = cohort_from_arrays(z.numpy(), y.numpy(), kind="logits")
    cal = TemperatureScaling().fit(cohort, engine=Serial())
    found = evaluate(cohort, cal, Serial(), fitted="include").to_json()
    p = z.double().softmax(1)
    assert found["uncalibrated"]["mce"] == pytest.approx(by_hand(p.numpy(), y.numpy()), abs=1e-6)
    assert evaluate_arrays(p, y)["mce"] == pytest.approx(found["uncalibrated"]["mce"], abs=1e-6)
    assert found["per_case"][0]["calibrated"]["mce"] > 0
    change = found["differences"]["mce"]
    assert change["mean"] == pytest.approx(found["calibrated"]["mce"] - found["uncalibrated"]["mce"])
    assert change["low"] < change["mean"] < change["high"]


def test_nothing_is_added_where_nothing_is_registered() -> None:
    z, y = scores()
    assert "mce" not in evaluate_arrays(z.softmax(1), y)


@dataclass(frozen=True)
class Other(Metric):
    """Without sums."""

    key: ClassVar[str] = "other"
    label: ClassVar[str] = "Other"


@pytest.mark.parametrize("wrong", [Other, Flips, "mce"], ids=str)
def test_what_cannot_be_one_is_refused(apart: None, wrong: Any) -> None:
    with pytest.raises(UsageError, match="Metric"):
        register(wrong)
    assert added() == {}


@pytest.mark.parametrize("key", ["mce ", "Mce", "mce"])
def test_a_key_that_is_taken_or_cannot_be_read_is_refused(mce: Any, key: str) -> None:
    with pytest.raises(UsageError, match="key"):
        register(type("Another", (mce,), {"key": key}))
    assert added() == {"mce": mce}


@pytest.mark.parametrize("key", ["nll", "overlap", "case", "ece_pooled", "reliability"])
def test_the_name_of_a_number_there_is_already_is_refused(mce: Any, key: str) -> None:
    register(type("Another", (mce,), {"key": key}))
    with pytest.raises(UsageError, match=f"metric {key}"):
        evaluate_arrays(*scores())


def test_it_stands_in_the_tables_of_an_evaluation_and_of_a_study(mce: Any, tmp_path: Path) -> None:
    import yaml

    from segcal.cli import run
    from tests.cli.conftest import write_cohort

    cohort = write_cohort(tmp_path / "data", [f"c{k:02}" for k in range(10)], shape=(10, 9), members=2)
    described = {
        "name": "tiny",
        "data": {"results": [str(p) for p in cohort.results], "labels": str(cohort.labels), "background": "none"},
        "split": {"calibration": 4, "validation": 2},
        "repeats": 2,
        "pipelines": ["zbar", "TS(zbar)"],
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(described))
    assert run(["study", str(tmp_path / "study.yaml"), "-o", str(tmp_path / "out"), "--workers", "1"]) == 0
    printed = (tmp_path / "out" / "tables" / "table4.md").read_text().splitlines()
    (heads,) = [line for line in printed if "MCE" in line]
    (column,) = [k for k, cell in enumerate(heads.split("|")) if "MCE" in cell]
    (row,) = [line for line in printed if line.startswith("| z̄ ")]
    assert float(row.split("|")[column].split()[0].strip("*")) > 0
    assert "mce" in (tmp_path / "out" / "results" / "pooled.csv").read_text()
