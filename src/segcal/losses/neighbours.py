"""Losses that look at the labels around a voxel: spatially varying label smoothing, and neighbour-aware calibration.

Shares of classes around a voxel come from a kernel of odd size. `border` says what stands for neighbours that are not
there, beyond the image or not counted: "renormalise" (default) leaves them out and divides by the weights that are
left; "class0" counts them as class 0, as M23's released code does, which biases borders to that class; "missing" lets
them be nothing, as MONAI does, so that shares sum to less than 1; "replicate" repeats the nearest voxel beyond the
image, as SVLS's code does, and leaves uncounted ones out. A voxel none of whose neighbours is there has its own label
for a neighbourhood.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from segcal.errors import ShapeError, UsageError
from segcal.losses.loss import Loss, cross_entropy, mean, one_hot

Border = Literal["renormalise", "class0", "missing", "replicate"]
BORDERS: tuple[Border, ...] = ("renormalise", "class0", "missing", "replicate")

Prior = Literal["mean", "gaussian", "image", "max", "min", "median", "mode"]
PRIORS: tuple[Prior, ...] = ("mean", "gaussian", "image", "max", "min", "median", "mode")


def gaussian(size: int, axes: int, sigma: float, like: Tensor) -> Tensor:
    """A kernel of `axes` axes that sums to 1."""
    at = torch.arange(size, dtype=like.dtype, device=like.device) - size // 2
    line = torch.exp(-(at**2) / (2 * sigma**2))
    kernel = line
    for _ in range(axes - 1):
        kernel = kernel[..., None] * line
    return kernel / kernel.sum()


def around(field: Tensor, kernel: Tensor, border: Border = "missing") -> Tensor:
    """The kernel's sum over each channel (B, channels, *spatial), in two or three axes."""
    axes = field.dim() - 2
    half = kernel.shape[0] // 2
    if border == "replicate":
        field = functional.pad(field, (half, half) * axes, mode="replicate")
    convolve = functional.conv2d if axes == 2 else functional.conv3d
    flat = field.reshape(-1, 1, *field.shape[2:])
    found: Tensor = convolve(flat, kernel[None, None], padding=0 if border == "replicate" else half)
    return found.reshape(*field.shape[:2], *found.shape[2:])


def shares(labels: Tensor, counts: Tensor, classes: int, kernel: Tensor, border: Border) -> Tensor:
    """The share of each class (B, C, *spatial) around every voxel, by the weights of a kernel."""
    own = one_hot(labels, classes, kernel)
    there = counts[:, None].to(kernel.dtype)
    if border == "class0":
        outside = kernel.sum() - around(torch.ones_like(there), kernel)
        whole = around(torch.where(counts[:, None], own, one_hot(torch.zeros_like(labels), classes, kernel)), kernel)
        return torch.cat([whole[:, :1] + outside, whole[:, 1:]], 1) / kernel.sum()
    found = around(own * there, kernel, border)
    if border == "missing":
        return found
    weight = around(there, kernel, border)
    return torch.where(weight > 0, found / weight.clamp_min(1e-12), own)


class SVLS(Loss):
    """Spatially varying label smoothing (Islam and Glocker 2021): cross-entropy to .5 e_y + .5 tau', tau' the Gaussian
    share of the neighbours in a 3 x 3 (x 3) patch without its centre.

    Which is CE / 2 + [KL(tau' || S) + H(tau')] / 2 (definitions 17). Deviation: neighbours that are not there are left
    out (`border`="replicate" repeats the edge, as released). UsageError for a sigma of 0 or less, or another border.
    """

    def __init__(self, sigma: float = 1.0, ignore_index: int | None = None, border: Border = "renormalise") -> None:
        super().__init__(ignore_index)
        _checked(border, size=3)
        if not 0 < sigma < math.inf:
            raise UsageError("sigma", found=f"{sigma:g}", expected="above 0", do="Leave it out for 1.")
        self.sigma, self.border = sigma, border

    def target(self, labels: Tensor, counts: Tensor, classes: int, like: Tensor) -> Tensor:
        """.5 e_y + .5 tau' (B, C, *spatial)."""
        kernel = gaussian(3, labels.dim() - 1, self.sigma, like)
        kernel = kernel.clone()
        kernel[(1,) * kernel.dim()] = 0
        tau = shares(labels, counts, classes, kernel / kernel.sum(), self.border)
        return 0.5 * one_hot(labels, classes, like) + 0.5 * tau

    def of(self, z: Tensor, labels: Tensor, counts: Tensor, **given: Tensor) -> Tensor:
        target = self.target(labels, counts, z.shape[1], z)
        return mean(-(target * torch.log_softmax(z, 1)).sum(1), counts)


