"""The search: the papers' space, the same proposals however often it is taken up, and a journal that knows its data."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from segcal.errors import UnreadableError, UsageError
from segcal.study.recipe.recipe import Recipe
from segcal.study.recipe.search import PATIENCE, STARTUP, Journal, Search, Trial

pytest.importorskip("optuna")


def trials(search: Search, count: int) -> list[Trial]:
    """A search whose best learning rate is 1e-3."""
    done: list[Trial] = []
    for number in range(count):
        settings, params = search.propose(number, done)
        done.append(
            Trial(number, params, abs(np.log10(settings.learning_rate) + 3), "end", (np.array([0.1, number / 3]),))
        )
    return done


def test_proposals_lie_in_the_papers_space() -> None:
    settings = [Search(seed, True).propose(k, [])[0] for seed in range(6) for k in range(STARTUP)]
    assert all(1e-4 <= s.learning_rate <= 3e-2 for s in settings)
    assert {s.patience for s in settings} == set(PATIENCE)
    for name in ("lambda_", "mu"):
        values = [getattr(s, name) for s in settings]
        assert all(v == 0 or 1e-6 <= v <= 1e-1 for v in values)
        # a fair coin: 60 throws
        assert 15 <= sum(v == 0 for v in values) <= 45


def test_without_a_penalty_there_is_none_to_search() -> None:
    assert all(
        set(t.params) == {"learning_rate", "patience"} and t.settings.lambda_ == t.settings.mu == 0
        for t in trials(Search(0, False), 12)
    )


def test_a_search_taken_up_again_goes_on_as_if_it_had_not_stopped() -> None:
    whole = trials(Search(3, True), 16)
    for k in (4, 10, 13):
        settings, params = Search(3, True).propose(k, list(reversed(whole[:k])))
        assert params == dict(whole[k].params)
        assert settings == whole[k].settings


def test_other_seeds_try_other_things() -> None:
    assert Search(0, True).propose(0, [])[1] != Search(1, True).propose(0, [])[1]
    assert Search(0, True).propose(0, [])[1] != Search(0, True).propose(1, [])[1]


def test_later_trials_learn_from_earlier_ones() -> None:
    """TPE's proposals lie nearer the best learning rate than random ones, on average over seeds."""
    found = [trials(Search(seed, False), 20) for seed in range(4)]
    random = np.mean([t.value for run in found for t in run[:STARTUP]])
    learned = np.mean([t.value for run in found for t in run[STARTUP:]])
    assert learned < 0.8 * random


def test_a_journal_gives_back_every_bit(tmp_path: Path) -> None:
    done = {t.number: t for t in trials(Search(0, True), 3)}
    Journal(tmp_path / "t.json", "a", (0.5, 0.25)).write(done)
    Journal(tmp_path / "t.json", "b", (0.1, 0.2)).write({})
    back = Journal(tmp_path / "t.json", "a", (0.5, 0.25)).read()
    assert [(t.params, t.value, t.notes, [v.tobytes() for v in t.theta]) for t in back.values()] == [
        (t.params, t.value, t.notes, [v.tobytes() for v in t.theta]) for t in done.values()
    ]
    assert Journal(tmp_path / "t.json", "c", (0.5, 0.25)).read() == {}
    assert [p.name for p in tmp_path.iterdir()] == ["t.json"]


def test_no_file_no_journal(tmp_path: Path) -> None:
    assert Journal(tmp_path / "absent.json", "a", (0.0, 0.0)).read() == {}
    Journal(None, "a", (0.0, 0.0)).write({})
    assert list(tmp_path.iterdir()) == []


def test_other_data_are_refused(tmp_path: Path) -> None:
    Journal(tmp_path / "t.json", "a", (0.5, 0.25)).write({})
    with pytest.raises(UsageError, match="other cases"):
        Journal(tmp_path / "t.json", "a", (0.5, 0.26)).read()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[]",
        "{}",
        '{"segcal_recipe": 2, "searches": {}}',
        '{"segcal_recipe": 1, "searches": {"a": {"start": [1]}}}',
    ],
)
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(UnreadableError, match="another file"):
        Journal(tmp_path / "t.json", "a", (0.5, 0.25)).read()


def test_without_optuna_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r"segcal\[recipe\]"):
        Recipe()


@pytest.mark.parametrize("options", [{"trials": 0}, {"epochs": 0}, {"seed": -1}])
def test_numbers_that_make_no_sense_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        Recipe(**options)  # type: ignore[arg-type]
