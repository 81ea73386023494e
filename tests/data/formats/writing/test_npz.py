from __future__ import annotations

import threading
import time
import zipfile

import numpy as np
import pytest

from segcal.data.files.journal import Scratch
from segcal.data.formats.npz import NpzSink
from segcal.errors import UsageError

SHAPE = (5, 6, 7)


@pytest.fixture
def content(kit, head):
    return kit.Content.random(head, SHAPE)


def test_round_trip(kit, head, content, scratch, tmp_path):
    cohort = kit.cohort_of(SHAPE, head)
    sink = NpzSink(tmp_path / "out", ("entropy", "probability"), head.classes)
    kit.deliver(sink, cohort, 0, content, scratch)
    sink.finish(cohort)
    with np.load(tmp_path / "out" / "a.npz") as archive:
        assert archive.files == ["probabilities"]
        stored = archive["probabilities"]
    assert stored.dtype == np.float32 and np.array_equal(stored, content.probabilities)
    assert np.array_equal(np.load(tmp_path / "out" / "entropy" / "a.npy"), content.maps["entropy"])
    for c, name in enumerate(("background", "anterior", "posterior_tail")):
        assert np.array_equal(np.load(tmp_path / "out" / f"probability_{name}" / "a.npy"), content.probabilities[c])
    assert {str(p.relative_to(tmp_path / "out")) for p in sink.outputs(cohort[0])} == set(
        kit.everything(tmp_path / "out")
    )


def test_member_is_compressed_and_carries_no_time(kit, head, content, scratch, tmp_path):
    kit.deliver(NpzSink(tmp_path / "out"), kit.cohort_of(SHAPE, head), 0, content, scratch)
    with zipfile.ZipFile(tmp_path / "out" / "a.npz") as archive:
        (member,) = archive.infolist()
        assert archive.testzip() is None
    assert member.compress_type == zipfile.ZIP_DEFLATED and member.date_time == (1980, 1, 1, 0, 0, 0)


def test_bytes_do_not_depend_on_time_blocks_or_memory(kit, head, content, tmp_path, monkeypatch):
    written = []
    for k, (limit, step) in enumerate([(0, 13), (1 << 20, 210), (0, 64)]):
        monkeypatch.setattr(time, "time", lambda k=k: 1e9 + 1e6 * k)
        with Scratch(limit) as scratch:
            kit.deliver(NpzSink(tmp_path / str(k), ("error",)), kit.cohort_of(SHAPE, head), 0, content, scratch, step)
        written.append(kit.everything(tmp_path / str(k)))
    assert len(written[0]) == 2 and written[0] == written[1] == written[2]


def test_a_case_without_voxels_is_an_empty_array(kit, head, scratch, tmp_path):
    cohort = kit.cohort_of((0, 4), head)
    with NpzSink(tmp_path / "out").case(cohort, cohort[0], scratch):
        pass
    assert np.load(tmp_path / "out" / "a.npz")["probabilities"].shape == (3, 0, 4)


def test_interruption_leaves_an_empty_folder(kit, head, content, scratch, tmp_path):
    cohort = kit.cohort_of(SHAPE, head)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(KeyboardInterrupt), NpzSink(out, ("entropy",)).case(cohort, cohort[0], scratch) as writer:
        writer.write(kit.block(content, 0, 100))
        raise KeyboardInterrupt
    assert list(out.iterdir()) == []


def test_an_incomplete_case_is_refused_and_leaves_nothing(kit, head, content, scratch, tmp_path):
    cohort = kit.cohort_of(SHAPE, head)
    with (
        pytest.raises(UsageError, match="100 voxels written; expected all 210"),
        NpzSink(tmp_path / "out").case(cohort, cohort[0], scratch) as writer,
    ):
        writer.write(kit.block(content, 0, 100))
    assert not (tmp_path / "out").exists()


def test_cases_written_at_once_in_threads_equal_those_written_in_turn(kit, head, tmp_path):
    names = [f"case{k}" for k in range(8)]
    cohort = kit.cohort_of(SHAPE, head, names)
    contents = [kit.Content.random(head, SHAPE, seed) for seed in range(8)]
    barrier, errors = threading.Barrier(8), []
    with Scratch(0) as scratch:
        for k in range(8):
            kit.deliver(NpzSink(tmp_path / "turn", ("entropy",)), cohort, k, contents[k], scratch)

        def work(sink, k):
            try:
                with sink.case(cohort, cohort[k], scratch) as writer:
                    barrier.wait(30)  # all are open
                    for start in range(0, 210, 30):
                        writer.write(kit.block(contents[k], start, start + 30))
            except Exception as error:  # noqa: BLE001  a thread hands its error to the test
                errors.append(error)

        sink = NpzSink(tmp_path / "once", ("entropy",))
        threads = [threading.Thread(target=work, args=(sink, k)) for k in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
    assert len(kit.everything(tmp_path / "once")) == 16 and kit.everything(tmp_path / "once") == kit.everything(
        tmp_path / "turn"
    )


def test_an_existing_case_is_replaced_whole(kit, head, content, scratch, tmp_path):
    cohort = kit.cohort_of(SHAPE, head)
    sink = NpzSink(tmp_path / "out")
    (tmp_path / "out").mkdir()
    sink.outputs(cohort[0])[0].write_bytes(b"old")
    kit.deliver(sink, cohort, 0, content, scratch)
    assert np.array_equal(np.load(tmp_path / "out" / "a.npz")["probabilities"], content.probabilities)