class NACL(Loss):
    """Neighbour-aware calibration (Murugesan et al., MICCAI 2023): CE + `weight` |tau - l|, l the logits and tau the
    shares of classes in a patch around the voxel, its own label among them.

    `norm` 1 or 2 (squares); `reduction` over classes, "mean" as released or "sum" as printed; `size` of the patch, odd;
    `prior`: where tau comes from: "mean" of the patch, "gaussian" (sigma `sigma`), "image" (weights exp(-dI^2) of an
    `image` given with the call, (B, channels, *spatial)), or the one-hot vector of the "mode", "max", "min" or "median"
    label of the patch. Any other tau is given with the call: `loss(logits, labels, tau=...)`.

    Convex in the logits. Where a patch is of one class a voxel's optimum has its competitors at 0 and p_y = 1 -
    weight / C (mean) or 1 - weight (sum). UsageError for anything else.
    """

    def __init__(
        self,
        weight: float = 0.1,
        norm: int = 1,
        reduction: Literal["mean", "sum"] = "mean",
        prior: Prior = "mean",
        size: int = 3,
        border: Border = "renormalise",
        sigma: float = 1.0,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(ignore_index)
        _checked(border, size)
        for name, value, known in (
            ("norm", norm, (1, 2)),
            ("reduction", reduction, ("mean", "sum")),
            ("prior", prior, PRIORS),
        ):
            if value not in known:
                raise UsageError(name, found=repr(value), expected=" or ".join(map(repr, known)), do="Choose one.")
        self.weight, self.norm, self.reduction, self.prior = weight, norm, reduction, prior
        self.size, self.border, self.sigma = size, border, sigma

    def shares(self, labels: Tensor, counts: Tensor, classes: int, like: Tensor, image: Tensor | None) -> Tensor:
        """tau (B, C, *spatial) by the prior."""
        axes = labels.dim() - 1
        if self.prior == "image":
            return self._by_image(labels, counts, classes, like, image)
        if self.prior == "gaussian":
            return shares(labels, counts, classes, gaussian(self.size, axes, self.sigma, like), self.border)
        flat = torch.full((self.size,) * axes, 1.0, dtype=like.dtype, device=like.device)
        flat = flat / flat.numel()
        found = shares(labels, counts, classes, flat, self.border)
        return found if self.prior == "mean" else one_hot(self._statistic(found), classes, like)

    def _statistic(self, tau: Tensor) -> Tensor:
        """The label that a patch stands for."""
        if self.prior == "mode":
            return tau.argmax(1)
        there = tau > 1e-6
        if self.prior == "min":
            return there.long().argmax(1)
        if self.prior == "max":
            return tau.shape[1] - 1 - there.flip(1).long().argmax(1)
        return (tau.cumsum(1) >= 0.5 * tau.sum(1, keepdim=True) - 1e-6).long().argmax(1)

    def _by_image(self, labels: Tensor, counts: Tensor, classes: int, like: Tensor, image: Tensor | None) -> Tensor:
        """Shares whose weights are exp(-dI^2), neighbours that are not there left out."""
        if image is None or tuple(image.shape[2:]) != tuple(labels.shape[1:]):
            raise ShapeError(
                "image",
                found="none" if image is None else f"shape {tuple(image.shape)}",
                expected=f"(B, channels, {', '.join(map(str, labels.shape[1:]))})",
                do="Give the image with the call: loss(logits, labels, image=image).",
            )
        axes, half = labels.dim() - 1, self.size // 2
        own = one_hot(labels, classes, like) * counts[:, None].to(like.dtype)
        total, weight = torch.zeros_like(own), torch.zeros_like(own[:, :1])
        padded = [
            functional.pad(x, (half, half) * axes) for x in (own, counts[:, None].to(like.dtype), image.to(like.dtype))
        ]
        for shift in torch.cartesian_prod(*[torch.arange(self.size)] * axes).tolist():
            index = (slice(None), slice(None), *(slice(k, k + n) for k, n in zip(shift, labels.shape[1:], strict=True)))
            label, there, seen = (x[index] for x in padded)
            near = there * torch.exp(-(seen - image).square().sum(1, keepdim=True))
            total, weight = total + near * label, weight + near
        return torch.where(weight > 0, total / weight.clamp_min(1e-12), one_hot(labels, classes, like))

    def of(self, z: Tensor, labels: Tensor, counts: Tensor, **given: Tensor) -> Tensor:
        tau = given.get("tau")
        if tau is None:
            tau = self.shares(labels, counts, z.shape[1], z, given.get("image"))
        off = (tau.to(z.dtype) - z).abs() if self.norm == 1 else (tau.to(z.dtype) - z).square()
        penalty = off.mean(1) if self.reduction == "mean" else off.sum(1)
        return mean(cross_entropy(z, labels) + self.weight * penalty, counts)


def _checked(border: str, size: int) -> None:
    if border not in BORDERS:
        raise UsageError(
            "border", found=repr(border), expected=" or ".join(BORDERS), do="Leave it out for renormalise."
        )
    if size < 1 or size % 2 == 0:
        raise UsageError("size", found=str(size), expected="an odd number from 1", do="Leave it out for 3.")
