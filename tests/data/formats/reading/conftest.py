"""Shared by the tests of sources: the writers, small budgets, and reading a field whole."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from segcal.data.case import Field
from segcal.data.files.journal import Scratch


@pytest.fixture(scope="session")
def writers() -> ModuleType:
    """Writers of small nnU-Net folders."""
    spec = importlib.util.spec_from_file_location("source_writers", Path(__file__).with_name("writers.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def rng() -> np.random.Generator:
    """The same numbers in every test."""
    return np.random.default_rng(20)


@pytest.fixture
def read() -> Callable[..., NDArray[Any]]:
    """Read a field by windows of odd length: (channels, *shape) or (*shape)."""

    def whole(field: Field, limit: int = 1 << 20, step: int = 37) -> NDArray[Any]:
        count = int(np.prod(field.shape))
        with Scratch(limit) as scratch, field.open(scratch) as window:
            parts = [np.array(window.read(a, min(a + step, count))) for a in range(0, count, step)]
        joined = np.concatenate(parts, -1)
        return joined.reshape(field.shape if field.channels is None else (field.channels, *field.shape))

    return whole


@pytest.fixture
def scratch() -> Iterator[Scratch]:
    """A budget so small that everything goes through a file."""
    with Scratch(64) as made:
        yield made
