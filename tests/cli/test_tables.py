"""Numbers as they are shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segcal.cli.console import Output
from segcal.cli.tables import interval, number, table, write_cases


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
    assert interval("nll", {"low": -0.01, "high": 0.02, "groups": 4}) == "-0.0100 to +0.0200"
    assert interval("nll", {"low": None, "high": None, "groups": 1}) == "none: one group"
    assert interval("nll", None) == "-"
    assert interval("flip_rate", {"low": -0.01, "high": 0.02, "groups": 4}) == "-1.0000 to +2.0000"


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
