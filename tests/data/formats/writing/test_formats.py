from __future__ import annotations

import numpy as np
import pytest

from segcal.data.formats.nnunet_sink import NnunetSink
from segcal.data.formats.npz import NpzSink
from segcal.data.formats.registry import FORMATS, sink_for
from segcal.errors import UsageError

SHAPE = (4, 5, 6)


def nnunet_files(kit, folder):
    return kit.nnunet_folder(folder, ["a"], lambda path: kit.nifti(path, np.zeros(SHAPE[::-1], np.uint8), kit.OBLIQUE))


def test_layout_follows_the_cases(kit, head, tmp_path):
    assert isinstance(sink_for(kit.cohort_of(SHAPE, head), tmp_path), NpzSink)
    assert isinstance(
        sink_for(kit.cohort_of(SHAPE, head, files=nnunet_files(kit, tmp_path / "in")), tmp_path), NnunetSink
    )


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_writes_what_it_lists_and_nothing_else(kit, head, scratch, tmp_path, name):
    cohort = kit.cohort_of(SHAPE, head, files=nnunet_files(kit, tmp_path / "in"))
    sink = sink_for(cohort, tmp_path / "out", ("entropy", "probability"), name)
    assert type(sink) is FORMATS[name]
    kit.deliver(sink, cohort, 0, kit.Content.random(head, SHAPE), scratch)
    listed = sink.outputs(cohort[0])
    assert all(path.exists() for path in listed)
    stores = {p for p in (tmp_path / "out").rglob("*") if p.suffix == ".zarr"}
    left = {p for p in (tmp_path / "out").rglob("*") if p.is_file() and not stores & set(p.parents)} | stores
    assert left == set(listed)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_deterministic_and_leaves_nothing_when_interrupted(kit, head, scratch, tmp_path, name):
    cohort, content = (
        kit.cohort_of(SHAPE, head, files=nnunet_files(kit, tmp_path / "in")),
        kit.Content.random(head, SHAPE),
    )
    maps = ("error", "probability")
    for folder, step in (("one", 97), ("two", 11)):
        kit.deliver(sink_for(cohort, tmp_path / folder, maps, name), cohort, 0, content, scratch, step)
    assert kit.everything(tmp_path / "one") == kit.everything(tmp_path / "two") != {}
    with (
        pytest.raises(RuntimeError, match="stop"),
        sink_for(cohort, tmp_path / "three", maps, name).case(cohort, cohort[0], scratch) as writer,
    ):
        for start in range(0, 120, 30):
            writer.write(kit.block(content, start, start + 30))
        raise RuntimeError("stop")
    assert not (tmp_path / "three").exists()


def test_refusals(kit, head, tmp_path):
    with pytest.raises(UsageError, match="one of nnunet, npz, npy, zarr, nifti"):
        sink_for(kit.cohort_of(SHAPE, head), tmp_path, format="tiff")
    with pytest.raises(UsageError, match="nnU-Net did not write"):
        sink_for(kit.cohort_of(SHAPE, head), tmp_path, format="nnunet")
