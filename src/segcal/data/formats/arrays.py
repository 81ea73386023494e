"""Cases from arrays or tensors already in memory.

Promises: nothing is copied but the window read; tensors may live on any device and carry gradients (they are detached).
Scores are (B, C, *spatial) with labels (B, *spatial), lists of per-case (C, *spatial) and (*spatial), or a table (N, C)
with labels (N,), whose `groups` name the case of each row (without `groups` the table is one case). Wrong shapes raise
ShapeError, labels that are no numbers LabelError, scores that are none ScoreError, each naming the argument. An empty
batch raises MissingError.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcal.data import numbering
from segcal.data.case import Case, Field, Provenance, Window
from segcal.data.cohort import Cohort
from segcal.data.files.journal import Scratch
from segcal.data.formats.windows import ArrayWindow
from segcal.data.head import Head, undescribed
from segcal.data.numbering import Numbers
from segcal.data.scores import check_kind
from segcal.errors import LabelError, ScoreError, ShapeError, UsageError

Array = NDArray[Any] | Tensor


@dataclass(frozen=True, eq=False)
class ArrayField:
    """One array over the voxels of a case: (channels, *spatial) if `channelled`, else (*spatial)."""

    array: Array
    channelled: bool
    where: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape."""
        return tuple(self.array.shape[1:] if self.channelled else self.array.shape)

    @property
    def channels(self) -> int | None:
        """Channels, or None."""
        return int(self.array.shape[0]) if self.channelled else None

    @contextlib.contextmanager
    def open(self, scratch: Scratch) -> Iterator[Window]:
        """Open for reading by windows."""
        yield (
            _TensorWindow(self.array, self.channelled)
            if isinstance(self.array, Tensor)
            else ArrayWindow(self.array, self.channelled)
        )


class _TensorWindow:
    """Moves the rows of a window to the host."""

    def __init__(self, tensor: Tensor, channelled: bool) -> None:
        self._tensor, self._channelled = tensor.detach(), channelled

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Voxels start..stop of the flattened field."""
        whole = self._tensor if self._channelled else self._tensor[None]
        inner = int(np.prod(whole.shape[2:], dtype=np.int64))
        first, last = (start // inner, -(-stop // inner)) if inner else (0, 0)
        part = whole[:, first:last].reshape(whole.shape[0], -1)[:, start - first * inner : stop - first * inner]
        values = _host(part)
        return values if self._channelled else values[0]


@dataclass(frozen=True, eq=False)
class RowsField:
    """Some rows of a table (N, channels), or of a column (N,)."""

    table: Array
    rows: NDArray[np.int64]
    where: str

    @property
    def shape(self) -> tuple[int, ...]:
        """One axis: the rows."""
        return (len(self.rows),)

    @property
    def channels(self) -> int | None:
        """Channels, or None."""
        return int(self.table.shape[1]) if self.table.ndim == 2 else None

    @contextlib.contextmanager
    def open(self, scratch: Scratch) -> Iterator[Window]:
        """Open for reading by windows."""
        yield self

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows start..stop: (channels, n) or (n,)."""
        rows = self.rows[start:stop]
        taken = (
            _host(self.table.detach()[torch.from_numpy(rows).to(self.table.device)])
            if isinstance(self.table, Tensor)
            else self.table[rows]
        )
        return taken.T


def _host(tensor: Tensor) -> NDArray[Any]:
    held = tensor.to("cpu")
    return np.array((held.float() if held.dtype == torch.bfloat16 else held).numpy())


def cohort_from_arrays(
    scores: Any,
    labels: Any = None,
    *,
    kind: str = "logits",
    head: Head | None = None,
    classes: Sequence[str] | None = None,
    background: int | EllipsisType | None = ...,
    ignore_index: int | Sequence[int] | None = None,
    label_map: Numbers | None = None,
    mask: Any = None,
    groups: Sequence[object] | None = None,
    ids: Sequence[str] | None = None,
    fields: Mapping[str, Any] | None = None,
    networks: int | None = None,
) -> Cohort:
    """A cohort from arrays or tensors; shapes as in the module's docstring.

    `head` describes the network's output; without it a softmax head, or that of one sigmoid for one channel, is made
    from `classes` (names; default '0', '1', ...), `background` and `ignore_index` (a label, or several, never scored).
    `label_map`: classes by the numbers that labels give them, as in `open_cohort`. `mask`: non-zero where voxels count,
    shaped as the labels. `groups`: for a batch or a list one name a case, cases of one group are kept together; for a
    table the case of each row. `ids`: names of the cases (default '0', '1', ... with leading zeros). `fields`: more
    arrays by name, shaped as the labels, or with channels as the scores. `networks`: how many networks each probability
    averages, to be remembered by calibrators.
    """
    checked, ignored = check_kind(kind), numbering.listed(ignore_index)
    if head is not None and (classes is not None or background is not ... or ignored):
        raise UsageError(
            "head",
            found="a head beside classes, background or ignore_index",
            expected="one or the other",
            do="The head already says them.",
        )
    named = {"labels": labels, "mask": mask, **(fields or {})}
    given = {name: value for name, value in named.items() if value is not None}
    batch: list[dict[str, Field]]
    if not isinstance(scores, list | tuple) and _array(scores, "scores").ndim == 2:
        names, batch = _table(_array(scores, "scores"), {k: _array(v, k) for k, v in given.items()}, groups, ids)
        cohort_groups = [""] * len(names)
    else:
        batch = _batch(scores, given)
        names = _names(len(batch), ids)
        cohort_groups = [""] * len(names) if groups is None else [str(g) for g in groups]
        if len(cohort_groups) != len(batch):
            raise ShapeError(
                "groups",
                found=f"{len(cohort_groups)} groups",
                expected=f"{len(batch)}, one a case",
                do="Name the group of each case in order.",
            )
    cases = tuple(
        Case(
            name,
            (case["scores"],),
            case.get("labels"),
            group,
            case.get("mask"),
            fields={k: f for k, f in case.items() if k not in ("scores", "labels", "mask")},
            table=isinstance(case["scores"], RowsField),
        )
        for name, group, case in zip(names, cohort_groups, batch, strict=True)
    )
    if head is None:
        channels = (cases[0].scores[0].channels or 0) if cases else 2
        head = undescribed(channels, classes, background, ignored)
    found = Cohort(cases, head, checked, provenance=Provenance().told(networks), name="scores")
    return found.numbered(label_map, ignored)


