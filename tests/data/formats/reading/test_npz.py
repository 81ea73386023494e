"""npz and npy: round trips in every layout, damaged and hostile archives, and the peak of memory."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcal.data.files.journal import Scratch
from segcal.data.formats.npz import NpyField, NpzField, keys
from segcal.errors import MissingError, ShapeError, UnreadableError, UnsafeFileError


@pytest.mark.parametrize("limit", [1, 900, 1 << 20])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["f2", "f4", ">f8", "i4"])
def test_npz_round_trip(
    save: Callable[..., None],
    dtype: str,
    limit: int,
    tmp_path: Path,
    rng: np.random.Generator,
    read: Callable[..., Any],
) -> None:
    x = (rng.normal(size=(3, 5, 6, 7)) * 9).astype(dtype)
    save(
        tmp_path / "a.npz", other=np.zeros(3), logits=x, fortran=np.asfortranarray(x), last=np.moveaxis(x, 0, -1).copy()
    )
    assert keys(tmp_path / "a.npz") == ["other", "logits", "fortran", "last"]
    for key, axis in (("logits", 0), ("fortran", 0), ("last", -1)):
        field = NpzField.find(tmp_path / "a.npz", key, channel_axis=axis)
        assert (field.shape, field.channels, field.where) == ((5, 6, 7), 3, str(tmp_path / "a.npz"))
        got = read(field, limit)
        assert got.dtype == x.dtype.newbyteorder("=") and np.array_equal(got, x)


@pytest.mark.parametrize("limit", [1, 1 << 20])
def test_npy_round_trip(limit: int, tmp_path: Path, rng: np.random.Generator, read: Callable[..., Any]) -> None:
    x = rng.normal(size=(3, 8, 9)).astype(np.float32)
    for name, stored, axis in (
        ("c", x, 0),
        ("f", np.asfortranarray(x), 0),
        ("last", np.moveaxis(x, 0, -1).copy(), 2),
        ("middle", np.moveaxis(x, 0, 1).copy(), 1),
    ):
        np.save(tmp_path / f"{name}.npy", stored)
        assert np.array_equal(read(NpyField.find(tmp_path / f"{name}.npy", channel_axis=axis), limit), x)
    labels = NpyField.find(tmp_path / "c.npy", channel_axis=None)
    assert labels.channels is None and np.array_equal(read(labels, limit), x)


def test_missing_file_and_key(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no such file"):
        keys(tmp_path / "none.npz")
    np.savez(tmp_path / "a.npz", softmax=np.zeros((2, 3)))
    with pytest.raises(MissingError, match="no array 'probabilities', but softmax"):
        NpzField.find(tmp_path / "a.npz", "probabilities", channel_axis=0)


def test_truncated_files(tmp_path: Path, rng: np.random.Generator) -> None:
    np.savez_compressed(tmp_path / "a.npz", logits=rng.normal(size=(2, 50, 50)))
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[:-1000])
    with pytest.raises(UnreadableError, match=r"a\.npz.*truncated or damaged"):
        NpzField.find(tmp_path / "a.npz", "logits", channel_axis=0)
    np.save(tmp_path / "a.npy", np.zeros((2, 50)))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-1])
    with pytest.raises(UnreadableError, match="expected 928 for shape"):
        NpyField.find(tmp_path / "a.npy", channel_axis=0)
    (tmp_path / "b.npy").write_bytes(b"")
    with pytest.raises(UnreadableError):
        NpyField.find(tmp_path / "b.npy", channel_axis=0)


@pytest.mark.parametrize("limit", [1, 1 << 20])
def test_damage_within_the_values_is_noticed(limit: int, tmp_path: Path, rng: np.random.Generator) -> None:
    np.savez_compressed(tmp_path / "a.npz", logits=rng.normal(size=(2, 50, 50)))
    whole = bytearray((tmp_path / "a.npz").read_bytes())
    middle = len(whole) // 2
    whole[middle : middle + 8] = bytes(8)
    (tmp_path / "a.npz").write_bytes(whole)
    field = NpzField.find(tmp_path / "a.npz", "logits", channel_axis=0)
    with Scratch(limit) as scratch, pytest.raises(UnreadableError, match=r"a\.npz"), field.open(scratch):
        pass


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    objects = np.array([{}, []], dtype=object)
    np.savez(tmp_path / "a.npz", logits=objects)
    np.save(tmp_path / "a.npy", objects)
    with pytest.raises(UnsafeFileError, match="Python objects"):
        NpzField.find(tmp_path / "a.npz", "logits", channel_axis=None)
    with pytest.raises(UnsafeFileError, match="Python objects"):
        NpyField.find(tmp_path / "a.npy", channel_axis=None)


def header(shape: tuple[int, ...]) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return out.getvalue()


def test_member_that_unpacks_to_more_than_its_header_admits(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("logits.npy", header((2, 3)) + bytes(50_000_000))
    with pytest.raises(UnsafeFileError, match=r"bomb\.npz.*unpacks to 50000128 bytes; expected 152"):
        NpzField.find(tmp_path / "bomb.npz", "logits", channel_axis=0)


def test_member_that_holds_less_than_its_header_says(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "short.npz", "w") as archive:
        archive.writestr("logits.npy", header((2, 3000)) + bytes(24))
    with pytest.raises(UnreadableError, match="expected 24128"):
        NpzField.find(tmp_path / "short.npz", "logits", channel_axis=0)


def test_directory_that_claims_what_deflate_cannot_do(tmp_path: Path) -> None:
    shape = (2, 10**8)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("logits.npy", header(shape))
    data = bytearray(out.getvalue())
    entry = data.index(b"PK\x01\x02")
    struct.pack_into("<I", data, entry + 24, len(header(shape)) + 8 * 10**8)  # the size it claims to unpack to
    (tmp_path / "bomb.npz").write_bytes(data)
    with pytest.raises(UnsafeFileError, match="claim to unpack to 800000128"):
        NpzField.find(tmp_path / "bomb.npz", "logits", channel_axis=0)


def test_other_compressions_and_non_numbers(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("logits.npy", header((2, 3)) + bytes(24))
    with pytest.raises(UnreadableError, match="compression method 12"):
        NpzField.find(tmp_path / "a.npz", "logits", channel_axis=0)
    np.savez(tmp_path / "b.npz", logits=np.array(["a", "b"]))
    with pytest.raises(UnreadableError, match="<U1"):
        NpzField.find(tmp_path / "b.npz", "logits", channel_axis=None)
    np.savez(tmp_path / "c.npz", logits=np.zeros(3))
    with pytest.raises(ShapeError, match="at least one spatial axis"):
        NpzField.find(tmp_path / "c.npz", "logits", channel_axis=0)


PEAK = """
import sys
from pathlib import Path
import numpy as np
from segcal.data.files.journal import Scratch
from segcal.data.formats.npz import NpzField

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024

