"""Harms that know a format: arrays, trees of JSON, YAML and pickles, images, tables, calibrators. Each takes
a valid file and writes one that is odd in it. Nothing is written through a library whose threads would outlive it.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from .values import NAMES, TEXTS, nested, pick, value

Rng = np.random.Generator
Harm = Callable[[Path, Rng], None]


# arrays --------------------------------------------------------------------------------------------------------------


def odd_array(a: np.ndarray[Any, Any], rng: Rng) -> np.ndarray[Any, Any]:
    """The array with other numbers, another type or another shape."""
    if a.dtype.kind not in "iuf" or not a.size or not a.ndim:  # harmed before: numbers again
        a = np.zeros(a.shape if a.size and a.ndim else (1,), np.float32)
    changed: list[Callable[[], Any]] = [
        lambda: a.astype(np.float16),
        lambda: a.astype(np.float64) * 1e300,
        lambda: (a * 255).astype(np.uint8),
        lambda: a.astype(np.int64) - 5,
        lambda: a.astype(np.complex64),
        lambda: a.astype(bool),
        lambda: a.astype("S5"),
        lambda: a.astype("U5"),
        lambda: a.astype(">f4"),
        lambda: a.astype("M8[s]"),
        lambda: np.zeros(a.shape, [("x", "f4"), ("y", "i2")]),
        lambda: a[:1],
        lambda: a[0],
        lambda: a[..., :0],
        lambda: a.ravel(),
        lambda: np.zeros(()),
        lambda: np.zeros((0,)),
        lambda: np.zeros((3, *[1] * 29), np.float32),
        lambda: a[None],
        lambda: np.asfortranarray(a),
        lambda: np.concatenate([a, a[:1]]),
        lambda: np.full_like(a, 0),
        lambda: np.full(a.shape, np.nan, np.float32),
        lambda: np.full(a.shape, np.inf, np.float32),
        lambda: np.full(a.shape, -np.inf, np.float32),
        lambda: np.full(a.shape, 1e38, np.float32),
        lambda: np.full(a.shape, 1e-45, np.float32),
        lambda: -a,
        lambda: np.where(rng.random(a.shape) < 0.01, pick(rng, [np.nan, np.inf, -np.inf, -1, 1e30, 300]), a),
        lambda: np.zeros((1, 200_000), np.float32),
        lambda: np.zeros((300, 4, 4), np.float32),
    ]
    with np.errstate(all="ignore"):
        return np.asarray(pick(rng, changed)())


HEADERS = (
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 1000000, 1000000), }",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (-3, 4), }",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (3.5, 4), }",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': 12, }",
    b"{'descr': '|O', 'fortran_order': False, 'shape': (3, 4), }",
    b"{'descr': '<f9', 'fortran_order': False, 'shape': (3, 4), }",
    b"{'descr': [('a', '<f4', (1000000000,))], 'fortran_order': False, 'shape': (3,), }",
    b"{'descr': '|V0', 'fortran_order': False, 'shape': (3, 4), }",
    b"{'descr': '<f4', 'fortran_order': 7, 'shape': (True, 4), }",
    b"{'shape': (3, 4)}",
    b"[1, 2",
    b"(" * 3000,
    b"-" * 5000 + b"1",
    b" " * 60_000,
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"1," * 20_000 + b"), }",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"9" * 5000 + b",), }",
    b"\xff\xfe{}",
)


def npy_bytes(a: np.ndarray[Any, Any], rng: Rng) -> bytes:
    """The array as .npy; sometimes with a header that lies."""
    if rng.random() < 0.6:
        out = io.BytesIO()
        np.save(out, odd_array(a, rng))
        return out.getvalue()
    header = pick(rng, HEADERS)
    version = pick(rng, [(1, 0), (2, 0), (3, 0), (9, 9)])
    length = struct.pack("<H", min(len(header), 65535)) if version[0] == 1 else struct.pack("<I", len(header))
    return npy.MAGIC_PREFIX + bytes(version) + length + header + a.tobytes()


def in_npy(path: Path, rng: Rng) -> None:
    """Another array, or another header."""
    path.write_bytes(npy_bytes(np.load(path), rng))


def in_npz(path: Path, rng: Rng) -> None:
    """Other members: names, arrays, headers, how they are packed, what the directory says."""
    with np.load(path) as held:
        arrays = {name: held[name] for name in held.files}
    name, array = next(iter(arrays.items()))
    out = io.BytesIO()
    kind = pick(rng, [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    with zipfile.ZipFile(out, "w", kind) as archive:
        draw = rng.random()
        if draw < 0.5:
            archive.writestr(f"{name}.npy", npy_bytes(array, rng))
        elif draw < 0.8:
            member = pick(rng, ["softmax.npy", "logits.npy", "probs.npy", "log_probs.npy", "arr_0.npy", *TEXTS[:-1]])
            archive.writestr(member.encode("utf-8", "replace").decode().lstrip("\0") or "_", npy_bytes(array, rng))
        elif draw < 0.9:
            plain = io.BytesIO()
            np.save(plain, array)
            for k in range(int(rng.integers(2, 400))):
                archive.writestr(f"{name}{k or ''}.npy", plain.getvalue())
    data = bytearray(out.getvalue())
    if rng.random() < 0.3 and len(data) > 30:
        # flags, method, sizes of the local header or of the directory
        start = pick(rng, [0, max(0, data.rfind(b"PK\x01\x02"))])
        data[start + int(rng.integers(4, 28))] ^= 1 << int(rng.integers(8))
    path.write_bytes(bytes(data))


# trees: JSON, YAML, pickles ------------------------------------------------------------------------------------------


NESTED = 100
"""Text that nests deeper is not taken for a tree."""


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a tree."""
    out: list[tuple[Any, Any]] = []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, item in items:
        out += [(tree, key), *places(item)]
    return out


