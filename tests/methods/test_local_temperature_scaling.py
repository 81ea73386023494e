"""Local temperature scaling: the start, the symmetry trap, learning what is there to learn, early stopping,
determinism, regions, images, cross-fitting.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from segcal import LocalTemperatureScaling, TemperatureScaling, cohort_from_arrays, crossfitted, evaluate
from segcal.data.cohort import Cohort
from segcal.data.head import Regions
from segcal.engine.need import MIB
from segcal.engine.serial import Serial
from segcal.engine.threads import Threads
from segcal.errors import LabelError, MissingError, ShapeError, UsageError
from segcal.fitting.training import Examples, Settings, train
from segcal.methods import find
from segcal.methods.local.fit import TreeModel
from segcal.methods.local.map import LocalMap
from segcal.methods.method import fit_methods

SHAPE = (32, 40)
QUICK: dict[str, Any] = {"epochs": 4, "patience": 3, "learning_rate": 3e-3}


def field(
    cases: int = 6, shape: tuple[int, ...] = SHAPE, seed: int = 0, classes: int = 3
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, labels and images of a network that is far too sure in the bright half of each image and right in the
    dark one; its scores are larger there too.
    """
    rng = np.random.default_rng(seed)
    bright = (np.arange(shape[-1]) >= shape[-1] // 2) * np.ones(shape)
    image = bright[None] + 0.05 * rng.normal(size=(cases, *shape))
    truth = 1.5 * rng.normal(size=(cases, classes, *shape))
    p = np.exp(truth) / np.exp(truth).sum(1, keepdims=True)
    labels = (p.cumsum(1) < rng.random((cases, 1, *shape))).sum(1).clip(0, classes - 1)
    return truth * (1 + 3 * bright), labels, image


def cohort(cases: int = 6, **options: Any) -> Cohort:
    z, y, image = field(cases, **options)
    return cohort_from_arrays(z, y, fields={"image": image})


def by_case(cases: int = 12, shape: tuple[int, ...] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels of a network that is far too sure in every other case."""
    z, y, _ = field(cases, shape)
    return (
        z
        / (1 + 3 * (np.arange(shape[-1]) >= shape[-1] // 2))
        * np.where(np.arange(cases) % 2, 4.0, 1.0)[:, None, None, None],
        y,
    )


def nll(method: Any, of: Cohort) -> float:
    return float(method.fit(of, engine=Serial()).solution.nll)


@pytest.mark.parametrize(("classes", "count"), [(2, 357), (5, 882), (20, 3507)])
def test_parameters_are_those_of_the_paper(classes: int, count: int) -> None:
    made = LocalMap.start(classes)
    assert made.weight.numel() + made.bias.numel() == count == made.describe()["parameters"]
    with_image = LocalMap.start(classes, image_mean=torch.zeros(3), image_scale=torch.ones(3))
    assert with_image.describe()["parameters"] == count + (25 * 3 + 1) + (25 * classes + 1)


@pytest.mark.parametrize("start", ["identity", "ts"])
def test_the_gates_get_a_signal(start: str) -> None:
    """The symmetry trap (definitions 3.1): with equal gates all leaves stay alike and no gate ever learns."""
    of = cohort(4)
    examples = Examples(of, Serial(), 2**30)
    method = LocalTemperatureScaling(start=start)
    seen: list[list[torch.Tensor]] = []

    def gradients(first: LocalMap) -> list[float]:
        seen.clear()
        settings = Settings(1e-2, 0.0, 1, 1, 4, 1, 0)
        cases = [(examples, i) for i in range(len(of))]
        train(
            TreeModel(method, 0, first),
            [first.weight, first.bias],
            cases,
            cases,
            settings,
            Serial(),
            lambda step, found: seen.append([g.clone() for g in found]),
        )
        return [float(found[0][4:].abs().max()) for found in seen]

    random = LocalMap.start(3)
    equal = LocalMap(torch.zeros_like(random.weight), random.bias)
    assert gradients(random)[0] == 0
    assert min(gradients(random)[1:]) > 1e-6
    assert max(gradients(equal)) <= 1e-12


@pytest.fixture(scope="module")
def learnt() -> Any:
    """Fitted with few epochs on cases of seed 0."""
    return LocalTemperatureScaling(epochs=8, learning_rate=3e-3).fit(cohort(), engine=Serial())


def test_it_learns_a_temperature_that_varies_in_space(learnt) -> None:
    of, other = cohort(), cohort(seed=1)
    assert learnt.solution.nll < nll(TemperatureScaling(), of) - 0.02
    held = evaluate(other, learnt, Serial()).calibrated.block["nll"]
    assert (
        held < evaluate(other, TemperatureScaling().fit(of, engine=Serial()), Serial()).calibrated.block["nll"] - 0.02
    )
    tau = temperature(learnt, field(seed=1)[0])
    assert np.median(tau[..., 20:]) > 2 * np.median(tau[..., :20])
    assert learnt.guarantees().preserves_order == learnt.guarantees().translation_invariant == "proven"


def temperature(calibrator: Any, z: np.ndarray) -> np.ndarray:
    """tau, read off differences of log-probabilities of two classes: x_a - x_b over u_a - u_b."""
    x, u = torch.from_numpy(z), calibrator.log_probs(torch.from_numpy(z))
    return ((x[:, 0] - x[:, 1]) / (u[:, 0] - u[:, 1])).numpy()


def test_the_image_tells_what_scores_do_not() -> None:
    z, y, image = field()
    flat = z / np.where(image > 0.5, 4, 1)[:, None]
    rng = np.random.default_rng(2)
    # most labels are drawn at random where the image is bright; scores look the same everywhere
    y = np.where((image > 0.5) & (rng.random(y.shape) < 0.8), rng.integers(0, 3, y.shape), y)
    blind = LocalTemperatureScaling(**QUICK).fit(flat, y, engine=Serial())
    seeing = LocalTemperatureScaling(image=True, **QUICK).fit(flat, y, image=image, engine=Serial())
    assert seeing.solution.nll < blind.solution.nll - 0.01
    assert seeing.needs.fields == ("image",)
    p = seeing(torch.from_numpy(flat), image=torch.from_numpy(image))
    assert torch.equal(p.argmax(1), torch.from_numpy(flat).argmax(1))
    with pytest.raises(UsageError, match="image: found nothing"):
        seeing(torch.from_numpy(flat))
    with pytest.raises(UsageError, match="image: found a value"):
        blind(torch.from_numpy(flat), image=torch.from_numpy(image))


def test_an_image_s_unit_does_not_matter() -> None:
    z, y, image = field(4)
    made = [
        LocalTemperatureScaling(image=True, **QUICK).fit(z, y, image=scale * image + 7 * scale, engine=Serial())
        for scale in (1.0, 1000.0)
    ]
    assert made[0].solution.nll == pytest.approx(made[1].solution.nll, abs=1e-5)


def test_a_temperature_a_case() -> None:
    """IBTS: cases that are more or less sure get temperatures of their own."""
    z, y = by_case()
    of = cohort_from_arrays(z, y)
    calibrator = LocalTemperatureScaling(level="image", epochs=6, learning_rate=3e-3).fit(of, engine=Serial())
    assert calibrator.solution.nll < nll(TemperatureScaling(), of) - 0.02
    tau = temperature(calibrator, z).reshape(12, -1)
    assert (np.ptp(tau, 1) < 1e-6 * tau.max(1)).all()
    assert np.median(tau[1::2, 0]) > 2 * np.median(tau[::2, 0])


@pytest.mark.parametrize(
    "options",
    [{}, {"level": "image"}, {"image": True}, {"source": "logits", "patch": 700, "draws": 2, "learning_rate": 1e-3}],
    ids=str,
)
def test_the_same_bits_for_any_workers_memory_and_order_of_cases(options: dict[str, Any]) -> None:
    of = cohort_from_arrays(*by_case(6, (16, 20))) if "level" in options else cohort()
    method = LocalTemperatureScaling(**{**QUICK, "epochs": 2, **options})
    small = Threads(2)
    small.max_memory = 0
    turned = Cohort(tuple(reversed(of.cases)), of.head, of.kind, of.pool)
    found = [
        method.fit(c, engine=e).state_dict()
        for c, e in ((of, Serial()), (of, Threads(3)), (of, Serial(256 * MIB)), (of, small), (turned, Serial()))
    ]
    assert float(found[0]["maps.0.weight"][:4].abs().max()) > 0
    for other in found[1:]:
        assert {k: v.numpy().tobytes() for k, v in other.items()} == {
            k: v.numpy().tobytes() for k, v in found[0].items()
        }
    again = replace(method, seed=1).fit(of, engine=Serial()).state_dict()
    assert not torch.equal(again["maps.0.weight"], found[0]["maps.0.weight"])


def test_the_gradient_is_the_slope_of_the_loss() -> None:
    """Voxel level and image level, against differences of the loss; float32 arithmetic sets the tolerance."""
    of = cohort(2)
    examples = Examples(of, Serial(), 2**30, {"image"})
    for options in ({}, {"image": True}, {"level": "image"}, {"level": "image", "image": True, "patch": 100}):
        method = LocalTemperatureScaling(**options)
        first = (
            LocalMap.start(3, image_mean=torch.tensor([0.5]), image_scale=torch.tensor([0.5]))
            if method.image
            else LocalMap.start(3)
        )
        model = TreeModel(method, 0, first)
        rng = np.random.default_rng(0)
        start = [first.weight, first.bias, *([first.image_weight, first.image_bias] if method.image else [])]
        start = [p + 0.02 * torch.from_numpy(rng.normal(size=p.shape)) for p in start]
        unit = model.units(examples, 0)[0]
        _, _, gradients = model.loss(unit, start, True)
        direction = [torch.from_numpy(rng.normal(size=p.shape)) for p in start]
        step = 1e-3
        up, down = (
            model.loss(unit, [p + s * step * d for p, d in zip(start, direction, strict=True)], False)[0]
            for s in (1, -1)
        )
        slope = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
        assert slope == pytest.approx((up - down) / (2 * step), rel=2e-2), options


def test_a_patch_or_the_whole_gives_the_same_loss() -> None:
    of = cohort(2)
    examples = Examples(of, Serial(), 2**30)
    parameters = [LocalMap.start(3).weight + 0.03, LocalMap.start(3).bias]
    for level in ("voxel", "image"):
        losses = []
        for patch in (40, 300, 10_000):
            model = TreeModel(LocalTemperatureScaling(level=level, patch=patch), 0, LocalMap.start(3))
            found = [model.loss(u, parameters, False) for u in model.units(examples, 1)]
            losses.append((sum(f[0] for f in found), sum(f[1] for f in found)))
        assert losses[0][1] == losses[1][1] == losses[2][1] == 1280
        assert [v for v, _ in losses] == pytest.approx([losses[0][0]] * 3, rel=1e-5)


def test_early_stopping_keeps_the_best_and_ends() -> None:
    calibrator = LocalTemperatureScaling(learning_rate=0.02, patience=4, epochs=60).fit(cohort(), engine=Serial())
    settings = calibrator.solution.settings
    curve = settings["curve"]
    best = min(row[2] for row in curve)
    assert len(curve) - 1 < 60
    assert settings["validation"] == best
    assert curve[int(calibrator.solution.message.split()[1])][2] == best
    assert len(curve) - 1 - int(calibrator.solution.message.split()[1]) == 4
    assert curve[-1][3] < 0.02 or len(curve) < 7
    assert calibrator.solution.status == "trained"


def test_the_number_of_epochs_stops_it_and_that_is_said() -> None:
    calibrator = LocalTemperatureScaling(epochs=2).fit(cohort(), engine=Serial())
    assert calibrator.solution.status == "stopped"
    assert "raise epochs" in calibrator.solution.message


def test_temperature_scaling_kept_by_a_training_cut_short_is_stopped_too() -> None:
    """Status and message agree: where epochs ended it, more of them might have found a lower NLL."""
    solution = LocalTemperatureScaling(epochs=1, learning_rate=10.0).fit(cohort(), engine=Serial()).solution
    assert "temperature scaling kept" in solution.message
    assert "raise epochs" in solution.message
    assert solution.status == "stopped"


def test_weight_decay_pulls_to_the_identity() -> None:
    free, held = (
        LocalTemperatureScaling(start="identity", weight_decay=a, **QUICK).fit(cohort(), engine=Serial())
        for a in (0.0, 0.03)
    )
    assert 0 < held.maps[0].weight[:4].norm() < free.maps[0].weight[:4].norm()


def test_a_validation_cohort_is_what_it_stops_by() -> None:
    of, good = cohort(4), cohort(4, seed=3)
    # the same scores, but here the bright half is right to be sure, and the dark half knows nothing
    z, y, image = field(4, seed=3)
    wrong = cohort_from_arrays(z, np.where(image > 0.5, z.argmax(1), np.random.default_rng(0).integers(0, 3, y.shape)))
    with_good, with_wrong = (
        LocalTemperatureScaling(**QUICK).fit(of, validation=v, engine=Serial()) for v in (good, wrong)
    )
    assert "validated on 4 validation cases" in with_good.solution.message
    assert with_good.solution.settings["epoch"] > 0
    assert with_wrong.solution.settings["epoch"] == 0
    with pytest.raises(UsageError, match="validation"):
        TemperatureScaling().fit(of, validation=good, engine=Serial())
    with pytest.raises(UsageError, match="validation"):
        LocalTemperatureScaling().fit(of, validation=cohort(2, classes=4), engine=Serial())


def test_never_above_temperature_scaling_whatever_happens() -> None:
    """Noise to learn from, and a learning rate that throws everything away."""
    rng = np.random.default_rng(0)
    of = cohort_from_arrays(rng.normal(size=(4, 3, 9, 9)), rng.integers(0, 3, (4, 9, 9)))
    for options in ({}, {"learning_rate": 50.0}, {"start": "identity", "epochs": 1}):
        calibrator = LocalTemperatureScaling(**options).fit(of, engine=Serial())
        assert calibrator.solution.nll <= nll(TemperatureScaling(), of) + 1e-7
        assert calibrator.solution.certificate["gap"] is None
        assert calibrator.solution.certificate["below_temperature_scaling"] > -1e-7


def test_volumes_learn_in_planes_of_the_axis_asked_for() -> None:
    z, y, _ = field(4, shape=(4, 16, 20))
    made = [LocalTemperatureScaling(slice_axis=axis, **QUICK).fit(z, y, engine=Serial()) for axis in (0, 1)]
    assert made[0].solution.nll != made[1].solution.nll
    turned = LocalTemperatureScaling(slice_axis=1, **QUICK).fit(
        np.moveaxis(z, 2, 3), np.moveaxis(y, 1, 2), engine=Serial()
    )
    assert turned.solution.nll == pytest.approx(made[0].solution.nll, abs=1e-6)


def test_ignored_and_masked_voxels_are_context_without_loss() -> None:
    z, y, _ = field(5)
    hidden = np.zeros(y.shape, bool)
    hidden[:, ::3] = True
    strange = np.where(hidden, 255, y)
    ignored = LocalTemperatureScaling(**QUICK).fit(z, strange, ignore_index=255, engine=Serial())
    masked = LocalTemperatureScaling(**QUICK).fit(z, y, mask=~hidden, engine=Serial())
    assert torch.equal(ignored.maps[0].weight, masked.maps[0].weight)
    other = z.copy()
    other[np.broadcast_to(hidden[:, None], z.shape)] *= 3
    assert not torch.equal(
        LocalTemperatureScaling(**QUICK).fit(other, y, mask=~hidden, engine=Serial()).maps[0].weight,
        masked.maps[0].weight,
    )


def test_a_region_each() -> None:
    z, _, _ = field(8, (48, 64), classes=2)
    bright = np.arange(64) >= 32
    inside = np.random.default_rng(5).random(z.shape) < 1 / (1 + np.exp(-z / (1 + 3 * bright)))
    y = inside[:, 0].astype(int) + (inside[:, 0] & inside[:, 1])
    head = Regions(("whole", "core"), ((1, 2), (2,)), (1, 2))
    of = cohort_from_arrays((1 / (1 + np.exp(-z))), y, kind="probs", head=head)
    calibrator = LocalTemperatureScaling(source="logits", epochs=5).fit(of, engine=Serial())
    plain = TemperatureScaling().fit(of, engine=Serial())
    assert set(calibrator.solution.parts) == {"whole", "core"}
    assert "only probabilities are known" in calibrator.solution.message
    assert calibrator.solution.parts["whole"].nll < plain.solution.parts["whole"].nll - 1e-3
    assert calibrator.guarantees().translation_invariant == "proven"


def test_crossfitted_beside_other_methods() -> None:
    of = cohort()
    fits = fit_methods(
        {"ts": TemperatureScaling(), "lts": LocalTemperatureScaling(**QUICK)}, of, Serial(), crossfit=True, folds=2
    )
    assert len(fits["lts"].held_out) == 2
    for fold, calibrator in zip(fits["lts"].folds, fits["lts"].held_out, strict=True):
        alone = LocalTemperatureScaling(**QUICK).fit(
            of.select([c.id for i, c in enumerate(of) if i not in fold]), engine=Serial()
        )
        assert torch.allclose(alone.maps[0].weight, calibrator.maps[0].weight, atol=1e-6)
    found = crossfitted(of, fits, Serial())
    assert found["lts"].calibrated.block["nll"] < found["ts"].calibrated.block["nll"]


@pytest.mark.parametrize("shape", [(1, 1), (3, 30), (4, 4), (1, 2, 3)])
def test_small_planes(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(3, 3, *shape)), rng.integers(0, 3, (3, *shape))
    calibrator = LocalTemperatureScaling(**QUICK).fit(z, y, engine=Serial())
    p = calibrator(torch.from_numpy(z))
    assert torch.isfinite(p).all()
    assert torch.equal(p.argmax(1), torch.from_numpy(z).argmax(1))


def test_what_cannot_be_done_is_said() -> None:
    z, y, image = field(3)
    with pytest.raises(ShapeError, match="a voxel of a table has no neighbours"):
        LocalTemperatureScaling().fit(z[0].reshape(3, -1).T, y[0].ravel(), engine=Serial())
    with pytest.raises(ShapeError, match="a voxel of a table has no neighbours"):
        LocalTemperatureScaling(epochs=1).fit(z, y, engine=Serial())(torch.zeros(5, 3))
    with pytest.raises(MissingError, match=r"no image .*--images"):
        LocalTemperatureScaling(image=True).fit(z, y, engine=Serial())
    with pytest.raises(UsageError, match="image: found a value"):
        LocalTemperatureScaling().fit(z, y, image=image, engine=Serial())
    with pytest.raises(LabelError, match="no voxel to score"):
        LocalTemperatureScaling().fit(z, np.full_like(y, 9), ignore_index=9, engine=Serial())


@pytest.mark.parametrize(
    "options",
    [
        {"source": "probs"},
        {"level": "case"},
        {"slice_axis": 3},
        {"learning_rate": 0.0},
        {"learning_rate": np.nan},
        {"weight_decay": -1.0},
        {"epochs": 0},
        {"patch": 0},
        {"seed": -1},
    ],
    ids=str,
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        LocalTemperatureScaling(**options)


def test_names() -> None:
    names = list(LocalTemperatureScaling.variants())
    assert names == ["lts", "lts-raw", "lts-image"]
    assert [find(name)().method for name in names] == names
    assert LocalTemperatureScaling(level="image", image=True).method == "lts-image"
