"""Tidy tables of a study that never ran: known structure, random numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from segcal.study.tables.names import SECTIONS, keeps_labels
from segcal.study.tables.results import Results

PIPELINES = tuple(dict.fromkeys(p for _, members in SECTIONS for p in members))
METHODS = {"TS(zbar)": "ts", "MS(zbar)": "ms", "MSc(zbar)": "ms-c", "CMSap(zbar)": "cms-ap", "LTS(zbar)": "lts-raw"}


def study(
    name: str = "made up",
    *,
    repeats: int = 3,
    tested: int = 12,
    pool: int = 20,
    cohorts: Sequence[str] = ("test", "mild"),
    seed: int = 0,
    pipelines: Sequence[str] = PIPELINES,
) -> Results:
    """A study of so many repeats; two cases a group; every value of every pipeline is a case's difficulty plus its own
    noise.
    """
    rng = np.random.default_rng(seed)
    names = ("scores", "pooled", "energy", "fits", "partition", "corruptions")
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    groups = [f"subject{c // 2}" for c in range(pool)]
    difficulty = rng.normal(0, 0.02, pool)
    for r in range(repeats):
        order = np.concatenate([[2 * g, 2 * g + 1] for g in rng.permutation(pool // 2)])
        for k, c in enumerate(order):
            role = "test" if k < tested else "calibration" if k < (tested + pool) // 2 else "validation"
            rows["partition"].append({"repeat": r, "case": f"case{c:02}", "group": groups[c], "role": role})
        for cohort in cohorts:
            for p in pipelines:
                place = {"cohort": cohort, "repeat": r, "pipeline": p}
                for c in order[:tested]:
                    case = {"case": f"case{c:02}", "group": groups[c]}
                    for metric, level in (("nll", 0.3), ("dice", 0.8), ("ece", 0.1), ("ba_ece", 0.2)):
                        rows["scores"].append(
                            {**place, **case, "metric": metric, "value": level + difficulty[c] + rng.normal(0, 0.002)}
                        )
                    rows["scores"].append(
                        {
                            **place,
                            **case,
                            "metric": "flip_rate",
                            "value": 0.0 if keeps_labels(p) else abs(rng.normal(0, 0.01)),
                        }
                    )
                rows["pooled"] += [
                    {**place, "metric": "ace", "value": 0.05 + abs(rng.normal(0, 0.01))},
                    {**place, "metric": "voxels", "value": 1e6},
                ]
                counts = (0, 0, 0) if keeps_labels(p) else rng.integers(100, 1000, 3)
                rows["pooled"] += [
                    {**place, "metric": kind, "value": float(v)}
                    for kind, v in zip(("harmful", "beneficial", "neutral"), counts, strict=True)
                ]
        for p, method in METHODS.items():
            counts = None if method == "lts-raw" else len(method)
            rows["fits"].append(
                {
                    "repeat": r,
                    "pipeline": p,
                    "method": method,
                    "view": "zbar",
                    "optimised": counts,
                    "identifiable": counts,
                    "status": "stopped" if p == "LTS(zbar)" and r == 0 else "optimal",
                }
            )
    for members in range(1, 6):
        rows["energy"] += [
            {"members": members, "case": f"case{c:02}", "group": groups[c], "std": members + 0.1 * c}
            for c in range(pool)
        ]
    if "mild" in cohorts:
        for case, kind, parameters in (("a", "noise", {"sigma": 0.03}), ("b", "motion", {"degrees": [-30, 12.5]})):
            rows["corruptions"].append(
                {
                    "cohort": "mild",
                    "file": f"{case}.png",
                    "kind": kind,
                    "severity": "mild" if kind == "noise" else "",
                    "parameters": json.dumps({**parameters, "replicate": 0}),
                }
            )
    return Results(name, 4, seed, rows, replicates=400)


@pytest.fixture
def made() -> Callable[..., Results]:
    """The maker of studies, for test files that cannot import each other."""
    return study
