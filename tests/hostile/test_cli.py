"""Bad input to the command line: one message, the right code, nothing partial, and interruptions that leave complete
cases only.
"""

from __future__ import annotations

import functools
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from segcal.cli import run

SHAPE = (20, 16)


def write(
    root: Path, names: Sequence[str], classes: int = 3, shape: tuple[int, ...] = SHAPE, seed: int = 0
) -> tuple[Path, Path]:
    rng = np.random.default_rng(seed)
    results, labels = root / "results", root / "labels"
    results.mkdir(parents=True)
    labels.mkdir()
    for name in names:
        z = rng.normal(0, 2, (classes, *shape)).astype(np.float32)
        np.savez_compressed(results / f"{name}.npz", logits=z)
        np.save(labels / f"{name}.npy", (z + rng.gumbel(0, 1, z.shape)).argmax(0).astype(np.uint8))
    return results, labels


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """Exit code and what stood on stderr; a traceback is never shown."""
    capsys.readouterr()
    code = run([*map(str, words), "--workers", "1"])
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    if code:
        assert said.err.startswith("error: ")
    return code, said.err


@pytest.fixture
def cal(tmp_path: Path) -> Path:
    results, labels = write(tmp_path / "fit", ["a", "b", "c"], seed=1)
    path = tmp_path / "cal.safetensors"
    assert run(["fit", str(results), "--labels", str(labels), "-o", str(path), "--quiet", "--workers", "1"]) == 0
    return path


def test_results_that_are_not_there_or_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("hello")
    for path in ("empty", "nowhere", "text.txt"):
        code, err = call(capsys, "check", tmp_path / path)
        assert code in (2, 3)
        assert path in err


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"random bytes",
        pickle.dumps({"a": os.getcwd}),
        b'\x10\x00\x00\x00\x00\x00\x00\x00{"__metadata__"',
        b"\xff" * 64,
    ],
    ids=["empty", "text", "pickle", "cut", "ones"],
)
@pytest.mark.parametrize("command", ["inspect", "evaluate", "apply"])
def test_what_is_no_calibrator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, command: str
) -> None:
    results, labels = write(tmp_path / "data", ["x"])
    path = tmp_path / "cal.safetensors"
    path.write_bytes(content)
    words = {
        "inspect": [path],
        "evaluate": [results, "--labels", labels, "--calibrator", path],
        "apply": [path, results, "-o", tmp_path / "out"],
    }[command]
    code, err = call(capsys, command, *words)
    assert code == 3
    assert str(path) in err
    assert not (tmp_path / "out").exists()


def test_a_calibrator_of_other_classes(tmp_path: Path, cal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, labels = write(tmp_path / "four", ["x"], classes=4)
    for words in (
        ["apply", cal, results, "-o", tmp_path / "out"],
        ["evaluate", results, "--labels", labels, "--calibrator", cal],
    ):
        code, err = call(capsys, *words)
        assert code == 2
        assert "4 classes" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["check", "fit", "evaluate"])
