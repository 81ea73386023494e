from __future__ import annotations

import numpy as np
import pytest
import zarr

from segcal.data.formats import zarr as sink_module
from segcal.data.formats.zarr import ZarrSink

SHAPE = (7, 5, 6)


@pytest.mark.parametrize("chunk", [1 << 20, 60, 7])
def test_round_trip_for_any_chunk(kit, head, scratch, tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(sink_module, "CHUNK", chunk)
    content, cohort = kit.Content.random(head, SHAPE), kit.cohort_of(SHAPE, head, spacing=(3.0, 1.0, 0.5))
    sink = ZarrSink(tmp_path, ("entropy",))
    kit.deliver(sink, cohort, 0, content, scratch)
    sink.finish(cohort)
    stored = zarr.open_array(tmp_path / "a.zarr", mode="r")
    assert stored.metadata.zarr_format == 3 and stored.dtype == np.float32
    assert stored.chunks[0] == 1 and np.prod(stored.chunks) <= chunk
    assert np.array_equal(stored[:], content.probabilities)
    assert stored.attrs["classes"] == list(head.classes) and stored.attrs["spacing"] == [3.0, 1.0, 0.5]
    assert np.array_equal(zarr.open_array(tmp_path / "entropy" / "a.zarr", mode="r")[:], content.maps["entropy"])
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "scratch") == ["a.zarr", "entropy"]


def test_same_bytes_twice_and_an_existing_store_is_replaced(kit, head, scratch, tmp_path):
    cohort = kit.cohort_of(SHAPE, head)
    for seed in (1, 0):
        kit.deliver(ZarrSink(tmp_path / "twice"), cohort, 0, kit.Content.random(head, SHAPE, seed), scratch)
    kit.deliver(ZarrSink(tmp_path / "once"), cohort, 0, kit.Content.random(head, SHAPE, 0), scratch)
    once = kit.everything(tmp_path / "once")
    assert len(once) > 1 and once == kit.everything(tmp_path / "twice")


def test_interruption_leaves_an_empty_folder(kit, head, scratch, tmp_path):
    content, cohort, out = kit.Content.random(head, SHAPE), kit.cohort_of(SHAPE, head), tmp_path / "out"
    out.mkdir()
    with pytest.raises(KeyboardInterrupt), ZarrSink(out, ("error",)).case(cohort, cohort[0], scratch) as writer:
        writer.write(kit.block(content, 0, 50))
        raise KeyboardInterrupt
    assert list(out.iterdir()) == []
