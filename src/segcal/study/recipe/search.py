"""The papers' search for hyper-parameters: Optuna's TPE over learning rate, patience and penalty strengths, by
validation NLL, resumable.

Search space (K26 Appendix B): learning rate log-uniform in [1e-4, 3e-2]; patience 10, 20 or 50; lambda and mu each
exactly zero or log-uniform in [1e-6, 1e-1], a fair coin. The first ten trials are drawn at random, TPE proposes the
others (its default). Each trial draws with a seed of its own, made from the search's seed and the trial's number, and
TPE sees finished trials in the order of their numbers: what a trial tries depends on nothing else, so a search taken up
again goes on as if it had never stopped.

A journal is one JSON file of all searches of a fit: finished trials with their parameters, so that the best need not be
trained again. It is replaced as a whole after each trial; one process may use it at a time. It is recognised by the
values at the start: another data set or another file is an error. A journal that is not there is begun.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segcal.data.files import journal
from segcal.data.files.reading import content, json_value
from segcal.errors import UnreadableError, UsageError, extra
from segcal.fitting.solvers.query import Vector
from segcal.methods.descent import Settings

if TYPE_CHECKING:
    import optuna

STARTUP = 10
LEARNING_RATE = (1e-4, 3e-2)
PATIENCE = (10, 20, 50)
STRENGTH = (1e-6, 1e-1)
SCHEMA = 1


@dataclass(frozen=True, eq=False)
class Trial:
    """A finished trial: its number, what it tried, the `value` it reached (validation NLL), how its descents ended, its
    parameters (one vector a stage).
    """

    number: int
    params: Mapping[str, Any]
    value: float
    notes: str
    theta: tuple[Vector, ...]

    @property
    def settings(self) -> Settings:
        """What it tried, zeros put in."""
        return Settings(
            self.params["learning_rate"],
            self.params["patience"],
            self.params.get("lambda", 0.0),
            self.params.get("mu", 0.0),
        )

    def row(self) -> dict[str, Any]:
        """For the table of trials."""
        s = self.settings
        return {
            "trial": self.number,
            "learning_rate": s.learning_rate,
            "patience": s.patience,
            "lambda": s.lambda_,
            "mu": s.mu,
            "validation_nll": self.value,
            "end": self.notes,
        }


def require_optuna() -> None:
    """UsageError where Optuna is not installed."""
    with extra("recipe"):
        import optuna  # noqa: F401


@dataclass(frozen=True, eq=False)
class Search:
    """One search. `penalised`: whether lambda and mu are part of it."""

    seed: int
    penalised: bool

    def propose(self, number: int, finished: Sequence[Trial]) -> tuple[Settings, dict[str, Any]]:
        """What trial `number` tries after `finished`; in its second form as Optuna names it."""
        import optuna

        with _quiet():
            seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
            study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP))
            space = self._space()
            for trial in sorted(finished, key=lambda t: t.number) if number >= STARTUP else ():
                study.add_trial(
                    optuna.trial.create_trial(
                        params=dict(trial.params), distributions={k: space[k] for k in trial.params}, value=trial.value
                    )
                )
            asked = study.ask()
            names = ["learning_rate", "patience"]
            for name in ("lambda", "mu") if self.penalised else ():
                zero = f"{name}_zero"
                if not self._suggest(asked, zero, space):
                    names.append(name)
            for name in names:
                self._suggest(asked, name, space)
        params = dict(asked.params)
        return Trial(number, params, float("nan"), "", ()).settings, params

    def _space(self) -> dict[str, optuna.distributions.BaseDistribution]:
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        space: dict[str, optuna.distributions.BaseDistribution] = {
            "learning_rate": FloatDistribution(*LEARNING_RATE, log=True),
            "patience": CategoricalDistribution(PATIENCE),
        }
        for name in ("lambda", "mu"):
            space |= {
                f"{name}_zero": CategoricalDistribution((True, False)),
                name: FloatDistribution(*STRENGTH, log=True),
            }
        return space

    @staticmethod
    def _suggest(asked: optuna.Trial, name: str, space: Mapping[str, Any]) -> Any:
        found = space[name]
        if hasattr(found, "choices"):
            return asked.suggest_categorical(name, found.choices)
        return asked.suggest_float(name, found.low, found.high, log=found.log)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Inside, Optuna reports no study and no trial of ours."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


@dataclass(frozen=True, eq=False)
class Journal:
    """Finished trials of one search:

    `key` in the file at `path`, or in no file. `start`: NLL of the fit and validation cases at the identity, by which
    data are recognised.
    """

    path: Path | None
    key: str
    start: tuple[float, float]

    def read(self) -> dict[int, Trial]:
        """Finished trials by number; none where there is no file.

        UnreadableError, UsageError where the file is not a journal of these data.
        """
        entry = self._whole().get(self.key)
        if entry is None:
            return {}
        try:
            start = (float(entry["start"][0]), float(entry["start"][1]))
            trials = {
                int(t["trial"]): Trial(
                    int(t["trial"]),
                    t["params"],
                    float(t["value"]),
                    t["notes"],
                    tuple(np.array(v, float) for v in t["theta"]),
                )
                for t in entry["trials"]
            }
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise self._not_ours() from error
        if start != self.start:
            raise UsageError(
                str(self.path),
                found=f"a search that began at NLL {start[0]:.6g} and {start[1]:.6g}",
                expected=f"{self.start[0]:.6g} and {self.start[1]:.6g}: it belongs to other cases",
                do="Name another file, or remove this one.",
            )
        return trials

    def write(self, trials: Mapping[int, Trial]) -> None:
        """Replace this search's trials; the file is complete or as it was."""
        if self.path is None:
            return
        whole = self._whole()
        told = [
            {
                "trial": t.number,
                "params": dict(t.params),
                "value": t.value,
                "notes": t.notes,
                "theta": [v.tolist() for v in t.theta],
            }
            for t in (trials[k] for k in sorted(trials))
        ]
        whole[self.key] = {"start": list(self.start), "trials": told}
        with journal.atomic(self.path) as temporary:
            temporary.write_text(json.dumps({"segcal_recipe": SCHEMA, "searches": whole}), encoding="utf-8")

    def _whole(self) -> dict[str, Any]:
        if self.path is None or not self.path.exists():
            return {}
        try:
            told = json_value(content(self.path), self.path)
        except UnreadableError as error:
            raise self._not_ours() from error
        if (
            not isinstance(told, dict)
            or told.get("segcal_recipe") != SCHEMA
            or not isinstance(told.get("searches"), dict)
        ):
            raise self._not_ours()
        searches: dict[str, Any] = told["searches"]
        return searches

    def _not_ours(self) -> UnreadableError:
        return UnreadableError(
            str(self.path),
            found="something else",
            expected="a journal of finished trials",
            do="Name another file for the trials.",
        )