def in_tree(tree: Any, rng: Rng) -> Any:
    """The tree with one to three entries replaced, removed, renamed or added."""
    for _ in range(int(rng.integers(1, 4))):
        found = places(tree)
        if not found:
            return value(rng)
        at, key = pick(rng, found)
        draw = rng.random()
        if draw < 0.65:
            at[key] = value(rng)
        elif draw < 0.8:
            del at[key]
        elif isinstance(at, dict):
            at[pick(rng, TEXTS[:-1])] = at.pop(key) if draw < 0.9 else value(rng)
        else:
            at.insert(0, value(rng))
    return tree


def json_text(tree: Any) -> bytes:
    """As JSON; lone surrogates as JSON escapes them."""
    return json.dumps(tree).encode()


def deepest(text: bytes) -> int:
    """How deep brackets nest, those inside strings counted too."""
    depth, most = 0, 0
    for character in text:
        depth += (character in b"[{") - (character in b"]}")
        most = max(most, depth)
    return most


def in_json(path: Path, rng: Rng) -> None:
    """Other entries, or text that is no JSON of a kind a parser trips over."""
    text = path.read_bytes()
    if rng.random() < 0.75 and deepest(text) < NESTED:  # another harm may have nested it
        path.write_bytes(json_text(in_tree(json.loads(text), rng)))
        return
    path.write_bytes(
        pick(
            rng,
            [
                b"\xef\xbb\xbf" + text,
                text.decode().encode("utf-16"),
                text.replace(b'"', b"'"),
                text[:-1] + b',"labels": {}}',
                b'{"labels": ' + b"[" * 100_000,
                b"[" * 100_000 + b"]" * 100_000,
                b'{"labels": ' + b"9" * 6000 + b"}",
                b'{"labels": {"\xff\xfe": 0}}',
                b"null",
                b"[]",
                b'"text"',
                b"1e999",
                json.dumps({f"c{k}": k for k in range(5000)}).encode(),
                json.dumps({"labels": {f"c{k}": k for k in range(5000)}, "file_ending": ".nii.gz"}).encode(),
            ],
        )
    )


