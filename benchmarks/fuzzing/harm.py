"""Ways to harm a valid file: `harm(file, rng)` does one, of its own format or of any, and returns its name.

Nothing is written through a library whose threads would outlive it: the parent of all forks stays as it was.
"""

from __future__ import annotations

import os
import socket
import zipfile
from pathlib import Path

from .formats import (
    Harm,
    Rng,
    in_calibrator,
    in_json,
    in_nifti,
    in_npy,
    in_npz,
    in_pickle,
    in_picture,
    in_table,
    in_yaml,
)
from .values import pick

MOST = 1 << 20
"""Bytes that are read of a file: one may have been made very long."""


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MOST)


# any file ------------------------------------------------------------------------------------------------------------


def truncated(path: Path, rng: Rng) -> None:
    """Cut off somewhere."""
    data = _content(path)
    path.write_bytes(data[: int(rng.integers(len(data) + 1))])


def empty(path: Path, rng: Rng) -> None:
    """Nothing left."""
    path.write_bytes(b"")


def bit_flips(path: Path, rng: Rng) -> None:
    """Some bits turned, mostly near the beginning, where headers lie."""
    data = bytearray(_content(path))
    for _ in range(int(rng.integers(1, 12))):
        if data:
            end = len(data) if rng.random() < 0.5 else min(len(data), 200)
            data[int(rng.integers(end))] ^= 1 << int(rng.integers(8))
    path.write_bytes(bytes(data))


def random_bytes(path: Path, rng: Rng) -> None:
    """Noise."""
    path.write_bytes(rng.bytes(int(rng.integers(1, 3000))))


def appended(path: Path, rng: Rng) -> None:
    """More after the end."""
    with path.open("ab") as file:
        file.write(pick(rng, [b"\0" * 1000, b"garbage", _content(path), b"\xff\xfe"]))


def slice_overwritten(path: Path, rng: Rng) -> None:
    """A stretch of zeros or ones in the middle."""
    data = bytearray(_content(path))
    start = int(rng.integers(len(data) + 1))
    data[start : start + 16] = pick(rng, [b"\0", b"\xff", b"\x80", b"9"]) * 16
    path.write_bytes(bytes(data))


def another_format(path: Path, rng: Rng) -> None:
    """The content of some other file."""
    others = sorted(p for p in path.parents[1].rglob("*") if p.is_file() and not p.is_symlink() and p.suffix)
    if others:
        path.write_bytes(_content(pick(rng, others)))


# what is no regular file ---------------------------------------------------------------------------------------------


def fifo(path: Path, rng: Rng) -> None:
    """A pipe nobody writes to."""
    path.unlink()
    os.mkfifo(path)


def link(path: Path, rng: Rng) -> None:
    """A link: to nothing, to itself, to a device that never ends, to a folder, to another file."""
    target = pick(rng, ["nothing", path.name, "/dev/zero", "/dev/tty", "..", "/proc/self/mem", "/proc/kmsg"])
    path.unlink()
    path.symlink_to(target)


def unix_socket(path: Path, rng: Rng) -> None:
    """A socket."""
    path.unlink()
    if len(os.fsencode(path)) < 100:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(os.fspath(path))


def folder(path: Path, rng: Rng) -> None:
    """A folder under the file's name."""
    path.unlink()
    path.mkdir()


def removed(path: Path, rng: Rng) -> None:
    """Not there."""
    path.unlink()


def unreadable(path: Path, rng: Rng) -> None:
    """No permission to read."""
    path.chmod(0)


def folder_closed(path: Path, rng: Rng) -> None:
    """No permission to list, enter or write its folder."""
    path.parent.chmod(pick(rng, [0, 0o400, 0o100, 0o500]))


def sparse(path: Path, rng: Rng) -> None:
    """A gigabyte of hole after the content: what reads a whole file (for its digest) takes a second for it."""
    os.truncate(path, 1 << 30)


def deep(path: Path, rng: Rng) -> None:
    """At the end of a long chain of folders."""
    chain = path.parent
    for _ in range(60):
        chain = chain / "d"
    chain.mkdir(parents=True)
    path.rename(chain / path.name)


def endings(path: Path, rng: Rng) -> None:
    """Another ending, or another case of letters."""
    new = pick(
        rng, [path.name.upper(), path.stem, path.name + ".gz", path.name + ".npz", path.stem + ".npy", path.name + " "]
    )
    path.rename(path.with_name(new))


def twin(path: Path, rng: Rng) -> None:
    """The same once more under another name or ending."""
    new = path.with_name(pick(rng, [path.stem + ".npy", path.stem + ".nii.gz", "copy" + path.suffix, path.name + "~"]))
    if not new.exists():
        new.write_bytes(_content(path))


ANY: tuple[Harm, ...] = (
    truncated,
    empty,
    bit_flips,
    random_bytes,
    appended,
    slice_overwritten,
    another_format,
    fifo,
    link,
    unix_socket,
    folder,
    removed,
    unreadable,
    folder_closed,
    sparse,
    deep,
    endings,
    twin,
)


BY_ENDING: tuple[tuple[str, Harm], ...] = (
    (".npz", in_npz),
    (".npy", in_npy),
    (".json", in_json),
    (".pkl", in_pickle),
    (".yaml", in_yaml),
    (".nii.gz", in_nifti),
    (".nii", in_nifti),
    (".png", in_picture),
    (".tif", in_picture),
    (".csv", in_table),
    (".safetensors", in_calibrator),
)


def harm(path: Path, rng: Rng, before: bool) -> str:
    """Harm the file in one way that suits its format, or any file; returns what was done.

    `before`: it was harmed before, and may not be what its name says.
    """
    own = next((h for ending, h in BY_ENDING if path.name.endswith(ending)), None)
    chosen: Harm = own if own is not None and not before and rng.random() < 0.6 else pick(rng, ANY)
    name = chosen.__name__.replace("in_", "inside ")
    try:
        chosen(path, rng)
    except (ValueError, LookupError, OSError, EOFError, RecursionError, zipfile.BadZipFile):
        return f"{name}, of what another harm had broken"  # it lay behind a link, or under two names
    return name
