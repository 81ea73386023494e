"""Filed rows: pinned rows of one part, grouped and ordered as a view has them, once for all passes that follow.

Pieces of one group, one stratum (fold) and one partition of the cases lie together in chunks of some 2^14 rows, so that
an ask about a group reads its own voxels only, in few and long matrix products. Chunks are cut by the order of cases
and blocks within a partition alone, so that it may lie on another machine. Costs: the
rows once more, in memory while the budget lasts, then in files. Curvature from a sample is taken from some `GROUP_ROWS`
rows a group at most, drawn evenly by seed. A group without a voxel has no chunk.
"""

from __future__ import annotations

import sys
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segcal.data.head import Softmax
from segcal.data.rows import Prepared, Rows
from segcal.engine.ask import Level
from segcal.engine.pinned import CaseFile, Pinned, Shelf, Stored, chunk_rows, partitions
from segcal.engine.view import View

GROUP_ROWS = 2**13

Piece = tuple[int, Stored]
"""Rows of one case and one group: the case, and where they lie."""


@dataclass(frozen=True)
class FiledChunk:
    """Rows of one group from cases of one stratum; `spans` says which columns belong to which case."""

    shelf: Shelf
    pieces: tuple[Piece, ...]
    spans: tuple[tuple[int, int, int], ...]
    cases: frozenset[int]

    @property
    def voxels(self) -> int:
        """How many rows."""
        return self.spans[-1][2]

    @cached_property
    def _views(self) -> list[Prepared] | None:
        """The pieces, where all of them lie in memory."""
        return None if any(isinstance(kept.place, Path) for _, kept in self.pieces) else self._load()

    def _load(self) -> list[Prepared]:
        return [self.shelf.load(case, 0, kept) for case, kept in self.pieces]

    def rows(self) -> Rows:
        """All rows, in float64."""
        loaded = self._views or self._load()
        x = torch.cat([p.log_probs for p in loaded], 1).double()
        targets = torch.cat([p.targets[0] for p in loaded]).long()
        winner = torch.cat([p.decision[0] for p in loaded]).long()
        return Rows(-1, 0, x, targets, winner, winner)


class Filed:
    """The rows of `part` as `view` has them."""

    def __init__(self, pinned: Pinned, part: int, view: View) -> None:
        self.part, self.view = part, view
        self._head = Softmax(pinned.cohort.head.part_classes(part))
        self._pinned = pinned
        self._kept: dict[int, list[tuple[int, Piece]]] = {}
        self.shelf = Shelf(self._head, pinned.room(), pinned.scratch)
        self._sample = Shelf(self._head, sys.maxsize, pinned.scratch)
        self._chunks: dict[Level, dict[int, list[FiledChunk]]] = {}

    def add(self, case: int) -> None:
        """File the rows of one case; several threads may do so at once."""
        file = CaseFile(self._pinned.scratch)
        try:
            blocks = (
                self._pinned.shelf.load(case, start, kept) for at, start, kept in self._pinned.blocks if at == case
            )
            self._kept[case] = [
                (key, (case, self.shelf.keep(piece, file))) for block in blocks for key, piece in self._split(block)
            ]
        finally:
            file.close()

    def finish(self) -> None:
        """Put what was filed, and the samples, into chunks."""
        strata = self._pinned.strata
        partition = {case: k for k, span in enumerate(partitions(self._pinned.cohort)) for case in span}
        everything: dict[int, dict[tuple[int, int], list[Piece]]] = defaultdict(lambda: defaultdict(list))
        for case in sorted(self._kept):
            for key, piece in self._kept.pop(case):
                everything[key][strata[case], partition[case]].append(piece)
        self._chunks[Level.ALL] = self._joined(self.shelf, everything)
        sample: dict[int, dict[int, list[Piece]]] = defaultdict(lambda: defaultdict(list))
        thin: dict[int, dict[int, list[Piece]]] = defaultdict(lambda: defaultdict(list))
        found: dict[int, list[tuple[int, Prepared]]] = defaultdict(list)
        for case, block in self._sampled():
            for key, part in self._split(block):
                found[key].append((case, part))
        file = CaseFile(self._pinned.scratch)  # nothing is written to it: samples stay in memory
        for key, parts in found.items():
            rate = GROUP_ROWS / sum(p.log_probs.shape[1] for _, p in parts)
            for place, (case, part) in enumerate(parts):
                kept = self._sample.keep(part, file)
                sample[key][strata[case]].append((case, kept))
                if rate >= 1:
                    thin[key][strata[case]].append((case, kept))
                    continue
                seed = [zlib.crc32(self._pinned.cohort.cases[case].id.encode("utf-8", "surrogatepass")), key, place]
                index = torch.nonzero(
                    torch.from_numpy(np.random.default_rng(seed).random(kept.voxels)) < rate
                ).flatten()
                if index.numel():
                    thin[key][strata[case]].append((case, self._sample.keep(part.take(index), file)))
        self._chunks[Level.SAMPLE] = self._joined(self._sample, sample)
        self._chunks[Level.CURVATURE] = self._joined(self._sample, thin)

    def chunks(self, level: Level, key: int) -> Sequence[FiledChunk]:
        """The chunks of one group."""
        return self._chunks[level].get(key, ())

    def _sampled(self) -> Iterator[tuple[int, Prepared]]:
        for chunk in self._pinned.chunks(Level.SAMPLE):
            for case, low, high in chunk.spans:
                yield case, chunk.rows.take(torch.arange(low, high))

    def _split(self, block: Prepared) -> list[tuple[int, Prepared]]:
        rows = block.part(self._pinned.cohort.head, self.part)
        x, targets = self.view.arranged(rows)
        keys = self.view.key(rows)
        order = keys.argsort(stable=True)
        out, at = [], 0
        for key, count in enumerate(torch.bincount(keys).tolist()):
            if count:
                index = order[at : at + count]
                out.append(
                    (
                        key,
                        Prepared(
                            block.case, block.start, x[:, index], targets[None, index], rows.decision[None, index], None
                        ),
                    )
                )
            at += count
        return out

    @staticmethod
    def _joined(shelf: Shelf, filed: Mapping[int, Mapping[Any, list[Piece]]]) -> dict[int, list[FiledChunk]]:
        out: dict[int, list[FiledChunk]] = {}
        for key, by_stratum in filed.items():
            chunks = out[key] = []
            for together in sorted(by_stratum):
                batch: list[Piece] = []
                for piece in by_stratum[together]:
                    batch.append(piece)
                    if sum(kept.voxels for _, kept in batch) >= chunk_rows(shelf.head.rows):
                        chunks.append(_chunk(shelf, batch))
                        batch = []
                if batch:
                    chunks.append(_chunk(shelf, batch))
        return out


def _chunk(shelf: Shelf, pieces: Sequence[Piece]) -> FiledChunk:
    spans: list[tuple[int, int, int]] = []
    at = 0
    for case, kept in pieces:
        if spans and spans[-1][0] == case:
            spans[-1] = (case, spans[-1][1], at + kept.voxels)
        else:
            spans.append((case, at, at + kept.voxels))
        at += kept.voxels
    return FiledChunk(shelf, tuple(pieces), tuple(spans), frozenset(s[0] for s in spans))