class Danger:
    """Asks to run something when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.getcwd, ())


def in_pickle(path: Path, rng: Rng) -> None:
    """Other properties, or a pickle that is dangerous, endless or too deep."""
    tree = pickle.loads(path.read_bytes())
    draw = rng.random()
    if draw < 0.6:
        plain = json.loads(json.dumps(tree, default=lambda x: np.asarray(x).tolist()))
        path.write_bytes(pickle.dumps(in_tree(plain, rng), protocol=int(rng.integers(0, 6))))
    elif draw < 0.7:
        array = pick(rng, [np.zeros(3), np.zeros(3, object), np.array("x"), np.float64("nan"), np.zeros((0, 2))])
        path.write_bytes(pickle.dumps({**tree, pick(rng, list(tree)): array}))
    else:
        cycle: list[Any] = []
        cycle.append(cycle)
        odd = (
            b"\x80\x04" + b"(" * 10_000 + b".",
            b"\x80\x04" + b"K\x01" + b"\x85" * 5_000 + b".",
            b"\x80\x04]" + b"\x94h\x00h\x00\x86" * 40 + b".",
            b"\x80\x04K\x01" + b"2\x86" * 40 + b"}K\x00s.",
            b"\x80\x04}" + b"K\x01" + b"2\x86" * 60 + b"K\x00s.",
            b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"x.",
            b"\x80\x04B" + struct.pack("<I", (1 << 31) - 1) + b"x.",
            b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"N.",
            b"\x80\x04r" + struct.pack("<I", (1 << 32) - 1) + b".",
            b"\x80\x04Nr" + struct.pack("<I", (1 << 31) - 1) + b".",
            b"L" + b"9" * 100_000 + b"L\n.",
            b"I" + b"9" * 5000 + b"\n.",
            b"cos\nsystem\n(S'true'\ntR.",
            b"cnumpy\nzeros\n(I1000000000\ntR.",
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I-3\ntN I00\ntb.",
            pickle.dumps(Danger()),
            pickle.dumps(cycle),
            pickle.dumps(nested(400)),
            pickle.dumps({**tree, "shape_before_cropping": cycle}),
            pickle.dumps({**tree, "bbox_used_for_cropping": [[0, 1]] * 100_000}),
            pickle.dumps(7),
            pickle.dumps(None),
            b".",
        )
        path.write_bytes(pick(rng, odd))


YAMLS = (
    "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{n}: &{n} [{', '.join(['*' + m] * 9)}]\n" for m, n in zip("abcdefgh", "bcdefghi", strict=True)),
    "name: &x\n  a: *x\n",
    "".join(f"key{k}: 1\n" for k in range(3000)),
    "name: !!python/object/apply:os.getcwd []\n",
    "name: x\nname: y\n",
    "- a\n- b\n",
    "{" * 2000,
    "[" * 100_000,
    "? [a, b]\n: 1\n",
    "? {a: b}\n: 1\n",
    "\t- x\n",
    "%YAML 9.9\n---\nname: x\n",
    "--- a\n--- b\n",
    "name: 2001-99-99\n",
    "name: 0b102\nx: 0x\n",
    "name: " + "9" * 6000 + "\n",
    "name: 1:99:99\nseed: 190:20:30\n",
    "name: \x00\n",
    "<<: 1\n",
    "<<: {a: *b}\n",
    "!!binary x: y\n",
    "name: !!binary 'a'\n",
    "name: !!timestamp 'x'\n",
    "name: !!int 'x'\n",
    "name: !!float 'x'\n",
    "name: !!set x\n",
    "name: !!omap x\n",
    "name: !!pairs [x]\n",
)
ENTRIES = (
    "repeats: {}",
    "seed: {}",
    "bins: [{}]",
    "bins: {}",
    "bands: [{}]",
    "replicates: {}",
    "samples: {}",
    "pipelines: [{}]",
    "pipelines: {}",
    "methods: {{ts: {{lambda_: {}}}}}",
    "methods: {{lts: {{epochs: {}}}}}",
    "methods: {}",
    "cohorts: {{{}: {{results: results, labels: labels}}}}",
    "cohorts: {{shifted: {{results: {}, labels: labels}}}}",
    "sensitivity: {{sizes: [{}]}}",
    "sensitivity: {{sizes: [1], pipelines: [{}]}}",
    "recipe: {{trials: {}, epochs: 1}}",
    "recipe: {}",
    "distance: {}",
    "{}: 1",
)


def in_yaml(path: Path, rng: Rng) -> None:
    """Entries replaced or added, or text that is no such configuration."""
    text = path.read_text()
    draw = rng.random()
    odd = json.dumps(value(rng), ensure_ascii=rng.random() < 0.5)[:100_000]
    if draw < 0.35:
        lines = text.splitlines()
        at = int(rng.integers(len(lines)))
        lines[at] = lines[at].split(":")[0] + ": " + odd
        text = "\n".join(lines)
    elif draw < 0.7:
        entry = pick(rng, ENTRIES)
        key = entry.split(":")[0] + ":"
        text = "\n".join(line for line in text.splitlines() if not line.startswith(key)) + "\n" + entry.format(odd)
    elif draw < 0.8:
        text = text.replace("name: fuzz", "name: " + json.dumps(pick(rng, TEXTS)))
    else:
        text = pick(rng, YAMLS)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))


# images, volumes, tables, calibrators --------------------------------------------------------------------------------


def in_nifti(path: Path, rng: Rng) -> None:
    """Fields of the header: dimensions, type, offset, scale, affine, extensions."""
    packed = path.name.endswith(".gz")
    data = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    for _ in range(int(rng.integers(1, 3))):
        at, form, choices = pick(
            rng,
            [
                (0, "<i", [0, 540, 0x5C010000, -1]),
                (40, "<h", [0, 1, 2, 5, 7, 8, -1, 32767]),
                (42, "<h", [0, 1, -1, 32767]),
                (44, "<h", [0, 1, -1, 32767]),
                (46, "<h", [0, 1, -1, 32767]),
                (48, "<h", [0, 1, 2, -1, 32767]),
                (70, "<h", [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1536, 1792, 2048, 2304, 9999, -1]),
                (72, "<h", [0, 1, 8, 999]),
                (76, "<f", [0.0, -1.0, float("nan"), 7.0]),
                (80, "<f", [0.0, -1.0, float("nan"), float("inf")]),
                (108, "<f", [0.0, 100.0, 353.5, 1e9, -8.0, float("nan"), float("inf")]),
                (112, "<f", [0.0, 2.0, float("nan"), float("inf"), 1e38, -1.0]),
                (116, "<f", [1.0, float("nan"), float("inf"), 1e38]),
                (123, "<B", [0, 255]),
                (252, "<h", [0, 1, 9, -1]),
                (254, "<h", [0, 1, 9, -1]),
                (256, "<f", [float("nan"), float("inf"), 1e38]),
                (280, "<f", [float("nan"), float("inf"), 0.0, 1e38]),
                (296, "<f", [float("nan"), 0.0]),
                (344, "<I", [0, 0x0031692B, 0xFFFFFFFF]),
                (348, "<I", [1, 0xFFFFFFFF]),
            ],
        )
        if len(data) >= at + struct.calcsize(form):
            struct.pack_into(form, data, at, pick(rng, choices))
    if rng.random() < 0.1:
        data[348:352] = b"\x01\0\0\0" + struct.pack("<ii", 1 << 30, 6)
    if rng.random() < 0.1:
        data += b"\0" * (64 << 20) if packed else b"\0" * 1000
    path.write_bytes(gzip.compress(bytes(data), 1) if packed else bytes(data))


def chunk(name: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, depth: int, colour: int, body: bytes, more: bytes = b"") -> bytes:
    """A PNG whose header need not fit its content."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + more + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
    )


