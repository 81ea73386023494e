"""Every loss against its formula written out voxel by voxel in NumPy, by finite differences, under relabelling, masks,
ignored voxels and half precision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import segcal.losses as losses
from segcal.errors import LabelError, ShapeError, UsageError
from segcal.losses import Loss

Array = NDArray[Any]
C = 4

LOSSES: dict[str, Callable[..., Loss]] = {
    "ce": losses.CrossEntropy,
    "ce + dice": losses.CrossEntropyDice,
    "ls": losses.LabelSmoothing,
    "focal": losses.Focal,
    "ecp": losses.ConfidencePenalty,
    "mbls": losses.MarginSmoothing,
    "mbls, 3": lambda **k: losses.MarginSmoothing(margin=3.0, weight=0.2, **k),
    "svls": losses.SVLS,
    "svls, .5, replicate": lambda **k: losses.SVLS(sigma=0.5, border="replicate", **k),
    "nacl": losses.NACL,
    "nacl, sum": lambda **k: losses.NACL(reduction="sum", **k),
    "nacl, l2, gaussian": lambda **k: losses.NACL(norm=2, prior="gaussian", **k),
    "nacl, 5": lambda **k: losses.NACL(size=5, **k),
    "nacl, class0": lambda **k: losses.NACL(border="class0", **k),
    "nacl, missing": lambda **k: losses.NACL(border="missing", **k),
    "nacl, mode": lambda **k: losses.NACL(prior="mode", **k),
    "nacl, median": lambda **k: losses.NACL(prior="median", **k),
    "nacl, max": lambda **k: losses.NACL(prior="max", **k),
    "nacl, min": lambda **k: losses.NACL(prior="min", **k),
}


def weights(name: str, offset: tuple[int, ...]) -> float:
    """The weight of a neighbour at some offset, before any normalisation."""
    square = sum(k * k for k in offset)
    if name.startswith("svls"):
        sigma = 0.5 if ".5" in name else 1.0
        return 0.0 if square == 0 else float(np.exp(-square / (2 * sigma**2)))
    return float(np.exp(-square / 2)) if "gaussian" in name else 1.0


def shares(name: str, labels: Array, counts: Array, at: tuple[int, ...], classes: int = C) -> Array:
    """Of the classes around one voxel (spatial arrays)."""
    reach = 2 if name.endswith("5") else 1
    found, whole = np.zeros(classes), 0.0
    for offset in np.ndindex(*(2 * reach + 1,) * labels.ndim):
        step = tuple(k - reach for k in offset)
        there = tuple(a + k for a, k in zip(at, step, strict=True))
        w = weights(name, step)
        inside = all(0 <= t < n for t, n in zip(there, labels.shape, strict=True))
        if not inside and "replicate" in name:
            there = tuple(min(max(t, 0), n - 1) for t, n in zip(there, labels.shape, strict=True))
            inside = True
        if inside and counts[there]:
            found[labels[there]] += w
            whole += w
        elif "class0" in name:
            found[0] += w
            whole += w
        elif "missing" in name:
            whole += w
    if whole == 0:
        found[labels[at]] = whole = 1.0
    found /= whole
    there_ = [k for k in range(classes) if found[k] > 1e-9]
    if name.endswith(("mode", "median", "max", "min")):
        median = next(k for k in range(classes) if found[: k + 1].sum() >= 0.5 - 1e-9)
        chosen = {"mode": int(found.argmax()), "median": median, "max": max(there_), "min": min(there_)}
        found = np.eye(classes)[chosen[name.split(", ")[1]]]
    return found


def by_hand(name: str, z: Array, y: Array, counts: Array) -> float:
    """The loss of logits (B, C, *spatial)."""
    total, n = 0.0, 0
    logs = z - z.max(1, keepdims=True)
    logs = logs - np.log(np.exp(logs).sum(1, keepdims=True))
    for b in range(len(z)):
        for at in np.ndindex(*y.shape[1:]):
            if not counts[(b, *at)]:
                continue
            k, lz, lp = int(y[(b, *at)]), z[(b, slice(None), *at)], logs[(b, slice(None), *at)]
            p, n = np.exp(lp), n + 1
            if name == "ls":
                total += -0.9 * lp[k] - 0.1 * lp.mean()
            elif name == "focal":
                total += -((1 - p[k]) ** 3) * lp[k]
            elif name == "ecp":
                total += -lp[k] - 0.1 * (-(p * lp)).mean()
            elif name.startswith("mbls"):
                margin, weight = (3.0, 0.2) if "3" in name else (10.0, 0.1)
                total += -lp[k] + weight * np.maximum(lz.max() - lz - margin, 0).mean()
            elif name.startswith("svls"):
                target = 0.5 * np.eye(C)[k] + 0.5 * shares(name, y[b], counts[b], at)
                total += -(target * lp).sum()
            elif name.startswith("nacl"):
                off = np.abs(shares(name, y[b], counts[b], at) - lz)
                off = off**2 if "l2" in name else off
                total += -lp[k] + 0.1 * (off.sum() if "sum" in name else off.mean())
            else:
                total += -lp[k]
    value = total / n
    if "dice" in name:
        terms = []
        for b in range(len(z)):
            inside = counts[b]
            for k in range(C):
                q, truth = np.exp(logs[b, k])[inside], (y[b] == k)[inside]
                terms.append(1 - (2 * (q * truth).sum() + 1e-5) / (q.sum() + truth.sum() + 1e-5))
        value += np.mean(terms)
    return float(value)


def drawn(shape: tuple[int, ...], seed: int = 0) -> tuple[Array, Array, Array, Array]:
    """Logits, labels with 255s, a mask, and which voxels count."""
    rng = np.random.default_rng(seed)
    z = 3 * rng.normal(size=(2, C, *shape))
    y = rng.integers(C, size=(2, *shape))
    y = np.where(rng.random(y.shape) < 0.15, 255, y)
    mask = rng.random(y.shape) < 0.85
    return z, y, mask, mask & (y != 255)


@pytest.mark.parametrize("shape", [(6, 5), (3, 4, 3)], ids=["2-D", "3-D"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_plain_transcription(name: str, shape: tuple[int, ...]) -> None:
    if name == "nacl, 5" and len(shape) == 3:
        shape = (5, 5, 5)
    z, y, mask, counts = drawn(shape)
    found = LOSSES[name](ignore_index=255)(torch.from_numpy(z), torch.from_numpy(y), torch.from_numpy(mask))
    assert float(found) == pytest.approx(by_hand(name, z, np.where(counts, y, 0), counts), rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences_and_0_where_nothing_counts(name: str) -> None:
    z, y, mask, counts = drawn((5, 4), 1)
    logits = torch.from_numpy(z).requires_grad_()
    loss = LOSSES[name](ignore_index=255)
    loss(logits, torch.from_numpy(y), torch.from_numpy(mask)).backward()
    assert logits.grad is not None
    gradient = logits.grad.numpy()
    assert (gradient.transpose(0, 2, 3, 1)[~counts] == 0).all()
    rng = np.random.default_rng(0)
    for _ in range(5):
        direction = rng.normal(size=z.shape)
        ends = [
            float(loss(torch.from_numpy(z + s * direction), torch.from_numpy(y), torch.from_numpy(mask)))
            for s in (1e-6, -1e-6)
        ]
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx((gradient * direction).sum(), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("name", [n for n in LOSSES if not n.endswith(("class0", "median", "max", "min", "mode"))])
def test_relabelling_the_classes_changes_nothing(name: str) -> None:
    """No class is another's neighbour, not even at a border; class0 and statistics of class numbers are left out."""
    z, y, mask, counts = drawn((6, 6), 2)
    order = np.array([2, 0, 3, 1])
    new = np.where(y == 255, 255, np.argsort(order)[np.where(counts, y, 0)])
    loss = LOSSES[name](ignore_index=255)
    plain = loss(torch.from_numpy(z), torch.from_numpy(y), torch.from_numpy(mask))
    turned = loss(torch.from_numpy(z[:, order]), torch.from_numpy(new), torch.from_numpy(mask))
    assert float(turned) == pytest.approx(float(plain), rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_what_does_not_count_may_hold_anything(name: str) -> None:
    z, y, mask, counts = drawn((5, 5), 3)
    loss = LOSSES[name](ignore_index=255)
    expected = float(loss(torch.from_numpy(z), torch.from_numpy(y), torch.from_numpy(mask)))
    wild = np.where(counts[:, None], z, np.nan)
    logits = torch.from_numpy(wild).requires_grad_()
    other = np.where(counts, y, np.where(y == 255, 255, 3 - y))
    found = loss(logits, torch.from_numpy(other), torch.from_numpy(mask))
    found.backward()
    assert float(found.detach()) == pytest.approx(expected, rel=1e-12)
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_that_counts_is_0(name: str) -> None:
    logits = torch.randn(2, C, 4, 4, requires_grad=True)
    found = LOSSES[name](ignore_index=255)(logits, torch.full((2, 4, 4), 255))
    found.backward()
    assert float(found.detach()) == pytest.approx(0, abs=1e-6)
    assert logits.grad is not None
    assert bool((logits.grad == 0).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_under_autocast(name: str, dtype: torch.dtype) -> None:
    """Logits of +-50 in half precision: finite, and within 1 % of what float64 makes of the same numbers."""
    rng = np.random.default_rng(4)
    half = torch.from_numpy(rng.choice([-50.0, 0.0, 50.0], (2, C, 6, 6))).to(dtype)
    labels = torch.from_numpy(rng.integers(C, size=(2, 6, 6)))
    loss = LOSSES[name]()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = half.clone().requires_grad_()
        found = loss(logits, labels)
    found.backward()
    expected = loss(half.double(), labels)
    assert found.dtype == torch.float32
    assert float(found.detach()) == pytest.approx(float(expected), rel=1e-2)
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())


def test_weights_of_svls() -> None:
    """Centre .5; sigma 1: 2-D .0778, .0472, 3-D .0308, .0187, .0113 (definitions 10, 17)."""
    for axes, expected in ((2, {1: 0.0778, 2: 0.0472}), (3, {1: 0.03082, 2: 0.01870, 3: 0.01134})):
        labels = torch.zeros((1, *(3,) * axes), dtype=torch.long)
        for offset in np.ndindex(*(3,) * axes):
            labels.zero_()
            labels[(0, *offset)] = 1
            target = losses.SVLS().target(labels, torch.ones_like(labels, dtype=torch.bool), 2, torch.zeros(1).double())
            weight = float(target[(0, 1, *(1,) * axes)])
            distance = sum(abs(k - 1) for k in offset)
            assert weight == pytest.approx(expected.get(distance, 0.5), abs=5e-5)


def test_svls_is_cross_entropy_and_a_constraint() -> None:
    """CE / 2 + [KL(tau' || S) + H(tau')] / 2, exactly, where nothing is ignored."""
    rng = np.random.default_rng(5)
    z, y = 3 * rng.normal(size=(1, C, 7, 6)), rng.integers(C, size=(1, 7, 6))
    logs = z - np.log(np.exp(z).sum(1, keepdims=True))
    total = 0.0
    for at in np.ndindex(7, 6):
        tau = shares("svls", y[0], np.ones((7, 6), bool), at)
        lp, k, some = logs[(0, slice(None), *at)], y[(0, *at)], tau > 0
        kl = (tau[some] * (np.log(tau[some]) - lp[some])).sum()
        total += -lp[k] / 2 + (kl - (tau[some] * np.log(tau[some])).sum()) / 2
    found = losses.SVLS()(torch.from_numpy(z), torch.from_numpy(y))
    assert float(found) == pytest.approx(total / 42, rel=1e-12)


def descended(loss: Loss, steps: int = 2500) -> torch.Tensor:
    """Logits of a flat patch of class 1 after descent."""
    z = torch.zeros(1, C, 5, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.ones(1, 5, 5, dtype=torch.long)
    adam = torch.optim.Adam([z], 0.05, (0.9, 0.95))
    decay = torch.optim.lr_scheduler.ExponentialLR(adam, 0.997)
    for _ in range(steps):
        adam.zero_grad()
        loss(z, labels).backward()
        adam.step()
        decay.step()
    return z.detach()[0, :, 2, 2]


@pytest.mark.slow
@pytest.mark.parametrize(("reduction", "p", "logit"), [("mean", 0.975, 4.762), ("sum", 0.9, 3.296)])
def test_the_optimum_of_nacl_on_a_flat_patch(reduction: Any, p: float, logit: float) -> None:
    z = descended(losses.NACL(reduction=reduction))
    assert float(torch.softmax(z, 0)[1]) == pytest.approx(p, abs=1e-3)
    assert float(z[1]) == pytest.approx(logit, abs=0.02)
    assert float(z[[0, 2, 3]].abs().max()) < 0.02


@pytest.mark.slow
def test_the_optimum_of_mbls_has_its_gaps_at_the_margin() -> None:
    z = descended(losses.MarginSmoothing())
    assert float(torch.softmax(z, 0)[1]) == pytest.approx(0.99986, abs=2e-5)
    assert float(z[1] - z[[0, 2, 3]].mean()) == pytest.approx(10, abs=0.1)


@pytest.mark.parametrize(
    "name", [n for n in LOSSES if n.startswith(("nacl", "svls", "mbls", "ls", "ce")) and "dice" not in n]
)
def test_it_is_convex_along_lines(name: str) -> None:
    z, y, mask, _ = drawn((4, 4), 6)
    loss, rng = LOSSES[name](ignore_index=255), np.random.default_rng(7)

    def at(x: Array) -> float:
        return float(loss(torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(mask)))

    for _ in range(10):
        other = z + 6 * rng.normal(size=z.shape)
        for t in (0.2, 0.5, 0.8):
            assert at(t * z + (1 - t) * other) <= t * at(z) + (1 - t) * at(other) + 1e-12


def test_no_bias_to_class_0_at_borders() -> None:
    """In a patch of class 2 the released padding takes a border voxel for a third of class 0."""
    labels, everything = torch.full((1, 4, 4), 2), torch.ones(1, 4, 4, dtype=torch.bool)
    like = torch.zeros(1).double()
    renormalised, released = (
        losses.NACL(border=border).shares(labels, everything, C, like, None) for border in ("renormalise", "class0")
    )
    assert bool((renormalised[0, 2] == 1).all())
    assert float(released[0, 0, 0, 1]) == pytest.approx(1 / 3)
    assert float(released[0, 0, 0, 0]) == pytest.approx(5 / 9)


def test_shares_by_image_and_given_ones() -> None:
    rng = np.random.default_rng(8)
    z, y = torch.from_numpy(rng.normal(size=(1, C, 5, 5))), torch.from_numpy(rng.integers(C, size=(1, 5, 5)))
    flat = torch.full((1, 1, 5, 5), 3.0).double()
    by_image = losses.NACL(prior="image")(z, y, image=flat)
    assert float(by_image) == pytest.approx(float(losses.NACL()(z, y)), rel=1e-12), "a flat image weighs all alike"
    apart = losses.NACL(prior="image")(z, y, image=1000 * torch.arange(25.0).double().reshape(1, 1, 5, 5))
    own = losses.NACL()(z, y, tau=torch.nn.functional.one_hot(y, C).movedim(-1, 1).double())
    assert float(apart) == pytest.approx(float(own), rel=1e-12), "unlike neighbours count for nothing"
    with pytest.raises(ShapeError, match="image"):
        losses.NACL(prior="image")(z, y)


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("shape", [(9, 7), (5, 6, 4)], ids=["2-D", "3-D"])
def test_monai_s_mean_prior_is_ours_with_missing_neighbours(shape: tuple[int, ...], norm: int) -> None:
    """Its Gaussian differs: nine taps in each direction, of which a 3 x 3 patch has three."""
    monai = pytest.importorskip("monai.losses", reason="MONAI, a peer, is not installed")
    rng = np.random.default_rng(9)
    z, y = torch.from_numpy(rng.normal(size=(2, C, *shape))), torch.from_numpy(rng.integers(C, size=(2, *shape)))
    theirs = monai.NACLLoss(classes=C, dim=len(shape), distance_type=f"l{norm}")(z, y)
    ours = losses.NACL(norm=norm, border="missing")(z, y)
    assert float(ours) == pytest.approx(float(theirs), rel=1e-6)
    if len(shape) == 2:
        gaussian = monai.NACLLoss(classes=C, dim=2, kernel_ops="gaussian")(z, y)
        assert float(losses.NACL(prior="gaussian", border="missing")(z, y)) != pytest.approx(float(gaussian), rel=1e-6)


def test_what_cannot_be() -> None:
    z, y = torch.zeros(1, C, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
    with pytest.raises(ShapeError, match="labels"):
        losses.NACL()(z, y[:, None])
    with pytest.raises(LabelError, match="ignore_index"):
        losses.SVLS()(z, y + 255)
    for wrong in ({"norm": 3}, {"prior": "best"}, {"size": 4}, {"border": "wrap"}, {"reduction": "max"}):
        with pytest.raises(UsageError):
            losses.NACL(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="sigma"):
        losses.SVLS(sigma=0)
