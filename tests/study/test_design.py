"""Partitions that keep groups whole, arms, and everything that is refused before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segcal.data.splits import CALIBRATION, TEST, VALIDATION
from segcal.errors import SegcalError, UsageError
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


def test_shifted_cases_follow_the_partition_and_strangers_are_always_scored(
    designed: Designed, ensembles: Path
) -> None:
    of = {
        name: {
            "results": str(ensembles / name / "member*"),
            "labels": str(ensembles / name / "labels"),
            "background": 0,
        }
        for name in ("shifted", "elsewhere")
    }
    found = designed(cohorts=of)
    for repeat in found.repeats:
        assert set(found.tested("shifted", repeat)) == set(found.ids(repeat, TEST)) == set(found.tested(CLEAN, repeat))
        assert found.tested("elsewhere", repeat) == ("q0", "q1", "q2")


def test_frames_between_runs_are_left_out(designed: Designed) -> None:
    found = designed(split={"calibration": 4, "validation": 7, "test": 4, "groups": "consecutive:6", "gap": 2})
    assert len(found.clean) == len(CASES) - 2 * 3
    assert "6 frames between runs" in found.notes[0]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"split": {"calibration": 20, "validation": 6}}, "24 cases in 24 groups.*at least 20 to calibrate"),
    (
        {"split": {"calibration": 6, "validation": 6, "test": 8, "groups": "^(p)"}},
        "in 1 groups.*a group is never split",
    ),
    (
        {"split": {"calibration": 10, "validation": 6, "test": 9, "groups": "^(p\\d+)_"}},
        "at least 10 to calibrate, 6 to validate and 9 to test",
    ),
    ({"split": {"calibration": 6, "validation": 6, "groups": "subject_(\\d+)"}}, "finds no group"),
    ({"split": {"calibration": 6, "validation": 6, "groups": "nowhere.csv"}}, "nowhere.csv"),
    ({"split": {"calibration": 6, "validation": 6, "gap": 2}}, "split: gap"),
    ({"split": {"calibration": 6, "validation": 6, "groups": "consecutive:4", "gap": 4}}, "gap: found 4"),
    ({"sensitivity": {"sizes": [12]}}, "sensitivity: sizes: found 0 validation"),
    ({"pipelines": ["lts-image(zbar)"], "methods": {}}, "no image"),
]


@pytest.mark.parametrize(("change", "said"), WRONG, ids=lambda v: str(v)[:50])
def test_what_cannot_be_is_refused_before_any_work(change: dict[str, Any], said: str, designed: Designed) -> None:
    with pytest.raises(SegcalError, match=said):
        designed(**change)


def test_nothing_near_a_fitted_case_is_scored_elsewhere(designed: Designed, ensembles: Path) -> None:
    """Frames left out between runs stay out when they come back corrupted, and so do strangers of a patient
    fitted on.
    """
    shifted = {"results": str(ensembles / "shifted" / "member*"), "labels": str(ensembles / "shifted" / "labels")}
    found = designed(
        cohorts={"shifted": shifted},
        split={"calibration": 4, "validation": 7, "test": 4, "groups": "consecutive:6", "gap": 2},
    )
    assert len(found.left_out) == 6
    for repeat in found.repeats:
        assert set(found.tested("shifted", repeat)) == set(found.ids(repeat, TEST))
    strangers = {
        "results": str(ensembles / "elsewhere" / "member*"),
        "labels": str(ensembles / "elsewhere" / "labels"),
        "groups": "^q0|^q",
    }
    found = designed(cohorts={"elsewhere": strangers}, split={"calibration": 6, "validation": 6, "test": 6})
    assert set(found.cohorts["elsewhere"].groups) == {"q0", "q"}
    patients = {"q0": found.ids(0, CALIBRATION)[0], "q1": found.ids(0, VALIDATION)[0], "q2": found.ids(0, TEST)[0]}
    table = ensembles / "strangers.csv"
    table.write_text("case,group\n" + "".join(f"{case},{group}\n" for case, group in patients.items()))
    found = designed(
        cohorts={"elsewhere": {**strangers, "groups": str(table)}}, split={"calibration": 6, "validation": 6, "test": 6}
    )
    assert found.tested("elsewhere", 0) == ("q2",)


def test_sizes_take_whole_groups_and_leave_two_to_validation(designed: Designed) -> None:
    found = designed(sensitivity={"sizes": [3, 6], "pipelines": ["MS(zbar)"]})
    for arm in (a for a in found.arms if a.size is not None):
        assert arm.size == 3
        assert len(arm.calibration) == 4
        assert not {found.groups[c] for c in arm.calibration} & {found.groups[c] for c in arm.validation}
    with pytest.raises(UsageError, match=r"split: validation: found 2 validation.* in 1 group"):
        designed(split={"calibration": 6, "validation": 2, "groups": "^(p\\d+)_"})
    with pytest.raises(UsageError, match=r"sensitivity: pipelines: found 'zbar'"):
        designed(sensitivity={"sizes": [3], "pipelines": ["zbar"]})


def test_cohorts_take_over_what_the_clean_data_say_of_their_files(designed: Designed, ensembles: Path) -> None:
    here = {"results": str(ensembles / "shifted" / "member*"), "labels": str(ensembles / "shifted" / "labels")}
    data = described(ensembles)["data"] | {"classes": ["a", "b", "c"], "ignore_index": 7}
    assert designed(data=data, cohorts={"mild": here}).cohorts["mild"].head == designed(data=data).clean.head
    with pytest.raises(UsageError, match="cohorts: mild: found head"):
        designed(data=data, cohorts={"mild": {**here, "ignore_index": 9}})


def test_cohorts_that_calibrators_cannot_score_are_refused(designed: Designed, ensembles: Path) -> None:
    one = {
        "results": str(ensembles / "shifted" / "member0"),
        "labels": str(ensembles / "shifted" / "labels"),
        "background": 0,
    }
    with pytest.raises(UsageError, match="cohorts: mild: found members 1; expected 3"):
        designed(cohorts={"mild": one})
    single = described(ensembles)["data"] | {"results": str(ensembles / "clean" / "member0")}
    with pytest.raises(UsageError, match="predictions of one network"):
        designed(data=single)
    assert designed(data=single, pipelines=["p0", "TS(p0)"], methods={}).clean.members == 1
    with pytest.raises(SegcalError, match="names as of the cases"):
        designed(data=described(ensembles)["data"] | {"labels": str(ensembles / "elsewhere" / "labels")})


def test_a_cohort_made_in_another_way_is_refused_unless_the_study_goes_on(designed: Designed, ensembles: Path) -> None:
    here = {
        "results": str(ensembles / "shifted" / "member*"),
        "labels": str(ensembles / "shifted" / "labels"),
        "background": 0,
    }
    with pytest.raises(UsageError, match=r"cohorts: mild: found probabilities of 15 networks averaged, but .* unknown"):
        designed(cohorts={"mild": {**here, "networks": 5}})
    (note,) = [n for n in designed(cohorts={"mild": {**here, "networks": 5, "go_on": True}}).notes if "mild" in n]
    assert "15 networks averaged" in note
    both = described(ensembles)["data"] | {"networks": 5}
    assert designed(data=both, cohorts={"mild": {**here, "networks": 5}}).clean.provenance.networks == 15