@pytest.mark.parametrize("harm", ["truncated", "nan", "label", "shape", "one class more"])
def test_bad_data_are_named_and_stop_all_but_an_evaluation_of_the_other_cases(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, harm: str
) -> None:
    results, labels = write(tmp_path / "data", ["good", "harmed"])
    path = results / "harmed.npz"
    if harm == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    elif harm == "nan":
        np.savez_compressed(path, logits=np.full((3, *SHAPE), np.nan, np.float32))
    elif harm == "label":
        np.save(labels / "harmed.npy", np.full(SHAPE, 7, np.uint8))
    elif harm == "shape":
        np.save(labels / "harmed.npy", np.zeros((3, 3), np.uint8))
    else:
        np.savez_compressed(path, logits=np.zeros((4, *SHAPE), np.float32))
    before = sorted(p.name for p in tmp_path.rglob("*"))
    more = ["-o", tmp_path / "cal.safetensors"] if command == "fit" else []
    capsys.readouterr()
    code = run([command, str(results), "--labels", str(labels), *map(str, more), "--workers", "1"])
    said = capsys.readouterr()
    # of two cases with different numbers of classes nobody knows which is the right one
    assert code == (4 if command == "evaluate" and harm != "one class more" else 3)
    assert "harmed" in said.out + said.err
    assert "Traceback" not in said.err
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_names_cannot_write_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, labels = write(tmp_path / "data", ["a\x1b[31mred", "[bold]b"])
    np.savez_compressed(results / "a\x1b[31mred.npz", logits=np.full((3, *SHAPE), np.inf, np.float32))
    capsys.readouterr()
    assert run(["check", str(results), "--labels", str(labels), "--workers", "1"]) == 3
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    assert "\\x1b[31mred" in said.out
    assert run(["check", str(tmp_path / "\x1b]0;title\x07")]) == 3
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--json", "--csv"])
def test_a_result_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    results, labels = write(tmp_path / "data", ["a"])
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "file" / "x", tmp_path / "folder"):
        (tmp_path / "folder" / "kept").touch()
        code, err = call(capsys, "evaluate", results, "--labels", labels, option, target)
        assert code == 3
        assert str(target.name) in err
        assert (tmp_path / "folder" / "kept").exists()


def test_a_result_may_go_to_a_new_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, labels = write(tmp_path / "data", ["a"])
    assert call(capsys, "evaluate", results, "--labels", labels, "--json", tmp_path / "new" / "e.json")[0] == 0
    assert (tmp_path / "new" / "e.json").is_file()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_apply_leaves_complete_cases_and_goes_on(
    tmp_path: Path, cal: Path, number: int, code: int
) -> None:
    names = [f"case{k:02d}" for k in range(80)]  # enough that a busy machine's signal still comes in the middle
    results, _ = write(tmp_path / "new", names, shape=(160, 160))
    out = tmp_path / "out"
    words = [
        sys.executable,
        "-m",
        "segcal",
        "apply",
        str(cal),
        str(results),
        "-o",
        str(out),
        "--maps",
        "entropy",
        "--workers",
        "1",
    ]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environment = {**os.environ, "SEGCAL_SCRATCH": str(scratch)}
    # whoever runs the tests in the background has interrupts ignored, and what it starts inherits that
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=heard
    ) as running:
        deadline = time.monotonic() + 60
        while not list(out.glob("*.npz")) and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        running.send_signal(number)
        _, err = running.communicate(timeout=60)
    # SIGTERM ends it within two seconds: on a busy machine by the child that kills it, and the next run cleans up
    killed = number == signal.SIGTERM and running.returncode == -signal.SIGKILL
    assert killed or running.returncode == code
    assert "Traceback" not in err
    written = sorted(out.glob("*.npz"))
    assert 0 < len(written) < len(names)
    if not killed:
        assert list(out.rglob(".*")) == []
        assert list(scratch.iterdir()) == []
    for path in written:
        assert np.load(path)["probabilities"].shape == (3, 160, 160)
        assert np.load(out / "entropy" / f"{path.stem}.npy").shape == (160, 160)
    done = subprocess.run(
        [*words, "--resume"], capture_output=True, text=True, timeout=120, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(written)} case(s) were finished before" in done.stdout
    assert sorted(p.stem for p in out.glob("*.npz")) == names
    assert list(out.rglob(".segcal-*")) == []


def test_an_interrupted_fit_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    results, labels = write(tmp_path / "data", ["a", "b"])
    before = sorted(p.name for p in tmp_path.rglob("*"))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("segcal.methods.method.drive", interrupted)
    code, err = call(capsys, "fit", results, "--labels", labels, "-o", tmp_path / "out" / "cal.safetensors")
    assert code == 130
    assert err == "error: interrupted; every file written so far is complete\n"
    assert sorted(p.name for p in tmp_path.rglob("*")) == before
