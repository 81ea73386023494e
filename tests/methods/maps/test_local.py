"""A temperature from a voxel's neighbourhood: the definition by hand, the identity, cuts, planes, padding, images,
promises.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segcal import cohort_from_arrays
from segcal.data.case import Case
from segcal.data.cohort import Cohort
from segcal.data.files.journal import Scratch
from segcal.data.formats.arrays import ArrayField
from segcal.data.head import Regions, Softmax
from segcal.data.surroundings import Surroundings
from segcal.engine.serial import Serial
from segcal.errors import ShapeError, UsageError
from segcal.methods.calibrator import Calibrator
from segcal.methods.files import load
from segcal.methods.local.map import LocalMap, correlate
from segcal.tasks.apply import Application

HEAD = Softmax(("a", "b", "c"))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """One thread for torch, as in an engine: small tensors gain nothing from more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def some_map(seed: int = 0, classes: int = 3, channels: int = 0, **options: Any) -> LocalMap:
    g = torch.Generator().manual_seed(seed)
    kernels = 8 if channels else 7
    image = (
        (
            torch.randn(channels, 5, 5, generator=g) * 0.05,
            torch.randn(1, generator=g),
            torch.zeros(channels),
            torch.ones(channels),
        )
        if channels
        else ()
    )
    return LocalMap(
        torch.randn(kernels, classes, 5, 5, generator=g) * 0.03, torch.randn(kernels, generator=g), *image, **options
    )


def scores(seed: int, *shape: int) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reflected(i: int, side: int) -> int:
    if side < 5:
        return min(max(i, 0), side - 1)
    return -i if i < 0 else 2 * (side - 1) - i if i >= side else i


def by_hand(m: LocalMap, x: np.ndarray, image: np.ndarray | None = None) -> np.ndarray:
    """tau of scores (C, H, W) by loops over voxels and places of the kernels."""
    _, h, w = x.shape
    tau = np.zeros((h, w))
    for r in range(h):
        for c in range(w):
            at = [(reflected(r + 2 * i - 4, h), reflected(c + 2 * j - 4, w)) for i in range(5) for j in range(5)]
            near = np.stack([x[:, a, b] for a, b in at], 1).reshape(-1, 5, 5)
            t1, t2, t3, t4, a1, a2, a3, *more = (
                np.einsum("kcij,cij->k", m.weight.numpy(), near) + m.bias.numpy()
            ).tolist()
            gate = [1 / (1 + math.exp(-a)) for a in (a1, a2, a3)]
            t = gate[2] * (gate[0] * t1 + (1 - gate[0]) * t2) + (1 - gate[2]) * (gate[1] * t3 + (1 - gate[1]) * t4)
            if image is not None:
                seen = np.stack([image[:, a, b] for a, b in at], 1).reshape(-1, 5, 5)
                leaf = float((m.image_weight.numpy() * seen).sum() + m.image_bias.item())
                mix = 1 / (1 + math.exp(-more[0]))
                t = mix * t + (1 - mix) * leaf
            tau[r, c] = math.log1p(math.exp(t + math.log(math.expm1(1 - 1e-6)))) + 1e-6
    return tau


def temperatures(calibrator: Calibrator, cohort: Cohort, index: int = 0, step: int | None = None) -> torch.Tensor:
    """tau of a case, read in pieces of `step` voxels."""
    n = cohort[index].voxels
    step = step or n
    with Scratch(1 << 24) as scratch, cohort.open(index, scratch) as reader:
        (context,) = calibrator.contexts
        found = context.on(Surroundings(reader, scratch))
        return torch.cat([found.read(a, min(a + step, n)) for a in range(0, n, step)])


