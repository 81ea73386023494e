"""Files that are either complete or absent, scratch space that cleans up after itself, and digests.

`atomic(path)` hands out a temporary path in a hidden folder beside the target and renames it when the block ends
without an error; `placed(paths)` does so for several files, all of them or none. On any error, an interruption
included, the temporary files are removed. What is no regular file (a device, a pipe, a socket, a link to one) is never
replaced; a link to a file stays, and the file behind it is replaced. A full disk becomes an OutputError that says so.

The process holds a lock on each temporary folder as long as it lives, however it ends: what a killed one left is
removed by the next that writes there on the same machine (`sweep`), and nobody touches what is in use. `abandon` is for
a process that has to end at once: it removes all temporary folders and lets no file be put in place any more.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import platform
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

from segcal.errors import OutputError

BOOT = Path("/proc/sys/kernel/random/boot_id")
"""What tells one running system from another, so that folders of other machines on a shared disk are left alone."""

_PLACING = threading.RLock()
"""Held while temporary folders are made and finished files put in place, and for ever once the process must end."""

_HELD: dict[Path, int] = {}
"""Temporary folders of this process, and the open file that holds the lock of each."""

_SWEPT: set[tuple[Path, str]] = set()
"""Where this process has looked for what dead ones left."""


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path of the same name beside `path` (whose folder is made if missing); rename it to `path` on
    success, remove it on failure.

    Raises OutputError for a full disk, a read-only folder or a missing permission, and where `path` is no regular file;
    a folder is replaced by a folder only.
    """
    with placed([Path(path)]) as (temporary,):
        yield temporary


@contextlib.contextmanager
def placed(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield a temporary path for each target; when the block ends without an error all are flushed to the disk and then
    renamed to their targets, after an error none is.

    Folders that were made for them are removed again after an error. No target: nothing happens. Raises as `atomic`.
    """
    targets = [placeable(path) for path in paths]
    made = sorted({p for t in targets for p in t.parents if not p.exists()}, key=lambda p: len(p.parts), reverse=True)
    asides: list[Path] = []
    try:
        for path, target in zip(paths, targets, strict=True):
            with explained(path), _PLACING:
                target.parent.mkdir(parents=True, exist_ok=True)
                # a folder of its own: readers of the target's folder (nnU-Net lists it by ending) never see half a
                # file, not even after a kill, and the name stays whole, since writers such as nibabel and Pillow choose
                # the format by it
                asides.append(_hold(target.parent, ".segcal-"))
        temporaries = [aside / path.name for aside, path in zip(asides, paths, strict=True)]
        try:
            yield temporaries
            for temporary in temporaries:
                _flush(temporary)
        except OSError as error:
            names = [path for path, part in zip(paths, temporaries, strict=True) if str(part) == str(error.filename)]
            with explained((names or list(paths))[0]):
                raise
        _place(paths, targets, temporaries)
    except BaseException:
        for aside in asides:
            _let_go(aside)
        for folder in made:
            with contextlib.suppress(OSError), _PLACING:  # somebody else has files there
                folder.rmdir()
        raise
    for aside in asides:
        _let_go(aside)


def placeable(path: Path) -> Path:
    """Where a file written to `path` goes: `path` itself, or what it is a link to. OutputError if that is neither a
    file nor a folder nor nothing.
    """
    with explained(path):
        try:
            mode = os.stat(path).st_mode
        except FileNotFoundError:
            mode = stat.S_IFREG
    streams = ("/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or os.path.abspath(path).startswith(streams):
        raise OutputError(
            str(path),
            found=next(
                (name for is_one, name in _KINDS.items() if is_one(mode)),
                "a stream, not a file of its own",
            ),
            expected="a regular file, or nothing, there",
            do="Name a file. To print JSON instead, use --json - (standard output).",
        )
    return Path(os.path.realpath(path)) if path.is_symlink() else path


_KINDS = {
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


def sweep(folder: Path, prefix: str = ".segcal-") -> None:
    """Remove the temporary folders that dead processes of this machine left in `folder`; once a process and folder.

    No such folder, or no permission: nothing happens.
    """
    if (folder, prefix) in _SWEPT:
        return
    _SWEPT.add((folder, prefix))
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        for entry in os.scandir(folder):
            if not entry.name.startswith(f"{prefix}{_machine()}-") or not entry.is_dir(follow_symlinks=False):
                continue
            with contextlib.suppress(OSError):  # somebody holds it, or has removed it meanwhile
                held = _lock(Path(entry.path))
                try:
                    shutil.rmtree(entry.path, ignore_errors=True)
                finally:
                    os.close(held)


def abandon() -> None:
    """Remove all temporary folders of this process, which can put no file in place after this: it has to end now."""
    _PLACING.acquire()
    for folder in list(_HELD):
        shutil.rmtree(folder, ignore_errors=True)


@cache
def _machine() -> str:
    name = BOOT.read_bytes() if BOOT.is_file() else platform.node().encode()
    return digest(name)[:8]


def _lock(folder: Path) -> int:
    """The open folder, locked. OSError if another process holds it."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(opened)
        raise
    return opened


def _hold(parent: Path, prefix: str) -> Path:
    """A new temporary folder, held by this process."""
    sweep(parent, prefix)
    with _PLACING:
        while True:
            folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{_machine()}-", dir=parent))
            with contextlib.suppress(BlockingIOError, FileNotFoundError):  # swept before it was held
                held = _lock(folder)
                if folder.exists():
                    _HELD[folder] = held
                    return folder
                os.close(held)


def _let_go(folder: Path) -> None:
    """Remove a temporary folder of this process, if it is still there."""
    if folder in _HELD:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(_HELD.pop(folder))


def _flush(temporary: Path) -> None:
    if temporary.is_file():
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())


