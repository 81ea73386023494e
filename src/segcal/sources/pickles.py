"""The properties that nnU-Net pickles beside a prediction (.pkl), read without running anything.

Promises: no object named in the file is ever looked up or called. Built-in containers, numbers and strings are taken;
NumPy scalars and arrays become Python numbers and nested lists; everything else raises UnsafeFileError naming the file
and what it asked for. A file over `LIMIT` bytes, or one whose instructions could fill the memory, is refused too. What
is returned is plain Python.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from segcal.errors import SegcalError, UnreadableError, UnsafeFileError
from segcal.sources.raw import readable

LIMIT = 16 << 20
"""Largest .pkl read, in bytes; nnU-Net's have about a thousand."""

_DO = (
    "Do not open it with anything else either. Predict the case again, or delete the .pkl if its crop box and spacing"
    " are not needed."
)
_REFUSED = {
    "INST",
    "OBJ",
    "NEWOBJ",
    "NEWOBJ_EX",
    "EXT1",
    "EXT2",
    "EXT4",
    "PERSID",
    "BINPERSID",
    "NEXT_BUFFER",
    "READONLY_BUFFER",
}
_MULTIARRAY = {f"{package}.multiarray" for package in ("numpy.core", "numpy._core")}
_NUMERIC = {f"{package}.numeric" for package in ("numpy.core", "numpy._core")}
_DTYPE_LETTERS = set("?bBhHiIlLqQefdgSUuc0123456789<>=|")


def load(path: Path) -> dict[str, Any]:
    """The dictionary in `path`. Raises MissingError, UnreadableError or UnsafeFileError."""
    with readable(path):
        size = path.stat().st_size
        if size > LIMIT:
            raise UnsafeFileError(
                str(path),
                found=f"{size} bytes",
                expected=f"at most {LIMIT}",
                do="This is not a properties file of nnU-Net.",
            )
        data = path.read_bytes()
        _check(data, str(path))
        value = _Plain().convert(_Unpickler(data, str(path)).load_all())
    if not isinstance(value, dict):
        raise UnreadableError(
            str(path),
            found=f"a {type(value).__name__}",
            expected="the dictionary of properties that nnU-Net writes",
            do="Predict this case again.",
        )
    return value


def _check(data: bytes, where: str) -> None:
    """Go through the instructions without following them."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in _REFUSED:
            raise UnsafeFileError(
                where,
                found=f"the instruction {opcode.name}, which makes objects",
                expected="numbers, strings and containers",
                do=_DO,
            )
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(str(argument)) > len(data):
            raise UnsafeFileError(
                where,
                found=f"room asked for {argument} objects by {len(data)} bytes",
                expected="numbers, strings and containers",
                do=_DO,
            )


class _Dtype:
    """Stands for numpy.dtype while a file is read."""

    def __init__(self, name: object, *_: object) -> None:
        if not isinstance(name, str) or len(name) > 8 or not set(name) <= _DTYPE_LETTERS:
            raise ValueError(f"the type {str(name)[:40]!r}")
        self.name, self.swapped = name, False

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.swapped = {"<": "little", ">": "big"}.get(state[1], sys.byteorder) != sys.byteorder

    def values(self, data: bytes) -> Any:
        kind = np.dtype(self.name)
        kind = kind.newbyteorder("S") if self.swapped else kind
        if kind.hasobject or not kind.itemsize:
            raise ValueError(f"the type {self.name!r}")
        return np.frombuffer(data, kind)


class _Array:
    """Stands for a numpy.ndarray while a file is read."""

    value: Any = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self.fill(data, dtype, shape, "F" if fortran else "C")

    def fill(self, data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray) or math.prod(shape) > len(data):
            raise ValueError("an array that is not plain numbers")
        self.value = dtype.values(bytes(data)).reshape(shape, order="F" if order == "F" else "C").tolist()
        return self


def _scalar(dtype: Any, data: Any) -> Any:
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
        raise TypeError("a scalar that is not a plain number")
    return dtype.values(data)[0].item()


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    return _Array().fill(data, dtype, shape, order)


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("an encoded string")
    return text.encode("latin1")


class _StandIn:
    """What a file gets for a name it may use: something to call, whose state it cannot set."""

    __slots__ = ("_run",)

    def __init__(self, run: Callable[..., Any] | None = None) -> None:
        self._run = run

    def __call__(self, *arguments: Any) -> Any:
        if self._run is None:
            raise ValueError("a call of a type")
        return self._run(*arguments)

    def __setstate__(self, _: object) -> None:
        raise ValueError("a function whose state is set")


def _known(module: str, name: str) -> _StandIn | None:
    """What stands for a global that a properties file may name, or None."""
    if module in _MULTIARRAY:
        module = "multiarray"
    elif module in _NUMERIC:
        module = "numeric"
    run: dict[tuple[str, str], Callable[..., Any] | None] = {
        ("multiarray", "scalar"): _scalar,
        ("multiarray", "_reconstruct"): _reconstruct,
        ("numeric", "_frombuffer"): _frombuffer,
        ("numpy", "dtype"): _Dtype,
        ("numpy", "ndarray"): None,
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): _encode,
    }
    return _StandIn(run[module, name]) if (module, name) in run else None


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, where: str) -> None:
        super().__init__(io.BytesIO(data))
        self._where = where

    def find_class(self, module: str, name: str) -> Any:
        found = _known(module, name)
        if found is None:
            raise UnsafeFileError(
                self._where, found=f"a request for {module}.{name}", expected="numbers, strings and containers", do=_DO
            )
        return found

    def load_all(self) -> Any:
        try:
            return self.load()
        except SegcalError:
            raise
        except Exception as error:  # a hostile file may provoke any
            raise ValueError(str(error)) from error


class _Plain:
    """Turns stand-ins into plain Python; what is referred to twice is converted once."""

    def __init__(self) -> None:
        self._done: dict[int, Any] = {}
        self._depth = 0

    def convert(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float | complex | str | bytes):
            return value
        if id(value) in self._done:
            return self._done[id(value)]
        self._depth += 1
        if self._depth > 64:
            raise ValueError("containers nested too deeply")
        made = self._container(value)
        self._depth -= 1
        self._done[id(value)] = made
        return made

    def _container(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self.convert(k): self.convert(v) for k, v in value.items()}
        if isinstance(value, list):
            return [self.convert(v) for v in value]
        if isinstance(value, tuple):
            return tuple(self.convert(v) for v in value)
        if isinstance(value, set | frozenset):
            return {self.convert(v) for v in value}
        if isinstance(value, _Array):
            return value.value
        raise ValueError(f"a {type(value).__name__}")
