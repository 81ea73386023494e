"""`segcal methods`: every registered method, its promises and its counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from segcal.methods import BUILT_IN, methods


def test_all_methods_are_listed(segcal: Any) -> None:
    said = segcal("methods", "--classes", "2,3")
    assert (said.code, said.err) == (0, "")
    for name, named in methods().items():
        assert name in said.out.split()
        assert named.kind.__name__ in said.out
    assert "12 / 8 / 12" in said.out
    assert "C = 3" in said.out


def test_the_list_without_counts_says_what_the_methods_are(segcal: Any) -> None:
    said = segcal("methods")
    for name, place in BUILT_IN.items():
        line = next(line.split() for line in said.out.splitlines() if line.split()[:1] == [name])
        assert line[1] == ("yes" if place.keeps else "no")
        method = methods()[name]
        promised = method.guarantees
        assert promised is None or place.keeps == (promised.preserves_argmax == "proven")
        for classes in (2, 3):
            counted = method().counted(classes)
            assert (counted is None) == (not place.numbers)
            assert counted is None or counted.optimised == eval(place.numbers, {"C": classes})


def test_json_holds_the_counts_asked_for(segcal: Any) -> None:
    found = segcal("methods", "--classes", "3", "--json").json
    assert found["classes"] == [3]
    by_name = {row["name"]: row for row in found["methods"]}
    assert set(by_name) == set(methods())
    assert by_name["lts"]["counts"] == {"3": {"optimised": 532, "identifiable": 532, "exact": None}}
    assert by_name["ms-c"]["counts"] == {"3": {"optimised": 10, "identifiable": 6, "exact": 10}}
    assert by_name["ms"]["guarantees"]["translation_invariant"] == "no"


def test_markdown_is_the_same_table(segcal: Any, tmp_path: Path) -> None:
    assert segcal("methods", "--classes", "2", "--markdown", tmp_path / "parameters.md", "--quiet").code == 0
    lines = (tmp_path / "parameters.md").read_text().splitlines()
    assert "segcal methods --classes 2" in lines[2]
    rows = [line for line in lines if line.startswith("| `")]
    assert [line.split("`")[1] for line in rows] == list(methods())
    assert next(line for line in rows if "`dc`" in line).endswith("| 6 / 3 / 6 |")


@pytest.mark.parametrize("classes", ["1", "", "2;3", "two", "-2", "1000", "33", "9" * 5000, "²"])
def test_numbers_that_are_none_are_refused(segcal: Any, classes: str) -> None:
    said = segcal("methods", f"--classes={classes}")
    assert said.code == 2
    assert "from 2 to 32" in said.err


def test_the_page_of_results_is_what_the_command_writes(segcal: Any, tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "results" / "parameters.md"
    assert segcal("methods", "--markdown", tmp_path / "parameters.md", "--quiet").code == 0
    assert page.read_text() == (tmp_path / "parameters.md").read_text()
