"""Evaluation: numbers before and after, cases of the fit never called a test, cross-fitted numbers truly held out."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from segcal.data.case import Provenance
from segcal.data.cohort import Cohort
from segcal.data.formats.arrays import ArrayField, cohort_from_arrays
from segcal.data.head import Regions
from segcal.engine.serial import Serial
from segcal.engine.threads import Threads
from segcal.errors import HeldOutError, LabelError, MismatchError
from segcal.methods.affine.map import AffineMap
from segcal.methods.calibrator import Calibrator, FitData
from segcal.methods.method import fit_methods
from segcal.methods.temperature import ScaleMap, TemperatureScaling
from segcal.metrics.summary import LARGE
from segcal.tasks.evaluate import COMPARED, crossfitted, evaluate

RNG = np.random.default_rng(0)
Y = RNG.integers(3, size=(8, 9, 10))
Z = (3 * (RNG.normal(size=(8, 3, 9, 10)) + 1.5 * np.moveaxis(np.eye(3)[Y], -1, 1))).astype(np.float32)


def cohort(index=range(8), z=Z, y=Y, ids=None, groups=None, **options) -> Cohort:
    chosen = list(index)
    names = [f"case{i}" for i in chosen] if ids is None else ids
    return cohort_from_arrays(z[chosen], y[chosen], kind="logits", ids=names, groups=groups, **options)


@pytest.fixture(scope="module")
def fitted() -> Calibrator:
    return fit_methods({"ts": TemperatureScaling()}, cohort(range(4)), Serial())["ts"].calibrator


def direct(p: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """NLL, Brier and ECE (50 right-closed bins) of one image, from their definitions."""
    p, y = p.reshape(3, -1), y.ravel()
    own = p[y, np.arange(y.size)]
    confidence, right = p.max(0), p.argmax(0) == y
    index = np.clip(np.ceil(confidence * 50) - 1, 0, 49)
    gaps = [abs(confidence[index == b].sum() - right[index == b].sum()) for b in range(50)]
    return {
        "nll": float(-np.log(own).mean()),
        "brier": float(((p - np.eye(3)[y].T) ** 2).sum(0).mean()),
        "ece": sum(gaps) / y.size,
    }


@pytest.mark.parametrize("engine", [Serial(), Threads(2)])
def test_numbers_before_and_after_are_those_of_their_definitions(fitted, engine):
    found = evaluate(cohort(range(4, 8)), fitted, engine)
    beta = fitted.maps[0].beta.item()
    for summary, b in ((found.uncalibrated, 1.0), (found.calibrated, beta)):
        images = [direct(torch.softmax(b * torch.from_numpy(Z[i]).double(), 0).numpy(), Y[i]) for i in range(4, 8)]
        for name in ("nll", "brier", "ece"):
            assert summary.block[name] == pytest.approx(np.mean([image[name] for image in images]), rel=1e-9)
            assert [row[name] for row in summary.per_case] == pytest.approx([image[name] for image in images], rel=1e-9)
    assert found.calibrated.block["nll"] < found.uncalibrated.block["nll"]
    assert found.calibrated.block["flip_rate"] == 0


def test_differences_are_paired_over_cases(fitted):
    found = evaluate(cohort(range(4, 8)), fitted, Serial())
    assert set(found.differences) == set(COMPARED)
    change = [
        after["nll"] - before["nll"]
        for before, after in zip(found.uncalibrated.per_case, found.calibrated.per_case, strict=True)
    ]
    estimate = found.differences["nll"]
    assert estimate.mean == pytest.approx(np.mean(change), rel=1e-12)
    assert estimate.standard_error == pytest.approx(np.std(change, ddof=1) / 2, rel=1e-9)
    assert estimate.groups == 4
    grouped = evaluate(cohort(range(4, 8), groups=["p", "p", "q", "q"]), fitted, Serial())
    assert grouped.differences["nll"].groups == 2


def test_without_a_calibrator_there_is_no_after():
    found = evaluate(cohort(), None, Serial())
    assert (found.calibrated, found.differences, list(found.in_sample), found.notes) == (None, {}, [], [])
    assert found.to_json()["calibrated"] is None


@pytest.mark.parametrize("calibrated", [True, False])
def test_what_a_calibrator_keeps_is_small(fitted, calibrated):
    found = evaluate(cohort(range(4, 8)), fitted if calibrated else None, Serial())
    whole, kept = found.to_json(), found.kept()
    assert set(whole) - set(kept) == {"per_case"}
    for stage in ("uncalibrated", "calibrated") if calibrated else ("uncalibrated",):
        assert set(whole[stage]) - set(kept[stage]) == set(LARGE) & set(whole[stage])
        assert all(whole[stage][name] == value for name, value in kept[stage].items())
    assert (kept["calibrated"] is not None) == calibrated


def test_what_is_written_is_plain_json(fitted):
    found = evaluate(cohort(range(4, 8), groups=["p", "p", "q", "q"]), fitted, Serial())
    written = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert (written["cases"], written["voxels"]) == (4, 360)
    needed = {"nll", "brier", "ece", "ece_pooled", "classwise_ece", "ace", "ba_ece", "dice", "iou", "flip_rate"}
    assert needed <= set(written["uncalibrated"])
    assert needed <= set(written["calibrated"])
    assert [(row["case"], row["group"]) for row in written["per_case"]] == [
        ("case4", "p"),
        ("case5", "p"),
        ("case6", "q"),
        ("case7", "q"),
    ]
    assert not any(row["in_sample"] for row in written["per_case"])
    assert "case" not in written["per_case"][0]["calibrated"]


@pytest.mark.parametrize(
    "test_set",
    [
        cohort(range(2, 6)),
        cohort(range(2, 6), ids=["w", "x", "y", "z"]),
        cohort(range(2, 6), z=Z + np.float32(0.25) * Z[::-1]),
        cohort(range(2, 6), y=np.random.default_rng(9).integers(3, size=Y.shape)),
    ],
    ids=["as it was", "renamed", "rescored", "relabelled"],
)
def test_cases_of_the_fit_are_never_a_test_whatever_was_changed_on_them(fitted, test_set):
    with pytest.raises(HeldOutError, match="found 2 of 4 that the calibrator was fitted on") as caught:
        evaluate(test_set, fitted, Serial())
    assert test_set[0].id in str(caught.value)
    rest = evaluate(test_set, fitted, Serial(), fitted="exclude")
    assert [row["case"] for row in rest.uncalibrated.per_case] == [c.id for c in test_set[2:]]
    assert rest.notes == ["2 case(s) the calibrator was fitted on were left out"]
    assert rest.in_sample == []
    everything = evaluate(test_set, fitted, Serial(), fitted="include")
    assert everything.in_sample == [c.id for c in test_set[:2]]
    assert [row["in_sample"] for row in everything.to_json()["per_case"]] == [True, True, False, False]


def test_renamed_and_relabelled_and_rescored_is_another_case(fitted):
    assert evaluate(cohort(range(4), z=Z[::-1], y=Y[::-1]), fitted, Serial()).in_sample == []


def test_leaving_out_every_case_leaves_nothing_to_evaluate(fitted):
    for how in ("refuse", "exclude"):
        with pytest.raises(
            HeldOutError, match=r"4 of 4 that the calibrator was fitted on \(case0, case1, case2, \.\.\.\)"
        ):
            evaluate(cohort(range(4)), fitted, Serial(), fitted=how)


def test_two_cases_of_the_same_constant_label_map_are_not_the_same_case():
    y = np.zeros_like(Y)
    y[:, 0, 0] = np.where(np.arange(8) % 2, 1, 0)[:, None].T  # odd cases hold a second class, even ones are constant
    fit = fit_methods({"ts": TemperatureScaling()}, cohort([0, 1], y=y), Serial())["ts"].calibrator
    assert evaluate(cohort([2], y=y), fit, Serial()).in_sample == []
    with pytest.raises(HeldOutError):
        evaluate(cohort([3], y=y), fit, Serial())


def test_a_refusal_costs_only_the_cases_of_the_same_name(fitted, monkeypatch):
    reads: list[str] = []
    whole = cohort(range(2, 8)).sampled()  # beside the sample that tells how its scores are stored
    named = {id(case.scores[0]): case.id for case in whole}
    original = ArrayField.open

    def counting(self, scratch):
        reads.extend([named[id(self)]] if id(self) in named else [])
        return original(self, scratch)

    monkeypatch.setattr(ArrayField, "open", counting)
    with pytest.raises(HeldOutError):
        evaluate(whole, fitted, Serial())
    assert reads == ["case2", "case3"]


def test_a_mismatch_stops_or_is_noted(fitted):
    other = Cohort(cohort(range(4, 8)).cases, fitted.head, "logits", provenance=Provenance(1, 5))
    single = Calibrator(
        fitted.head,
        "logits",
        list(fitted.maps),
        "ts",
        data=FitData("x", "probs", Provenance(1, 1), fitted.data.records, 1),
    )
    with pytest.raises(MismatchError, match="5 networks averaged"):
        evaluate(other, single, Serial())
    found = evaluate(other, single, Serial(), go_on=True)
    assert len(found.notes) == 1
    assert "5 networks averaged" in found.notes[0]


def test_ignored_voxels_are_not_counted(fitted):
    y = Y.copy()
    y[4:, :, 0] = 255
    found = evaluate(cohort(range(4, 8), y=y, ignore_index=255), fitted, Serial())
    assert found.to_json()["voxels"] == 4 * 81
    images = [
        direct(torch.softmax(torch.from_numpy(Z[i]).double(), 0).numpy()[:, :, 1:], Y[i][:, 1:]) for i in range(4, 8)
    ]
    assert found.uncalibrated.block["ece"] == pytest.approx(np.mean([image["ece"] for image in images]), rel=1e-9)
    y[5] = 255
    less = evaluate(cohort(range(4, 8), y=y, ignore_index=255), fitted, Serial())
    assert (len(less.cohort), len(less.cohort.unscored), less.to_json()["failed"]) == (3, 1, {})
    assert "no voxel to score" in less.notes[0]
    y[4:] = 255
    with pytest.raises(LabelError, match="no voxel to score"):
        evaluate(cohort(range(4, 8), y=y, ignore_index=255), fitted, Serial())


def test_cross_fitted_numbers_are_those_of_calibrators_that_did_not_see_the_case_or_its_group():
    groups = ["p", "p", "q", "q", "r", "r", "s", "s"]
    whole = cohort(groups=groups)
    fits = fit_methods({"ts": TemperatureScaling()}, whole, Serial(), crossfit=True, folds=3)
    found = crossfitted(whole, fits, Serial())["ts"]
    fit = fits["ts"]
    assert sorted(i for fold in fit.folds for i in fold) == list(range(8))
    rows = {row["case"]: row for row in found.calibrated.per_case}
    for fold, calibrator in zip(fit.folds, fit.held_out, strict=True):
        seen = {r.id for r in calibrator.data.records}
        assert seen == {whole[i].id for i in range(8)} - {whole[i].id for i in fold}
        assert {groups[i] for i in fold}.isdisjoint(groups[int(name[4:])] for name in seen)
        alone = fit_methods({"ts": TemperatureScaling()}, cohort([i for i in range(8) if i not in fold]), Serial())[
            "ts"
        ].calibrator
        assert calibrator.maps[0].beta.item() == pytest.approx(alone.maps[0].beta.item(), rel=1e-7)
        for i in fold:
            p = torch.softmax(calibrator.maps[0].beta * torch.from_numpy(Z[i]).double(), 0).numpy()
            assert rows[whole[i].id]["nll"] == pytest.approx(direct(p, Y[i])["nll"], rel=1e-9)
    assert found.differences["nll"].groups == 4


def test_regions_are_averaged_and_shown_one_by_one():
    head = Regions(("whole", "core"), ((1, 2), (2,)), (1, 2))
    z = Z[:, :2]
    regions = cohort_from_arrays(z, Y, kind="logits", head=head)
    calibrator = Calibrator(head, "logits", [ScaleMap(0.5), ScaleMap(2.0)], "ts")
    found = evaluate(regions, calibrator, Serial())
    own = found.calibrated.block["regions"]
    for part, (name, beta) in enumerate((("whole", 0.5), ("core", 2.0))):
        target = torch.from_numpy(np.isin(Y, head.members[part])).double()
        u = beta * torch.from_numpy(z[:, part]).double()
        assert own[name]["nll"] == pytest.approx(
            torch.nn.functional.binary_cross_entropy_with_logits(u, target).item(), rel=1e-9
        )
    assert found.calibrated.block["nll"] == pytest.approx((own["whole"]["nll"] + own["core"]["nll"]) / 2, rel=1e-12)
    assert found.calibrated.block["flip_rate"] == 0
    assert math.isfinite(found.calibrated.block["ece"])


def scaled(beta: float, head=None) -> Calibrator:
    whole = cohort() if head is None else head
    return Calibrator(whole.head, "logits", [ScaleMap(beta) for _ in whole.head.parts], "ts")


@pytest.mark.parametrize("beta", [0.3, 0.8, 1.7])
@pytest.mark.parametrize("groups", [None, ["p", "p", "p", "q", "r", "r", "s", "t"]])
def test_a_change_is_that_of_the_numbers_beside_it(beta, groups):
    found = evaluate(cohort(groups=groups), scaled(beta), Serial())
    for name, change in found.differences.items():
        assert change.mean == pytest.approx(found.calibrated.block[name] - found.uncalibrated.block[name], abs=1e-15)
        assert change.low < change.mean < change.high or change.standard_error == 0
        assert change.groups == (8 if groups is None else 5)


def test_a_change_is_that_of_the_numbers_beside_it_with_regions_and_where_dice_is_known_on_one_side_only():
    head = Regions(("whole", "core"), ((1, 2), (2,)), (1, 2))
    z, y = Z[:, :2].copy(), Y.copy()
    y[0], z[0] = 0, -2.0  # no region is labelled; 'core' is delivered after only
    y[1][y[1] == 2] = 1
    regions = cohort_from_arrays(z, y, kind="logits", head=head, groups=["p", "p", "q", "q", "r", "r", "s", "s"])
    found = evaluate(
        regions, Calibrator(head, "logits", [ScaleMap(0.5), ScaleMap(2.0)], "ts", keep_decision=False), Serial()
    )
    for name, change in found.differences.items():
        assert change.mean == pytest.approx(found.calibrated.block[name] - found.uncalibrated.block[name], abs=1e-15)
    classes = cohort(y=np.where(np.arange(8)[:, None, None] < 4, 0, Y))
    biased = Calibrator(classes.head, "logits", [AffineMap(torch.eye(3), torch.tensor([0.0, 0.0, 9.0]))], "vs")
    dice = evaluate(classes, biased, Serial()).differences["dice"]
    assert dice.mean < 0 and dice.values + dice.dropped == 8


def test_pooled_changes_have_the_interval_of_a_jackknife_over_groups():
    groups = ["p", "p", "p", "q", "r", "r", "s", "t"]
    whole = cohort(groups=groups)
    found = evaluate(whole, scaled(0.4), Serial())
    for name in ("ace", "ece_pooled", "classwise_ece"):
        left = []
        for group in dict.fromkeys(groups):
            rest = [i for i in range(8) if groups[i] != group]
            without = evaluate(cohort(rest), scaled(0.4), Serial())
            left.append(without.calibrated.block[name] - without.uncalibrated.block[name])
        error = np.sqrt(4 / 5 * np.sum((left - np.mean(left)) ** 2))
        assert found.differences[name].standard_error == pytest.approx(error, rel=1e-9)


def test_the_verdict_is_of_the_prediction_and_plain_json():
    found = evaluate(cohort(background=0), scaled(0.3), Serial())
    verdict = json.loads(json.dumps(found.to_json()["verdict"], allow_nan=False))
    assert set(verdict) == {"sentence", "groups", "power", "overall", "foreground", "boundary", "bands_off"}
    decided = Z.argmax(1) != 0
    p = torch.softmax(torch.from_numpy(Z).double(), 1).numpy()
    own = np.take_along_axis(p, Y[:, None], 1)[:, 0]
    assert verdict["foreground"]["share"] == pytest.approx(decided.mean())
    assert verdict["foreground"]["nll"]["before"] == pytest.approx(-np.log(own[decided]).mean(), rel=1e-9)
    assert verdict["overall"]["nll"]["change"] == found.to_json()["differences"]["nll"]
    assert "foreground" not in evaluate(cohort(), scaled(0.3), Serial()).verdict.to_json()
    assert evaluate(cohort(), None, Serial()).verdict is None


def test_a_calibrator_that_is_too_soft_is_called_worse_and_its_bands_are_named():
    found = evaluate(cohort(background=0), scaled(0.02), Serial()).verdict
    assert {found.at("overall", metric).word for metric in ("nll", "brier", "ece")} == {"worse"}
    assert found.sentence.startswith("Worse overall by NLL")
    assert "under-confident" in found.sentence
    assert all(band.gap.high < -0.02 for band in found.bands)


def test_fewer_than_three_groups_claim_nothing_and_the_identity_changes_nothing():
    two = evaluate(cohort(groups=["p"] * 4 + ["q"] * 4), scaled(0.2), Serial()).verdict
    assert {cell.word for cell in two.cells} == {"cannot be told"}
    assert "cannot be told from 2 groups" in two.sentence
    one = evaluate(cohort([0]), scaled(0.2), Serial())
    assert "cannot be told from 1 group:" in one.verdict.sentence
    json.dumps(one.to_json(), allow_nan=False)
    same = evaluate(cohort(), scaled(1.0), Serial()).verdict
    assert same.sentence.startswith("Nothing changes.")


def test_more_groups_than_blocks_are_put_together(monkeypatch):
    monkeypatch.setattr("segcal.tasks.scoring.MOST_BLOCKS", 4)
    found = evaluate(cohort(), scaled(0.4), Serial())
    assert (found.differences["ace"].groups, found.differences["nll"].groups) == (4, 8)
    whole = evaluate(cohort(), scaled(0.4), Threads(2)).to_json()
    assert whole == found.to_json()


@pytest.mark.parametrize("engine", [Serial(), Threads(2)])
@pytest.mark.parametrize("bad", [(6,), (4, 5)])
def test_cases_whose_data_cannot_be_used_are_left_out_if_told_so_and_the_numbers_are_those_of_the_others(
    fitted, engine, bad
):
    spoilt = Y.copy()
    spoilt[list(bad)] = 9
    groups = ["p", "p", "q", "q", "r", "r", "s", "t"]
    whole, rest = cohort(y=spoilt, groups=groups), [k for k in range(8) if k not in bad]
    alone = cohort(rest, groups=[groups[k] for k in rest])
    with pytest.raises(LabelError, match=f"labels.{bad[0]}"):
        evaluate(whole, None, Serial())
    for calibrator, fit_cases in ((None, "refuse"), (fitted, "exclude"), (fitted, "include")):
        found = evaluate(whole, calibrator, engine, fitted=fit_cases, damaged="exclude")
        assert list(found.cohort.damaged) == [f"case{k}" for k in bad]
        told, expected = found.to_json(), evaluate(alone, calibrator, engine, fitted=fit_cases).to_json()
        assert list(told.pop("failed")) == [f"case{k}" for k in bad] and expected.pop("failed") == {}
        assert json.dumps(told) == json.dumps(expected)
    with pytest.raises(LabelError):
        evaluate(cohort(bad, y=spoilt), None, engine, damaged="exclude")
