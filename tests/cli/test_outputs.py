"""Outputs of every command: what they never go over, what only with --overwrite, and what a second run finds."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def data(fitting: Any, calibrator: Path, tmp_path: Path) -> Path:
    """Results, labels and a calibrator of this test's own."""
    shutil.copytree(fitting.results[0], tmp_path / "results")
    shutil.copytree(fitting.labels, tmp_path / "labels")
    shutil.copy(calibrator, tmp_path / "cal.safetensors")
    return tmp_path


def commands(data: Path) -> dict[str, list[object]]:
    """What is typed, up to the name of the one file that is written."""
    labelled = [data / "results", "--labels", data / "labels", "--quiet"]
    cal = data / "cal.safetensors"
    return {
        "fit": ["fit", *labelled, "--no-crossfit", "-o"],
        "evaluate --json": ["evaluate", *labelled, "--json"],
        "evaluate --csv": ["evaluate", *labelled, "--calibrator", cal, "--fitted", "include", "--csv"],
        "check": ["check", *labelled, "--json"],
        "audit": ["audit", cal, data / "results", "--quiet", "--json"],
        "apply": ["apply", cal, data / "results", "-o", data / "applied", "--quiet", "--json"],
        "inspect": ["inspect", cal, "--quiet", "--json"],
        "methods": ["methods", "--classes", "2", "--quiet", "--markdown"],
    }


@pytest.mark.parametrize("name", ["fit", "evaluate --json", "evaluate --csv", "check", "audit", "inspect", "methods"])
def test_the_same_command_twice_is_pleasant_and_nothing_else_is_replaced(segcal: Any, data: Path, name: str) -> None:
    words, target = commands(data)[name], data / "out" / "result"
    assert segcal(*words, target).code == 0
    first = target.read_bytes()
    assert segcal(*words, target).code == 0
    assert target.read_bytes()[:20] == first[:20]
    target.write_text("somebody's notes\n")
    refused = segcal(*words, target)
    assert (refused.code, "--overwrite" in refused.err) == (3, True)
    assert target.read_text() == "somebody's notes\n"
    assert segcal(*words, target, "--overwrite").code == 0
    assert target.read_bytes()[:20] == first[:20]


@pytest.mark.parametrize("name", ["fit", "evaluate --json", "evaluate --csv", "check", "audit", "apply", "inspect"])
@pytest.mark.parametrize("link", ["itself", "symbolic", "hard"])
def test_nothing_that_is_read_is_written_over(segcal: Any, data: Path, name: str, link: str) -> None:
    inputs = {
        "inspect": ["cal.safetensors"],
        "apply": ["cal.safetensors", "results/p03.npz"],
        "audit": ["cal.safetensors", "results/p03.npz"],
        "evaluate --csv": ["cal.safetensors", "labels/p03.npy"],
    }.get(name, ["results/p03.npz", "labels/p03.npy"])
    before = content(data)
    for k, read in enumerate(inputs):
        target = data / read
        if link != "itself":
            target = data / f"link{k}"
            (target.symlink_to if link == "symbolic" else target.hardlink_to)(data / read)
        if str(target).endswith(".safetensors") and name != "evaluate --csv":
            words = [*commands(data)[name][:-1], f"--json={target}"]
        else:
            words = [*commands(data)[name], target]
        said = segcal(*words, "--overwrite")
        assert (said.code, "input" in said.err) == (2, True), said.err
        if link != "itself":
            target.unlink()
    assert content(data) == before


def test_what_is_no_file_is_refused_before_any_work(segcal: Any, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object, **__: object) -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr("segcal.engine.Threads.each", read)
    pipe = data / "pipe"
    os.mkfifo(pipe)
    (data / "link").symlink_to(pipe)
    for name, words in commands(data).items():
        if name in ("inspect", "methods"):
            continue
        for target in (pipe, data / "link"):
            said = segcal(*words, target, "--overwrite")
            assert (said.code, "found a pipe" in said.err) == (3, True), (name, said.err)
    for words in (["apply", data / "cal.safetensors"], ["audit", data / "cal.safetensors"]):
        option = "-o" if words[0] == "apply" else "--energy-maps"
        assert segcal(*words, data / "results", option, pipe).code == 3
    assert not (data / "applied").exists()
    assert pipe.is_fifo() and (data / "link").is_symlink()


@pytest.mark.parametrize(
    "more", [[], ["--overwrite"], ["--resume"], ["--format", "npy"], ["--format", "npy", "--overwrite"]]
)
@pytest.mark.parametrize("folder", ["labels", "results", ".", "link"])
def test_apply_never_writes_where_labels_or_inputs_are(segcal: Any, data: Path, more: list[str], folder: str) -> None:
    (data / "link").symlink_to(data / "labels")
    before = content(data)
    said = segcal("apply", data / "cal.safetensors", data / "results", "-o", data / folder, *more)
    assert said.code == 2, said.err
    assert "--overwrite" not in said.err
    assert content(data) == before


def test_apply_replaces_files_of_others_only_when_told(segcal: Any, data: Path) -> None:
    out = data / "out"
    out.mkdir()
    (out / "p03.npz").write_bytes(b"mine")
    words = ["apply", data / "cal.safetensors", data / "results", "-o", out]
    assert segcal(*words).code == 3
    assert segcal(*words, "--resume").code == 2
    assert (out / "p03.npz").read_bytes() == b"mine"
    assert segcal(*words, "--overwrite").code == 0
    assert np.load(out / "p03.npz")["probabilities"].shape == (3, 24, 20)


