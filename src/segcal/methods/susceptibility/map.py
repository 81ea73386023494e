"""A temperature of each voxel from how its probabilities answer to small changes of the image, and from how plausible
the predicted shape is (O22): p(v) = S(x(v) / T(v)).

T = softplus(t + c0) + 1e-6 with t from the calibration network (`segcal.methods.susceptibility.net`), c0 such that t =
0 gives T = 1. Its inputs: the image, standardised by numbers of the fit; log-probabilities, not below log 1e-7; the
shape residual S(prior) - S(x), what a denoising autoencoder would rather see; mean and spread of the probabilities over
copies of the image. Each may be left out but the log-probabilities.

Promises: label and order kept, since T > 0 is common to all classes of a voxel; translation-invariant, since all it is
computed from are probabilities, their logarithms and the image. The weights of the channels (attention) come from means
over the whole case, which is read whole: planes are worked on some at a time. The networks run in float32, in which
they are trained. No voxel: an empty result. Deviations
from the released code: log-probabilities for logits; softplus for ReLU(t + 1) + 1e-8; no 0.1 added to T, so that the
start is the identity.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from segcal.data.surroundings import Neighbourhood
from segcal.errors import UsageError
from segcal.methods.guarantees import Status
from segcal.methods.local.map import positive
from segcal.methods.maps import Needs, TemperatureMap, standardised
from segcal.methods.susceptibility import net

IMAGE, SCORES, SHAPE, MEAN, SPREAD = INPUTS = ("image", "scores", "shape", "mean", "spread")
"""Branches, in the order in which they lie side by side."""

LOWEST = -16.118095651
"""log 1e-7: lower log-probabilities count as this."""

AT_ONCE = 1 << 15
"""Voxels of the planes that are worked on together, or one plane."""

SETTLED = ("image_mean", "image_scale", "sliced")
"""Tensors that belong to no network."""


class SusceptibilityMap(TemperatureMap):
    """`tensors`: those of the calibration network, of a shape prior if there is one, and `image_mean`, `image_scale`
    (image channels,); `slice_axis`: spatial axis of a volume that planes are slices of. Numbers that are not finite, or
    no branch of the scores: UsageError.
    """

    type_name: ClassVar[str] = "susceptibility"
    image_mean: Tensor
    image_scale: Tensor
    sliced: Tensor

    def __init__(self, tensors: Mapping[str, Tensor], slice_axis: int = 0) -> None:
        super().__init__()
        if f"{SCORES}_weight" not in tensors or not all(bool(torch.isfinite(t).all()) for t in tensors.values()):
            raise UsageError(
                "tensors",
                found="NaN or infinity" if f"{SCORES}_weight" in tensors else "no branch of the scores",
                expected="finite numbers of a calibration network",
                do="Fit again with a smaller learning rate.",
            )
        self._names = tuple(name for name in tensors if name not in SETTLED)
        for name in self._names:
            self.parameter(name, tensors[name])
        for name in SETTLED[:2]:
            self.parameter(name, tensors.get(name, torch.zeros(0)))
        self.register_buffer("sliced", torch.arange(3) == slice_axis)
        self.derive()

    def derive(self) -> None:
        """The axis, as a plain value."""
        self._axis = int(self.sliced.long().argmax())

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Of both networks."""
        return {name: self.get_buffer(name) for name in self._names}

    @property
    def inputs(self) -> tuple[str, ...]:
        """Branches that there are."""
        return tuple(name for name in INPUTS if f"{name}_weight" in self._names)

    @property
    def classes(self) -> int | None:
        """C."""
        return int(self.get_buffer(f"{SCORES}_weight").shape[1])

    @property
    def needs(self) -> Needs:
        """The whole case, its image, and mean and spread over copies of it."""
        fields = [name for name, wanted in (("image", IMAGE), ("susceptibility", MEAN)) if wanted in self.inputs]
        return Needs(reach=None, axis=self._axis, fields=tuple(sorted(fields)), draws=True)

    @property
    def slice_axis(self) -> int:
        """Spatial axis that planes are slices of."""
        return self._axis

    def context(self, near: Neighbourhood) -> Tensor:
        """t, (slices, rows, columns)."""
        logs = near.log_probs
        cases = [logs.float().chunk(near.cases, 1)]
        cases += [near.fields[name].chunk(near.cases, 1) for name in self.needs.fields]
        found = [
            self._of_case(logs, dict(zip(self.needs.fields, fields, strict=True)))
            for logs, *fields in zip(*cases, strict=True)
        ]
        return torch.cat(found).to(logs.dtype)

    def settled(self, context: Tensor) -> Tensor:
        """T of t."""
        return positive(context)

    def attention(self, near: Neighbourhood) -> dict[str, float]:
        """The mean weight of the channels of each branch, of one case."""
        fields = {name: near.fields[name] for name in self.needs.fields}
        weights = net.attention(self._means(near.log_probs.float(), fields), self._float32)
        return {
            name: float(part.mean()) for name, part in zip(self.inputs, weights.chunk(len(self.inputs)), strict=True)
        }

    def residual(self, logs: Tensor) -> Tensor:
        """The shape residual (C, slices, rows, columns) of log-probabilities of that shape; 0 without a prior."""
        if SHAPE not in self.inputs:
            return torch.zeros_like(logs)
        planes = logs.float().movedim(1, 0).clamp_min(LOWEST)
        return shape_residual(planes, self._float32).movedim(0, 1).to(logs.dtype)

    def _of_case(self, logs: Tensor, fields: Mapping[str, Tensor]) -> Tensor:
        t = self._float32
        weights = net.attention(self._means(logs, fields), t)
        return torch.cat([net.merged(net.branches(some, t), weights[None], t) for some in self._pieces(logs, fields)])

    def _means(self, logs: Tensor, fields: Mapping[str, Tensor]) -> Tensor:
        """The mean of each channel over the case."""
        t, voxels = self._float32, logs[0].numel()
        sums = [net.branches(some, t).sum((0, 2, 3)) for some in self._pieces(logs, fields)]
        return torch.stack(sums).sum(0) / max(voxels, 1)

    def _pieces(self, logs: Tensor, fields: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """Inputs of some planes (n, channels, rows, columns) at a time."""
        image = standardised(fields["image"], self.image_mean, self.image_scale) if IMAGE in self.inputs else None
        planes = max(1, AT_ONCE // max(logs[0, 0].numel(), 1))
        for low in range(0, max(logs.shape[1], 1), planes):
            some = slice(low, low + planes)
            given = {SCORES: logs[:, some].movedim(1, 0).clamp_min(LOWEST)}
            if image is not None:
                given[IMAGE] = image[:, some].movedim(1, 0)
            if MEAN in self.inputs:
                given[MEAN], given[SPREAD] = fields["susceptibility"][:, some].movedim(1, 0).chunk(2, 1)
            if SHAPE in self.inputs:
                given[SHAPE] = shape_residual(given[SCORES], self._float32)
            yield {name: given[name].float() for name in self.inputs}

    @property
    def _float32(self) -> dict[str, Tensor]:
        return {name: t.float() for name, t in self.tensors.items()}

    def invariance(self) -> tuple[Status, str]:
        """Always."""
        return "proven", "the temperature is computed from log-probabilities, probabilities of copies and the image"

    def describe(self) -> dict[str, object]:
        """What it looks at, and how large its networks are."""
        prior = sum(t.numel() for name, t in self.tensors.items() if net.of_prior(name))
        return {
            "looks_at": ", ".join(self.inputs),
            "parameters": sum(t.numel() for t in self.tensors.values()),
            "parameters_of_the_prior": prior,
            "image_channels": len(self.image_mean),
            "slice_axis": self._axis,
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> SusceptibilityMap:
        return cls({name: t for name, t in tensors.items() if name != "sliced"}, int(tensors["sliced"].long().argmax()))


def shape_residual(logs: Tensor, t: Mapping[str, Tensor]) -> Tensor:
    """S(prior) - S(x) of planes (n, C, rows, columns) of log-probabilities."""
    return net.shape_of(logs, t).exp() - logs.exp()
