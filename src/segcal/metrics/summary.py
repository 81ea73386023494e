"""From the states of each case to the numbers of an evaluation: one row a case, and one block for the cohort.

Which numbers are means of images and which are pooled over all voxels (definitions 7 and 16):

    mean of images   nll, brier, entropy, ece (50 bins; ece_10 and its like where other counts are asked for), dice,
                     iou, flip_rate, free_energy_std, and from where voxels lie
                     (`segcal.metrics.spatial`): ba_ece, ece_boundary,
                     ece_interior, ece_roi, ece_correct, ece_incorrect (50 bins); ba_ece_undefined counts the images
                     without a label boundary, or of a table
    pooled           nll_pooled, brier_pooled, ece_pooled (50 bins), ace (15 bins, unweighted), classwise_ece (15 bins,
                     mean over classes), accuracy, confidence,
                     flips (counts and shares), reliability (15 bins), bands (by distance to a label boundary),
                     per_class.classwise_ece; per_class.dice and .iou are means over the images where they are defined

Promises: numbers do not depend on the order of cases (states merge exactly, means are correctly rounded sums); blocks
and rows are plain and safe for JSON: what is not defined is None, never NaN. Regions are evaluated as binary problems,
and `combine_parts` averages them. Asking for further bin counts may move the last bits of the calibration errors, whose
sums are then cut finer. Costs: nothing next to the pass, and memory for the numbers of each case, not for its states.
No case: a block of None and zero counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcal.engine.accumulate import Accumulator, State, merge, result, zero
from segcal.errors import UsageError
from segcal.metrics.calibration import Calibration, CalibrationError
from segcal.metrics.classwise import ClasswiseCalibration, ClasswiseCalibrationError
from segcal.metrics.energy import EnergySpread, FreeEnergySpread
from segcal.metrics.flips import FlipAudit, Flips
from segcal.metrics.likelihood import Likelihood, LogLikelihood
from segcal.metrics.overlap import Overlap, Overlaps
from segcal.metrics.registry import Metric, added
from segcal.metrics.spatial import SpatialCalibration, SpatialScores

ECE_BINS = 50
"""Bins of `ece` and `ece_pooled` (K26)."""

ACE_BINS = 15
"""Bins of `ace`, of the reliability curve and of the classwise error."""

SPATIAL = ("ba_ece", "ece_boundary", "ece_interior", "ece_roi", "ece_correct", "ece_incorrect")
"""Numbers of an image that depend on where its voxels lie."""

LARGE = ("reliability", "bands", "ece_by_bins", "per_class", "regions")
"""Entries of a block that are tables themselves."""

_COUNTS = ("harmful", "beneficial", "neutral")


def ece_over(bins: int) -> str:
    """What the ECE over another number of bins is called."""
    return f"ece_{bins}"


def suite(
    classes: int,
    background: int | None,
    bins: Iterable[int] = (),
    empty: float | None = None,
    spatial: SpatialCalibration | None = None,
) -> dict[str, Accumulator]:
    """The accumulators evaluated together, by name.

    `bins`: further bin counts beside 15 and 50; `empty`: Dice of a class that is nowhere (None leaves it out);
    `spatial`: other bands, or a distance in mm.
    """
    more = added()
    for key in more:
        if key in own_names():
            raise UsageError(
                f"the metric {key}",
                found="the name of a number there is already",
                expected="a key of its own",
                do="Give the metric another key.",
            )
    own = _own(classes, background, bins, empty, spatial)
    return own | {key: kind.of(classes, background) for key, kind in more.items()}


def _own(
    classes: int,
    background: int | None,
    bins: Iterable[int] = (),
    empty: float | None = None,
    spatial: SpatialCalibration | None = None,
) -> dict[str, Accumulator]:
    return {
        "likelihood": LogLikelihood(classes),
        "calibration": CalibrationError(classes, (ACE_BINS, ECE_BINS, *bins)),
        "classwise": ClasswiseCalibrationError(classes, ACE_BINS),
        "overlap": Overlap(classes, background, empty),
        "flips": Flips(classes),
        "energy": FreeEnergySpread(),
        "spatial": spatial or SpatialCalibration(classes),
    }


@cache
def own_names() -> frozenset[str]:
    """Names of segcal's own accumulators and numbers."""
    accumulators = _own(2, None)
    nothing = {name: zero(a) for name, a in accumulators.items()}
    block = Gathered(accumulators).summary(()).block
    return frozenset({"case", *accumulators, *block, *scores_of(accumulators, nothing).row()})


