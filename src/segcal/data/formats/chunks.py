"""Chunks of zarr arrays, unpacked within bounds.

Promises: a chunk never unpacks to more than its array says it holds (twice that, and a little, for what a codec adds);
what would is an UnsafeFileError, raised before the memory is taken. Only codecs that are known to do no more than that
are used: one that runs code from the file (pickle), or an unknown one, is an UnreadableError when the store is opened.
Only regular files inside the store are read. No chunk: nothing is unpacked.
"""

from __future__ import annotations

import bz2
import dataclasses
import lzma
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numcodecs.abc  # type: ignore[import-untyped]
import zarr
from zarr.abc.codec import ArrayArrayCodec, BytesBytesCodec
from zarr.abc.store import ByteRequest
from zarr.codecs import BytesCodec, ShardingCodec
from zarr.core.array import AsyncArray
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

from segcal.data.files.reading import content, json_value, regular, too_much
from segcal.errors import UnreadableError

CHUNKS = 1 << 17
"""Most chunks of an array."""

SLACK = 1 << 16
"""Bytes that a codec may add to a chunk, whatever its size."""

_METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
_ARRAY_CODECS = {"transpose", "delta", "fixedscaleoffset", "quantize", "bitround", "astype", "packbits"}
_SAME_SIZE = {"shuffle", "crc32", "crc32c", "adler32", "fletcher32", "jenkins_lookup3"}
_STREAMS: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.decompressobj(47),
    "zlib": lambda: zlib.decompressobj(47),
    "bz2": bz2.BZ2Decompressor,
    "lzma": lambda: lzma.LZMADecompressor(memlimit=1 << 27),
}
_CLAIMS = {"blosc", "zstd", "lz4"}


class Store(LocalStore):
    """A store on the disk of whose entries only regular files are read, metadata only within bounds, and chunks of at
    most `largest` bytes (None: no chunk is asked for before that is known).
    """

    largest: int | None = None

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """The bytes of an entry, or None."""
        path = self.root / key
        if not path.exists():
            return None
        regular(path)
        if path.name in _METADATA:
            json_value(content(path), path)
        elif self.largest is not None and path.stat().st_size > self.largest:
            raise too_much(path, f"a chunk of {path.stat().st_size} bytes", f"at most {self.largest}, packed")
        return await super().get(key, prototype, byte_range)


