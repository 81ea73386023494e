"""The training of selective scaling's net, in memory, on samples of voxels.

Linear C to C (from the identity), C to 2 C, 2 C to C, each with batch normalisation and ReLU, then C to 2; AdamW on the
cross-entropy of correct (1) against mispredicted (0), in batches; the epoch of the lowest validation loss. Promises:
the same bits for the same samples and seed. Arithmetic is float32, what is kept float64. Source: W23's released code
(definitions 5.1, 17); deviations: ignored voxels are dropped, batches are of voxels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segcal.engine.checkpoints import NOWHERE, Checkpoint
from segcal.engine.single import one_thread
from segcal.methods.nets import Layers
from segcal.methods.selective.map import MISPREDICTED, seen, shapes

Balance = Literal["copy", "equal"]
BALANCES: tuple[Balance, ...] = ("copy", "equal")


@dataclass(frozen=True, eq=False)
class Voxels:
    """What the net learns from: `log_probs` (C, n), and whether the class decided is `right` (n,)."""

    log_probs: NDArray[np.float64]
    right: NDArray[np.bool_]

    @property
    def wrong(self) -> int:
        """How many are mispredicted."""
        return int((~self.right).sum())


@dataclass(frozen=True)
class Schooling:
    """How the net is trained: AdamW's rates, `epochs`, voxels of a `batch`, how mispredictions are weighed, `seed`."""

    learning_rate: float
    weight_decay: float
    epochs: int
    batch: int
    balance: Balance
    seed: int


@dataclass(frozen=True, eq=False)
class Selector:
    """A net that was trained: its `layers`, from which `epoch`, the `validation` loss there, and of every epoch its
    number and both losses.
    """

    layers: Layers
    epoch: int
    validation: float
    curve: list[list[float]]


def weights(voxels: Voxels, balance: Balance) -> tuple[float, float]:
    """Of a mispredicted and of a correct voxel. "copy": a second copy of every misprediction, W23's code; "equal": both
    kinds weigh the same in all.
    """
    if balance == "copy":
        return 2.0, 1.0
    count = len(voxels.right)
    return count / (2 * max(voxels.wrong, 1)), count / (2 * max(count - voxels.wrong, 1))


def learnt(
    fitted: Voxels,
    validation: Voxels,
    how: Schooling,
    each_epoch: Callable[[], object] = lambda: None,
    checkpoint: Checkpoint = NOWHERE,
) -> Selector:
    """Train on the fitted voxels, or go on from the `checkpoint`, and choose the epoch by the validation voxels; both
    hold some of either kind.
    """
    wrong, right = weights(fitted, how.balance)
    x, y, w = _tensors(fitted, wrong, right)
    held = _tensors(validation, wrong, right)
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        net = _net(len(fitted.log_probs))
        optimiser = torch.optim.AdamW(net.parameters(), how.learning_rate, weight_decay=how.weight_decay)
        best, at, lowest, curve = deepcopy(net.state_dict()), 0, math.inf, list[list[float]]()
        kept = checkpoint.load()
        if kept is not None:
            best, at, lowest, curve = (kept[name] for name in ("best", "at", "lowest", "curve"))
            net.load_state_dict(kept["net"])
            optimiser.load_state_dict(kept["optimiser"])
            torch.set_rng_state(kept["random"])
        for _ in curve:
            each_epoch()
        for epoch in range(len(curve) + 1, how.epochs + 1):
            net.train()
            total = 0.0
            for some in torch.split(torch.randperm(len(y)), how.batch):
                if len(some) < 2:  # one voxel has no variance
                    continue
                loss = _loss(net, x[some], y[some], w[some])
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                optimiser.step()
                total += loss.item() * len(some)
            net.eval()
            with torch.no_grad():
                now = float(_loss(net, *held))
            curve.append([float(epoch), total / len(y), now])
            if now < lowest:
                best, at, lowest = deepcopy(net.state_dict()), epoch, now
            each_epoch()
            state = {"net": net.state_dict(), "optimiser": optimiser.state_dict(), "random": torch.get_rng_state()}
            state |= {"best": best, "at": at, "lowest": lowest, "curve": curve}
            checkpoint.save(state, last=epoch == how.epochs)
        net.load_state_dict(best)
    return Selector(_folded(net), at, lowest, curve)


def _tensors(voxels: Voxels, wrong: float, right: float) -> tuple[Tensor, Tensor, Tensor]:
    """What the net sees (n, C), the output that is right, and weights."""
    y = torch.from_numpy(np.where(voxels.right, 1 - MISPREDICTED, MISPREDICTED))
    w = torch.from_numpy(np.where(voxels.right, right, wrong)).float()
    return seen(torch.from_numpy(voxels.log_probs)).T.float().contiguous(), y, w


def _loss(net: nn.Module, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    losses = nn.functional.cross_entropy(net(x), y, reduction="none")
    return (w * losses).sum() / w.sum()


def _net(classes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for k, (out, into) in enumerate(shapes(classes)):
        linear = nn.Linear(into, out)
        if k == 0:
            nn.init.eye_(linear.weight)
            nn.init.zeros_(linear.bias)
        layers += [linear, nn.BatchNorm1d(out), nn.ReLU()] if k < 3 else [linear]
    return nn.Sequential(*layers)


def _folded(net: nn.Sequential) -> Layers:
    """Its linear layers, in float64, each with the batch normalisation behind it."""
    out = []
    for k, layer in enumerate(net):
        if not isinstance(layer, nn.Linear):
            continue
        weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
        behind = net[k + 1] if k + 1 < len(net) else None
        if isinstance(behind, nn.BatchNorm1d):
            assert behind.running_mean is not None
            assert behind.running_var is not None
            scale = behind.weight.detach().double() / (behind.running_var.double() + behind.eps).sqrt()
            bias = (bias - behind.running_mean.double()) * scale + behind.bias.detach().double()
            weight = weight * scale[:, None]
        out.append((weight, bias))
    return out
