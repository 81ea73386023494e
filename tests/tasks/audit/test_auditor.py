"""`segcal.audit` as a whole: numbers against what NumPy gives from the same arrays, roles, regions, callables,
verdicts, and real ensembles.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import segcal
from segcal.data.case import PADDING
from segcal.data.cohort import Cohort
from segcal.data.files.journal import Scratch
from segcal.data.head import Regions, Softmax
from segcal.data.surroundings import Contexts
from segcal.engine.serial import Serial
from segcal.engine.threads import Threads
from segcal.errors import MismatchError, ScoreError, UsageError
from segcal.methods.affine.map import AffineMap
from segcal.methods.local.map import LocalMap
from segcal.methods.mixture import MixtureMap
from segcal.methods.temperature import ScaleMap
from segcal.metrics.summary import mean_known
from segcal.tasks.audit.findings import UNIT
from segcal.tasks.audit.probes import Probe
from segcal.tasks.audit.subjects import WholeCase


def pooled(cohort: Cohort, case: int) -> np.ndarray:
    return np.mean([f.array.astype(np.float64) for f in cohort[case].scores], 0)  # type: ignore[attr-defined]


def softmax(u: np.ndarray) -> np.ndarray:
    e = np.exp(u - u.max(0))
    return np.asarray(e / e.sum(0))


def finding(found: segcal.Audit, promise: str) -> Any:
    return next(f for f in found.findings if f.promise == promise)


@pytest.fixture(scope="module")
def cohort(random_cohort: Any) -> Cohort:
    made: Cohort = random_cohort()
    return made


def test_matrix_scaling_is_measured_as_numpy_computes_it(
    cohort: Cohort, make_calibrator: Any, unequal: AffineMap
) -> None:
    found = segcal.audit(make_calibrator(cohort.head, unequal), cohort, Serial(), shifts=(10,), seed=3)
    w, b = unequal.weight.numpy(), unequal.bias.numpy()
    changed = harmful = beneficial = 0
    largest = dict.fromkeys(("voxel", "member"), 0.0)
    for case in range(2):
        z = pooled(cohort, case).reshape(3, -1)
        y = cohort[case].labels.array.ravel()  # type: ignore[union-attr]  # labelled, from arrays
        p = softmax(w @ z + b[:, None])
        old, new = z.argmax(0), p.argmax(0)
        changed += int((old != new).sum())
        harmful += int(((old != new) & (old == y)).sum())
        beneficial += int(((old != new) & (new == y)).sum())
        members = [torch.from_numpy(f.array.reshape(3, -1)) for f in cohort[case].scores]  # type: ignore[attr-defined]
        for unit in ("voxel", "member"):
            shift = Probe(unit, 10.0, 3).shifted(cohort, case, 0, members).numpy() - z  # type: ignore[arg-type]
            # W (z + delta 1) + b = W z + b + delta W 1
            moved = softmax(w @ z + b[:, None] + shift[0] * w.sum(1)[:, None])
            largest[unit] = max(largest[unit], float(np.abs(moved - p).max()))
    assert changed > 20 and found.preserved.labels_changed == changed
    assert found.flips.audit is not None
    assert (found.flips.audit.harmful, found.flips.audit.beneficial) == (harmful, beneficial)
    assert found.flips.audit.flipped == changed
    for probe, moved_by in found.shifts.items():
        assert moved_by.largest == pytest.approx(largest[probe.unit], abs=1e-6)
        assert moved_by.exact == pytest.approx(largest[probe.unit], abs=1e-9)
        assert moved_by.plain <= UNIT and moved_by.plain_exact < 1e-13
    assert {f.verdict for f in found.findings} == {"does not hold"} and found.broken == []


def test_the_change_grows_with_the_shift_and_ends_at_one_class(
    cohort: Cohort, make_calibrator: Any, unequal: AffineMap
) -> None:
    found = segcal.audit(make_calibrator(cohort.head, unequal), cohort, Serial(), shifts=(0.1, 1, 10, 1000))
    for unit in ("voxel", "member"):
        means = [m.mean for p, m in found.shifts.items() if p.unit == unit]
        assert means == sorted(means) and means[0] < 0.05 < means[-1]
    assert "leads to b" not in finding(found, "translation_invariant").because
    proof = found.parameters[0].proofs[0]
    assert proof.numbers["tends_to_as_logits_rise"] == ["b"] and proof.numbers["tends_to_as_logits_fall"] == ["c"]


@pytest.mark.parametrize("m", [ScaleMap(0.4), ScaleMap(3.0), MixtureMap(0.5, torch.tensor([0.5, 0.25, 0.25]))])
def test_preserving_calibrators_hold_what_they_promise(cohort: Cohort, make_calibrator: Any, m: Any) -> None:
    found = segcal.audit(make_calibrator(cohort.head, m), cohort, Serial())
    assert [f.verdict for f in found.findings] == ["holds"] * 3
    assert all(moved.largest <= max(moved.plain, UNIT) and moved.labels_changed == 0 for moved in found.shifts.values())
    assert all(moved.units <= 1 and moved.plain_units <= 1 for moved in found.shifts.values())
    assert found.flips.audit is not None and found.flips.audit.flipped == 0


def test_an_invariant_map_of_raw_logits_is_no_worse_than_a_softmax(cohort: Cohort, make_calibrator: Any) -> None:
    equal = AffineMap(
        torch.tensor([[1.0, 0.25, -0.25], [0.5, 1.0, -0.5], [0.0, -0.5, 1.5]]),
        torch.tensor([0.1, 0.0, -0.2]),
        logits=True,
    )
    found = segcal.audit(make_calibrator(cohort.head, equal), cohort, Serial())
    assert (
        finding(found, "translation_invariant").verdict == "holds"
        and finding(found, "preserves_argmax").verdict == "does not hold"
    )
    assert max(m.exact for m in found.shifts.values() if m.exact is not None) < 1e-12


class Liar(ScaleMap):
    """Says that it preserves the label, and turns the scores around."""

    def forward(
        self, log_probs: torch.Tensor, free_energy: torch.Tensor | None = None, given: torch.Tensor | None = None
    ) -> torch.Tensor:
        return torch.log_softmax(-log_probs, 0)


def test_a_proven_promise_that_is_seen_broken_is_named(cohort: Cohort, make_calibrator: Any) -> None:
    # delivery repairs the label, so that only the order is seen to break
    found = segcal.audit(make_calibrator(cohort.head, Liar(1.0)), cohort, Serial(), shifts=())
    assert found.broken == ["preserves_order"]
    assert (
        finding(found, "preserves_order").verdict == "broken" and finding(found, "translation_invariant").held is None
    )
    assert found.guarantees().preserves_order == "no" and found.guarantees().preserves_argmax == "proven"
    assert found.to_json()["broken"] == ["preserves_order"]


def test_a_callable_is_measured_only(cohort: Cohort, make_calibrator: Any, unequal: AffineMap) -> None:
    by_hand = make_calibrator(cohort.head, unequal)
    found = segcal.audit(lambda z: by_hand.log_probs(z).exp(), cohort, Serial(), shifts=(10,), seed=3)
    same = segcal.audit(by_hand, cohort, Serial(), shifts=(10,), seed=3)
    assert found.parameters == [] and found.counts is None
    assert {f.claimed for f in found.findings} == {None}
    assert found.preserved == same.preserved and found.flips == same.flips and found.saturated == same.saturated
    for probe, moved in found.shifts.items():
        assert moved.exact is None and moved.largest == pytest.approx(same.shifts[probe].largest, abs=1e-7)
        assert moved.labels_changed == same.shifts[probe].labels_changed


def test_a_callable_that_keeps_everything_is_seen_to(cohort: Cohort) -> None:
    found = segcal.audit(lambda z: torch.softmax(z / 2, 1), cohort, Serial())
    assert [f.verdict for f in found.findings] == ["seen to hold"] * 3
    given = found.guarantees()
    assert (given.translation_invariant, given.preserves_argmax, given.preserves_order) == ("measured",) * 3


def test_a_callable_may_look_at_neighbours(cohort: Cohort) -> None:
    def blurred(z: torch.Tensor) -> torch.Tensor:
        return torch.softmax(torch.nn.functional.avg_pool2d(z, 3, 1, 1, count_include_pad=False), 1)

    found = segcal.audit(blurred, cohort, Serial(), shifts=(100,))
    expected = sum(
        int(
            (
                blurred(torch.from_numpy(pooled(cohort, k))[None])[0].argmax(0).numpy() != pooled(cohort, k).argmax(0)
            ).sum()
        )
        for k in range(2)
    )
    assert found.preserved.labels_changed == expected > 100
    assert finding(found, "translation_invariant").verdict == "seen to hold"


def test_any_engine_gives_the_same_bits(cohort: Cohort, make_calibrator: Any, unequal: AffineMap) -> None:
    calibrator = make_calibrator(cohort.head, unequal)
    one, two = (segcal.audit(calibrator, cohort, engine).to_json() for engine in (Serial(), Threads(2)))
    assert json.dumps(one) == json.dumps(two)


def test_without_labels_the_flip_audit_is_left_out(
    random_cohort: Any, make_calibrator: Any, unequal: AffineMap
) -> None:
    bare, full = random_cohort(labelled=False), random_cohort()
    calibrator = make_calibrator(bare.head, unequal)
    found = segcal.audit(calibrator, bare, Serial(), shifts=())
    assert found.flips.audit is None and found.to_json()["flips"]["audit"] is None
    assert any("flip audit is left out" in note for note in found.notes)
    assert found.preserved == segcal.audit(calibrator, full, Serial(), shifts=()).preserved
    assert found.flips.changed == found.preserved.labels_changed > 0


def test_free_energy_spread_is_that_of_the_voxels(cohort: Cohort, make_calibrator: Any) -> None:
    found = segcal.audit(make_calibrator(cohort.head, ScaleMap(1.0)), cohort, Serial(), shifts=())
    stds = [float(np.log(np.exp(pooled(cohort, k)).sum(0)).std()) for k in range(2)]
    assert found.spread is not None
    assert found.spread.mean == pytest.approx(np.mean(stds), abs=1e-7) and found.spread.p50 == pytest.approx(
        np.percentile(stds, 50), abs=1e-7
    )
    assert [row["free_energy_std"] for row in found.per_case] == pytest.approx(stds, abs=1e-7)
    assert found.spread.mean == pytest.approx(
        mean_known(row["free_energy_std"] for row in segcal.evaluate(cohort, None, Serial()).uncalibrated.per_case)
    )


def test_padding_is_counted_and_left_out(random_cohort: Any, make_calibrator: Any, unequal: AffineMap) -> None:
    crop = ((2, 18), (5, 25))
    cropped, full = random_cohort(crop=crop), random_cohort()
    calibrator = make_calibrator(cropped.head, unequal)
    found = segcal.audit(calibrator, cropped, Serial(), shifts=(10,))
    assert (
        found.roles["padding"] == 2 * (20 * 30 - 16 * 20)
        and found.preserved.voxels == found.saturated.voxels == 2 * 16 * 20
    )
    assert all(m.voxels == 2 * 16 * 20 for m in found.shifts.values())
    inside = sum(
        int(((unequal.weight.numpy() @ z + unequal.bias.numpy()[:, None]).argmax(0) != z.argmax(0)).sum())
        for z in (pooled(full, k)[:, 2:18, 5:25].reshape(3, -1) for k in range(2))
    )
    assert found.preserved.labels_changed == inside
    by_callable = segcal.audit(lambda z: calibrator.log_probs(z).exp(), cropped, Serial(), shifts=())
    assert by_callable.preserved == found.preserved and by_callable.flips == found.flips


def test_a_temperature_of_a_case_is_that_of_apply(
    random_cohort: Any, make_calibrator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Crop padding is no part of the mean, neither where a case is read by blocks nor where it is held whole."""
    cohort = random_cohort(crop=((2, 18), (5, 25)))
    map_ = LocalMap.start(3, image_level=True)
    calibrator = make_calibrator(
        cohort.head,
        LocalMap(
            torch.randn(7, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 0.03, map_.bias, image_level=True
        ),
    )
    audited: list[torch.Tensor] = []
    deliver = WholeCase.deliver

    def watched(*given: Any) -> torch.Tensor:
        audited.append(deliver(*given))
        return audited[-1]

    monkeypatch.setattr(WholeCase, "deliver", watched)
    segcal.audit(calibrator, cohort, Serial(), shifts=())
    assert len(audited) == len(cohort)
    for index, found in enumerate(audited):
        with Scratch(2**20) as scratch, cohort.open(index, scratch) as reader:
            block = reader.block(0, cohort[index].voxels)
            contexts = Contexts(reader, scratch, calibrator.contexts).of(0, block.voxels)
            inside = block.role != PADDING
            expected = calibrator.deliver(block.scores, block.kind, contexts)
        torch.testing.assert_close(found[:, inside], expected[:, inside], rtol=0, atol=1e-7)


def test_near_a_boundary_of_the_prediction(make_cohort: Any, make_calibrator: Any) -> None:
    z = np.zeros((2, 1, 40), np.float32)
    z[0, 0, :20], z[0, 0, 20:] = 3, -3
    weak = [19, 18, 15, 8]  # 0, 1, 4 and 11 voxels from the boundary: a bias of 1 turns these
    z[0, 0, weak] = 0.5
    cohort = make_cohort([[z]])
    found = segcal.audit(
        make_calibrator(cohort.head, AffineMap(torch.eye(2), torch.tensor([0.0, 1.0]))), cohort, Serial(), shifts=()
    )
    assert found.flips.changed == 4 and found.flips.within == {1: 2, 3: 2, 7: 3}
    assert found.to_json()["flips"]["near_boundary"]["7"] == {"voxels": 3, "share": 0.75}


REGIONS = Regions(("whole", "core"), ((1, 2), (2,)), (1, 2))


@pytest.mark.parametrize("keep", [True, False])
def test_regions_are_audited_by_their_sides(random_cohort: Any, make_calibrator: Any, keep: bool) -> None:
    rng = np.random.default_rng(1)
    cohort = random_cohort(classes=2, head=REGIONS, pool="probs")
    del rng
    biased = AffineMap(torch.eye(2), torch.tensor([0.0, 0.8]))
    calibrator = make_calibrator(REGIONS, biased, ScaleMap(0.5), keep_decision=keep)
    found = segcal.audit(calibrator, cohort, Serial())
    p = [np.mean([1 / (1 + np.exp(-f.array.astype(np.float64))) for f in cohort[k].scores], 0) for k in range(2)]  # type: ignore[attr-defined]
    turned = [(q[0] <= 0.5) & (np.log(q[0] / (1 - q[0])) + 0.8 > 0) for q in p]
    assert sum(int(t.sum()) for t in turned) > 20
    assert found.preserved.labels_changed == (0 if keep else sum(int(t.sum()) for t in turned))
    assert finding(found, "preserves_argmax").verdict == ("holds" if keep else "does not hold")
    assert found.shifts == {} and finding(found, "translation_invariant").held is None
    assert any("no gauge" in note for note in found.notes)
    assert found.preserved.decided == tuple(sum(int((q[r] > 0.5).sum()) for q in p) for r in (0, 1))
    assert found.spread is None and [part.part for part in found.parameters] == ["whole", "core"]
    assert found.flips.audit is not None and found.flips.audit.flipped == found.preserved.labels_changed


def test_scores_that_are_probabilities_have_no_gauge_and_saturate(make_cohort: Any, make_calibrator: Any) -> None:
    p = np.array([[[1.0, 0.75, 0.5]], [[0.0, 0.25, 0.5]]], np.float32)
    cohort = make_cohort([[p]], [np.zeros((1, 3), int)], kind="probs", pool="probs")
    found = segcal.audit(make_calibrator(cohort.head, ScaleMap(0.5), kind="probs"), cohort, Serial())
    assert found.shifts == {} and (found.saturated.scores_at_floor, found.saturated.voxels_at_floor) == (1, 1)
    assert found.to_json()["free_energy_std"] is None


def test_json_is_plain_and_complete(cohort: Cohort, make_calibrator: Any, unequal: AffineMap) -> None:
    found = segcal.audit(make_calibrator(cohort.head, unequal, method="ms"), cohort, Serial(), shifts=(1,)).to_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert {
        "subject",
        "voxels",
        "findings",
        "broken",
        "guarantees",
        "parameters",
        "preservation",
        "shifts",
        "flips",
        "saturation",
        "free_energy_std",
        "per_case",
        "notes",
    } <= set(found)
    assert (found["parameters"]["optimised"], found["parameters"]["identifiable"]) == (12, 8)
    assert [row["case"] for row in found["per_case"]] == ["case0", "case1"]
    assert sum(row["labels_changed"] for row in found["per_case"]) == found["preservation"]["labels_changed"]


def test_what_cannot_be_audited_is_said(
    cohort: Cohort, random_cohort: Any, make_calibrator: Any, unequal: AffineMap, tmp_path: Path
) -> None:
    with pytest.raises(MismatchError):
        segcal.audit(make_calibrator(Softmax(("a", "b")), ScaleMap(1.0)), cohort, Serial())
    with pytest.raises(MismatchError, match="raw logits"):
        segcal.audit(make_calibrator(cohort.head, unequal), random_cohort(pool="probs"), Serial())
    with pytest.raises(UsageError, match="energy_maps"):
        segcal.audit(
            make_calibrator(cohort.head, ScaleMap(1.0)), random_cohort(pool="probs"), Serial(), energy_maps=tmp_path
        )
    broken = random_cohort()
    broken[1].scores[0].array[0, 0, 0] = np.nan
    with pytest.raises(ScoreError, match="not finite"):
        segcal.audit(make_calibrator(cohort.head, ScaleMap(1.0)), broken, Serial())


@pytest.mark.parametrize("name", ["nuclei", "hippocampus"])
def test_real_ensembles_keep_what_is_promised(real: Any, name: str) -> None:
    cohort = real(name)
    engine = Serial()
    fits = segcal.fit_methods(
        {
            "ts": segcal.TemperatureScaling(),
            "ms": segcal.MatrixScaling(lambda_=0, mu=0),
            "dc": segcal.DirichletCalibration(lambda_=0, mu=0),
        },
        cohort,
        engine,
    )
    for method, fit in fits.items():
        found = segcal.audit(fit.calibrator, cohort, engine, shifts=(100,))
        assert found.broken == []
        assert finding(found, "translation_invariant").verdict == ("does not hold" if method == "ms" else "holds")
        assert (found.preserved.labels_changed == 0) == (method == "ts")
