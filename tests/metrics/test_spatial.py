"""BA-ECE and errors by place: the oracle, formulas written out in NumPy, edges that are met exactly, and what is not
defined.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from segcal.data.formats.arrays import cohort_from_arrays
from segcal.data.head import Regions
from segcal.data.places.distance import BoundaryDistance
from segcal.data.places.label_map import NOWHERE, boundary
from segcal.data.places.region import ForegroundRegion
from segcal.data.rows import Rows
from segcal.engine.accumulate import fold, merge, result
from segcal.engine.ask import Ask
from segcal.engine.serial import Serial
from segcal.engine.threads import Threads
from segcal.errors import UsageError
from segcal.metrics.arrays import evaluate_arrays
from segcal.metrics.spatial import SpatialCalibration
from segcal.testing.accumulators import state_bits

BANDS = (3.0, 7.0, 15.0)


def oracle() -> tuple[np.ndarray, np.ndarray]:
    """Definitions 14: y = 0000011111, confidence .9 everywhere, one error at index 4."""
    y = np.array([[0] * 5 + [1] * 5])
    decided = y.copy()
    decided[0, 4] = 1
    return np.where(np.arange(2)[None, :, None] == decided[:, None], 0.9, 0.1), y


def images(seed: int, shape: tuple[int, ...] = (30, 40), count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Smooth label maps of three classes with some ignored voxels, and over-confident logits."""
    rng = np.random.default_rng(seed)
    smooth = np.stack([ndimage.gaussian_filter(rng.normal(size=shape), 3) for _ in range(count)])
    labels = np.digitize(smooth, np.quantile(smooth, [0.6, 0.85]))
    logits = 2.5 * (rng.normal(size=(count, 3, *shape)) + 1.5 * np.moveaxis(np.eye(3)[labels], -1, 1))
    return logits.astype(np.float32), np.where(rng.random(labels.shape) < 0.05, 255, labels)


def by_hand(logits: np.ndarray, labels: np.ndarray, literal: bool = False) -> dict[str, float]:
    """The numbers of one image from their definitions."""
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(0)
    scored = labels != 255
    edges = boundary(labels if literal else np.where(scored, labels, NOWHERE))
    distance = ndimage.distance_transform_edt(~edges)[scored]
    region = np.zeros_like(scored)
    for i, j in np.argwhere(scored & (labels != 0)):
        region[max(0, i - 5) : i + 5, max(0, j - 5) : j + 5] = True
    around = region[scored]
    confidence, right = p.max(0)[scored], (p.argmax(0) == labels)[scored]
    total = weight = 0.0
    for low, high in zip((0, *BANDS), (*BANDS, math.inf), strict=True):
        here = (distance >= low) & (distance < high)
        if here.any():
            w = 1 / (distance[here].mean() + 1)
            total, weight = total + w * abs((1 - confidence[here]).mean() - (~right[here]).mean()), weight + w

    def ece(here: np.ndarray) -> float:
        index = np.clip(np.ceil(confidence[here] * 50) - 1, 0, 49)
        return sum(abs((confidence[here] - right[here])[index == b].sum()) for b in range(50)) / here.sum()

    return {
        "ba_ece": total / weight,
        "ece_boundary": ece(distance < 3),
        "ece_interior": ece(distance >= 3),
        "ece_roi": ece(around),
        "ece_correct": ece(right),
        "ece_incorrect": ece(~right),
    }


def test_the_oracle_of_the_definitions() -> None:
    p, y = oracle()
    assert evaluate_arrays(p, y)["ba_ece"] == pytest.approx(0.0769231, abs=5e-8)
    gaps = [abs(0.9 - 5 / 6), abs(0.9 - 1)]
    assert evaluate_arrays(p, y)["ba_ece"] == pytest.approx((gaps[0] / 2 + gaps[1] / 4.5) / (1 / 2 + 1 / 4.5), rel=1e-9)