def in_picture(path: Path, rng: Rng) -> None:
    """Another mode, another size than announced, bombs of compressed text."""
    height, width = 10, 12
    body = (b"\0" + b"\1" * width) * height
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<H", 3) + struct.pack("<HHII", 256, 4, 1, 1 << 30)
    path.write_bytes(
        pick(
            rng,
            [
                png(width, height, 8, 0, body),
                png(1, 1, 8, 0, b"\0\1"),
                png(0, 0, 8, 0, b""),
                png(width, height, 16, 0, (b"\0" + b"\1" * 2 * width) * height),
                png(width, height, 8, 2, (b"\0" + b"\1" * 3 * width) * height),
                png(width, height, 8, 6, (b"\0" + b"\1" * 4 * width) * height),
                png(width, height, 8, 3, body, chunk(b"PLTE", b"\1\2\3" * 2)),
                png(width, height, 8, 3, body),
                png(width, height, 1, 0, (b"\0" + b"\1" * 2) * height),
                png(30_000, 30_000, 8, 0, body),
                png(9_000, 9_000, 8, 0, b"\0" * 9_001 * 9_000),
                png(1 << 31, 1 << 31, 8, 0, body),
                png(width, height, 8, 0, body, chunk(b"zTXt", b"k\0\0" + zlib.compress(b"\0" * (80 << 20)))),
                png(width, height, 8, 0, body, chunk(b"iCCP", b"k\0\0" + zlib.compress(b"\0" * (80 << 20)))),
                tiff + struct.pack("<HHII", 257, 4, 1, 1 << 30) + struct.pack("<HHII", 273, 4, 1 << 30, 8) + b"\0" * 4,
                b"GIF89a" + b"\0" * 50,
                b"P5 1000000 1000000 255\n",
                b"BM" + b"\xff" * 60,
                b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            ],
        )
    )


