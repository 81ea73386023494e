"""`segcal fit`: fit one method or several, with numbers from cases that each fit did not see."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter, validators

from segcal.cli import page, tables
from segcal.cli.console import Output
from segcal.cli.options import (
    AS_USUAL,
    LABELLED_AS_THEY_ARE,
    Figures,
    Labelled,
    Report,
    Running,
    Seed,
    all_there,
    claim,
    cohort_of,
    engine_of,
    typed,
    warn,
)
from segcal.data.files import claims
from segcal.errors import UsageError
from segcal.methods import BUILT_IN, flag

if TYPE_CHECKING:
    from rich.table import Table

    from segcal.study.recipe.recipe import Recipe
    from segcal.tasks.choose import Recommendation
    from segcal.tasks.fit import Fitted

AUTO = "auto"

PAPERS = Group(
    "Reproducing papers",
    help="How a method is fitted, for comparison with publications. Nobody needs them for a good calibrator.",
    sort_key=4,
)

METHOD = (
    "auto, which is recommended: of those that keep every label and are solved exactly (all but iop and the lts) the"
    " simplest that is as good as the best; none, if none gains. Or one or several, with commas; ts unless given: "
    + ", ".join(f"{name} ({place.gist})" for name, place in BUILT_IN.items())
    + "; or that of an installed package. A temperature is a number by which all scores of a voxel are divided; logits"
    " are scores before they become probabilities."
)


def fit(
    results: list[Path],
    /,
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"))],
    method: Annotated[str, Parameter(help=METHOD, show_default=False)] = "ts",
    lambda_: Annotated[float | Literal["cv"] | None, Parameter(group=PAPERS, name="--lambda")] = None,
    mu: Annotated[float | None, Parameter(group=PAPERS)] = None,
    penalty: Annotated[Literal["ts", "odir"] | None, Parameter(group=PAPERS)] = None,
    gauge: Annotated[Literal["free", "pinned"] | None, Parameter(group=PAPERS)] = None,
    experts: Annotated[Literal["joint", "independent"] | None, Parameter(group=PAPERS)] = None,
    eps: Annotated[float | None, Parameter(group=PAPERS)] = None,
    solver: Annotated[Literal["exact", "recipe"], Parameter(group=PAPERS)] = "exact",
    trials: Annotated[int | None, Parameter(group=PAPERS, validator=validators.Number(lte=10_000))] = None,
    storage: Annotated[Path | None, Parameter(group=PAPERS)] = None,
    level: Annotated[Literal["voxel", "image"] | None, Parameter(group=PAPERS)] = None,
    slice_axis: Annotated[int | None, Parameter(group=PAPERS)] = None,
    learning_rate: Annotated[float | None, Parameter(group=PAPERS)] = None,
    weight_decay: Annotated[float | None, Parameter(group=PAPERS)] = None,
    epochs: Annotated[int | None, Parameter(group=PAPERS, validator=validators.Number(lte=100_000))] = None,
    patience: Annotated[int | None, Parameter(group=PAPERS)] = None,
    option: Annotated[tuple[str, ...], Parameter(group=PAPERS)] = (),
    folds: int = 5,
    seed: Seed = 0,
    no_crossfit: Annotated[bool, Parameter(show_default=False)] = False,
    set_aside: float | None = None,
    after: Path | None = None,
    figures: Figures = None,
    report: Report = None,
    free_decision: Annotated[bool, Parameter(show_default=False)] = False,
    may_change_labels: Annotated[bool, Parameter(show_default=False)] = False,
    invariant: Annotated[bool, Parameter(show_default=False)] = False,
    among: str | None = None,
    scores: Labelled = LABELLED_AS_THEY_ARE,
    running: Running = AS_USUAL,
) -> int:
    """Fit a calibrator on labelled cases that the network was not trained on, and report how it does on new ones.

    A calibrator is what corrects the probabilities. Each case is also scored by one fitted without it and the cases of
    its group (cross-fitting), so the table before and after is of cases that the correction did not see, with intervals
    over groups. The calibrator remembers its cases and how their scores were made. A calibrator that is there already
    is replaced, whole; any other file only with --overwrite. A long training (lts, selective,
    susceptibility) that was interrupted goes on where it was: run the same command again.

        segcal fit RESULTS --labels LABELS --method auto -o cal.safetensors
        segcal fit member0 member1 --labels LABELS --groups 'patient(\\d+)' --method auto -o cal.safetensors
        segcal fit SITE --labels LABELS --after cal.safetensors -o site.safetensors

    Give --groups where several cases are of one patient or sequence. Afterwards: segcal evaluate on other cases, segcal
    apply on new ones.

    Parameters
    ----------
    results
        One folder of predictions, or several: the members of an ensemble.
    output
        The file to write; with several methods a folder, one METHOD.safetensors each.
    lambda_
        Of methods with a penalty, which holds back what few cases cannot tell: its strength, a number, or 'cv'
        (default) to choose it by cases left out in turn.
    mu
        Strength of the penalty on the biases; as --lambda unless given.
    penalty
        'ts' (default) shrinks to temperature scaling, 'odir' is the penalty of the papers.
    gauge
        Of that penalty where a method has bounds: 'free' (default), as the paper states it, or 'pinned', as its
        authors' library has it.
    experts
        'joint' (default) weighs the penalty of a predicted class by how rare it is, 'independent' does not;
        of methods with a matrix for each predicted class.
    eps
        A small penalty on all numbers that makes the best ones unique (a ridge).
    solver
        'exact' (default), or 'recipe': as the papers train, by Adam, early stopping on a third of the groups and a
        search by Optuna. For comparison; slow.
    trials
        Trials of the recipe's search; 20 unless given.
    storage
        A file the recipe keeps its finished trials in: an interrupted fit, started again with the same words, goes on
        from there.
    level
        Of methods that look at neighbours: a temperature a 'voxel' (default), or one an 'image'.
    slice_axis
        Of methods that look at neighbours: the spatial axis of a volume whose slices are the planes in which they lie;
        the first, 0, unless given.
    learning_rate
        Of methods that are trained: the first learning rate of Adam.
    weight_decay
        Of methods that are trained: weight decay on all parameters; none unless given.
    epochs
        Of methods that are trained: most rounds over the data.
    patience
        Of methods that are trained: rounds over the data (epochs) that may pass without a gain before training ends.
    option
        Another option of the method, NAME=VALUE; segcal methods --classes 5 lists them.
    folds
        Into how many parts the cases are dealt for cross-fitting; groups stay whole.
    seed
        Seed of the folds, of the recipe, and of what a method draws at random.
    no_crossfit
        Leave out the cross-fitted numbers.
    set_aside
        Share of the patients (groups) that are not fitted on and only set the thresholds by which segcal apply bounds
        Dice, volumes and outer masks: 0.3, say, of a hundred. Unless given, all are fitted on, and thresholds come from
        the cross-fitted numbers, whose guarantee is weaker.
    after
        A calibrator fitted elsewhere: one temperature is fitted after it, from a few labelled cases of a new site, and
        both are written as one. The table compares it with the calibrator alone.
    free_decision
        Of networks that give each region (such as the whole tumour, and its core in it) a probability of its own: let
        it cross 0.5, which changes label maps.
    may_change_labels
        With auto: allow methods that change the segmentation map.
    invariant
        With auto: only methods whose result does not change where one number is added to all raw scores of a voxel.
    among
        With auto: compare these methods only, with commas.
    """
    all_there(running, results, scores)
    from segcal.methods.names import named  # reading the packages' names takes a moment, which help has no need of

    for words, where in ((method, "method"), (among, "among")):
        if words not in (AUTO, None):
            named(words, where)
    if solver != "recipe":
        check_exact(trials, storage)
    options: dict[str, object] = {
        "lambda_": lambda_,
        "mu": mu,
        "penalty": penalty,
        "gauge": gauge,
        "experts": experts,
        "eps": eps,
        "solver": None if solver == "exact" else solver,
        "level": level,
        "slice_axis": slice_axis,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "epochs": epochs,
        "patience": patience,
    }
    options |= further(option, options)
    choice = {"may_change_labels": may_change_labels, "invariant": invariant, "among": among is not None}
    given = {**{name: value is not None for name, value in options.items()}, "no_crossfit": no_crossfit}
    check_auto(method, choice, {**given, "free_decision": free_decision})
    if figures is not None and no_crossfit:
        raise UsageError(
            "--figures",
            found="--no-crossfit beside it",
            expected="cross-fitted numbers, which the figures show",
            do="Leave --no-crossfit out, or draw other cases with segcal evaluate --figures.",
        )
    from segcal.engine.checkpoints import Checkpoints
    from segcal.methods.files import load
    from segcal.tasks import refit as refitting
    from segcal.tasks.fit import files_of, fit_chosen, methods_of
    from segcal.tasks.fit import fit as fit_methods
    from segcal.tasks.reference import set_aside as parted

    out = Output(running.quiet, running.json)
    if solver == "recipe":
        options["solver"] = recipe_of(trials, storage, seed)
    chosen = {} if method == AUTO else methods_of(method, options, seed)
    compared = None if among is None else methods_of(among, {}, seed)
    first = None if after is None else load(after)
    if first is not None and list(chosen) != [refitting.NAME]:
        raise UsageError("--after", found=f"--method {method}", expected="no --method", do="Leave --method out.")
    files = files_of(output, list(chosen) or [AUTO])
    cohort = cohort_of(results, scores, first).labelled()
    written = [*((path, claims.CALIBRATOR) for path in files.values()), (storage, claims.TRIALS), (report, claims.PAGE)]
    claim(running, written, [*results, *scores.read(), *([] if after is None else [after])], cohort)
    if figures is not None:
        from segcal.tasks import figures as drawing  # matplotlib takes a second

        # of several methods each has a folder
        folders = {name: figures / name if len(files) > 1 else figures for name in files}
        drawing.claim(list(folders.values()), cohort, [*results, *scores.read()], overwrite=running.overwrite)
    told = warn(out, cohort, running)
    aside = None
    if set_aside is not None:
        cohort, aside = parted(cohort, set_aside, seed)
    if free_decision and not cohort.head.can_keep_decision:
        raise UsageError(
            "free_decision",
            found="a softmax head",
            expected="a region head",
            do="Leave it out: softmax labels are kept only where the method promises it.",
        )
    with engine_of(running) as engine:
        engine.checkpoints = Checkpoints(output.parent / f".{output.name}.training")
        if first is not None:
            done = refitting.refit(first, cohort, engine, seed=seed)
        elif method == AUTO:
            done = fit_chosen(
                cohort,
                engine,
                methods=compared,
                keep_map=not may_change_labels,
                invariant=invariant,
                folds=folds,
                seed=seed,
                aside=aside,
            )
            files = {done.best: files[AUTO]}
        else:
            keep = False if free_decision else None
            done = fit_methods(
                chosen,
                cohort,
                engine,
                crossfit=not no_crossfit,
                folds=folds,
                seed=seed,
                keep_decision=keep,
                aside=aside,
            )
        done.save(files)
        engine.checkpoints.clear()
        drawn: dict[str, Path] = {}
        if figures is not None:
            for name, evaluation in done.evaluations.items():
                folder = folders[AUTO if method == AUTO else name]
                new = drawing.draw(folder, evaluation, done.held_out(name), engine, name=name, zyx=scores.zyx)
                drawn |= {f"{name}.{what}" if len(folders) > 1 else what: path for what, path in new.items()}
        shown, best = page.Shown(), done.best
        if report is not None and best in done.evaluations:
            shown = page.shown(done.evaluations[best], done.held_out(best), engine, name=best, zyx=scores.zyx)
    if first is not None:
        out.prose(f"Before: what {after} makes of these cases. After: with one temperature more.")
    show(out, done, files, scores.advised(told), drawn.values())
    if report is not None:
        facts = page.facts_of(done.fits[best].calibrator)
        page.write(report, out, f"Calibration fitted on {done.cohort.name}", facts, shown)
    why = {} if done.choice is None else {"recommendation": done.choice.to_json()}
    found = {**done.to_json(files), "figures": {name: str(path) for name, path in drawn.items()}}
    out.json({**found, "notes": [*map(str, told), *done.notes], **why})
    return 0


def recipe_of(trials: int | None, storage: Path | None, seed: int) -> Recipe:
    """What `--solver recipe`, `--trials` and `--storage` ask for. UsageError without Optuna."""
    from segcal.study.recipe.recipe import Recipe

    return Recipe(trials=Recipe.trials if trials is None else trials, seed=seed, storage=storage)


def check_exact(trials: int | None, storage: Path | None) -> None:
    """UsageError for options of the recipe beside the exact solver."""
    for option, value in (("trials", trials), ("storage", storage)):
        if value is not None:
            raise UsageError(
                option,
                found=f"{value} beside the exact solver",
                expected="--solver recipe",
                do="The exact solver makes no trials: leave it out.",
            )


def further(words: Sequence[str], flags: Mapping[str, object]) -> dict[str, object]:
    """What `--option NAME=VALUE` gives, by name: a number, true, false or null is one, all else is text. UsageError for
    other words, or a name that has a flag of its own.
    """
    out: dict[str, object] = {}
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


def check_auto(method: str, choice: Mapping[str, bool], given: Mapping[str, bool]) -> None:
    """UsageError where an option of the `choice` (True where given) stands beside a method that is named, or another
    one that is `given` has no place in a comparison.
    """
    for option, there in choice.items():
        if there and method != AUTO:
            raise UsageError(
                option,
                found=f"--method {method}",
                expected="--method auto",
                do="Leave it out: it says what auto may choose.",
            )
    for option, there in given.items():
        if there and method == AUTO:
            raise UsageError(
                option,
                found="a value beside --method auto",
                expected="nothing",
                do="Leave it out: auto compares methods at their defaults, by cross-fitting.",
            )


def show(out: Output, done: Fitted, files: Mapping[str, Path], scores: Labelled, drawn: Collection[Path] = ()) -> None:
    """What was compared and why one was chosen, how each fit ended, tables, and what to type next.

    `scores`: options as the next commands carry them; `drawn`: figures that were written.
    """
    if done.cohort.provenance.of_all_folds:  # the mean of all of them is what will be used
        scores = replace(scores, networks=done.cohort.provenance.validated)
    how = "Cross-fitted: every case scored by a fit without it and its group"
    if done.choice is not None:
        how = "Cross-fitted, the choice too: each fold scored by what the others chose"
        out.show(comparison(done.choice), "Methods compared, every case scored by a fit without it and its group")
        for reason in done.choice.reasons:
            out.prose(reason, "bold" if reason.startswith(("Chosen", "No gain")) else "")
    for name, fit in done.fits.items():
        solution = fit.calibrator.solution
        if solution is not None:
            out.prose(
                f"{name}: {solution.status}; {solution.message}",
                "" if solution.status in ("optimal", "trained") else "yellow",
            )
    data = [fit.calibrator.data for fit in done.fits.values() if fit.calibrator.data is not None]
    out.notes(dict.fromkeys([*done.notes, *(note for one in data for note in one.notes)]))
    if done.why_not:
        out.text(f"No cross-fitted numbers: {done.why_not}.")
    count = max((len(fit.folds) for fit in done.fits.values()), default=0)
    title = f"{how} ({len(done.cohort)} cases in {len(set(done.cohort.groups))} groups, {count} folds)"
    for name, evaluation in done.evaluations.items():
        assert evaluation.verdict is not None
        out.prose(f"{f'{name}: ' if len(done.evaluations) > 1 else ''}{evaluation.verdict.sentence}", "bold")
    if len(done.evaluations) == 1:
        only = next(iter(done.evaluations.values())).to_json()
        out.show(tables.before_after(only), title)
        out.show(tables.verdict(only["verdict"]), "Verdict")
    elif done.evaluations:
        found = {name: e.to_json() for name, e in done.evaluations.items()}
        before = next(iter(found.values()))["uncalibrated"]
        out.show(
            tables.methods(before, {name: (e["calibrated"], e["differences"]) for name, e in found.items()}), title
        )
    changing = [name for name, fit in done.fits.items() if fit.calibrator.guarantees().preserves_argmax != "proven"]
    if changing:
        out.notes(
            [
                f"{', '.join(changing)} may change labels; {', '.join(keeping())} never do, and segcal apply copies a"
                " delivered label map as it is"
            ]
        )
    for path in (*files.values(), *drawn):
        out.text(f"written: {path}")
    out.next(
        typed(
            *("segcal", "evaluate", "HELDOUT", "--labels", "LABELS", "--calibrator", files[done.best]),
            scores.elsewhere(labelled=True),
        ),
        typed(
            *("segcal", "apply", files[done.best], "NEW", "-o", "OUT", "--maps", "entropy,error"),
            scores.elsewhere(labelled=False),
        ),
    )


def keeping() -> list[str]:
    """Methods whose maps keep every label, whatever they are fitted on."""
    from segcal.methods.registry import methods

    promised = {name: named.guarantees for name, named in methods().items()}
    return [name for name, found in promised.items() if found is not None and found.preserves_argmax == "proven"]


def comparison(found: Recommendation) -> Table:
    """One row a method, the simplest first."""
    from segcal.metrics.statistics.verdict import LEAST_GROUPS
    from segcal.tasks.choose import UNCALIBRATED

    out = tables.table("method", "size", "NLL", "gain", "+-", "ECE", "Dice", "flip %", "")
    out.columns[8].justify = "left"
    few = len(set(found.evaluation.cohort.groups)) < LEAST_GROUPS
    for name, c in found.candidates.items():
        block, change = c.after.block, c.evaluation.differences["nll"]
        gain = (
            ("", "")
            if name == UNCALIBRATED
            else (tables.cell(-change.mean), tables.cell(None if few else change.standard_error))
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
        out.add_row(shown, f"{c.parameters:,}", tables.cell(c.nll), *gain, *numbers, verdict)
    out.caption = (
        "Size: how many numbers are fitted. Gains are of NLL over the uncalibrated scores, paired over cases; +- is its"
        " standard error, over groups. As good: within one standard error of the best, or closer than anyone would"
        " notice. * may change labels."
    )
    return out
