"""What `segcal fit` does with its options: methods by name, cross-fitting where there are groups for it, files, tables,
JSON.

The cross-fitted numbers go into the calibrator, so that `segcal inspect` and whoever gets the file can see them. One
group of cases: no such numbers, and the reason is said.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segcal.cli import tables
from segcal.cli.console import Output
from segcal.cli.options import Labelled, typed
from segcal.data.cohort import Cohort
from segcal.data.padding import found_note, hidden_note
from segcal.engine.engine import Engine
from segcal.errors import OutputError, UsageError
from segcal.methods.calibrator import Calibrator
from segcal.methods.files import versions
from segcal.methods.method import AnyMethod, Fit, fit_methods
from segcal.methods.registry import find
from segcal.methods.registry import methods as registered
from segcal.study.recipe.recipe import Recipe
from segcal.tasks.check.predictions import unrecorded
from segcal.tasks.evaluate import Evaluation, crossfitted, room_to_score

ENDING = ".safetensors"


@dataclass(frozen=True, eq=False)
class Done:
    """Fits by method, their cross-fitted evaluations, and why there are none, if so."""

    cohort: Cohort
    fits: Mapping[str, Fit]
    evaluations: Mapping[str, Evaluation]
    why_not: str

    @property
    def notes(self) -> list[str]:
        """What a reader of the numbers must know."""
        data = next((f.calibrator.data for f in self.fits.values() if f.calibrator.data is not None), None)
        unknown = [f"{f.text}. {f.do}" for f in unrecorded(self.cohort, {})]
        return [*([] if data is None else hidden_note(data.records)), *found_note(self.cohort), *unknown]


def recipe_of(solver: str, trials: int | None, storage: Path | None, seed: int) -> Recipe | None:
    """What `--solver`, `--trials` and `--storage` ask for; None: the exact solver.

    UsageError for options of the recipe without it, or without Optuna.
    """
    if solver == "recipe":
        return Recipe(trials=Recipe.trials if trials is None else trials, seed=seed, storage=storage)
    for option, value in (("--trials", trials), ("--storage", storage)):
        if value is not None:
            raise UsageError(
                option,
                found=f"{value} beside the exact solver",
                expected="--solver recipe",
                do="The exact solver makes no trials: leave it out.",
            )
    return None


def methods_of(names: str, options: Mapping[str, Any], seed: int) -> dict[str, AnyMethod]:
    """The methods in a comma-separated list; `options` (None: not given) go to those that take them. UsageError for a
    name or an option nothing takes.

    `seed` goes to those that draw something at random.
    """
    given = {field: value for field, value in options.items() if value is not None}
    wanted = [name.strip() for name in names.split(",")]
    known = {name: find(name) for name in wanted}
    unknown = [name for name, found in known.items() if found is None]
    if unknown:
        raise UsageError(
            "--method",
            found=repr(unknown[0]),
            expected="one of " + ", ".join(registered()) + ", or auto alone",
            do="Separate several with commas.",
        )
    for option in given:
        if not any(found is not None and option in found.options for found in known.values()):
            takers = [name for name, named in registered().items() if option in named.options]
            raise UsageError(
                flag(option),
                found=f"{given[option]!r} beside --method {names}",
                expected=f"one of {', '.join(takers)}" if takers else "an option of the method",
                do="Leave it out, or choose a method that takes it: segcal methods lists the options.",
            )
    return {
        name: found(**{o: v for o, v in {**given, "seed": seed}.items() if o in found.options})
        for name, found in known.items()
        if found is not None
    }


def flag(option: str) -> str:
    """What a method's option is called here."""
    return f"--{option.rstrip('_').replace('_', '-')}"


def further(words: Sequence[str], flags: Mapping[str, Any]) -> dict[str, Any]:
    """What `--option NAME=VALUE` gives, by name: a number, true, false or null is one, all else is text. UsageError for
    other words, or a name that has a flag of its own.
    """
    out: dict[str, Any] = {}
    own = {flag(option) for option in flags}
    for word in words:
        name, equals, text = word.partition("=")
        field = name.strip().replace("-", "_")
        if not equals or not field or flag(field) in own or field in out:
            expected = flag(field) if flag(field) in own else "NAME=VALUE, each name once"
            raise UsageError("--option", found=repr(word), expected=expected, do="For example --option bins=16.")
        out[field] = _value(text)
    return out


def _value(text: str) -> bool | int | float | str | None:
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    return text


def files_of(output: Path, names: Sequence[str]) -> dict[str, Path]:
    """The file of each method. Raises UsageError or OutputError before any work is done."""
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


def keep_decision(cohort: Cohort, free: bool) -> bool | None:
    """What `--free-decision` means for this cohort. UsageError for a head that keeps its decision by the map alone."""
    if free and not cohort.head.can_keep_decision:
        raise UsageError(
            "--free-decision",
            found="a softmax head",
            expected="a region head",
            do="Leave it out: softmax labels are kept only where the method promises it.",
        )
    return False if free else None


