"""Guarantees over patients hold in simulated cohorts whose voxels go together within patients, the calibrator fitted
anew in each; thresholds from pooled voxels do not keep them.

A patient has a structure of some size, a shift of all log odds, and two cases; the network is surer than it should be,
by a factor that temperature scaling finds on patients of its own. Cohorts are independent: bands are of their means.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import optimize

from segcal.engine import accumulate
from segcal.outcomes.conformal import TooFewError, controlled, least
from segcal.outcomes.reference import Gathering, Reference, dice_errors, volume_errors
from segcal.outcomes.sums import THRESHOLDS, CaseOutcome, OutcomeSums

COHORTS, VOXELS, CASES = 2000, 120, 2
FIT, MOST, NEW = 8, 50, 4
SIZES = (10, 20, 50)
SUMS = OutcomeSums(2, 0)


@dataclass
class Drawn:
    """Patients: logits and labels (patients, cases, voxels)."""

    logits: np.ndarray
    labels: np.ndarray

    @classmethod
    def of(cls, rng: np.random.Generator, patients: int) -> Drawn:
        size = rng.normal(0, 1.2, (patients, 1, 1))
        logits = size + rng.normal(0, 2, (patients, CASES, VOXELS))
        odds = 0.6 * logits + rng.normal(0, 0.5, (patients, 1, 1))
        return cls(logits, rng.random(logits.shape) < 1 / (1 + np.exp(-odds)))

    def temperature(self) -> float:
        z, y = self.logits.ravel(), self.labels.ravel()
        nll = lambda log_t: np.logaddexp(0, np.where(y, -z, z) * np.exp(-log_t)).mean()  # noqa: E731
        return float(np.exp(optimize.minimize_scalar(nll, bounds=(-2, 2), method="bounded").x))

    def outcomes(self, temperature: float) -> list[CaseOutcome]:
        """By patient, then case."""
        z = torch.from_numpy(self.logits).flatten(0, 1) / temperature
        logs = torch.stack([torch.nn.functional.logsigmoid(-z), torch.nn.functional.logsigmoid(z)], 1)
        labels = torch.from_numpy(self.labels).flatten(0, 1).long()
        return [
            accumulate.result(SUMS, accumulate.lift(SUMS, SUMS.of(one, (one[1] > one[0]).long(), y)))
            for one, y in zip(logs, labels, strict=True)
        ]


def patients(outcomes: list[CaseOutcome]) -> list[list[CaseOutcome]]:
    return [outcomes[k : k + CASES] for k in range(0, len(outcomes), CASES)]


def reference(outcomes: list[CaseOutcome]) -> Reference:
    made = Gathering(("it",), [str(k // CASES) for k in range(len(outcomes))], "set aside")
    for k, one in enumerate(outcomes):
        made.add(k, one)
    return made.done()


def missed(patient: list[CaseOutcome], cut: int) -> float:
    hits = np.sum([one.histogram[1, 0] for one in patient], 0)
    return float(hits[: cut + 1].sum() / max(hits.sum(), 1))


def within(patient: list[CaseOutcome], error: Callable[[CaseOutcome], float], most: float) -> bool:
    return max(error(one) for one in patient) <= most


def judged() -> dict[str, np.ndarray]:
    """Of each cohort the share of new patients that is covered, or the mean share missed, by what is judged."""
    out: dict[str, list[float]] = {}
    for seed in range(COHORTS):
        rng = np.random.default_rng(seed)
        temperature = Drawn.of(rng, FIT).temperature()
        known, new = (Drawn.of(rng, n).outcomes(temperature) for n in (MOST, NEW))
        fresh = patients(new)
        for n in SIZES:
            some = known[: n * CASES]
            made = reference(some)
            dice, volume = made.dice_bound(0, 0.1), made.volume_bound(0, 0.1)
            cut = int(np.flatnonzero(THRESHOLDS.numpy() == np.float32(made.threshold(0, 0.1)))[0])
            shares = {
                "dice": [within(p, lambda o: dice_errors(o)[0], dice) for p in fresh],
                "volume": [within(p, lambda o: abs(volume_errors(o)[0]), volume) for p in fresh],
                "outer": [missed(p, cut) for p in fresh],
            }
            # the same with voxels as what is exchangeable
            hits = np.sum([o.histogram[1, 0] for o in some], 0)
            share = np.cumsum(hits)[:-1] / hits.sum()
            pooled = controlled(share, int(hits.sum()), 0.1)
            shares["outer, pooled voxels"] = [missed(p, pooled) for p in fresh]
            shares["volume, independent voxels"] = [
                all(abs(o.labelled[0] - o.total[0]) <= 1.645 * np.sqrt(o.spread[0]) for o in p) for p in fresh
            ]
            for name, values in shares.items():
                out.setdefault(f"{name} {n}", []).append(float(np.mean(values)))
    return {name: np.array(values) for name, values in out.items()}


def band(values: np.ndarray) -> float:
    return 3 * float(values.std(ddof=1)) / np.sqrt(len(values))


@pytest.mark.slow
def test_guarantees_over_patients_hold_and_those_of_pooled_voxels_do_not() -> None:
    found = judged()
    for n in SIZES:
        target = np.ceil(round((n + 1) * 0.9, 9)) / (n + 1)
        for what in ("dice", "volume"):
            values = found[f"{what} {n}"]
            assert target - band(values) <= values.mean() <= target + band(values) + 0.02, (what, n)
        values = found[f"outer {n}"]
        assert 0.001 < values.mean() <= 0.1 + band(values), n
        pooled, independent = found[f"outer, pooled voxels {n}"], found[f"volume, independent voxels {n}"]
        assert pooled.mean() > 0.1 + band(pooled), n
        assert independent.mean() < 0.9 - band(independent), n


def test_ten_patients_are_refused_five_per_cent() -> None:
    made = reference(Drawn.of(np.random.default_rng(0), 10).outcomes(1.0))
    for ask in (made.dice_bound, made.volume_bound, made.threshold):
        with pytest.raises(TooFewError, match=f"at least {least(0.05)} "):
            ask(0, 0.05)