@pytest.mark.parametrize("shape", [(7, 9), (5, 5), (3, 8), (1, 1), (4, 2)])
def test_the_definition_by_hand(shape: tuple[int, int]) -> None:
    z = scores(1, 1, 3, *shape)
    for m, x in ((some_map(), z.log_softmax(1)), (some_map(logits=True), z)):
        u = Calibrator(HEAD, "logits", [m], "it").log_probs(z)
        expected = torch.log_softmax(z / torch.from_numpy(by_hand(m, x[0].numpy())), 1)
        assert torch.allclose(u, expected, atol=1e-12)


def test_the_image_by_hand() -> None:
    z, image = scores(1, 1, 3, 6, 7), scores(2, 1, 2, 6, 7)
    m = some_map(channels=2)
    u = Calibrator(HEAD, "logits", [m], "it").log_probs(z, image=image)
    expected = torch.log_softmax(z / torch.from_numpy(by_hand(m, z.log_softmax(1)[0].numpy(), image[0].numpy())), 1)
    assert torch.allclose(u, expected, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"logits": True},
        {"image_level": True},
        {"slice_axis": 2},
        {"image_mean": torch.zeros(2), "image_scale": torch.ones(2)},
    ],
    ids=str,
)
def test_the_start_is_the_identity(options: dict[str, Any]) -> None:
    m = LocalMap.start(3, **options)
    calibrator = Calibrator(HEAD, "logits", [m], "it")
    z = scores(0, 2, 3, 6, 7, 8)
    fields = {"image": scores(1, 2, 2, 6, 7, 8)} if m.needs.fields else {}
    assert (calibrator.log_probs(z, **fields) - z.log_softmax(1)).abs().max() <= 1e-12
    assert (calibrator(z, **fields) - z.softmax(1)).abs().max() <= 1e-7
    assert m.describe()["temperature"] == pytest.approx(1, abs=1e-15)
    assert bool(m.weight[4:].abs().max() > 0)


@settings(deadline=None, max_examples=20)
@given(
    shape=st.one_of(
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        st.tuples(st.integers(1, 9), st.integers(1, 12), st.integers(1, 12)),
    ),
    step=st.integers(20, 700),
    axis=st.integers(0, 2),
    level=st.booleans(),
    seed=st.integers(0, 99),
)
def test_block_by_block_is_the_whole(shape: tuple[int, ...], step: int, axis: int, level: bool, seed: int) -> None:
    """To the last bit whatever the blocks; beside whole arrays to the last bits of float64."""
    calibrator = Calibrator(HEAD, "logits", [some_map(seed, slice_axis=axis, image_level=level)], "it")
    z = scores(seed, 2, 3, *shape)
    cohort = cohort_from_arrays(z, kind="logits", head=HEAD)
    whole = temperatures(calibrator, cohort, 1)
    assert torch.equal(temperatures(calibrator, cohort, 1, step), whole)
    x = z[1].flatten(1).log_softmax(0)
    assert torch.allclose(torch.log_softmax(x / whole, 0), calibrator.log_probs(z)[1].flatten(1), atol=1e-12)


