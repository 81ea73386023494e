"""Small files that would hang or fill the memory: each is refused within 10 CPU seconds and 256 MiB, by name."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import nibabel
import numcodecs
import numpy as np
import pytest
import zarr

from segcal.data.files.journal import Scratch
from segcal.data.formats import nifti, npz, pickles
from segcal.data.formats.case_images import Picture
from segcal.data.formats.discover import open_cohort
from segcal.data.formats.grids import grid_of
from segcal.data.formats.label_maps import open_map
from segcal.data.formats.nifti import AS_STORED, NiftiField
from segcal.data.formats.pictures import ImageField
from segcal.data.formats.zarr import ZarrField
from segcal.errors import SegcalError, UnreadableError, UnsafeFileError
from segcal.study.shift.folder import Artefacts, Photometric, corrupt

Bounds = Callable[..., list[str]]


def nested(levels: int, pair: bytes) -> bytes:
    """A value in itself twice, `levels` deep: 2^levels values by a few bytes a level."""
    return b"".join(b"q" + bytes([k]) + b"h" + bytes([k]) + pair for k in range(levels))


# protocol 2: EMPTY_DICT, key, value, SETITEM, STOP
PICKLES = {
    "a key of nested tuples": b"\x80\x02}" + b")" + nested(40, b"\x86") + b"K\x01s.",
    "a key of nested tuples by DUP": b"\x80\x02})" + b"2\x86" * 40 + b"K\x01s.",
    "a set of nested tuples": b"\x80\x04}K\x01\x8f()" + b"2\x86" * 40 + b"\x90s.",
    "a frozen set of nested tuples": b"\x80\x04}K\x01(()" + b"2\x86" * 40 + b"\x91s.",
    "nested tuples where a box should be": b"\x80\x02}X\x14\x00\x00\x00bbox_used_for_cropping)" + b"2\x86" * 40 + b"s.",
    "nested lists where a box should be": (
        b"\x80\x02}X\x14\x00\x00\x00bbox_used_for_cropping]"
        + b"".join(b"q\x00](h\x00h\x00e" for _ in range(30))
        + b"s."
    ),
    "lists": b"\x80\x02}K\x01(" + b"]" * 3_000_000 + b"ls.",
    "sets": b"\x80\x04}K\x01(" + b"\x8f" * 3_000_000 + b"ls.",
    "dictionaries": b"\x80\x02}K\x01(" + b"}" * 3_000_000 + b"ls.",
    "numbers": b"\x80\x02}K\x01(" + b"M\x00\x10" * 1_000_000 + b"ls.",
    "marks": b"\x80\x02" + b"(" * 3_000_000 + b".",
    "an array of bytes": pickle.dumps({"a": np.zeros(4_000_000, np.uint8)}, 4),
    "a text for a shape": b"\x80\x02}X\x07\x00\x00\x00spacingcnumpy\ndtype\nX\x02\x00\x00\x00f8\x85Rs.",
    "a long integer": b"\x80\x02}X\x07\x00\x00\x00spacing\x8b\x00\x00\x10\x00" + b"\xff" * (1 << 20) + b"s.",
    "many keys of one hash": (
        b"\x80\x02}("
        + b"".join(b"\x8a\x10" + (k * (2**61 - 1)).to_bytes(16, "little") + b"N" for k in range(30_000))
        + b"u."
    ),
}


@pytest.mark.parametrize("data", PICKLES.values(), ids=PICKLES.keys())
def test_pickles(data: bytes, tmp_path: Path, within_bounds: Bounds) -> None:
    """Read as the properties of a case, by themselves and through a cohort."""
    root = prediction(tmp_path)
    (root / "case.pkl").write_bytes(data)
    _, said = within_bounds(lambda: len(pickles.load(root / "case.pkl")), lambda: open_cohort(root))
    assert said.startswith(("Unsafe", "Unreadable")) and "case.pkl: found " in said


def prediction(folder: Path, **properties: object) -> Path:
    """A small prediction folder of nnU-Net's with one case."""
    root = folder / "m"
    root.mkdir()
    (root / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}))
    (root / "plans.json").write_text(json.dumps({"transpose_backward": [0, 1, 2], "transpose_forward": [0, 1, 2]}))
    p = np.full((2, 3, 4, 5), 0.5, np.float32)
    np.savez_compressed(root / "case.npz", probabilities=p)
    about = {
        "spacing": [1.0, 1.0, 1.0],
        "shape_before_cropping": (3, 4, 5),
        "bbox_used_for_cropping": [[0, 3], [0, 4], [0, 5]],
        **properties,
    }
    (root / "case.pkl").write_bytes(pickle.dumps(about))
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 4, 3), np.uint8), np.eye(4)), root / "case.nii.gz")
    return root


