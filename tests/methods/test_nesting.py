"""On real predictions at lambda = mu = 0: nesting (definitions 9.4) and optimality (9.5), each method by its own
certificate and no fallback.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from segcal import Cohort
from segcal.fitting.penalties import ridge
from segcal.methods import methods as registered
from segcal.methods.affine.map import AffineMap
from segcal.methods.calibrator import Calibrator
from segcal.methods.mixture import EnsembleTemperatureScaling
from segcal.methods.temperature import TemperatureScaling

CONTAINS = [("dc", "ms-c"), ("ms", "ms-c"), ("ms", "vs")]
"""(larger, smaller) families of affine maps."""

AFFINE = ("vs", "ms", "ms-c", "dc")
CONDITIONAL = ("cdc", "cms-ap", "cms-op")


def fits(cohort: Cohort, fit: Any) -> dict[str, Calibrator]:
    """All methods, unpenalised, over shared passes."""
    methods = {
        "ts": TemperatureScaling(),
        "ets": EnsembleTemperatureScaling(),
        **{name: registered()[name](0.0, 0.0) for name in (*AFFINE, *CONDITIONAL)},
    }
    return {name: made.calibrator for name, made in fit(methods, cohort).items()}


@pytest.fixture(scope="module")
def three_classes(hippocampus: Cohort, fit: Any) -> dict[str, Calibrator]:
    return fits(hippocampus, fit)


@pytest.fixture(scope="module")
def eleven_classes(camvid: Cohort, fit: Any) -> dict[str, Calibrator]:
    return fits(camvid, fit)


@pytest.fixture(params=["three_classes", "eleven_classes"])
def fitted(request: pytest.FixtureRequest) -> Mapping[str, Calibrator]:
    return request.getfixturevalue(request.param)


def pull(m: AffineMap, classes: int) -> np.ndarray:
    """Gradient of the ridge at a map, (C, C + 1)."""
    return (
        ridge(classes, 1e-8)
        .gradient(np.column_stack([m.weight.numpy(), m.bias.numpy()]).ravel())
        .reshape(classes, classes + 1)
    )


def test_every_method_is_certified_and_none_fell_back(fitted) -> None:
    for name, calibrator in fitted.items():
        solution = calibrator.solution
        assert solution.status in ("optimal", "degenerate"), name
        assert solution.certificate["gap"] <= 1e-7, name
        assert [s["lambda"] for s in solution.settings.get("strengths", ())] in ([], [0.0]), name
        if name in AFFINE:
            assert solution.certificate["proof"] == "strong convexity of the penalty"
        if name in CONDITIONAL:
            assert solution.certificate["kkt"] <= 1e-6, name


def test_larger_families_reach_lower(fitted) -> None:
    """The ridge is the same function of [W | b] in every family, so penalised objectives nest up to the certified gap
    alone.
    """
    found = {name: c.solution for name, c in fitted.items()}
    for larger, smaller in CONTAINS:
        assert found[larger].objective <= found[smaller].objective + found[larger].certificate["gap"]
        assert (
            found[larger].nll
            <= found[smaller].nll + (found[smaller].objective - found[smaller].nll) + found[larger].certificate["gap"]
        )
    classes = fitted["ts"].head.channels
    beta = fitted["ts"].maps[0].beta.item()
    at_temperature = ridge(classes, 1e-8).value(np.column_stack([beta * np.eye(classes), np.zeros(classes)]).ravel())
    for name in AFFINE:
        assert found[name].objective <= found["ts"].nll + at_temperature + found[name].certificate["gap"]
    assert found["ets"].nll <= found["ts"].nll
    # the ridge of an expert weighs N / (C N_i) times: what a family pays for it is what may be between two families
    paid = {name: solution.objective - solution.nll + solution.certificate["gap"] for name, solution in found.items()}
    assert found["cdc"].nll <= min(found["dc"].nll, found["cms-ap"].nll) + paid["cdc"] + 1e-7
    assert max(found["cms-ap"].nll, found["cms-op"].nll) <= found["ts"].nll + max(paid["cms-ap"], paid["cms-op"])


@pytest.mark.parametrize("pair", [("hippocampus", "three_classes"), ("camvid", "eleven_classes")], ids=lambda p: p[0])
def test_optimality_conditions_hold_on_the_data(pair, request, table) -> None:
    """TS:

    E_p z = z_y. VS: the same a class, and marginals. MS_c, MS, DC: residuals orthogonal to all scores. The ridge's pull
    accounts for what is left.
    """
    cohort, fitted = request.getfixturevalue(pair[0]), request.getfixturevalue(pair[1])
    z, y = (torch.from_numpy(a) for a in table(cohort, 1))
    z, c = z.double().T, cohort.head.channels
    x = z - z.logsumexp(0)
    onehot = torch.nn.functional.one_hot(y, c).T
    n = len(y)
    for name, calibrator in fitted.items():
        if name in CONDITIONAL:
            continue  # per expert: tests of the methods
        residual = calibrator.map_rows(x, z.logsumexp(0)).exp() - onehot
        phi = z if name in ("ms", "vs") else x
        moments = torch.cat([residual @ phi.T, residual.sum(1, keepdim=True)], 1).numpy() / n
        if name == "ts":
            assert abs((residual * x).sum().item() / n) < 1e-7
        if name == "vs":
            left = moments + pull(calibrator.maps[0], c)
            assert np.abs(left[:, :c].diagonal()).max() < 2e-7
            assert np.abs(left[:, c]).max() < 2e-7
        if name in ("ms", "dc"):
            assert np.abs(moments + pull(calibrator.maps[0], c)).max() < 2e-7
            assert np.abs(moments[:, c]).max() < 1e-6
        if name == "ms-c":
            left = moments + pull(calibrator.maps[0], c)
            # the last column carries the row-sum constraint's multiplier
            assert np.abs(left[:, : c - 1] - left[:, c - 1 : c]).max() < 4e-7
            assert np.abs(left[:, c]).max() < 2e-7


def test_nll_is_that_of_the_map_on_the_data(three_classes, hippocampus, table) -> None:
    z, y = (torch.from_numpy(a) for a in table(hippocampus, 1))
    for calibrator in three_classes.values():
        direct = torch.nn.functional.nll_loss(calibrator.log_probs(z), y).item()
        assert calibrator.solution.nll == pytest.approx(direct, abs=2e-7)


def test_preserving_maps_flip_no_real_voxel(three_classes, hippocampus, table) -> None:
    z, _ = table(hippocampus, 1)
    for name in ("ts", "ets", "cms-ap", "cms-op"):
        p = three_classes[name](torch.from_numpy(z)).numpy()
        np.testing.assert_array_equal(p.argmax(1), z.argmax(1))
        assert np.abs(p.astype(np.float64).sum(1) - 1).max() < 1e-6


@pytest.mark.slow
def test_all_pixels_of_the_street_scenes(camvid_whole, fit) -> None:
    """The same nesting on every pixel, not one in 25."""
    fitted = fits(camvid_whole, fit)
    test_every_method_is_certified_and_none_fell_back(fitted)
    test_larger_families_reach_lower(fitted)
