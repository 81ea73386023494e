"""Multi-scale testing of the real networks (W23 4.3): each image at six scales, the probabilities averaged.

    python studies/scales.py --shared ../shared --work WORK nuclei
    python studies/scales.py --shared ../shared --work WORK hippocampus

The scales are W23's, .5 to 1.75. An image is resized linearly, a network's logits back to the image's grid, and the
mean is over softmax probabilities. camvid's networks take 180 x 240 only. Writes
WORK/DATASET-scales/memberK/CASE.npz (key `probs`, float32) for the pool of studies/predict.py, whose labels and
groups WORK/DATASET-clean has. Files that are there already are left alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch.nn import functional

from segcal.data.files import journal

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
LINEAR = {2: "bilinear", 3: "trilinear"}


def resized(arrays: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Channels (C, *spatial) on a grid of another `shape`, linearly."""
    if arrays.shape[1:] == shape:
        return arrays
    found = functional.interpolate(torch.from_numpy(arrays)[None], size=shape, mode=LINEAR[len(shape)])
    return np.asarray(found[0].numpy())


def averaged(member: Any, image: NDArray[Any]) -> NDArray[np.float32]:
    """Probabilities (C, *spatial), the mean over the scales."""
    raw = image.astype(np.float32)
    total = torch.zeros(())
    for scale in SCALES:
        there = tuple(max(1, round(scale * n)) for n in raw.shape)
        logits = resized(np.ascontiguousarray(member(resized(raw[None], there)[0])), raw.shape)
        total = total + torch.from_numpy(logits).double().softmax(0)
    return np.asarray((total / len(SCALES)).float().numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=("nuclei", "hippocampus"))
    parser.add_argument("--shared", type=Path, required=True, help="the folder with data/ and zoo/")
    parser.add_argument("--work", type=Path, required=True, help="where predictions go")
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--limit", type=int, help="only the first cases")
    args = parser.parse_args()
    sys.path.insert(0, str(args.shared / "zoo"))
    sys.dont_write_bytecode = True
    import zoo  # type: ignore[import-not-found]  # of the shared folder

    folder, began = args.work / f"{args.dataset}-scales", time.monotonic()
    members = zoo.ensemble(args.dataset, args.members)
    cases = zoo.cases(args.dataset, "pool")[: args.limit]
    console = Console(stderr=True)
    for case in track(cases, description=folder.name, transient=True, console=console, disable=not sys.stderr.isatty()):
        for k, member in enumerate(members):
            target = folder / f"member{k}" / f"{case}.npz"
            if not target.exists():
                with journal.atomic(target) as temporary:
                    np.savez(temporary, probs=averaged(member, zoo.image(args.dataset, case)))
    print(f"{folder}: {len(cases)} cases, {args.members} networks, {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