@pytest.mark.parametrize("name", ["spacing", "shape_before_cropping", "bbox_used_for_cropping"])
@pytest.mark.parametrize(
    "value",
    [
        None,
        "text",
        3,
        (),
        [[], [], []],
        [1, 2],
        ["a", "b", "c"],
        [None, None, None],
        [-1.0, 2.0, 3.0],
        [0, 0, 0],
        [float("nan"), 1.0, 1.0],
        [float("inf"), 1.0, 1.0],
        [[0, 1], [0, 1], [0]],
        [[0, 2**63], [0, 4], [0, 5]],
        [True, True, True],
        {"a": 1},
        np.zeros((3, 2)),
        np.zeros(5_000),
    ],
    ids=repr,
)
def test_wrong_properties(name: str, value: object, tmp_path: Path) -> None:
    root = prediction(tmp_path, **{name: value})
    if (name, repr(value)) in {("spacing", "None"), ("spacing", "[1, 2]")}:  # not known
        assert open_cohort(root)[0].spacing == (1, 1, 1)
        return
    if (name, repr(value)) == ("bbox_used_for_cropping", repr([[0, 2**63], [0, 4], [0, 5]])):
        assert open_cohort(root)[0].crop == ((0, 3), (0, 4), (0, 5))
        return
    with pytest.raises(SegcalError) as caught:
        open_cohort(root)
    assert isinstance(caught.value, SegcalError) and "case" in caught.value.where and len(str(caught.value)) < 1_000


def header_of(length: int, version: int = 2) -> bytes:
    """The beginning of an array whose header is spaces."""
    return b"\x93NUMPY" + bytes([version, 0]) + length.to_bytes(2 if version == 1 else 4, "little")


def zipped(path: Path, pieces: Callable[[], Any], name: str = "probabilities.npy") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(name, "w", force_zip64=True) as file:
        for piece in pieces():
            file.write(piece)
    return path


def array_header(text: str) -> bytes:
    data = text.encode()
    return b"\x93NUMPY\x01\x00" + len(data).to_bytes(2, "little") + data


HEADERS = [
    "{'descr': '<f4', 'fortran_order': False, 'shape': " + "(" * 150 + ")" * 150 + "}",
    "-" * 4_000 + "1",
    "[" * 4_000,
    "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 4_000 + ",)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (" + f"{2**62}," * 60 + ")}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-4, 3)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 3)}",
    "{'descr': '<f4', 'fortran_order': False}",
    "{'descr': ('<f4', (1000000, 1000000)), 'fortran_order': False, 'shape': (2, 3)}",
    "{'descr': '|V2147483647', 'fortran_order': False, 'shape': (2, 3)}",
    "{'descr': [('a', '<f4')] , 'fortran_order': False, 'shape': (2, 3)}",
]


def test_headers_of_arrays(tmp_path: Path, within_bounds: Bounds) -> None:
    works = []
    for k, text in enumerate(HEADERS):
        (tmp_path / f"{k}.npy").write_bytes(array_header(text) + bytes(64))
        zipped(tmp_path / f"{k}.npz", lambda text=text: [array_header(text), bytes(64)])
        works.append(lambda k=k: npz.NpyField.find(tmp_path / f"{k}.npy", channel_axis=0))
        works.append(lambda k=k: npz.NpzField.find(tmp_path / f"{k}.npz", "probabilities", channel_axis=0))
    for k, said in enumerate(within_bounds(*works)):
        assert f"{k // 2}.np{'yz'[k % 2]}: found " in said and len(said) < 1_000


def test_a_header_of_spaces(tmp_path: Path, within_bounds: Bounds) -> None:
    spaces = b" " * (1 << 20)
    packed = zipped(tmp_path / "a.npz", lambda: [header_of(1 << 30), *[spaces] * 1_024])
    assert packed.stat().st_size < 2 << 20
    (said,) = within_bounds(lambda: npz.NpzField.find(packed, "probabilities", channel_axis=0))
    assert said.startswith("UnsafeFileError") and "a header of 1073741824 bytes" in said
    with (tmp_path / "a.npy").open("wb") as file:
        file.write(header_of(1 << 30))
        file.truncate(1 << 30)
    (said,) = within_bounds(lambda: npz.NpyField.find(tmp_path / "a.npy", channel_axis=0))
    assert said.startswith("UnsafeFileError") and "a header of 1073741824 bytes" in said


