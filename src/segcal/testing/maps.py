"""Laws of maps: what one softmax problem's map must keep, and that its promises are neither false nor withheld without
cause.

The subject is a fitted or hand-made `Map`. Costs: about a second, three the first time (torch.export). A map for any
number of classes is tried with 2 and 5. A promise that is `proven` is tried on ordinary, saturated, tied and extreme
voxels; one that is `no` must have a counter-example among a few thousand voxels.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcal.data.scores import canonical, free_energy
from segcal.methods.maps import Map
from segcal.testing.law import Law, check_all, forall, law, require
from segcal.testing.strategies import REGIMES, logits

PROMISES = ("translation_invariant", "preserves_argmax", "preserves_order")
SHIFTS = (-1e3, -1.0, 1e-3, 1e3)


def _classes(m: Map) -> tuple[int, ...]:
    return (2, 5) if m.classes is None else (m.classes,)


def _columns(m: Map, body: Callable[[Tensor, Tensor], None], regimes: tuple[str, ...] = tuple(REGIMES)) -> None:
    """Run `body` on canonical log-probabilities (C, n) and free energies (n,), float64."""
    for classes in _classes(m):

        @forall(logits(classes, 40, regimes), examples=12)
        def _(z: NDArray[np.float64]) -> None:
            scores = torch.from_numpy(z)
            body(canonical(scores, "logits"), free_energy(scores))


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()


@law
def output_is_normalised(m: Map) -> None:
    """Output has the shape and type of the input, no NaN, and probabilities that sum to one: within 1e-9 in float64,
    1e-5 in float32.
    """

    def body(x: Tensor, energy: Tensor) -> None:
        for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
            out = m(x.to(dtype), energy)
            require(
                out.shape == x.shape and out.dtype == dtype,
                f"{out.dtype} {tuple(out.shape)} for {dtype} {tuple(x.shape)}",
            )
            require(not bool(out.isnan().any()), f"NaN in {dtype}")
            off = float((out.exp().sum(0) - 1).abs().max())
            require(off <= tolerance, f"probabilities sum to one only within {off:.3g} in {dtype}")

    _columns(m, body, tuple(name for name in REGIMES if name != "extreme"))


@law
def extreme_scores_stay_finite_probabilities(m: Map) -> None:
    """Scores of size up to 1e30 give probabilities, not NaN, in float64."""

    def body(x: Tensor, energy: Tensor) -> None:
        p = m(x, energy).exp()
        require(bool(((p >= 0) & (p <= 1 + 1e-9)).all()), "values outside [0, 1], or NaN")
        require(bool(((p.sum(0) - 1).abs() <= 1e-9).all()), "probabilities that do not sum to one")

    _columns(m, body, ("extreme",))


@law
def nothing_gives_nothing(m: Map) -> None:
    """No voxel gives an empty result of the same shape."""
    for classes in _classes(m):
        out = m(torch.zeros(classes, 0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64))
        require(tuple(out.shape) == (classes, 0), f"shape {tuple(out.shape)} for no voxel of {classes} classes")


@law
def applying_is_pure(m: Map) -> None:
    """Applying again gives the same bits and changes neither input."""

    def body(x: Tensor, energy: Tensor) -> None:
        kept, kept_energy = x.clone(), energy.clone()
        first = m(x, energy)
        require(_same(x, kept) and _same(energy, kept_energy), "an input was changed")
        require(_same(m(x, energy), first), "applying again gave other bits")

    _columns(m, body)


@law
def parameters_are_fixed_numbers(m: Map) -> None:
    """Fitted numbers are finite buffers in float64 (truth values apart), not trainable parameters."""
    require(not list(m.parameters()), f"trainable parameters {[n for n, _ in m.named_parameters()]}")
    for name, value in m.state_dict().items():
        require(value.dtype in (torch.float64, torch.bool), f"{name} is {value.dtype}")
        require(bool(torch.isfinite(value).all()), f"{name} is not finite")


@law
def copies_give_the_same_bits(m: Map) -> None:
    """Rebuilt from its tensors, pickled, or moved with `.to()`, it gives the same bits."""
    rebuilt = type(m).from_tensors({k: v.clone() for k, v in m.state_dict().items()})
    copies = {
        "rebuilt from its tensors": rebuilt,
        "pickled": pickle.loads(pickle.dumps(m)),
        "moved": pickle.loads(pickle.dumps(m)).to(torch.device("cpu")).double(),
    }

    def body(x: Tensor, energy: Tensor) -> None:
        expected = m(x, energy)
        for how, copy in copies.items():
            require(_same(copy(x, energy), expected), f"{how}, it gives other bits")

    _columns(m, body)


@law
def descriptions_are_plain(m: Map) -> None:
    """`describe` is plain data for JSON, and each promise comes with its reason."""
    json.dumps(m.describe())
    given = m.guarantees()
    json.dumps(given.to_json())
    for name in PROMISES:
        require(bool(given.reasons.get(name)), f"no reason for {name} = {getattr(given, name)}")


@law
def translation_promise_is_honest(m: Map) -> None:
    """Where invariance to a constant added to all logits is proven it holds; where it is refused some shift
    shows it.
    """
    status = m.guarantees().translation_invariant
    if status == "no":
        require(
            any(_moves(m, c) for c in _classes(m)),
            "translation invariance is refused, yet no shift up to 1e6 changes a probability",
        )
    if status != "proven":
        return

    def body(x: Tensor, energy: Tensor) -> None:
        p = m(x, energy).exp()
        for shift in SHIFTS:
            off = float((m(x, energy + shift).exp() - p).abs().max())
            require(off <= 1e-6, f"proven invariant, yet a shift of {shift:g} moves a probability by {off:.3g}")

    _columns(m, body, ("ordinary", "faint", "tied"))


def _moves(m: Map, classes: int) -> bool:
    x = _probes(classes)
    energy = torch.zeros(x.shape[1], dtype=torch.float64)
    p = m(x, energy).exp()
    return any(
        float((m(x, energy + sign * 10.0**k).exp() - p).abs().max()) > 1e-9 for k in range(7) for sign in (-1, 1)
    )


@law
def argmax_promise_is_honest(m: Map) -> None:
    """Where the label is proven to stay the winner stays first, or ties; where that is refused some voxel changes its
    label.
    """
    status = m.guarantees().preserves_argmax
    if status == "no":
        require(
            any(_flips(m, c) for c in _classes(m)),
            "preservation of the label is refused, yet no voxel tried changes it",
        )
    if status != "proven":
        return

    def body(x: Tensor, energy: Tensor) -> None:
        out = m(x, energy)
        behind = out.amax(0) - out.gather(0, x.argmax(0)[None])[0]
        require(
            bool((behind <= _rounding(out)).all()),
            f"proven to keep the label, yet a winner falls behind by {float(behind.max()):.3g}",
        )

    _columns(m, body)


def _flips(m: Map, classes: int) -> bool:
    x = _probes(classes)
    energies = (torch.zeros(x.shape[1], dtype=torch.float64), torch.linspace(-50, 50, x.shape[1], dtype=torch.float64))
    return any(bool((m(x, energy).argmax(0) != x.argmax(0)).any()) for energy in energies)


@law
def order_promise_is_honest(m: Map) -> None:
    """Where the ranking of classes is proven to stay no two classes swap; where that is refused some voxel swaps two,
    or ties them.
    """
    status = m.guarantees().preserves_order
    if status == "no":
        require(
            any(_swaps(m, c) for c in _classes(m)),
            "preservation of the order is refused, yet no voxel tried changes it",
        )
    if status != "proven":
        return

    def body(x: Tensor, energy: Tensor) -> None:
        out = m(x, energy)
        wrong = (x[:, None] > x[None]) & (out[:, None] < out[None] - _rounding(out))
        require(not bool(wrong.any()), "proven to keep the order, yet two classes swap")

    _columns(m, body)


def _swaps(m: Map, classes: int) -> bool:
    x = _probes(classes)
    energies = (torch.zeros(x.shape[1], dtype=torch.float64), torch.linspace(-50, 50, x.shape[1], dtype=torch.float64))
    return any(
        bool(((x[:, None] > x[None] + 1e-9) & (out[:, None] <= out[None])).any())
        for out in (m(x, energy) for energy in energies)
    )


def _rounding(out: Tensor) -> Tensor:
    return 1e-9 * (1 + out.abs().nan_to_num(posinf=0).amax(0))


def _probes(classes: int) -> Tensor:
    """Log-probabilities (classes, n) in many directions and of many sizes, near ties of two classes among them."""
    rng = np.random.default_rng(0)
    around = [10.0**k * rng.normal(size=(classes, 200)) for k in range(-5, 5)]
    ties = []
    for k in range(-8, 1):
        z = -5 * rng.random((classes, 200))
        first, second = (rng.permuted(np.tile(np.arange(classes), (200, 1)), axis=1)[:, :2]).T
        at = np.arange(200)
        z[first, at], z[second, at] = 10.0**k, 0
        ties.append(z)
    return canonical(torch.from_numpy(np.concatenate([*around, *ties], 1)), "logits")


@law
def sensitivity_is_a_bound(m: Map) -> None:
    """Where `sensitivity` gives a bound, log-probabilities moved a little move the result by no more than that."""
    bound = m.sensitivity()
    if bound is None:
        return

    def body(x: Tensor, energy: Tensor) -> None:
        signs = torch.from_numpy(np.random.default_rng(0).choice([-1.0, 1.0], tuple(x.shape)))
        out = m(x, energy, x)
        for moved in (1e-3, 1.0):
            far = float((m(x + moved * signs, energy, x) - out).abs().max())
            require(
                far <= bound * moved + 2 * float(_rounding(out).max()),
                f"moved by {moved:g}, log-probabilities change by {far:.3g}, beyond {bound:.3g} times that",
            )

    _columns(m, body, ("ordinary", "faint", "tied"))


@law
def a_trace_gives_the_same_numbers(m: Map) -> None:
    """torch.export follows `forward`, for any number of voxels, and what it makes gives the same numbers to 1e-12."""
    for classes in _classes(m):
        x, energy = (
            torch.full((classes, 7), 1 / classes, dtype=torch.float64).log(),
            torch.zeros(7, dtype=torch.float64),
        )
        voxels = torch.export.Dim("voxels", min=2, max=2**30)
        shapes = {"log_probs": {1: voxels}, "free_energy": {0: voxels}}
        exported = torch.export.export(m, (x, energy), dynamic_shapes=shapes, strict=False).module()
        for n in (7, 12):
            z = torch.linspace(-3, 3, classes * n, dtype=torch.float64).sin().reshape(classes, n).log_softmax(0)
            f = torch.linspace(-1, 2, n, dtype=torch.float64)
            off = float((exported(z, f) - m(z, f)).abs().max())
            require(off <= 1e-12, f"the exported map differs by {off:.3g}")


MAP_LAWS: tuple[Law[Map], ...] = (
    output_is_normalised,
    extreme_scores_stay_finite_probabilities,
    nothing_gives_nothing,
    applying_is_pure,
    parameters_are_fixed_numbers,
    copies_give_the_same_bits,
    descriptions_are_plain,
    translation_promise_is_honest,
    argmax_promise_is_honest,
    order_promise_is_honest,
    sensitivity_is_a_bound,
    a_trace_gives_the_same_numbers,
)
"""What `check_map` checks."""


def check_map(m: Map) -> None:
    """Check all laws of maps. Raises BrokenLawError, or an ExceptionGroup of several."""
    check_all(MAP_LAWS, m)
