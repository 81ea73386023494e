"""`segcal evaluate`: numbers of held-out cases before and after calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from segcal.cli import page, tables
from segcal.cli.console import Output, failures
from segcal.cli.options import (
    AS_USUAL,
    LABELLED_AS_THEY_ARE,
    PARTLY,
    Figures,
    Labelled,
    Report,
    Running,
    all_there,
    claim,
    cohort_of,
    engine_of,
    warn,
)
from segcal.data.files import claims
from segcal.errors import UsageError

PARTS = Group("On several machines", sort_key=2)


def evaluate(
    heldout: list[Path],
    /,
    *,
    calibrator: Path | None = None,
    fitted: Literal["refuse", "exclude", "include"] = "refuse",
    go_on: Annotated[bool, Parameter(show_default=False)] = False,
    csv: Path | None = None,
    figures: Figures = None,
    report: Report = None,
    slice_axis: int | None = None,
    bins: Annotated[tuple[int, ...], Parameter(show_default=False, consume_multiple=True)] = (),
    part: Annotated[str | None, Parameter(group=PARTS)] = None,
    sums: Annotated[Path | None, Parameter(group=PARTS)] = None,
    merge: Annotated[
        tuple[Path, ...], Parameter(group=PARTS, negative="", consume_multiple=True, show_default=False)
    ] = (),
    scores: Labelled = LABELLED_AS_THEY_ARE,
    running: Running = AS_USUAL,
) -> int:
    """Score held-out cases before and after calibration, with intervals of the change.

    HELDOUT are predictions of cases that neither the network nor the calibrator has seen. Cases the calibrator was
    fitted on are recognised by their content, whatever they are called, and refused; so are other cases of their
    groups, such as another image of the same patient: cases are grouped as in the fit unless --groups says otherwise.
    Without --calibrator, the scores are evaluated as they are. A verdict says in words what is better, what is worse
    and what cannot be told from so many cases; intervals treat groups, not voxels, as independent. If files of some
    cases are damaged the others are still scored, and the exit code is 4.

        segcal evaluate HELDOUT --labels LABELS --calibrator cal.safetensors
        segcal evaluate HELDOUT --labels LABELS --csv cases.csv
        segcal evaluate HELDOUT --labels LABELS --part 1/2 --sums one.safetensors

    Parameters
    ----------
    heldout
        One folder of predictions, or several: the members of an ensemble.
    calibrator
        A file written by segcal fit.
    fitted
        Cases the calibrator was fitted on, and others of their groups: 'refuse' to go on (default), 'exclude' them, or
        'include' them as what they are, in-sample.
    go_on
        Go on although scores were made in another way than those of the fit (a single fold against a mean of five,
        another pooling), or only one side knows how many networks they average.
    csv
        Also write one row a case to this CSV file.
    slice_axis
        The axis across the slices of a volume, counted from 0 in the order of the scores, for ece_roi. Default: that
        of the widest spacing, else z.
    bins
        Also give the ECE over so many bins of confidence, or several numbers of them, beside 50; papers take 10 to 50.
    part
        Score part i of n of the cases only, on one of n machines, and write its sums: 2/5, say.
    sums
        The file that a part writes.
    merge
        The files of all parts, in any order, with otherwise the same command: the same answer as in one run, and no
        score is read again (pictures apart).
    """
    if (part is None) != (sums is None) or (part is not None and merge):
        raise UsageError(
            "--part, --sums, --merge",
            found="one without the other" if not merge else "a part beside --merge",
            expected="--part i/n with --sums FILE for each part, then --merge with all files",
            do="See segcal evaluate --help.",
        )
    all_there(running, heldout, scores, calibrator)
    from segcal.methods.files import load
    from segcal.tasks import evaluate as evaluation
    from segcal.tasks.matching import grouped_as_fitted
    from segcal.tasks.parts import Part

    out = Output(running.quiet, running.json)
    loaded = None if calibrator is None else load(calibrator)
    cohort = cohort_of(heldout, scores, loaded, damaged="exclude").labelled()
    read = [*([] if calibrator is None else [calibrator]), *heldout, *scores.read()]
    claim(running, [(csv, claims.CASES), (report, claims.PAGE), (sums, claims.SUMS)], [*read, *merge], cohort)
    if figures is not None:
        from segcal.tasks import figures as drawing  # matplotlib takes a second

        drawing.claim([figures], cohort, read, overwrite=running.overwrite)
    cohort = cohort if slice_axis is None else cohort.sliced(slice_axis)
    cohort, regrouped = grouped_as_fitted(cohort, loaded)
    out.notes(regrouped)
    told = warn(out, cohort, running)
    if part is not None and sums is not None:
        which = Part.named(part)
        with engine_of(running) as engine:
            one = evaluation.evaluate_part(
                cohort, loaded, engine, which, fitted=fitted, go_on=go_on, damaged="exclude", bins=bins
            )
        one.save(sums)
        out.notes(one.notes)
        out.text(f"Part {part}: {len(one.cases)} cases scored; written: {sums}", "bold")
        out.text(
            "When all parts are there: the same command with --merge and their files in place of --part and --sums"
        )
        out.json({"part": part, "cases": len(one.cases), "failed": {n: str(e) for n, e in one.failed.items()}})
        failures(one.failed, len(one.cases) + len(one.failed), "not scored; the sums are those of the others.")
        return PARTLY if one.failed else 0
    with engine_of(running) as engine:
        found = evaluation.evaluate(
            cohort, loaded, engine, fitted=fitted, go_on=go_on, damaged="exclude", bins=bins, merge=merge
        )
        drawn, shown = {}, page.Shown()
        used, method = {case.id: loaded for case in found.cohort}, "" if loaded is None else loaded.method
        if figures is not None:
            drawn = drawing.draw(figures, found, used, engine, name=method, zyx=scores.zyx)
        if report is not None:
            shown = page.shown(found, used, engine, name=method, zyx=scores.zyx)
    result = {**found.to_json(), "figures": {name: str(path) for name, path in drawn.items()}}
    out.notes(found.notes)
    result["notes"] = [*map(str, told), *regrouped, *result["notes"]]
    what = (
        f"In-sample: {len(found.in_sample)} of {len(found.cohort)} cases are those of the fit"
        if found.in_sample
        else f"{len(found.cohort)} cases"
    )
    if found.verdict is not None:
        out.prose(found.verdict.sentence, "bold")
    title = what + f" in {len(set(found.cohort.groups))} groups, {result['voxels']:,} voxels"
    out.show(tables.before_after(result), title)
    if found.verdict is not None:
        out.show(tables.verdict(result["verdict"]), "Verdict")
    out.show(tables.per_class(result["uncalibrated"], result["calibrated"]), "By class")
    if any(one["rank_correlation"]["mean"] is not None for one in result["triage"].values()):
        out.show(tables.ordering(result["triage"]), "Expected Dice against true Dice")
    if csv is not None:
        tables.write_cases(csv, result["per_case"])
    for path in [*([] if csv is None else [csv]), *drawn.values()]:
        out.text(f"written: {path}")
    if report is not None:
        page.write(report, out, f"Evaluation of {found.cohort.name}", page.facts_of(loaded), shown)
    out.json(result)
    failed = found.cohort.damaged
    failures(failed, len(found.cohort) + len(failed), "not scored; the numbers are those of the others.")
    return PARTLY if failed else 0
