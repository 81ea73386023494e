"""Files that are complete or absent, scratch space that goes away, and digests."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from segcal.data.files import journal
from segcal.data.files.journal import Scratch, atomic, digest, explained
from segcal.errors import OutputError


def left(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_a_file_appears_whole_and_alone(tmp_path):
    target = tmp_path / "new" / "deep" / "out.nii.gz"
    with atomic(target) as temporary:
        assert temporary.name == target.name
        temporary.write_bytes(b"half")
        assert not target.exists()
        temporary.write_bytes(b"whole")
    assert target.read_bytes() == b"whole"
    assert left(tmp_path) == ["new", "new/deep", "new/deep/out.nii.gz"]


def test_an_existing_file_is_replaced_only_by_a_whole_one(tmp_path):
    target = tmp_path / "out.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="oh"), atomic(target) as temporary:
        temporary.write_text("new, but")
        raise RuntimeError("oh")
    assert target.read_text() == "old"
    with atomic(target) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"
    assert left(tmp_path) == ["out.txt"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interruption_leaves_nothing(tmp_path, interruption):
    with pytest.raises(interruption), atomic(tmp_path / "out") as temporary:
        temporary.write_text("half")
        raise interruption
    assert left(tmp_path) == []


def test_a_folder_is_as_good_as_a_file(tmp_path):
    target = tmp_path / "out.zarr"
    target.mkdir()
    (target / "old").touch()
    with atomic(target) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
    assert left(tmp_path) == ["out.zarr", "out.zarr/new"]
    with pytest.raises(RuntimeError), atomic(target) as temporary:
        temporary.mkdir()
        (temporary / "half").touch()
        raise RuntimeError
    assert left(tmp_path) == ["out.zarr", "out.zarr/new"]


def test_a_full_disk_says_so_and_leaves_nothing(tmp_path):
    target = tmp_path / "out.bin"
    with (
        pytest.raises(
            OutputError, match=r"out\.bin: found no space left on the disk; .* nothing partial was left behind"
        ),
        atomic(target) as temporary,
    ):
        temporary.symlink_to("/dev/full")
        with temporary.open("wb") as file:
            file.write(b"x" * 100_000)
    assert left(tmp_path) == []


def test_a_disk_that_fills_up_while_the_file_is_flushed_says_so(tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(journal.os, "fsync", full)
    with pytest.raises(OutputError, match="no space left"), atomic(tmp_path / "out") as temporary:
        temporary.write_text("all of it")
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    "code", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EFBIG, errno.ENAMETOOLONG]
)
def test_refusals_of_the_system_are_output_errors(tmp_path, code):
    with pytest.raises(OutputError) as caught, explained(tmp_path / "out"):
        raise OSError(code, "no")
    assert os.strerror(code) in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "broken disk"), FileNotFoundError(errno.ENOENT, "gone"), ValueError("a bug")]
)
def test_other_errors_are_not_dressed_up(tmp_path, error):
    with pytest.raises(type(error)) as caught, explained(tmp_path / "out"):
        raise error
    assert caught.value is error


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="place that can be written to"), atomic(tmp_path / "file" / "out"):
        raise AssertionError("not reached")


def test_a_folder_where_the_file_should_be(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    with pytest.raises(OutputError), atomic(tmp_path / "out") as temporary:
        temporary.touch()
    assert left(tmp_path) == ["out", "out/precious"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_no_permission_says_so(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="Permission denied"), atomic(tmp_path / "out"):
            raise AssertionError("not reached")
    finally:
        tmp_path.chmod(0o700)


def test_several_threads_may_write_at_once(tmp_path):
    def write(k: int) -> None:
        with atomic(tmp_path / "same") as temporary:
            temporary.write_text(str(k) * 1000)

    threads = [threading.Thread(target=write, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    text = (tmp_path / "same").read_text()
    assert text == text[0] * 1000
    assert left(tmp_path) == ["same"]


def test_a_killed_process_leaves_no_file_of_the_name_asked_for(tmp_path):
    code = f"""
        import os, pathlib
        from segcal.data.files.journal import atomic
        with atomic(pathlib.Path({str(tmp_path)!r}) / "out.npz") as temporary:
            temporary.write_bytes(b"half")
            os.kill(os.getpid(), 9)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == []
    assert not list(tmp_path.glob("*.npz"))