def test_a_table_of_contents_that_fills_the_memory(tmp_path: Path, within_bounds: Bounds) -> None:
    one = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 3, 20, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    count = 400_000
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count & 65535, count & 65535, count * len(one), 0, 0)
    (tmp_path / "a.npz").write_bytes(one * count + end)
    (said,) = within_bounds(lambda: npz.keys(tmp_path / "a.npz"))
    assert said.startswith("UnsafeFileError") and "a table of contents of" in said


def volume(**changed: Any) -> bytes:
    """A NIfTI header of 348 bytes."""
    header = nibabel.Nifti1Header()
    header.set_data_shape((5, 4, 3))
    header.set_data_dtype(np.uint8)
    header["vox_offset"] = 352
    for name, value in changed.items():
        header[name] = value
    return bytes(header.binaryblock)


def test_an_extension_that_inflates(tmp_path: Path, within_bounds: Bounds) -> None:
    size = 1 << 30
    with gzip.open(tmp_path / "a.nii.gz", "wb", compresslevel=1) as file:
        file.write(volume(vox_offset=size) + b"\1\0\0\0" + struct.pack("<2i", size - 352, 6))
        for _ in range(1_025):
            file.write(bytes(1 << 20))
    (said,) = within_bounds(lambda: nifti.read_header(tmp_path / "a.nii.gz"))
    assert said.startswith("UnsafeFileError") and f"begin after {size} bytes" in said


