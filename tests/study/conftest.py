"""A small ensemble on disk, with labels in patches so that there are boundaries, and the configuration of a study on
it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from scipy import ndimage

from segcal.study import configuration
from segcal.study.design import Design, design

CASES = tuple(f"p{k // 2}_{k % 2}" for k in range(24))
"""Twelve patients with two images each."""

PIPELINES = ("p0", "pbar", "zbar", "TS(zbar)", "MS(zbar)", "DC(pbar)", "CMSop(zbar)", "LTS(logS(zbar))")

Make = Callable[..., Path]


def write_ensemble(
    root: Path,
    names: Sequence[str],
    *,
    members: int = 3,
    classes: int = 3,
    noise: float = 1.0,
    seed: int = 0,
    shape: tuple[int, ...] = (14, 12),
) -> None:
    """member{k}/CASE.npz with overconfident logits of smooth patches, labels/CASE.npy, images/CASE.npy."""
    for folder in (*(f"member{k}" for k in range(members)), "labels"):
        (root / folder).mkdir(parents=True)
    for name in names:
        rng = np.random.default_rng([seed, *name.encode()])
        truth = np.stack([ndimage.gaussian_filter(rng.normal(size=shape), 2.5) for _ in range(classes)])
        truth *= 2.0 / truth.std()
        drawn = (np.log(-1 / np.log(rng.random(truth.shape))) + truth).argmax(0)
        np.save(root / "labels" / f"{name}.npy", drawn.astype(np.uint8))
        for k in range(members):
            logits = 2.2 * (truth + noise * rng.normal(0, 0.3, truth.shape)) + rng.normal(0, 2, shape)
            np.savez_compressed(root / f"member{k}" / f"{name}.npz", logits=logits.astype(np.float32))


@pytest.fixture(scope="session")
def ensembles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders clean, shifted (same names, noisier) and elsewhere (other names)."""
    root = tmp_path_factory.mktemp("ensembles")
    write_ensemble(root / "clean", CASES)
    write_ensemble(root / "shifted", CASES, noise=3.0, seed=0)
    write_ensemble(root / "elsewhere", [f"q{k}" for k in range(3)], noise=2.0, seed=5)
    return root


def described(ensembles: Path, **changes: Any) -> dict[str, Any]:
    """A configuration as YAML would hold it."""
    whole: dict[str, Any] = {
        "name": "small",
        "data": {
            "results": str(ensembles / "clean" / "member*"),
            "labels": str(ensembles / "clean" / "labels"),
            "background": 0,
        },
        "split": {"calibration": 6, "validation": 6, "test": 8, "groups": "^(p\\d+)_"},
        "repeats": 2,
        "pipelines": list(PIPELINES),
        "objects": True,
        "methods": {"lts": {"epochs": 2}},
        "samples": 2,
    }
    return {**whole, **changes}


@pytest.fixture
def write(ensembles: Path, tmp_path: Path) -> Make:
    """`write(repeats=3)` writes a configuration with that change and returns its path."""

    def make(**changes: Any) -> Path:
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(described(ensembles, **changes)))
        return path

    return make


@pytest.fixture
def designed(write: Make) -> Callable[..., Design]:
    """`designed(repeats=3)` is the design of such a study."""
    return lambda **changes: design(configuration.read(write(**changes)))


def files(folder: Path) -> dict[str, bytes]:
    """What a study's results hold, by file."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for name in ("results", "tables")
        for p in sorted((folder / name).rglob("*"))
        if p.is_file() and p.suffix != ".parquet"
    }


def array(values: Any) -> NDArray[np.float64]:
    return np.asarray(values, np.float64)