def test_scratch_makes_its_folder_when_needed_and_removes_it(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGCAL_SCRATCH", str(tmp_path))
    with Scratch(10) as scratch:
        assert left(tmp_path) == []
        paths = [scratch.path("x"), scratch.path("x"), scratch.path()]
        assert len(set(paths)) == 3
        for path in paths:
            path.write_text("rows")
        assert paths[0].parent.parent == tmp_path
    assert left(tmp_path) == []


def test_scratch_is_removed_after_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGCAL_SCRATCH", str(tmp_path))
    with pytest.raises(KeyboardInterrupt), Scratch(10) as scratch:
        scratch.path().write_text("rows")
        raise KeyboardInterrupt
    assert left(tmp_path) == []


def test_scratch_paths_differ_between_threads(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGCAL_SCRATCH", str(tmp_path))
    with Scratch(10) as scratch:
        found: list[Path] = []
        threads = [threading.Thread(target=lambda: found.extend(scratch.path() for _ in range(50))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(found)) == 200
        assert len({p.parent for p in found}) == 1


def test_a_scratch_folder_that_is_not_there_is_an_output_error(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGCAL_SCRATCH", str(tmp_path / "absent"))
    with Scratch(10) as scratch, pytest.raises(OutputError, match=r"absent: found no folder; .*SEGCAL_SCRATCH"):
        scratch.path()


def test_an_empty_setting_is_no_setting(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGCAL_SCRATCH", "")
    monkeypatch.setattr(journal.tempfile, "tempdir", str(tmp_path))
    with Scratch(10) as scratch:
        assert scratch.path().parent.parent == tmp_path


def test_digests_are_short_stable_and_in_order():
    assert digest(b"a", b"b") == digest(b"ab")
    assert digest(b"a", b"b") != digest(b"b", b"a")
    assert len(digest()) == 32
    assert digest(b"segcal") == digest(b"segcal")


KILLED = """
    import os, pathlib, sys, time
    from segcal.data.files.journal import Scratch, atomic
    place = pathlib.Path({place!r})
    with Scratch(0) as scratch, atomic(place / "out.npz") as temporary:
        scratch.path().write_bytes(b"rows")
        temporary.write_bytes(b"half")
        print("begun", flush=True)
        {end}
"""


def begun(tmp_path: Path, end: str) -> subprocess.Popen[str]:
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    code = textwrap.dedent(KILLED.format(place=str(tmp_path / "out"), end=end))
    (tmp_path / "out").mkdir(exist_ok=True)
    running = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "SEGCAL_SCRATCH": str(scratch)},
    )
    assert running.stdout is not None and running.stdout.readline() == "begun\n"
    return running


def test_what_a_killed_process_left_is_removed_and_what_a_live_one_holds_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGCAL_SCRATCH", str(tmp_path / "scratch"))
    with begun(tmp_path, "os.kill(os.getpid(), 9)"):
        pass
    with begun(tmp_path, "sys.stdin.read()") as live:
        assert len(list((tmp_path / "out").iterdir())) == 1  # the live one has removed what the dead one left
        (tmp_path / "out" / ".segcal-somebody-else").mkdir()
        held = sorted(p for folder in ("out", "scratch") for p in (tmp_path / folder).rglob("*"))
        with Scratch(0) as scratch, atomic(tmp_path / "out" / "mine") as temporary:
            scratch.path().touch()
            temporary.touch()
            assert all(path.exists() for path in held)
        assert live.stdin is not None
        live.stdin.close()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [".segcal-somebody-else", "mine", "out.npz"]
    assert list((tmp_path / "scratch").iterdir()) == []
