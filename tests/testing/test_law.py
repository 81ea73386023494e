"""Laws: how they are made, what they raise, and how several are reported."""

from __future__ import annotations

import importlib
import pickle
import sys

import pytest
import torch
from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument

import segcal.testing
from segcal.errors import MissingError
from segcal.testing.law import BrokenLawError, check_all, forall, law, require


@law
def numbers_are_small(number: int) -> None:
    """A number is at most ten.

    More is not said.
    """
    require(number <= 10, f"{number} is large")


@law
def numbers_divide(number: int) -> None:
    """One can be divided by a number."""
    require(1 / number != 0, "impossible")


def test_a_law_has_the_name_and_the_first_line_of_its_function() -> None:
    assert (str(numbers_are_small), numbers_are_small.statement) == ("numbers_are_small", "A number is at most ten.")


def test_a_law_without_a_statement_is_refused() -> None:
    def bare(number: int) -> None:
        del number

    with pytest.raises(ValueError, match="bare: found no docstring"):
        law(bare)


def test_a_broken_law_names_itself_its_statement_and_the_reason() -> None:
    numbers_are_small.check(3)
    with pytest.raises(BrokenLawError) as found:
        numbers_are_small.check(11)
    assert str(found.value) == "int breaks the law 'numbers_are_small' (A number is at most ten.) 11 is large"
    assert found.value.law is numbers_are_small and found.value.subject == 11
    assert str(pickle.loads(pickle.dumps(found.value))) == str(found.value)


def test_an_unexpected_error_is_a_broken_law_and_its_cause() -> None:
    with pytest.raises(BrokenLawError, match="ZeroDivisionError: division by zero") as found:
        numbers_divide.check(0)
    assert isinstance(found.value.__cause__, ZeroDivisionError)


def test_several_broken_laws_are_reported_together() -> None:
    @law
    def numbers_are_large(number: int) -> None:
        """A number is above a hundred."""
        require(number > 100, f"{number} is small")

    check_all((numbers_are_small, numbers_divide), 5)
    with pytest.raises(BrokenLawError) as one:
        check_all((numbers_are_small, numbers_divide), 0)
    assert one.value.law is numbers_divide
    with pytest.raises(ExceptionGroup, match="int breaks 2 of 3 laws") as several:
        check_all((numbers_are_small, numbers_divide, numbers_are_large), 0)
    assert {e.law for e in several.value.exceptions} == {numbers_divide, numbers_are_large}
    with pytest.raises(ValueError, match="found none"):
        check_all((), 5)


def test_forall_draws_the_same_examples_each_time() -> None:
    def draw() -> list[int]:
        seen: list[int] = []

        @forall(st.integers(0, 1000), examples=20)
        def _(number: int) -> None:
            seen.append(number)

        return seen

    first = draw()
    assert draw() == first
    assert len(first) == 20


def test_forall_raises_what_a_counter_example_raises() -> None:
    with pytest.raises(ZeroDivisionError):

        @forall(st.integers(0, 3))
        def _(number: int) -> None:
            assert 1 / number > 0


def test_a_mistake_in_a_law_is_not_taken_for_a_broken_one() -> None:
    @law
    def draws_nothing(number: int) -> None:
        """Hypothesis is asked for the impossible."""

        @forall(st.integers(5, 3))
        def _(value: int) -> None:
            del value

    with pytest.raises(InvalidArgument):
        draws_nothing.check(1)


def test_laws_are_checked_on_one_torch_thread_and_the_number_is_given_back() -> None:
    @law
    def one_thread(number: int) -> None:
        """Torch computes on one thread."""
        require(torch.get_num_threads() == number, f"{torch.get_num_threads()} threads")

    before = torch.get_num_threads()
    one_thread.check(1)
    assert torch.get_num_threads() == before


def test_public_names_are_sorted_and_there() -> None:
    names = segcal.testing.__all__
    assert names == sorted(names, key=lambda n: (n.islower(), not n.isupper(), n))
    assert all(hasattr(segcal.testing, name) for name in names)


def test_every_law_says_one_sentence_and_has_a_name_of_its_own() -> None:
    for kind in (n for n in segcal.testing.__all__ if n.endswith("_LAWS")):
        laws = getattr(segcal.testing, kind)
        assert len({one.name for one in laws}) == len(laws) >= 7
        assert all(one.statement.endswith(".") for one in laws), [
            one.name for one in laws if not one.statement.endswith(".")
        ]


def test_without_hypothesis_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.split(".")[:2] == ["segcal", "testing"]]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "hypothesis", None)  # what Python takes for "there is none"
    with pytest.raises(MissingError, match=r"pip install 'segcal\[testing\]'"):
        importlib.import_module("segcal.testing")
