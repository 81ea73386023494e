"""One fit on one and on two Dask workers, beside the serial engine: seconds, their ratio, and whether the bits agree.

    python -m benchmarks.cluster -o docs/results/cluster.md

A simulated cohort of files, `--cases` of 2^24 scores in five classes each, so that each is a partition of its own;
Dirichlet calibration at a given strength, which is bound by arithmetic. Workers are processes of one thread on this
machine, started before the clock. Runs are interleaved; medians of `--repeats`. Wants two quiet cores.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import distributed
import numpy as np

import segcal
from benchmarks.pages import written
from segcal.engine.dask import Dask
from segcal.engine.pinned import PARTITION, partitions
from segcal.testing.methods import fit_bits

CLASSES = 5
SHAPE = (64, 229, 229)
METHOD = segcal.DirichletCalibration(1e-3, 1e-3)


def cohort_of(folder: Path, cases: int) -> segcal.Cohort:
    """Logits twice too large, and labels."""
    for name in ("scores", "labels"):
        (folder / name).mkdir()
    for k in range(cases):
        rng = np.random.default_rng(k)
        logits = rng.standard_normal((CLASSES, *SHAPE), dtype=np.float32)
        labels = (logits + rng.gumbel(size=logits.shape).astype(np.float32)).argmax(0).astype(np.uint8)
        np.savez(folder / "scores" / f"{k:02d}.npz", logits=2 * logits)
        np.savez(folder / "labels" / f"{k:02d}.npz", labels=labels)
    return segcal.open_cohort(folder / "scores", folder / "labels")


def main() -> None:
    """Measure, and write the page and its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {"serial": [], "one worker": [], "two workers": []}
    bits: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        cohort = cohort_of(Path(folder), args.cases)
        assert len(partitions(cohort)) == args.cases, f"a case holds fewer than {PARTITION} scores"
        for _ in range(args.repeats):
            for name in seconds:
                if name == "serial":
                    began = time.perf_counter()
                    made = METHOD.fit(cohort, engine=segcal.Serial())
                    seconds[name].append(time.perf_counter() - began)
                else:
                    count = 1 if name == "one worker" else 2
                    options = {"n_workers": count, "threads_per_worker": 1, "dashboard_address": ":0"}
                    with (
                        distributed.LocalCluster(**options) as cluster,
                        distributed.Client(cluster, set_as_default=False) as client,
                    ):
                        client.run(__import__, "segcal.engine.dask")
                        began = time.perf_counter()
                        made = METHOD.fit(cohort, engine=Dask(client))
                        seconds[name].append(time.perf_counter() - began)
                bits.setdefault(name, fit_bits(made))
                print(name, f"{seconds[name][-1]:.1f} s", flush=True)
    median = {name: statistics.median(some) for name, some in seconds.items()}
    same = all(one == bits["serial"] for one in bits.values())
    found = {
        "command": "python -m benchmarks.cluster " + shlex.join(sys.argv[1:]),
        "voxels": int(np.prod(SHAPE)) * args.cases,
        "classes": CLASSES,
        "passes": made.solution.passes if made.solution else None,
        "seconds": seconds,
        "median": median,
        "one worker over two": median["one worker"] / median["two workers"],
        "same bits": same,
    }
    lines = [
        "# One fit on two Dask workers",
        "",
        f"Made by `{found['command']}`. Dirichlet calibration, {found['voxels']:,} voxels of {CLASSES} classes in"
        f" {args.cases} partitions, read from files; medians of {args.repeats}, interleaved.",
        "",
        "| engine | seconds |",
        "|---|---|",
        *(f"| {name} | {value:.1f} |" for name, value in median.items()),
        "",
        f"Two workers are {found['one worker over two']:.2f} times as fast as one. Parameters are"
        f" {'the same to the last bit' if same else 'NOT the same'}.",
        "",
    ]
    written(args.output, "\n".join(lines), found)


if __name__ == "__main__":
    main()