def bounded(array: zarr.Array[Any], path: Path) -> zarr.Array[Any]:
    """The same array, none of whose chunks unpacks to more than it holds."""
    nbytes = math.prod(array.shape) * array.dtype.itemsize
    chunk = math.prod(array.shards or array.chunks) * array.dtype.itemsize
    count = math.prod(-(-n // max(1, c)) for n, c in zip(array.shape, array.chunks, strict=True))
    inside = math.prod(-(-s // max(1, c)) for s, c in zip(array.shards or array.chunks, array.chunks, strict=True))
    if chunk > 2 * nbytes + (64 << 20) or max(count, inside) > CHUNKS:
        raise too_much(
            path,
            f"an array of {nbytes} bytes in {max(count, inside)} chunks of {chunk} bytes",
            f"at most {CHUNKS} chunks, none much larger than the array",
        )
    assert isinstance(array.store, Store)
    array.store.largest = 2 * chunk + SLACK
    metadata = array.metadata
    if metadata.zarr_format == 2:
        for f in metadata.filters or ():
            _allow(f.codec_id, path, _ARRAY_CODECS | _SAME_SIZE)
        if metadata.compressor is None:
            return array
        packed: Any = _Unpacked(metadata.compressor, path, chunk)
        found: Any = dataclasses.replace(metadata, compressor=packed)
    else:
        found = dataclasses.replace(metadata, codecs=_codecs(metadata.codecs, path))
    return zarr.Array(AsyncArray(found, array.store_path))


def _codecs(codecs: Any, path: Path) -> tuple[Any, ...]:
    made: list[Any] = []
    for codec in codecs:
        if isinstance(codec, ShardingCodec):
            made.append(dataclasses.replace(codec, codecs=_codecs(codec.codecs, path)))
        elif isinstance(codec, BytesBytesCodec):
            made.append(_Bytes(codec, path))
        else:
            if isinstance(codec, ArrayArrayCodec):
                _allow(_name(codec), path, _ARRAY_CODECS)
            elif not isinstance(codec, BytesCodec):
                _allow(_name(codec), path, set())
            made.append(codec)
    return tuple(made)


def _name(codec: Any) -> str:
    return str(codec.to_dict()["name"]).removeprefix("numcodecs.")


def _allow(name: str, path: Path, known: set[str]) -> None:
    if name not in known:
        raise UnreadableError(
            str(path),
            found=f"chunks packed by {name[:40]!r}",
            expected="a codec such as zstd, blosc or gzip",
            do="Write the store again with one of them.",
        )


def _unpacked(name: str, data: bytes, limit: int, path: Path) -> bytes | None:
    """What `data` unpack to; None where the codec itself is sure to make no more than `limit`."""
    if name in _SAME_SIZE:
        return None
    if name in _CLAIMS:
        claimed = _claimed(name, data)
        if claimed > limit:
            raise too_much(path, f"a chunk of {len(data)} bytes that unpacks to {claimed}", f"at most {limit}")
        return None
    out, rest = b"", data
    while rest:
        stream = _STREAMS[name]()
        out += stream.decompress(rest, limit + 1 - len(out))
        if len(out) > limit:
            raise too_much(path, f"a chunk of {len(data)} bytes that unpacks to more than {limit}", f"at most {limit}")
        if not stream.eof:
            raise ValueError("a chunk that ends early")
        rest = stream.unused_data
    return out


def _claimed(name: str, data: bytes) -> int:
    """The most bytes that the beginning of a chunk lets its codec take."""
    if name == "lz4":
        return int.from_bytes(data[:4], "little")
    if name == "blosc":
        return int.from_bytes(data[4:8], "little")
    if len(data) < 6 or data[:4] != b"\x28\xb5\x2f\xfd":
        raise ValueError("a chunk that is no zstd frame")
    descriptor = data[4]
    single, width = bool(descriptor & 32), (1 if descriptor & 32 else 0, 2, 4, 8)[descriptor >> 6]
    at = 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
    if width:
        return int.from_bytes(data[at : at + width], "little") + (256 if width == 2 else 0)
    total = 0  # not said: a block makes at most 128 KiB
    while at + 3 <= len(data):
        block = int.from_bytes(data[at : at + 3], "little")
        kind, size = block >> 1 & 3, block >> 3
        total += size if kind < 2 else 1 << 17
        at += 3 + (1 if kind == 1 else size)
        if block & 1:
            break
    return total // 8


class _Unpacked(numcodecs.abc.Codec):  # type: ignore[misc]  # numcodecs publishes no types
    """A compressor of format 2 within bounds."""

    codec_id = "bounded"  # zarr asks the class for one; nothing is registered under it

    def __init__(self, inner: Any, path: Path, nbytes: int) -> None:
        self.inner, self.path, self.limit = inner, path, 2 * nbytes + SLACK
        _allow(inner.codec_id, path, _CLAIMS | _STREAMS.keys() | _SAME_SIZE)

    def encode(self, buf: Any) -> Any:
        """As the compressor."""
        return self.inner.encode(buf)

    def decode(self, buf: Any, out: Any = None) -> Any:
        """As the compressor."""
        made = _unpacked(self.inner.codec_id, bytes(buf), self.limit, self.path)
        return self.inner.decode(buf, out) if made is None else made

    def get_config(self) -> Any:
        """As the compressor."""
        return self.inner.get_config()


@dataclass(frozen=True)
class _Bytes(BytesBytesCodec):
    """A codec of format 3 from bytes to bytes, within bounds."""

    inner: BytesBytesCodec
    path: Path
    is_fixed_size = False

    def __post_init__(self) -> None:
        _allow(_name(self.inner), self.path, _CLAIMS | _STREAMS.keys() | _SAME_SIZE)

    def to_dict(self) -> Any:
        """As the codec."""
        return self.inner.to_dict()

    def evolve_from_array_spec(self, array_spec: Any) -> Any:
        """As the codec."""
        return dataclasses.replace(self, inner=self.inner.evolve_from_array_spec(array_spec))

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        """As the codec."""
        return self.inner.compute_encoded_size(input_byte_length, chunk_spec)

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        limit = 2 * math.prod(chunk_spec.shape) * chunk_spec.dtype.to_native_dtype().itemsize + SLACK
        made = _unpacked(_name(self.inner), chunk_bytes.to_bytes(), limit, self.path)
        if made is None:
            (out,) = await self.inner.decode([(chunk_bytes, chunk_spec)])
            return out
        return chunk_spec.prototype.buffer.from_bytes(made)

    async def _encode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        (out,) = await self.inner.encode([(chunk_bytes, chunk_spec)])
        return out
