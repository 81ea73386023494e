from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from segcal.data.rows import Rows
from segcal.engine.accumulate import fold, merge, result
from segcal.errors import UsageError
from segcal.metrics.summary import SPATIAL, Summary, combine_parts, mean_known, plain, suite, summarise

PROMISED = ("nll", "brier", "ece", "ece_pooled", "classwise_ece", "ace", "ba_ece", "dice", "iou", "flip_rate")


def states(metrics: dict[str, Any], rows: Rows) -> dict[str, Any]:
    return {name: fold(m, rows) for name, m in metrics.items()}


def evaluate(
    blocks: dict[str, Rows],
    classes: int = 4,
    background: int | None = 0,
    bins: tuple[int, ...] = (),
    names: tuple[str, ...] | None = None,
) -> Summary:
    metrics = suite(classes, background, bins)
    return summarise(metrics, {case: states(metrics, rows) for case, rows in blocks.items()}, names)


@pytest.fixture
def cohort(random_rows: Any) -> dict[str, Rows]:
    return {"a": random_rows(0, 300), "b": random_rows(1, 50), "c": random_rows(2, 7)}


def test_means_of_images_are_means_of_images_and_pooled_is_pooled(cohort: dict[str, Rows]) -> None:
    got = evaluate(cohort)
    metrics = suite(4, 0)
    each = {case: {name: result(m, fold(m, rows)) for name, m in metrics.items()} for case, rows in cohort.items()}
    whole = {}
    for name, m in metrics.items():
        total = fold(m, cohort["a"])
        for case in ("b", "c"):
            total = merge(m, total, fold(m, cohort[case]))
        whole[name] = result(m, total)
    block = got.block
    assert block["cases"] == 3 and block["voxels"] == 357
    of_image: dict[str, Callable[[dict[str, Any]], float]] = {
        "nll": lambda r: r["likelihood"].nll,
        "brier": lambda r: r["likelihood"].brier,
        "ece": lambda r: r["calibration"].ece(50),
        "dice": lambda r: r["overlap"].mean_dice,
        "iou": lambda r: r["overlap"].mean_iou,
        "flip_rate": lambda r: r["flips"].rate,
        "free_energy_std": lambda r: r["energy"].std,
        "ba_ece": lambda r: r["spatial"].ba_ece,
        "ece_roi": lambda r: r["spatial"].region.ece,
    }
    for key, of in of_image.items():
        assert block[key] == pytest.approx(np.mean([of(r) for r in each.values()])), key
    assert block["nll_pooled"] == whole["likelihood"].nll and block["brier_pooled"] == whole["likelihood"].brier
    assert block["ece_pooled"] == whole["calibration"].ece(50) and block["ace"] == whole["calibration"].ace(15)
    assert block["classwise_ece"] == whole["classwise"].cece
    assert block["accuracy"] == whole["overlap"].accuracy and block["confidence"] == whole["calibration"].confidence
    assert (
        block["flips"]["flipped"] == whole["flips"].flipped
        and block["flips"]["harmful_share"] == whole["flips"].shares[0]
    )
    assert sum(block["reliability"]["counts"]) == 357 and len(block["reliability"]["counts"]) == 15


def test_rows_of_cases_are_flat_numbers(cohort: dict[str, Rows]) -> None:
    got = evaluate(cohort)
    assert [row["case"] for row in got.per_case] == ["a", "b", "c"]
    for row in got.per_case:
        assert all(
            isinstance(v, (int, float))
            for k, v in row.items()
            if k != "case" and (k not in SPATIAL or row["voxels"] > 10)
        )
        assert row["voxels"] == cohort[row["case"]].voxels
    assert got.block["nll"] == pytest.approx(np.mean([row["nll"] for row in got.per_case]))


def test_everything_is_json_and_what_is_promised_is_there(cohort: dict[str, Rows]) -> None:
    got = evaluate(cohort)
    again = json.loads(json.dumps({"block": got.block, "per_case": got.per_case}, allow_nan=False))
    assert again == {"block": got.block, "per_case": got.per_case}
    assert all(isinstance(again["block"][key], float) for key in PROMISED)


def test_the_order_of_cases_does_not_change_a_bit(cohort: dict[str, Rows]) -> None:
    assert evaluate(cohort).block == evaluate(dict(reversed(cohort.items()))).block


