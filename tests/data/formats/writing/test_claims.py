"""What may be written over, and what never: by what it is, not by what it is called."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from segcal.data.files import claims, journal
from segcal.data.files.claims import CASES, RESULT, claim, claim_folder
from segcal.errors import OutputError, UsageError

OWN = b'{\n "segcal": "0.1.0",\n "cases": 3}\n'


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of an input and one of outputs."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.npz").write_bytes(b"scores")
    (tmp_path / "out").mkdir()
    return tmp_path


def other(path: Path, kind: str) -> None:
    """Something at `path` that is no regular file, made by this test."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to a pipe":
        os.mkfifo(path.with_name("behind"))
        path.symlink_to(path.with_name("behind"))
    elif kind == "loop":
        path.symlink_to(path)
    else:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "socket", "loop"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_regular_file_is_never_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, overwrite: bool
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    path = Path("out.json")
    other(path, kind)
    before = os.lstat(path)
    with pytest.raises(OutputError):
        claim([(path, RESULT)], overwrite=overwrite)
    with pytest.raises(OutputError), journal.atomic(path) as temporary:
        temporary.write_bytes(OWN)
    after = os.lstat(path)
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)


def test_nor_is_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = tmp_path / "null", os.stat

    def device(asked: Path, **more: bool) -> os.stat_result:
        found = real(path.parent if Path(asked) == path else asked, **more)
        return os.stat_result((stat.S_IFCHR | 0o666, *found[1:])) if Path(asked) == path else found

    monkeypatch.setattr(journal.os, "stat", device)
    with pytest.raises(OutputError, match="found a device"):
        claim([(path, RESULT)], overwrite=True)


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_a_stream_is_told_apart_from_a_file(path: str) -> None:
    with pytest.raises(OutputError, match=r"use --json -"):
        claim([(Path(path), RESULT)], overwrite=True)


@pytest.mark.parametrize("link", ["symbolic", "hard", "of the folder", "none"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_input_is_never_written_over(place: Path, link: str, overwrite: bool) -> None:
    read = place / "in" / "a.npz"
    path = place / "out" / "result.json"
    if link == "symbolic":
        path.symlink_to(read)
    elif link == "hard":
        path.hardlink_to(read)
    elif link == "of the folder":
        (place / "again").symlink_to(place / "in")
        path = place / "again" / "a.npz"
    else:
        path = read
    with pytest.raises(UsageError, match="also an input"):
        claim([(path, RESULT)], [read], overwrite=overwrite)
    assert read.read_bytes() == b"scores"


def test_a_file_beside_inputs_is_never_written_over_but_a_new_one_may_be_there(place: Path) -> None:
    (place / "in" / "plans.json").write_text("{}")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="a folder that is read from"):
            claim([(place / "in" / "plans.json", RESULT)], [place / "in"], overwrite=overwrite)
    claim([(place / "in" / "check.json", RESULT)], [place / "in"])


def test_an_own_earlier_output_is_replaced_and_anything_else_on_demand(place: Path) -> None:
    path = place / "out" / "r.json"
    for own in (OWN, b""):
        path.write_bytes(own)
        claim([(path, RESULT)])
        if own:
            with pytest.raises(OutputError, match="--overwrite"):
                claim([(path, CASES)])
    path.write_text('{"cases": 3}')
    with pytest.raises(OutputError, match="--overwrite"):
        claim([(path, RESULT)])
    claim([(path, RESULT)], overwrite=True)
    path.unlink()
    path.mkdir()
    with pytest.raises(OutputError, match="a folder"):
        claim([(path, RESULT)], overwrite=True)


def test_two_outputs_are_two_files(place: Path) -> None:
    (place / "link.csv").symlink_to(place / "out" / "r.json")
    with pytest.raises(UsageError, match="the same file as"):
        claim([(place / "out" / "r.json", RESULT), (place / "link.csv", CASES)])


def test_a_dash_is_no_file() -> None:
    with pytest.raises(UsageError, match="standard output"):
        claim([(Path("-"), CASES)])
    with pytest.raises(UsageError, match="'-'"):
        claim_folder(Path("-"), [])


def test_a_link_to_an_own_file_stays_a_link(place: Path) -> None:
    (place / "out" / "real.json").write_bytes(OWN)
    link = place / "r.json"
    link.symlink_to(place / "out" / "real.json")
    claim([(link, RESULT)])
    with journal.atomic(link) as temporary:
        temporary.write_bytes(b"new")
    assert link.is_symlink() and (place / "out" / "real.json").read_bytes() == b"new"


@pytest.mark.parametrize("folder", ["in", ".", "link", "in/../in"])
def test_a_folder_that_is_or_holds_what_is_read_is_no_place_for_outputs(place: Path, folder: str) -> None:
    (place / "link").symlink_to(place / "in")
    for read in (place / "in", place / "in" / "a.npz"):
        with pytest.raises(UsageError, match="read from"):
            claim_folder(place / folder, [read])
    claim_folder(place / "out", [place / "in"])
    claim_folder(place / "new" / "deep", [place / "in"])
    claim_folder(place / "in" / "new", [place / "in"])
    with pytest.raises(OutputError, match="no folder"):
        claim_folder(place / "in" / "a.npz", [])


def test_a_place_without_permission_is_said_before_any_work(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims.os, "access", lambda path, mode: False)
    with pytest.raises(OutputError, match="cannot be written to"):
        claim([(place / "out" / "r.json", RESULT)])
    with pytest.raises(OutputError, match="cannot be written to"):
        claim_folder(place / "new", [])
