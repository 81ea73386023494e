"""Files that are either complete or absent, scratch space that cleans up after itself, and digests.

`atomic(path)` hands out a temporary path in a hidden folder beside the target and renames it when the block ends
without an error; on any error, an interruption included, the temporary file is removed. A full disk becomes an
OutputError that says so.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from segcal.errors import OutputError


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path of the same name beside `path` (whose folder is made if missing); rename it to `path` on
    success, remove it on failure.

    Raises OutputError for a full disk, a read-only folder or a missing permission.
    """
    target = Path(path)
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        # a folder of its own: readers of the target's folder (nnU-Net lists it by ending) never see half a file, not
        # even after a kill,
        # and the name stays whole, since writers such as nibabel and Pillow choose the format by it
        aside = Path(tempfile.mkdtemp(prefix=".segcal-", dir=target.parent))
    temporary = aside / target.name
    try:
        with explained(target):
            yield temporary
            if temporary.is_file():
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
            elif target.is_dir():
                shutil.rmtree(target)
            os.replace(temporary, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


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
            shutil.rmtree(self._folder, ignore_errors=True)
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
                    self._folder = Path(tempfile.mkdtemp(prefix="segcal-", dir=base))
            self._count += 1
            return self._folder / f"{self._count}-{name}"


def digest(*parts: bytes) -> str:
    """A hex digest (BLAKE2b, 16 bytes) of byte strings, in order."""
    h = hashlib.blake2b(digest_size=16)
    for part in parts:
        h.update(part)
    return h.hexdigest()
