"""What the scripts beside fiducio share: the real ensembles they read, voxel by voxel, and the options they take.

Predictions are written once by the zoo's own script, five networks a data set, and read as mean logits. Scripts find
this module because it lies beside them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import segcal
from segcal.data.case import SCORED
from segcal.data.cohort import Cohort
from segcal.data.files.journal import Scratch

Array = np.ndarray[Any, Any]

IGNORED = {"nuclei": None, "hippocampus": None, "camvid": 255}
"""The data sets, and the label each ignores."""

TOLERANCE = 1e-6
"""By how much a fit may be above the peer's best."""


def predictions(shared: Path, folder: Path, dataset: str, *options: str) -> Path:
    """The ensemble's logits in `folder`, written unless they are there; `options` go to the script that writes them."""
    if not (folder / "labels").is_dir():
        unfinished = folder.with_suffix(".part")
        subprocess.run(
            [
                sys.executable,
                str(shared / "zoo" / "write_predictions.py"),
                dataset,
                str(unfinished),
                "--layout",
                "npz",
                *options,
            ],
            check=True,
        )
        unfinished.rename(folder)
    return folder


def ensemble(folder: Path, dataset: str, members: int = 5) -> Cohort:
    """The predictions as mean logits."""
    return segcal.open_cohort(
        [folder / f"member{k}" for k in range(members)], folder / "labels", pool="logits", ignore_index=IGNORED[dataset]
    )


def blocks(cohort: Cohort, cases: Sequence[int]) -> Iterator[tuple[int, Array, Array, Array]]:
    """Block by block: the case, float32 logits (n, C), labels (n,) and which voxels are scored, (n,) bool."""
    with Scratch(2**30) as scratch:
        for index in cases:
            with cohort.open(index, scratch) as reader:
                for start, stop in cohort.cuts(index):
                    block = reader.block(start, stop)
                    assert block.labels is not None
                    yield index, block.scores.float().T.numpy(), block.labels.numpy(), (block.role == SCORED).numpy()


def arguments(
    description: str | None, methods: Sequence[str], voxels: int, repeats: int, threads: int
) -> argparse.ArgumentParser:
    """What every script here can be told."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[3] / "shared")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--datasets", nargs="+", default=list(IGNORED), choices=list(IGNORED))
    parser.add_argument("--methods", nargs="+", default=list(methods), choices=list(methods))
    parser.add_argument("--voxels", type=int, default=voxels)
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("-o", "--output", type=Path, required=True)
    return parser


def added(
    file: Path,
    rows: Sequence[dict[str, Any]],
    key: Callable[[dict[str, Any]], Any],
    order: Callable[[dict[str, Any]], Any],
) -> list[dict[str, Any]]:
    """`rows` put into a JSON file in place of those of the same key, others kept, since another part may have been
    written meanwhile; all rows, in order.
    """
    known = {key(r): r for r in (json.loads(file.read_text()) if file.is_file() else [])} | {key(r): r for r in rows}
    everything = sorted(known.values(), key=order)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(everything, indent=1))
    return everything
