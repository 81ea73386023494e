"""`segcal demo`: what it prints and leaves, on a cohort smaller than its own; the whole of it under --slow."""

from __future__ import annotations

import functools
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from segcal import DirichletCalibration, TemperatureScaling
from segcal.cli import run
from segcal.cli.demo import free
from segcal.data.simulate.cohort import Design
from segcal.tasks import demo as demonstration


def test_the_commands_it_prints_do_the_same(segcal: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    design = Design(classes=("background", "organ"), shape=(6, 16, 16), margin=(1, 2, 2), members=2)
    monkeypatch.setattr(
        demonstration, "run", functools.partial(demonstration.run, design=design, fitting=6, held_out=3)
    )
    monkeypatch.setattr(demonstration, "simple", lambda _: {"ts": TemperatureScaling(), "dc": DirichletCalibration()})
    said = segcal("demo", "--json", tmp_path / "demo.json")
    assert (said.code, said.err) == (0, "")
    rows = [
        line.split()
        for line in said.out.splitlines()
        if line.split() and line.split()[0] in ("uncalibrated", "ts", "dc")
    ]
    assert [r[0] for r in rows] == ["uncalibrated", "ts", "dc"]
    assert float(rows[-1][6]) < float(rows[0][6])
    assert (tmp_path / "demo.json").is_file()
    for line in said.out.splitlines():
        if line.startswith("figure: "):
            assert Path(shlex.split(line)[1]).is_file()
    commands = [line.strip() for line in said.out.splitlines() if line.startswith("  segcal ")]
    assert [c.split()[1] for c in commands] == ["check", "fit", "evaluate", "apply"]
    for command in commands:
        words = [str(p) for w in shlex.split(command)[1:] for p in (sorted(tmp_path.glob(w)) if "*" in w else [w])]
        assert run([*words, "--quiet", "--workers", "1"]) == 0
    applied = sorted(p.name for p in (tmp_path / "segcal-demo" / "typed" / "calibrated").glob("*.npz"))
    assert applied == sorted(p.name for p in (tmp_path / "segcal-demo" / "calibrated").glob("*.npz"))
    assert len(applied) == 3


def test_a_used_folder_is_left_alone(segcal: Any, tmp_path: Path) -> None:
    assert free(tmp_path / "demo") == tmp_path / "demo"
    (tmp_path / "demo").mkdir()
    assert free(tmp_path / "demo") == tmp_path / "demo"
    (tmp_path / "demo" / "mine").touch()
    assert free(tmp_path / "demo") == tmp_path / "demo-2"
    said = segcal("demo", "-o", tmp_path / "demo")
    assert said.code == 3
    assert [p.name for p in (tmp_path / "demo").iterdir()] == ["mine"]


@pytest.mark.slow
def test_the_whole_demo_runs_as_it_is_typed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "segcal", "demo", "-o", str(tmp_path / "demo")],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0] for line in done.stdout.splitlines() if line.strip()}
    assert rows >= {"uncalibrated", "ts", "ets", "vs", "ms", "ms-c", "dc"}
    assert (tmp_path / "demo" / "figures" / "reliability.png").is_file()