VOLUMES: list[dict[str, Any]] = [
    {"vox_offset": np.float32(3e38)},
    {"vox_offset": np.float32("nan")},
    {"vox_offset": np.float32(-1)},
    {"dim": [3, -5, 4, 3, 1, 1, 1, 1]},
    {"dim": [9, 5, 4, 3, 1, 1, 1, 1]},
    {"dim": [-1, 5, 4, 3, 1, 1, 1, 1]},
    {"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]},
    {"datatype": 1792},
    {"datatype": 9999},
    {"datatype": 128},
    {"magic": b"ni1"},
    {"magic": b"xxx"},
    {"sizeof_hdr": 7},
    {"qform_code": 1, "quatern_b": 5.0},
    {"sform_code": 1, "srow_x": [np.nan, 0, 0, 0]},
    {"sform_code": 1, "srow_z": [0, 0, np.inf, 0]},
]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # nibabel multiplies what is too large
def test_headers_of_volumes(tmp_path: Path, within_bounds: Bounds) -> None:
    for k, changed in enumerate(VOLUMES):
        (tmp_path / f"{k}.nii").write_bytes(volume(**changed) + bytes(4 + 60))
    works = [lambda k=k: NiftiField.find(tmp_path / f"{k}.nii") for k in range(len(VOLUMES))]
    for k, said in enumerate(within_bounds(*works)):
        assert f"{k}.nii: found " in said and len(said) < 1_000


def test_bytes_of_a_header_never_reach_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """nibabel says what it finds in a header, raw; what others log there is theirs."""
    (tmp_path / "a.nii").write_bytes(volume(magic=b"\x1b[2J", sform_code=-1) + bytes(64))
    nibabel.imageglobals.logger.handlers[0].setStream(sys.stderr)  # the one that this test can read
    with pytest.raises(UnreadableError):
        nifti.read_header(tmp_path / "a.nii")
    with pytest.raises(UnreadableError):
        grid_of(tmp_path / "a.nii", (5, 4, 3), reversed_axes=False)
    assert capfd.readouterr() == ("", "")
    nibabel.Nifti1Header(volume(sform_code=-1))
    assert "sform_code -1 not valid" in capfd.readouterr().err


def store(path: Path, **options: Any) -> Path:
    x = np.arange(64, dtype=np.float32).reshape(2, 4, 8)
    zarr.create_array(path, shape=x.shape, chunks=x.shape, dtype=x.dtype, **options)[...] = x
    return path


def chunk_of(path: Path) -> Path:
    """The only chunk of a store."""
    names = (".zarray", ".zattrs", ".zgroup", "zarr.json")
    return next(p for p in path.rglob("*") if p.is_file() and p.name not in names)


def read(field: Any) -> object:
    with Scratch(1 << 20) as scratch, field.open(scratch) as window:
        return window.read(0, 32).sum()


CODECS = {
    "zlib": numcodecs.Zlib(9),
    "gzip": numcodecs.GZip(9),
    "bz2": numcodecs.BZ2(9),
    "zstd": numcodecs.Zstd(3),
    "blosc": numcodecs.Blosc("zstd"),
    "lz4": numcodecs.LZ4(),
    "lzma": numcodecs.LZMA(preset=1),
}


@pytest.mark.parametrize("name", CODECS)
def test_chunks_that_inflate(name: str, tmp_path: Path, within_bounds: Bounds) -> None:
    """Format 2, every codec; format 3, those it has, in shards too."""
    codec, big = CODECS[name], np.zeros(1 << 30 if name not in ("bz2", "lzma") else 1 << 28, np.uint8)
    packed = bytes(codec.encode(big))
    root = store(tmp_path / "a.zarr", zarr_format=2, compressors=codec)
    assert within_bounds(lambda: read(ZarrField.find(root, channel_axis=0)))[0].startswith("done")
    chunk_of(root).write_bytes(packed)
    (said,) = within_bounds(lambda: read(ZarrField.find(root, channel_axis=0)))
    assert said.startswith("UnsafeFileError") and "a.zarr" in said and "found a chunk of" in said
    if name not in ("gzip", "zstd", "blosc"):
        return
    third = {"gzip": zarr.codecs.GzipCodec(), "zstd": zarr.codecs.ZstdCodec(), "blosc": zarr.codecs.BloscCodec()}[name]
    root = store(tmp_path / "b.zarr", compressors=third)
    chunk_of(root).write_bytes(packed)
    (said,) = within_bounds(lambda: read(ZarrField.find(root, channel_axis=0)))
    assert said.startswith("UnsafeFileError") and "b.zarr" in said and "found a chunk of" in said
    root = store(tmp_path / "c.zarr", compressors=third, shards=(2, 4, 8))
    assert within_bounds(lambda: read(ZarrField.find(root, channel_axis=0)))[0].startswith("done")
    index = struct.pack("<2Q", 0, len(packed))
    chunk_of(root).write_bytes(packed + index + struct.pack("<I", google_crc32c.value(index)))
    (said,) = within_bounds(lambda: read(ZarrField.find(root, channel_axis=0)))
    assert said.startswith("UnsafeFileError") and "c.zarr" in said and "found a chunk of" in said


def test_a_frame_that_does_not_tell_its_size(tmp_path: Path, within_bounds: Bounds) -> None:
    """zstd as a stream is written: what its blocks can hold decides."""
    root = store(tmp_path / "a.zarr", zarr_format=2, compressors=numcodecs.Zstd(3))
    head, block = b"\x28\xb5\x2f\xfd\x00\x58", struct.pack("<I", (1 << 17) << 3 | 1 << 1)[:3] + b"\0"
    last = struct.pack("<I", (1 << 17) << 3 | 1 << 1 | 1)[:3] + b"\0"
    chunk_of(root).write_bytes(head + block * 9_999 + last)
    (said,) = within_bounds(lambda: read(ZarrField.find(root, channel_axis=0)))
    assert said.startswith("UnsafeFileError")


class Runs:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("place", ["compressor", "filters"])
def test_a_codec_that_runs_code(place: str, tmp_path: Path, within_bounds: Bounds) -> None:
    root = store(tmp_path / "a.zarr", zarr_format=2, compressors=None)
    about = json.loads((root / ".zarray").read_text())
    about[place] = {"id": "pickle"} if place == "compressor" else [{"id": "pickle"}]
    (root / ".zarray").write_text(json.dumps(about))
    chunk_of(root).write_bytes(pickle.dumps(Runs(f"touch {tmp_path / 'ran'}")))
    (said,) = within_bounds(lambda: read(ZarrField.find(root, channel_axis=0)))
    assert "a.zarr: found " in said and not (tmp_path / "ran").exists()


STORES: list[dict[str, Any]] = [
    {"shape": [2, 4, 8], "chunks": [2, 1 << 20, 1 << 20]},
    {"shape": [2, 1 << 20, 1 << 20], "chunks": [1, 1, 1]},
    {"shape": [2, 1 << 40, 1 << 40]},
    {"shape": [2, -4, 8]},
    {"shape": "text"},
    {"shape": None},
    {"shape": [2.5, 4, 8]},
    {"shape": [2, 4]},
    {"shape": []},
    {"chunks": [0, 0, 0]},
    {"chunks": [-1, 4, 8]},
    {"chunks": "text"},
    {"chunks": [2, 4]},
    {"dtype": "|O"},
    {"dtype": "<U100000000"},
    {"dtype": "nonsense"},
    {"dtype": 7},
    {"fill_value": {"a": 1}},
    {"codecs": [{"id": "nonsense", "name": "nonsense"}]},
    {"codecs": [{"id": "json2", "name": "vlen-utf8"}]},
    {"codecs": "text"},
    {"codecs": None, "shape": None},
    {"everything": []},
]


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.filterwarnings("ignore::UserWarning")  # zarr's, of data types
def test_metadata_of_stores(version: int, tmp_path: Path, within_bounds: Bounds) -> None:
    for k, changed in enumerate(STORES):
        root = store(tmp_path / f"{k}.zarr", zarr_format=version)
        file = root / (".zarray" if version == 2 else "zarr.json")
        about = json.loads(file.read_text())
        for name, value in changed.items():
            if name == "everything":
                about = value
            elif name == "chunks" and version == 3:
                about["chunk_grid"] = {"name": "regular", "configuration": {"chunk_shape": value}}
            elif name == "codecs" and version == 2:
                about["filters"] = value
            else:
                about[name if version == 2 or name != "dtype" else "data_type"] = value
        file.write_text(json.dumps(about))
    works = [lambda k=k: read(ZarrField.find(tmp_path / f"{k}.zarr", channel_axis=0)) for k in range(len(STORES))]
    for k, said in enumerate(within_bounds(*works)):
        assert f"{k}.zarr" in said and not said.startswith("done") and len(said) < 1_000, STORES[k]


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        "[" + "[]," * 1_000_000 + "[]]",
        "9" * 10_000,
        "[" * 100 + "]" * 100,
        "",
        "nul",
        "\0",
    ],
    ids=["brackets", "braces", "lists", "digits", "deep", "empty", "word", "zero"],
)
def test_json(text: str, tmp_path: Path, within_bounds: Bounds) -> None:
    root = prediction(tmp_path)
    for name in ("dataset.json", "plans.json", "predict_from_raw_data_args.json"):
        before = (root / name).read_bytes() if (root / name).exists() else None
        (root / name).write_text(text)
        (said,) = within_bounds(lambda: open_cohort(root))
        assert f"{name}: found " in said and len(said) < 1_000
        (root / name).unlink()
        if before is not None:
            (root / name).write_bytes(before)
    root = store(tmp_path / "a.zarr")
    (root / "zarr.json").write_text(text)
    assert "zarr" in within_bounds(lambda: ZarrField.find(root, channel_axis=0))[0]


