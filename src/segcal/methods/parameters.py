"""How many numbers each method has: optimised as its paper writes it, identifiable, and varied by the exact solver (K26
Table 2, from the code itself).

Optimised: the elements of the paper's module. Identifiable: the rank of the Jacobian of log-probabilities in those
parameters, at a random point and random scores, in float64; it removes directions that change no probability.
Log-probabilities have the rank of probabilities, and entries that do not vanish. Experts see different voxels, so their
ranks add. A singular value counts if it exceeds `TOLERANCE` times the largest: directions that change nothing come out
at rounding, near 1e-16 of it, and `Count.margin` says how far above them the others lie (12 powers of ten and more for
up to 20 classes). Guarantees are read off a map made from a random member of the family. For a smooth net no rank can
be told (its singular values fall without a step), and a method without a module here is listed without counts.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from segcal.engine.single import one_thread
from segcal.methods import REGISTERED, TRAINED
from segcal.methods.binned import BinnedMap
from segcal.methods.guarantees import Guarantees
from segcal.methods.intra_order import IntraOrderPreserving, Net
from segcal.methods.local.fit import LocalTemperatureScaling
from segcal.methods.local.map import LocalMap
from segcal.methods.method import Method, Published
from segcal.methods.parameterisation import Parameterisation

FAMILIES: Mapping[str, type[Parameterisation]] = {
    name: method.parameterisation for name, method in REGISTERED.items() if issubclass(method, Published)
}
"""The module of each method that its paper writes as one, by the method's name."""

TOLERANCE = 1e-10
GROUP = 10
"""Numbers of a neighbourhood looked at together."""
NETS: Mapping[str, Callable[[int], Parameterisation]] = {
    IntraOrderPreserving.name: lambda classes: Net(classes, IntraOrderPreserving.hidden, 0)
}
"""Methods whose module is a smooth net, at their default size."""

LOCAL = {
    "lts": "from log-probabilities",
    "lts-raw": "from raw logits",
    "lts-image": "from log-probabilities and an image (counted with one channel)",
}
"""What the temperature of each local method is computed from."""

CLASSES = (2, 5, 20)
"""Numbers of classes of the paper's three data sets."""


@dataclass(frozen=True)
class Count:
    """`optimised`, `identifiable` (None: no rank can be told), and `exact` (None: no exact solver).

    `margin`: smallest counted over largest uncounted singular value, infinite where all count.
    """

    optimised: int
    identifiable: int | None
    exact: int | None
    margin: float


@dataclass(frozen=True, eq=False)
class Row:
    """One method: its name, class and first sentence, what its maps promise (None: not known without a fit), and its
    counts by number of classes.
    """

    name: str
    type_name: str
    what: str
    guarantees: Guarantees | None
    counts: Mapping[int, Count]

    def to_json(self) -> dict[str, Any]:
        """A plain description."""
        counts = {
            str(c): {"optimised": n.optimised, "identifiable": n.identifiable, "exact": n.exact}
            for c, n in self.counts.items()
        }
        promises = (
            None if self.guarantees is None else {k: v for k, v in self.guarantees.to_json().items() if k != "reasons"}
        )
        return {"name": self.name, "class": self.type_name, "what": self.what, "guarantees": promises, "counts": counts}


def table(classes: Sequence[int] = CLASSES) -> list[Row]:
    """A row for every registered method. UsageError for fewer than two classes."""
    with one_thread():
        ranks = {c: local_rank(c) for c in classes}
        return [
            *(_row(name, method, classes) for name, method in REGISTERED.items()),
            *(_local(name, ranks) for name in TRAINED),
        ]


def _local(name: str, ranks: Mapping[int, int]) -> Row:
    """A local method: counted from its map, whose tree of convolutions is the paper's.

    With an image no rank is computed.
    """
    options: dict[str, Any] = {"logits": name == "lts-raw"} | (
        {"image_mean": torch.zeros(1)} if name == "lts-image" else {}
    )
    made = {c: LocalMap.start(c, **options) for c in (4, *ranks)}
    numbers = {c: sum(t.numel() for t in (m.weight, m.bias, m.image_weight, m.image_bias)) for c, m in made.items()}
    any_of = made[4]
    varied = LocalMap(
        torch.randn(any_of.weight.shape, generator=torch.Generator().manual_seed(0)),
        any_of.bias,
        any_of.image_weight,
        any_of.image_bias,
        logits=name == "lts-raw",
    )
    counts = {
        c: Count(numbers[c], None if name == "lts-image" else rank, None, float("inf")) for c, rank in ranks.items()
    }
    return Row(
        name,
        LocalTemperatureScaling.__name__,
        f"Local temperature scaling: p = S(z / tau), tau {LOCAL[name]}",
        varied.guarantees(),
        counts,
    )


