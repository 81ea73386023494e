"""Hypothesis strategies: heads, scores of every kind, labels, rows and cohorts, with the values that break calibration
code.

Scores come in *regimes*: ordinary; faint (all classes almost alike); saturated (logits of +-1e4, probabilities of
exactly 0 and 1); nearly tied (the winner leads by one unit in the last place); tied; constant; extreme (up to 1e30);
denormal. Values are drawn from a seeded generator, so that an example is a regime, a seed and a shape: fast to draw,
and what shrinks is these, not single voxels. Promises: what is drawn is valid for its declared kind, and every case of
a cohort has a voxel to score. Sizes may be zero where a docstring says so.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray

from segcal.data import scores as scores_
from segcal.data.case import Case, Provenance
from segcal.data.cohort import Cohort
from segcal.data.formats.arrays import ArrayField
from segcal.data.head import Head, Regions, Softmax
from segcal.data.places.place import Place
from segcal.data.pooling import POOLS
from segcal.data.rows import Rows
from segcal.data.scores import Kind
from segcal.data.surroundings import Pinnable

Array = NDArray[Any]
Regime = Callable[[np.random.Generator, int, int], Array]

SEEDS = st.integers(0, 2**32 - 1)


def _ordinary(rng: np.random.Generator, channels: int, n: int) -> Array:
    return 3 * rng.normal(size=(channels, n))


def _faint(rng: np.random.Generator, channels: int, n: int) -> Array:
    return 1e-3 * rng.normal(size=(channels, n))


def _saturated(rng: np.random.Generator, channels: int, n: int) -> Array:
    return rng.choice([-1e4, 1e4], size=(channels, n))


def _nearly_tied(rng: np.random.Generator, channels: int, n: int) -> Array:
    level = rng.normal(size=n).astype(np.float32)
    out = np.repeat(level[None], channels, 0)
    winner = rng.integers(channels, size=n)
    out[winner, np.arange(n)] = np.nextafter(level, np.float32(np.inf))
    return out


def _tied(rng: np.random.Generator, channels: int, n: int) -> Array:
    return rng.integers(-1, 2, size=(channels, n)).astype(np.float64)


def _constant(rng: np.random.Generator, channels: int, n: int) -> Array:
    return np.full((channels, n), rng.normal())


def _extreme(rng: np.random.Generator, channels: int, n: int) -> Array:
    return rng.normal(size=(channels, n)) * 10.0 ** rng.integers(5, 31, size=n)


def _denormal(rng: np.random.Generator, channels: int, n: int) -> Array:
    """Multiples of the smallest float32 number, or of the smallest float64 number, which float32 takes for 0."""
    return rng.integers(-3, 4, size=(channels, n)) * np.where(
        rng.random(n) < 0.5, float(np.finfo(np.float32).smallest_subnormal), np.finfo(np.float64).smallest_subnormal
    )


REGIMES: dict[str, Regime] = {
    "ordinary": _ordinary,
    "faint": _faint,
    "saturated": _saturated,
    "nearly tied": _nearly_tied,
    "tied": _tied,
    "constant": _constant,
    "extreme": _extreme,
    "denormal": _denormal,
}
"""Ways to fill logits (channels, n), by name."""


def heads(most: int = 5) -> st.SearchStrategy[Head]:
    """Softmax heads of 2 to `most` classes, with and without background and ignored label; region heads of 1 to 3
    nested regions.
    """
    softmax = st.builds(
        lambda count, background, ignore: Softmax(tuple(f"class {k}" for k in range(count)), background, ignore),
        st.integers(2, most),
        st.sampled_from([None, 0, 1]),
        st.sampled_from([None, 255]),
    )
    regions = st.builds(
        lambda count, ignore: Regions(
            tuple(f"region {r}" for r in range(count)),
            tuple(tuple(range(r + 1, count + 1)) for r in range(count)),
            tuple(range(1, count + 1)),
            ignore,
        ),
        st.integers(1, 3),
        st.sampled_from([None, 255]),
    )
    return st.one_of(softmax, regions)


def kinds(head: Head) -> st.SearchStrategy[Kind]:
    """Kinds of scores that a head can have."""
    return st.sampled_from(head.kinds)


def fill(channels: int, n: int, names: list[str], rng: np.random.Generator) -> Array:
    """Logits (channels, n), float64: each voxel in one of the named regimes."""
    filled = np.stack([REGIMES[name](rng, channels, n) for name in names])
    return np.ascontiguousarray(filled[rng.integers(len(names), size=n), :, np.arange(n)].T)


def mixtures(regimes: tuple[str, ...] = tuple(REGIMES)) -> st.SearchStrategy[list[str]]:
    """One of `regimes`, or all of them together."""
    return st.sampled_from([*([name] for name in regimes), list(regimes)])


def logits(channels: int, n: int, regimes: tuple[str, ...] = tuple(REGIMES)) -> st.SearchStrategy[Array]:
    """Logits (channels, n), float64, in one of `regimes` or, voxel by voxel, in any of them."""
    return st.builds(
        lambda names, seed: fill(channels, n, names, np.random.default_rng(seed)), mixtures(regimes), SEEDS
    )


def scores(head: Head, kind: Kind, n: int, regimes: tuple[str, ...] = tuple(REGIMES)) -> st.SearchStrategy[Array]:
    """Scores (head.channels, n) of `kind`, float32 or float64."""
    drawn = st.tuples(logits(head.channels, n, regimes), st.sampled_from([np.float32, np.float64]))
    return drawn.map(lambda pair: _of_kind(pair[0], head, kind).astype(pair[1]))


def _of_kind(z: Array, head: Head, kind: Kind) -> Array:
    """Logits as scores of another kind.

    Leads of one unit in the last place are made again where the softmax would round them away.
    """
    if kind == "logits":
        return z
    if not head.sums_to_one:
        return np.asarray(1 / (1 + np.exp(-np.clip(z, -700, 700))))
    shifted = z - z.max(0, keepdims=True)
    p = np.exp(shifted)
    p /= p.sum(0, keepdims=True)
    close = (shifted < 0).any(0) & (shifted > -1e-6).all(0)
    level = np.full(int(close.sum()), 1 / len(z), np.float32)
    lifted = np.repeat(level[None], len(z), 0)
    lifted[z[:, close].argmax(0), np.arange(lifted.shape[1])] = np.nextafter(level, np.float32(1))
    p[:, close] = lifted
    if kind == "probs":
        return np.asarray(p)
    return np.asarray(7 * p) if kind == "scores" else np.log(np.maximum(p, 1e-30))


def labels(head: Head, n: int) -> st.SearchStrategy[Array]:
    """Labels (n,) int64: any the head knows, the ignored one too, but never at the first voxel."""

    def make(seed: int) -> Array:
        rng = np.random.default_rng(seed)
        out = rng.integers(head.labels, size=n)
        if head.ignore is not None and n > 1:
            out[1:][rng.random(n - 1) < 0.2] = head.ignore
        return out

    return SEEDS.map(make)


def rows(
    classes: int,
    most: int = 60,
    regimes: tuple[str, ...] = tuple(REGIMES),
    places: Iterable[Place] = (),
    contexts: Iterable[Pinnable] = (),
) -> st.SearchStrategy[Rows]:
    """Rows of up to `most` voxels (none too), float64, with free energies, flips of the decision, and saturated, tied
    and extreme voxels.

    `places`: what to say of where voxels lie: 0, 1, distances on a grid, all of them or a few not defined. `contexts`:
    what lies around them, numbers of 0 or more.
    """
    wanted, around = tuple(places), tuple(contexts)

    def make(n: int, names: list[str], seed: int) -> Rows:
        rng = np.random.default_rng(seed)
        z = torch.from_numpy(fill(classes, n, names, rng))
        decision = z.argmax(0)
        other, targets = (torch.from_numpy(rng.integers(classes, size=n)) for _ in range(2))
        reference = torch.where(torch.from_numpy(rng.random(n) < 0.2), other, decision)
        case, start = int(rng.integers(10)), int(rng.choice([0, 65_536]))
        lie = {place: torch.from_numpy(_lying(rng, n)) for place in wanted}
        drawn: dict[Hashable, torch.Tensor] = {
            one: torch.from_numpy(np.maximum(0, rng.normal(1, 3, (one.numbers, n)))) for one in around
        }
        return Rows(
            case,
            start,
            scores_.canonical(z, "logits"),
            targets,
            decision,
            reference,
            scores_.free_energy(z),
            lie,
            drawn,
        )

    return st.builds(make, st.integers(0, most), mixtures(regimes), SEEDS)


def _lying(rng: np.random.Generator, n: int) -> Array:
    where = np.sqrt(rng.integers(300, size=n) * rng.integers(2, size=n))
    return np.asarray(np.where(rng.random(n) < rng.choice([0, 0.1, 1]), np.nan, where))


@st.composite
def cohorts(draw: st.DrawFn, most_cases: int = 4) -> Cohort:
    """Labelled cohorts in memory: any head and kind, one to three members, cases of one to three axes, with and without
    masks and crops, of one group or several.
    """
    head = draw(heads(4))
    kind = draw(kinds(head))
    members, pool = draw(st.integers(1, 3)), draw(st.sampled_from(POOLS))
    masked = draw(st.booleans())
    cases = []
    for k in range(draw(st.integers(1, most_cases))):
        shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
        n = int(np.prod(shape))
        fields = tuple(
            ArrayField(
                draw(scores(head, kind, n, ("ordinary", "saturated", "nearly tied"))).reshape(head.channels, *shape),
                True,
                f"scores[{k}][{m}]",
            )
            for m in range(members)
        )
        y = ArrayField(draw(labels(head, n)).reshape(shape), False, f"labels[{k}]")
        mask = None
        if masked:
            values = np.random.default_rng(draw(SEEDS)).random(n) < 0.8
            values[0] = True
            mask = ArrayField(values.astype(np.uint8).reshape(shape), False, f"mask[{k}]")
        crop = tuple((0, draw(st.integers(1, size))) for size in shape) if draw(st.booleans()) else None
        cases.append(Case(f"case {k}", fields, y, draw(st.sampled_from(["", "a", "b"])), mask, crop))
    return Cohort(tuple(cases), head, kind, pool, Provenance(members))
