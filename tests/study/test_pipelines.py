"""Pipelines by the paper's names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from segcal.data.formats.arrays import cohort_from_arrays
from segcal.errors import UsageError
from segcal.methods.affine.fit import ConstrainedMatrixScaling
from segcal.methods.local.fit import LocalTemperatureScaling
from segcal.study.pipelines import PAPER, VIEWS, pipeline
from tests.study.conftest import array


def test_the_nineteen_are_those_of_the_papers_table(shared: Path) -> None:
    printed = json.loads((shared / "science" / "paper_tables.json").read_text())["K26_table4_main"]
    for rows in printed.values():
        assert set(rows) == set(PAPER)
    assert len(PAPER) == 19
    for name in PAPER:
        assert pipeline(name).name == name


def test_names_say_view_and_method() -> None:
    read = {
        name: (pipeline(name).view, pipeline(name).method)
        for name in (
            "p0",
            "MSc(zbar)",
            "CDC(pbar)",
            "LTS(zbar)",
            "LTS(pbar)",
            "LTS(logS(zbar))",
            "iop(zbar)",
            "cms-op(p0)",
        )
    }
    assert read == {
        "p0": ("p0", None),
        "MSc(zbar)": ("zbar", "ms-c"),
        "CDC(pbar)": ("pbar", "cdc"),
        "LTS(zbar)": ("zbar", "lts-raw"),
        "LTS(pbar)": ("pbar", "lts"),
        "LTS(logS(zbar))": ("zbar", "lts"),
        "iop(zbar)": ("zbar", "iop"),
        "cms-op(p0)": ("p0", "cms-op"),
    }
    assert isinstance(pipeline("MSc(zbar)").make(), ConstrainedMatrixScaling)
    lts = pipeline("LTS(zbar)", {"lts-raw": {"epochs": 3}}).make()
    assert isinstance(lts, LocalTemperatureScaling)
    assert (lts.epochs, lts.source) == (3, "logits")
    assert pipeline("zbar").make() is None
    assert len({pipeline(name).file for name in PAPER}) == len(PAPER)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("MS(zbr)", "MS(zbar)"),
        ("ms-c(zbr)", "ms-c(zbar)"),
        ("CMS_op(pbar)", "CMSop(pbar)"),
        ("LTS(logS(zbar)", "LTS(logS(zbar))"),
        ("pBar", "pbar"),
        ("DC(logS(zbar))", "(zbar)"),
    ],
)
def test_an_unknown_name_gets_the_nearest_known_one(name: str, suggestion: str) -> None:
    with pytest.raises(UsageError) as error:
        pipeline(name)
    assert suggestion in error.value.do


def test_a_method_may_stand_on_another() -> None:
    found = pipeline("bts-class(CMSop(pbar))", {"bts": {"by": "side"}})
    assert (found.view, found.method, found.on) == ("pbar", "bts-class", "cms-op")
    assert found.options == {"by": "side", "on": "cms-op"}
    assert found.guarantees is not None
    assert found.guarantees.preserves_order == "proven"
    assert pipeline("bts(DC(zbar))").guarantees.preserves_argmax == "no"  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["DC(CMSop(pbar))", "bts(bts(CMSop(pbar)))", "bts(LTS(logS(zbar)"])
def test_only_what_can_stand_on_another_does(name: str) -> None:
    with pytest.raises(UsageError, match="pipelines"):
        pipeline(name)


def test_a_method_under_another_has_its_defaults() -> None:
    with pytest.raises(UsageError, match="options of cms-op"):
        pipeline("bts(CMSop(pbar))", {"cms-op": {"lambda": 0.1}})
    with pytest.raises(UsageError, match="maps single voxels"):
        pipeline("bts(bts(pbar))").make()


def test_an_unknown_option_gets_the_nearest_known_one() -> None:
    with pytest.raises(UsageError, match="Did you mean 'penalty'"):
        pipeline("DC(zbar)", {"dc": {"penalti": "odir"}}).make()
    assert pipeline("DC(zbar)", {"dc": {"lambda": 0.5}}).make().lambda_ == 0.5  # type: ignore[union-attr]


def test_a_view_pools_as_it_is_named() -> None:
    z = array([[[[1.0, 2.0]], [[0.0, 0.0]]]])
    cohort = cohort_from_arrays([z[0]], [[[0, 1]]])
    seen = {name: view.of(cohort) for name, view in VIEWS.items()}
    assert {name: one.pool for name, one in seen.items()} == {"p0": "logits", "pbar": "probs", "zbar": "logits"}
    assert seen["p0"].members == 1


def test_options_of_lts_are_those_of_its_variants_too() -> None:
    """A comparison of LTS(zbar) and LTS(logS(zbar)) must not be one of their options."""
    given = {"lts": {"epochs": 3, "patience": 2}, "lts-raw": {"patience": 4}, "ms": {"mu": 0.1, "lambda": 0.1}}
    made = {name: pipeline(name, given).options for name in ("LTS(zbar)", "LTS(logS(zbar))", "MS(zbar)", "MSc(zbar)")}
    assert made["LTS(logS(zbar))"] == {"epochs": 3, "patience": 2}
    assert made["LTS(zbar)"] == {"epochs": 3, "patience": 4}
    assert made["MS(zbar)"] == given["ms"] and made["MSc(zbar)"] == {}
