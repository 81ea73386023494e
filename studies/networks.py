"""Small U-Nets, trained: for questions about capacity and crop size (W23 Fig. 2a, 2b), and about losses (M23).

    python studies/networks.py --shared ../shared --work WORK --widths 4 8 16 32
    python studies/networks.py --shared ../shared --work WORK --widths 8 --crops 64 96 192
    python studies/networks.py --shared ../shared --work WORK --losses ce+dice ls focal ecp mbls svls nacl-mean nacl-sum
    python studies/networks.py hippocampus --shared ../shared --work WORK --losses ce+dice svls nacl-sum nacl-mean
    python studies/networks.py hippocampus --shared ../shared --work WORK --folds 5 --losses ce+dice --seeds 1

Of each width of the first level, crop, loss and seed one network. nuclei: its 200 training images, 1000 steps of Adam
on eight crops of 128 x 128 or as many pixels in crops of another side; hippocampus: its 100 training volumes, width 4,
800 steps of two crops of 32^3. Crops are flipped at random (images turned, too); the learning rate falls from 1e-3 to 0
along a half cosine. Images are normalised as the zoo's networks see them. Writes
WORK/networks/[DATASET-]wWIDTH-cCROP-nSTEPS[-LOSS][-fFOLD]-sSEED/{state.pt, CASE.npz, ...}: logits (float32) of the
pool, for `segcal evaluate` and studies; the names of nuclei and of cross-entropy are left out. With `--folds` each
network is trained without one fold of the groups of training cases, whose logits go to its folder validation/. Every
hundredth step is kept: an interrupted training goes on from there, with the same batches as if it had not been; what is
there already is left alone. Weights stay in WORK.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from predict import groups_of
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional

from segcal import losses
from segcal.data.files import journal
from segcal.data.splits import folds

LEVELS = 4
IGNORED = 255
CROSS_ENTROPY = "ce"

LOSSES: dict[str, losses.Loss] = {
    CROSS_ENTROPY: losses.CrossEntropy(IGNORED),
    "ce+dice": losses.CrossEntropyDice(IGNORED),
    "ls": losses.LabelSmoothing(ignore_index=IGNORED),
    "focal": losses.Focal(ignore_index=IGNORED),
    "ecp": losses.ConfidencePenalty(ignore_index=IGNORED),
    "mbls": losses.MarginSmoothing(ignore_index=IGNORED),
    "svls": losses.SVLS(ignore_index=IGNORED),
    "nacl-mean": losses.NACL(ignore_index=IGNORED),
    "nacl-sum": losses.NACL(reduction="sum", ignore_index=IGNORED),
    **{f"nacl-{weight:g}": losses.NACL(weight, ignore_index=IGNORED) for weight in (0.01, 0.3)},
}


@dataclass(frozen=True)
class Dataset:
    """What is trained on: `classes`, axes of an image, voxels of a step, side of the crops, width and steps unless told
    otherwise; what is done to an image first.
    """

    classes: int
    axes: int
    voxels: int
    crop: int
    width: int
    steps: int
    normalise: Callable[[NDArray[Any]], NDArray[np.float32]]


KEPT = 100
"""Steps between two states that are written."""


def block(into: int, out: int, axes: int) -> nn.Sequential:
    """Two convolutions."""
    convolution, normal = (nn.Conv2d, nn.BatchNorm2d) if axes == 2 else (nn.Conv3d, nn.BatchNorm3d)
    layers: list[nn.Module] = []
    for width in (into, out):
        layers += [convolution(width, out, 3, padding=1, bias=False), normal(out), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Of `width` channels at the first of four levels, twice as many at each below it."""

    def __init__(self, width: int, classes: int, axes: int = 2) -> None:
        super().__init__()
        widths = [width * 2**k for k in range(LEVELS)]
        self.down = nn.ModuleList(block(a, b, axes) for a, b in zip([1, *widths], widths, strict=False))
        self.up = nn.ModuleList(block(a + b, a, axes) for a, b in itertools.pairwise(widths))
        self.out = nn.Conv2d(width, classes, 1) if axes == 2 else nn.Conv3d(width, classes, 1)
        self.pool = functional.max_pool2d if axes == 2 else functional.max_pool3d

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes, *spatial) of images (B, 1, *spatial), whose sides are multiples of 8."""
        kept = []
        for k, down in enumerate(self.down):
            x = down(self.pool(x, 2) if k else x)
            kept.append(x)
        for k in reversed(range(LEVELS - 1)):
            larger = functional.interpolate(x, scale_factor=2, mode="nearest")
            x = self.up[k](torch.cat([kept[k], larger], 1))
        found: Tensor = self.out(x)
        return found


def normalised(raw: NDArray[Any]) -> NDArray[np.float32]:
    """As the zoo's networks for nuclei see an image."""
    x = raw.astype(np.float32)
    low, high = np.percentile(x, [1, 99.8])
    return np.clip((x - low) / (high - low + 1e-6), 0, 1.5).astype(np.float32)


def standardised(raw: NDArray[Any]) -> NDArray[np.float32]:
    """As the zoo's networks for the hippocampus see a volume."""
    return np.asarray((raw - raw.mean()) / (raw.std() + 1e-6), np.float32)


DATASETS = {
    "nuclei": Dataset(2, 2, 8 * 128 * 128, 128, 8, 1000, normalised),
    "hippocampus": Dataset(3, 3, 2 * 32**3, 32, 4, 800, standardised),
}