def opened(root: Path) -> str:
    """What is said against a folder; nothing, where it is a cohort."""
    try:
        open_cohort(root)
    except SegcalError as error:
        return str(error)
    return ""


VALUES = [
    None,
    True,
    3,
    -1,
    10**300,
    1e308,
    float("nan"),
    "text",
    "",
    [],
    {},
    [[]],
    {"a": []},
    ["a", 1],
    [1, 1],
    [0.5] * 3,
]


@pytest.mark.parametrize("value", VALUES, ids=str)
@pytest.mark.parametrize(
    ("file", "entry"),
    [
        ("dataset.json", "labels"),
        ("dataset.json", "file_ending"),
        ("dataset.json", "regions_class_order"),
        ("plans.json", "transpose_backward"),
        ("plans.json", "image_reader_writer"),
        ("plans.json", "dataset_name"),
        ("predict_from_raw_data_args.json", "use_folds"),
        ("predict_from_raw_data_args.json", "use_mirroring"),
        ("predict_from_raw_data_args.json", "tile_step_size"),
    ],
)
def test_wrong_entries(file: str, entry: str, value: object, tmp_path: Path) -> None:
    root = prediction(tmp_path)
    about = json.loads((root / file).read_text()) if (root / file).exists() else {}
    (root / file).write_text(json.dumps({**about, entry: value}))
    said = opened(root)
    assert said == "" or (str(root) in said and len(said) < 1_000)


@pytest.mark.parametrize("labels", [{"a": v} for v in VALUES] + [{"background": 0, "a": v} for v in VALUES], ids=str)
def test_wrong_labels(labels: dict[str, object], tmp_path: Path) -> None:
    root = prediction(tmp_path)
    (root / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".nii.gz"}))
    said = opened(root)
    assert said == "" or (str(root) in said and len(said) < 1_000)