def _place(paths: Sequence[Path], targets: Sequence[Path], temporaries: Sequence[Path]) -> None:
    """Rename all; should one fail, remove those that are in place already."""
    done: list[Path] = []
    with _PLACING:
        try:
            for path, target, temporary in zip(paths, targets, temporaries, strict=True):
                with explained(path):
                    if target.is_dir() and temporary.is_dir():
                        os.replace(target, temporary.with_name(f"{temporary.name}.before"))
                    os.replace(temporary, target)
                done.append(target)
        except BaseException:
            for target in done:
                shutil.rmtree(target) if target.is_dir() else target.unlink()
            raise


@contextlib.contextmanager
def explained(target: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write into OutputError; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC or error.errno == errno.EDQUOT:
            raise OutputError(
                str(target),
                found="no space left on the disk",
                expected="room for the output",
                do="Free some space or choose another folder; nothing partial was left behind.",
            ) from error
        if error.errno in (
            errno.EACCES,
            errno.EPERM,
            errno.EROFS,
            errno.ENOTDIR,
            errno.EISDIR,
            errno.EEXIST,
            errno.EFBIG,
            errno.ENAMETOOLONG,
            errno.ELOOP,
        ):
            raise OutputError(
                str(target),
                found=os.strerror(error.errno),
                expected="a place that can be written to",
                do="Choose another output path.",
            ) from error
        raise


class Scratch:
    """A budget of memory and a temporary folder, removed when the block ends.

    `limit` is what one reader may hold in memory, in bytes; what is larger is unpacked to a file in `folder`
    (`SEGCAL_SCRATCH`, else the system's temporary folder) and read by windows.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._folder: Path | None = None
        self._lock = threading.Lock()
        self._count = 0

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            _let_go(self._folder)
            self._folder = None

    def path(self, name: str = "") -> Path:
        """A path for a new file, used by nobody else."""
        with self._lock:
            if self._folder is None:
                base = os.environ.get("SEGCAL_SCRATCH") or tempfile.gettempdir()
                if not Path(base).is_dir():
                    raise OutputError(
                        base,
                        found="no folder",
                        expected="a folder for temporary files",
                        do="Make it, or name another in the environment variable SEGCAL_SCRATCH.",
                    )
                with explained(Path(base)):
                    self._folder = _hold(Path(base), "segcal-")
            self._count += 1
            return self._folder / f"{self._count}-{name}"


Identity = tuple[int, int]
"""Device and inode: two paths with the same are one file, whatever it is called."""


def identity(path: Path) -> Identity | None:
    """What `path` is, links followed; None for nothing."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def identities(paths: Iterable[Path]) -> set[Identity]:
    """What there is of `paths`."""
    return {found for path in paths if (found := identity(path)) is not None}


def digest(*parts: bytes) -> str:
    """A hex digest (BLAKE2b, 16 bytes) of byte strings, in order."""
    h = hashlib.blake2b(digest_size=16)
    for part in parts:
        h.update(part)
    return h.hexdigest()


def digest_files(paths: Sequence[Path]) -> str:
    """A hex digest of the content of files, in order; of a folder, that of all files in it, with their names."""
    h = hashlib.blake2b(digest_size=16)
    for path in paths:
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in inside:
            name = str(file.relative_to(path)).encode("utf-8", "surrogateescape")
            h.update(b"%d %d " % (len(name), file.stat().st_size) + name)
            with file.open("rb") as opened:
                while piece := opened.read(1 << 20):
                    h.update(piece)
        h.update(b";")
    return h.hexdigest()
