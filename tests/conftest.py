"""What all tests share: where the real data lie, the `--slow` switch, the same random numbers in every run."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import settings

if TYPE_CHECKING:
    from tests.outside import Outside

# the same examples in every run, so that a failure is somebody's change (HYPOTHESIS_PROFILE=explore looks further); no
# deadline: a loaded machine is slow for reasons of its own
settings.register_profile("same", max_examples=50, derandomize=True, deadline=None, database=None)
settings.register_profile("explore", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow: run with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


def _seeded() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_fixture_setup() -> None:
    """Random numbers are the same whichever worker builds a fixture first."""
    _seeded()


def pytest_runtest_call() -> None:
    """Random numbers are the same whichever tests a worker ran before."""
    _seeded()


@pytest.fixture
def nnunetv2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nnU-Net can be imported, with its folders set: it asks for them then, in its worker processes too."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, os.environ.get(name, str(tmp_path / name)))
    pytest.importorskip(
        "nnunetv2",
        reason="nnunetv2 is not installed: pip install --no-deps -r tests/nnunet-requirements.txt",
        exc_type=ImportError,
    )


@pytest.fixture(autouse=True)
def width_of_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed has the width of a log everywhere: pytest-xdist tells its workers the width of a terminal."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and trained ensembles; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("SEGCAL_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "zoo" / "zoo.py").is_file():
        pytest.skip(f"no real data: {folder} is absent (set SEGCAL_SHARED)")
    return folder


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Methods and kinds of maps that the test registers are forgotten after it."""
    from tests.outside import kept_apart

    kept_apart(monkeypatch)


@pytest.fixture
def outside(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outside]:
    """A package with the method of docs/how-to/extend.md, as if it were installed."""
    from tests.outside import installed

    yield from installed(tmp_path_factory.mktemp("outside"), monkeypatch)
