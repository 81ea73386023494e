"""SIGTERM ends a command in whatever it is, with no partial output; stdout that is closed or full is told once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

LONG = {
    "a long call in the main thread": "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)",
    "a long call that holds the interpreter's lock": "sum(range(10**12))",
    "a long call in a worker": "list(Threads(1).each(lambda _: hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9), [0]))",
    "a worker that holds the interpreter's lock": "list(Threads(1).each(lambda _: sum(range(10**12)), [0]))",
    "a worker that waits": "list(Threads(1).each(lambda _: time.sleep(600), [0]))",
}


def listens(process: subprocess.Popen[str]) -> bool:
    """Whether a process has said how it wants to end; before that SIGTERM ends it as any program."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:  # gone
        return False
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), "0")
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def ended(process: subprocess.Popen[str], begun: Any, number: int = signal.SIGTERM) -> int:
    """Send a signal once `begun()` is true; the exit code. A process that does not end fails by the limit."""
    deadline = time.monotonic() + 60
    while not begun() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert begun()
    process.send_signal(number)
    process.communicate(timeout=20)
    return process.returncode


@pytest.mark.parametrize("name", LONG)
def test_sigterm_ends_whatever_is_under_way(tmp_path: Path, name: str) -> None:
    code = f"""
        import hashlib, sys, time
        import segcal.cli
        from pathlib import Path
        from segcal.data.files import journal
        from segcal.engine.threads import Threads

        def command(words):
            place = Path({str(tmp_path)!r})
            with journal.Scratch(0) as scratch, journal.placed([place / "out" / "a", place / "out" / "b"]) as parts:
                scratch.path().write_text("rows")
                parts[0].write_text("half")
                (place / "begun").touch()
                {LONG[name]}

        segcal.cli.run = command
        segcal.cli.main()
    """
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    words = [sys.executable, "-c", textwrap.dedent(code)]
    environment = {**os.environ, "SEGCAL_SCRATCH": str(scratch)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as running:
        code = ended(running, (tmp_path / "begun").exists)
    if "lock" not in name:  # on a busy machine the child may be the first to see the end of its patience
        assert code in (143, -signal.SIGKILL)
    if code != 143:  # killed from outside: nothing of the names asked for, and the next run removes the rest
        assert code == -signal.SIGKILL
        left = (tmp_path / "out").iterdir() if (tmp_path / "out").is_dir() else ()  # it may have come that far
        assert [p for p in left if not p.name.startswith(".segcal-")] == []
        again = f"""
            from pathlib import Path
            from segcal.data.files import journal
            with journal.Scratch(0) as scratch, journal.atomic(Path({str(tmp_path)!r}) / "out" / "a") as temporary:
                scratch.path().touch()
                temporary.touch()
        """
        subprocess.run([sys.executable, "-c", textwrap.dedent(again)], env=environment, check=True)
        assert [p.name for p in (tmp_path / "out").iterdir()] == ["a"]
    else:
        assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["begun"]
    assert list(scratch.iterdir()) == []


SWALLOWED = {
    "an error nobody expected": "raise ImportError('cannot load module more than once per process')",
    "an error that a command tells": "return 3",
}


@pytest.mark.parametrize("name", SWALLOWED)
def test_what_fails_because_it_was_told_to_end_ends_as_told(tmp_path: Path, name: str) -> None:
    code = f"""
        import time
        import segcal.cli
        from pathlib import Path

        def command(words):
            try:
                Path({str(tmp_path / "begun")!r}).touch()
                time.sleep(600)
            except SystemExit:
                {SWALLOWED[name]}

        segcal.cli.run = command
        segcal.cli.main()
    """
    words = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert ended(running, (tmp_path / "begun").exists) == 143


@pytest.mark.slow
@pytest.mark.parametrize("moment", [0.05, 0.4, 1.0, 2.0, 3.0, 4.5])
@pytest.mark.parametrize("command", ["check", "fit", "evaluate", "apply", "audit", "demo"])
def test_sigterm_ends_every_command_at_any_moment(
    fitting: Any, calibrator: Path, tmp_path: Path, command: str, moment: float
) -> None:
    words = {
        "check": [*fitting.labelled],
        "fit": [*fitting.labelled, "--method", "auto", "-o", tmp_path / "out.safetensors"],
        "evaluate": [*fitting.labelled, "--calibrator", calibrator, "--fitted", "include", "--csv", tmp_path / "e.csv"],
        "apply": [calibrator, *fitting.words, "-o", tmp_path / "out"],
        "audit": [calibrator, *fitting.words, "--energy-maps", tmp_path / "out"],
        "demo": ["-o", tmp_path / "out"],
    }[command]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    begun = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "segcal", command, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "SEGCAL_SCRATCH": str(scratch)},
    ) as running:
        # a command may be done by then; on a busy machine it may not have come to where it listens
        heard: list[bool] = []

        def ready() -> bool:
            heard.append(listens(running))
            return time.monotonic() > begun + moment or running.poll() is not None

        code = ended(running, ready)
    # on a busy machine its child may be the first to see the end of its patience: the next run removes what is left
    assert code in (0, 143, -signal.SIGKILL, *(() if heard[-1] else (-signal.SIGTERM,)))
    left = list(tmp_path.rglob("*segcal-*"))
    assert left == [] if code != -signal.SIGKILL else all(p.name.startswith((".segcal-", "segcal-")) for p in left)


@pytest.mark.parametrize(
    ("redirection", "code", "told"),
    [("| head -0", 0, ""), (">&-", 3, "bad file descriptor"), (">&- 2>&-", 3, ""), ("2>&- <&-", 0, "")],
)
def test_a_stdout_that_is_closed(tmp_path: Path, redirection: str, code: int, told: str) -> None:
    command = (
        f"set -o pipefail; {sys.executable} -m segcal methods --classes 2 --markdown {tmp_path}/m.md {redirection}"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    assert told in done.stderr and len(done.stderr.splitlines()) == bool(told)
    assert (tmp_path / "m.md").is_file()


def test_a_stdout_that_is_full(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "segcal", "methods", "--classes", "2", "--json", str(tmp_path / "m.json")]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("error: standard output: found no space left on device")
    assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "m.json").is_file()


def test_what_the_system_refuses_is_one_message(segcal: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refused)
    said = segcal("check", tmp_path)
    assert said.code == 3
    assert "no permission to read it" in said.err and str(tmp_path) in said.err
    assert len(said.err.splitlines()) == 1
    assert "Traceback" in segcal("check", tmp_path, "--debug").err


def test_where_no_child_can_be_had_the_command_runs_all_the_same(tmp_path: Path) -> None:
    code = f"""
        import os, sys
        import segcal.cli
        def no_more():
            raise BlockingIOError(11, "Resource temporarily unavailable")
        os.fork = no_more
        sys.argv = ["segcal", "methods", "--classes", "2", "--quiet", "--json", {str(tmp_path / "m.json")!r}]
        segcal.cli.main()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "m.json").is_file()
