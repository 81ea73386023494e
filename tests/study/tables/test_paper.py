"""The paper's printed numbers through the writer: its Table 4, row by row, in its own layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.paper_tables import KEYS, table
from segcal.study.tables import latex, markdown


@pytest.fixture(scope="module")
def paper(shared: Path) -> Any:
    return json.loads((shared / "science" / "paper_tables.json").read_text())


def rows(text: str) -> list[list[str]]:
    return [
        [c.strip().replace("**", "") for c in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]


@pytest.mark.parametrize(("which", "name"), [(4, "K26_table4_main"), (7, "K26_table7_cityscapes_shift")])
def test_every_printed_number_stands_where_the_paper_has_it(paper: Any, which: int, name: str) -> None:
    lines = rows(markdown.render(table(paper, which)))
    groups = list(paper[name])
    assert [c for c in lines[0] if c] == ["Pipeline", *groups]
    assert lines[2][1:7] == ["NLL↓", "DSC↑", "ECE↓", "BA-ECE↓", "ACE↓", "Flip↓"]
    body = [line for line in lines[3:] if not line[0].startswith("*(")]
    assert len(body) == 20
    titles = [line[0][1:4] for line in lines[3:] if line[0].startswith("*(")]
    assert titles == ["(a)", "(b)", "(c)", "(d)", "(e)", "(f)"]
    for k, group in enumerate(groups):
        assert [line[1 + 6 * k : 7 + 6 * k] for line in body] == [
            _cells(paper[name][group][p]) for p in _order(paper[name][group])
        ]


def _order(data: Any) -> list[str]:
    """Pipelines as printed: by section, in the order of the file, which is the paper's; DC(pbar) stands before DC(zbar)
    in (f).
    """
    out = [p for section in ("(a)", "(b)", "(c)", "(d)", "(e)") for p in data if section in data[p]["sections"]]
    return [*out, "DC(pbar)", "DC(zbar)"]


def _cells(row: Any) -> list[str]:
    return ["—" if row[k] is None else f"{row[k]:.1f}" if k.endswith("pct") else f"{row[k]:.3f}" for k in KEYS]


def test_the_best_of_the_paper_is_bold(paper: Any) -> None:
    text = markdown.render(table(paper, 4))
    line = next(x for x in text.splitlines() if x.startswith("| LTS(log S("))
    values = paper["K26_table4_main"]["RoadSeg"]
    assert (
        min(values, key=lambda p: values[p]["ACE"]) == "LTS(logS(zbar))"
        and f"**{values['LTS(logS(zbar))']['ACE']:.3f}**" in line
    )


def test_table_8_has_its_intervals(paper: Any) -> None:
    data = paper["K26_table8_with_intervals"]["Cityscapes"]["MS(zbar)"]["NLL"]
    for text in (markdown.render(table(paper, 8)), latex.render(table(paper, 8))):
        assert f"{data[0]:.3f} [{data[1]:.3f}, {data[2]:.3f}]" in text


def test_latex_has_every_row(paper: Any) -> None:
    text = latex.render(table(paper, 4))
    assert text.count(r" \\") == 2 + 6 + 20 and text.count(r"$^{\times}$") == 2 and text.count(r"\addlinespace") == 5
