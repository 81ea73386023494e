from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segcal.data.formats.arrays import cohort_from_arrays
from segcal.data.splits import (
    consecutive,
    folds,
    grouped,
    groups_by_pattern,
    groups_from_table,
    partition,
    regroupable,
    rule_of,
)
from segcal.errors import DataError, MissingError, UnreadableError, UsageError

GROUPS = st.lists(st.integers(0, 12).map(lambda i: f"s{i}"), min_size=2, max_size=60).filter(lambda g: len(set(g)) > 1)


@given(GROUPS, st.integers(2, 8), st.integers(0, 100))
def test_every_case_is_held_out_once_and_no_group_is_split(groups: list[str], k: int, seed: int) -> None:
    got = folds(groups, k, seed)
    assert sorted(i for fold in got.test for i in fold) == list(range(len(groups)))
    assert all(got.test) and len(got) == min(k, len(set(groups))) and got.groups == len(set(groups))
    for group in set(groups):
        assert len({got.fold_of[i] for i, g in enumerate(groups) if g == group}) == 1
    for fold in range(len(got)):
        assert sorted(got.train(fold) + got.test[fold]) == list(range(len(groups)))
        assert not {groups[i] for i in got.train(fold)} & {groups[i] for i in got.test[fold]}
    assert folds(groups, k, seed) == got


@given(GROUPS, st.integers(2, 8))
def test_folds_do_not_depend_on_the_order_of_cases(groups: list[str], k: int) -> None:
    order = np.random.default_rng(len(groups)).permutation(len(groups))
    shuffled = [groups[i] for i in order]
    fold_of = dict(zip(groups, folds(groups, k).fold_of, strict=True))
    assert [fold_of[g] for g in shuffled] == list(folds(shuffled, k).fold_of)


@given(GROUPS, st.integers(2, 8), st.integers(0, 20))
def test_folds_differ_by_no_more_than_the_largest_group(groups: list[str], k: int, seed: int) -> None:
    sizes = [len(f) for f in folds(groups, k, seed).test]
    assert max(sizes) - min(sizes) <= max(groups.count(g) for g in groups)


def test_equal_groups_give_equal_folds_that_the_seed_changes() -> None:
    groups = [f"subject {i // 2}" for i in range(40)]
    got = folds(groups, 5, seed=0)
    assert {len(f) for f in got.test} == {8} and not got.reduced and got.message == ""
    assert folds(groups, 5, seed=1).test != got.test


def test_weights_balance_voxels_instead_of_cases() -> None:
    weights = [100.0, 1.0, 1.0, 1.0, 1.0, 96.0]
    got = folds(list("abcdef"), 2, weights=weights)
    assert sorted(sum(weights[i] for i in f) for f in got.test) == [100, 100]
    assert all(folds(list("abcd"), 3, weights=[0, 0, 0, 0]).test)


def test_fewer_groups_than_folds_is_said() -> None:
    got = folds(["a", "a", "b", "c"], 5)
    assert len(got) == 3 and got.reduced and "3 folds instead of 5" in got.message and "3 groups" in got.message


@pytest.mark.parametrize(
    ("groups", "k", "weights", "message"),
    [
        (["a", "a"], 2, None, r"1 group\(s\) for 2 case\(s\)"),
        ([], 2, None, r"0 group\(s\)"),
        (["a", "b"], 1, None, "at least 2"),
        (["a", "b"], 2, [1.0], "one non-negative number a case"),
        (["a", "b"], 2, [1.0, -1.0], "one non-negative number a case"),
        (["a", "b"], 2, [1.0, float("nan")], "one non-negative number a case"),
    ],
)
def test_partitions_that_cannot_be_made_are_refused(
    groups: list[str], k: int, weights: list[float] | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        folds(groups, k, weights=weights)


def test_groups_from_the_first_parenthesis_or_the_whole_match() -> None:
    ids = ["sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1"]
    expected = dict(zip(ids, ["01", "01", "02"], strict=True))
    assert groups_by_pattern(ids, r"sub-(\d+)_") == expected
    assert groups_by_pattern(ids, r"^sub-\d+") == {i: f"sub-{g}" for i, g in expected.items()}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"run-(\d+)", "finds no group in 'sub-1'"),
        (r"(x)?sub", "finds no group"),
        ("(", "a regular expression"),
        ("", "finds no group"),
    ],
)
def test_a_pattern_that_finds_nothing_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        groups_by_pattern(["sub-1"], pattern)


