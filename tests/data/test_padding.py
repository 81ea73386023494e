"""The crop box found in probabilities: exactly where nnU-Net's padding is, never where it cannot be told from certain
predictions; and foreground that padding hides.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from segcal.data.case import Case
from segcal.data.cohort import Cohort
from segcal.data.files.journal import Scratch
from segcal.data.formats.arrays import ArrayField
from segcal.data.head import Regions, Softmax
from segcal.data.padding import UnrecordedBox, found_note, hidden_note
from segcal.data.rows import Record
from segcal.engine.serial import Serial
from segcal.errors import MissingError
from segcal.tasks.check import check

SOFTMAX = Softmax(("background", "a", "b"), 0)
REGIONS = Regions(("whole", "core"), ((1, 2), (2,)), (1, 2))


def probabilities(shape: Sequence[int], head: Any = SOFTMAX, sharp: float = 3.0, seed: int = 0) -> NDArray[np.float32]:
    """Random probabilities (channels, *shape) without an exact 0 or 1."""
    z = sharp * np.random.default_rng(seed).normal(size=(head.channels, *shape)).astype(np.float32)
    if isinstance(head, Regions):
        return 1 / (1 + np.exp(-z))
    e = np.exp(z - z.max(0))
    return e / e.sum(0)


def padded(p: NDArray[Any], box: Sequence[tuple[int, int]], head: Any = SOFTMAX) -> NDArray[Any]:
    """As nnU-Net writes `p` outside the box."""
    outside = np.ones(p.shape[1:], bool)
    outside[tuple(slice(*axis) for axis in box)] = False
    out = p.copy()
    out[:, outside] = 0
    if isinstance(head, Softmax):
        out[0, outside] = 1
    return out


def cohort(members: Sequence[NDArray[Any]], head: Any = SOFTMAX, labels: Any = None, mask: Any = None) -> Cohort:
    scores = tuple(ArrayField(p, True, f"member {k}") for k, p in enumerate(members))
    fields = [None if a is None else ArrayField(a, False, "map") for a in (labels, mask)]
    case = Case("c", scores, fields[0], mask=fields[1], unrecorded=UnrecordedBox("c.pkl"))
    return Cohort((case,), head, "probs")


def crop(data: Cohort) -> Any:
    with Scratch(1 << 20) as scratch, data.open(0, scratch) as reader:
        return reader.crop


@given(st.data(), st.sampled_from([SOFTMAX, REGIONS]), st.integers(1, 3))
def test_a_frame_is_found_whatever_sides_it_has(data: st.DataObject, head: Any, members: int) -> None:
    shape = data.draw(st.lists(st.integers(1, 7), min_size=2, max_size=3))
    box = []
    for n in shape:
        low = data.draw(st.integers(0, n - 1))
        box.append((low, data.draw(st.integers(low + 1, n))))
    given_ = [padded(probabilities(shape, head, seed=k), box, head) for k in range(members)]
    whole = all(axis == (0, n) for axis, n in zip(box, shape, strict=True))
    assert crop(cohort(given_, head)) == (None if whole else tuple(box))


@dataclass(frozen=True, eq=False)
class Counted(ArrayField):
    """An array whose readings are counted."""

    reads: list[int] = field(default_factory=list)

    @contextlib.contextmanager
    def open(self, scratch: Scratch) -> Iterator[Any]:
        with super().open(scratch) as window:

            def read(start: int, stop: int) -> NDArray[Any]:
                self.reads.append(stop - start)
                return window.read(start, stop)

            yield SimpleNamespace(read=read)


def test_a_box_is_looked_for_once_block_by_block() -> None:
    shape, box = (40, 50, 60), ((3, 33), (0, 50), (5, 60))
    scores = Counted(padded(probabilities(shape), box), True, "p")
    data = Cohort((Case("c", (scores,), unrecorded=UnrecordedBox("c.pkl")),), SOFTMAX, "probs")
    blocks = [stop - start for start, stop in data.cuts(0)]
    assert len(blocks) > 1 and crop(data) == box and scores.reads == blocks
    assert crop(data.select(["c"]).grouped({"c": "g"})) == box and scores.reads == blocks
    assert found_note(data) == [
        "no .pkl for c: the box in which the network looked was found in the probabilities",
    ]


def test_certain_predictions_in_a_case_without_a_frame_are_no_padding() -> None:
    p = probabilities((6, 7, 8))
    p[:, 1:4, 2:5], p[0, 1:4, 2:5] = 0, 1
    p[:, 0, :3], p[0, 0, :3] = 0, 1
    assert crop(cohort([p])) is None
    assert crop(cohort([p.astype(np.float16)])) is None
    assert found_note(cohort([p])) == []


def test_a_few_certain_voxels_inside_do_not_hide_a_frame() -> None:
    box = ((2, 22), (2, 22), (2, 22))
    p = padded(probabilities((24, 24, 24)), box)
    p[:, 10, 10, 5:12], p[0, 10, 10, 5:12] = 0, 1
    assert crop(cohort([p])) == box


BOX = ((2, 10), (2, 10), (2, 10))


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda p: p.astype(np.float16), id="float16"),
        pytest.param(lambda p: (255 * p).round().astype(np.float32) / 255, id="eight bits"),
        pytest.param(lambda p: p.round(3), id="decimals"),
        pytest.param(lambda p: padded(p, ((0, 0),) * 3), id="nothing but padding"),
    ],
)
def test_what_cannot_be_told_from_certain_predictions_is_refused(spoil: Any) -> None:
    p = spoil(padded(probabilities((12, 12, 12), sharp=6.0), BOX))
    with pytest.raises(MissingError, match=r"member 0: found no c\.pkl, and \d+\.\d % of the voxels as nnU-Net") as e:
        crop(cohort([p]))
    assert "Copy it" in e.value.do
    mask = np.ones((12, 12, 12), np.uint8)
    assert crop(cohort([p], mask=mask)) is None


def test_a_saturated_layer_along_the_frame_is_refused() -> None:
    """Beyond it the frame seems a layer thicker, or not, and nobody can tell."""
    p = padded(probabilities((12, 40, 40)), ((2, 10), (2, 38), (2, 38)))
    p[:, 2, 2:38, 2:37], p[0, 2, 2:38, 2:37] = 0, 1
    with pytest.raises(MissingError, match="in no clear frame"):
        crop(cohort([p]))


def test_members_agree_on_padding() -> None:
    """A voxel that one member is certain of is not padding."""
    box = ((2, 22), (2, 22), (2, 22))
    one = padded(probabilities((24, 24, 24)), box)
    other = padded(probabilities((24, 24, 24), seed=1), ((2, 22), (2, 22), (1, 22)))
    assert crop(cohort([one, one])) == box
    with pytest.raises(MissingError):  # the first has exact zeros where the second looked
        crop(cohort([one, other]))


def test_a_case_that_is_refused_does_not_stop_the_others() -> None:
    p = padded(probabilities((12, 12, 12), sharp=6.0), BOX)
    good, bad = cohort([p]).cases[0], cohort([p.astype(np.float16)]).cases[0]
    bad = Case("bad", bad.scores, unrecorded=UnrecordedBox("bad.pkl"))
    found = check(Cohort((good, bad), SOFTMAX, "probs"), Serial())
    assert list(found.facts["failed"]) == ["bad"] and not found.usable
    assert found.facts["voxels"]["padding"] == 12**3 - 8**3


@pytest.mark.parametrize("head", [SOFTMAX, REGIONS])
def test_labelled_foreground_in_padding_is_counted(head: Any) -> None:
    p = padded(probabilities((12, 12, 12), head), BOX, head)
    y = np.zeros((12, 12, 12), np.uint8)
    y[5, 5, :] = 2  # 8 of 12 inside the box
    y[0, 0, 0] = 1
    data = cohort([p], head, y)
    with Scratch(1 << 20) as scratch, data.open(0, scratch) as reader:
        record = reader.record([reader.note(reader.block(*cut)) for cut in data.cuts(0)])
    assert (record.foreground, record.hidden) == (13, 5)
    (note,) = hidden_note([record, Record("d", "", "", "", (1, 0, 0, 0), 100 - 13, 0)])
    assert note.startswith("5.0 % of the labelled foreground (5 voxels, in 1 of 2 cases) lies in crop padding")


def test_nothing_hidden_nothing_said() -> None:
    assert hidden_note([Record("d", "", "", "", (1, 0, 0, 0), 100, 0)]) == []
    assert "less than 0.1 %" in hidden_note([Record("d", "", "", "", (1, 0, 0, 0), 100_000, 1)])[0]
