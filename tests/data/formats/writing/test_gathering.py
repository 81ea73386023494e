from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segcal.data.case import Case
from segcal.data.cohort import Cohort
from segcal.data.files.journal import Scratch
from segcal.data.formats import gathering
from segcal.data.formats.gathering import gather
from segcal.data.formats.requested import Map, Requested
from segcal.data.formats.sink import Delivered
from segcal.data.head import Softmax
from segcal.errors import UsageError

HEAD = Softmax(("a", "b"))


class Unread:
    def __init__(self, voxels):
        self.where, self.channels, self.shape = "scores", 2, (voxels,)

    def open(self, scratch):
        raise AssertionError


def cohort_of(voxels):
    return Cohort((Case("a", (Unread(voxels),)),), HEAD, "probs")


def block(values, start, stop):
    return Delivered(start, values[:2, start:stop], values[0, start:stop].long(), {"entropy": values[2, start:stop]})


@given(
    cuts=st.lists(st.integers(0, 400), max_size=6),
    voxels=st.integers(0, 400),
    limit=st.sampled_from([0, 1 << 20]),
    piece=st.sampled_from([8, 52, 1 << 22]),
)
def test_any_cut_gives_the_rows_back(cuts, voxels, limit, piece):
    values = torch.arange(3 * voxels, dtype=torch.float32).reshape(3, voxels)
    edges = [0, *sorted(min(c, voxels) for c in cuts), voxels]
    cohort, normal = cohort_of(voxels), gathering.PIECE
    gathering.PIECE = piece
    try:
        with (
            Scratch(limit) as scratch,
            gather(cohort, cohort[0], Requested(("entropy",)), scratch, np.dtype("<u2")) as gathered,
        ):
            for start, stop in itertools.pairwise(edges):
                gathered.write(block(values, start, stop))
            gathered.check_complete()
            rows = [*gathered.channels(), gathered.map(Map("entropy"))]
            read = [np.frombuffer(b"".join(bytes(p) for p in row.pieces()), "<f4") for row in rows]
            labels = gathered.label_map().read(0, voxels).copy()
    finally:
        gathering.PIECE = normal
    assert np.array_equal(np.stack(read), values.numpy())
    assert labels.dtype == np.uint16 and np.array_equal(labels, values[0].long().numpy() % 65536)


def test_scratch_files_are_gone_when_the_case_is_closed_or_fails():
    cohort, values = cohort_of(50), torch.zeros(3, 50)
    with Scratch(0) as scratch:
        with gather(cohort, cohort[0], Requested(), scratch) as gathered:
            gathered.write(block(values, 0, 50))
            folder = scratch.path().parent
            assert len(list(folder.iterdir())) == 1
        assert list(folder.iterdir()) == []
        with pytest.raises(RuntimeError), gather(cohort, cohort[0], Requested(), scratch, np.dtype("u1")):
            raise RuntimeError
        assert list(folder.iterdir()) == []


def test_memory_is_used_up_to_the_limit_only():
    cohort = cohort_of(100)
    for limit, files in ((800, 0), (799, 1)):
        with Scratch(limit) as scratch, gather(cohort, cohort[0], Requested(), scratch):
            folder = scratch.path().parent
            assert len(list(folder.iterdir())) == files


GOOD = torch.zeros(2, 10)
LABELS = torch.zeros(10, dtype=torch.int64)


@pytest.mark.parametrize(
    ("delivered", "message"),
    [
        (Delivered(1, GOOD, LABELS, {"entropy": GOOD[0]}), "voxels 1 to 11 of 20; expected voxels from 0 on"),
        (
            Delivered(0, torch.zeros(2, 21), torch.zeros(21).long(), {"entropy": torch.zeros(21)}),
            "voxels 0 to 21 of 20",
        ),
        (Delivered(0, torch.zeros(3, 10), LABELS, {"entropy": GOOD[0]}), r"shape \(3, 10\)"),
        (Delivered(0, GOOD.double(), LABELS, {"entropy": GOOD[0]}), "torch.float64"),
        (Delivered(0, GOOD, LABELS, {"error": GOOD[0]}), "the map 'entropy'"),
        (Delivered(0, GOOD, LABELS, {"entropy": GOOD}), "maps of another length"),
        (Delivered(0, GOOD, LABELS, {"entropy": GOOD[0].double()}), "maps of another length or type"),
        (Delivered(0, GOOD, LABELS[:5], {"entropy": GOOD[0]}), "10 labels"),
    ],
)
def test_a_block_that_would_leave_a_wrong_file_is_refused(delivered, message):
    cohort = cohort_of(20)
    with (
        Scratch(0) as scratch,
        gather(cohort, cohort[0], Requested(("entropy",)), scratch, np.dtype("u1")) as gathered,
        pytest.raises(UsageError, match=message),
    ):
        gathered.write(delivered)


def test_a_voxel_is_not_written_twice():
    cohort, values = cohort_of(20), torch.zeros(3, 20)
    with Scratch(0) as scratch, gather(cohort, cohort[0], Requested(), scratch) as gathered:
        gathered.write(block(values, 0, 10))
        with pytest.raises(UsageError, match="expected voxels from 10 on"):
            gathered.write(block(values, 0, 10))