def in_table(path: Path, rng: Rng) -> None:
    """A table of groups that is none."""
    lines = path.read_text().splitlines()
    name = pick(rng, NAMES)
    path.write_bytes(
        pick(
            rng,
            [
                "\n".join(lines[1:]),
                "\n".join([lines[0], *lines]),
                lines[0],
                "\n".join(lines + lines[1:]),
                "case,group\n" + "\n".join(f"{line.split(',')[0]},{name}" for line in lines[1:]),
                "\n".join(line.replace(",", ";") for line in lines),
                "\n".join(line + ",more" for line in lines[1:]),
                "case,group\n" + '"' + "x" * 200_000 + '",a\n',
                'case,group\n"unclosed,a\n',
                "case,group\n\x00,a\n",
                "group,case\n" + "\n".join(lines[1:]),
                "case\n" + "\n".join(lines[1:]),
                "\ufeff" + "\n".join(lines),
                "\r".join(lines),
                "case,group\n" * 30_000,
            ],
        ).encode("utf-8", "surrogateescape")
    )


def in_calibrator(path: Path, rng: Rng) -> None:
    """Metadata or tensors of a calibrator, or of sums: other entries, types, shapes, offsets, numbers."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])
    (key,) = header["__metadata__"]
    draw = rng.random()
    if draw < 0.6:
        described = in_tree(json.loads(header["__metadata__"][key]), rng)
        header["__metadata__"][key] = json.dumps(described)
    elif draw < 0.7:
        header["__metadata__"][key] = pick(
            rng, ["", "null", "[]", "{}", "[" * 50_000, "9" * 6000, '{"schema": 1}', "\ud800", "NaN"]
        )
    elif draw < 0.85:
        odd = np.array(pick(rng, [np.nan, np.inf, -1.0, 0.0, 1e300, -1e300, 5e-324]), "<f8").tobytes()
        at = 8 * int(rng.integers(max(1, len(body) // 8)))
        body[at : at + 8] = odd[: len(body) - at]
    else:
        header = in_tree(header, rng)
    text = json.dumps(header).encode()
    size = pick(rng, [len(text)] * 8 + [0, 1 << 40, len(text) - 1])
    path.write_bytes(struct.pack("<Q", size) + text + bytes(body))