def test_the_per_class_table(cohort: dict[str, Rows], make_rows: Any) -> None:
    only = {**cohort, "d": make_rows(np.full((4, 5), 0.25), [0] * 5)}
    table = evaluate(only, names=("air", "x", "y", "z")).block["per_class"]
    assert [row["name"] for row in table] == ["air", "x", "y", "z"] and [row["background"] for row in table] == [
        True,
        False,
        False,
        False,
    ]
    labels = {case: rows.targets.numpy() for case, rows in only.items()}
    for k, row in enumerate(table):
        assert row["voxels"] == sum((y == k).sum() for y in labels.values())
        assert row["cases"] == sum((y == k).any() for y in labels.values())
    assert sum(row["voxels"] for row in table) == 362
    assert (
        sum(row["frequency"] for row in table)
        == pytest.approx(1)
        == pytest.approx(sum(row["probability"] for row in table))
    )


def test_an_image_of_background_only_is_left_out_of_dice_and_is_null_in_its_row(make_rows: Any) -> None:
    even = np.full((2, 4), 0.5)
    got = evaluate({"empty": make_rows(even, [0] * 4), "full": make_rows(even, [0, 0, 1, 1], [0, 1, 1, 1])}, classes=2)
    assert got.per_case[0]["dice"] is None and got.block["dice"] == got.per_case[1]["dice"] == pytest.approx(0.8)
    assert got.block["free_energy_std"] is None


def test_further_bin_counts_stand_beside_the_fixed_ones(cohort: dict[str, Rows]) -> None:
    by_bins = evaluate(cohort, bins=(10, 20)).block["ece_by_bins"]
    assert list(by_bins) == ["10", "15", "20", "50"]
    assert by_bins["50"]["ece"] == pytest.approx(evaluate(cohort).block["ece"], rel=1e-12)
    assert by_bins["15"]["ace"] == pytest.approx(evaluate(cohort).block["ace"], rel=1e-12)


def test_no_case_gives_nulls_and_zero_counts() -> None:
    got = evaluate({})
    assert got.per_case == [] and got.block["cases"] == 0 and got.block["voxels"] == 0
    assert all(got.block[key] is None for key in PROMISED)


def test_regions_are_averaged_and_kept(random_rows: Any) -> None:
    parts = [{"a": random_rows(i, 40, 2), "b": random_rows(i + 10, 60, 2)} for i in range(3)]
    each = [evaluate(p, classes=2) for p in parts]
    names = ("whole", "core", "rim")
    got = combine_parts(each, names)
    assert got.block["cases"] == 2 and got.block["voxels"] == 100
    for key in PROMISED:
        assert got.block[key] == pytest.approx(np.mean([s.block[key] for s in each]))
    assert list(got.block["regions"]) == list(names) and got.block["regions"]["core"] == each[1].block
    assert [row["name"] for row in got.block["per_class"]] == list(names)
    assert got.block["per_class"][2]["dice"] == each[2].block["per_class"][1]["dice"]
    assert (
        got.block["flips"]["harmful"] == sum(s.block["flips"]["harmful"] for s in each)
        and got.block["flips"]["voxels"] == 300
    )
    assert got.block["reliability"] is None and got.block["bands"] is None and got.block["regions"]["core"]["bands"]
    assert [row["case"] for row in got.per_case] == ["a", "b"] and got.per_case[0]["voxels"] == 40
    assert got.per_case[1]["nll"] == pytest.approx(np.mean([s.per_case[1]["nll"] for s in each]))
    assert got.per_case[1]["rim.dice"] == each[2].per_case[1]["dice"]
    json.dumps([got.block, got.per_case], allow_nan=False)


def test_a_region_without_dice_in_a_case_is_left_out_of_that_mean(make_rows: Any) -> None:
    even = np.full((2, 4), 0.5)
    empty, full = (
        evaluate({"a": make_rows(even, [0] * 4)}, classes=2),
        evaluate({"a": make_rows(even, [0, 0, 1, 1], [0, 1, 1, 1])}, classes=2),
    )
    assert combine_parts([empty, full], ("r", "s")).per_case[0]["dice"] == pytest.approx(0.8)


def test_regions_over_different_cases_are_refused(random_rows: Any) -> None:
    a, b = evaluate({"a": random_rows(0, 5, 2)}, classes=2), evaluate({"b": random_rows(0, 5, 2)}, classes=2)
    for summaries, names in (([a, b], ("r", "s")), ([a], ("r", "s")), ([], ())):
        with pytest.raises(UsageError, match="one summary a region"):
            combine_parts(summaries, names)


def test_helpers_for_what_is_missing() -> None:
    assert mean_known([1.0, None, math.nan, 3.0]) == 2 and math.isnan(mean_known([None]))
    assert plain({"a": (np.float64("nan"), np.int64(3)), 1: [math.inf, True, "x"]}) == {
        "a": [None, 3],
        "1": [None, True, "x"],
    }
