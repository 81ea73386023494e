"""Small cohorts on disk as a user has them, and the command line called in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from segcal.cli import run
from segcal.data.simulate.cohort import Design, Simulation
from segcal.data.simulate.nnunet import write_nnunet
from segcal.data.simulate.truth import Truth


def softmax(z: NDArray[Any]) -> NDArray[Any]:
    e = np.exp(z - z.max(0))
    return e / e.sum(0)


@dataclass(frozen=True)
class Folder:
    """Predictions and labels on disk. `temperature`: what the stored logits have to be divided by to be right."""

    results: tuple[Path, ...]
    labels: Path
    temperature: float = 1.0

    @property
    def words(self) -> list[str]:
        return [str(p) for p in self.results]

    @property
    def labelled(self) -> list[str]:
        return [*self.words, "--labels", str(self.labels)]


def write_cohort(
    root: Path,
    names: Sequence[str],
    *,
    classes: int = 3,
    shape: tuple[int, ...] = (24, 20),
    temperature: float = 2.0,
    members: int = 1,
    seed: int = 0,
    kind: str = "logits",
) -> Folder:
    """Logits that are too large by a known factor, with labels drawn from the right ones:

    CASE.npz a member, CASE.npy a label map.
    """
    rng = np.random.default_rng(seed)
    labels = root / "labels"
    labels.mkdir(parents=True)
    folders = tuple(root / (f"member{k}" if members > 1 else "results") for k in range(members))
    for folder in folders:
        folder.mkdir()
    for name in names:
        z = rng.normal(0, 1.5, (classes, *shape)) + rng.normal(0, 0.3, (classes, *[1] * len(shape)))
        drawn = (np.log(-1 / np.log(rng.random(z.shape))) + z).argmax(0)
        np.save(labels / f"{name}.npy", drawn.astype(np.uint8))
        noise = rng.normal(0, 0.2, (members, *z.shape))
        for folder, shift in zip(folders, noise - noise.mean(0), strict=True):
            scaled = (temperature * (z + shift)).astype(np.float32)
            np.savez_compressed(
                folder / f"{name}.npz", **{kind: scaled if kind == "logits" else softmax(scaled).astype(np.float32)}
            )
    return Folder(folders, labels, temperature)


@dataclass(frozen=True)
class Said:
    """What a call of the command line gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Call = Callable[..., Said]


@pytest.fixture
def segcal(capsys: pytest.CaptureFixture[str]) -> Call:
    """`segcal("check", folder, ...)` runs a command in this process, on one thread."""

    def call(*words: object) -> Said:
        capsys.readouterr()
        commands = [str(w) for w in words]
        plain = not commands or commands[0].startswith("-") or {"--help", "--workers"} & set(commands)
        code = run(commands if plain else [*commands, "--workers", "1"])
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return call


NAMES = [f"p{k:02d}" for k in range(8)]
MORE = [f"q{k:02d}" for k in range(4)]


@pytest.fixture(scope="session")
def fitting(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return write_cohort(tmp_path_factory.mktemp("fitting"), NAMES, seed=1)


@pytest.fixture(scope="session")
def heldout(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return write_cohort(tmp_path_factory.mktemp("heldout"), MORE, seed=2)


@pytest.fixture(scope="session")
def calibrator(fitting: Folder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A temperature fitted on `fitting`, background 0."""
    path = tmp_path_factory.mktemp("calibrators") / "ts.safetensors"
    assert run(["fit", *fitting.labelled, "--background", "0", "-o", str(path), "--quiet", "--workers", "1"]) == 0
    return path


@pytest.fixture(scope="session")
def nnunet(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Four cases of three networks in nnU-Net's layout."""
    root = tmp_path_factory.mktemp("nnunet") / "predictions"
    design = Design(classes=("background", "kidney", "tumour"), shape=(6, 16, 14), margin=(1, 2, 2), members=3)
    members = write_nnunet(Simulation(design, Truth.general(3, 1), 1), range(4), root)
    return Folder(tuple(members), root / "labelsTr")


@pytest.fixture(scope="session")
def cohort_writer() -> Callable[..., Folder]:
    """`write_cohort`, for tests that cannot import this file."""
    return write_cohort


@pytest.fixture(scope="session")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Four cases of a region head (whole, core) in a plain folder that dataset.json describes."""
    root = tmp_path_factory.mktemp("regions")
    folder = write_cohort(root, ["r0", "r1", "r2", "r3"], seed=5)
    rng = np.random.default_rng(6)
    described = {
        "labels": {"background": 0, "whole": [1, 2], "core": [2]},
        "regions_class_order": [1, 2],
        "file_ending": ".npy",
    }
    (folder.results[0] / "dataset.json").write_text(json.dumps(described))
    for path in folder.results[0].glob("*.npz"):
        z = rng.normal(0, 1.5, (24, 20))
        inside = np.stack([z, z - 1])
        drawn = rng.random((24, 20)) < 1 / (1 + np.exp(-inside))
        np.save(
            folder.labels / f"{path.stem}.npy",
            np.where(drawn[0] & drawn[1], 2, np.where(drawn[0], 1, 0)).astype(np.uint8),
        )
        np.savez_compressed(path, probabilities=(1 / (1 + np.exp(-2 * inside))).astype(np.float32))
    return folder