@dataclass(frozen=True, eq=False)
class CaseScores:
    """Results of all accumulators of a suite over one set of voxels: a case, or a whole cohort."""

    likelihood: Likelihood
    calibration: Calibration
    classwise: ClasswiseCalibration
    overlap: Overlaps
    flips: FlipAudit
    energy: EnergySpread
    spatial: SpatialScores
    more: Mapping[str, float]
    """Metrics from outside, by key."""

    def row(self) -> dict[str, Any]:
        """Flat numbers: counts as int, the rest as float, NaN where not defined."""
        return {
            "voxels": self.likelihood.voxels,
            "nll": self.likelihood.nll,
            "brier": self.likelihood.brier,
            "entropy": self.likelihood.entropy,
            "ece": self.calibration.ece(ECE_BINS),
            "ace": self.calibration.ace(ACE_BINS),
            "classwise_ece": self.classwise.cece,
            "confidence": self.calibration.confidence,
            "accuracy": self.overlap.accuracy,
            "dice": self.overlap.mean_dice,
            "iou": self.overlap.mean_iou,
            "flip_rate": self.flips.rate,
            **{name: getattr(self.flips, name) for name in _COUNTS},
            "free_energy_mean": self.energy.mean,
            "free_energy_std": self.energy.std,
            "ba_ece": self.spatial.ba_ece,
            "ece_boundary": self.spatial.boundary.ece,
            "ece_interior": self.spatial.interior.ece,
            "ece_roi": self.spatial.region.ece,
            "ece_correct": self.spatial.correct.ece,
            "ece_incorrect": self.spatial.incorrect.ece,
            **{ece_over(b): self.calibration.ece(b) for b in self.calibration.curves if b not in (ACE_BINS, ECE_BINS)},
            **self.more,
        }


@dataclass(frozen=True, eq=False)
class Summary:
    """`block`: the cohort's numbers. `per_case`: one flat dict a case, `case` and numbers. Both safe for JSON.

    `parts`: the summaries of the regions it was combined from; empty for a softmax head.
    """

    block: dict[str, Any]
    per_case: list[dict[str, Any]]
    parts: tuple[Summary, ...] = ()


class Gathered:
    """A summary of a `suite` in the making: cases are added one by one, in any order.

    Of a case its numbers are kept, about 2 kB and two a class; its states go into the cohort's. `names`: class names
    for the per-class table (else their indices).
    """

    def __init__(self, accumulators: Mapping[str, Accumulator], names: Sequence[str] | None = None) -> None:
        self._accumulators, self._names = accumulators, names
        self._pooled = {name: zero(a) for name, a in accumulators.items()}
        self._rows: dict[str, dict[str, Any]] = {}
        self._by_bins: dict[int, list[float]] = {}
        self._overlap: dict[str, list[NDArray[np.float64]]] = {"dice": [], "iou": []}
        self._labelled: NDArray[np.int64] | int = 0

    def add(self, case: str, states: Mapping[str, State]) -> None:
        """Add a case, by its states."""
        for name, a in self._accumulators.items():
            self._pooled[name] = merge(a, self._pooled[name], states[name])
        found = scores_of(self._accumulators, states)
        self._rows[case] = found.row()
        for bins in found.calibration.curves:
            self._by_bins.setdefault(bins, []).append(found.calibration.ece(bins))
        self._overlap["dice"].append(found.overlap.dice)
        self._overlap["iou"].append(found.overlap.iou)
        self._labelled = self._labelled + (found.overlap.labelled > 0)

    def summary(self, order: Iterable[str]) -> Summary:
        """Of the cases added; rows in the `order` of their names."""
        pooled, rows = scores_of(self._accumulators, self._pooled), self._rows
        images = {
            key: mean_known(row[key] for row in rows.values())
            for key in ("nll", "brier", "entropy", "ece", "dice", "iou", "flip_rate", "free_energy_std", *SPATIAL)
        }
        others = [ece_over(b) for b in pooled.calibration.curves if b not in (ACE_BINS, ECE_BINS)]
        images |= {key: mean_known(row[key] for row in rows.values()) for key in (*others, *pooled.more)}
        whole = pooled.row()
        block = {
            "cases": len(rows),
            "voxels": whole["voxels"],
            "nll": images["nll"],
            "nll_pooled": whole["nll"],
            "brier": images["brier"],
            "brier_pooled": whole["brier"],
            "entropy": images["entropy"],
            "ece": images["ece"],
            "ece_pooled": whole["ece"],
            **{key: images[key] for key in others},
            "classwise_ece": whole["classwise_ece"],
            "ace": whole["ace"],
            "dice": images["dice"],
            "iou": images["iou"],
            "accuracy": whole["accuracy"],
            "confidence": whole["confidence"],
            "flip_rate": images["flip_rate"],
            "flips": _audit(pooled.flips),
            "free_energy_std": images["free_energy_std"],
            **{key: images[key] for key in SPATIAL},
            "ba_ece_undefined": sum(math.isnan(row["ba_ece"]) for row in rows.values()),
            "bands": pooled.spatial.curve.rows(),
            "ece_by_bins": {
                str(b): {
                    "ece": mean_known(self._by_bins.get(b, ())),
                    "ece_pooled": pooled.calibration.ece(b),
                    "ace": pooled.calibration.ace(b),
                }
                for b in pooled.calibration.curves
            },
            "reliability": pooled.calibration.curve(ACE_BINS).to_json(),
            "per_class": self._per_class(pooled),
            **{key: (whole if kind.pooled else images)[key] for key, kind in added().items() if key in pooled.more},
        }
        return Summary(plain(block), [plain({"case": case, **rows[case]}) for case in order])

    def _per_class(self, pooled: CaseScores) -> list[dict[str, Any]]:
        overlap = self._accumulators["overlap"]
        background = overlap.background if isinstance(overlap, Overlap) else None
        classes = len(pooled.classwise.table)
        cases = np.broadcast_to(self._labelled, (classes,)).tolist()
        means = {
            name: [mean_known(one[k] for one in found) for k in range(classes)] for name, found in self._overlap.items()
        }
        return [
            {
                "class": k,
                "name": str(k) if self._names is None else self._names[k],
                "background": k == background,
                "dice": means["dice"][k],
                "iou": means["iou"][k],
                "classwise_ece": one.ece,
                "frequency": one.frequency,
                "probability": one.probability,
                "voxels": pooled.overlap.labelled[k],
                "cases": cases[k],
            }
            for k, one in enumerate(pooled.classwise.table)
        ]