@pytest.mark.parametrize(
    "text",
    [
        "case,group\na,1\nb,2\n",
        "group\tage\tcase\n1\t50\ta\n2\t60\tb\n",
        '\ufeffcase, group\r\n"a",1\r\n\r\nb,2\r\na,1\r\n',
        "case,group\na,1\nb,2",
    ],
    ids=["csv", "tsv with more columns", "Excel's, with an empty line and a line twice", "no last newline"],
)
def test_tables_as_people_save_them(tmp_path: Path, text: str) -> None:
    path = tmp_path / "groups.csv"
    path.write_bytes(text.encode())
    assert groups_from_table(path) == {"a": "1", "b": "2"}


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", MissingError, "columns named case and group"),
        (b"id;group\na;1\n", MissingError, "columns named case and group"),
        (b"case,group\na\n", MissingError, "row 2: found an empty case or group"),
        (b"case,group\na,1\na,2\n", DataError, "row 3: found case 'a' in group '2' and in '1'"),
        (b"PK\x03\x04\xff\xfe\x80", UnreadableError, "cannot be read as a table"),
        (b"case,group\n" + b"x" * 200_000 + b",1\n", UnreadableError, "cannot be read as a table"),
    ],
)
def test_bad_tables_get_a_message_that_names_them(
    tmp_path: Path, content: bytes, error: type[DataError], message: str
) -> None:
    path = tmp_path / "groups.csv"
    path.write_bytes(content)
    with pytest.raises(error, match=message) as caught:
        groups_from_table(path)
    assert str(path) in str(caught.value)


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no such file"):
        groups_from_table(tmp_path / "none.csv")
    with pytest.raises(UnreadableError):
        groups_from_table(tmp_path)


def test_neighbouring_frames_stay_together_whatever_the_order_given() -> None:
    ids = ["f10", "f2", "f1", "f9", "f3"]
    assert consecutive(ids, 2) == {"f1": "f1", "f2": "f1", "f3": "f3", "f9": "f3", "f10": "f10"}
    assert list(consecutive(ids, 2)) == ids


def test_runs_do_not_cross_sequences() -> None:
    ids = ["A_1", "A_2", "A_3", "B_1", "B_2"]
    assert consecutive(ids, 2, sequence=r"^(\w)_") == {
        "A_1": "A_1",
        "A_2": "A_1",
        "A_3": "A_3",
        "B_1": "B_1",
        "B_2": "B_1",
    }
    with pytest.raises(UsageError, match="at least 1 frame"):
        consecutive(ids, 0)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(UsageError, match="seed: found -1"):
        folds(["a", "b"], 2, -1)
    with pytest.raises(UsageError, match="seed: found -1"):
        partition(["a", "b", "c"], 1, 1, 1, seed=-1)


def test_a_cohort_remembers_the_word_of_its_groups(tmp_path: Path) -> None:
    cohort = cohort_from_arrays(np.zeros((3, 2, 4)), ids=["p1_a", "p1_b", "p2_a"])
    table = tmp_path / "mine.csv"
    table.write_text("case,group\np1_a,x\np1_b,x\np2_a,y\n")
    assert cohort.grouping == ""
    assert (grouped(cohort, r"p(\d)").grouping, grouped(cohort, r"p(\d)").groups) == (r"p(\d)", ("1", "1", "2"))
    assert grouped(cohort, "consecutive:2").grouping == "consecutive:2"
    assert grouped(cohort, str(table)).grouping == "table:mine.csv"
    assert grouped(grouped(cohort, r"p(\d)"), "source").grouping == "source"
    assert rule_of("table:a.csv") == rule_of("table:b.tsv") != rule_of("a")


@pytest.mark.parametrize(
    ("word", "again"),
    [
        ("", False),
        ("table:a.csv", False),
        (r"patient(\d+)", True),
        (r"^(.+)[_-]", True),
        ("consecutive:20", True),
        ("source", True),
        (r"(a+)+$", False),
        (r"(?:a|b)*c", False),
        (r"a{2,}b*c*d*", False),
        ("x" * 201, False),
    ],
)
def test_a_word_from_a_file_groups_by_itself_only_if_it_is_quick(word: str, again: bool) -> None:
    assert regroupable(word) == again
