"""Whether a calibrator fits a cohort: classes always, the way scores were made unless told to go on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from segcal.data.case import Case, Provenance
from segcal.data.cohort import Cohort
from segcal.data.formats.arrays import ArrayField
from segcal.data.head import Regions, Softmax
from segcal.data.rows import Record
from segcal.data.scores import FULL, Resolution
from segcal.errors import MismatchError, UsageError
from segcal.methods.affine.map import AffineMap
from segcal.methods.calibrator import Calibrator, FitData
from segcal.methods.temperature import ScaleMap
from segcal.tasks.matching import check_match, fitted_cases, fitted_groups, grouped_as_fitted, level, likeness

HEAD = Softmax(("background", "organ"))


def cohort(provenance=None, pool="probs", head=HEAD, kind="probs"):
    provenance = provenance or Provenance()
    field = ArrayField(np.full((head.channels, 4), 0.5, np.float32), True, "x")
    return Cohort((Case("a", (field,) * provenance.members),), head, kind, pool, provenance, "test set")


def calibrator(provenance=None, pool="probs", head=HEAD, data=True):
    maps = [ScaleMap(0.5) for _ in head.parts]
    return Calibrator(
        head, "probs", maps, "ts", data=FitData("fit set", pool, provenance or Provenance(), (), 10) if data else None
    )


NEW = Provenance(1, origin="prediction", recorded=(("previous stage", "false"),))
"""As nnU-Net 2.2 and later leave it."""
VALIDATION, PLAIN = Provenance(1, 1, origin="validation"), Provenance(1, origin="files")
FOLDS = replace(VALIDATION, validated=5)
"""Of all folds."""
FOLD, FIVE = Provenance(1, 1, True, 0.5), Provenance(1, 5, True, 0.5)


@pytest.mark.parametrize(
    ("was", "now", "message"),
    [
        (
            FOLD,
            FIVE,
            "probabilities of 5 networks averaged, but the calibrator was fitted on those of a single network",
        ),
        (
            FIVE,
            FOLD,
            "probabilities of a single network, but the calibrator was fitted on those of 5 networks averaged",
        ),
        (
            Provenance(5, 1),
            Provenance(3, 1),
            "probabilities of 3 networks averaged, but the calibrator was fitted on those of 5 networks averaged",
        ),
        (Provenance(5), Provenance(1), "probabilities of a single member, but the calibrator was fitted on those of 5"),
        (FOLD, NEW, "probabilities of an unknown number of networks (since 2.2 nnU-Net records neither"),
        (VALIDATION, NEW, "an unknown number of networks (since 2.2 nnU-Net records neither"),
        (
            VALIDATION,
            PLAIN,
            "an unknown number of networks, but the calibrator was fitted on those of a single network",
        ),
        (VALIDATION, FIVE, "probabilities of 5 networks averaged, but"),
        (FOLDS, Provenance(1, 3), "probabilities of 3 networks averaged, but"),
        (FOLDS, Provenance(2, 5), "probabilities of 10 networks averaged, but"),
        (FOLDS, NEW, "an unknown number of networks (since 2.2 nnU-Net records neither"),
        (replace(FOLDS, validated=1), replace(NEW, folds=5), "probabilities of 5 networks averaged, but"),
        (replace(FOLDS, tta=True), replace(FIVE, tta=False), "test-time mirroring off, but on in the fit"),
        (
            NEW,
            FIVE,
            "5 networks averaged, but the calibrator was fitted on those of an unknown number of networks (since",
        ),
        (PLAIN, FIVE, "but the calibrator was fitted on those of an unknown number of networks"),
        (Provenance(), FIVE, "but the calibrator was fitted on those of an unknown number of networks"),
        (replace(PLAIN, folds=5), PLAIN, "probabilities of an unknown number of networks, but"),
        (
            PLAIN,
            NEW,
            "predictions of nnUNetv2_predict, but the calibrator was fitted on scores of a plain folder; neither",
        ),
        (NEW, PLAIN, "scores of a plain folder, but the calibrator was fitted on predictions of nnUNetv2_predict"),
        (NEW, replace(NEW, recorded=None), "nnU-Net recorded nothing, but the calibrator was fitted on such with prev"),
        (NEW, replace(NEW, recorded=(("previous stage", "true"),)), "previous stage true, but false in the fit"),
        (
            replace(FIVE, recorded=(("checkpoint_name", '"a.pth"'),)),
            replace(FIVE, recorded=(("checkpoint_name", '"b.pth"'),)),
            'checkpoint_name "b.pth", but "a.pth" in the fit',
        ),
        (FOLD, Provenance(1, 1, False, 0.5), "test-time mirroring off, but on in the fit"),
        (FOLD, Provenance(1, 1, True, 1.0), "a sliding-window step of 1, but 0.5 in the fit"),
    ],
)
def test_another_way_of_making_scores_stops_unless_told_to_go_on(was, now, message):
    with pytest.raises(MismatchError, match="test set: found") as caught:
        check_match(calibrator(was), cohort(now))
    assert message in str(caught.value)
    assert "--go-on" in caught.value.do
    (warning,) = check_match(calibrator(was), cohort(now), go_on=True)
    assert message in warning


@pytest.mark.parametrize(
    ("was", "now"),
    [
        (FOLD, FOLD),
        (FIVE, Provenance(5, 1)),
        (VALIDATION, FOLD),
        (FOLDS, FOLD),
        (VALIDATION, replace(NEW, folds=1)),
        (replace(NEW, folds=5), FIVE),
        (PLAIN, PLAIN),
        (replace(PLAIN, members=3), replace(PLAIN, members=3)),
        (Provenance(), PLAIN),
        (PLAIN, Provenance()),
        (FOLD, Provenance(1, 1)),
        (Provenance(1, 1), FOLD),
        (Provenance(5), Provenance(5)),
    ],
)
def test_what_is_the_same_or_not_known_is_no_difference(was, now):
    assert check_match(calibrator(was), cohort(now)) == []


@pytest.mark.parametrize(
    ("was", "now", "compared"),
    [
        (NEW, NEW, "the number of folders and what nnU-Net recorded (previous stage) agree"),
        (
            replace(NEW, members=3),
            replace(NEW, members=3),
            "the number of folders and what nnU-Net recorded (previous stage) agree",
        ),
        (replace(NEW, recorded=None), replace(NEW, recorded=None), "the number of folders agrees"),
        (Provenance(), NEW, "the number of folders agrees"),  # a calibrator made before origins were remembered
    ],
)
def test_a_number_that_neither_side_knows_is_noted_where_all_that_is_recorded_is_equal(was, now, compared):
    (note,) = check_match(calibrator(was), cohort(now))
    assert note.startswith("how many networks each probability averages is recorded neither here nor in the fit")
    assert compared in note


@pytest.mark.parametrize(
    ("was", "now", "advice"),
    [
        (FOLD, NEW, "Say with --networks how many (1 would match), or pass --go-on"),
        (FIVE, replace(NEW, members=5), "(1 would match)"),
        (FOLDS, NEW, "(1 would match, and 5 for the mean of all folds)"),
        (FIVE, replace(NEW, members=2), "Say with --networks how many, or"),
        (NEW, FIVE, "Fit again with --networks, which says how many those were, or pass --go-on"),
        (PLAIN, NEW, "Fit again with --networks and say --networks here, too"),
        (FOLD, FIVE, "Fit on predictions made the same way"),
        # more than the number differs: to say it would not be enough
        (replace(FOLD, recorded=(("previous stage", "true"),)), NEW, "Fit on predictions made the same way"),
    ],
)
def test_the_advice_is_one_that_helps(was, now, advice):
    with pytest.raises(MismatchError) as caught:
        check_match(calibrator(was), cohort(now))
    assert advice in caught.value.do


def test_what_a_user_says_stands_for_what_is_not_recorded_and_contradicts_nothing():
    assert NEW.told(5) == replace(NEW, folds=5) and NEW.told(5).networks == 5 and NEW.told(None) is NEW
    assert FIVE.told(5) == FIVE
    with pytest.raises(UsageError, match="networks: found 5; expected 1, as nnU-Net recorded"):
        VALIDATION.told(5)
    for wrong in (0, -1, 2.5):
        with pytest.raises(UsageError, match="expected a whole number from 1 on"):
            NEW.told(wrong)


@pytest.mark.parametrize(
    ("was", "now"), [(FOLDS, FIVE), (FOLDS, replace(NEW, folds=5)), (replace(FOLDS, members=2), Provenance(2, 5))]
)
def test_validation_of_all_folds_stands_for_their_mean_and_that_is_said(was, now):
    (note,) = check_match(calibrator(was), cohort(now))
    assert note == (
        "the calibrator was fitted on validation predictions of 5 folds, a single network each, and these are the mean"
        " of 5 networks: right where they are the networks of those folds"
    )


def test_another_pooling_is_a_difference_where_there_is_something_to_pool():
    five = Provenance(5)
    with pytest.raises(MismatchError, match="members pooled as logits, but as probs in the fit"):
        check_match(calibrator(five, "probs"), cohort(five, "logits"))
    assert check_match(calibrator(Provenance(), "probs"), cohort(Provenance(), "logits")) == []


def test_several_differences_are_all_named():
    assert len(likeness(FOLD, Provenance(1, 5, False, 0.25)).differences) == 3


def test_a_calibrator_that_does_not_know_its_fit_is_not_compared():
    assert check_match(calibrator(data=False), cohort(FIVE)) == []


@pytest.mark.parametrize("go_on", [False, True])
@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        (HEAD, Softmax(("background", "organ", "lesion")), "3 classes (background, organ, lesion); expected 2 classes"),
        (
            HEAD,
            Softmax(("background", "lesion")),
            "classes background, lesion; expected background, organ, in this order",
        ),
        (HEAD, Regions(("whole", "core"), ((1, 2), (2,)), (1, 2)), "2 regions (whole, core); expected 2 classes"),
        (Regions(("whole",), ((1,),), (1,)), Regions(("core",), ((1,),), (1,)), "classes core; expected whole"),
    ],
)
def test_other_classes_are_an_error_whatever_is_said(ours, theirs, message, go_on):
    with pytest.raises(MismatchError) as caught:
        check_match(calibrator(head=ours), cohort(head=theirs), go_on=go_on)
    assert message in str(caught.value)


@pytest.mark.parametrize("names", [("0", "1"), ("class 0", "class 1"), ("class_0", "class_1")])
def test_numbers_are_no_names(names):
    assert check_match(calibrator(), cohort(head=Softmax(names))) == []
    assert check_match(calibrator(head=Softmax(names)), cohort()) == []


def test_ignored_label_and_background_do_not_matter():
    assert check_match(calibrator(), cohort(head=Softmax(HEAD.classes, 0, 255))) == []


def test_a_map_of_raw_logits_needs_raw_logits():
    on_logits = Calibrator(
        HEAD,
        "logits",
        [
            AffineMap(
                torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64), torch.zeros(2, dtype=torch.float64), True
            )
        ],
        "ms",
    )
    assert check_match(on_logits, cohort(kind="logits")) == []
    for other in (cohort(), cohort(Provenance(2), kind="logits")):
        with pytest.raises(MismatchError, match="raw logits, on which this calibrator was fitted"):
            check_match(on_logits, other)


def test_cases_are_known_by_scores_or_labels_and_never_by_a_constant_map():
    fitted = (Record("a", "", "L1", "S1", (1, 0, 0, 0)), Record("b", "", "", "S2", (1, 0, 0, 0)))
    known = Calibrator(HEAD, "probs", [ScaleMap(1.0)], "ts", data=FitData("x", "probs", Provenance(), fitted, 2))
    seen = [
        Record("renamed", "", "L1", "S1", (1, 0, 0, 0)),
        Record("rescored", "", "L1", "S9", (1, 0, 0, 0)),
        Record("relabelled", "", "L9", "S1", (1, 0, 0, 0)),
        Record("a", "", "L8", "S8", (1, 0, 0, 0)),
        Record("constant", "", "", "S7", (1, 0, 0, 0)),
        Record("constant, rescored not", "", "", "S2", (1, 0, 0, 0)),
    ]
    assert fitted_cases(known, seen) == ["renamed", "rescored", "relabelled", "constant, rescored not"]
    assert fitted_cases(calibrator(data=False), seen) == []


def test_both_are_taken_at_the_coarser_resolution_and_it_is_said_where_they_differ():
    fine, coarse = cohort(), cohort().at_least(Resolution(0.002))
    cal = calibrator()
    assert level(cal, fine)[2] == [] and level(cal, fine)[1] is fine
    for one, other in ((cal.at_least(Resolution(0.002)), fine), (cal, coarse)):
        leveled, at, said = level(one, other)
        assert leveled.resolution == at.resolution == Resolution(0.002)
        assert len(said) == 1 and "counts as 0.002" in said[0]
    assert level(cal.at_least(Resolution(0.0019)), coarse)[2] == []  # as good as equal
    assert cal.resolution == FULL and fine.resolution == FULL


def test_logits_have_no_zeros_to_count():
    logits = cohort(kind="logits")
    assert level(calibrator().at_least(Resolution(0.01)), logits)[1].resolution == FULL


@pytest.mark.parametrize(
    ("was", "now", "same"),
    [
        (r"p(\d+)", r"p(\d+)", True),
        ("", "", True),
        ("table:a.csv", "table:b.csv", True),
        (r"p(\d+)", r"q(\d+)", False),
        (r"p(\d+)", "table:a.csv", False),
        ("", r"p(\d+)", False),
    ],
)
def test_groups_are_compared_where_they_were_made_by_one_rule(was, now, same):
    records = (Record("a", "07", "", "1", (1, 0, 0, 0)), Record("b", "", "", "2", (1, 0, 0, 0)))
    known = calibrator()
    known.data = replace(known.data, records=records, grouping=was)
    one = cohort().cases[0]
    cases = tuple(replace(one, id=i, group=g) for i, g in (("x", "07"), ("y", "08"), ("z", ""), ("b", "")))
    offered = replace(cohort(), cases=cases, grouping=now)
    assert fitted_groups(known, offered) == ({"x": "07"} if same else {})
    assert fitted_groups(calibrator(data=False), offered) == {}


@pytest.mark.parametrize(
    ("word", "groups", "said"),
    [
        ("", ["", "", ""], []),
        (r"(p\d)_", ["p0", "p0", "p1"], [r"groups by --groups '(p\d)_', as in the fit"]),
        ("table:groups.csv", ["", "", ""], ["the calibrator was fitted in groups by groups.csv"]),
        (r"(q\d)_", ["", "", ""], [r"the groups of the fit, by --groups '(q\d)_', do not fit here"]),
    ],
)
def test_cases_nobody_grouped_are_grouped_as_in_the_fit(word, groups, said):
    known = calibrator()
    known.data = replace(known.data, grouping=word)
    offered = cohort()
    offered = replace(offered, cases=tuple(replace(offered[0], id=name) for name in ("p0_a", "p0_b", "p1_a")))
    found, notes = grouped_as_fitted(offered, known)
    assert [case.group for case in found] == groups
    assert len(notes) == len(said)
    assert all(note.startswith(start) for note, start in zip(notes, said, strict=True))
    own = replace(offered, cases=tuple(replace(case, group="mine") for case in offered))
    assert grouped_as_fitted(own, known) == (own, [])
    assert grouped_as_fitted(offered, None) == (offered, [])
