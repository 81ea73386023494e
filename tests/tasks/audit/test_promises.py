"""The benchmark of promises counts what it says, and names a promise that does not hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.promises import changes, faults, page


def test_labels_and_orders_are_counted_in_voxels() -> None:
    z = np.array([[3.0, 3.0, 3.0, 1.0], [2.0, 2.0, 2.0, 1.0], [1.0, 1.0, 1.0, 0.0]])
    p = np.array([[0.5, 0.3, 0.5, 0.4], [0.3, 0.5, 0.1, 0.5], [0.2, 0.2, 0.4, 0.1]])
    # kept; label and order changed; order changed alone; a tie of the scores is free
    assert changes(z, p).tolist() == [2, 2]
    assert changes(z[:, :1], p[:, :1]).tolist() == [0, 0]


def row(claimed: str, verdict: str, labels: int) -> dict[str, Any]:
    promises = {
        name: {"claimed": claimed, "verdict": verdict}
        for name in ("translation_invariant", "preserves_argmax", "preserves_order")
    }
    shift = {"largest": 0.0, "units": 1, "exact": 1e-15, "plain": 0.0, "plain_units": 0, "plain_exact": 1e-15}
    return {
        "promises": promises,
        "returned": {"labels": labels, "orders": 0},
        "written": {"labels": 0, "orders": 0},
        "shifts": {"voxel": shift, "member": shift},
    }


@pytest.mark.parametrize(
    ("found", "count"),
    [
        (row("proven", "holds", 0), 0),
        (row("proven", "holds", 3), 1),
        (row("no", "does not hold", 3), 0),
        (row("proven", "broken", 0), 3),
    ],
)
def test_only_proven_promises_can_be_faults(found: dict[str, Any], count: int) -> None:
    assert len(faults(found)) == count


def test_a_page_has_a_line_a_method_and_the_softmax() -> None:
    pool = {
        "title": "x",
        "cases": 1,
        "voxels": 4,
        "classes": 3,
        "fit_cases": 2,
        "methods": {"ts": row("proven", "holds", 0), "lts": "no image"},
    }
    lines = page([pool], "command").splitlines()
    assert any(
        line.startswith("| ts | proven | proven | proven | 0 | 0 | 0 | 0 | 0, 1 unit (1.0e-15)") for line in lines
    )
    assert any("not fitted: no image" in line for line in lines) and any(
        line.startswith("| softmax |") for line in lines
    )
