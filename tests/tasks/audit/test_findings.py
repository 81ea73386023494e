"""Verdicts from what is claimed and what is seen."""

from __future__ import annotations

from typing import Any

import pytest

from segcal.metrics.flips import FlipAudit
from segcal.tasks.audit.findings import Finding, Flipped


@pytest.mark.parametrize(
    ("claimed", "held", "verdict"),
    [
        ("proven", True, "holds"),
        ("proven", None, "holds"),
        ("proven", False, "broken"),
        ("no", True, "seen to hold"),
        ("no", False, "does not hold"),
        ("no", None, "not measured"),
        (None, True, "seen to hold"),
        (None, False, "does not hold"),
        (None, None, "not measured"),
    ],
)
def test_a_verdict_follows_from_claim_and_sight(claimed: Any, held: bool | None, verdict: str) -> None:
    finding = Finding("preserves_order", claimed, "why", held, "seen")
    assert finding.verdict == verdict and finding.to_json()["verdict"] == verdict


def test_shares_of_changed_labels() -> None:
    found = Flipped(FlipAudit(1, 2, 1, 100), 4, {1: 2, 3: 3, 7: 4}).to_json()
    assert found["near_boundary"]["3"] == {"voxels": 3, "share": 0.75}
    assert found["audit"]["harmful_share"] == 0.25 and found["audit"]["rate"] == 0.04
    nothing = Flipped(None, 0, {1: 0}).to_json()
    assert nothing["audit"] is None and nothing["near_boundary"]["1"]["share"] is None
