"""Meta-Cal: both thresholds against transcriptions of the released code, what is rejected, labels kept or not."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
import torch
from numpy.typing import NDArray

from segcal import MetaCal, apply, cohort_from_arrays, evaluate, fit_methods, load
from segcal.data.cohort import Cohort
from segcal.data.formats.npz import NpzSink
from segcal.engine.serial import Serial
from segcal.engine.threads import Threads
from segcal.errors import UsageError
from segcal.fitting.sample import Lots
from segcal.methods.meta_cal import MetaCalMap, accuracy_threshold, miscoverage_threshold
from segcal.testing.watching import spilling

Array = NDArray[Any]


def known(cases: int = 4, voxels: int = 3000, classes: int = 4, seed: int = 0) -> tuple[Array, Array]:
    """Logits and labels, over-confident by a half; most voxels are easy."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(cases, classes, voxels)) * rng.choice([1.0, 6.0], size=(cases, 1, voxels), p=[0.3, 0.7])
    p = scipy.special.softmax(z, 1)
    y = (p.cumsum(1) < rng.random((cases, 1, voxels))).sum(1).clip(0, classes - 1)
    return (1.5 * z).astype(np.float32), y


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return cohort_from_arrays(*known(), kind="logits")


def drawn(cohort: Cohort, z: Array, y: Array, right: bool, most: int) -> tuple[Array, Array, Array]:
    """Indices of the voxels that decide, and entropies and correctness of all, case after case: a tenth of those that
    may be drawn, by their lots.
    """
    entropy = scipy.stats.entropy(scipy.special.softmax(z.astype(np.float64), 1), axis=1).ravel()
    correct = (z.argmax(1) == y).ravel()

    class Rows:
        voxels = z.shape[2]
        start = 0

        def __init__(self, case: int) -> None:
            self.case = case

    lots = Lots(tuple(c.id for c in cohort), 0)
    drew = np.concatenate([lots.of(Rows(i)) for i in range(len(z))])  # type: ignore[arg-type]
    able = np.flatnonzero(correct) if right else np.arange(len(drew))
    count = min(len(able) // 10, most)
    return able[np.argsort(drew[able])[:count]], entropy, correct


def best_beta(z: Array, y: Array, kept: Array) -> float:
    x = np.moveaxis(z.astype(np.float64), 1, 2).reshape(-1, z.shape[1])[kept]
    t = y.ravel()[kept]

    def nll(beta: float) -> float:
        s = beta * x
        return float((scipy.special.logsumexp(s, 1) - s[np.arange(len(t)), t]).mean())

    return float(scipy.optimize.minimize_scalar(nll, bounds=(0.01, 10), method="bounded", options={"xatol": 1e-10}).x)


def test_miscoverage_as_the_released_code_has_it(cohort: Cohort) -> None:
    z, y = known()
    few, entropy, _ = drawn(cohort, z, y, True, 500)
    ordered = np.sort(entropy[few])
    threshold = ordered[int(np.ceil(0.95 * (len(ordered) - 1)))]
    kept = entropy < threshold
    kept[few] = False
    made = MetaCal().fit(cohort, engine=Serial()).maps[0]
    assert isinstance(made, MetaCalMap)
    found, beta, above = made.numbers.tolist()
    assert found == pytest.approx(threshold, abs=1e-6)
    assert beta == pytest.approx(best_beta(z, y, kept), rel=1e-6)
    assert above == 0.0


def pooled(values: list[float], weights: list[float]) -> list[float]:
    """Falling isotonic regression: neighbours that rise are pooled until none does."""
    blocks = [[v, w, 1.0] for v, w in zip(values, weights, strict=True)]
    k = 0
    while k + 1 < len(blocks):
        (a, wa, na), (b, wb, nb) = blocks[k], blocks[k + 1]
        if a >= b:
            k += 1
            continue
        blocks[k : k + 2] = [[(a * wa + b * wb) / (wa + wb), wa + wb, na + nb]]
        k = max(k - 1, 0)
    return [v for v, _, n in blocks for _ in range(int(n))]


def transcribed(entropies: Array, right: Array, accuracy: float) -> float:
    """The released code's threshold under the control of accuracy."""
    cuts = np.quantile(entropies, np.linspace(0, 1, 21))
    accuracies, means = [], []
    for a, b in itertools.pairwise(cuts):
        inside = np.where(np.logical_and(entropies > a, entropies <= b))[0]
        accuracies.append(np.mean(right[inside]) if len(inside) else 0)
        means.append(np.mean(entropies[inside]) if len(inside) else 0)
    running = np.add.accumulate(accuracies) / (np.arange(20) + 1)
    levels = sorted(set(running.tolist()))
    at = [[m for r, m in zip(running.tolist(), means, strict=True) if r == level] for level in levels]
    fitted = pooled([float(np.mean(m)) for m in at], [float(len(m)) for m in at])
    if not levels[0] <= accuracy <= levels[-1]:
        return float("nan")
    return float(np.interp(accuracy, levels, fitted))


@pytest.mark.parametrize("seed", range(6))
def test_accuracy_as_the_released_code_has_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    entropies = np.round(rng.gamma(1.0, 0.3, size=500), rng.choice([1, 2, 8]))  # ties leave bins empty
    right = rng.random(500) < np.exp(-entropies)
    values = [accuracy_threshold(entropies, right, a) for a in (0.0, 0.6, 0.8, 0.9, 0.97, 1.0)]
    np.testing.assert_allclose(values, [transcribed(entropies, right, a) for a in (0.0, 0.6, 0.8, 0.9, 0.97, 1.0)])
    assert miscoverage_threshold(np.arange(11.0), 0.05) == 10.0
    assert miscoverage_threshold(np.arange(11.0), 0.1) == 9.0


def test_the_control_of_accuracy(cohort: Cohort) -> None:
    z, y = known()
    few, entropy, correct = drawn(cohort, z, y, False, 1000)
    made = MetaCal(control="accuracy", accuracy=0.93, voxels=1000).fit(cohort, engine=Serial()).maps[0]
    assert isinstance(made, MetaCalMap)
    threshold = made.numbers[0].item()
    assert threshold == pytest.approx(transcribed(entropy[few], correct[few], 0.93), abs=1e-6)
    assert correct[entropy < threshold].mean() == pytest.approx(0.93, abs=0.03)
    with pytest.raises(UsageError, match="accuracy"):
        MetaCal(control="accuracy", accuracy=0.2).fit(cohort, engine=Serial())


def test_about_alpha_of_the_correct_voxels_are_rejected() -> None:
    z, y = known(8, seed=3)
    made = MetaCal(alpha=0.2).fit(z, y, engine=Serial())
    rejected = (made(torch.from_numpy(z)).amax(1) <= 1 / 4 + 1e-6).numpy()
    assert rejected[z.argmax(1) == y].mean() == pytest.approx(0.2, abs=0.05)


def test_flips_are_counted_and_the_star_has_none(cohort: Cohort, tmp_path: Path) -> None:
    z, _ = known()
    other = cohort_from_arrays(*known(seed=5), kind="logits")
    for star in (False, True):
        method = MetaCal(keep_decision=star)
        made = method.fit(cohort, engine=Serial())
        made.save(tmp_path / "cal.safetensors")
        again = load(tmp_path / "cal.safetensors")
        assert again.method == ("meta-cal-star" if star else "meta-cal")
        p = again(torch.from_numpy(z))
        rejected = (
            scipy.stats.entropy(scipy.special.softmax(z.astype(np.float64), 1), axis=1)
            >= again.maps[0].numbers[0].item()
        )
        flipped = p.argmax(1).numpy() != z.argmax(1)
        expected = np.zeros_like(flipped) if star else rejected & (z.argmax(1) != 0)
        np.testing.assert_array_equal(flipped, expected)
        found = evaluate(other, again, Serial()).calibrated
        assert found is not None
        assert (found.block["flip_rate"] or 0) == (0 if star else pytest.approx(expected.mean(), abs=0.05))
        folder = tmp_path / made.method
        apply(again, other, NpzSink(folder), Serial())
        written = np.stack([np.load(folder / f"{c.id}.npz")["probabilities"].argmax(0) for c in other])
        changed = written != known(seed=5)[0].argmax(1)
        assert changed.any() != star


def test_the_same_bits_for_any_engine_and_memory(cohort: Cohort) -> None:
    engines = (Serial(), Threads(2), Threads(3), spilling(Threads(2)))
    made = [fit_methods({"it": MetaCal()}, cohort, e)["it"].calibrator.maps[0] for e in engines]
    assert len({m.state_dict()["numbers"].numpy().tobytes() for m in made}) == 1


def test_where_no_voxel_is_right_none_is_rejected() -> None:
    z, _ = known(2, 300)
    made = MetaCal().fit(z, (z.argmax(1) + 1) % 4, engine=Serial())
    assert made.solution is not None
    assert made.solution.status == "degenerate"
    assert "none is rejected" in made.solution.message
    assert not made.maps[0].numbers[0].item() < np.log(4)


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 0.0},
        {"alpha": 1.0},
        {"accuracy": 2.0},
        {"control": "coverage"},
        {"temperature": -1.0},
        {"voxels": 0},
        {"seed": 1.5},
    ],
)
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        MetaCal(**options)


def test_numbers_are_checked() -> None:
    for numbers in ((-1.0, 1.0, 0.0), (1.0, 0.0, 0.0), (1.0, 1.0, float("nan"))):
        with pytest.raises(UsageError, match="numbers"):
            MetaCalMap(*numbers)