@pytest.mark.parametrize("shape", [(15, 90), (3, 20, 50), (2, 30, 30)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_cases_of_many_tiles(shape: tuple[int, ...], axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With tiles of 300 voxels, for speed."""
    calibrator = Calibrator(HEAD, "logits", [some_map(slice_axis=axis)], "it")
    z = scores(0, 1, 3, *shape).float()
    cohort = cohort_from_arrays(z, kind="logits", head=HEAD)
    monkeypatch.setattr(Surroundings, "limit", 300)
    tau = temperatures(calibrator, cohort, step=250)
    assert torch.equal(tau, temperatures(calibrator, cohort, step=701))
    u = torch.log_softmax(z.double().flatten(2)[0].log_softmax(0) / tau, 0)
    assert (u - calibrator.log_probs(z)[0].flatten(1)).abs().max() <= 1e-11


def test_a_picture_of_several_tiles() -> None:
    calibrator = Calibrator(HEAD, "logits", [some_map()], "it")
    z = scores(0, 1, 3, 150, 900).float()
    cohort = cohort_from_arrays(z, kind="logits", head=HEAD)
    tau = temperatures(calibrator, cohort, step=65_536)
    assert torch.equal(tau, temperatures(calibrator, cohort, step=50_001))
    u = torch.log_softmax(z.double().flatten(2)[0].log_softmax(0) / tau, 0)
    assert (u - calibrator.log_probs(z)[0].flatten(1)).abs().max() <= 1e-11


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_volume_is_its_slices(axis: int) -> None:
    calibrator = Calibrator(HEAD, "logits", [some_map(slice_axis=axis)], "it")
    z = scores(3, 1, 3, 6, 7, 8)
    slices = z.unbind(2 + axis)
    alone = torch.stack([calibrator.log_probs(s) for s in slices], 2 + axis)
    assert torch.allclose(calibrator.log_probs(z), alone, atol=1e-12)


def test_only_neighbours_count() -> None:
    """Nine by nine in the plane, every second one of them."""
    calibrator = Calibrator(HEAD, "logits", [some_map()], "it")
    z = scores(0, 1, 3, 3, 21, 21)
    other = z.clone()
    other[0, :, 1, 10, 10] += torch.tensor([5.0, 0, 0])
    moved = (calibrator.log_probs(z) != calibrator.log_probs(other)).any(1)[0].nonzero().tolist()
    assert {tuple(v) for v in moved} == {(1, r, c) for r in range(6, 15, 2) for c in range(6, 15, 2)}


def test_padding_and_ignored_voxels_are_surroundings() -> None:
    """Crop padding of exactly (1, 0, 0) is floored; a mask hides nothing from its neighbours."""
    p = scores(0, 3, 8, 9).softmax(0)
    p[:, :3] = torch.tensor([1.0, 0, 0])[:, None, None]
    case = Case(
        "one", (ArrayField(p.numpy(), True, "p"),), crop=((3, 8), (0, 9)), mask=ArrayField(np.eye(8, 9), False, "mask")
    )
    cohort = Cohort((case,), HEAD, "probs")
    m = some_map()
    tau = temperatures(Calibrator(HEAD, "probs", [m], "it"), cohort).reshape(8, 9)
    x = p.clamp_min(1e-12).log()
    expected = by_hand(m, (x - x.logsumexp(0)).numpy())
    np.testing.assert_allclose(tau, expected, rtol=1e-12)


def test_a_temperature_a_case_leaves_crop_padding_out() -> None:
    p = scores(0, 3, 12, 9).softmax(0)
    p[:, :5] = torch.tensor([1.0, 0, 0])[:, None, None]
    case = Case("one", (ArrayField(p.numpy(), True, "p"),), crop=((5, 12), (0, 9)))
    voxel, image = (
        temperatures(
            Calibrator(HEAD, "probs", [some_map(image_level=level)], "it"), Cohort((case,), HEAD, "probs")
        ).reshape(12, 9)
        for level in (False, True)
    )
    t = (voxel[5:] - 1e-6).expm1().log()
    assert torch.allclose(image, torch.nn.functional.softplus(t.mean()) + 1e-6, atol=1e-12)


def test_float32_agrees() -> None:
    """Training's arithmetic and applying's are two ways to one sum."""
    x, w = scores(0, 4, 3, 20, 25), some_map(classes=4).weight
    assert torch.allclose(correlate(x.float(), w.float()).double(), correlate(x, w), atol=1e-4)


def test_promises() -> None:
    invariant, raw = some_map().guarantees(), some_map(logits=True).guarantees()
    assert (
        invariant.translation_invariant
        == invariant.preserves_order
        == raw.preserves_order
        == raw.preserves_argmax
        == "proven"
    )
    assert raw.translation_invariant == "no"
    z = scores(0, 1, 3, 9, 9)
    shift = scores(1, 1, 1, 9, 9)
    for m, same in ((some_map(), True), (some_map(logits=True), False)):
        calibrator = Calibrator(HEAD, "logits", [m], "it")
        moved = (calibrator.log_probs(z + shift) - calibrator.log_probs(z)).abs().max()
        assert (moved <= 1e-10) if same else (moved > 1e-2)
    constant = LocalMap(torch.zeros(7, 3, 5, 5), torch.tensor([0.5, 0.5, 0.5, 0.5, 1, 2, 3]), logits=True)
    assert constant.guarantees().translation_invariant == "proven"
    assert not constant.needs.logits
    filled = LocalMap.start(3, logits=True)
    filled.load_state_dict(some_map(logits=True).state_dict())
    assert filled.needs.logits


def test_regions_have_a_field_each(tmp_path) -> None:
    head = Regions(("whole", "core"), ((1, 2), (2,)), (1, 2))
    calibrator = Calibrator(head, "probs", [some_map(1, 2), some_map(2, 2, slice_axis=1)], "it")
    p = scores(0, 2, 2, 5, 6, 7).sigmoid()
    u = calibrator.log_probs(p)
    for r, m in enumerate(calibrator.maps):
        both = torch.stack([1 - p[:, r], p[:, r]], 1)
        alone = Calibrator(Softmax(("out", "in")), "probs", [m], "it").log_probs(both)[:, 1]
        assert torch.allclose(u[:, r], alone, atol=1e-12)
    calibrator.save(tmp_path / "it.safetensors")
    assert torch.equal(load(tmp_path / "it.safetensors")(p), calibrator(p))
    assert ((calibrator(p) > 0.5) == (p > 0.5)).all()


def test_applying_writes_what_arrays_give() -> None:
    """The sink's blocks against the whole array at once."""
    calibrator = Calibrator(HEAD, "logits", [some_map(channels=1)], "it")
    z, image = scores(0, 2, 3, 100, 700).float(), scores(1, 2, 100, 700)
    cohort = cohort_from_arrays(z, kind="logits", head=HEAD, fields={"image": image})
    sink = Collected()
    assert all(o.error is None for o in Serial().map(cohort, Application(calibrator, sink, ())))
    p = torch.stack([torch.cat(sink.pieces[c.id], 1) for c in cohort]).reshape(z.shape)
    assert (p - calibrator(z, image=image)).abs().max() <= 1e-7
    assert torch.equal(p.argmax(1), z.argmax(1))


class Collected:
    """A sink in memory."""

    def __init__(self) -> None:
        self.pieces: dict[str, list[torch.Tensor]] = {}

    def case(self, cohort: Any, case: Any, scratch: Any) -> Any:
        import contextlib

        pieces = self.pieces.setdefault(case.id, [])

        class Writer:
            def write(self, delivered: Any) -> None:
                pieces.append(delivered.probabilities)

        return contextlib.nullcontext(Writer())


def test_what_does_not_fit_is_refused() -> None:
    m = some_map()
    for wrong in (m.weight[:6], m.weight[..., :3], m.weight * torch.nan):
        with pytest.raises(UsageError, match="weight"):
            LocalMap(wrong, m.bias)
    with pytest.raises(UsageError, match="slice_axis"):
        some_map(slice_axis=3)
    calibrator = Calibrator(HEAD, "logits", [m], "it")
    for shape in ((4, 3), (4, 3, 5), (1, 3, 2, 2, 2, 2)):
        with pytest.raises(ShapeError, match="two or three"):
            calibrator(torch.zeros(shape))
    with pytest.raises(UsageError, match="without their neighbours"):
        calibrator.deliver(torch.zeros(3, 4), "logits")
    with_image = Calibrator(HEAD, "logits", [some_map(channels=2)], "it")
    with pytest.raises(UsageError, match=r"image: found 1 channel"):
        with_image(torch.zeros(1, 3, 5, 5), image=torch.zeros(1, 5, 5))
    with pytest.raises(ShapeError, match="image"):
        with_image(torch.zeros(1, 3, 5, 5), image=torch.zeros(1, 2, 5, 4))
