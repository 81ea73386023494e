"""Crop padding: the box in which a network looked, found in its probabilities where nothing records it, and what
padding hides.

nnU-Net writes exactly (1, 0, ..., 0) outside its crop box, zeros for region heads. A network's own float32
probabilities are hardly ever exactly 0 (a softmax underflows at margins of about 100), so voxels that every member has
as padding and that fill all of the case but a box are a frame. It is taken for padding only where that can be told:
inside the box next to no voxel holds an exact 0, and none of its faces towards the frame does. Otherwise (a saturated
network, probabilities stored in few digits) the case is refused. No such frame: there is no padding. Costs: one more
pass over the case, once; memory for one block.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segcal.data.head import Head
from segcal.errors import MissingError

if TYPE_CHECKING:
    from segcal.data.case import Case, Window
    from segcal.data.rows import Record

Box = tuple[tuple[int, int], ...]
"""(low, high) a spatial axis."""

FEW = 0.001
"""Share of the voxels in a box that may hold an exact 0."""

FEW_OF_A_FACE = 0.01
"""Share of the voxels of one face of the box, towards the frame, that may."""


@dataclass(eq=False)
class UnrecordedBox:
    """The crop box of one case whose `file`, which would record it, is missing, or `replaced` by an array of
    probabilities; `box` once it has been found.

    One for all copies of a case, so that it is looked for once.
    """

    file: str
    replaced: bool = False
    box: Box | None = None
    _looked: bool = False

    def find(
        self,
        where: str,
        shape: tuple[int, ...],
        windows: Sequence[Window],
        cuts: Iterable[tuple[int, int]],
        head: Head,
        *,
        masked: bool,
    ) -> Box | None:
        """The box, from the members' open scores; None where there is no padding.

        MissingError naming `where` if padding cannot be told from certain predictions, unless the case is `masked`:
        then the mask says what counts, and nothing is taken for padding.
        """
        if not self._looked:
            self.box = self._search(where, shape, windows, cuts, head, masked)
            self._looked = True
        return self.box

    def _search(
        self,
        where: str,
        shape: tuple[int, ...],
        windows: Sequence[Window],
        cuts: Iterable[tuple[int, int]],
        head: Head,
        masked: bool,
    ) -> Box | None:
        padded, zeros = Planes(shape), Planes(shape)
        coarse = False
        for start, stop in cuts:
            flat, zero = np.ones(stop - start, bool), np.zeros(stop - start, bool)
            for window in windows:
                scores = window.read(start, stop)
                coarse |= scores.dtype.kind != "f" or scores.dtype.itemsize < 4
                flat &= head.padding(scores)
                zero |= (scores == 0).any(0)
            padded.add(start, flat)
            zeros.add(start, zero)
        box = padded.box_of_the_rest()
        if box == tuple((0, n) for n in shape):
            return None
        if box is not None and not coarse and _is_sharp(box, shape, zeros):
            return box
        if masked:
            return None
        share = 100 * padded.total / padded.voxels
        place = "stored in few digits, where" if coarse else "in no clear frame:"
        raise MissingError(
            where,
            found=(
                f"no {'properties in ' * self.replaced}{self.file}, and {share:.1f} % of the voxels as nnU-Net writes"
                f" padding, {place} certain predictions look alike"
            ),
            expected=f"{self.file}, in which nnU-Net says where its network looked",
            do=(
                "Copy it from where the case was predicted, or predict the case again. For check, fit and evaluate,"
                " --mask FOLDER names the voxels that count instead."
            ),
        )


class Planes:
    """How many voxels with a property lie in each plane of each axis of a volume of `shape`."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.counts = [np.zeros(n, np.int64) for n in shape]

    @property
    def voxels(self) -> int:
        """Voxels of the volume."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def total(self) -> int:
        """Voxels with the property."""
        return int(self.counts[0].sum())

    def add(self, start: int, has: NDArray[np.bool_]) -> None:
        """Count voxels `start`... of the flattened volume, (n,) bool."""
        index = np.flatnonzero(has) + start
        for axis in range(len(self.shape) - 1, -1, -1):
            index, at = np.divmod(index, self.shape[axis])
            self.counts[axis] += np.bincount(at, minlength=self.shape[axis])

    def box_of_the_rest(self) -> Box | None:
        """The smallest box with every voxel that lacks the property; None if all have it."""
        box = []
        for count, n in zip(self.counts, self.shape, strict=True):
            rest = np.flatnonzero(count < self.voxels // n)
            if not len(rest):
                return None
            box.append((int(rest[0]), int(rest[-1]) + 1))
        return tuple(box)


def _is_sharp(box: Box, shape: tuple[int, ...], zeros: Planes) -> bool:
    """Whether exact zeros end where `box` begins; all voxels outside it have one."""
    sizes = [high - low for low, high in box]
    inside = int(np.prod(sizes, dtype=np.int64))
    if zeros.total - (zeros.voxels - inside) > FEW * inside:
        return False
    for axis, ((low, high), n) in enumerate(zip(box, shape, strict=True)):
        face = inside // sizes[axis]
        around = zeros.voxels // n - face
        for plane, ends in ((low, low > 0), (high - 1, high < n)):
            if ends and zeros.counts[axis][plane] - around > FEW_OF_A_FACE * face:
                return False
    return True


def found_note(cases: Iterable[Case]) -> list[str]:
    """That boxes of cases read so far were found rather than read, and which .pkl were left aside, in a sentence each;
    nothing where none was.
    """
    boxes = [(case.id, case.unrecorded) for case in cases if case.unrecorded is not None]
    found, replaced = [i for i, box in boxes if box.box is not None], [box.file for _, box in boxes if box.replaced]
    out = []
    if replaced:
        out.append(
            f"{_some(replaced)}: the probabilities once more, as nnUNetv2_ensemble wrote in place of the properties;"
            " left aside (a member's .pkl has the properties)"
        )
    if found:
        out.append(f"no .pkl for {_some(found)}: the box in which the network looked was found in the probabilities")
    return out


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def hidden_note(records: Sequence[Record]) -> list[str]:
    """How much labelled foreground lies in padding, in a sentence; nothing where none does."""
    hidden = sum(r.hidden for r in records)
    if not hidden:
        return []
    share = 100 * hidden / sum(r.foreground for r in records)
    return [
        f"{'less than 0.1' if share < 0.05 else f'{share:.1f}'} % of the labelled foreground ({hidden:,} voxels, in"
        f" {sum(r.hidden > 0 for r in records)} of {len(records)} cases) lies in crop padding, where the network never"
        " looked: no calibrator can reach it, and no number (NLL, Dice, ...) counts it"
    ]
