from __future__ import annotations

import csv
import io
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.mathtext import MathTextParser

from segcal.errors import UsageError
from segcal.study.tables import csv as plain
from segcal.study.tables import latex, markdown
from segcal.study.tables.names import SECTIONS, Pair, arrow, symbol
from segcal.study.tables.table import NONE, Cell, Column, Number, Row, Section, Table, Text, best_in_bold

HOSTILE = r"a_b & 50% $x$ #1 {y} ~ ^ \end{table*} | <z>"


def small(name: str = "demo", words: str = "row") -> Table:
    columns = (
        Column(Text("A"), "one", 2, better=-1, beside=("low", "high")),
        Column(Text("B"), "one", 1, 100, 1),
        Column(Text("C"), "two", 4, signed=True),
    )
    rows = (
        Row(
            Text(words),
            (Cell(Number(0.123, (0.1, 0.2))), Cell(Number(0.7649)), Cell(Number(-0.00001, ()), starred=True)),
            crossed=True,
        ),
        Row(Text("other"), (Cell(Number(0.1249)), Cell(Number(0.5)), Cell(NONE))),
    )
    return best_in_bold(
        Table(
            name,
            f"A caption: {words}.",
            Text("Name"),
            columns,
            (Section(Text("(a) First"), rows),),
            (f"A note on {words}.",),
        )
    )


def test_markdown_of_a_small_table() -> None:
    assert markdown.render(small()).splitlines() == [
        "**A caption: row.**",
        "",
        "| Name | one |  | two |",
        "|---|---:|---:|---:|",
        "|  | A↓ | B↑ | C |",
        "| *(a) First* |  |  |  |",
        "| row × | **0.12** [0.10, 0.20] | **76.5** | 0.0000\\* |",
        "| other | **0.12** | 50.0 | — |",
        "",
        "- A note on row.",
    ]


def test_latex_of_a_small_table() -> None:
    lines = latex.render(small()).splitlines()
    assert r"row$^{\times}$ & \textbf{0.12} [0.10, 0.20] & \textbf{76.5} & 0.0000$^{*}$ \\" in lines
    assert (
        r" & \multicolumn{2}{c}{one} & \multicolumn{1}{c}{two} \\" in lines
        and r"\cmidrule(lr){2-3}\cmidrule(lr){4-4}" in lines
    )
    assert r"\multicolumn{4}{l}{\textit{(a) First}} \\" in lines and r"\label{tab:demo}" in lines
    assert r"other & \textbf{0.12} & 50.0 & --- \\" in lines


def test_csv_of_a_small_table_keeps_precision_and_units() -> None:
    rows = list(csv.DictReader(io.StringIO(plain.render(small()))))
    assert list(rows[0]) == [
        "section",
        "Name",
        "one A",
        "one A low",
        "one A high",
        "one B",
        "two C",
        "two C excludes 0",
    ]
    assert rows[0] == {
        "section": "(a) First",
        "Name": "row",
        "one A": "0.123",
        "one A low": "0.1",
        "one A high": "0.2",
        "one B": "0.7649",
        "two C": "-1e-05",
        "two C excludes 0": "true",
    }
    assert rows[1]["one A low"] == rows[1]["two C"] == "" and rows[1]["two C excludes 0"] == "false"


def sound(text: str) -> None:
    """What can be told without LaTeX: environments and braces balance, rows have their columns, no character of LaTeX's
    own stands bare.
    """
    opened = []
    for kind, name in re.findall(r"\\(begin|end)\{([a-z*]+)\}", text):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert opened == []
    body = re.sub(r"\\[\\{}&%$#_]", "", "\n".join(line for line in text.splitlines() if not line.startswith("%")))
    depth = 0
    for c in body:
        depth += (c == "{") - (c == "}")
        assert depth >= 0
    assert depth == 0 and body.count("$") % 2 == 0
    outside = re.sub(r"\$[^$]*\$", "", body)
    assert not re.search(r"[#_^~<>|]", outside) and not re.search(r"%(?!\n)", outside)
    columns = len(re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)[1])  # type: ignore[index]
    for line in text.splitlines():
        if line.endswith(r"\\"):
            spans = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", line))
            assert len(re.findall(r"(?<!\\)&", line)) + 1 + spans == columns, line


