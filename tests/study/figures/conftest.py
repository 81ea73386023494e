"""Small made-up results of a study, with every table and example that figures use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from segcal.study.figures.material import Columns, Example, Material

PIPELINES = (
    "p0",
    "pbar",
    "zbar",
    "TS(zbar)",
    "ETS(pbar)",
    "MS(zbar)",
    "MSc(zbar)",
    "LTS(zbar)",
    "LTS(logS(zbar))",
    "CDC(zbar)",
    "CMSop(pbar)",
)
COHORTS = ("test", "mild", "strong")


def columns(names: str, rows: list[tuple[Any, ...]]) -> Columns:
    """A tidy table from its rows."""
    return {name: np.array(column) for name, column in zip(names.split(), zip(*rows, strict=True), strict=True)}


def example(case: str, cohort: str, colour: bool, seed: int) -> Example:
    """A disc and a square on noise; the last line is ignored."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:30, :40]
    labels = np.where((y - 12) ** 2 + (x - 12) ** 2 < 60, 1, 0) + 2 * ((x > 28) & (y > 14))
    decision = np.roll(labels, 1, axis=1)
    image = rng.integers(0, 120, (30, 40, 3) if colour else (30, 40), np.uint8) + (
        60 * labels[..., None] if colour else 60 * labels
    ).astype(np.uint8)
    labels = labels.copy()
    labels[-1] = 255
    return Example(
        f"{cohort}-{case}",
        cohort,
        case,
        labels,
        decision,
        image,
        rng.normal(5, 1, (30, 40)),
        rng.random((30, 40)) < 0.05,
    )


@pytest.fixture(scope="session")
def table_of() -> Callable[[str, list[tuple[Any, ...]]], Columns]:
    """`columns`, for tests that cannot import this file."""
    return columns


@pytest.fixture(scope="session")
def results() -> Material:
    """Everything there is."""
    rng = np.random.default_rng(0)
    scores, pooled, curves, bands, sizes, sizes_pooled = [], [], [], [], [], []
    for level, cohort in enumerate(COHORTS):
        for repeat in range(3):
            for place, pipeline in enumerate(PIPELINES):
                base = 0.01 * (1 + place % 4 + level)
                for case in range(6):
                    scores += [
                        (cohort, repeat, pipeline, f"c{case}", f"c{case}", m, base * rng.uniform(0.5, 2))
                        for m in ("nll", "ece", "ece_20", "ece_30", "ece_40")
                    ]
                pooled += [
                    (cohort, repeat, pipeline, m, base * rng.uniform(0.8, 1.2))
                    for m in ("ace", "ace_20", "ace_30", "ace_40")
                ]
                for b in range(15):
                    confidence = (b + 0.5) / 15
                    known = b >= 5
                    curves.append(
                        (
                            cohort,
                            repeat,
                            pipeline,
                            15,
                            b,
                            100 * known,
                            confidence if known else np.nan,
                            min(confidence * rng.uniform(0.85, 1), 1) if known else np.nan,
                        )
                    )
                for low, high in ((0, 3), (3, 7), (7, 15), (15, np.inf)):
                    bands.append(
                        (
                            cohort,
                            repeat,
                            pipeline,
                            float(low),
                            float(high),
                            50,
                            0.9,
                            0.9 - base * rng.uniform(0.5, 3) / (1 + low),
                            low + 1.0,
                        )
                    )
    for size in (5, 25, 50, 60):
        for repeat in range(3):
            for pipeline in ("TS(zbar)", "MS(zbar)", "LTS(zbar)"):
                sizes += [
                    (size, repeat, pipeline, f"c{c}", f"c{c}", m, 0.1 / size + 0.01 * rng.random())
                    for c in range(5)
                    for m in ("nll", "ece", "ba_ece")
                ]
                sizes_pooled.append((size, repeat, pipeline, "ace", 0.2 / size + 0.01 * rng.random()))
    tables = {
        "scores": columns("cohort repeat pipeline case group metric value", scores),
        "pooled": columns("cohort repeat pipeline metric value", pooled),
        "curves": columns("cohort repeat pipeline bins bin voxels confidence accuracy", curves),
        "bands": columns("cohort repeat pipeline low high voxels confidence accuracy distance", bands),
        "sizes": columns("size repeat pipeline case group metric value", sizes),
        "sizes_pooled": columns("size repeat pipeline metric value", sizes_pooled),
    }
    examples = [
        example(case, cohort, case == "a", 3 * k + level)
        for k, case in enumerate("ab")
        for level, cohort in enumerate(COHORTS)
    ]
    return Material(tables, examples, ("background", "disc", "square"), 0)
