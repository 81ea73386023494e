"""Boundary temperature scaling: a planted field found again, SciPy's optimum, what is kept, units, regions, another
method underneath, what is refused.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, uniform_filter

from segcal import BoundaryTemperatureScaling, TemperatureScaling, cohort_from_arrays, evaluate, load, recommend
from segcal.data.cohort import Cohort
from segcal.data.head import Regions, Softmax
from segcal.data.places.label_map import boundary
from segcal.engine.serial import Serial
from segcal.engine.threads import Threads
from segcal.errors import MissingError, ShapeError, UsageError
from segcal.methods import find
from segcal.methods.boundary.fit import ENTROPIES
from segcal.methods.boundary.look import Look
from segcal.methods.boundary.map import BoundaryMap
from segcal.methods.calibrator import Calibrator
from segcal.methods.composed import Composed
from segcal.methods.method import fit_methods
from segcal.methods.temperature import ScaleMap
from segcal.testing.watching import spilling

SHAPE = (48, 56)
PLANTED = (2.5, 2.0, 1.5, 1.0, 0.7, 0.7)
"""T at the knots 0 1 2 4 8 16."""

KNOTS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)


def distances(z: NDArray[Any], sampling: Any = None) -> NDArray[np.float64]:
    """Of each case (C, *shape) to the boundary of its arg max, by SciPy; 16 where there is none."""
    out = []
    for one in z:
        edges = boundary(one.argmax(0).astype(np.int32))
        out.append(distance_transform_edt(~edges, sampling) if edges.any() else np.full(edges.shape, 16.0))
    return np.stack(out)


def field(z: NDArray[Any], temperatures: Any = PLANTED) -> NDArray[np.float64]:
    """T of each voxel: 1/T is linear between the knots."""
    return 1 / np.interp(distances(z), KNOTS, 1 / np.asarray(temperatures))


def sampled(z: NDArray[Any], temperature: Any, seed: int = 1) -> NDArray[np.int64]:
    """Labels drawn from S(z / T)."""
    u = z / np.asarray(temperature)
    p = np.exp(u - u.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    drawn = np.random.default_rng(seed).random((len(z), 1, *z.shape[2:]))
    return np.asarray((p.cumsum(1) < drawn).sum(1).clip(0, z.shape[1] - 1))


def smooth(cases: int, shape: tuple[int, ...] = SHAPE, classes: int = 3, seed: int = 0) -> NDArray[np.float64]:
    """Logits of a network that sees blobs; float32 numbers."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(cases, classes, *shape))
    found = gaussian_filter(noise, (0, 0, *(5.0 for _ in shape)))
    return np.asarray((3 * found / found.std()).astype(np.float32), np.float64)


@pytest.fixture(scope="module")
def planted() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    z = smooth(12)
    return z, sampled(z, field(z)[:, None])


@pytest.fixture(scope="module")
def fitted(planted: Any) -> Calibrator:
    return BoundaryTemperatureScaling().fit(*planted, engine=Serial())


def nll(calibrator: Calibrator, cohort: Cohort) -> float:
    found = evaluate(cohort, calibrator, Serial(), fitted="include").calibrated
    assert found is not None
    return float(found.block["nll"])


def test_a_planted_field_is_found_again(planted: Any, fitted: Calibrator) -> None:
    (table,) = fitted.maps[0].temperatures()["distance"].tolist()
    share = np.bincount(np.searchsorted(KNOTS[1:], distances(planted[0]).ravel()), minlength=6)
    seen = [k for k in range(6) if share[k] > 500]
    assert len(seen) >= 4
    np.testing.assert_allclose(np.array(table)[seen], np.array(PLANTED)[seen], rtol=0.12)
    z = smooth(12, seed=5)
    other = cohort_from_arrays(z, sampled(z, field(z)[:, None], 6), kind="logits")
    truth = cohort_from_arrays(z / field(z)[:, None], sampled(z, field(z)[:, None], 6), kind="logits")
    known = Calibrator(other.head, "logits", [ScaleMap(1.0)], "truth")
    alone = TemperatureScaling().fit(*planted, engine=Serial())
    assert nll(fitted, other) < nll(alone, other) - 0.01
    assert nll(fitted, other) == pytest.approx(nll(known, truth), abs=1e-3)


