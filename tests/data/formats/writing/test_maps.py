from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segcal.data.formats.requested import Map, Requested
from segcal.errors import UsageError


def test_probability_stands_for_one_map_a_channel_and_is_not_delivered():
    requested = Requested(("entropy", "probability"), ("bg", "liver"))
    assert requested.delivered == ("entropy",)
    assert requested.maps == (Map("entropy"), Map("probability_bg", 0), Map("probability_liver", 1))


def test_nothing_asked_for():
    assert Requested().maps == () and Requested().delivered == ()


def test_names_that_become_alike_end_in_their_channel():
    folders = [m.folder for m in Requested(("probability",), ("a b", "a/b", "A_B", "c", "")).maps]
    assert folders == ["probability_a_b_0", "probability_a_b_1", "probability_A_B_2", "probability_c", "probability__4"]


@given(st.lists(st.text(max_size=12), min_size=1, max_size=6))
def test_any_class_names_give_distinct_plain_folder_names(classes):
    folders = [m.folder for m in Requested(("probability",), tuple(classes)).maps]
    assert len(folders) == len(classes)
    assert all(f.startswith("probability_") and not set(f) & set('/\\\0.:*?"<>|\n ') for f in folders)


@pytest.mark.parametrize(
    ("names", "found"),
    [(("entropy", "entropy"), "'entropy'"), (("../x",), "'../x'"), (("",), "''"), (("probability",), "no class names")],
)
def test_refused(names, found):
    with pytest.raises(UsageError, match=found.replace("..", r"\.\.")):
        Requested(names)


def test_classes_of_another_cohort_are_refused():
    requested = Requested(("probability",), ("a", "b"))
    requested.check(("a", "b"))
    with pytest.raises(UsageError, match="channels"):
        requested.check(("a", "c"))
    Requested(("entropy",), ("a", "b")).check(("x",))  # nothing is named after the classes
