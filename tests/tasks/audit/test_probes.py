"""Shifts: drawn reproducibly, in float64, before pooling, and only where scores have a gauge."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from segcal.data.head import Regions
from segcal.errors import UsageError
from segcal.tasks.audit.probes import Probe, has_gauge, probes


def members_of(cohort: Any, case: int = 0) -> list[torch.Tensor]:
    return [torch.from_numpy(f.array.reshape(f.array.shape[0], -1)) for f in cohort[case].scores]


def test_a_voxel_shift_adds_one_constant_a_voxel_to_the_mean_of_logits(random_cohort: Any) -> None:
    cohort = random_cohort()
    members = members_of(cohort)
    moved = Probe("voxel", 100.0).shifted(cohort, 0, 0, members)
    delta = moved - torch.stack([m.double() for m in members]).mean(0)
    assert moved.dtype == torch.float64
    assert float((delta - delta[:1]).abs().max()) < 1e-12
    assert 90 < float(delta.abs().max()) <= 100 and float(delta[0].std()) > 10


def test_a_member_shift_is_one_constant_for_the_whole_case_and_differs_between_members_and_cases(
    random_cohort: Any,
) -> None:
    cohort = random_cohort(members=1)
    probe = Probe("member", 10.0)
    deltas = []
    for case in (0, 1):
        members = members_of(cohort, case)
        first, second = (
            probe.shifted(cohort, case, start, [m[:, start : start + 100] for m in members]) for start in (0, 100)
        )
        delta = torch.cat([first, second], 1) - members[0][:, :200].double()
        assert float(delta.std()) < 1e-12
        deltas.append(float(delta[0, 0]))
    assert abs(deltas[0] - deltas[1]) > 1e-3 and max(map(abs, deltas)) <= 10
    both = random_cohort(members=2)
    pooled = Probe("member", 10.0).shifted(both, 0, 0, members_of(both)) - torch.stack(
        [m.double() for m in members_of(both)]
    ).mean(0)
    assert float(pooled.std()) < 1e-12 and float(pooled.abs().max()) > 0


def test_pooled_probabilities_do_not_see_member_shifts(random_cohort: Any) -> None:
    cohort = random_cohort(pool="probs", members=3)
    members = members_of(cohort)
    expected = torch.stack([torch.softmax(m.double(), 0) for m in members]).mean(0)
    assert float((Probe("member", 100.0).shifted(cohort, 0, 0, members) - expected).abs().max()) < 1e-13


def test_shifts_depend_on_seed_case_and_place_alone(random_cohort: Any) -> None:
    cohort = random_cohort()
    members = members_of(cohort)
    one = Probe("voxel", 1.0).shifted(cohort, 0, 0, members)
    assert torch.equal(one, Probe("voxel", 1.0).shifted(cohort[:1], 0, 0, members))
    for other in (
        Probe("voxel", 1.0, 7).shifted(cohort, 0, 0, members),
        Probe("voxel", 1.0).shifted(cohort, 1, 0, members),
        Probe("voxel", 1.0).shifted(cohort, 0, 65_536, members),
    ):
        assert not torch.equal(one, other)


def test_members_are_left_as_they_were(random_cohort: Any) -> None:
    cohort = random_cohort(members=1)
    members = members_of(cohort)
    kept = members[0].clone()
    Probe("voxel", 1.0).shifted(cohort, 0, 0, members)
    assert torch.equal(members[0], kept)


def test_there_is_a_probe_a_unit_and_size_and_none_without_a_gauge(random_cohort: Any) -> None:
    assert [(p.unit, p.size) for p in probes(random_cohort(), (1, 10), 0)] == [
        ("voxel", 1.0),
        ("voxel", 10.0),
        ("member", 1.0),
        ("member", 10.0),
    ]
    assert len(probes(random_cohort(), (1, 1.0), 0)) == 2 and probes(random_cohort(), (), 0) == []
    regions = random_cohort(classes=2, head=Regions(("x", "y"), ((1,), (2,)), (1, 2)))
    assert not has_gauge(regions) and probes(regions, (1,), 0) == []


@pytest.mark.parametrize("size", [0, -1, np.inf, np.nan])
def test_sizes_are_positive_numbers(random_cohort: Any, size: float) -> None:
    with pytest.raises(UsageError, match="shifts"):
        probes(random_cohort(), (size,), 0)