def run(
    methods: Mapping[str, AnyMethod],
    cohort: Cohort,
    engine: Engine,
    *,
    crossfit: bool,
    folds: int,
    seed: int,
    keep_decision: bool | None,
) -> Done:
    """Fit all methods over shared passes and, where possible, score each case by fits that did not see its fold."""
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
        fit = fits[name]
        fit.calibrator.crossfit = {
            "folds": len(fit.folds),
            "seed": seed,
            "groups": groups,
            **evaluation.kept(),
        }
    return Done(cohort, fits, evaluations, why_not)


def save(done: Done, files: Mapping[str, Path]) -> None:
    """Write every calibrator; each file is complete or as it was."""
    for name, fit in done.fits.items():
        fit.calibrator.save(files[name])


def show(out: Output, done: Done, files: Mapping[str, Path], scores: Labelled, held_out: str = "") -> None:
    """Tables, how each fit ended, and what to type next.

    `scores`: options as the next commands carry them. `held_out`: how numbers were held out, if not by cross-fitting
    alone.
    """
    for name, fit in done.fits.items():
        solution = fit.calibrator.solution
        if solution is not None:
            out.text(
                f"{name}: {solution.status}; {solution.message}",
                "" if solution.status in ("optimal", "trained") else "yellow",
            )
    stored = [note for fit in done.fits.values() for note in notes_of(fit.calibrator)]
    for note in dict.fromkeys([*done.notes, *stored]):
        out.text(f"note: {note}", "yellow")
    if done.why_not:
        out.text(f"No cross-fitted numbers: {done.why_not}.")
    title = _title(done, held_out)
    for name, evaluation in done.evaluations.items():
        assert evaluation.verdict is not None
        out.text(f"{f'{name}: ' if len(done.evaluations) > 1 else ''}{evaluation.verdict.sentence}", "bold")
    if len(done.evaluations) == 1:
        only = next(iter(done.evaluations.values())).to_json()
        out.show(tables.before_after(only["uncalibrated"], only["calibrated"], only["differences"]), title)
        out.show(tables.verdict(only["verdict"]), "Verdict")
    elif done.evaluations:
        found = {name: e.to_json() for name, e in done.evaluations.items()}
        before = next(iter(found.values()))["uncalibrated"]
        out.show(
            tables.methods(before, {name: (e["calibrated"], e["differences"]) for name, e in found.items()}), title
        )
    changing = [name for name, fit in done.fits.items() if fit.calibrator.guarantees().preserves_argmax != "proven"]
    if changing:
        out.text(
            f"note: {', '.join(changing)} may change labels; {', '.join(keeping())} never do, and segcal apply copies a"
            " delivered label map as it is",
            "yellow",
        )
    for path in files.values():
        out.text(f"written: {path}")
    best = best_of(done)
    out.next(
        typed(
            *("segcal", "evaluate", "HELDOUT", "--labels", "LABELS", "--calibrator", files[best]),
            scores.elsewhere(labelled=True),
        ),
        typed(
            *("segcal", "apply", files[best], "NEW", "-o", "OUT", "--maps", "entropy,error"),
            scores.elsewhere(labelled=False),
        ),
    )


def keeping() -> list[str]:
    """Methods whose maps keep every label, whatever they are fitted on."""
    promised = {name: named.guarantees for name, named in registered().items()}
    return [name for name, found in promised.items() if found is not None and found.preserves_argmax == "proven"]


def best_of(done: Done) -> str:
    """The method of lowest cross-fitted NLL; without such numbers the first."""
    if not done.evaluations:
        return next(iter(done.fits))

    def nll(name: str) -> float:
        after = done.evaluations[name].calibrated
        value = None if after is None else after.block["nll"]
        return float("inf") if value is None else float(value)

    return min(done.evaluations, key=nll)


def to_json(done: Done, files: Mapping[str, Path]) -> dict[str, Any]:
    """What `fit --json` writes."""
    return {
        "cases": len(done.cohort),
        "groups": len(set(done.cohort.groups)),
        "crossfitted": not done.why_not,
        "why_not": done.why_not,
        "methods": {
            name: {"file": str(files[name]), "solution": _solution(fit.calibrator), "crossfit": fit.calibrator.crossfit}
            for name, fit in done.fits.items()
        },
        "versions": versions(),
    }


def notes_of(calibrator: Calibrator) -> tuple[str, ...]:
    """What must be known of the scores it was fitted on."""
    return () if calibrator.data is None else calibrator.data.notes


def _solution(calibrator: Calibrator) -> dict[str, Any] | None:
    return None if calibrator.solution is None else calibrator.solution.to_json()


def _title(done: Done, held_out: str) -> str:
    count = max((len(f.folds) for f in done.fits.values()), default=0)
    how = held_out or "Cross-fitted: every case scored by a fit without it and its group"
    return f"{how} ({len(done.cohort)} cases in {len(set(done.cohort.groups))} groups, {count} folds)"
