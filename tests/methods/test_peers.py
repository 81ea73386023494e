"""Beside fiducio on the same real voxels: an NLL, in float64, that is no worse than its best."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("fiducio", reason="the peer is not installed")

from benchmarks.peers import fiducio_fits

METHODS = ("ts", "ms-c", "dc")


def sampled(table, cohort, count: int) -> tuple[np.ndarray, np.ndarray]:
    z, y = table(cohort, 1)
    chosen = np.random.default_rng(0).permutation(len(y))[:count]
    return np.ascontiguousarray(z[chosen]), y[chosen]


def test_a_peer_s_parameters_are_read_as_it_means_them(arrays) -> None:
    """NLL from exported parameters equals that of the peer's own probabilities, to float32."""
    z, y = arrays
    z, y = torch.from_numpy(np.moveaxis(z, 1, -1).reshape(-1, 3)), torch.from_numpy(y.ravel())
    for name, peer in fiducio_fits.PEERS.items():
        calibrator = peer(max_iter=20, device="cpu").fit(z, y)
        own = torch.nn.functional.nll_loss(calibrator.transform(z).double().log(), y).item()
        assert fiducio_fits.of_peer(name, calibrator, z, y) == pytest.approx(own, abs=1e-6)


def test_no_worse_than_the_peer_on_three_classes(hippocampus, table) -> None:
    runs = fiducio_fits.compare(
        "hippocampus", *sampled(table, hippocampus, 2000), fiducio_fits.Effort(adam=60, lbfgs=60, repeats=1), METHODS
    )
    found = fiducio_fits.behind(runs)
    assert set(found) == {("hippocampus", name) for name in METHODS}
    assert max(found.values()) <= 1e-6
    assert "| hippocampus, 2000 voxels, 3 classes | ts | segcal |" in fiducio_fits.page(
        runs, {"hippocampus": (2000, 3)}, fiducio_fits.Effort(), "x"
    )


@pytest.mark.slow
@pytest.mark.parametrize("data", ["hippocampus", "camvid_whole"])
def test_no_worse_than_the_peer_s_best(data, request, table) -> None:
    """fiducio with 500 L-BFGS iterations and with 3000 Adam steps, fewer voxels than the benchmark's."""
    z, y = sampled(table, request.getfixturevalue(data), 8000)
    runs = fiducio_fits.compare(data, z, y, fiducio_fits.Effort(adam=3000, lbfgs=500, repeats=1))
    assert max(fiducio_fits.behind(runs).values()) <= 1e-6
