"""Files read within bounds: what a file makes is limited before it is made.

Promises: nothing but a regular file (or a folder, where one is wanted) is ever opened, so no FIFO can hang and no
device can fill the memory; links are followed. A small file that describes others (JSON, YAML, a table, a pickle) has
at most `BYTES` bytes, makes at most `VALUES` values, and nests at most `DEPTH` deep; what is beyond that is an
UnsafeFileError, raised before the values exist. What libraries and the operating system say about a damaged file
becomes an error that names it. `shown` puts a value from a file into a message in a few words, whatever it holds.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from segcal.errors import MissingError, UnreadableError, UnsafeFileError

BYTES = 16 << 20
"""Most bytes read of a small file that describes others."""

VALUES = 200_000
"""Most values (numbers, strings, lists, entries) that such a file makes."""

DEPTH = 64
"""Deepest nesting of containers in such a file."""

PACKED = 1 << 16
"""Packed bytes that are read at once."""

WIDTH = 6
"""Entries of a container, and levels of nesting less three, that `shown` tells."""

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def regular(path: Path, *, folder: bool = False) -> None:
    """Raise UnreadableError unless `path` is a regular file, or with `folder` a folder, links followed.

    Nothing there: MissingError.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingError(str(path), found="no such file", expected="a file", do="Check the path.") from error
    if stat.S_ISREG(mode) or (folder and stat.S_ISDIR(mode)):
        return
    raise UnreadableError(
        str(path),
        found=next((name for is_kind, name in _KINDS if is_kind(mode)), "something that is no file"),
        expected="a folder" if folder else "a regular file",
        do="Name a file on the disk: pipes, sockets and devices are never read.",
    )


@contextlib.contextmanager
def readable(path: Path, *, folder: bool = False) -> Iterator[None]:
    """Turn what libraries and the operating system say about a file into MissingError or UnreadableError naming `path`;
    errors of segcal pass.

    Raises, before anything is opened, what `regular` raises.
    """
    try:
        regular(path, folder=folder)
        yield
    except FileNotFoundError as error:
        raise MissingError(str(path), found="no such file", expected="a file", do="Check the path.") from error
    except PermissionError as error:
        raise UnreadableError(
            str(path),
            found="no permission to read it",
            expected="a file that may be read",
            do="Ask its owner, or change its permissions (chmod).",
        ) from error
    except NotADirectoryError as error:
        raise UnreadableError(str(path), found="a file", expected="a folder", do="Check the path.") from error
    except (
        OSError,
        EOFError,
        ArithmeticError,
        AttributeError,
        LookupError,
        NotImplementedError,
        RuntimeError,
        SyntaxError,
        TypeError,
        ValueError,
        struct.error,
        zlib.error,
        zipfile.BadZipFile,
    ) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UnreadableError(
            str(path),
            found=f"a file that cannot be read ({reason})",
            expected=f"a complete {''.join(path.suffixes[-2:]) if path.name.endswith('.gz') else path.suffix} file",
            do="It may be truncated or damaged: copy or predict this case again.",
        ) from error


@contextlib.contextmanager
def unpacked(path: Path) -> Iterator[Unpacked | io.BufferedReader]:
    """The bytes of a file, unpacked if its name ends in .gz."""
    with path.open("rb") as file:
        yield Unpacked(file) if path.name.lower().endswith(".gz") else file


class Unpacked:
    """A gzip file, member after member, each with its checksum; whatever lies behind the last one is not looked at.

    Python's own reader looks through what follows a byte at a time: a gigabyte of zeros takes it minutes.
    """

    def __init__(self, file: io.BufferedReader) -> None:
        self._file, self._stream, self._ended = file, zlib.decompressobj(31), False

    def read(self, count: int, /) -> bytes:
        """At most `count` bytes; none at the end.

        EOFError where a member ends early, zlib.error where it is damaged.
        """
        out = b""
        while len(out) < count and not self._ended:
            data = self._stream.unconsumed_tail or self._stream.unused_data
            if len(data) < 2:
                data += self._file.read(PACKED)
            if self._stream.eof:
                self._ended = data[:2] != b"\x1f\x8b"
                self._stream = zlib.decompressobj(31)
                if self._ended:
                    break
            elif not data:
                raise EOFError("packed data that end early")
            out += self._stream.decompress(data, count - len(out))
        return out


