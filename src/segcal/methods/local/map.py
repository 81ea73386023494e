"""A temperature of each voxel from its neighbourhood: p(v) = S(x(v) / tau(v)), tau(v) > 0 the same for all classes (K26
Eq. 7, 11; Ding et al. 2021).

Seven 5 x 5 convolutions of the scores with dilation 2, in the plane, are the leaves and gates of a small tree: q1 =
s(a1) t1 + s(-a1) t2, q2 = s(a2) t3 + s(-a2) t4, t = s(a3) q1 + s(-a3) q2, tau = softplus(t + c0) + 1e-6, where s is the
logistic function and c0 makes t = 0 give tau = 1. With an image (Ding) one more gate, from the scores, mixes in a leaf
computed from the image, which is standardised by numbers of the fit. At the image level (IBTS) one temperature a case
comes from the mean of t over its voxels, crop padding left out.

Promises: order-preserving whatever the parameters, since tau > 0 is common to all classes; translation-invariant where
the temperature is computed from log-probabilities (K26 Appendix A.1), or is constant. A new map with zero leaves is the
identity, exactly: tau = 1. Its temperature does not depend on how a case is cut, to the last bit; from whole arrays at
once it may differ in the last bits of float64. Parameters: 7 (25 C + 1), all identifiable; with an image of k channels
25 (C + k) + 2 more. Deviations: the official code starts at tau = 2 and rectifies, ReLU(t + 1) + 1e-8; K26 names
softplus and a start at the identity, which these are. Edges as in `segcal.data.surroundings`.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, softplus

from segcal.data.surroundings import MARGIN, Neighbourhood
from segcal.errors import UsageError
from segcal.methods.guarantees import Status
from segcal.methods.maps import FLOOR, Needs, TemperatureMap, standardised

KERNEL, DILATION = 5, 2

START = math.log(math.expm1(1 - FLOOR))
"""c0: softplus(c0) + FLOOR = 1."""

LEAVES, GATES = 4, 3
GATE_SPREAD = 1e-2
"""Standard deviation of the gates' weights at the start: with equal gates all leaves would stay alike, and no gate
would ever learn (definitions 3.1).
"""


class LocalMap(TemperatureMap):
    """`weight` (7, C, 5, 5) and `bias` (7,): leaves t1 ... t4, gates a1 ... a3; with an image (8, ...), the last its
    gate, beside `image_weight` (channels, 5, 5) and `image_bias` (1,).

    `image_mean`, `image_scale` (channels,): what the image is standardised by. `logits`: the temperature is computed
    from raw logits. `image_level`: one temperature a case. `slice_axis`: spatial axis of a volume that planes are
    slices of. Shapes that do not fit, or numbers that are not finite: UsageError.
    """

    type_name: ClassVar[str] = "local"
    weight: Tensor
    bias: Tensor
    image_weight: Tensor
    image_bias: Tensor
    image_mean: Tensor
    image_scale: Tensor
    on_logits: Tensor
    of_case: Tensor
    sliced: Tensor

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        image_weight: Tensor | None = None,
        image_bias: Tensor | None = None,
        image_mean: Tensor | None = None,
        image_scale: Tensor | None = None,
        *,
        logits: bool = False,
        image_level: bool = False,
        slice_axis: int = 0,
    ) -> None:
        super().__init__()
        channels = 0 if image_weight is None else len(image_weight)
        parts = {
            "weight": weight,
            "bias": bias,
            "image_weight": torch.zeros(0, KERNEL, KERNEL) if image_weight is None else image_weight,
            "image_bias": torch.zeros(0) if image_bias is None else image_bias,
            "image_mean": torch.zeros(channels) if image_mean is None else image_mean,
            "image_scale": torch.ones(channels) if image_scale is None else image_scale,
        }
        kernels = LEAVES + GATES + (channels > 0)
        classes = weight.shape[1] if weight.dim() == 4 else 0
        wanted = (
            (kernels, classes, KERNEL, KERNEL),
            (kernels,),
            (channels, KERNEL, KERNEL),
            (int(channels > 0),),
            (channels,),
            (channels,),
        )
        for (name, value), shape in zip(parts.items(), wanted, strict=True):
            if tuple(value.shape) != shape or not bool(torch.isfinite(value).all()):
                found = f"shape {tuple(value.shape)}" if tuple(value.shape) != shape else "NaN or infinity"
                raise UsageError(
                    name,
                    found=found,
                    expected=f"finite numbers of shape {shape}",
                    do="Seven kernels (C, 5, 5), eight with an image, and one bias each.",
                )
            self.parameter(name, value)
        if slice_axis not in (0, 1, 2):
            raise UsageError(
                "slice_axis",
                found=str(slice_axis),
                expected="0, 1 or 2",
                do="Name the spatial axis of a volume that its planes are slices of.",
            )
        self.register_buffer("on_logits", torch.tensor(logits))
        self.register_buffer("of_case", torch.tensor(image_level))
        self.register_buffer("sliced", torch.arange(3) == slice_axis)
        self.derive()

    def derive(self) -> None:
        self._logits, self._of_case, self._axis = (
            bool(self.on_logits),
            bool(self.of_case),
            int(self.sliced.long().argmax()),
        )
        leaves = self.weight[:LEAVES]
        self._constant = not (
            bool(leaves.any())
            or bool((self.bias[:LEAVES] != self.bias[0]).any())
            or bool(self.image_weight.any())
            or bool((self.image_bias != self.bias[0]).any())
        )

    @classmethod
    def start(
        cls,
        classes: int,
        seed: int = 0,
        *,
        image_mean: Tensor | None = None,
        image_scale: Tensor | None = None,
        logits: bool = False,
        image_level: bool = False,
        slice_axis: int = 0,
    ) -> LocalMap:
        """The identity: leaves of zero, and small random gates by `seed`.

        `image_mean`: of each channel of an image, if there is one.
        """
        channels = 0 if image_mean is None else len(image_mean)
        kernels = LEAVES + GATES + (channels > 0)
        weight = np.random.default_rng(seed).normal(scale=GATE_SPREAD, size=(kernels, classes, KERNEL, KERNEL))
        weight[:LEAVES] = 0
        extra = (torch.zeros(channels, KERNEL, KERNEL), torch.zeros(1), image_mean, image_scale) if channels else ()
        return cls(
            torch.from_numpy(weight),
            torch.zeros(kernels),
            *extra,
            logits=logits,
            image_level=image_level,
            slice_axis=slice_axis,
        )

    @property
    def classes(self) -> int | None:
        """C."""
        return self.weight.shape[1]

    @property
    def needs(self) -> Needs:
        """Neighbours, the image if there is one, and raw logits where the temperature is computed from them and
        varies.
        """
        return Needs(
            logits=self._logits and not self._constant,
            reach=MARGIN,
            axis=self._axis,
            fields=("image",) if self.channels else (),
            mean=self._of_case,
        )

    @property
    def channels(self) -> int:
        """Channels of the image; 0 without one."""
        return len(self.image_weight)

    @property
    def image_level(self) -> bool:
        """Whether there is one temperature a case."""
        return self._of_case

    @property
    def slice_axis(self) -> int:
        """Spatial axis that planes are slices of."""
        return self._axis

    def context(self, near: Neighbourhood) -> Tensor:
        """t, (slices, rows, columns)."""
        scores, image = near.log_probs, near.fields.get("image")
        if self.needs.logits:
            if near.free_energy is None:
                raise UsageError(
                    "scores",
                    found="probabilities",
                    expected="raw logits",
                    do="This map was fitted on raw logits; give it the network's logits, or fit on probabilities.",
                )
            scores = scores + near.free_energy[None]
        parameters = [p.to(scores.dtype) for p in (self.weight, self.bias, self.image_weight, self.image_bias)]
        return tree(scores, None if image is None else self.standardised(image).to(scores.dtype), *parameters)

    def standardised(self, image: Tensor) -> Tensor:
        """The image (channels, ...) less its mean, in units of its scale. Another number of channels: UsageError."""
        return standardised(image, self.image_mean, self.image_scale)

    def settled(self, context: Tensor) -> Tensor:
        """tau of t."""
        return positive(context)

    def invariance(self) -> tuple[Status, str]:
        """Unless a varying temperature sees raw logits."""
        if self._constant:
            return "proven", "the temperature is the same everywhere"
        if self._logits:
            return "no", "the temperature is computed from raw logits, which carry the offset"
        return "proven", "the temperature is computed from log-probabilities"

    def describe(self) -> dict[str, object]:
        """What the temperature is computed from, and how large the kernels are (root mean square)."""
        size = self.weight.square().mean((1, 2, 3)).sqrt().tolist()
        out: dict[str, object] = {
            "parameters": self.weight.numel() + self.bias.numel() + self.image_weight.numel() + self.image_bias.numel(),
            "acts_on": "logits" if self._logits else "log_probs",
            "image_channels": self.channels,
            "level": "image" if self._of_case else "voxel",
            "slice_axis": self._axis,
            "leaf_sizes": size[:LEAVES],
            "leaf_biases": self.bias[:LEAVES].tolist(),
            "gate_sizes": size[LEAVES:],
            "gate_biases": self.bias[LEAVES:].tolist(),
        }
        if self._constant:
            out["temperature"] = float(positive(self.bias[0]))
        return out

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> LocalMap:
        image = [tensors[name] for name in ("image_weight", "image_bias", "image_mean", "image_scale")]
        flags = {
            "logits": bool(tensors["on_logits"]),
            "image_level": bool(tensors["of_case"]),
            "slice_axis": int(tensors["sliced"].long().argmax()),
        }
        given = image if len(image[0]) else ()
        return cls(tensors["weight"], tensors["bias"], *given, **flags)  # type: ignore[arg-type]  # flags by name


def positive(t: Tensor) -> Tensor:
    """tau = softplus(t + c0) + 1e-6: 1 at t = 0."""
    return softplus(t + START) + FLOOR


def tree(
    scores: Tensor,
    image: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    image_weight: Tensor | None = None,
    image_bias: Tensor | None = None,
) -> Tensor:
    """t of planes with a margin; shapes as for `LocalMap`, the image standardised."""
    t1, t2, t3, t4, a1, a2, a3, *more = correlate(scores, weight) + bias[:, None, None, None]
    q1, q2 = torch.lerp(t2, t1, a1.sigmoid()), torch.lerp(t4, t3, a2.sigmoid())
    t = torch.lerp(q2, q1, a3.sigmoid())
    if more:
        if image is None or image_weight is None or image_bias is None:
            raise UsageError(
                "image",
                found="none",
                expected="the image of the case",
                do="This calibrator was fitted with images: give image= (--images FOLDER).",
            )
        of_image = correlate(image, image_weight[None])[0] + image_bias
        t = torch.lerp(of_image, t, more[0].sigmoid())
    return t


def correlate(field: Tensor, weight: Tensor) -> Tensor:
    """Kernels (K, C, 5, 5) with dilation 2 over planes with a margin (C, slices, rows + 8, columns + 8): (K, slices,
    rows, columns).

    In float32, in which maps are trained, it is torch's convolution. In float64 that unfolds 25 copies of the field; a
    sum over the 25 places of a kernel, each a product of matrices, takes as long and needs none.
    """
    if field.dtype == torch.float32:
        return conv2d(field.movedim(1, 0), weight, dilation=DILATION).movedim(0, 1)
    rows, columns = field.shape[2] - DILATION * (KERNEL - 1), field.shape[3] - DILATION * (KERNEL - 1)
    total: Tensor | None = None
    for i in range(KERNEL):
        for j in range(KERNEL):
            shifted = field[:, :, DILATION * i : DILATION * i + rows, DILATION * j : DILATION * j + columns]
            term = weight[:, :, i, j] @ shifted.reshape(field.shape[0], -1)
            total = term if total is None else total + term
    assert total is not None
    return total.reshape(weight.shape[0], field.shape[1], rows, columns)
