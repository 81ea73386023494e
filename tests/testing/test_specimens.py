"""Maps that need an image, the network, another map or a place: they keep every law, and whoever opens a case gives
them the same, block by block or at once, whatever the kind of map.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import segcal
from segcal.data.formats.npz import NpzSink
from segcal.data.head import Regions
from segcal.engine import accumulate
from segcal.engine.ask import Ask
from segcal.engine.serial import Serial
from segcal.engine.threads import Threads
from segcal.errors import MissingError, ShapeError, UsageError
from segcal.methods.calibrator import Calibrator
from segcal.methods.files import load
from segcal.methods.maps import FLOOR, Needs
from segcal.methods.temperature import ScaleMap, ScaleNLL
from segcal.tasks.apply import apply
from segcal.testing.calibrators import CALIBRATOR_LAWS
from segcal.testing.examples import image_of, learnable, learnable_cohort
from segcal.testing.law import Law
from segcal.testing.specimens import SPECIMENS, Field, ImageField, MapField, NetworkField, network

SHAPES = ((9, 11), (3, 8, 9))
LARGE = (210, 320)
"""More voxels than a block holds."""


def images(shape: tuple[int, ...], cases: int = 3) -> torch.Tensor:
    """The images of `learnable_cohort`."""
    return torch.from_numpy(image_of(np.zeros((1, 1, *shape)))[0] + np.arange(cases).reshape(-1, *(1 for _ in shape)))


def at_once(calibrator: Calibrator, shape: tuple[int, ...], cases: int = 3) -> np.ndarray:
    """What arrays give for the scores of `learnable_cohort`."""
    fields = {name: images(shape, cases) for name in calibrator.needs.fields}
    return calibrator(torch.from_numpy(learnable(cases, shape)[0]), **fields).numpy()


@pytest.mark.parametrize("law", CALIBRATOR_LAWS, ids=str)
@pytest.mark.parametrize("name", list(SPECIMENS))
def test_keeps_the_law(name: str, law: Law[Any]) -> None:
    law.check(SPECIMENS[name])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", list(SPECIMENS))
def test_what_is_written_and_what_is_measured_is_what_arrays_give(name: str, shape: tuple[int, ...], tmp_path) -> None:
    calibrator, cohort = SPECIMENS[name], learnable_cohort(3, shape)
    p = at_once(calibrator, shape)
    apply(calibrator, cohort, NpzSink(tmp_path), Serial())
    for k, case in enumerate(cohort):
        with np.load(tmp_path / f"{case.id}.npz") as written:
            np.testing.assert_allclose(written["probabilities"], p[k], atol=1e-6)
    found = segcal.evaluate(cohort, calibrator, Threads(2))
    own = np.take_along_axis(p.astype(np.float64), learnable(3, shape)[1][:, None], 1)
    expected = -np.log(own).mean()
    assert found.calibrated.block["nll"] == pytest.approx(expected, abs=1e-6)
    assert found.calibrated.block["nll"] != pytest.approx(found.uncalibrated.block["nll"], abs=1e-4)


@pytest.mark.parametrize("name", list(SPECIMENS))
def test_a_case_of_two_blocks(name: str, tmp_path) -> None:
    calibrator, cohort = SPECIMENS[name], learnable_cohort(1, LARGE)
    apply(calibrator, cohort, NpzSink(tmp_path), Serial())
    with np.load(tmp_path / f"{cohort[0].id}.npz") as written:
        np.testing.assert_allclose(written["probabilities"], at_once(calibrator, LARGE, 1)[0], atol=1e-6)


@pytest.mark.parametrize("name", list(SPECIMENS))
def test_an_audit_finds_what_is_proven_to_hold(name: str) -> None:
    found = segcal.audit(SPECIMENS[name], learnable_cohort(2), Serial())
    for finding in found.findings:
        assert finding.claimed != "proven" or finding.held


def test_pinned_rows_know_nothing_of_their_case() -> None:
    through = SPECIMENS["field of an image"].through(0)
    with Serial().pin(learnable_cohort()) as pinned, pytest.raises(UsageError, match="more of a case than its rows"):
        Serial().reduce(pinned, {"it": Ask(ScaleNLL(1.0), through=through)})


def test_one_survey_answers_for_maps_of_every_kind() -> None:
    asks = {name: Ask(ScaleNLL(1.0), through=c.through(0)) for name, c in SPECIMENS.items()}
    together, _ = Serial().survey(learnable_cohort(), asks)
    for name, ask in asks.items():
        alone, _ = Serial().survey(learnable_cohort(), {name: ask})
        a, b = (accumulate.result(ask.accumulator, found[name]).value for found in (together, alone))
        assert a == b


def test_regions_of_different_needs() -> None:
    """A field for one region, a factor for the other; the network answers for both."""

    class TwoClasses(NetworkField):
        @property
        def classes(self) -> int | None:
            return 2

    head = Regions(("whole", "core"), ((1, 2), (2,)), (1, 2))

    def regions(given: torch.Tensor) -> torch.Tensor:
        return network(given)[:, :2]

    calibrator = Calibrator(head, "logits", [ScaleMap(0.5), TwoClasses()], "it").with_segmenter(regions)
    z = torch.randn(2, 2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    image = torch.from_numpy(image_of(z))
    mirrored = regions(image.flip(-1)[:, None])[:, 1].flip(-1).sigmoid()
    t = 1 + 0.7 * 2 * (mirrored - z[:, 1].sigmoid()).abs()
    expected = torch.stack([0.5 * z[:, 0], z[:, 1] / t], 1).sigmoid()
    torch.testing.assert_close(calibrator.log_probs(z, image=image).exp(), expected, atol=1e-8, rtol=0)


def test_what_is_missing_is_named() -> None:
    z = torch.zeros(1, 3, 4, 5)
    with pytest.raises(UsageError, match="image: found nothing"):
        SPECIMENS["rows and an image"](z)
    bare = Calibrator(SPECIMENS["rows and an image"].head, "logits", [NetworkField()], "it")
    with pytest.raises(UsageError, match=r"with_segmenter\(network\)"):
        bare(z, image=torch.zeros(1, 4, 5))
    with pytest.raises(UsageError, match=r"with_segmenter\(network\)"):
        apply(bare, learnable_cohort(), NpzSink("nowhere"), Serial())
    with pytest.raises(MissingError, match="no image"):
        apply(SPECIMENS["field of an image"], segcal.cohort_from_arrays(z, kind="logits"), NpzSink("nowhere"), Serial())
    with pytest.raises(ShapeError, match="segmenter"):
        bare.with_segmenter(lambda images: images)(z, image=torch.zeros(1, 4, 5))
    with pytest.raises(UsageError, match="whole case"):
        Needs(reach=1, segmenter=True)


def test_a_network_is_not_saved(tmp_path) -> None:
    """It is handed over again after loading, and is no part of the module."""
    weights = torch.nn.Conv2d(1, 3, 1)
    calibrator = SPECIMENS["field of augmented copies"].with_segmenter(weights.double())
    assert set(calibrator.state_dict()) == {"maps.0.size"}
    calibrator.save(tmp_path / "it.safetensors")
    loaded = load(tmp_path / "it.safetensors")
    z, image = torch.randn(1, 3, 4, 5, dtype=torch.float64), torch.rand(1, 4, 5, dtype=torch.float64)
    assert torch.equal(loaded.with_segmenter(weights)(z, image=image), calibrator(z, image=image))


def test_a_temperature_below_the_floor_counts_as_the_floor() -> None:
    """So that the order is kept whatever a field says."""

    class Wrong(ImageField):
        def context(self, near: Any) -> torch.Tensor:
            return -super().context(near)

    z = torch.tensor([0.2, 0.1, 0.3], dtype=torch.float64).reshape(1, 3, 1, 1).expand(1, 3, 2, 2)
    u = Calibrator(SPECIMENS["rows and an image"].head, "logits", [Wrong()], "it").log_probs(
        z, image=torch.zeros(1, 2, 2)
    )
    torch.testing.assert_close(u, torch.log_softmax(z / FLOOR, 1))


def test_rows_alone_need_no_case() -> None:
    assert not SPECIMENS["rows and another map"].needs.case
    assert MapField(other=ScaleMap(2.0)).needs == Needs(reach=1)
    assert issubclass(MapField, Field)
