"""Fitting methods by name, with numbers from cases that each fit did not see, and one file a calibrator.

The cross-fitted numbers go into the calibrator, so that whoever gets the file can see them. One group of cases: no such
numbers, and `why_not` says so. A choice among methods (`fit_chosen`) has the form of a fit of what was chosen, with the
reasons beside its numbers; where nothing gains, its calibrator leaves every probability as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segcal.data.cohort import Cohort
from segcal.data.padding import found_note, hidden_note
from segcal.engine.engine import Engine
from segcal.errors import OutputError, UsageError
from segcal.methods import flag
from segcal.methods.calibrator import Calibrator
from segcal.methods.files import versions
from segcal.methods.method import AnyMethod, Fit, fit_methods
from segcal.methods.names import named
from segcal.methods.registry import find
from segcal.methods.registry import methods as registered
from segcal.outcomes.reference import HOWS
from segcal.tasks.check.predictions import unrecorded
from segcal.tasks.choose import Recommendation, recommend
from segcal.tasks.evaluate import Evaluation, crossfitted
from segcal.tasks.reference import references
from segcal.tasks.scoring import room_to_score

ENDING = ".safetensors"


@dataclass(frozen=True, eq=False)
class Fitted:
    """Fits by method and their cross-fitted evaluations; or why there are none. `choice`: where one method was chosen
    among several, why.
    """

    cohort: Cohort
    fits: Mapping[str, Fit]
    evaluations: Mapping[str, Evaluation]
    why_not: str = ""
    choice: Recommendation | None = None

    @property
    def notes(self) -> list[str]:
        """What a reader of the numbers must know."""
        data = next((f.calibrator.data for f in self.fits.values() if f.calibrator.data is not None), None)
        unknown = [f"{f.text}. {f.do}" for f in unrecorded(self.cohort, {})]
        hidden = [] if data is None else hidden_note(data.records)
        return [*self.cohort.notes, *hidden, *found_note(self.cohort), *unknown]

    @property
    def best(self) -> str:
        """The method of lowest cross-fitted NLL; without such numbers the first."""

        def nll(name: str) -> float:
            after = self.evaluations[name].calibrated
            value = None if after is None else after.block["nll"]
            return float("inf") if value is None else float(value)

        return min(self.evaluations, key=nll) if self.evaluations else next(iter(self.fits))

    def held_out(self, name: str) -> dict[str, Calibrator | None]:
        """Of each case the calibrator that gave its cross-fitted numbers under `name`: fitted without its fold, and for
        a choice chosen without it; None where that left the scores as they are.
        """
        if self.choice is None:
            folds, held = self.fits[name].folds, list[Calibrator | None](self.fits[name].held_out)
        else:
            fits = {one: found.fit for one, found in self.choice.candidates.items()}
            folds = next(fit.folds for fit in fits.values() if fit is not None)
            chosen = [fits[one] if self.choice.gains else None for one in self.choice.by_fold]
            held = [None if fit is None else fit.held_out[k] for k, fit in enumerate(chosen)]
        return {self.cohort[case].id: one for fold, one in zip(folds, held, strict=True) for case in fold}

    def save(self, files: Mapping[str, Path]) -> None:
        """Write every calibrator; each file is complete or as it was."""
        for name, fitted in self.fits.items():
            fitted.calibrator.save(files[name])

    def to_json(self, files: Mapping[str, Path]) -> dict[str, Any]:
        """What `fit --json` writes of calibrators in `files`."""
        made = {name: fitted.calibrator for name, fitted in self.fits.items()}
        return {
            "cases": len(self.cohort),
            "groups": len(set(self.cohort.groups)),
            "crossfitted": not self.why_not,
            "why_not": self.why_not,
            "methods": {
                name: {
                    "file": str(files[name]),
                    "solution": None if c.solution is None else c.solution.to_json(),
                    "crossfit": c.crossfit,
                }
                for name, c in made.items()
            },
            "versions": versions(),
        }


def fit(
    methods: Mapping[str, AnyMethod],
    cohort: Cohort,
    engine: Engine,
    *,
    crossfit: bool = True,
    folds: int = 5,
    seed: int = 0,
    keep_decision: bool | None = None,
    aside: Cohort | None = None,
) -> Fitted:
    """Fit all methods over shared passes and, where possible, score each case by fits that did not see its fold. The
    calibrators keep a reference (`segcal.outcomes.reference`): of the cases `aside`, or else of cross-fitted ones.

    `keep_decision`: as a calibrator's. Raises UsageError where there is not enough memory, what the methods raise.
    """
    cohort = engine.scorable(cohort)
    groups = len(set(cohort.groups))
    why_not = ""
    if not crossfit:
        why_not = "left out, as asked"
    elif groups < 2:
        why_not = (
            f"{len(cohort)} case(s) of one group: nothing can be held out. Add cases of other patients or sequences, or"
            " give finer groups with --groups"
        )
    if not why_not:
        room_to_score(cohort, 1 + len(methods), engine)
    fits = fit_methods(
        methods, cohort, engine, crossfit=not why_not, folds=folds, seed=seed, keep_decision=keep_decision
    )
    evaluations = {} if why_not else crossfitted(cohort, fits, engine)
    for name, evaluation in evaluations.items():
        fits[name].calibrator.crossfit = _kept(evaluation, len(fits[name].folds), seed)
    return _judged(Fitted(cohort, fits, evaluations, why_not), engine, aside)


def fit_chosen(
    cohort: Cohort,
    engine: Engine,
    *,
    keep_map: bool = True,
    invariant: bool = False,
    methods: Mapping[str, AnyMethod] | None = None,
    folds: int = 5,
    seed: int = 0,
    aside: Cohort | None = None,
) -> Fitted:
    """The method that `recommend` chooses, as a fit. Arguments and errors: as there; `aside`: as `fit`."""
    found = recommend(cohort, engine, keep_map=keep_map, invariant=invariant, methods=methods, folds=folds, seed=seed)
    reasons = {name: value for name, value in found.to_json().items() if name != "candidates"}
    found.calibrator.crossfit = {**_kept(found.evaluation, found.folds, seed), "recommendation": reasons}
    chosen = found.candidates[found.chosen].fit or Fit(found.calibrator, folds=((),) * found.folds)
    done = Fitted(found.evaluation.cohort, {found.chosen: chosen}, {found.chosen: found.evaluation}, choice=found)
    return _judged(done, engine, aside)


def _judged(done: Fitted, engine: Engine, aside: Cohort | None) -> Fitted:
    """The fits, whose calibrators keep a reference now; where no case is left to judge them, none."""
    if aside is not None:
        cohort, how = engine.scorable(aside), HOWS[0]
        used: dict[str, dict[str, Calibrator | None]] = {
            name: {case.id: fit.calibrator for case in cohort} for name, fit in done.fits.items()
        }
    else:
        cohort, how = done.cohort, HOWS[1]
        used = {name: done.held_out(name) for name in done.evaluations}
    for name, reference in (references(cohort, used, engine, how) if used else {}).items():
        done.fits[name].calibrator.reference = reference.to_json()
    return done


def methods_of(names: str, options: Mapping[str, Any], seed: int) -> dict[str, AnyMethod]:
    """The methods in a comma-separated list; `options` (None: not given) go to those that take them. UsageError for a
    name or an option nothing takes.

    `seed` goes to those that draw something at random.
    """
    given = {field: value for field, value in options.items() if value is not None}
    known = {name: find(name) for name in named(names)}
    for option in given:
        if not any(found is not None and option in found.options for found in known.values()):
            takers = [name for name, one in registered().items() if option in one.options]
            raise UsageError(
                flag(option),
                found=f"{given[option]!r} beside --method {names}",
                expected=f"one of {', '.join(takers)}" if takers else "an option of the method",
                do="Leave it out, or choose a method that takes it: segcal methods --classes 5 lists the options.",
            )
    return {
        name: found(**{o: v for o, v in {**given, "seed": seed}.items() if o in found.options})
        for name, found in known.items()
        if found is not None
    }


def files_of(output: Path, names: Sequence[str]) -> dict[str, Path]:
    """The file of each method: `output` itself, or for several, or where a folder is there, one in it. Raises
    UsageError or OutputError before any work is done.
    """
    folder = len(names) > 1 or output.is_dir()
    if len(names) > 1 and output.suffix == ENDING:
        raise UsageError(
            "-o",
            found=f"the file {output} for {len(names)} methods",
            expected="a folder",
            do="Name a folder; each method gets a file in it.",
        )
    if folder and output.is_file():
        raise OutputError(
            str(output), found="a file", expected="a folder, or nothing, there", do="Choose another place with -o."
        )
    return {name: output / f"{name}{ENDING}" if folder else output for name in names}


def _kept(evaluation: Evaluation, folds: int, seed: int) -> dict[str, Any]:
    """The cross-fitted numbers that a calibrator keeps."""
    return {"folds": folds, "seed": seed, "groups": len(set(evaluation.cohort.groups)), **evaluation.kept()}