def tiff(pages: int, size: tuple[int, int] = (8, 8), tile: tuple[int, int] | None = None, loop: bool = False) -> bytes:
    """A TIFF of grey pages that share their pixels."""
    tags = {256: size[0], 257: size[1], 258: 8, 259: 1, 262: 1, 277: 1, 278: size[1], 273: 8, 279: size[0] * size[1]}
    if tile is not None:
        tags |= {322: tile[0], 323: tile[1], 324: 8, 325: 64}
    out = [b"II*\0", struct.pack("<I", 8 + 64), bytes(64)]
    length = 2 + 12 * len(tags) + 4
    for k in range(pages):
        after = 72 if loop else 0 if k == pages - 1 else 72 + length * (k + 1)
        entries = b"".join(struct.pack("<2H2I", tag, 4, 1, value) for tag, value in sorted(tags.items()))
        out.append(struct.pack("<H", len(tags)) + entries + struct.pack("<I", after))
    return b"".join(out)


@pytest.mark.filterwarnings("default::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    "data",
    [tiff(40_000), tiff(1, loop=True), tiff(1, (60_000, 60_000)), tiff(1, tile=(1 << 16, 1 << 16)), tiff(2, loop=True)],
    ids=["pages", "loop", "pixels", "tile", "loop of two"],
)
def test_tiff(data: bytes, tmp_path: Path, within_bounds: Bounds) -> None:
    (tmp_path / "a.tif").write_bytes(data)
    for find in (ImageField.find, Picture.find):
        (said,) = within_bounds(lambda find=find: find(tmp_path / "a.tif"))
        assert "a.tif: found " in said
    (said,) = within_bounds(lambda: open_map(tmp_path / "a.tif", (8, 8), AS_STORED))
    assert "a.tif: found " in said


def bomb(side: int) -> bytes:
    """A PNG of side x side black pixels, of a few kilobytes."""

    def piece(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + 3 * side)) for _ in range(side)) + packer.flush()
    head = struct.pack(">2I5B", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + piece(b"IHDR", head) + piece(b"IDAT", rows) + piece(b"IEND", b"")


@pytest.mark.filterwarnings("default::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_000, 12_000])
def test_pictures_that_inflate(side: int, tmp_path: Path, within_bounds: Bounds) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(bomb(side))
    (said,) = within_bounds(lambda: corrupt(tmp_path / "in", tmp_path / "out", Photometric("mild")))
    assert said.startswith("UnsafeFileError") and "a.png" in said
    within_bounds(lambda: Picture.find(tmp_path / "in" / "a.png"))


def test_volumes_that_inflate(tmp_path: Path, within_bounds: Bounds) -> None:
    (tmp_path / "in").mkdir()
    for changed, pieces in (
        ({"vox_offset": 1 << 30}, 1_025),
        ({"dim": [3, 1 << 10, 1 << 10, 1 << 10, 1, 1, 1, 1]}, 1_025),
    ):
        with gzip.open(tmp_path / "in" / "a.nii.gz", "wb", compresslevel=1) as file:
            file.write(volume(**changed) + b"\1\0\0\0" + struct.pack("<2i", (1 << 30) - 352, 6))
            for _ in range(pieces):
                file.write(bytes(1 << 20))
        (said,) = within_bounds(lambda: corrupt(tmp_path / "in", tmp_path / "out", Artefacts("bias"), overwrite=True))
        assert said.startswith("UnsafeFileError") and "a.nii.gz" in said


def test_a_gigabyte_behind_a_packed_volume_is_not_looked_at(tmp_path: Path) -> None:
    """Python's gzip would look through all of it for another member, a byte at a time."""
    path = tmp_path / "case.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.uint8), np.eye(4)), path)
    os.truncate(path, 1 << 30)
    with Scratch(1 << 20) as scratch, NiftiField.find(path).open(scratch) as window:
        assert window.read(0, 120).tolist() == [0] * 120


@pytest.mark.parametrize("name", [".zattrs", ".zarray", "0.0.0"])
def test_a_zarr_store_with_a_gigabyte_in_one_entry_is_refused(tmp_path: Path, name: str) -> None:
    store = tmp_path / "case.zarr"
    made = zarr.create_array(store=str(store), shape=(2, 4, 5), chunks=(2, 4, 5), dtype="f4", zarr_format=2)
    made[...] = 1.0
    made.attrs["a"] = 1
    os.truncate(store / name, 1 << 30)
    with (
        pytest.raises(UnsafeFileError, match="1073741824 bytes"),
        Scratch(1 << 20) as scratch,
        ZarrField.find(store, channel_axis=0).open(scratch) as window,
    ):
        window.read(0, 20)
