"""A training that is interrupted goes on where it was, to the bits of one that was not; other data or options begin
anew.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segcal
from segcal import LocalTemperatureScaling, SelectiveScaling
from segcal.data.cohort import Cohort
from segcal.engine.checkpoints import Checkpoints
from segcal.engine.progress import Silent
from segcal.engine.serial import Serial
from segcal.engine.threads import Threads
from segcal.errors import UnreadableError
from segcal.methods.calibrator import Calibrator
from tests.study.conftest import write_ensemble

METHODS: dict[str, Callable[..., Any]] = {"lts": LocalTemperatureScaling, "selective": SelectiveScaling}
EPOCHS = 6


class Killed(Silent):
    """Stops a training once `epochs` of it are done."""

    def __init__(self, epochs: int) -> None:
        self.left, self.training = epochs, False
        self.seen = 0

    def start(self, what: str, total: int) -> None:
        self.training = what.startswith("training")

    def step(self) -> None:
        if self.training:
            self.seen += 1
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1


@pytest.fixture
def cohort(tmp_path: Path) -> Callable[[], Cohort]:
    write_ensemble(tmp_path / "e", [f"c{k}" for k in range(8)], members=1, shape=(24, 20))
    return lambda: segcal.open_cohort([tmp_path / "e" / "member0"], tmp_path / "e" / "labels")


def numbers(made: Calibrator) -> list[bytes]:
    return [t.numpy().tobytes() for one in made.maps for t in one.state_dict().values()]


@pytest.mark.parametrize("name", METHODS)
def test_the_same_bits(name: str, cohort: Callable[[], Cohort], tmp_path: Path) -> None:
    method, folder = METHODS[name](epochs=EPOCHS), tmp_path / "training"
    whole = method.fit(cohort(), engine=Serial())
    for epochs in (2, 1):  # killed twice
        engine = Serial(progress=Killed(epochs + (0 if epochs == 2 else 2)))
        engine.checkpoints = Checkpoints(folder, every=0)
        with pytest.raises(KeyboardInterrupt):
            method.fit(cohort(), engine=engine)
    assert len(list(folder.iterdir())) == 1
    watched = Killed(1000)
    engine = Threads(2, progress=watched)
    engine.checkpoints = Checkpoints(folder, every=0)
    resumed = method.fit(cohort(), engine=engine)
    assert numbers(resumed) == numbers(whole)
    assert resumed.solution is not None
    assert whole.solution is not None
    assert resumed.solution.settings == whole.solution.settings
    assert watched.seen == EPOCHS, "epochs done earlier are counted, and none twice"
    engine.checkpoints.clear()
    assert not folder.exists()


@pytest.mark.parametrize("name", METHODS)
def test_what_has_ended_is_not_trained_again(name: str, cohort: Callable[[], Cohort], tmp_path: Path) -> None:
    engine = Serial()
    engine.checkpoints = Checkpoints(tmp_path / "training", every=0)
    first = METHODS[name](epochs=2).fit(cohort(), engine=engine)
    (path,) = (tmp_path / "training").iterdir()
    before = path.stat().st_mtime_ns
    again = METHODS[name](epochs=2).fit(cohort(), engine=engine)
    assert numbers(again) == numbers(first)
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("change", ["option", "labels"])
def test_anything_else_begins_anew(name: str, change: str, cohort: Callable[[], Cohort], tmp_path: Path) -> None:
    engine = Serial()
    engine.checkpoints = Checkpoints(tmp_path / "training", every=0)
    METHODS[name](epochs=2).fit(cohort(), engine=engine)
    options = {"learning_rate": 2e-3} if change == "option" else {}
    if change == "labels":
        path = tmp_path / "e" / "labels" / "c3.npy"
        labels = np.load(path)
        labels[:5] = (labels[:5] + 1) % 3
        np.save(path, labels)
    made = METHODS[name](epochs=2, **options).fit(cohort(), engine=engine)
    assert len(list((tmp_path / "training").iterdir())) == 2
    assert numbers(made) == numbers(METHODS[name](epochs=2, **options).fit(cohort(), engine=Serial()))


def test_a_state_that_is_none_is_named(cohort: Callable[[], Cohort], tmp_path: Path) -> None:
    engine = Serial()
    engine.checkpoints = Checkpoints(tmp_path / "training", every=0)
    METHODS["lts"](epochs=1).fit(cohort(), engine=engine)
    (path,) = (tmp_path / "training").iterdir()
    path.write_bytes(b"something else")
    with pytest.raises(UnreadableError, match="no state"):
        METHODS["lts"](epochs=1).fit(cohort(), engine=engine)


def test_a_short_training_and_arrays_leave_nothing(cohort: Callable[[], Cohort], tmp_path: Path) -> None:
    engine = Serial()
    engine.checkpoints = Checkpoints(tmp_path / "training")
    METHODS["lts"](epochs=1).fit(cohort(), engine=engine)
    engine.checkpoints = Checkpoints(tmp_path / "training", every=0)
    rng = np.random.default_rng(0)
    METHODS["lts"](epochs=1).fit(rng.normal(size=(4, 3, 12, 12)), rng.integers(3, size=(4, 12, 12)), engine=engine)
    assert not (tmp_path / "training").exists()