before = peak()
for key in ("c", "f"):
    field, total = NpzField.find(Path(sys.argv[1]), key, channel_axis=0), 0.0
    with Scratch(4 << 20) as scratch, field.open(scratch) as window:
        n = int(np.prod(field.shape))
        for start in range(0, n, 65536):
            total += float(window.read(start, min(start + 65536, n)).sum(dtype=np.float64))
    print(peak() - before, total)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of resident memory is read from /proc")
def test_peak_memory_of_a_case_larger_than_the_limit(tmp_path: Path, rng: np.random.Generator) -> None:
    x = np.tile(rng.integers(0, 9, (4, 1, 150, 200)).astype(np.float32), (1, 100, 1, 1))
    assert x.nbytes == 48_000_000
    with zipfile.ZipFile(tmp_path / "c.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for key, array in (("c", x), ("f", np.asfortranarray(x))):
            with archive.open(f"{key}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, array)
    ran = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path / "c.npz")], capture_output=True, text=True, check=True
    )
    for key, line in zip("cf", ran.stdout.splitlines(), strict=True):
        peak, total = line.split()
        assert float(total) == x.sum(dtype=np.float64)
        assert int(peak) < 8 << 20, f"{key}: {int(peak) / 2**20:.1f} MiB with a limit of 4"
