from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from segcal.errors import DataError, MissingError, UsageError
from segcal.metrics.statistics.resamples import ByGroup, Resamples, TwoLevel
from segcal.study.pipelines import PAPER
from segcal.study.results import Finished
from segcal.study.tables.differences import compared
from segcal.study.tables.frame import Frame
from segcal.study.tables.main import pipelines
from segcal.study.tables.metrics import MAIN
from segcal.study.tables.names import COMPARISONS, SECTIONS, Pair, keeps_labels, symbol
from segcal.study.tables.results import Results
from segcal.study.tables.table import Cell, Column, Number, Row, Section, Table, Text, told_apart
from segcal.study.tables.writing import tables, write


@pytest.fixture
def study(made: Callable[..., Results]) -> Results:
    return made()


def named(found: list[Table], name: str) -> Table:
    return next(t for t in found if t.name == name)


def value(table: Table, row: str, column: int) -> Number:
    content = next(r for r in table.rows if r.label.plain == row).cells[column].content
    assert isinstance(content, Number)
    return content


def test_every_table_is_written_in_every_format(made: Callable[..., Results], tmp_path: Path) -> None:
    files = write([made(), made("Other & one", cohorts=("test",), seed=1)], tmp_path)
    stems = {f.stem for f in files}
    assert {
        "table1",
        "table2",
        "table3",
        "table4",
        "table5",
        "table6",
        "table7-made-up",
        "table8-made-up",
        "table8-made-up-two-level",
        "table8-made-up-mild",
    } <= stems
    assert {
        "differences-other-one",
        "differences-made-up-mild-two-level",
        "flips-made-up",
        "flips-other-one",
    } <= stems and "table7-other-one" not in stems
    assert len(files) == 3 * len(stems) == len(list(tmp_path.iterdir()))
    for f in files:
        assert f.read_text().strip()
    for f in tmp_path.glob("*.md"):
        lines = f.read_text().splitlines()
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")}
        assert len(widths) == 1 and any(line.startswith("- ") for line in lines), f.name
        assert "nan" not in f.read_text()


def test_table_4_holds_the_means_of_repeat_means(made: Callable[..., Results]) -> None:
    study = made(cohorts=("test",))
    table = named(tables([study]), "table4")
    rows = study.tables["scores"]
    repeats = [
        [r["value"] for r in rows if (r["pipeline"], r["metric"], r["repeat"]) == ("MS(zbar)", "nll", k)]
        for k in range(3)
    ]
    assert value(table, "MS(zbar)", 0).value == pytest.approx(np.mean([np.mean(r) for r in repeats]), rel=1e-12)
    ace = [r["value"] for r in study.tables["pooled"] if (r["pipeline"], r["metric"]) == ("MS(zbar)", "ace")]
    assert value(table, "MS(zbar)", 4).value == pytest.approx(np.mean(ace))
    assert [s.title.plain[:3] for s in table.sections] == ["(a)", "(b)", "(c)", "(d)", "(e)", "(f)"]
    assert [r.label.plain for r in table.rows].count("DC(zbar)") == 2 and len(table.rows) == 20
    assert {r.label.plain for r in table.rows if r.crossed} == {"MS(zbar)", "LTS(zbar)"}
    assert [math.isnan(value(table, r.label.plain, 5).value) for r in table.rows] == [
        keeps_labels(r.label.plain) for r in table.rows
    ]
    for k in range(5):
        assert any(row.cells[k].bold for row in table.rows)


def test_a_broken_promise_is_printed(made: Callable[..., Results]) -> None:
    study = made(cohorts=("test",))
    study.tables["scores"][:] = [
        {**r, "value": 0.02} if (r["pipeline"], r["metric"]) == ("TS(zbar)", "flip_rate") else r
        for r in study.tables["scores"]
    ]
    table = named(tables([study]), "table4")
    assert value(table, "TS(zbar)", 5).value == pytest.approx(0.02) and math.isnan(value(table, "ETS(zbar)", 5).value)


def test_table_8_holds_the_intervals_of_both_schemes(made: Callable[..., Results]) -> None:
    study = made(cohorts=("test",))
    found = tables([study])
    grid = study.grid()
    for name, scheme in (("table8-made-up", ByGroup(repeats=True)), ("table8-made-up-two-level", TwoLevel())):
        expected = Resamples(scheme, grid.repeats, grid.cases, grid.groups, seed=0, replicates=400).interval(
            grid.column("CDC(pbar)", "ece")
        )
        assert value(named(found, name), "CDC(pbar)", 2) == Number(expected.mean, (expected.low, expected.high))
        notes = " ".join(named(found, name).notes)
        assert (
            "3 repeats of 12 test cases" in notes
            and "seed 0" in notes
            and "3 repeats of 6 independent test cases" in notes
            and scheme.name in notes
        )
    ace = study.pooled("test", "p0", "ace")
    assert value(named(found, "table8-made-up"), "p0", 4).beside == (ace.min(), ace.max())


