"""Calibration by where a voxel lies: BA-ECE, errors on boundary and interior, in a region of interest, on correct and
incorrect voxels, and by distance to a label boundary.

Top-1 confidence and correctness are those of `segcal.metrics.calibration`. BA-ECE (K26; LostInFolds' formula,
definitions 7.7): in each band of distances the gap is
|mean confidence - accuracy|, without confidence bins; BA-ECE is the mean of the gaps with weights 1 / (mean distance in
the band + 1), empty bands skipped. Boundary voxels lie below the first edge of the bands, interior ones beyond; the
region is O22's dilated foreground; correct and incorrect voxels are W23's (figure 2). These errors are ECEs over `bins`
right-closed bins. `curve` adds edges, so that the error over the distance comes from the same pass; every band is a
whole number of its finer ones. Promises: counts are int64 and other sums exact, so case and cohort are two readings of
the same states; a band holds low <= d < high. Costs: one search for the confidence and two histograms a map, and once a
block a search for the distance; a state of about 17 kB. A voxel without a distance (no boundary in the case) counts in
no band, and neither as boundary nor as interior; what no voxel falls into is NaN.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcal.data.places.distance import BoundaryDistance
from segcal.data.places.place import Place
from segcal.data.places.region import ForegroundRegion
from segcal.data.rows import Rows
from segcal.engine.accumulate import Array, Count, ExactSum, Leaf
from segcal.errors import UsageError
from segcal.metrics.binning import Binning, Curve, bin_counts
from segcal.metrics.probabilities import at, probabilities

CURVE = (*range(1, 16), 20, 30, 50, 100)
"""Edges of the error over the distance: every voxel up to 15, then coarser."""

IN_VOXELS = BoundaryDistance()
AROUND_FOREGROUND = ForegroundRegion()

_BOUNDARY, _INTERIOR, _UNDEFINED = range(3)


@dataclass(frozen=True, eq=False)
class Bands:
    """Calibration in K bands of distance, low <= d < high:

    `edges` (K - 1,) between them, and sums over the voxels of each, (K,).
    """

    edges: tuple[float, ...]
    counts: NDArray[np.int64]
    hits: NDArray[np.int64]
    confidence_sum: NDArray[np.float64]
    distance_sum: NDArray[np.float64]

    @property
    def low(self) -> tuple[float, ...]:
        """Where each band begins."""
        return (0.0, *self.edges)

    @property
    def high(self) -> tuple[float, ...]:
        """Where each band ends; the last one nowhere."""
        return (*self.edges, math.inf)

    @property
    def confidence(self) -> NDArray[np.float64]:
        """Mean confidence (K,), NaN where a band is empty."""
        return _mean(self.confidence_sum, self.counts)

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """Share of correct voxels (K,), NaN where a band is empty."""
        return _mean(self.hits, self.counts)

    @property
    def distance(self) -> NDArray[np.float64]:
        """Mean distance (K,), NaN where a band is empty."""
        return _mean(self.distance_sum, self.counts)

    @property
    def ba_ece(self) -> float:
        """Gaps of the bands, weighted by 1 / (mean distance + 1). No voxel in any band: NaN."""
        some = self.counts > 0
        if not some.any():
            return math.nan
        weights = 1 / (self.distance[some] + 1)
        gaps = np.abs(self.confidence - self.accuracy)[some]
        return math.fsum((weights * gaps).tolist()) / math.fsum(weights.tolist())

    def within(self, edges: tuple[float, ...]) -> Bands:
        """The same voxels in wider bands. An edge that is not among `self.edges`: UsageError."""
        if not set(edges) <= set(self.edges):
            raise UsageError(
                "edges",
                found=str(edges),
                expected=f"some of {self.edges}",
                do="Name these edges when the metric is made.",
            )
        starts = [0, *(self.edges.index(e) + 1 for e in edges)]
        sums = (np.add.reduceat(a, starts) for a in (self.counts, self.hits, self.confidence_sum, self.distance_sum))
        return Bands(edges, *sums)

    def rows(self) -> list[dict[str, Any]]:
        """One plain row a band: low, high, voxels, confidence, accuracy, distance."""
        columns = (
            self.low,
            self.high,
            self.counts.tolist(),
            self.confidence.tolist(),
            self.accuracy.tolist(),
            self.distance.tolist(),
        )
        return [
            dict(zip(("low", "high", "voxels", "confidence", "accuracy", "distance"), row, strict=True))
            for row in zip(*columns, strict=True)
        ]


@dataclass(frozen=True, eq=False)
class SpatialScores:
    """`bands` are those of BA-ECE, `curve` the finest; `boundary`, `interior`, `region`, `correct`, `incorrect` are
    reliability curves, `boundary_inside` and `interior_inside` those of boundary and interior within the region;
    `undefined` voxels have no distance.
    """

    bands: Bands
    curve: Bands
    boundary: Curve
    interior: Curve
    region: Curve
    correct: Curve
    incorrect: Curve
    undefined: int
    boundary_inside: Curve
    interior_inside: Curve

    @property
    def ba_ece(self) -> float:
        """Boundary-aware ECE; NaN without a boundary."""
        return self.bands.ba_ece


@dataclass(frozen=True)
class SpatialCalibration:
    """Sums for `classes` classes.

    `bands`: edges between BA-ECE's bands; `curve`: further edges; both in the unit of `distance`. `region`: a place
    that is above 0 within it. Edges not above 0 or
    not ascending: UsageError.
    """

    classes: int
    bands: tuple[float, ...] = (3, 7, 15)
    curve: tuple[float, ...] = CURVE
    bins: int = 50
    distance: BoundaryDistance = IN_VOXELS
    region: Place = AROUND_FOREGROUND

    def __post_init__(self) -> None:
        bin_counts((self.bins,))
        for name in ("bands", "curve"):
            edges = tuple(float(e) for e in getattr(self, name))
            if (
                list(edges) != sorted(set(edges))
                or any(not 0 < e < math.inf for e in edges)
                or (name == "bands" and not edges)
            ):
                raise UsageError(
                    name,
                    found=str(edges),
                    expected="ascending numbers above zero",
                    do="Give the edges between bands, such as (3, 7, 15).",
                )
            object.__setattr__(self, name, edges)

    @property
    def edges(self) -> tuple[float, ...]:
        """Edges of the finest bands."""
        return tuple(sorted({*self.bands, *self.curve}))

    @property
    def needs(self) -> frozenset[Place]:
        """The distance and the region."""
        return frozenset((self.distance, self.region))

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Histograms of confidence (boundary, interior or undefined; in the region; correct), and sums of the finest
        bands (by correctness, counts).
        """
        cells, bands = (3, 2, 2, self.bins), len(self.edges) + 1
        return {
            "counts": Count(cells),
            "confidence": ExactSum(cells),
            "band_counts": Count((bands, 2)),
            "band_confidence": ExactSum((bands,)),
            "band_distance": ExactSum((bands,)),
        }

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """Partial sums of one block: one histogram over band, region, correctness and confidence, of which the others
        are sums.
        """
        bands, first = len(self.edges) + 1, self.edges.index(self.bands[0]) + 1
        cell, distance_sum = _lying(self, rows)
        confidence = at(probabilities(rows), rows.decision)
        cell = cell + (rows.decision == rows.targets).int().mul_(self.bins).add_(
            Binning((self.bins,)).index(confidence)
        )
        shape = (bands + 1, 2, 2, self.bins)
        counts = torch.bincount(cell, minlength=math.prod(shape)).reshape(shape)
        sums = torch.bincount(cell, confidence, minlength=math.prod(shape)).reshape(shape)

        def where(fine: Tensor) -> Tensor:
            return torch.stack([fine[:first].sum(0), fine[first:bands].sum(0), fine[bands]])

        return {
            "counts": where(counts),
            "confidence": where(sums),
            "band_counts": counts[:bands].sum((1, 3)),
            "band_confidence": sums[:bands].sum((1, 2, 3)),
            "band_distance": distance_sum,
        }

    def result(self, values: Mapping[str, Array]) -> SpatialScores:
        """Bands and curves."""
        counts, confidence = values["counts"], values["confidence"]
        fine = Bands(
            self.edges,
            values["band_counts"].sum(1),
            values["band_counts"][:, 1],
            values["band_confidence"],
            values["band_distance"],
        )

        def curve(some: Array) -> Curve:
            """The curve of the cells where `some` (3, 2, 2) holds."""
            n, c = counts * some[..., None], confidence * some[..., None]
            return Curve(n.sum((0, 1, 2)), c.sum((0, 1, 2)), n[:, :, 1].sum((0, 1)))

        lies, inside, right = np.indices((3, 2, 2))
        return SpatialScores(
            fine.within(self.bands),
            fine,
            curve(lies == _BOUNDARY),
            curve(lies == _INTERIOR),
            curve(inside == 1),
            curve(right == 1),
            curve(right == 0),
            int(counts[_UNDEFINED].sum()),
            curve((lies == _BOUNDARY) & (inside == 1)),
            curve((lies == _INTERIOR) & (inside == 1)),
        )