def _array(value: Any, name: str) -> Array:
    """An array or tensor of real numbers."""
    error = ScoreError if name.startswith("scores") else LabelError
    if isinstance(value, Tensor):
        if not value.is_complex():
            return value
        kind = str(value.dtype)
    else:
        try:
            array = np.asarray(value)
        except ValueError as problem:
            raise ShapeError(
                name, found="a ragged array", expected="one shape", do="Give a list of per-case arrays."
            ) from problem
        if array.dtype.kind in "biuf":
            return array
        kind = str(array.dtype)
    raise error(
        name,
        found=f"values of type {kind}",
        expected="real numbers",
        do="Give a NumPy array or a torch tensor of numbers.",
    )


def tensor_of(value: Any, name: str) -> Tensor:
    """A tensor of real numbers from an array, a list or a tensor; errors as of scores, or of labels, by `name`."""
    array = _array(value, name)
    if isinstance(array, Tensor):
        return array
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:  # types that torch does not compute with
        array = array.astype(np.int64)
    return torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False)))


def _batch(scores: Any, given: Mapping[str, Any]) -> list[dict[str, Field]]:
    cases = _split(scores, "scores")
    for k, array in enumerate(cases):
        if array.ndim < 2:
            raise ShapeError(
                f"scores[{k}]",
                found=f"shape {tuple(array.shape)}",
                expected="(classes, *spatial)",
                do="Scores are (B, C, *spatial), a list of (C, *spatial), or a table (N, C).",
            )
    batch: list[dict[str, Field]] = [{"scores": ArrayField(a, True, f"scores[{k}]")} for k, a in enumerate(cases)]
    for name, value in given.items():
        parts = _split(value, name)
        if len(parts) != len(cases):
            raise ShapeError(
                name,
                found=f"{len(parts)} cases",
                expected=f"{len(cases)} as in scores",
                do=(
                    "Scores are (B, C, *spatial) and labels (B, *spatial); a single case needs its batch axis:"
                    " scores[None], labels[None]."
                ),
            )
        for k, array in enumerate(parts):
            channelled = name not in ("labels", "mask") and array.ndim == cases[k].ndim
            batch[k][name] = ArrayField(array, channelled, f"{name}[{k}]")
    return batch


def _split(value: Any, name: str) -> list[Array]:
    if isinstance(value, list | tuple):
        return [_array(v, f"{name}[{k}]") for k, v in enumerate(value)]
    whole = _array(value, name)
    if whole.ndim == 0:
        raise ShapeError(
            name,
            found="a single number",
            expected="an array of cases",
            do="Scores are (B, C, *spatial) and labels (B, *spatial).",
        )
    return [whole[k] for k in range(len(whole))]


def _table(
    scores: Array, given: Mapping[str, Array], groups: Sequence[object] | None, ids: Sequence[str] | None
) -> tuple[list[str], list[dict[str, Field]]]:
    count = int(scores.shape[0])
    for name, array in given.items():
        if array.ndim not in (1, 2) or int(array.shape[0]) != count or (name in ("labels", "mask") and array.ndim != 1):
            raise ShapeError(
                name,
                found=f"shape {tuple(array.shape)}",
                expected=f"({count},), one a row of scores",
                do="A table of scores (N, C) goes with labels (N,).",
            )
    if ids is not None:
        raise UsageError(
            "ids",
            found="names of cases beside a table",
            expected="`groups`, which names the case of each row",
            do="Leave ids out.",
        )
    if groups is None:
        rows = {"table": np.arange(count)} if count else {}
    else:
        of_row = np.empty(len(groups), object)
        of_row[:] = groups.tolist() if isinstance(groups, np.ndarray | Tensor) else list(groups)
        if len(of_row) != count:
            raise ShapeError(
                "groups",
                found=f"{len(of_row)} entries",
                expected=f"{count}, one a row of scores",
                do="Name the case of each row.",
            )
        # rows of a case mostly follow each other: run by run
        starts = np.flatnonzero(np.append(True, of_row[1:] != of_row[:-1])) if count else np.zeros(0, np.int64)
        runs: dict[str, list[Array]] = {}
        for start, stop in zip(starts, np.append(starts[1:], count), strict=True):
            runs.setdefault(str(of_row[start]), []).append(np.arange(start, stop))
        rows = {group: np.concatenate(pieces) for group, pieces in runs.items()}
    batch: list[dict[str, Field]] = [
        {name: RowsField(array, r, name) for name, array in {"scores": scores, **given}.items()} for r in rows.values()
    ]
    return list(rows), batch


def _names(count: int, ids: Sequence[str] | None) -> list[str]:
    if ids is None:
        width = len(str(max(count - 1, 0)))
        return [f"{k:0{width}d}" for k in range(count)]
    if len(ids) != count:
        raise ShapeError(
            "ids", found=f"{len(ids)} names", expected=f"{count}, one a case", do="Name each case in order."
        )
    return [str(i) for i in ids]