def summarise(
    accumulators: Mapping[str, Accumulator],
    states_by_case: Mapping[str, Mapping[str, State]],
    names: Sequence[str] | None = None,
) -> Summary:
    """Summary of a `suite` from the states of each case (case id to accumulator name to state).

    `names`: class names for the per-class table (else their indices).
    """
    gathered = Gathered(accumulators, names)
    for case, states in states_by_case.items():
        gathered.add(case, states)
    return gathered.summary(states_by_case)


def combine_parts(summaries: Sequence[Summary], names: Sequence[str]) -> Summary:
    """One summary for several regions (`names`): means over the regions where a number is defined, flip counts summed,
    and each region's own block under `regions`.

    The per-class table has one row a region (its inside). There is no common reliability curve or table of bands: both
    are None. Voxels are those of the cases, the same in every region. Regions that do not name the same cases, or no
    region: UsageError.
    """
    cases = [[row["case"] for row in s.per_case] for s in summaries]
    if not summaries or len(names) != len(summaries) or any(ids != cases[0] for ids in cases):
        raise UsageError(
            "regions",
            found=f"{len(summaries)} summaries for {len(names)} names",
            expected="one summary a region, over the same cases",
            do="Evaluate every region on the same cohort.",
        )
    blocks = [s.block for s in summaries]
    block: dict[str, Any] = {
        key: _over_regions([b[key] for b in blocks]) for key in blocks[0] if key not in ("flips", *LARGE)
    }
    counts = [sum(b["flips"][name] for b in blocks) for name in _COUNTS]
    block["flips"] = _audit(FlipAudit(counts[0], counts[1], counts[2], sum(b["voxels"] for b in blocks)))
    block["ece_by_bins"] = {
        bins: {key: _over_regions([b["ece_by_bins"][bins][key] for b in blocks]) for key in row}
        for bins, row in blocks[0]["ece_by_bins"].items()
    }
    block["reliability"] = block["bands"] = None
    block["per_class"] = [
        {**b["per_class"][-1], "class": index, "name": name}
        for index, (b, name) in enumerate(zip(blocks, names, strict=True))
    ]
    block["regions"] = dict(zip(names, blocks, strict=True))
    per_case = []
    for rows in zip(*(s.per_case for s in summaries), strict=True):
        row = {key: _over_regions([r[key] for r in rows]) for key in rows[0] if key != "case" and key not in _COUNTS}
        own = {
            f"{name}.{key}": r[key]
            for name, r in zip(names, rows, strict=True)
            for key in ("nll", "ece", "dice", "iou")
        }
        per_case.append({"case": rows[0]["case"], **row, **{key: sum(r[key] for r in rows) for key in _COUNTS}, **own})
    return Summary(plain(block), [plain(row) for row in per_case], tuple(summaries))


def mean_known(values: Iterable[float | None]) -> float:
    """Correctly rounded mean of the values that are neither None nor NaN; none left: NaN."""
    known = [v for v in values if v is not None and not math.isnan(v)]
    return math.fsum(known) / len(known) if known else math.nan


def plain(value: Any) -> Any:
    """The same nest of dicts, lists and numbers as JSON takes it: Python numbers, and None for what is not finite."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def scores_of(accumulators: Mapping[str, Accumulator], states: Mapping[str, State]) -> CaseScores:
    """Results of a `suite` from its states."""
    found = {name: result(a, states[name]) for name, a in accumulators.items()}
    more = {name: float(found.pop(name)) for name, a in accumulators.items() if isinstance(a, Metric)}
    return CaseScores(**found, more=more)


def _audit(flips: FlipAudit) -> dict[str, Any]:
    shares = dict(zip((f"{name}_share" for name in _COUNTS), flips.shares, strict=True))
    return {
        "flipped": flips.flipped,
        "voxels": flips.voxels,
        **{name: getattr(flips, name) for name in _COUNTS},
        **shares,
    }


def _over_regions(values: Sequence[Any]) -> Any:
    """Counts are the same in every region; the rest is averaged."""
    if all(isinstance(v, int) for v in values) and len(set(values)) == 1:
        return values[0]
    return mean_known(values)
