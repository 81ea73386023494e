"""The properties that nnU-Net pickles beside a prediction (.pkl), read without running anything.

Promises: the instructions are followed by a small interpreter of our own, which knows numbers, strings, containers and
NumPy's scalars and arrays, and calls nothing that a file names: anything else raises UnsafeFileError naming the file
and what it asked for. It follows at most `INSTRUCTIONS` instructions, each makes at most one small value, and at most
`LIMIT` bytes of a file are held, so neither time nor memory can be asked for. What is returned is plain Python: NumPy
scalars become numbers, arrays nested lists. Of an array of more than `LISTED` numbers (the locations of each class in
validations, which grow with the image; the probabilities that `nnUNetv2_ensemble` wrote where the properties belong)
only the shape is kept: its bytes are passed over, however many. What is shared in the file is shared in the result.
"""

from __future__ import annotations

import math
import pickletools
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from segcal.data.files.reading import DEPTH, readable, shown, too_much
from segcal.errors import UnreadableError, UnsafeFileError

LIMIT = 16 << 20
"""Most bytes held of a .pkl; nnU-Net's have about a thousand beside arrays that are passed over."""

BLOCK = 1 << 16
"""Longest run of bytes held: `LISTED` of the widest numbers."""

INSTRUCTIONS = 100_000
"""Most instructions followed; nnU-Net's files have a few hundred, and a dozen a class."""

LISTED = 4_096
"""Largest array that becomes a list, in numbers; of a larger one only the shape is kept."""

KEYS = 1_000
"""Most entries of a dictionary or set."""

_DO = (
    "Do not open it with anything else either. Predict the case again, or delete the .pkl if its crop box and spacing"
    " are not needed."
)
_DTYPE_LETTERS = set("?bBhHiIlLqQefdgSUuc0123456789<>=|")
_LITERALS = {
    "INT",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG",
    "LONG1",
    "LONG4",
    "FLOAT",
    "BINFLOAT",
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
    "UNICODE",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "SHORT_BINBYTES",
}
_INSTRUCTIONS = {known.code.encode("latin-1"): known for known in pickletools.opcodes}
_BLOCKS = {"BINBYTES": 4, "BINBYTES8": 8, "BYTEARRAY8": 8}
"""Instructions that are followed by a run of bytes, and how many bytes say how long it is."""
_MARK = object()


def load(path: Path) -> dict[str, Any] | StoredArray:
    """The dictionary in `path`, or the shape of the array that is there instead.

    Raises MissingError, UnreadableError or UnsafeFileError.
    """
    with readable(path), path.open("rb") as file:
        made = _Machine(path).run(_Held(path, file))
        value = StoredArray(made.shape) if isinstance(made, _Array) else _Plain().convert(made)
    if not isinstance(value, dict | StoredArray):
        raise UnreadableError(
            str(path),
            found=f"a {type(value).__name__}",
            expected="the dictionary of properties that nnU-Net writes",
            do=(
                "Delete it if nnU-Net did not write it: the box in which the network looked is then found in the"
                " probabilities. Else predict this case again."
            ),
        )
    return value


@dataclass(frozen=True)
class StoredArray:
    """An array of more than `LISTED` numbers, or one in place of the properties: its shape alone."""

    shape: tuple[int, ...]