def drawn(
    images: list[Any], labels: list[Any], dataset: Dataset, crop: int, seed: int, step: int
) -> tuple[Tensor, Tensor]:
    """The crops of a step, by seed and step alone."""
    rng = np.random.default_rng([seed, step])
    xs, ys = [], []
    for k in rng.integers(len(images), size=max(1, round(dataset.voxels / crop**dataset.axes))):
        at = tuple(int(rng.integers(max(n - crop, 0) + 1)) for n in images[k].shape)
        turns, flips = int(rng.integers(4)), [bool(f) for f in rng.integers(2, size=dataset.axes)]
        pair = []
        for whole in (images[k], labels[k]):
            piece = whole[tuple(slice(low, low + crop) for low in at)]
            short = [(0, crop - n) for n in piece.shape]
            piece = np.pad(piece, short, mode="reflect") if any(n for _, n in short) else piece
            piece = np.flip(piece, [axis for axis, flip in enumerate(flips) if flip])
            pair.append((np.rot90(piece, turns) if dataset.axes == 2 else piece).copy())
        xs.append(pair[0])
        ys.append(pair[1])
    return torch.from_numpy(np.stack(xs))[:, None], torch.from_numpy(np.stack(ys)).long()


@dataclass(frozen=True)
class Course:
    """How one network is trained."""

    dataset: Dataset
    crop: int
    loss: losses.Loss
    seed: int
    steps: int


def trained(net: UNet, data: Any, course: Course, path: Path, bar: Progress, name: str) -> UNet:
    """Train, or go on."""
    steps = course.steps
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)
    begun = 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        begun = state["step"]
    task = bar.add_task(name, total=steps, completed=begun)
    net.train()
    for step in range(begun, steps):
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * (1 + math.cos(math.pi * step / steps)) / 2
        x, y = drawn(*data, course.dataset, course.crop, course.seed, step)
        loss = course.loss(net(x), y)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        bar.advance(task)
        if (step + 1) % KEPT == 0 or step + 1 == steps:
            state = {"net": net.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}
            with journal.atomic(path) as temporary:
                torch.save(state, temporary)
    bar.remove_task(task)
    return net.eval()


def predicted(net: UNet, raw: NDArray[Any], dataset: Dataset) -> NDArray[np.float32]:
    """Logits (classes, *spatial) of a whole image."""
    x = dataset.normalise(raw)
    padded = np.pad(x, [(0, -n % 2 ** (LEVELS - 1)) for n in x.shape], mode="reflect")
    with torch.no_grad():
        logits = net(torch.from_numpy(padded)[None, None])[0].numpy()
    return np.asarray(logits[(slice(None), *(slice(0, n) for n in x.shape))], np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", nargs="?", default="nuclei", choices=list(DATASETS))
    parser.add_argument("--shared", type=Path, required=True, help="the folder with data/ and zoo/")
    parser.add_argument("--work", type=Path, required=True, help="where states and predictions go")
    parser.add_argument("--widths", type=int, nargs="+", help="8 for nuclei, 4 for hippocampus")
    parser.add_argument("--crops", type=int, nargs="+", help="128 for nuclei, 32 for hippocampus")
    parser.add_argument("--losses", nargs="+", default=[CROSS_ENTROPY], choices=list(LOSSES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="1000 for nuclei, 800 for hippocampus")
    parser.add_argument("--folds", type=int, help="train one network without each of so many folds")
    args = parser.parse_args()
    sys.path.insert(0, str(args.shared / "zoo"))
    sys.dont_write_bytecode = True
    import zoo  # type: ignore[import-not-found]  # of the shared folder

    dataset, steps = DATASETS[args.dataset], args.steps or DATASETS[args.dataset].steps
    train, pool = zoo.cases(args.dataset, "train"), zoo.cases(args.dataset, "pool")
    images = [dataset.normalise(zoo.image(args.dataset, case)) for case in train]
    labels = [zoo.labels(args.dataset, case) for case in train]
    held_out: list[tuple[int, ...]] = [()]
    if args.folds:
        groups = groups_of(zoo, args.dataset, train)
        held_out = list(folds([groups[case] for case in train], args.folds).test)
    console, prefix = Console(stderr=True), "" if args.dataset == "nuclei" else f"{args.dataset}-"
    widths, crops = args.widths or [dataset.width], args.crops or [dataset.crop]
    wanted = itertools.product(widths, crops, args.losses, range(args.seeds), enumerate(held_out))
    for width, crop, loss, seed, (fold, out) in wanted:
        which = ("" if loss == CROSS_ENTROPY else f"-{loss}") + (f"-f{fold}" if args.folds else "")
        name, began = f"{prefix}w{width}-c{crop}-n{steps}{which}-s{seed}", time.monotonic()
        inside = [k for k in range(len(train)) if k not in out]
        data = [images[k] for k in inside], [labels[k] for k in inside]
        folder = args.work / "networks" / name
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(seed)
        net = UNet(width, dataset.classes, dataset.axes)
        with Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
            course = Course(dataset, crop, LOSSES[loss], seed, steps)
            net = trained(net, data, course, folder / "state.pt", bar, name)
        places = {case: folder / f"{case}.npz" for case in pool}
        places |= {train[k]: folder / "validation" / f"{train[k]}.npz" for k in out}
        for case, path in places.items():
            if not path.exists():
                with journal.atomic(path) as temporary:
                    np.savez(temporary, logits=predicted(net, zoo.image(args.dataset, case), dataset))
        numbers = sum(p.numel() for p in net.parameters())
        print(f"{folder}: {numbers} numbers, {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