def test_every_number_is_that_of_its_definition() -> None:
    logits, labels = images(0)
    p = torch.softmax(torch.from_numpy(logits).double(), 1)
    found = evaluate_arrays(p, labels, ignore_index=255, background=0)
    each = [by_hand(z, y) for z, y in zip(logits, labels, strict=True)]
    for name in each[0]:
        assert found[name] == pytest.approx(np.mean([e[name] for e in each]), rel=1e-9), name
    assert found["ba_ece_undefined"] == 0
    bands = found["bands"]
    assert sum(b["voxels"] for b in bands) == (labels != 255).sum()
    assert [b["high"] for b in bands[:-1]] == [b["low"] for b in bands[1:]] and bands[-1]["high"] is None


def test_arrays_and_a_cohort_give_the_same_numbers() -> None:
    from segcal.tasks.evaluate import evaluate

    logits, labels = images(1, (7, 9, 11))
    cohort = cohort_from_arrays(logits, labels, kind="logits", background=0, ignore_index=255)
    block = evaluate(cohort, None, Serial()).uncalibrated.block
    arrays = evaluate_arrays(
        torch.softmax(torch.from_numpy(logits).double(), 1), labels, ignore_index=255, background=0
    )
    for name in ("ba_ece", "ece_boundary", "ece_interior", "ece_roi", "ece_correct", "ece_incorrect"):
        assert block[name] == pytest.approx(arrays[name], rel=1e-9)
    assert [b["voxels"] for b in block["bands"]] == [b["voxels"] for b in arrays["bands"]]


def placed(
    distance: list[float], classes: int = 2, region: list[float] | None = None, **options: Any
) -> tuple[SpatialCalibration, Rows]:
    metric = SpatialCalibration(classes, **options)
    n = len(distance)
    p = torch.full((2, n), 0.2, dtype=torch.float64)
    p[0] = 0.8
    zeros = torch.zeros(n, dtype=torch.int64)
    places = {
        metric.distance: torch.tensor(distance, dtype=torch.float64),
        metric.region: torch.tensor(region or [0.0] * n, dtype=torch.float64),
    }
    return metric, Rows(0, 0, p.log(), zeros, zeros, zeros, places=places)


def test_an_edge_belongs_to_the_band_above_it() -> None:
    metric, rows = placed([0, 2.999, 3, math.sqrt(9), 6.999, 7, 15, 1000])
    found = result(metric, fold(metric, rows))
    assert found.bands.counts.tolist() == [2, 3, 1, 2]
    assert found.boundary.voxels == 2 and found.interior.voxels == 6
    assert (found.curve.within(BANDS).counts == found.bands.counts).all()
    with pytest.raises(UsageError, match="some of"):
        found.curve.within((2.5,))


def test_voxels_without_a_distance_count_only_where_none_is_needed() -> None:
    metric, rows = placed([math.nan] * 3, region=[1, 0, 1])
    found = result(metric, fold(metric, rows))
    assert math.isnan(found.ba_ece) and math.isnan(found.boundary.ece) and math.isnan(found.interior.ece)
    assert found.undefined == 3 and found.region.voxels == 2 and found.correct.voxels == 3
    assert found.correct.ece == pytest.approx(0.2) and math.isnan(found.incorrect.ece)


def test_images_without_a_boundary_are_left_out_and_counted() -> None:
    p, y = oracle()
    both = evaluate_arrays(np.concatenate([p, p]), np.concatenate([y, np.zeros_like(y)]))
    assert both["ba_ece"] == evaluate_arrays(p, y)["ba_ece"] and both["ba_ece_undefined"] == 1
    table = evaluate_arrays(p[0].T, y[0])
    assert table["ba_ece"] is None and table["ece_roi"] is None and table["ba_ece_undefined"] == 10


def test_a_table_of_voxels_has_no_neighbours_in_a_cohort_either() -> None:
    from segcal.tasks.evaluate import evaluate

    p, y = oracle()
    found = evaluate(cohort_from_arrays(p[0].T, y[0], kind="probs"), None, Serial())
    assert found.uncalibrated.block["ba_ece"] is None
    assert found.notes == ["BA-ECE is not defined for 1 case(s) with one label only, or of a table: table"]


@pytest.mark.parametrize(
    "options",
    [{"bands": ()}, {"bands": (3, 3)}, {"bands": (7, 3)}, {"curve": (0, 1)}, {"curve": (math.inf,)}, {"bins": 0}],
)
def test_bands_and_bins_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        SpatialCalibration(2, **options)


