"""Calibrators whose metadata or tensors are of other types than segcal writes: refused by name, or inspected."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from segcal.cli import inspect
from segcal.cli.console import Output
from segcal.errors import SegcalError, UnreadableError, UnsafeFileError
from segcal.methods import files
from segcal.methods.temperature import TemperatureScaling

VALUES: list[Any] = [None, True, -1, 10**300, float("nan"), float("inf"), "text", [], {}, [[]], {"a": 1}, ["a"], [None]]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Metadata and tensors of a small calibrator."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4, 3, 6, 5)).astype(np.float32)
    path = tmp_path_factory.mktemp("fitted") / "cal.safetensors"
    TemperatureScaling().fit(z, z.argmax(1) * (rng.random((4, 6, 5)) < 0.7)).save(path)
    return files.metadata(path), safetensors.torch.load_file(path)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every entry of nested containers; of a list the first."""
    inside = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
    for key, inner in inside:
        yield (*at, key)
        yield from places(inner, (*at, key))


def said(path: Path) -> str:
    """What is said against a calibrator that is loaded and inspected; nothing, where all went well."""
    try:
        calibrator = files.load(path)
    except SegcalError as error:
        return str(error)
    inspect.show(Output(quiet=True, json=None), files.contents(calibrator, path))
    return ""


def test_every_entry_of_the_metadata(fitted: Any, tmp_path: Path) -> None:
    described, tensors = fitted
    path = tmp_path / "cal.safetensors"
    assert len(list(places(described))) > 40
    for place in places(described):
        for value in [*VALUES, ...]:
            changed = copy.deepcopy(described)
            holder = changed
            for key in place[:-1]:
                holder = holder[key]
            if value is ...:
                del holder[place[-1]]
            else:
                holder[place[-1]] = value
            safetensors.torch.save_file(tensors, path, {"segcal": json.dumps(changed)})
            told = said(path)
            assert told == "" or (str(path) in told and len(told) < 1_500), (place, value)


@pytest.mark.parametrize(
    "beta",
    [
        torch.zeros(0),
        torch.ones(3),
        torch.ones(1, 1),
        torch.tensor(float("nan")),
        torch.tensor(float("inf")),
        torch.tensor(0.0),
        torch.tensor(-1.0),
        torch.tensor(1),
        torch.tensor(True),
    ],
    ids=str,
)
def test_tensors(beta: torch.Tensor, fitted: Any, tmp_path: Path) -> None:
    path = tmp_path / "cal.safetensors"
    safetensors.torch.save_file({"0.beta": beta}, path, {"segcal": json.dumps(fitted[0])})
    told = said(path)
    assert told == "" or str(path) in told


def test_metadata_that_fill_the_memory(fitted: Any, tmp_path: Path) -> None:
    path = tmp_path / "cal.safetensors"
    for text, error in (
        (json.dumps({**fitted[0], "more": [[]] * 2_000_000}), UnsafeFileError),
        ("[" * 100_000, UnreadableError),
        (" " * (33 << 20), UnsafeFileError),
    ):
        safetensors.torch.save_file(fitted[1], path, {"segcal": text})
        with pytest.raises(error, match=r"cal\.safetensors"):
            files.load(path)