def content(path: Path, limit: int = BYTES) -> bytes:
    """All bytes of a small file. Raises MissingError, UnreadableError, or UnsafeFileError for more than `limit`."""
    with readable(path), path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise too_much(path, f"{path.stat().st_size} bytes", f"at most {limit}")
    return data


def json_value(text: str | bytes, where: Path, values: int = VALUES) -> Any:
    """What a JSON text makes: at most `values` values, counted by what separates them before any is made.

    Raises UnsafeFileError for more, UnreadableError for what is no JSON or nests too deeply.
    """
    kinds: Iterable[Any] = (b",", b"[", b"{") if isinstance(text, bytes) else (",", "[", "{")
    count = 1 + sum(text.count(kind) for kind in kinds)
    if count > values:
        raise too_much(where, f"JSON of about {count} values", f"at most {values}")
    with readable(where):
        value = json.loads(text)
        _flat_enough(value)
    return value


def json_object(path: Path, do: str) -> dict[str, Any]:
    """The object in a small JSON file. Raises what `content` and `json_value` do; UnreadableError with the advice `do`
    for what is no object.
    """
    value = json_value(content(path), path)
    if not isinstance(value, dict):
        raise UnreadableError(str(path), found=f"a {type(value).__name__}", expected="a JSON object", do=do)
    return value


def _flat_enough(value: Any) -> None:
    level = [value]
    for _ in range(DEPTH):
        level = [inner for v in level for inner in _inside(v)]
        if not level:
            return
    raise ValueError(f"nested more than {DEPTH} levels deep")


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def too_much(path: Path, found: str, expected: str) -> UnsafeFileError:
    """The error about a small file that holds, or would make, more than it may."""
    return UnsafeFileError(
        str(path), found=found, expected=expected, do="This is not the file it seems; do not use it."
    )


def shown(value: object, length: int = 120) -> str:
    """A value from a file as part of a message: at most `length` characters, of a container its first entries."""
    text = _shown(value, 3)
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _shown(value: object, depth: int) -> str:
    if isinstance(value, str | bytes):
        return repr(value[:80])
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 64:
        return f"an integer of {value.bit_length()} bits"
    if value is None or isinstance(value, bool | int | float | complex):
        return repr(value)
    if not isinstance(value, Mapping | list | tuple | set | frozenset):
        return f"a {type(value).__name__}"
    if isinstance(value, Mapping):
        inner = (f"{_shown(k, depth - 1)}: {_shown(v, depth - 1)}" for k, v in value.items())
    else:
        inner = (_shown(v, depth - 1) for v in value)
    first = list(islice(inner, WIDTH)) if depth else []
    joined = ", ".join([*first, "..."] if len(value) > len(first) else first)
    if isinstance(value, tuple):
        return f"({joined},)" if len(value) == 1 else f"({joined})"
    return f"[{joined}]" if isinstance(value, list) else f"{{{joined}}}"


def entries(folder: Path) -> list[Path]:
    """What lies in a folder, sorted by name, hidden files left out. MissingError or UnreadableError for the folder."""
    with readable(folder, folder=True):
        return sorted(p for p in folder.iterdir() if not p.name.startswith("."))


def check_there(path: Path, expected: str, do: str = "Check the path.") -> None:
    """MissingError for a path that a user named and that is not there."""
    if not path.exists():
        raise MissingError(str(path), found="no such file or folder", expected=expected, do=do)


def listed(path: Path) -> bool:
    """Whether a folder has an entry of this name, be it a file, a broken link or something that cannot be read."""
    return os.path.lexists(path)
