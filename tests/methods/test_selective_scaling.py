"""Selective scaling: the net and its folded layers, what it finds and when it finds nothing, temperatures, labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
import torch
from numpy.typing import NDArray

from segcal import MetaCal, SelectiveScaling, apply, cohort_from_arrays, evaluate, fit_methods, load
from segcal.data.cohort import Cohort
from segcal.data.formats.npz import NpzSink
from segcal.engine.serial import Serial
from segcal.engine.threads import Threads
from segcal.errors import UsageError
from segcal.fitting.sample import Sample
from segcal.methods.calibrator import Calibrator
from segcal.methods.composed import Composed
from segcal.methods.selective import selector as selectors
from segcal.methods.selective.fit import HIGH
from segcal.methods.selective.judged import Judged, auroc
from segcal.methods.selective.map import SelectiveMap, shapes
from segcal.methods.selective.selector import Schooling, Voxels, learnt, weights
from segcal.methods.temperature import ScaleMap
from segcal.metrics.statistics.clustered import clustered_mean

Array = NDArray[Any]
SHAPE = (30, 40)


def telling(cases: int = 8, seed: int = 0, wrong: float = 0.9) -> tuple[Array, Array]:
    """Logits and labels of four classes whose third is mostly mispredicted; all are as sure of themselves."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(cases, 4, *SHAPE))
    top = rng.integers(4, size=(cases, *SHAPE))
    np.put_along_axis(z, top[:, None], 5.0, 1)
    missed = rng.random(top.shape) < np.where(top == 2, wrong, 0.02)
    return z.astype(np.float32), np.where(missed, (top + 1 + rng.integers(3, size=top.shape)) % 4, top)


def blind(cases: int = 8, seed: int = 0) -> tuple[Array, Array]:
    """Nothing in the scores says which voxels are wrong."""
    z, _ = telling(cases, seed)
    rng = np.random.default_rng(seed + 1)
    top = z.argmax(1)
    return z, np.where(rng.random(top.shape) < 0.2, (top + 1) % 4, top)


def layers(classes: int, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    g = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(a, b, generator=g, dtype=torch.float64), torch.randn(a, generator=g, dtype=torch.float64))
        for a, b in shapes(classes)
    ]


def settings_of(calibrator: Calibrator) -> dict[str, Any]:
    assert calibrator.solution is not None
    return dict(calibrator.solution.settings)


@pytest.fixture(scope="module")
def fitted() -> Calibrator:
    return SelectiveScaling().fit(*telling(), engine=Serial())


def test_the_map_is_its_formula() -> None:
    m = SelectiveMap(layers(3, 3), 5.0, 0.5)
    x = scipy.special.log_softmax(3 * np.random.default_rng(0).normal(size=(3, 200)), 0)
    inner = np.log(np.exp(x) + 1e-16)
    for k, (w, b) in enumerate(layers(3, 3)):
        inner = w.numpy() @ inner + b.numpy()[:, None]
        inner = np.maximum(inner, 0) if k < 3 else inner
    temperature = np.where(inner[0] >= inner[1], 5.0, 0.5)
    assert set(temperature) == {5.0, 0.5}
    np.testing.assert_allclose(m(torch.from_numpy(x)), scipy.special.log_softmax(x / temperature, 0), atol=1e-12)