def test_a_folder_of_nnunet_keeps_its_own_description(segcal: Any, nnunet: Any, tmp_path: Path) -> None:
    single, cal = nnunet.results[0], tmp_path / "cal.safetensors"
    assert segcal("fit", single, "--labels", nnunet.labels, "-o", cal, "--no-crossfit").code == 0
    raw = tmp_path / "Dataset001"
    raw.mkdir()
    (raw / "dataset.json").write_text('{"numTraining": 4}')
    refused = segcal("apply", cal, single, "-o", raw)
    assert (refused.code, "dataset.json" in refused.err) == (3, True)
    assert content(raw) == {"dataset.json": b'{"numTraining": 4}'}
    for name in [p.name for p in single.glob("*.nii.gz")]:
        shutil.copy(single / name, raw / name)
    assert segcal("apply", cal, single, "-o", raw, "--overwrite").code == 2
    assert (raw / "dataset.json").read_text() == '{"numTraining": 4}'


def resumed(segcal: Any, data: Path, *more: object) -> Any:
    return segcal(
        "apply", data / "cal.safetensors", data / "results", "-o", data / "out", "--resume", *more, "--json"
    ).json


@pytest.fixture
def applied(segcal: Any, data: Path) -> dict[str, bytes]:
    assert segcal("apply", data / "cal.safetensors", data / "results", "-o", data / "out").code == 0
    return content(data / "out")


def test_a_case_predicted_again_is_done_again(segcal: Any, data: Path, applied: dict[str, bytes]) -> None:
    path, stamp = data / "results" / "p02.npz", (data / "results" / "p02.npz").stat()
    shutil.copy(data / "results" / "p05.npz", path)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    said = segcal("apply", data / "cal.safetensors", data / "results", "-o", data / "out", "--resume")
    assert said.code == 0
    assert "7 case(s) were finished before" in said.out and "1 case(s) were done again" in said.out
    after = content(data / "out")
    assert after["p02.npz"] == after["p05.npz"] != applied["p02.npz"]
    assert len(resumed(segcal, data)["skipped"]) == 8


@pytest.mark.parametrize("harm", ["cut", "another case's", "same length"])
def test_an_output_that_is_not_as_it_was_is_written_again(
    segcal: Any, data: Path, applied: dict[str, bytes], harm: str
) -> None:
    path = data / "out" / "p02.npz"
    stamp = path.stat()
    good = applied["p02.npz"]
    path.write_bytes({"cut": good[:-9], "another case's": applied["p05.npz"], "same length": bytes(len(good))}[harm])
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 10**12))
    assert "p02" not in resumed(segcal, data)["skipped"]
    assert content(data / "out") == applied


def test_outputs_of_another_folder_or_calibrator_do_not_pass_as_finished(
    segcal: Any, data: Path, heldout: Any, fitting: Any, applied: dict[str, bytes]
) -> None:
    for k, path in enumerate(sorted(heldout.results[0].iterdir())):  # other predictions under the same names
        shutil.copy(path, data / "results" / f"p0{k}.npz")
    assert resumed(segcal, data)["skipped"] == ["p04", "p05", "p06", "p07"]
    assert (
        segcal("fit", *fitting.labelled, "--method", "ets", "--no-crossfit", "-o", data / "cal.safetensors").code == 0
    )
    other = segcal("apply", data / "cal.safetensors", data / "results", "-o", data / "out", "--resume")
    assert (other.code, "calibrator" in other.err) == (2, True)


def test_the_same_calibrator_under_another_name_goes_on(segcal: Any, data: Path, applied: dict[str, bytes]) -> None:
    (data / "cal.safetensors").rename(data / "moved.safetensors")
    said = segcal("apply", data / "moved.safetensors", data / "results", "-o", data / "out", "--resume", "--json")
    assert len(said.json["skipped"]) == 8
    assert content(data / "out") == applied


def test_after_a_kill_the_next_run_leaves_no_litter(data: Path, segcal: Any) -> None:
    rng = np.random.default_rng(0)
    for k in range(40):
        np.savez_compressed(data / "results" / f"big{k:02d}.npz", logits=rng.normal(0, 2, (3, 160, 160)).astype("f4"))
    scratch = data / "scratch"
    scratch.mkdir()
    words = [
        "apply",
        data / "cal.safetensors",
        data / "results",
        "-o",
        data / "out",
        "--maps",
        "entropy",
    ]
    environment = {**os.environ, "SEGCAL_SCRATCH": str(scratch)}
    command = [sys.executable, "-m", "segcal", *map(str, words), "--workers", "1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as running:
        deadline = time.monotonic() + 120
        while len(list((data / "out").glob("*.npz"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.005)
        running.send_signal(signal.SIGKILL)
    finished = set(json.loads((data / "out" / "segcal.json").read_text())["finished"])
    assert finished <= {p.stem for p in (data / "out").glob("*.npz")}
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert f"{len(finished)} case(s) were finished before" in done.stdout
    assert list((data / "out").rglob(".*")) == []
    assert list(scratch.iterdir()) == []
    assert len(list((data / "out" / "entropy").iterdir())) == 48


@pytest.mark.parametrize("name", ["fit", "evaluate --json", "evaluate --csv", "check", "methods"])
def test_a_full_disk_is_one_message_and_leaves_nothing(
    segcal: Any, data: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from segcal.data.files import journal

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(journal.os, "fsync", full)
    said = segcal(*commands(data)[name], data / "out" / "result")
    assert said.code == 3
    assert "no space left on the disk" in said.err and "result" in said.err
    assert not (data / "out").exists()


def test_a_calibrator_on_a_full_disk(segcal: Any, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors
    import safetensors.torch

    def full(*_: object) -> None:
        raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    said = segcal(*commands(data)["fit"], data / "out.safetensors")
    assert (said.code, "no space left on the disk" in said.err) == (3, True)
    assert not (data / "out.safetensors").exists()
