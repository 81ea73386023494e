"""The networks of susceptibility calibration, as plain functions of named tensors (O22, its released code).

Shape prior: a small U-Net from log-probabilities to log-probabilities, three levels of `width`, twice and four times as
many channels, two 3 x 3 convolutions each, every one of the encoder followed by dropout of whole channels (one in two),
batch normalisation and LeakyReLU(0.2); transposed convolutions lead up.

Calibration network: of each input a branch, a 5 x 5 convolution of dilation 2 to `width` channels and two residual
blocks (3 x 3 convolution, batch normalisation, ReLU, 3 x 3 convolution, batch normalisation, plus the input); all
branches side by side; channel attention (their means over a whole case, a layer to a fifth as many, ReLU, a layer back,
logistic, times the channels); a 1 x 1 convolution to 4 `width`, two residual blocks, a 5 x 5 convolution of dilation 2
to t. Borders are reflected, or, where a side is too short for that, repeated.

One path serves training and use: with `learning`, batches are normalised by themselves, running means are kept in the
tensors, and channels are dropped. Planes are (n, channels, rows, columns).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

Tensors = Mapping[str, Tensor]

LEVELS = 3
SLOPE, DROPPED = 0.2, 0.5
MERGED = 4
"""Channels after the branches, in parts of `width`."""

RUNNING = ("mean", "variance")
"""Tensors of a batch normalisation that are not trained."""


def padded(x: Tensor, border: int) -> Tensor:
    """Planes with a border on each side."""
    mode = "reflect" if min(x.shape[-2:]) > border else "replicate"
    return functional.pad(x, (border, border, border, border), mode=mode)


def wide(x: Tensor, t: Tensors, name: str) -> Tensor:
    """A 5 x 5 convolution of dilation 2."""
    return functional.conv2d(padded(x, 4), t[f"{name}_weight"], t[f"{name}_bias"], dilation=2)


def normal(x: Tensor, t: Tensors, name: str, learning: bool) -> Tensor:
    """A batch normalisation."""
    mean, variance, scale, shift = (t[f"{name}_{one}"] for one in (*RUNNING, "scale", "shift"))
    alone = x.numel() == x.shape[1]  # one number a channel has no variance
    return functional.batch_norm(x, mean, variance, scale, shift, training=learning and not alone)


def residual(x: Tensor, t: Tensors, name: str, learning: bool) -> Tensor:
    """A residual block."""
    y = functional.conv2d(padded(x, 1), t[f"{name}_first_weight"], t[f"{name}_first_bias"])
    # the border first: what a gradient keeps of the ReLU is then what it keeps of the convolution anyway
    y = functional.relu_(padded(normal(y, t, f"{name}_first", learning), 1))
    y = functional.conv2d(y, t[f"{name}_second_weight"], t[f"{name}_second_bias"])
    return x + normal(y, t, f"{name}_second", learning)


def branches(inputs: Mapping[str, Tensor], t: Tensors, learning: bool = False) -> Tensor:
    """All branches side by side, (n, branches times width, rows, columns)."""
    found = []
    for name, x in inputs.items():
        y = wide(x, t, name)
        for block in range(2):
            y = residual(y, t, f"{name}_{block}", learning)
        found.append(y)
    return torch.cat(found, 1)


def attention(means: Tensor, t: Tensors) -> Tensor:
    """The weight of each channel (..., channels), from their means over a case."""
    return (functional.relu(means @ t["squeeze"].T) @ t["excite"].T).sigmoid()


def merged(features: Tensor, weights: Tensor, t: Tensors, learning: bool = False) -> Tensor:
    """t (n, rows, columns) of the branches' channels and the `weights` (n or 1, channels) of these."""
    y = functional.conv2d(features * weights[..., None, None], t["merge_weight"], t["merge_bias"])
    for block in range(2):
        y = residual(y, t, f"merged_{block}", learning)
    return wide(y, t, "out")[:, 0]