def local_rank(classes: int) -> int:
    """Identifiable parameters of local temperature scaling without an image (K26 Eq. 7): seven 5 x 5 convolutions of C
    channels and their biases.

    A voxel's probabilities depend on its own neighbourhood alone, through one temperature, so the rank over a field is
    that of the temperatures of random neighbourhoods; each row is the tree's slope in its seven convolutions times the
    neighbourhood. Neighbourhoods that are zero but for `GROUP` numbers see the weights of these and the biases alone.
    Where for each such group these columns are independent, all columns are; where they are not, the rank is that of
    all rows at once.
    """
    numbers, generator = 25 * classes + 1, torch.Generator().manual_seed(classes)
    weights = torch.randn(numbers, 7, generator=generator, dtype=torch.float64) / numbers**0.5

    def rank(places: Tensor) -> int:
        seen = torch.randn(6 * 7 * len(places) // 5 + 8, len(places), generator=generator, dtype=torch.float64)
        seen[:, -1] = 1
        rows = _slopes(seen @ weights[places])[..., None] * seen[:, None]
        return int(torch.linalg.matrix_rank(rows.flatten(1), rtol=TOLERANCE))

    everything = torch.arange(numbers)
    groups = [torch.cat([places, everything[-1:]]) for places in torch.split(everything[:-1], GROUP)]
    return 7 * numbers if all(rank(g) == 7 * len(g) for g in groups) else rank(everything)


def _slopes(convolved: Tensor) -> Tensor:
    """The slopes (..., 7) of the tree's temperature in its seven convolutions (..., 7)."""
    convolved = convolved.requires_grad_()
    t1, t2, t3, t4, a1, a2, a3 = convolved.unbind(-1)
    first, second = torch.lerp(t2, t1, torch.sigmoid(a1)), torch.lerp(t4, t3, torch.sigmoid(a2))
    temperature = torch.nn.functional.softplus(torch.lerp(second, first, torch.sigmoid(a3)))
    return torch.autograd.grad(temperature.sum(), convolved)[0]


def _row(name: str, method: type[Method], classes: Sequence[int]) -> Row:
    what = _sentence(method)
    if name in NETS:
        promises = NETS[name](4).map(False).guarantees()
        return Row(
            name,
            method.__name__,
            what,
            promises,
            {c: Count(NETS[name](c).optimised, None, None, float("inf")) for c in classes},
        )
    if name not in FAMILIES:
        # a random step function a class: what binned maps promise with more than two classes
        return Row(
            name,
            method.__name__,
            what,
            BinnedMap(torch.rand(4, 8, generator=torch.Generator().manual_seed(0)).sort(1).values, 6.0).guarantees(),
            {},
        )
    family = FAMILIES[name]
    promises = drawn(family, 4).map(not family.canonical).guarantees()
    return Row(name, method.__name__, what, promises, {c: count(family, c, method.variables(c)) for c in classes})


def _sentence(method: type[Method]) -> str:
    """What the method's docstring opens with: its name and its formula, without the source."""
    opening = " ".join((method.__doc__ or "").strip().split("\n\n")[0].split())
    title, _, formula = opening.partition(": ")
    return f"{title.split(' (')[0]}: {formula.rstrip('.')}"


def drawn(family: type[Parameterisation], classes: int) -> Parameterisation:
    """A random member of the family, the same in every run."""
    made = family(classes)
    generator = torch.Generator().manual_seed(zlib.crc32(f"{family.name} {classes}".encode()))
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return made


def count(family: type[Parameterisation], classes: int, exact: int | None) -> Count:
    """The counts of one family. Its experts are of one kind and see no common voxel: one stands for all."""
    made = drawn(family, classes)
    expert = made.experts[0]
    rank, margin = _rank(expert, made.features(_scores(expert, classes)))
    return Count(made.optimised, rank * len(made.experts), exact, margin)


def _scores(expert: nn.Module, classes: int) -> Tensor:
    """Random logits, of a fifth more voxels than the expert's parameters need."""
    numbers = sum(p.numel() for p in expert.parameters())
    voxels = 6 * numbers // (5 * (classes - 1)) + 8
    return 2 * torch.randn(classes, voxels, generator=torch.Generator().manual_seed(classes), dtype=torch.float64)


def _rank(module: nn.Module, scores: Tensor) -> tuple[int, float]:
    """Rank of the Jacobian of log-probabilities in the parameters, and how far the singular values that count lie above
    the others.
    """
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    jacobian = torch.func.jacrev(lambda p: torch.func.functional_call(module, p, (scores,)), chunk_size=256)(parameters)
    columns = torch.cat([jacobian[name].reshape(scores.numel(), -1) for name in parameters], 1)
    values = torch.linalg.svdvals(columns)
    counted = values > TOLERANCE * values[0]
    rank = int(counted.sum())
    rest = values[rank:]
    return rank, float("inf") if not len(rest) else (values[rank - 1] / rest[0].clamp_min(1e-300)).item()