def test_a_large_study_has_no_warning(made: Callable[..., Results]) -> None:
    study = made(repeats=10, tested=60, pool=80, cohorts=("test",), pipelines=("zbar", "MS(zbar)", "MSc(zbar)"))
    found = tables([study])
    assert not any("Do not take" in n for n in named(found, "table8-made-up").notes)
    assert any("Do not take" in n for n in named(found, "table8-made-up-two-level").notes)


def test_table_7_has_a_group_a_severity(made: Callable[..., Results]) -> None:
    table = named(tables([made(cohorts=("strong", "test", "mild"))]), "table7-made-up")
    assert table.groups == [("strong", 6), ("mild", 6)] and "strong: 3 repeats of 12 test cases" in table.notes[-1]


def test_differences_are_paired_and_adjusted(study: Results) -> None:
    scheme = ByGroup(repeats=True)
    rows = study.tables["scores"]
    base = {(r["cohort"], r["repeat"], r["case"], r["metric"]): r["value"] for r in rows if r["pipeline"] == "MS(zbar)"}
    better = {"DC(zbar)": ("nll", -0.01), "MSc(zbar)": ("dice", 0.0)}
    for r in rows:
        if r["pipeline"] in better and r["metric"] == better[r["pipeline"]][0]:
            r["value"] = base[r["cohort"], r["repeat"], r["case"], r["metric"]] + better[r["pipeline"]][1]
    found = compared(study, "test", scheme)
    assert len(found) == 28
    lower = found[Pair("MS(zbar)", "DC(zbar)"), "nll"]
    assert lower.estimate.mean == pytest.approx(-0.01) and lower.estimate.excludes_zero and lower.p == 2 / 401
    assert found[Pair("MS(zbar)", "MSc(zbar)"), "dice"].identical
    table = named(tables([study]), "differences-made-up")
    row = next(r for r in table.rows if r.label.plain == "MS(zbar) -> DC(zbar)")
    assert row.cells[0].starred and row.cells[1] == Cell(Number(pytest.approx(27 * 2 / 401)))  # type: ignore[arg-type]
    assert (
        math.isnan(value(table, "MS(zbar) -> MSc(zbar)", 3).value)
        and value(table, "MS(zbar) -> MSc(zbar)", 2).value == 0
    )
    assert any(n.startswith("27 paired comparisons") and "not counted: 1." in n for n in table.notes) and any(
        "Do not take" in n and "p-values" in n for n in table.notes
    )
    assert [s.title.plain for s in table.sections] == [title.plain for title, _ in COMPARISONS]


def test_two_level_and_paired_shares_of_a_pipeline_that_is_absent(made: Callable[..., Results]) -> None:
    found = tables([made(cohorts=("test",), pipelines=("zbar", "MS(zbar)", "iop(zbar)"))])
    assert (
        named(found, "differences-made-up").rows == ()
        and "No paired comparison was made." in named(found, "differences-made-up").notes
    )
    table = named(found, "table4")
    assert [s.title.plain for s in table.sections] == [
        "(a) Uncalibrated baselines",
        "(b) Translation invariance: MS vs. MSc and DC",
        "(g) Further pipelines",
    ]
    assert table.rows[-1].label.plain == "iop(zbar)"


def test_splits_free_energy_and_properties(made: Callable[..., Results]) -> None:
    found = tables([made(pool=21 - 1, tested=10)])
    splits = named(found, "table1").rows[0].cells
    assert [c.content.value for c in splits if isinstance(c.content, Number)][2:] == [5, 5, 10, 20, 10, 3]
    spread = named(found, "table3").rows[0].cells[1].content
    assert spread == Number(pytest.approx(5.95), tuple(np.percentile(5 + 0.1 * np.arange(20), [25, 50, 75])))  # type: ignore[arg-type]
    assert [c.head.plain for c in named(found, "table5").columns] == ["Cases", *(f"M = {m}" for m in range(1, 6))]
    kinds = {
        r.label.plain: [c.content.plain if isinstance(c.content, Text) else c.content.value for c in r.cells]
        for r in named(found, "table2").rows
    }
    assert (
        kinds["CMSap"] == ["yes", "Argmax", 6, 6]
        and kinds["MS"][:2] == ["×", "×"]
        and kinds["LTS"][:2] == ["×", "Order"]
        and kinds["TS"][:2] == ["yes", "Order"]
    )
    assert math.isnan(float(kinds["LTS"][2]))