def test_other_maps_of_the_same_block_share_places_but_not_confidence() -> None:
    metric, rows = placed([0, 4, 8], region=[1, 1, 0])
    first = fold(metric, rows)
    other = replace(rows, log_probs=torch.tensor([[0.6], [0.4]], dtype=torch.float64).log().expand(2, 3))
    assert result(metric, fold(metric, other)).curve.confidence_sum.sum() == pytest.approx(1.8)
    assert state_bits(fold(metric, rows)) == state_bits(first)
    moved = replace(
        rows, places={metric.distance: rows.places[metric.distance], metric.region: torch.zeros(3, dtype=torch.float64)}
    )
    assert result(metric, fold(metric, moved)).region.voxels == 0
    assert result(metric, fold(metric, rows)).region.voxels == 2


@pytest.mark.parametrize("engine", [Serial(), Threads(1), Threads(2), Threads(4)])
@pytest.mark.parametrize("spatial", [(30, 40), (9, 20, 11)])
def test_a_survey_is_the_same_bits_for_any_engine_and_the_counts_for_any_cut(
    engine: Any, spatial: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, labels = images(2, spatial)
    cohort = cohort_from_arrays(logits, labels, kind="logits", background=0, ignore_index=255)
    metric = SpatialCalibration(3, distance=BoundaryDistance(literal=True), region=ForegroundRegion(5))
    asks = {0: Ask(metric), 1: Ask(SpatialCalibration(3), by_case=True)}
    expected, found = (e.survey(cohort, asks)[0] for e in (Serial(), engine))
    assert state_bits(found[0]) == state_bits(expected[0])
    assert {k: state_bits(s) for k, s in found[1].items()} == {k: state_bits(s) for k, s in expected[1].items()}
    monkeypatch.setattr("segcal.data.cohort.block_length", lambda channels: 100)
    cut = engine.survey(cohort, asks)[0]
    for name in ("counts", "band_counts"):
        assert (cut[0][name] == found[0][name]).all()
    a, b = (result(metric, s[0]) for s in (cut, found))
    assert a.ba_ece == pytest.approx(b.ba_ece, rel=1e-10)
    total = merge(asks[1].accumulator, found[1][0], found[1][1])
    assert (merge(asks[1].accumulator, total, found[1][2])["counts"].sum()) == (labels != 255).sum()


def test_pinned_rows_do_not_know_where_they_lie() -> None:
    logits, labels = images(3)
    with (
        Serial().pin(cohort_from_arrays(logits, labels, kind="logits", ignore_index=255)) as pinned,
        pytest.raises(UsageError, match="needs places"),
    ):
        Serial().reduce(pinned, {0: Ask(SpatialCalibration(3))})


def test_rows_without_their_places_say_so() -> None:
    metric, rows = placed([1.0])
    with pytest.raises(UsageError, match="no BoundaryDistance"):
        fold(metric, replace(rows, places={}))


def test_regions_share_the_boundaries_of_the_label_map() -> None:
    from segcal.tasks.evaluate import evaluate

    rng = np.random.default_rng(0)
    labels = images(4)[1] % 255
    head = Regions(("whole", "core"), ((1, 2), (2,)), (1, 2))
    block = evaluate(
        cohort_from_arrays(rng.normal(size=(3, 2, 30, 40)), labels, kind="logits", head=head), None, Serial()
    ).uncalibrated.block
    whole, core = (block["regions"][name] for name in ("whole", "core"))
    assert [b["voxels"] for b in whole["bands"]] == [b["voxels"] for b in core["bands"]]
    assert block["ba_ece"] == pytest.approx((whole["ba_ece"] + core["ba_ece"]) / 2)


def test_softmax_without_background_takes_all_scored_voxels_as_region() -> None:
    logits, labels = images(5)
    found = evaluate_arrays(torch.softmax(torch.from_numpy(logits).double(), 1), labels, ignore_index=255)
    assert found["ece_roi"] == pytest.approx(found["ece"], rel=1e-12)