def test_layers_hold_the_batch_normalisation_of_the_trained_net(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    build = selectors._net
    monkeypatch.setattr(selectors, "_net", lambda classes: made.append(build(classes)) or made[-1])
    rng = np.random.default_rng(0)
    x = scipy.special.log_softmax(rng.normal(size=(4, 600)), 0)
    voxels = Voxels(x, rng.random(600) < 0.7)
    found = learnt(voxels, voxels, Schooling(1e-2, 1e-6, 3, 64, "copy", 0))
    (net,) = made
    net.eval()
    with torch.no_grad():
        outputs = net(torch.from_numpy(x).T.float())
    doubt = SelectiveMap(found.layers, 2.0, 1.0).doubt(torch.from_numpy(x))
    np.testing.assert_allclose(doubt, outputs[:, 0] - outputs[:, 1], atol=1e-5)
    assert found.validation == min(row[2] for row in found.curve)
    assert [row[0] for row in found.curve] == [1.0, 2.0, 3.0]


def test_mispredicted_voxels_weigh_twice_or_as_much_together() -> None:
    voxels = Voxels(np.zeros((3, 100)), np.arange(100) >= 10)
    assert weights(voxels, "copy") == (2.0, 1.0)
    wrong, right = weights(voxels, "equal")
    assert 10 * wrong == pytest.approx(90 * right)


def test_it_finds_what_can_be_told(fitted: Calibrator) -> None:
    found = settings_of(fitted)["selector"]
    assert found["recall"] > 0.7
    assert found["precision"] > 0.8
    assert found["auroc_low"] > 0.75
    assert found["entropy_auroc"] < 0.6
    assert fitted.maps[0].describe()["temperature of mispredicted"] == 1e10
    other = cohort_from_arrays(*telling(seed=9), kind="logits")
    result = evaluate(other, fitted, Serial())
    assert result.calibrated is not None
    assert result.calibrated.block["ece"] < 0.5 * result.uncalibrated.block["ece"]


def test_where_nothing_can_be_told_the_scores_stay() -> None:
    z, y = blind()
    made = SelectiveScaling(epochs=8).fit(z, y, engine=Serial())
    assert isinstance(made.maps[0], ScaleMap)
    assert made.solution is not None
    assert "learns nothing" in made.solution.message
    found = settings_of(made)["selector"]
    assert found["auroc_low"] <= 0.5 <= found["auroc_high"]
    np.testing.assert_allclose(made(torch.from_numpy(z)), scipy.special.softmax(z, 1), atol=1e-6)


def test_where_no_voxel_is_wrong_the_scores_stay() -> None:
    z, _ = telling(3)
    made = SelectiveScaling(epochs=2).fit(z, z.argmax(1), engine=Serial())
    assert isinstance(made.maps[0], ScaleMap)
    assert made.solution is not None
    assert "nothing to tell apart" in made.solution.message


@pytest.mark.parametrize(("recall", "expected"), [(0.9, 1e10), (0.51, 1e10), (0.34, 2.0), (0.0, 2.0)])
def test_the_recall_decides_on_t1(recall: float, expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judged.of
    monkeypatch.setattr(Judged, "of", lambda *given: replace(judge(*given), recall=recall))
    made = SelectiveScaling(epochs=3).fit(*telling(), engine=Serial())
    assert made.maps[0].describe()["temperature of mispredicted"] == expected


def test_in_between_the_lowest_ece_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judged.of
    monkeypatch.setattr(Judged, "of", lambda *given: replace(judge(*given), recall=0.4))
    z, y = telling()
    method = SelectiveScaling(epochs=10, t2=1.0)
    held = cohort_from_arrays(*telling(4, seed=5), kind="logits", groups=list("efgh"))
    held = replace(held, cases=tuple(replace(c, id=f"held {c.id}") for c in held))
    cohort = cohort_from_arrays(z, y, kind="logits", groups=list("abcdijkl"))
    made = fit_methods({"it": method}, cohort, Serial(), validation=held)["it"].calibrator
    found = float(made.maps[0].describe()["temperature of mispredicted"])  # type: ignore[arg-type]
    errors = {}
    for high in HIGH:
        one = fit_methods({"it": replace(method, t1=high)}, cohort, Serial(), validation=held)["it"].calibrator
        per_case = []
        for k in range(4):
            p = one(torch.from_numpy(telling(4, seed=5)[0][k : k + 1])).numpy()[0].reshape(4, -1)
            top, right = p.max(0), telling(4, seed=5)[0][k].argmax(0).ravel() == telling(4, seed=5)[1][k].ravel()
            bins = np.clip(np.ceil(top * 10).astype(int) - 1, 0, 9)
            gaps = [abs(top[bins == b].sum() - right[bins == b].sum()) for b in range(10)]
            per_case.append(sum(gaps) / len(top))
        errors[high] = np.mean(per_case)
    assert found == min(errors, key=lambda t: errors[t])


def test_unsure_scores_are_sharpened() -> None:
    z, y = telling()
    made = SelectiveScaling().fit(0.3 * z, y, engine=Serial())
    assert float(made.maps[0].describe()["temperature of others"]) < 1  # type: ignore[arg-type]


@pytest.mark.parametrize("on", ["", "ts", "bts", "cms-op", "lts"])
def test_no_label_changes_in_arrays_and_files(on: str, tmp_path: Path) -> None:
    z, y = telling(4)
    # an almost tie, which T1 = 1e10 leaves no float32 to tell
    z[:, 1] = np.nextafter(z[:, 0], np.float32(10))
    cohort = cohort_from_arrays(z, y, kind="logits")
    made = SelectiveScaling(on=on, t1=1e10, epochs=25).fit(cohort, engine=Serial())
    made.save(tmp_path / "cal.safetensors")
    again = load(tmp_path / "cal.safetensors")
    assert isinstance(again.maps[0], Composed if on else SelectiveMap)
    assert again.guarantees().preserves_argmax == "proven"
    p = again(torch.from_numpy(z))
    assert float(p.amax(1).min()) < 0.26
    np.testing.assert_array_equal(p.argmax(1), z.argmax(1))
    apply(again, cohort, NpzSink(tmp_path / "out"), Serial())
    for case, one in zip(cohort, z, strict=True):
        np.testing.assert_array_equal(
            np.load(tmp_path / "out" / f"{case.id}.npz")["probabilities"].argmax(0), one.argmax(0)
        )
    found = evaluate(cohort, again, Serial(), fitted="include").calibrated
    assert found is not None
    assert not found.block["flip_rate"]


def test_it_sees_what_it_stands_on() -> None:
    """Of a map that changes labels, the errors that are left."""
    z, y = telling()
    made = SelectiveScaling(on="dc", epochs=5).fit(z, y, engine=Serial())
    assert isinstance(made.maps[0], Composed)
    assert made.maps[0].named == "affine > selective"
    assert made.guarantees().preserves_argmax == "no"
    assert made.solution is not None
    assert "on dc" in made.solution.message


def test_the_same_bits_for_any_engine_and_seed() -> None:
    cohort: Cohort = cohort_from_arrays(*telling(4), kind="logits")

    def bits(engine: Any, seed: int) -> bytes:
        made = fit_methods({"it": SelectiveScaling(epochs=3, seed=seed)}, cohort, engine)["it"].calibrator
        return b"".join(t.numpy().tobytes() for t in made.maps[0].state_dict().values())

    assert bits(Serial(), 0) == bits(Threads(2), 0) == bits(Threads(3), 0)
    assert bits(Serial(), 0) != bits(Serial(), 1)


def test_the_area_under_the_curve() -> None:
    score = np.array([0.1, 0.4, 0.4, 0.9])
    assert auroc(score, np.array([False, False, True, True])) == pytest.approx(3.5 / 4)
    assert np.isnan(auroc(score, np.ones(4, bool)))


def test_one_group_is_judged_as_it_is() -> None:
    none = clustered_mean([0.8], ["only"])
    judged = Judged(0.5, 0.5, none, none, 0.9, 0.9)
    assert judged.learnt
    assert not replace(judged, auroc=clustered_mean([0.45], ["only"])).learnt


def test_a_selector_that_picks_nothing_says_so() -> None:
    sample = Sample(4, np.arange(4.0), np.array([0, 1, 0, 1]), np.array([0, 1, 1, 1]), np.log(np.full((2, 4), 0.5)))
    never = [(torch.zeros(a, b), torch.zeros(a)) for a, b in shapes(2)]
    never[-1] = (never[-1][0], torch.tensor([0.0, 1.0]))
    found = Judged.of(selectors.Selector(never, 1, 0.1, []), [sample], ["a"])
    assert found.recall == 0
    assert "picks none" in found.sentence()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"balance": "half"}, "'copy' or 'equal'"),
        ({"t1": 0.0}, "above 0 or 'auto'"),
        ({"t2": "high"}, "above 0 or 'auto'"),
        ({"on": "selective"}, "another method"),
        ({"on": "no-such"}, "another method"),
        ({"sample": 0}, "sample"),
        ({"epochs": 0}, "epochs"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SelectiveScaling(**options)


def test_layers_are_checked() -> None:
    with pytest.raises(UsageError, match="layers"):
        SelectiveMap(layers(3)[:2], 2.0, 1.0)
    with pytest.raises(UsageError, match="temperatures"):
        SelectiveMap(layers(3), 0.0, 1.0)
    assert MetaCal().drawn(3).classes is None