class _Last(threading.local):
    accumulator: SpatialCalibration | None = None
    places: tuple[weakref.ref[Tensor], weakref.ref[Tensor]] | None = None
    value: tuple[Tensor, Tensor] | None = None


_last = _Last()


def _lying(accumulator: SpatialCalibration, rows: Rows) -> tuple[Tensor, Tensor]:
    """First cell (n,) int32 of each voxel's band and region, and sums of distances by band: the same for every map of a
    block, so the last ones of a thread are remembered.
    """
    distance, inside = rows.place(accumulator.distance), rows.place(accumulator.region)
    if (
        _last.accumulator == accumulator
        and _last.places is not None
        and _last.value is not None
        and all(r() is p for r, p in zip(_last.places, (distance, inside), strict=True))
    ):
        return _last.value
    bands, unknown = len(accumulator.edges) + 1, distance.isnan()
    edges = torch.tensor(accumulator.edges, dtype=torch.float64)
    band = torch.bucketize(distance, edges, right=True, out_int32=True).masked_fill_(unknown, bands)
    sums = torch.bincount(band, distance.masked_fill(unknown, 0), minlength=bands + 1)[:bands]
    value = (band * 2 + (inside > 0)) * (2 * accumulator.bins), sums
    _last.accumulator, _last.places, _last.value = accumulator, (weakref.ref(distance), weakref.ref(inside)), value
    return value


def _mean(sums: NDArray[Any], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(np.divide(sums, counts, out=np.full(counts.shape, np.nan), where=counts > 0))