def test_classes_have_fields_of_their_own() -> None:
    z = smooth(16)
    hotter = np.array([1.0, 2.0, 0.6])[z.argmax(1)]
    y = sampled(z, (field(z) * hotter)[:, None])
    tables = {by: BoundaryTemperatureScaling(by=by).fit(z, y, engine=Serial()) for by in ("all", "class")}
    found = tables["class"].maps[0].temperatures()["distance"]
    np.testing.assert_allclose(found[:, 1], 2.0 * np.array([1.0, 2.0, 0.6]), rtol=0.15)
    held = smooth(8, seed=3)
    cohort = cohort_from_arrays(
        held, sampled(held, (field(held) * np.array([1.0, 2.0, 0.6])[held.argmax(1)])[:, None], 9), kind="logits"
    )
    assert nll(tables["class"], cohort) < nll(tables["all"], cohort) - 0.01


@pytest.mark.parametrize("name", ["bts", "bts-class", "bts-both"])
def test_where_there_is_no_field_nothing_is_lost(name: str) -> None:
    z, held = smooth(12), smooth(40, seed=7)
    y, cohort = sampled(z, 1.6), cohort_from_arrays(held, sampled(held, 1.6, 8), kind="logits")
    method = find(name)
    assert method is not None
    lost = nll(method().fit(z, y, engine=Serial()), cohort) - nll(
        TemperatureScaling().fit(z, y, engine=Serial()), cohort
    )
    assert lost <= 0.0005


