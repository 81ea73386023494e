"""Small U-Nets trained on nuclei's 200 training images, for questions about capacity and crop size (W23 Fig. 2a, 2b).

    python studies/networks.py --shared ../shared --work WORK --widths 4 8 16 32 --seeds 3
    python studies/networks.py --shared ../shared --work WORK --widths 8 --crops 64 96 192 --seeds 3

Of each width of the first level, crop and seed one network: 1000 steps of Adam on the cross-entropy, eight crops of 128
x 128 a step or as many pixels in crops of another side, flipped and turned at random; the learning rate falls to 0
along a half cosine. Images are normalised as the zoo's networks see them. Writes
WORK/networks/wWIDTH-cCROP-nSTEPS-sSEED/{state.pt, CASE.npz, ...}: logits (float32) of the pool, for `segcal evaluate`
and studies. Every hundredth step is kept: an interrupted training goes on from there, with the same batches as if it
had not been; what is there already is left alone. Weights stay in WORK.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional

from segcal.data.files import journal

LEVELS = 4
PIXELS = 8 * 128 * 128
"""Of a step."""

KEPT = 100
"""Steps between two states that are written."""


def block(into: int, out: int) -> nn.Sequential:
    """Two convolutions."""
    layers: list[nn.Module] = []
    for width in (into, out):
        layers += [nn.Conv2d(width, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Of `width` channels at the first of four levels, twice as many at each below it."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        widths = [width * 2**k for k in range(LEVELS)]
        self.down = nn.ModuleList(block(a, b) for a, b in zip([1, *widths], widths, strict=False))
        self.up = nn.ModuleList(block(a + b, a) for a, b in itertools.pairwise(widths))
        self.out = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes, H, W) of images (B, 1, H, W), whose sides are multiples of 8."""
        kept = []
        for k, down in enumerate(self.down):
            x = down(functional.max_pool2d(x, 2) if k else x)
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


def drawn(images: list[Any], labels: list[Any], crop: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """The crops of a step, by seed and step alone."""
    rng = np.random.default_rng([seed, step])
    xs, ys = [], []
    for k in rng.integers(len(images), size=max(1, round(PIXELS / crop**2))):
        top, left = (int(rng.integers(max(n - crop, 0) + 1)) for n in images[k].shape)
        turns, flip = int(rng.integers(4)), bool(rng.integers(2))
        pair = []
        for whole, mode in ((images[k], "reflect"), (labels[k], "reflect")):
            piece = whole[top : top + crop, left : left + crop]
            short = [(0, crop - n) for n in piece.shape]
            piece = np.pad(piece, short, mode=mode) if any(n for _, n in short) else piece
            pair.append(np.rot90(piece[:, ::-1] if flip else piece, turns).copy())
        xs.append(pair[0])
        ys.append(pair[1])
    return torch.from_numpy(np.stack(xs))[:, None], torch.from_numpy(np.stack(ys)).long()


def trained(net: UNet, data: Any, crop: int, seed: int, steps: int, path: Path, bar: Progress, name: str) -> UNet:
    """Train, or go on."""
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
        x, y = drawn(*data, crop, seed, step)
        loss = functional.cross_entropy(net(x), y, ignore_index=255)
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


def predicted(net: UNet, raw: NDArray[Any]) -> NDArray[np.float32]:
    """Logits (classes, H, W) of a whole image."""
    x = normalised(raw)
    padded = np.pad(x, [(0, -n % 2 ** (LEVELS - 1)) for n in x.shape], mode="reflect")
    with torch.no_grad():
        logits = net(torch.from_numpy(padded)[None, None])[0].numpy()
    return np.asarray(logits[:, : x.shape[0], : x.shape[1]], np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="the folder with data/ and zoo/")
    parser.add_argument("--work", type=Path, required=True, help="where states and predictions go")
    parser.add_argument("--widths", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--crops", type=int, nargs="+", default=[128])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    args = parser.parse_args()
    sys.path.insert(0, str(args.shared / "zoo"))
    sys.dont_write_bytecode = True
    import zoo  # type: ignore[import-not-found]  # of the shared folder

    train, pool = zoo.cases("nuclei", "train"), zoo.cases("nuclei", "pool")
    data = [normalised(zoo.image("nuclei", c)) for c in train], [zoo.labels("nuclei", c) for c in train]
    console = Console(stderr=True)
    for width in args.widths:
        for crop in args.crops:
            for seed in range(args.seeds):
                name, began = f"w{width}-c{crop}-n{args.steps}-s{seed}", time.monotonic()
                folder = args.work / "networks" / name
                folder.mkdir(parents=True, exist_ok=True)
                torch.manual_seed(seed)
                net = UNet(width, 2)
                with Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
                    net = trained(net, data, crop, seed, args.steps, folder / "state.pt", bar, name)
                for case in pool:
                    if not (folder / f"{case}.npz").exists():
                        with journal.atomic(folder / f"{case}.npz") as temporary:
                            np.savez(temporary, logits=predicted(net, zoo.image("nuclei", case)))
                numbers = sum(p.numel() for p in net.parameters())
                print(f"{folder}: {numbers} numbers, {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