def test_modality_and_training_cases_stand_in_table_1(made: Callable[..., Results]) -> None:
    table = named(tables([replace(made(), modality="3D CT", training=210)]), "table1")
    assert [c.head.plain for c in table.columns][:3] == ["Modality", "Classes", "Training"]
    assert [getattr(c.content, "plain", getattr(c.content, "value", None)) for c in table.rows[0].cells[:3]] == [
        "3D CT",
        4,
        210,
    ]
    unknown = named(tables([made()]), "table1").rows[0].cells
    assert unknown[0].content == Text("—") and math.isnan(unknown[2].content.value)  # type: ignore[union-attr]


def test_a_column_has_the_decimals_that_tell_its_rows_apart() -> None:
    def decimals(*values: float) -> int:
        rows = tuple(Row(Text(str(k)), (Cell(Number(v)),)) for k, v in enumerate(values))
        return (
            told_apart(Table("t", "", Text(""), (Column(Text("ECE")),), (Section(Text(""), rows),))).columns[0].decimals
        )

    assert decimals(0.1, 0.2, 0.3) == 3
    assert decimals(0.0041, 0.0044, 0.0052) == 4
    assert decimals(0.00101, 0.00102, 0.00104) == 5
    assert decimals(0.25, 0.25, math.nan) == decimals() == 3
    assert decimals(0.1, 0.1 + 1e-12) == 3
    assert decimals(1.0, 1.00001) == 5 and decimals(1.0, 1 + 2e-6) == 6
    # one pair that is nearly equal does not make the others hard to read
    assert decimals(*(0.1 * k for k in range(1, 11)), 0.10001) == 3
    assert decimals(0.0727, 0.0723, 0.0722, 0.0583) == 4


def test_unequal_splits_show_their_range(made: Callable[..., Results]) -> None:
    study = made()
    first = next(r for r in study.tables["partition"] if r["role"] == "test")
    first["role"] = "validation"
    assert named(tables([study]), "table1").rows[0].cells[5].content == Number(pytest.approx(35 / 3), (11, 12))  # type: ignore[arg-type]


def test_corruptions_are_those_applied(made: Callable[..., Results]) -> None:
    table = named(tables([made()]), "table6")
    assert [s.title.plain for s in table.sections] == ["made up, mild"]
    shown = [[row.label.plain, *(getattr(c.content, "plain", None) for c in row.cells)] for row in table.rows]
    assert shown == [["motion", "—", None, "degrees = -30 to 12.5"], ["noise", "mild", None, "σ = 0.03"]]
    assert "table6" not in {t.name for t in tables([made(cohorts=("test",))])}


def test_fits_that_a_limit_ended_are_marked(study: Results) -> None:
    for table in tables([study]):
        if table.name.startswith(("table4", "table7", "table8")):
            marked = [row.label.plain for row in table.rows if "†" in row.label.markdown and "†" in row.label.latex]
            assert marked == ["LTS(zbar)"]
            assert "LTS(zbar) (1 of 3)" in table.notes[1]


def test_the_flip_audit_adds_up(study: Results) -> None:
    table = named(tables([study]), "flips-made-up")
    counts = {k: sum(study.pooled("test", "MS(zbar)", k)) for k in ("harmful", "beneficial", "neutral")}
    shares = [value(table, "MS(zbar)", k).value for k in (1, 2, 3)]
    assert sum(shares) == pytest.approx(1) and shares[0] == pytest.approx(counts["harmful"] / sum(counts.values()))
    assert value(table, "MS(zbar)", 0).value == pytest.approx(sum(counts.values()) / 3e6)
    assert not any(keeps_labels(r.label.plain) for r in table.rows) and table.groups == [("test", 4), ("mild", 4)]


def test_pyarrow_tables_and_rows_give_the_same(made: Callable[..., Results]) -> None:
    study = made()
    arrow = Results(
        "made up", 4, 0, {name: pa.Table.from_pylist(rows) for name, rows in study.tables.items()}, replicates=400
    )
    assert tables([arrow]) == tables([study]) or [repr(t) for t in tables([arrow])] == [
        repr(t) for t in tables([study])
    ]


def test_the_order_of_tidy_rows_changes_nothing(made: Callable[..., Results]) -> None:
    study, rng = made(), np.random.default_rng(0)
    mixed = {name: [rows[i] for i in rng.permutation(len(rows))] for name, rows in study.tables.items()}
    again = Results("made up", 4, 0, mixed, replicates=400)
    for a, b in zip(study.cohorts, again.cohorts, strict=True):
        assert a == b
        for p in ("MS(zbar)", "p0"):
            for m in MAIN:
                if not m.pooled:
                    one, two = (s.resamples(a, TwoLevel()).interval(s.grid(a).column(p, m.key)) for s in (study, again))
                    assert one == two


