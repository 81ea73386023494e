"""A Dask cluster gives the bits of the serial engine, loads again what a lost worker held, and says what is missing."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segcal
from segcal.cli import run
from segcal.engine import pinned
from segcal.engine.ask import Ask
from segcal.engine.progress import Silent
from segcal.engine.serial import Serial
from segcal.errors import MissingError, UnreadableError, UsageError
from segcal.methods import find
from segcal.methods.temperature import ScaleNLL
from segcal.testing.engines import ENGINE_LAWS
from segcal.testing.law import Law
from segcal.testing.methods import fit_bits
from segcal.testing.watching import answers_bits

distributed = pytest.importorskip("distributed", reason="no Dask: pip install segcal[hpc]")
dask = pytest.importorskip("segcal.engine.dask")

INSIDE = ("one_reduce_is_one_pass", "no_work_outlives_an_error", "torch_threads_are_given_back")
"""Laws that look over a worker's shoulder, at lists and locks of this process."""


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Partitions of a case or two."""
    monkeypatch.setattr(pinned, "PARTITION", 2**12)


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """Two threads of a worker in this process."""
    options = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "dashboard_address": ":0"}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster, set_as_default=False) as client:
        yield client


def saved(folder: Path, cases: int = 9, shape: tuple[int, int] = (20, 30)) -> segcal.Cohort:
    """A cohort of files, of four classes, in three groups."""
    rng = np.random.default_rng(0)
    for name in ("scores", "labels"):
        (folder / name).mkdir()
    for k in range(cases):
        logits = rng.normal(size=(4, *shape)).astype(np.float32)
        labels = (logits + rng.gumbel(size=logits.shape)).argmax(0).astype(np.uint8)
        np.savez(folder / "scores" / f"p{k % 3}_{k}.npz", logits=2 * logits)
        np.savez(folder / "labels" / f"p{k % 3}_{k}.npz", labels=labels)
    cohort = segcal.open_cohort(folder / "scores", folder / "labels")
    return cohort.grouped({case.id: case.id[:2] for case in cohort})


@pytest.mark.parametrize("law", [law for law in ENGINE_LAWS if str(law) not in INSIDE], ids=str)
def test_keeps_the_laws_of_engines(client: Any, law: Law[Any]) -> None:
    law.check(lambda workers: dask.Dask(client))


def test_the_laws_left_out_are_laws() -> None:
    assert set(INSIDE) < {str(law) for law in ENGINE_LAWS}


@pytest.mark.parametrize("name", ["ts", "dc", "cms-op", "bts-class", "isotonic"])
def test_fits_are_those_of_the_serial_engine(client: Any, tmp_path: Path, name: str) -> None:
    """Bits, passes and cross-fitted calibrators, also of what is grouped by the decision and looks around."""
    cohort, method = saved(tmp_path), find(name)()
    assert len(pinned.partitions(cohort)) == 5
    ours, theirs = (
        segcal.fit_methods({"it": method}, cohort, engine, crossfit=True)["it"]
        for engine in (dask.Dask(client), Serial())
    )
    assert fit_bits(ours.calibrator) == fit_bits(theirs.calibrator)
    assert [fit_bits(c) for c in ours.held_out] == [fit_bits(c) for c in theirs.held_out]
    assert ours.calibrator.solution.passes == theirs.calibrator.solution.passes


def test_evaluations_are_those_of_the_serial_engine(client: Any, tmp_path: Path) -> None:
    cohort = saved(tmp_path)
    calibrator = segcal.TemperatureScaling().fit(cohort, engine=Serial())
    told = [
        segcal.evaluate(cohort, calibrator, engine, fitted="include").to_json()
        for engine in (dask.Dask(client), Serial())
    ]
    assert told[0] == told[1]


def test_what_is_pickled_of_loaded_rows_is_how_to_load_them(tmp_path: Path) -> None:
    loaded = dask.Loaded(dask.Partition(saved(tmp_path), 0))
    packed = pickle.dumps(loaded)
    again = pickle.loads(packed)
    asks = {"it": Ask(ScaleNLL(0.7))}
    assert len(packed) < 20_000 < loaded.__sizeof__()
    first, second = (answers_bits(one.answers(asks, [0] * 9), asks) for one in (loaded, again))
    assert first == second


class Killing(Silent):
    """Ends one worker at the third step of a fit."""

    def __init__(self, client: Any) -> None:
        self.client, self.fitting, self.steps = client, False, 0

    def start(self, what: str, total: int) -> None:
        self.fitting = what.startswith("fitting")

    def step(self) -> None:
        self.steps += self.fitting
        if self.steps == 3:
            self.steps += 1
            os.kill(next(iter(self.client.run(os.getpid).values())), signal.SIGKILL)


@pytest.mark.slow
def test_a_worker_that_is_killed_in_mid_fit_changes_nothing(tmp_path: Path) -> None:
    cohort, method = saved(tmp_path), segcal.DirichletCalibration()
    expected = method.fit(cohort, engine=Serial())
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": 50}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster, set_as_default=False) as client:
        killing = Killing(client)
        before = set(client.run(os.getpid).values())
        found = method.fit(cohort, engine=dask.Dask(client, progress=killing))
        assert killing.steps > 4, "the fit went on after the kill"
        assert len(before - set(client.run(os.getpid).values())) == 1
    assert fit_bits(found) == fit_bits(expected)


@pytest.mark.slow
def test_on_the_command_line(tmp_path: Path) -> None:
    saved(tmp_path)
    words = [str(tmp_path / "scores"), "--labels", str(tmp_path / "labels"), "--groups", r"(p\d)", "--quiet"]
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster:
        for name, more in (("there", ["--scheduler", cluster.scheduler_address]), ("here", [])):
            assert run(["fit", *words, "--method", "ts", "-o", str(tmp_path / f"{name}.safetensors"), *more]) == 0
    assert fit_bits(segcal.load(tmp_path / "there.safetensors")) == fit_bits(segcal.load(tmp_path / "here.safetensors"))


@pytest.mark.slow
def test_the_job_for_slurm_runs_where_srun_starts_two_tasks(tmp_path: Path) -> None:
    """docs/how-to/segcal.sbatch, with a stand-in for srun."""
    cohort = saved(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").write_text('#!/bin/bash\n"$@" &\n"$@" &\nwait\n')
    (tmp_path / "bin" / "srun").chmod(0o755)
    job = Path(__file__).parents[2] / "docs" / "how-to" / "segcal.sbatch"
    words = ["fit", "scores", "--labels", "labels", "--groups", r"(p\d)", "--method", "dc", "-o", "cal.safetensors"]
    path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    ended = subprocess.run(
        ["bash", str(job), *words],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Registered to" in ended.stderr and ended.stderr.count("Start Nanny") == 2
    assert not list(tmp_path.glob(".dask*"))
    assert fit_bits(segcal.load(tmp_path / "cal.safetensors")) == fit_bits(
        segcal.DirichletCalibration().fit(cohort, engine=Serial())
    )


@pytest.mark.parametrize(
    ("address", "error", "said"),
    [
        ("nonsense://1", UsageError, "an address such as tcp://host:8786"),
        ("tcp://\0:1", UsageError, "an address such as tcp://host:8786"),
        ("missing.json", MissingError, "the file that a Dask scheduler wrote"),
        ("other.json", UsageError, "found 'None'; expected an address"),
        ("list.json", UnreadableError, "list.json"),
        ("tcp://127.0.0.1:1", UsageError, "a Dask scheduler that answers"),
        ("tls://127.0.0.1:1", UsageError, "an address such as tcp://host:8786"),
        ("127.0.0.1:99999", UsageError, "a Dask scheduler that answers"),
    ],
)
def test_where_no_scheduler_answers(
    address: str, error: type[Exception], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.json").write_text('{"id": 5}')
    Path("list.json").write_text("[1]")
    with pytest.raises(error, match=said), dask.connected(address):
        pass


def test_a_scheduler_without_workers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask, "WAIT", 0.2)
    options = {"n_workers": 0, "dashboard_address": ":0", "silence_logs": 50}
    with (
        distributed.LocalCluster(**options) as cluster,
        pytest.raises(UsageError, match=r"no worker at .* in 0\.2 seconds"),
        dask.connected(cluster.scheduler_address),
    ):
        pass
