from __future__ import annotations

import numpy as np

from segcal.data.formats.npz import NpySink


def test_round_trip_as_a_memory_map(kit, head, scratch, tmp_path):
    shape = (9, 11)
    content, cohort = kit.Content.random(head, shape), kit.cohort_of((9, 11), head)
    sink = NpySink(tmp_path, ("confidence",))
    kit.deliver(sink, cohort, 0, content, scratch)
    sink.finish(cohort)
    stored = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert stored.dtype == np.float32 and stored.shape == (3, *shape) and np.array_equal(stored, content.probabilities)
    assert np.array_equal(np.load(tmp_path / "confidence" / "a.npy"), content.maps["confidence"])
    assert sink.outputs(cohort[0]) == [tmp_path / "a.npy", tmp_path / "confidence" / "a.npy"]


def test_a_plain_table_is_a_case_of_one_axis(kit, head, scratch, tmp_path):
    content = kit.Content.random(head, (500,))
    kit.deliver(NpySink(tmp_path), kit.cohort_of((500,), head), 0, content, scratch)
    assert np.array_equal(np.load(tmp_path / "a.npy"), content.probabilities)
