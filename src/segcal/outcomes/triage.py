"""Which cases to look at first, their volumes, and what an order by expected Dice is worth.

`triage_rows`: a row a case, lowest expected Dice first: the mean over its structures and each of them, what it exceeds
for 1 - alpha of the patients (None where the reference has too few), confidence, entropy, and how rare the case is
among the reference. `volume_rows`: a row a case and structure: the volume of the delivered label map, the soft volume
(the sum of p), and an interval that holds the true one for 1 - alpha of the patients, from 0 on; in voxels, and in ml
where the spacing is known. A case in which nothing is delivered stands first, without an expected Dice.

`Ordering`: how expected and true mean Dice go together over cases: Spearman's rank correlation, and the area under the
risk-coverage curve (AURC; Geifman and El-Yaniv 2017, for cases: Jaeger et al. 2023), the mean, over the shares of
cases kept in the order of expected Dice, of their mean 1 - Dice; beside it the areas of the best order and of none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segcal.metrics.statistics.clustered import jackknife
from segcal.metrics.statistics.estimate import Estimate
from segcal.outcomes.conformal import TooFewError
from segcal.outcomes.drift import unlike
from segcal.outcomes.reference import Reference, mean_of, statistics_of, volume_scale
from segcal.outcomes.sums import CaseOutcome

ML = 1000.0
"""Cubic millimetres of a millilitre."""


@dataclass(frozen=True)
class NewCase:
    """A case without labels: its sums, and the cubic millimetres of a voxel (None: not known)."""

    name: str
    outcome: CaseOutcome
    voxel: float | None = None


def triage_rows(
    cases: Sequence[NewCase], names: Sequence[str], reference: Reference | None, alpha: float
) -> list[dict[str, Any]]:
    """A row a case, the one to look at first first."""
    bounds = [_bound(Reference.dice_bound, reference, k, alpha) for k in (-1, *range(len(names)))]
    rows = []
    for case in cases:
        expected = case.outcome.expected_dice
        row: dict[str, Any] = {"case": case.name}
        for name, value, most in zip(
            ("", *(f".{n}" for n in names)), (mean_of(expected), *expected.tolist()), bounds, strict=True
        ):
            row[f"expected_dice{name}"] = _known(value)
            row[f"at_least{name}"] = None if most is None or math.isnan(value) else max(0.0, value - most)
        row["confidence"], row["entropy"] = _known(case.outcome.confidence), _known(case.outcome.entropy)
        row["unlike_p"] = None if reference is None else unlike(reference.statistics, statistics_of(case.outcome))
        rows.append(row)
    return sorted(rows, key=lambda row: (-1.0 if row["expected_dice"] is None else row["expected_dice"], row["case"]))


def volume_rows(
    cases: Sequence[NewCase], names: Sequence[str], reference: Reference | None, alpha: float
) -> list[dict[str, Any]]:
    """A row a case and structure, in the order given."""
    bounds = [_bound(Reference.volume_bound, reference, k, alpha) for k in range(len(names))]
    rows = []
    for case in cases:
        for k, (name, most) in enumerate(zip(names, bounds, strict=True)):
            soft = float(case.outcome.total[k])
            reach = None if most is None else most * float(volume_scale(case.outcome)[k])
            numbers = {
                "label_map": float(case.outcome.decided[k]),
                "expected": soft,
                "low": None if reach is None else max(0.0, soft - reach),
                "high": None if reach is None else soft + reach,
            }
            row: dict[str, Any] = {"case": case.name, "structure": name}
            row |= {f"{key}_voxels": value for key, value in numbers.items()}
            scale = None if case.voxel is None else case.voxel / ML
            row |= {
                f"{key}_ml": None if scale is None or value is None else value * scale for key, value in numbers.items()
            }
            rows.append(row)
    return rows


def _bound(
    find: Callable[[Reference, int, float], float], reference: Reference | None, structure: int, alpha: float
) -> float | None:
    """The bound that a reference has for a structure; None where that cannot be told."""
    try:
        return None if reference is None else find(reference, structure, alpha)
    except TooFewError:
        return None


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


@dataclass(frozen=True)
class Ordering:
    """What the order of so many `cases` by expected Dice is worth; `bias`: mean expected minus true mean Dice."""

    cases: int
    correlation: Estimate
    aurc: float
    best: float
    random: float
    bias: Estimate

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, None where not defined."""
        areas = {"aurc": self.aurc, "aurc_best": self.best, "aurc_random": self.random}
        return {
            "cases": self.cases,
            "rank_correlation": self.correlation.to_json(),
            **{name: _known(value) for name, value in areas.items()},
            "expected_minus_true_dice": self.bias.to_json(),
        }


def ordering(outcomes: Mapping[str, CaseOutcome], groups: Mapping[str, str]) -> Ordering:
    """Of labelled cases, by name; those without a delivered or a labelled structure are left out. Intervals over
    groups.
    """
    rows = {}
    for name, one in outcomes.items():
        expected = one.expected_dice
        pair = mean_of(expected), mean_of(np.where(np.isnan(expected), np.nan, one.true_dice))
        if not math.isnan(pair[0] + pair[1]):
            rows[name] = pair
    table = np.array([rows[name] for name in rows]).reshape(-1, 2)
    number = {group: k for k, group in enumerate(dict.fromkeys(groups[name] for name in rows))}
    index = np.array([number[groups[name]] for name in rows], np.int64)

    def over(read: Callable[[NDArray[np.float64]], float]) -> Estimate:
        without = [read(table[index != g]) for g in range(len(number))]
        return jackknife(read(table), without, values=len(table), dropped=len(outcomes) - len(table))

    risk = 1 - table[:, 1]
    return Ordering(
        len(table),
        over(lambda x: _spearman(x[:, 0], x[:, 1])),
        aurc(table[:, 0], risk),
        aurc(-risk, risk),
        float(risk.mean()) if risk.size else math.nan,
        over(lambda x: float((x[:, 0] - x[:, 1]).mean()) if len(x) else math.nan),
    )


def aurc(confidence: ArrayLike, risk: ArrayLike) -> float:
    """Mean over k = 1 .. n of the mean risk of the k most confident; ties by their place. NaN for none."""
    c, r = np.asarray(confidence, np.float64), np.asarray(risk, np.float64)
    if not r.size:
        return math.nan
    order: NDArray[np.int64] = np.argsort(-c, kind="stable")
    return float((np.cumsum(r[order]) / np.arange(1, r.size + 1)).mean())


def _spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    from scipy import stats  # half a second, which no other command needs

    return float(stats.spearmanr(a, b).statistic)
