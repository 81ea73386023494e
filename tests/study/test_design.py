"""Partitions that keep groups whole, arms, and everything that is refused before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segcal.errors import SegcalError, UsageError
from segcal.splits import CALIBRATION, TEST, VALIDATION
from segcal.study.configuration import CLEAN
from segcal.study.design import Design
from tests.study.conftest import CASES, described

Designed = Callable[..., Design]


def test_groups_stay_whole_and_repeats_differ(designed: Designed) -> None:
    found = designed(repeats=4)
    for repeat in found.repeats:
        parts = [set(found.ids(repeat, role)) for role in (CALIBRATION, VALIDATION, TEST)]
        assert [len(p) for p in parts] == [6, 6, 8]
        patients = [{case.split("_")[0] for case in part} for part in parts]
        assert not (patients[0] & patients[1] or patients[0] & patients[2] or patients[1] & patients[2])
    assert len({found.ids(r, TEST) for r in found.repeats}) == 4
    assert designed(repeats=4).partitions == found.partitions
    assert designed(repeats=4, seed=1).partitions != found.partitions
    # a further repeat leaves the earlier ones as they are
    assert designed(repeats=2).partitions == found.partitions[:2]


def test_all_left_over_cases_are_tested_unless_a_number_is_given(designed: Designed) -> None:
    found = designed(split={"calibration": 4, "validation": 4, "groups": "^(p\\d+)_"})
    assert len(found.ids(0, TEST)) == len(CASES) - 8


def test_sizes_keep_the_test_split_and_leave_the_rest_to_validation(designed: Designed) -> None:
    found = designed(sensitivity={"sizes": [2, 4], "pipelines": ["TS(zbar)", "MS(zbar)"]})
    main = [arm for arm in found.arms if arm.size is None]
    for arm in (a for a in found.arms if a.size is not None):
        whole = main[arm.repeat]
        assert len(arm.calibration) == arm.size
        assert sorted((*arm.calibration, *arm.validation)) == sorted((*whole.calibration, *whole.validation))
        assert set(arm.calibration) <= set(whole.calibration)
        assert {p.name for p in arm.pipelines} == {"TS(zbar)", "MS(zbar)"}


def test_shifted_cases_follow_the_partition_and_strangers_are_always_scored(designed: Designed, ensembles: Path) -> None:
    of = {name: {"results": str(ensembles / name / "member*"), "labels": str(ensembles / name / "labels"), "background": 0} for name in ("shifted", "elsewhere")}
    found = designed(cohorts=of)
    for repeat in found.repeats:
        assert set(found.tested("shifted", repeat)) == set(found.ids(repeat, TEST)) == set(found.tested(CLEAN, repeat))
        assert found.tested("elsewhere", repeat) == ("q0", "q1", "q2")


def test_frames_between_runs_are_left_out(designed: Designed) -> None:
    found = designed(split={"calibration": 4, "validation": 4, "test": 4, "groups": "consecutive:6", "gap": 2})
    assert len(found.clean) == len(CASES) - 2 * 3
    assert "6 frames between runs" in found.notes[0]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"split": {"calibration": 20, "validation": 6}}, "24 cases in 24 groups.*at least 20 to calibrate"),
    ({"split": {"calibration": 6, "validation": 6, "test": 8, "groups": "^(p)"}}, "in 1 groups.*a group is never split"),
    ({"split": {"calibration": 10, "validation": 6, "test": 9, "groups": "^(p\\d+)_"}}, "at least 10 to calibrate, 6 to validate and 9 to test"),
    ({"split": {"calibration": 6, "validation": 6, "groups": "subject_(\\d+)"}}, "finds no group"),
    ({"split": {"calibration": 6, "validation": 6, "groups": "nowhere.csv"}}, "nowhere.csv"),
    ({"split": {"calibration": 6, "validation": 6, "gap": 2}}, "split: gap"),
    ({"split": {"calibration": 6, "validation": 6, "groups": "consecutive:4", "gap": 4}}, "gap: found 4"),
    ({"sensitivity": {"sizes": [12]}}, "sensitivity: sizes: found 12"),
    ({"pipelines": ["lts-image(zbar)"], "methods": {}}, "no image"),
    ({"cohorts": {"test": {"results": "clean/member*"}}}, "another name"),
]


@pytest.mark.parametrize(("change", "said"), WRONG, ids=lambda v: str(v)[:50])
def test_what_cannot_be_is_refused_before_any_work(change: dict[str, Any], said: str, designed: Designed, ensembles: Path) -> None:
    if "cohorts" in change:
        change = {"cohorts": {"test": described(ensembles)["data"]}}
    with pytest.raises(SegcalError, match=said):
        designed(**change)


def test_cohorts_that_calibrators_cannot_score_are_refused(designed: Designed, ensembles: Path) -> None:
    one = {"results": str(ensembles / "shifted" / "member0"), "labels": str(ensembles / "shifted" / "labels"), "background": 0}
    with pytest.raises(UsageError, match="cohorts: mild: found members 1; expected 3"):
        designed(cohorts={"mild": one})
    single = described(ensembles)["data"] | {"results": str(ensembles / "clean" / "member0")}
    with pytest.raises(UsageError, match="predictions of one network"):
        designed(data=single)
    assert designed(data=single, pipelines=["p0", "TS(p0)"], methods={}).clean.members == 1
    with pytest.raises(SegcalError, match="names as of the cases"):
        designed(data=described(ensembles)["data"] | {"labels": str(ensembles / "elsewhere" / "labels")})