def rows_of(z: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log-probabilities (n, C) and hat functions (n, 6)."""
    flat = np.moveaxis(z, 1, -1).reshape(-1, z.shape[1])
    flat = flat - np.log(np.exp(flat).sum(1, keepdims=True))
    d = distances(z).ravel()
    return flat.astype(np.float32).astype(float), np.stack([np.interp(d, KNOTS, np.eye(6)[k]) for k in range(6)], 1)


def test_the_optimum_is_that_of_scipy(planted: Any) -> None:
    z, y = planted
    made = BoundaryTemperatureScaling(lambda_=0.01, eps=1e-8).fit(z, y, engine=Serial())
    beta = 1 / made.solution.settings["temperature"]
    x, phi = rows_of(z)
    picked = x[np.arange(len(x)), y.ravel()]

    def objective(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        b = phi @ w
        u = b[:, None] * x
        top = u.max(1, keepdims=True)
        e = np.exp(u - top)
        value = float(np.mean(np.log(e.sum(1)) + top[:, 0] - b * picked))
        slope = phi.T @ ((e * x).sum(1) / e.sum(1) - picked) / len(x)
        away = w / beta - 1
        return value + (0.01 + 1e-8) * float(np.mean(away**2)), slope + 2 * (0.01 + 1e-8) * away / beta / len(w)

    found = scipy.optimize.minimize(
        objective,
        np.full(6, beta),
        jac=True,
        method="L-BFGS-B",
        bounds=[(1e-4, None)] * 6,
        options={"ftol": 1e-16, "gtol": 1e-12, "maxiter": 1000},
    )
    assert made.solution.certificate["gap"] <= 1e-9
    assert made.solution.objective <= found.fun + 1e-9
    assert objective(made.maps[0].weight.numpy())[0] == pytest.approx(made.solution.objective, abs=1e-9)
    np.testing.assert_allclose(made.maps[0].weight.numpy(), found.x, rtol=1e-4)


@pytest.mark.parametrize("name", ["bts", "bts-class", "bts-both"])
def test_label_order_and_offset(name: str, planted: Any, tmp_path: Path) -> None:
    z, y = planted
    method = find(name)
    assert method is not None
    made = method().fit(z, y, engine=Serial())
    assert made.method == name
    given = made.guarantees()
    assert (given.preserves_argmax, given.preserves_order, given.translation_invariant) == ("proven",) * 3
    p = made(z)
    assert torch.equal(p.argmax(1), torch.from_numpy(z.argmax(1)))
    order = torch.from_numpy(z).argsort(dim=1, stable=True)
    ranked = made.log_probs(z).gather(1, order)
    assert bool((ranked.diff(dim=1) >= 0).all())
    # numbers of which sums with the offset are exact; the free energy that is subtracted again is rounded
    coarse = np.round(z * 2**10) / 2**10
    torch.testing.assert_close(made.log_probs(coarse + 64.0), made.log_probs(coarse), rtol=0, atol=1e-13)
    made.save(tmp_path / "cal.safetensors")
    again = load(tmp_path / "cal.safetensors")
    assert torch.equal(again(z), p)
    assert again.maps[0].describe() == made.maps[0].describe()


def test_fields_are_the_same_for_any_cut_and_in_arrays(planted: Any, fitted: Calibrator) -> None:
    """A case of several blocks, by windows and at once."""
    z = smooth(1, (300, 280), seed=4)
    cohort = cohort_from_arrays(z, sampled(z, 1.0), kind="logits")
    both = fit_methods({"bts-both": BoundaryTemperatureScaling(of="both", by="class")}, cohort, Serial())
    for calibrator in (fitted, both["bts-both"].calibrator):
        whole = -calibrator.log_probs(z).gather(1, torch.from_numpy(sampled(z, 1.0))[:, None]).mean()
        assert nll(calibrator, cohort) == pytest.approx(float(whole), abs=1e-12)


def test_the_same_bits_for_any_engine_and_memory(planted: Any) -> None:
    cohort = cohort_from_arrays(*planted, kind="logits")
    method = BoundaryTemperatureScaling(of="both", by="class")

    def bits(engine: Any) -> bytes:
        made = fit_methods({"it": method}, cohort, engine)["it"].calibrator
        return made.maps[0].weight.numpy().tobytes()

    assert len({bits(engine) for engine in (Serial(), Threads(2), Threads(3), spilling(Threads(2)))}) == 1


@pytest.mark.parametrize("reach", [0, 1, 3])
def test_entropies_are_means_over_what_is_within_reach(reach: int, planted: Any, tmp_path: Path) -> None:
    z, y = planted
    fitted = BoundaryTemperatureScaling(of="entropy", reach=reach).fit(z[:4], y[:4], engine=Serial())
    p = scipy.special.softmax(z[4:6], 1)
    entropy = scipy.stats.entropy(p, axis=1) / np.log(3)
    mean = np.stack([uniform_filter(one, 2 * reach + 1, mode="mirror") for one in entropy])
    beta = np.interp(mean, ENTROPIES, fitted.maps[0].weight.numpy())
    expected = scipy.special.log_softmax(z[4:6] * beta[:, None], 1)
    fitted.save(tmp_path / "cal.safetensors")
    again = load(tmp_path / "cal.safetensors")
    for one in (fitted, again):
        np.testing.assert_allclose(one.log_probs(torch.from_numpy(z[4:6])), expected, atol=1e-5)
    assert evaluate(cohort_from_arrays(z[4:6], y[4:6], kind="logits"), again, Serial()).calibrated is not None


def test_a_case_without_a_boundary_has_the_last_temperature(fitted: Calibrator) -> None:
    z = np.zeros((1, 3, 5, 7))
    z[:, 1] = 2.0
    expected = torch.log_softmax(torch.from_numpy(z) * fitted.maps[0].weight[-1], 1)
    torch.testing.assert_close(fitted.log_probs(z), expected, atol=1e-12, rtol=0)


def test_what_the_network_did_not_see_is_no_boundary(fitted: Calibrator) -> None:
    z = np.zeros((1, 3, 4, 20))
    z[:, 1] = 2.0
    z[..., 10:] = 0
    z[:, 2, :, 10:] = 2.0
    seen = np.arange(20) < 10 * np.ones((4, 1))
    at_edge, without = (fitted.log_probs(z, counted=c)[0, :, 0, 9] for c in (None, seen[None]))
    weight = fitted.maps[0].weight
    x = torch.from_numpy(z[0, :, 0, 9])
    torch.testing.assert_close(at_edge, torch.log_softmax(weight[0] * x, 0), atol=1e-12, rtol=0)
    torch.testing.assert_close(without, torch.log_softmax(weight[-1] * x, 0), atol=1e-12, rtol=0)


def spaced(cohort: Cohort, spacing: tuple[float, ...] | None) -> Cohort:
    return replace(cohort, cases=tuple(replace(case, spacing=spacing) for case in cohort))


def test_distances_are_in_mm_where_every_case_has_a_spacing(planted: Any) -> None:
    z, y = planted
    plain = cohort_from_arrays(z, y, kind="logits")
    fits = {
        name: BoundaryTemperatureScaling(**options).fit(cohort, engine=Serial())
        for name, options, cohort in (
            ("voxels", {}, plain),
            ("even", {}, spaced(plain, (0.5, 0.5))),
            ("thick", {}, spaced(plain, (4.0, 0.5))),
            ("by voxels", {"unit": "voxels"}, spaced(plain, (4.0, 0.5))),
        )
    }
    weights = {name: c.maps[0].weight for name, c in fits.items()}
    torch.testing.assert_close(weights["even"], weights["voxels"], rtol=1e-9, atol=0)
    torch.testing.assert_close(weights["by voxels"], weights["voxels"], rtol=0, atol=0)
    assert not torch.allclose(weights["thick"], weights["voxels"], rtol=1e-3)
    assert fits["even"].maps[0].look.distance == (0, 0.5, 1, 2, 4, 8)
    assert "distance_knots (mm)" in fits["thick"].maps[0].describe()
    torch.testing.assert_close(fits["even"](z, spacing=(0.5, 0.5)), fits["voxels"](z), rtol=1e-6, atol=1e-7)
    # a thick slice is as far as it is
    d = distances(z, (4.0, 0.5))
    beta = np.interp(d, fits["thick"].maps[0].look.distance, weights["thick"].numpy())
    expected = torch.log_softmax(torch.from_numpy(z * beta[:, None]), 1)
    torch.testing.assert_close(fits["thick"].log_probs(z, spacing=(4.0, 0.5)), expected, rtol=0, atol=1e-5)
    with pytest.raises(MissingError, match="no voxel spacing"):
        fits["even"](z)
    with pytest.raises(UsageError, match="2 lengths above 0"):
        fits["even"](z, spacing=(0.5,))
    with pytest.raises(UsageError, match="come without a voxel spacing"):
        BoundaryTemperatureScaling(unit="mm").fit(plain, engine=Serial())


def test_a_spacing_that_only_labels_have_is_not_used(planted: Any) -> None:
    """It is not known where the calibrator is applied."""
    cohort = spaced(cohort_from_arrays(*planted, kind="logits"), (0.5, 0.5))
    of_labels = replace(cohort, cases=tuple(replace(case, spacing_from_labels=True) for case in cohort))
    assert (cohort.voxel_size, of_labels.voxel_size) == (0.5, None)
    made = BoundaryTemperatureScaling().fit(of_labels, engine=Serial())
    assert "distance_knots (voxels)" in made.maps[0].describe()


def test_regions_have_boundaries_of_their_own() -> None:
    head = Regions(("whole", "core"), ((1, 2), (2,)), (1, 2))
    z = smooth(10, classes=2)
    inside = np.stack([z[:, 0], np.minimum(z[:, 0], z[:, 1])], 1)
    tempered = np.stack([inside[:, 0] / field(np.stack([0 * z[:, 0], inside[:, 0]], 1)), inside[:, 1]], 1)
    drawn = np.random.default_rng(2).random(inside.shape) < 1 / (1 + np.exp(-tempered))
    y = np.where(drawn[:, 0], np.where(drawn[:, 1], 2, 1), 0)
    made = BoundaryTemperatureScaling().fit(inside, y, head=head, engine=Serial())
    (table,) = made.maps[0].temperatures()["distance"].tolist()
    np.testing.assert_allclose(table[:4], PLANTED[:4], rtol=0.2)
    assert len(made.maps) == 2
    assert torch.equal(made(inside) > 0.5, torch.from_numpy(inside > 0))


def test_sides_need_a_background() -> None:
    z = smooth(6)
    y = sampled(z, 1.5)
    head = Softmax(("a", "b", "c"), 0)
    made = BoundaryTemperatureScaling(by="side").fit(z, y, head=head, engine=Serial())
    assert made.maps[0].temperatures()["distance"].shape == (2, 6)
    with pytest.raises(UsageError, match="none of which is the background"):
        BoundaryTemperatureScaling(by="side").fit(z, y, engine=Serial())


@pytest.mark.parametrize("name", ["bts", "bts-class", "bts-both"])
def test_tables_are_refused_with_the_reason(name: str, fitted: Calibrator) -> None:
    rng = np.random.default_rng(0)
    z, y, groups = rng.normal(size=(60, 3)), rng.integers(3, size=60), np.arange(60) % 6
    method = find(name)
    assert method is not None
    with pytest.raises(ShapeError, match="no neighbours"):
        method().fit(z, y, groups=groups, engine=Serial())
    with pytest.raises(ShapeError, match="no neighbours"):
        fitted(z)


@pytest.mark.slow
def test_auto_leaves_out_what_needs_images() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(6, 3, 50))
    cohort = cohort_from_arrays(z, sampled(z, 1.5), kind="logits")
    found = recommend(cohort, Serial())
    assert {"bts", "bts-class"} <= found.candidates.keys()
    assert "bts-both" not in found.candidates
    assert "Not compared, since they need images or volumes: bts-both." in found.reasons


def test_on_top_of_another_method(planted: Any, tmp_path: Path) -> None:
    z, y = planted
    method = BoundaryTemperatureScaling(on="dc", by="class")
    made = method.fit(z, y, engine=Serial())
    (m,) = made.maps
    assert isinstance(m, Composed)
    assert made.guarantees().preserves_argmax == m.first.guarantees().preserves_argmax
    assert made.solution.message.startswith("on dc (")
    assert made.solution.certificate["gap"] <= 1e-9
    held = smooth(8, seed=11)
    other = cohort_from_arrays(held, sampled(held, field(held)[:, None], 12), kind="logits")
    alone = find("dc")
    assert alone is not None
    assert nll(made, other) < nll(alone().fit(z, y, engine=Serial()), other) - 0.01
    made.save(tmp_path / "cal.safetensors")
    again = load(tmp_path / "cal.safetensors")
    assert torch.equal(again(z), made(z))
    assert again.solution.settings["on"] == "dc"


@pytest.mark.slow
def test_on_top_of_itself_with_outputs_it_was_fitted_on(planted: Any) -> None:
    """On temperature scaling it is what it is alone, but for what the strengths are relative to."""
    z, y = planted
    alone = BoundaryTemperatureScaling(lambda_=0.0).fit(z, y, engine=Serial())
    on = BoundaryTemperatureScaling(lambda_=0.0, on="ts", outputs="fitted").fit(z, y, engine=Serial())
    torch.testing.assert_close(on.log_probs(z), alone.log_probs(z), rtol=0, atol=1e-3)
    folds = fit_methods(
        {"it": BoundaryTemperatureScaling(on="ts")}, cohort_from_arrays(z, y, kind="logits"), Serial(), crossfit=True
    )["it"]
    assert len(folds.held_out) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"of": "image"}, "'distance' or 'entropy' or 'both'"),
        ({"reach": 9}, "reach"),
        ({"by": "voxel"}, "'all' or 'side' or 'class'"),
        ({"knots": (1.0,)}, "each above the one before"),
        ({"knots": (0.0, 2.0, 2.0)}, "each above the one before"),
        ({"lambda_": -1.0}, "0 or more"),
        ({"outputs": "new"}, "'held-out' or 'fitted'"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BoundaryTemperatureScaling(**options)


@pytest.mark.parametrize("name", ["lts", "bts", "no-such"])
def test_it_stands_on_maps_of_rows(name: str) -> None:
    z = smooth(4)
    with pytest.raises(UsageError, match="a method that maps single voxels"):
        BoundaryTemperatureScaling(on=name).fit(z, sampled(z, 1.0), engine=Serial())


def test_weights_are_positive() -> None:
    with pytest.raises(UsageError, match="6 finite numbers above 0"):
        BoundaryMap(torch.tensor([1.0, 1, 1, 0, 1, 1]), Look(KNOTS), 3)
