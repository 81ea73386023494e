"""Full disks, refused writes, odd references, cases larger than memory: nothing partial stays, and the error
says so.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import zarr

from segcal.data.case import Case, Provenance
from segcal.data.cohort import Cohort
from segcal.data.files.journal import Scratch
from segcal.data.formats.registry import FORMATS, sink_for
from segcal.data.formats.sink import Delivered
from segcal.data.head import Softmax
from segcal.errors import DataError, OutputError, SegcalError

SHAPE = (32, 32, 32)
HEAD = Softmax(("background", "organ", "lesion"))


class Unread:
    def __init__(self, shape):
        self.where, self.channels, self.shape = "scores", 3, shape

    def open(self, scratch):
        raise AssertionError


def cohort_in(folder, members=1, shape=SHAPE):
    folder.mkdir()
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape[::-1], np.uint8), np.diag([1, 2, 3, 1.0])), folder / "a.nii.gz")
    (folder / "a.pkl").write_bytes(b"pkl")
    for name in ("dataset.json", "plans.json"):
        (folder / name).write_text("{}")
    files = {"folder": folder, "properties": folder / "a.pkl", "label_map": folder / "a.nii.gz"}
    return Cohort((Case("a", (Unread(shape),) * members, files=files),), HEAD, "probs", provenance=Provenance(members))


def blocks(shape=SHAPE, step=4096):
    rng = np.random.default_rng(0)
    for start in range(0, int(np.prod(shape)), step):
        values = torch.from_numpy(rng.random((3, step), np.float32))
        yield Delivered(start, values, values.argmax(0), {"entropy": values[0]})


def left(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*")) if folder.exists() else []


def write(sink, cohort, scratch):
    with sink.case(cohort, cohort[0], scratch) as writer:
        for delivered in blocks():
            writer.write(delivered)


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 256 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root on Linux")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("limit", [0, 1 << 24])
def test_a_full_disk(tmp_path, small_disk, name, limit):
    cohort = cohort_in(tmp_path / "in", members=2)
    with Scratch(limit) as scratch, pytest.raises(OutputError, match="no space left on the disk") as caught:
        write(sink_for(cohort, small_disk / "out", ("entropy",), name), cohort, scratch)
    assert str(small_disk) in caught.value.where and caught.value.exit_code == 3
    assert left(small_disk) == []


def test_a_disk_with_room_for_some_files_only(tmp_path, small_disk):
    """The npz fits, the maps after it do not: none of them stays."""
    cohort = cohort_in(tmp_path / "in")
    even, labels = torch.full((3, 4096), 1 / 3), torch.zeros(4096, dtype=torch.int64)
    flat = [
        Delivered(d.start, even, labels, dict(zip(("entropy", "error", "confidence"), d.probabilities, strict=True)))
        for d in blocks()
    ]
    sink = sink_for(cohort, small_disk, ("entropy", "error", "confidence"))
    with (
        Scratch(0) as scratch,
        pytest.raises(OutputError, match="no space left"),
        sink.case(cohort, cohort[0], scratch) as writer,
    ):
        for delivered in flat:
            writer.write(delivered)
    assert left(small_disk) == []


def test_full_scratch_space(tmp_path, small_disk, monkeypatch):
    monkeypatch.setenv("SEGCAL_SCRATCH", str(small_disk))
    cohort = cohort_in(tmp_path / "in")
    with Scratch(0) as scratch, pytest.raises(OutputError, match="no space left") as caught:
        write(sink_for(cohort, tmp_path / "out"), cohort, scratch)
    assert str(small_disk) in caught.value.where
    assert left(small_disk) == [] and left(tmp_path / "out") == []


class FullAfter:
    """A file that takes so many bytes and then no more, like a full disk."""

    def __init__(self, file, room):
        self._file, self._room = file, room

    def write(self, data):
        self._room -= memoryview(data).nbytes
        if self._room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._file.write(data)

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()


@pytest.mark.parametrize("room", [0, 20, 1000, 100_000])
@pytest.mark.parametrize("name", ["nnunet", "npz", "npy", "nifti"])
def test_a_disk_that_fills_at_any_byte(tmp_path, monkeypatch, name, room):
    """Closing a zip or gzip file on a full disk fails again; that must not hide the reason, or leave a file."""
    cohort, opened = cohort_in(tmp_path / "in", members=2), Path.open

    def full(path, mode="r", *args, **kwargs):
        file = opened(path, mode, *args, **kwargs)
        return FullAfter(file, room) if mode == "wb" else file

    monkeypatch.setattr(Path, "open", full)
    with Scratch(1 << 24) as scratch, pytest.raises(OutputError, match="no space left on the disk"):
        write(sink_for(cohort, tmp_path / "out", ("entropy",), name), cohort, scratch)
    assert left(tmp_path / "out") == []


@pytest.mark.parametrize("name", FORMATS)
def test_interrupted_while_the_files_are_written(tmp_path, monkeypatch, name):
    from segcal.data.formats import gathering

    cohort, calls, read = cohort_in(tmp_path / "in", members=2), [], gathering.Held.read

    def interrupting(held, row, start, stop):
        calls.append(row)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return read(held, row, start, stop)

    monkeypatch.setattr(gathering.Held, "read", interrupting)
    monkeypatch.setenv("SEGCAL_SCRATCH", str(tmp_path))
    with Scratch(0) as scratch:
        with pytest.raises(KeyboardInterrupt):
            write(sink_for(cohort, tmp_path / "out", ("entropy",), name), cohort, scratch)
        assert left(tmp_path / "out") == [] and left(scratch.path().parent) == []


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_where_the_folder_should_be(tmp_path, name):
    cohort = cohort_in(tmp_path / "in")
    (tmp_path / "out").write_bytes(b"mine")
    with Scratch(0) as scratch, pytest.raises(OutputError, match="Choose another output path"):
        write(sink_for(cohort, tmp_path / "out", ("entropy",), name), cohort, scratch)
    assert (tmp_path / "out").read_bytes() == b"mine"


@pytest.mark.parametrize("broken", [b"", b"no gzip", b"\x1f\x8b\x08\x00", None])
def test_a_reference_that_cannot_be_read_is_named_before_any_work(tmp_path, broken):
    cohort = cohort_in(tmp_path / "in", members=2)
    label_map = cohort[0].files["label_map"]
    label_map.write_bytes(label_map.read_bytes()[:30] if broken is None else broken)
    sink = sink_for(cohort, tmp_path / "out")
    with Scratch(0) as scratch, pytest.raises(DataError, match=r"a\.nii\.gz"), sink.case(cohort, cohort[0], scratch):
        raise AssertionError("opened")
    assert left(tmp_path / "out") == []


@pytest.mark.parametrize("name", ["../a", "/a", "a/../../b", "."])
def test_a_case_cannot_be_written_outside_the_folder(tmp_path, name):
    cohort = Cohort((Case(name, (Unread(SHAPE),)),), HEAD, "probs")
    for kind in ("npz", "npy", "zarr", "nifti"):
        with Scratch(0) as scratch, pytest.raises(SegcalError, match="cannot be the name of a file"):
            write(sink_for(cohort, tmp_path / "out", (), kind), cohort, scratch)
    assert left(tmp_path) == []


def test_two_cases_open_in_one_thread_do_not_meet(tmp_path):
    cohort = Cohort(tuple(Case(n, (Unread(SHAPE),)) for n in "ab"), HEAD, "probs")
    sink = sink_for(cohort, tmp_path)
    with Scratch(0) as scratch:
        with contextlib.ExitStack() as stack:
            writers = [stack.enter_context(sink.case(cohort, case, scratch)) for case in cohort]
            for delivered in blocks():
                writers[0].write(delivered)
                writers[1].write(Delivered(delivered.start, 1 - delivered.probabilities, delivered.label_map))
        stored = [np.load(tmp_path / f"{n}.npz")["probabilities"] for n in "ab"]
    assert np.array_equal(stored[0], torch.cat([d.probabilities for d in blocks()], 1).numpy().reshape(3, *SHAPE))
    assert np.array_equal(1 - stored[0], stored[1])


MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np, torch
import nibabel, zarr, PIL.Image
from segcal.data.case import Case, Provenance
from segcal.data.cohort import Cohort
from segcal.data.head import Softmax
from segcal.data.files.journal import Scratch
from segcal.data.formats.sink import Delivered
from segcal.data.formats.registry import sink_for

torch.set_num_threads(1)
shape, step, folder = (250, 200, 200), 65_536, Path(sys.argv[1])

class Unread:
    where, channels = "scores", 4
    def __init__(self): self.shape = shape

cohort = Cohort((Case("a", (Unread(),)),), Softmax(tuple("abcd")), "probs")
voxels = cohort[0].voxels
assert voxels * 4 * 4 == 160_000_000
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
base = peak()
for name in sys.argv[2:]:
    with Scratch(8 << 20) as scratch, sink_for(cohort, folder, (), name).case(cohort, cohort[0], scratch) as writer:
        for start in range(0, voxels, step):
            n = min(step, voxels - start)
            p = torch.full((4, n), start / voxels / 4, dtype=torch.float32)
            p[0] = 1 - 3 * p[0]
            writer.write(Delivered(start, p, p.argmax(0)))
    print(name, round(peak() - base, 1))
"""


def test_a_case_of_160_mb_is_written_within_80_mb(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(MEMORY))
    command = [sys.executable, str(script), str(tmp_path / "out"), "npz", "zarr", "nifti"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "SEGCAL_SCRATCH": str(tmp_path)}
    )
    growth = {line.split()[0]: float(line.split()[1]) for line in done.stdout.splitlines()}
    assert list(growth) == ["npz", "zarr", "nifti"]
    assert max(growth.values()) < 80, growth
    with np.load(tmp_path / "out" / "a.npz") as archive:
        stored = archive["probabilities"]
    assert stored.shape == (4, 250, 200, 200) and np.array_equal(
        stored[3], zarr.open_array(tmp_path / "out" / "a.zarr", mode="r")[3]
    )
    assert np.array_equal(
        np.asarray(nibabel.load(tmp_path / "out" / "a.nii.gz").dataobj[:, :, 7, 2]), stored[2, :, :, 7]
    )