def shape_of(logs: Tensor, t: Tensors, learning: bool = False) -> Tensor:
    """Log-probabilities (n, C, rows, columns) that the shape prior makes of log-probabilities."""
    rows, columns = logs.shape[-2:]
    step = 2 ** (LEVELS - 1)
    x = functional.pad(logs, (0, -columns % step, 0, -rows % step), mode="replicate")
    kept = []
    for level in range(LEVELS):
        x = functional.max_pool2d(x, 2) if level else x
        for layer in range(2):
            x = functional.conv2d(x, t[f"down_{level}_{layer}_weight"], t[f"down_{level}_{layer}_bias"], padding=1)
            x = functional.dropout2d(x, DROPPED, training=learning)
            x = functional.leaky_relu(normal(x, t, f"down_{level}_{layer}", learning), SLOPE)
        kept.append(x)
    for level in reversed(range(LEVELS - 1)):
        larger = functional.conv_transpose2d(x, t[f"up_{level}_larger_weight"], t[f"up_{level}_larger_bias"], stride=2)
        x = torch.cat([kept[level], larger], 1)
        for layer in range(2):
            x = functional.conv2d(x, t[f"up_{level}_{layer}_weight"], t[f"up_{level}_{layer}_bias"], padding=1)
            x = functional.leaky_relu(normal(x, t, f"up_{level}_{layer}", learning), SLOPE)
    x = functional.conv2d(x, t["prior_weight"], t["prior_bias"])
    return torch.log_softmax(x[..., :rows, :columns], 1)


class _Maker:
    """Makes tensors as torch's layers begin, by a seed."""

    def __init__(self, seed: int) -> None:
        self._generator, self.made = torch.Generator().manual_seed(seed), dict[str, Tensor]()

    def uniform(self, name: str, shape: Sequence[int], inputs: int) -> None:
        """Even within 1 / sqrt(inputs)."""
        bound = 1 / math.sqrt(inputs)
        self.made[name] = (2 * torch.rand(*shape, generator=self._generator) - 1) * bound

    def layer(self, name: str, out: int, into: int, kernel: int, *, turned: bool = False) -> None:
        """A convolution; `turned`: a transposed one."""
        shape = (into, out, kernel, kernel) if turned else (out, into, kernel, kernel)
        for which, of in (("weight", shape), ("bias", (out,))):
            self.uniform(f"{name}_{which}", of, shape[1] * kernel**2)

    def normal(self, name: str, channels: int) -> None:
        """A batch normalisation."""
        for which, value in (("scale", 1.0), ("shift", 0.0), ("mean", 0.0), ("variance", 1.0)):
            self.made[f"{name}_{which}"] = torch.full((channels,), value)

    def residual(self, name: str, channels: int) -> None:
        """A residual block."""
        for layer in ("first", "second"):
            self.layer(f"{name}_{layer}", channels, channels, 3)
            self.normal(f"{name}_{layer}", channels)


def calibration_net(inputs: Mapping[str, int], width: int, seed: int) -> dict[str, Tensor]:
    """Tensors of a calibration network for inputs of so many channels by name; its last layer is 0, so that t is 0."""
    make, channels = _Maker(seed), width * len(inputs)
    for name, count in inputs.items():
        make.layer(name, width, count, 5)
        for block in range(2):
            make.residual(f"{name}_{block}", width)
    squeezed = max(1, channels // 5)
    make.uniform("squeeze", (squeezed, channels), channels)
    make.uniform("excite", (channels, squeezed), squeezed)
    make.layer("merge", MERGED * width, channels, 1)
    for block in range(2):
        make.residual(f"merged_{block}", MERGED * width)
    make.layer("out", 1, MERGED * width, 5)
    make.made |= {name: torch.zeros_like(make.made[name]) for name in ("out_weight", "out_bias")}
    return make.made


def shape_net(classes: int, width: int, seed: int) -> dict[str, Tensor]:
    """Tensors of a shape prior."""
    make, widths = _Maker(seed), [width * 2**level for level in range(LEVELS)]
    for level, (into, out) in enumerate(zip([classes, *widths], widths, strict=False)):
        for layer, channels in enumerate((into, out)):
            make.layer(f"down_{level}_{layer}", out, channels, 3)
            make.normal(f"down_{level}_{layer}", out)
    for level in range(LEVELS - 1):
        here = widths[level]
        make.layer(f"up_{level}_larger", here, widths[level + 1], 2, turned=True)
        for layer, channels in enumerate((2 * here, here)):
            make.layer(f"up_{level}_{layer}", here, channels, 3)
            make.normal(f"up_{level}_{layer}", here)
    make.layer("prior", classes, width, 1)
    return make.made


def of_prior(name: str) -> bool:
    """Whether a tensor of this name belongs to the shape prior."""
    return name.startswith(("down", "up", "prior"))


def is_trained(name: str) -> bool:
    """Whether a tensor of this name is changed by gradients."""
    return name.rpartition("_")[2] not in RUNNING