def test_latex_is_sound_and_hostile_words_are_harmless() -> None:
    for words in ("row", HOSTILE):
        sound(latex.render(small(words=words)))
    text = latex.render(small(words=HOSTILE))
    assert text.count(r"\end{table*}") == 1 and r"a\_b \& 50\% \$x\$ \#1 \{y\}" in text


def test_the_check_of_latex_can_fail() -> None:
    good = latex.render(small())
    for bad in (
        good.replace(r"\end{tabular}", ""),
        good.replace("other", "an_other"),
        good.replace("other &", "other"),
        good.replace("other", "{other"),
        good.replace("other", "$other"),
    ):
        with pytest.raises((AssertionError, IndexError)):
            sound(bad)


@settings(max_examples=40)
@given(st.text(max_size=30))
def test_any_words_are_escaped(words: str) -> None:
    kept = "".join(c for c in words if c.isprintable())
    sound(latex.render(small(words=kept)))
    header = markdown.render(small(words=kept)).splitlines()[2]
    row = next(line for line in markdown.render(small(words=kept)).splitlines() if line.endswith("0.0000\\* |"))
    assert len(re.findall(r"(?<!\\)\|", row)) == len(re.findall(r"(?<!\\)\|", header))


@given(st.text())
def test_markdown_takes_any_words_as_words(words: str) -> None:
    """No tag, no link, no code, no further column or line, whatever a name holds."""
    lines = markdown.render(small(words=words)).split("\n")
    assert len(lines) == 11
    assert "<" not in "".join(lines)
    for line in lines[2:8]:
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 5
    assert not re.search(r"(?<!\\)(?:\\\\)*[`\]]\(", "".join(lines))


@pytest.mark.parametrize("render", [markdown.render, latex.render])
def test_no_control_character_and_no_broken_line(render) -> None:
    text = render(small(words="a\x1b[31m\nb\udcff\u202e"))
    assert "a\x1b" not in text and "\u202e" not in text
    text.encode()


def test_bold_goes_by_what_is_printed() -> None:
    def bold(better: int, *values: float) -> list[bool]:
        rows = tuple(Row(Text(str(k)), (Cell(Number(v)),)) for k, v in enumerate(values))
        table = best_in_bold(
            Table("t", "", Text(""), (Column(Text("x"), decimals=2, better=better),), (Section(Text(""), rows),))
        )
        return [row.cells[0].bold for row in table.rows]

    assert bold(-1, 0.111, 0.112, 0.2) == [True, True, False]
    assert bold(1, 0.111, math.nan, 0.2) == [False, False, True]
    assert bold(0, 0.1, 0.2) == [False, False] and bold(-1, 0.1, math.nan) == [False, False]


def test_a_row_needs_a_cell_a_column() -> None:
    with pytest.raises(UsageError, match="0 cells; expected 1"):
        Table("t", "", Text(""), (Column(Text("x")),), (Section(Text(""), (Row(Text("r"), ()),)),))


def test_wide_tables_are_scaled_and_narrow_ones_not() -> None:
    wide = Table("w", "", Text(""), tuple(Column(Text(str(k))) for k in range(8)), ())
    assert r"\resizebox" in latex.render(wide) and r"\resizebox" not in latex.render(small())
    sound(latex.render(wide))


def test_the_mathematics_of_every_symbol_can_be_set() -> None:
    """Matplotlib reads a part of LaTeX's mathematics: every symbol of the paper's pipelines, and one that is not the
    paper's.
    """
    parser = MathTextParser("path")
    texts = [symbol(p) for _, members in SECTIONS for p in members] + [
        symbol("cms-op(p0)"),
        symbol("bts-class(CMSop(pbar))"),
        arrow(Pair("MS(zbar)", "DC(zbar)")),
    ]
    for text in texts:
        assert text.latex.count("$") >= 2 and parser.parse(text.latex).width > 0
    with pytest.raises(ValueError, match="Expected"):
        parser.parse(r"$\mathrm{MS}(\bar{z}$ }$")
