"""Numbers as they are shown."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from segcal.cli.console import Lines, Output, bars
from segcal.cli.tables import (
    MOST_DECIMALS,
    Numbers,
    before_after,
    cell,
    interval,
    number,
    style,
    table,
    words,
    write_cases,
)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (0, "0"), (0.25, "0.2500"), (0.0005, "0.0005"), (0.00012, "1.2e-04"), (-0.0123, "-0.0123")],
)
def test_numbers(value: float | None, shown: str) -> None:
    assert number(value) == shown


@given(st.floats(-10, 10, allow_nan=False))
def test_a_shown_number_is_the_number(value: float) -> None:
    assert float(number(value)) == pytest.approx(value, rel=0.11, abs=5e-5 if abs(value) >= 5e-4 else 1e-300)
    assert number(value, signed=True)[0] in "+-0"


def test_intervals() -> None:
    def said(key: str, low: float | None, high: float | None, groups: int) -> str:
        found = interval(key, {"low": low, "high": high, "groups": groups})
        return found if isinstance(found, str) else found.set(style([found]))

    assert said("nll", -0.01, 0.02, 4) == "-0.0100 to +0.0200"
    assert said("nll", -0.00001, 0.02, 4) == "-0.0000 to +0.0200"
    assert said("nll", None, None, 1) == "none: one group"
    assert interval("nll", None) == "-"
    assert said("flip_rate", -0.01, 0.02, 4) == "-1.0000 to +2.0000"


@given(st.lists(st.one_of(st.none(), st.floats(-1e3, 1e3, allow_nan=False)), min_size=1, max_size=6))
def test_a_column_has_one_notation_and_keeps_two_digits_of_the_smallest(values: list[float | None]) -> None:
    cells = [cell(v, signed=True) for v in values]
    how = style(cells)
    shown = [c.set(how) for c in cells]
    numbers = [text for text in shown if text not in ("-", "0")]
    assert len({("e" in text, len(text.partition("e")[0].partition(".")[2])) for text in numbers}) <= 1
    for value, text in zip(values, shown, strict=True):
        assert value is None or float(text) == pytest.approx(value, rel=0.11, abs=5e-5 if abs(value) >= 5e-4 else 0)
    assert "e" in how or int(how[1:-1]) <= MOST_DECIMALS


EVALUATION = {
    "uncalibrated": dict.fromkeys(
        ("nll", "brier", "entropy", "ece", "ece_pooled", "classwise_ece", "ace", "ba_ece", "dice", "iou", "flip_rate"),
        0.123456,
    ),
    "calibrated": dict.fromkeys(
        ("nll", "brier", "entropy", "ece", "ece_pooled", "classwise_ece", "ace", "ba_ece", "dice", "iou", "flip_rate"),
        0.000123,
    ),
    "differences": {"nll": {"mean": -0.123333, "low": -0.2, "high": -0.05, "level": 0.95, "groups": 4}},
    "verdict": {
        where: {
            metric: {
                "before": 0.5,
                "after": 0.25,
                "change": {"mean": -0.25, "low": -0.3, "high": -0.2, "level": 0.95, "groups": 4},
            }
            for metric in ("nll", "ece")
        }
        for where in ("overall", "foreground", "boundary")
    },
}


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_no_digit_is_cut_at_any_width(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    Output(False, None).show(before_after(EVALUATION))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= columns
    assert "…" not in out
    for value in ("0.123456", "0.00012", "-0.1233", "-0.2000 to -0.0500", "-0.3000 to -0.2000"):
        assert value.replace("0.123456", "0.1235") in out
    assert columns < 80 or [line.split(",")[0] for line in out.splitlines() if ", boundary" in line] == ["NLL", "ECE"]


def test_long_words_are_folded_and_numbers_go_below(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    shown = words(table("class", "first", "second", "said"), 3)
    shown.add_row("a name of many words", cell(0.5), Numbers((1.25, 2.5), form="{} to {}"), "some words, folded")
    Output(False, None).show(shown)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 30
    assert "0.5000" in out and "1.2500 to 2.5000" in out
    assert all(word in out for word in ["a", "name", "of", "many", "words", "some", "folded"])


def test_sentences_are_wrapped_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    path = "/a/long/path/that/is/not/broken/cal.safetensors"
    for terminal, lines in (
        (True, ["note: one sentence", "in", path, "of many words"]),
        (False, [f"note: one sentence in {path} of many words"]),
    ):
        shown = io.StringIO()
        made = Console(file=shown, width=20, force_terminal=terminal, color_system=None)
        monkeypatch.setattr("segcal.cli.console.console", lambda made=made: made)
        out = Output(False, None)
        out.notes([f"one sentence in {path} of many words"])
        assert shown.getvalue().splitlines() == lines


def test_a_log_is_told_how_long_it_will_take(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = Lines()
    now = time.monotonic()
    assert lines.line(now).startswith("preparing: begun; 1 s")
    lines.start("reading cases", 40)
    assert "reading cases: 0 of 40" in lines.line(now)
    for _ in range(10):
        lines.step()
    assert lines.line(now + 600) in (
        "reading cases: 10 of 40, about 30 min left of this; 10 min in all",
        "reading cases: 10 of 40, about 29 min left of this; 10 min in all",
    )
    lines.start("fitting", 0)
    lines.step()
    assert "fitting: 1 so far, 7200.0 s each: 100 take 200 h" in lines.line(time.monotonic() + 7200)
    monkeypatch.setattr("segcal.cli.console.EVERY", 0.001)
    with bars(quiet=False) as told, bars(quiet=True) as silent:
        assert silent is None and told is not None
        told.start("reading\x1b cases", 2)
        while "reading\\x1b cases: 0 of 2" not in capsys.readouterr().err:
            time.sleep(0.001)
    assert "reading" not in capsys.readouterr().out


def test_cases_as_csv(tmp_path: Path) -> None:
    rows = [{"case": 'a,"b"', "group": "g", "in_sample": False, "uncalibrated": {"nll": 0.5, "dice": None}}]
    write_cases(tmp_path / "cases.csv", rows)
    assert (
        tmp_path / "cases.csv"
    ).read_text() == 'case,group,in_sample,uncalibrated.nll,uncalibrated.dice\n"a,""b""",g,False,0.5,\n'


def test_no_name_steers_the_terminal_or_ends_its_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shown = table("a", "b")
    shown.add_row("x\x1b[31m\ny\u202e\udcff", "[red]1[/red]")
    Output(False, None).show(shown)
    out = capsys.readouterr().out
    assert "x\\x1b[31m\\ny\\u202e\\udcff" in out
    assert "[red]1[/red]" in out
    write_cases(tmp_path / "cases.csv", [{"case": "caf\udce9", "nll": 1.0}])
    assert (tmp_path / "cases.csv").read_text(encoding="utf-8").splitlines()[1] == "caf\\udce9,1.0"
