"""How labels are read under other numbers, and what is said of those that fit no class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segcal.data.formats.arrays import cohort_from_arrays
from segcal.data.numbering import NO_LABEL, Numbering, listed, out_of_range
from segcal.engine.serial import Serial
from segcal.errors import LabelError, UsageError
from segcal.methods.temperature import TemperatureScaling

NUMBERS = st.dictionaries(st.integers(-3, 12), st.none() | st.integers(0, 3), min_size=1, max_size=6)


def read(numbering: Numbering, labels: list[int]) -> tuple[list[int], list[bool]]:
    found, left_out = numbering.read(torch.tensor(labels), torch.ones(len(labels), dtype=torch.bool), "x")
    return found.tolist(), left_out.tolist()


@given(NUMBERS, st.lists(st.integers(-4, 13), max_size=30))
def test_named_labels_are_renamed_others_are_kept_and_none_by_accident(told: dict, labels: list[int]) -> None:
    numbering = Numbering.of(told, (), 3, None)
    handed_on = any(new in told and told[new] != new for new in told.values())
    taken = set(told.values()) - set(told) if handed_on else ()
    if any(label in taken for label in labels):
        with pytest.raises(LabelError, match="not in the label map"):
            read(numbering, labels)
        return
    expected = [told.get(label, label) for label in labels]
    found, left_out = read(numbering, labels)
    assert [None if out else label for label, out in zip(found, left_out, strict=True)] == expected


def test_two_labels_are_one_class_but_none_slips_into_a_class_whose_number_was_handed_on() -> None:
    assert read(Numbering.of({255: 1}, (), 1, None), [0, 1, 255])[0] == [0, 1, 1]
    shifted = Numbering.of({1: 0, 2: 1}, (), 1, None)
    with pytest.raises(LabelError, match=r"label 0, which is .* beside 1.* Add 0:0 to --label-map .* 0:ignore"):
        read(shifted, [0, 1, 2])
    assert shifted.read(torch.tensor([1, 0]), torch.tensor([True, False]), "x")[0].tolist() == [0, 0]
    assert read(Numbering.of({0: None, 1: 0, 2: 1}, (), 1, None), [0, 1, 2]) == ([NO_LABEL, 0, 1], [True, False, False])


@pytest.mark.parametrize(
    ("told", "left_out", "message"),
    [
        ({255: 2}, (), "label_map: found 255 as 2; expected the number of a class, 0 to 1"),
        ({255: 1}, (255,), "found 255 as 1, and 255 as a label that is never scored"),
        ({9: 1}, (), "found 9 as 1, and 9 as"),
        ({"a": 1}, (), "a label 'a'; expected a whole number"),
        ({2**63: 1}, (), "more than 64 bits"),
        ({2: 1.5}, (), "a label 1.5"),
    ],
)
def test_what_contradicts_itself_is_refused(told: dict, left_out: tuple, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Numbering.of(told, left_out, 1, 9)


def test_several_ignored_labels() -> None:
    assert listed(None) == () and listed(255) == (255,) and listed([255, np.int64(254), 255]) == (255, 254)
    assert read(Numbering.of(None, (254,), 3, 255), [0, 254, 255]) == ([0, NO_LABEL, 255], [False, True, False])
    assert str(Numbering.of({4: 3, 5: 3}, (254,), 3, 255)) == "labels are read 4 as 3, 5 as 3; 254 never scored"


def say(counts: dict[int, int], labels: int, ignored: int | None = None, given: Numbering | None = None) -> str:
    return str(out_of_range(counts, labels, ignored, "case", given))


def test_advice_reads_what_must_be_a_class_as_one_and_never_leaves_it_out() -> None:
    mask = say({0: 300, 255: 20}, 2)
    assert "labels [255] in 20 of 320 voxels, beside 0;" in mask
    assert "label_map={255: 1} (--label-map 255:1)" in mask and "--ignore-index" not in mask
    assert "--label-map 255:1" in say({255: 20}, 2)
    brats = say({0: 9, 1: 1, 2: 1, 4: 1}, 4)
    assert "--label-map 4:3" in brats and "--ignore-index" not in brats
    assert "--label-map 1:0 2:1 3:2)" in say({1: 1, 2: 1, 3: 1}, 3)
    assert "--label-map 4:3 255:1)" in say({0: 9, 2: 1, 3: 1, 255: 1}, 4, None, Numbering(((4, 3),)))


def test_advice_leaves_out_where_no_class_is_missing_and_names_both_where_that_cannot_be_told() -> None:
    assert "No class is missing" in say({0: 1, 1: 1, 254: 1}, 2, 255)
    assert "ignore_index=[255, 254] (--ignore-index 255 254)" in say({0: 1, 1: 1, 254: 1}, 2, 255)
    both = say({0: 5, 1: 5, 255: 5}, 3)
    assert "--label-map 255:2" in both and "--ignore-index 255" in both
    streets = say({0: 5, 7: 5, 255: 5}, 19)
    assert "--label-map OLD:CLASS" in streets and "--ignore-index 255" in streets
    assert "labels [7, 8, 9, 10, 11, 12, 13, 14, ...]" in say(dict.fromkeys(range(7, 40), 1), 3)


def test_a_fit_on_renumbered_labels_is_the_fit() -> None:
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(3, 4, 5, 6)), rng.integers(4, size=(3, 5, 6))
    stored = np.where(y == 3, 4, y)
    stored[:, 0], stored[:, 1] = 254, 255
    plain = cohort_from_arrays(z, np.where(np.arange(5)[:, None] < 2, 255, y), ignore_index=255)
    other = cohort_from_arrays(z, stored, ignore_index=[255, 254], label_map={4: 3})
    fits = [TemperatureScaling().fit(c, engine=Serial()) for c in (plain, other)]
    direct = TemperatureScaling().fit(z, stored, ignore_index=[255, 254], label_map={4: 3}, engine=Serial())
    assert fits[0].solution.nll == fits[1].solution.nll == direct.solution.nll
    merged = cohort_from_arrays(z, stored, ignore_index=(255, 254), label_map={4: 2, 1: None})
    with Serial().pin(merged) as pinned:
        assert sum(r.roles[0] for r in pinned.records) == int(((y != 1) & (np.arange(5)[:, None] >= 2)).sum())
    with pytest.raises(UsageError, match="beside a cohort"):
        TemperatureScaling().fit(plain, label_map={4: 3})


def test_the_whole_case_is_counted_before_something_is_said() -> None:
    y = np.zeros((1, 400, 400), np.int64)  # more than a block
    y[0, 0, 0], y[0, -1, -1] = 255, 255
    with pytest.raises(LabelError, match=r"labels \[255\] in 2 of 160,000 voxels, beside 0"):
        Serial().pin(cohort_from_arrays(np.zeros((1, 2, 400, 400), np.float32), y))
