"""Errors: the tree is the one drawn, messages say where, what, what instead and what to do, and they survive a worker
process.
"""

from __future__ import annotations

import pickle
import re

import pytest

from segcal import errors
from segcal.errors import MismatchError, OutputError, ScoreError, SegcalError, UsageError

ALL = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, SegcalError)]


def test_the_tree_in_the_docstring_is_the_tree():
    drawn: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^([\s│├└─]*)([A-Z]\w+Error)\b", line)
        if found:
            depth = len(found[1])
            path = [p for p in path if p[0] < depth]
            if path:
                drawn[found[2]] = path[-1][1]
            path.append((depth, found[2]))
    assert drawn == {kind.__name__: kind.__base__.__name__ for kind in ALL if kind is not SegcalError}


@pytest.mark.parametrize("kind", ALL)
def test_a_message_says_where_what_what_instead_and_what_to_do(kind):
    error = kind("scores.npz", found="NaN", expected="numbers", do="Predict again.")
    assert str(error) == "scores.npz: found NaN; expected numbers. Predict again."
    assert (error.where, error.found, error.expected, error.do) == ("scores.npz", "NaN", "numbers", "Predict again.")


@pytest.mark.parametrize("kind", ALL)
def test_errors_come_through_a_pickle_whole(kind):
    error = kind("a", found="b", expected="c", do="d")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (str(again), again.where, again.found, again.expected, again.do) == (str(error), "a", "b", "c", "d")


def test_exit_codes_are_those_of_the_command_line():
    codes = {kind.__name__: kind.exit_code for kind in ALL}
    assert codes.pop("SegcalError") == 1
    assert codes.pop("UsageError") == codes.pop("MismatchError") == 2
    assert set(codes.values()) == {3}
    assert issubclass(MismatchError, UsageError)
    assert not issubclass(OutputError, errors.DataError)


def test_every_part_of_a_message_must_be_given():
    with pytest.raises(TypeError):
        ScoreError("a", found="b", expected="c")  # type: ignore[call-arg]


def test_every_error_says_what_it_is_for():
    assert all(kind.__doc__ for kind in ALL)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain words, ünïcode 日本 [red] $x$", "plain words, ünïcode 日本 [red] $x$"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("two\nlines\r\t", "two\\nlines\\r\\t"),
        ("\u202eevil\u2066\u2028\u200b", "\\u202eevil\\u2066\\u2028\\u200b"),
        ("\udcff\ud800", "\\udcff\\ud800"),
        ("\x9b\U000e0041", "\\x9b\\U000e0041"),
    ],
)
def test_what_steers_a_terminal_is_made_visible(text, seen):
    assert errors.visible(text) == seen
    told = str(ScoreError(text, found=text, expected="b", do="d"))
    assert told == f"{seen}: found {seen}; expected b. d"
    told.encode()


def test_times_are_told_in_words() -> None:
    told = [errors.spell(s) for s in (0.0, 0.1, 89, 120, 5300, 7200, 12_000)]
    assert told == ["1 s", "1 s", "89 s", "2 min", "88 min", "2 h", "3 h 20 min"]