class _Held:
    """A file of which at most `LIMIT` bytes are read; runs of bytes longer than `BLOCK` are passed over."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path, self._file, self._held = path, file, 0
        self._size = path.stat().st_size

    def read(self, count: int, /) -> bytes:
        """The next bytes."""
        return self._counted(self._file.read(min(count, LIMIT - self._held + 1)))

    def readline(self) -> bytes:
        """The next line."""
        return self._counted(self._file.readline(LIMIT - self._held + 1))

    def _counted(self, data: bytes) -> bytes:
        self._held += len(data)
        if self._held > LIMIT:
            raise too_much(self._path, f"more than {LIMIT} bytes beside arrays", f"at most {LIMIT}")
        return data

    def block(self, width: int) -> bytes | _Block:
        """A run of bytes that begins with its length, in `width` bytes."""
        count = int.from_bytes(self.read(width), "little")
        if count <= BLOCK:
            return bytes(self.read(count))
        if count > self._size - self._file.tell():
            raise EOFError("it ends early")
        self._file.seek(count, 1)
        return _Block(count)

    def instructions(self) -> Iterator[tuple[str, Any]]:
        """Each instruction with its argument, up to the last."""
        while (code := self.read(1)) != b".":
            known = _INSTRUCTIONS[code]
            if known.name in _BLOCKS:
                yield known.name, self.block(_BLOCKS[known.name])
            else:
                yield known.name, None if known.arg is None else known.arg.reader(self)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Block:
    """A run of bytes that was passed over."""

    count: int

    def __len__(self) -> int:
        return self.count


class _Dtype:
    """Stands for a numpy.dtype."""

    def __init__(self, name: object, *_: object) -> None:
        if not isinstance(name, str) or len(name) > 8 or not set(name) <= _DTYPE_LETTERS:
            raise ValueError(f"the type {shown(name, 40)}")
        kind = np.dtype(name)
        if kind.hasobject or not kind.itemsize:
            raise ValueError(f"the type {name!r}")
        self.kind = kind

    def build(self, state: Any) -> None:
        swapped = {"<": "little", ">": "big"}.get(state[1], sys.byteorder) != sys.byteorder
        self.kind = self.kind.newbyteorder("S") if swapped else self.kind


class _Array:
    """Stands for a numpy.ndarray."""

    def __init__(self, *_: object) -> None:
        self.value: Any = ()
        self.shape: tuple[int, ...] = ()

    def build(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.fill(data, dtype, shape, "F" if fortran else "C")

    def fill(self, data: Any, dtype: Any, shape: Any, order: Any = "C") -> _Array:
        sizes = tuple(n for n in shape if isinstance(n, int) and n >= 0)
        if (
            not isinstance(dtype, _Dtype)
            or not isinstance(data, bytes | _Block)
            or len(sizes) != len(shape)
            or len(sizes) > 32
        ):
            raise ValueError("an array that is not plain numbers")
        count, left = divmod(len(data), dtype.kind.itemsize)
        if left or math.prod(sizes) != count:
            raise ValueError(f"an array of {count} numbers for another shape")
        self.shape = sizes
        if isinstance(data, _Block) or count > LISTED:
            self.value = StoredArray(sizes)
        elif not count:
            self.value = []
        else:
            self.value = np.frombuffer(data, dtype.kind).reshape(sizes, order="F" if order == "F" else "C").tolist()
        return self


def _scalar(dtype: Any, data: Any) -> Any:
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes) or len(data) != dtype.kind.itemsize:
        raise TypeError("a scalar that is not a plain number")
    return np.frombuffer(data, dtype.kind)[0].item()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("an encoded string")
    return text.encode("latin1")


def _uncallable(*_: object) -> Any:
    raise ValueError("a call of a type")


def _ordered(*pairs: Any) -> dict[Any, Any]:
    if pairs:
        raise ValueError("an ordered dictionary made of a list")
    return {}


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    return _Array().fill(data, dtype, shape, order)


_KNOWN: Mapping[tuple[str, str], Callable[..., Any]] = {
    **{
        (f"{package}.{module}", name): run
        for package in ("numpy.core", "numpy._core")
        for module, name, run in (
            ("multiarray", "scalar", _scalar),
            ("multiarray", "_reconstruct", _Array),
            ("numeric", "_frombuffer", _frombuffer),
        )
    },
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _uncallable,
    ("collections", "OrderedDict"): _ordered,
    ("_codecs", "encode"): _encode,
}
"""What stands for each name that a properties file may use."""


class _Named:
    """A name of `_KNOWN` on the stack."""

    def __init__(self, run: Callable[..., Any]) -> None:
        self.run = run


class _Machine:
    """The stack and the memory of one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, file: _Held) -> Any:
        """Follow the instructions up to the last, and return what they leave."""
        for count, (name, argument) in enumerate(file.instructions()):
            if count >= INSTRUCTIONS:
                raise too_much(self._path, f"more than {INSTRUCTIONS} instructions", "a few hundred, as nnU-Net writes")
            if name in _LITERALS or name in _BLOCKS:
                self._stack.append(_bounded(argument))
            elif name in _DO_BY_NAME:
                _DO_BY_NAME[name](self, argument)
            elif name not in ("PROTO", "FRAME"):
                raise self._unsafe(f"the instruction {name}, which makes objects")
        return self._stack.pop()

    def _unsafe(self, found: str) -> UnsafeFileError:
        return UnsafeFileError(str(self._path), found=found, expected="numbers, strings and containers", do=_DO)

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def mark(self) -> list[Any]:
        """What lies above the last mark, taken off with it."""
        start = len(self._stack) - 1
        while self._stack[start] is not _MARK:
            start -= 1
            if start < 0:
                raise ValueError("no mark")
        above = self._stack[start + 1 :]
        del self._stack[start:]
        return above

    def top(self, kind: type) -> Any:
        if not isinstance(self._stack[-1], kind):
            raise ValueError(f"entries for a {type(self._stack[-1]).__name__}")
        return self._stack[-1]

    def tuple_of(self, count: int) -> None:
        inner = tuple(self._stack[-count:])
        if len(inner) < count:
            raise ValueError("too few values")
        self._stack[-count:] = [inner]

    def extend(self, values: list[Any]) -> None:
        self.top(list).extend(values)

    def enter(self, values: list[Any]) -> None:
        target = self.top(dict)
        for key, value in _pairs(values):
            target[_key(key)] = value
            if len(target) > KEYS:
                raise too_much(self._path, f"a dictionary of more than {KEYS} entries", f"at most {KEYS}")

    def collect(self, values: list[Any]) -> None:
        target = self.top(set)
        for value in values:
            target.add(_key(value))
            if len(target) > KEYS:
                raise too_much(self._path, f"a set of more than {KEYS} entries", f"at most {KEYS}")

    def keep(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def memoize(self) -> None:
        self.keep(len(self._memo))

    def recall(self, index: int) -> None:
        self.push(self._memo[index])

    def named(self, module: object, name: object) -> None:
        found = _KNOWN.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
        if found is None:
            raise self._unsafe(f"a request for {str(module)[:80]}.{str(name)[:80]}")
        self.push(_Named(found))

    def reduce(self) -> None:
        arguments, called = self._stack.pop(), self._stack.pop()
        if not isinstance(called, _Named) or not isinstance(arguments, tuple):
            raise self._unsafe("a call of something that is no name")
        self.push(called.run(*arguments))

    def build(self) -> None:
        state, made = self._stack.pop(), self._stack[-1]
        if not isinstance(made, _Dtype | _Array) or not isinstance(state, tuple):
            raise self._unsafe(f"a {type(made).__name__} whose state is set")
        made.build(state)

    def put_dict(self, values: list[Any]) -> None:
        self.push({})
        self.enter(values)

    def put_set(self, values: list[Any]) -> None:
        self.push(set())
        self.collect(values)

    def pop(self) -> Any:
        return self._stack.pop()

    def duplicate(self) -> None:
        self.push(self._stack[-1])

    def last(self, count: int) -> list[Any]:
        return [self._stack.pop() for _ in range(count)][::-1]


_DO_BY_NAME: Mapping[str, Callable[[_Machine, Any], Any]] = {
    "NONE": lambda m, a: m.push(None),
    "NEWTRUE": lambda m, a: m.push(True),
    "NEWFALSE": lambda m, a: m.push(False),
    "MARK": lambda m, a: m.push(_MARK),
    "POP": lambda m, a: m.pop(),
    "POP_MARK": lambda m, a: m.mark(),
    "DUP": lambda m, a: m.duplicate(),
    "EMPTY_LIST": lambda m, a: m.push([]),
    "LIST": lambda m, a: m.push(m.mark()),
    "APPEND": lambda m, a: m.extend(m.last(1)),
    "APPENDS": lambda m, a: m.extend(m.mark()),
    "EMPTY_TUPLE": lambda m, a: m.push(()),
    "TUPLE": lambda m, a: m.push(tuple(m.mark())),
    "TUPLE1": lambda m, a: m.tuple_of(1),
    "TUPLE2": lambda m, a: m.tuple_of(2),
    "TUPLE3": lambda m, a: m.tuple_of(3),
    "EMPTY_DICT": lambda m, a: m.push({}),
    "DICT": lambda m, a: m.put_dict(m.mark()),
    "SETITEM": lambda m, a: m.enter(m.last(2)),
    "SETITEMS": lambda m, a: m.enter(m.mark()),
    "EMPTY_SET": lambda m, a: m.push(set()),
    "ADDITEMS": lambda m, a: m.collect(m.mark()),
    "FROZENSET": lambda m, a: m.put_set(m.mark()),
    "PUT": lambda m, a: m.keep(a),
    "BINPUT": lambda m, a: m.keep(a),
    "LONG_BINPUT": lambda m, a: m.keep(a),
    "MEMOIZE": lambda m, a: m.memoize(),
    "GET": lambda m, a: m.recall(a),
    "BINGET": lambda m, a: m.recall(a),
    "LONG_BINGET": lambda m, a: m.recall(a),
    "GLOBAL": lambda m, a: m.named(*a.split(" ", 1)),
    "STACK_GLOBAL": lambda m, a: m.named(*m.last(2)),
    "REDUCE": lambda m, a: m.reduce(),
    "BUILD": lambda m, a: m.build(),
}


def _bounded(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > 64:
        raise ValueError(shown(value))
    return value


def _pairs(values: list[Any]) -> Iterator[tuple[Any, Any]]:
    if len(values) % 2:
        raise ValueError("a key without a value")
    return zip(values[::2], values[1::2], strict=True)


def _key(value: Any) -> Any:
    """A value that may be a key: plain, or a short tuple of plain ones, since what nests takes its time to be looked
    up.
    """
    inside = value if isinstance(value, tuple) else (value,)
    if len(inside) > DEPTH or not all(v is None or isinstance(v, str | bytes | int | float) for v in inside):
        raise ValueError(f"a key that is {shown(value, 40)}")
    return value


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
        if self._depth > DEPTH:
            raise ValueError("containers nested too deeply")
        made = self._container(value)
        self._depth -= 1
        self._done[id(value)] = made
        return made

    def _container(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self.convert(v) for key, v in value.items()}
        if isinstance(value, list):
            return [self.convert(v) for v in value]
        if isinstance(value, tuple):
            return tuple(self.convert(v) for v in value)
        if isinstance(value, set):
            return value
        if isinstance(value, _Array):
            return value.value
        raise ValueError("bytes of no array" if isinstance(value, _Block) else f"a {type(value).__name__}")
