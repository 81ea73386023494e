"""What `segcal fit --method auto` does: compare, choose, and say why, in a table and in sentences.

The calibrator keeps its cross-fitted numbers, as after any fit, and the recommendation beside them. Where nothing gains
the file written leaves every probability as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from segcal.cli import fits, tables
from segcal.cli.console import Output
from segcal.cli.options import Labelled
from segcal.data.cohort import Cohort
from segcal.engine.engine import Engine
from segcal.errors import UsageError
from segcal.methods.method import Fit
from segcal.metrics.statistics.verdict import LEAST_GROUPS
from segcal.tasks.choose import UNCALIBRATED, Recommendation, recommend

AUTO = "auto"


def only_for_auto(method: str, given: Mapping[str, bool]) -> None:
    """UsageError where an option of the choice (by name, True where given) stands beside a method that is named."""
    for option, there in given.items():
        if there and method != AUTO:
            raise UsageError(
                option,
                found=f"--method {method}",
                expected="--method auto",
                do="Leave it out: it says what auto may choose.",
            )


def not_for_auto(given: Mapping[str, bool]) -> None:
    """UsageError for an option (by name, True where given) that has no place in a comparison."""
    for option, there in given.items():
        if there:
            raise UsageError(
                option,
                found="a value beside --method auto",
                expected="nothing",
                do="Leave it out: auto compares methods at their defaults, by cross-fitting.",
            )


def run(
    cohort: Cohort,
    engine: Engine,
    *,
    among: str | None,
    may_change_labels: bool,
    invariant: bool,
    folds: int,
    seed: int,
) -> tuple[Recommendation, fits.Done]:
    """Recommend, and give the choice the form of a fit."""
    methods = None if among is None else fits.methods_of(among, {}, seed)
    found = recommend(
        cohort, engine, keep_map=not may_change_labels, invariant=invariant, methods=methods, folds=folds, seed=seed
    )
    kept = found.to_json()
    kept.pop("candidates")
    numbers = found.evaluation.kept()
    found.calibrator.crossfit = {
        "folds": found.folds,
        "seed": seed,
        "groups": len(set(cohort.groups)),
        **numbers,
        "recommendation": kept,
    }
    chosen = found.candidates[found.chosen].fit or Fit(found.calibrator, folds=((),) * found.folds)
    return found, fits.Done(cohort, {found.chosen: chosen}, {found.chosen: found.evaluation}, "")


def show(out: Output, found: Recommendation, done: fits.Done, file: Path, scores: Labelled) -> None:
    """Write the calibrator; show the comparison, the reasons and the fit."""
    files = {found.chosen: file}
    fits.save(done, files)
    out.show(comparison(found), "Methods compared, every case scored by a fit without it and its group")
    for reason in found.reasons:
        out.text(reason, "bold" if reason.startswith(("Chosen", "No gain")) else "")
    fits.show(out, done, files, scores, "Cross-fitted, the choice too: each fold scored by what the others chose")


def comparison(found: Recommendation) -> Table:
    """One row a method, the simplest first."""
    out = tables.table("method", "params", "NLL", "gain", "+-", "ECE", "Dice", "flip %", "")
    out.columns[-1].justify, out.collapse_padding = "left", True
    few = len(set(found.evaluation.cohort.groups)) < LEAST_GROUPS
    for name, c in found.candidates.items():
        block, change = c.after.block, c.evaluation.differences["nll"]
        gain = (
            ("", "")
            if name == UNCALIBRATED
            else (tables.number(-change.mean, True), tables.number(None if few else change.standard_error))
        )
        verdict = (
            "chosen"
            if name == found.chosen
            else "not allowed"
            if not c.allowed
            else "lowest NLL"
            if name == found.best
            else "as good"
            if c.ties
            else ""
        )
        numbers = (tables.shown(key, block[key]) for key in ("ece", "dice", "flip_rate"))
        shown = name if c.keeps_map else f"{name} *"
        out.add_row(shown, f"{c.parameters:,}", tables.number(c.nll), *gain, *numbers, verdict)
    out.caption = (
        "Gains are of NLL over the uncalibrated scores, paired over cases; +- is its standard error, over groups. "
        "As good: within one standard error of the best, or closer than anyone would notice. * may change labels."
    )
    return out