def test_values_that_are_missing_or_twice(made: Callable[..., Results]) -> None:
    study = made(cohorts=("test",))
    rows = study.tables["scores"]
    gone = next(k for k, r in enumerate(rows) if r["metric"] == "ba_ece" and r["pipeline"] == "zbar")
    rows[gone]["value"] = None
    assert value(named(tables([study]), "table4"), "zbar", 3).value > 0
    again = made(cohorts=("test",))
    again.tables["scores"].append(dict(again.tables["scores"][0]))
    with pytest.raises(DataError, match=r"nll of p0 on case\d+ in repeat 0 2 times"):
        tables([again])


def test_messages(made: Callable[..., Results]) -> None:
    study = made()
    with pytest.raises(UsageError, match="names that differ"):
        tables([study, made("Made-Up")])
    with pytest.raises(UsageError, match="one or more"):
        tables([])
    missing: dict[str, Any] = {k: v for k, v in study.tables.items() if k != "energy"}
    with pytest.raises(MissingError, match="a table 'energy'"):
        tables([Results("x", 2, 0, missing)])
    with pytest.raises(MissingError, match="a column 'std'"):
        Frame.of("energy", [{"members": 1}])["std"]
    with pytest.raises(DataError, match="different columns"):
        Frame.of("energy", [{"members": 1}, {"case": 1}])
    assert len(Frame.of("energy", [])) == 0 and Frame.of("energy", [])["std"].size == 0


def test_symbols() -> None:
    assert (symbol("CMSap(pbar)").markdown, symbol("CMSap(pbar)").latex) == (
        "CMS<sub>ap</sub>(p\u0304)",
        r"$\mathrm{CMS}_{\mathrm{ap}}(\bar{p})$",
    )
    assert symbol("LTS(logS(zbar))").markdown == "LTS(log S(z\u0304))" and symbol("p0").latex == "$p_0$"
    assert symbol("cms-op(p0)").latex == r"$\mathrm{cms{-}op}(p_0)$"
    assert symbol("something else") == Text("something else") == symbol("something else")


def test_studies_side_by_side_keep_their_own_rows(made: Callable[..., Results]) -> None:
    found = tables([made(cohorts=("test",)), made("second", cohorts=("test",), pipelines=("zbar", "TS(zbar)"))])
    table = named(found, "table4")
    assert table.groups == [("made up", 6), ("second", 6)]
    assert math.isnan(value(table, "MS(zbar)", 6).value) and value(table, "TS(zbar)", 6).value > 0


def test_nothing_to_show_is_an_empty_table() -> None:
    assert pipelines("table4", "", {"x": {}}, ()).rows == ()


def test_the_sections_hold_the_papers_pipelines() -> None:
    assert {p for _, members in SECTIONS for p in members} == set(PAPER)


def test_the_recipe_stands_beside_the_exact_solver(made: Callable[..., Results]) -> None:
    found = tables(
        [made(cohorts=("test",), pipelines=("zbar", "MS(zbar)", "TS(zbar)", "MS(zbar) recipe", "TS(zbar) recipe"))]
    )
    table = named(found, "table4")
    further = table.sections[-1]
    assert [(r.label.markdown, r.crossed) for r in further.rows] == [
        ("MS(z\u0304) recipe", True),
        ("TS(z\u0304) recipe", False),
    ]
    compared = named(found, "differences-made-up")
    assert [r.label.plain for r in compared.rows] == ["MS(zbar) recipe -> MS(zbar)", "TS(zbar) recipe -> TS(zbar)"]


def test_scores_without_a_free_energy_have_no_table_of_it(made: Callable[..., Results]) -> None:
    bare, full = made("bare", cohorts=("test",)), made("full", cohorts=("test",))
    bare.tables["energy"].clear()
    assert not {"table3", "table5"} & {t.name for t in tables([bare])}
    table = named(tables([bare, full]), "table3")
    assert math.isnan(value(table, "bare", 1).value) and value(table, "full", 1).value > 0


def test_results_of_a_study_that_was_run(made: Callable[..., Results], tmp_path: Path) -> None:
    about = {"configuration": {"name": "made up", "seed": 0, "replicates": 400}, "classes": list("abcd")}
    study = made(cohorts=("test",))
    again = Results.of(
        Finished(tmp_path, about, {name: pa.Table.from_pylist(rows) for name, rows in study.tables.items()})
    )
    assert repr(tables([again])) == repr(tables([study]))
