"""`segcal apply`: write calibrated probabilities, and maps, of new cases."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from segcal.cli import page, tables
from segcal.cli.console import Output, failures
from segcal.cli.options import (
    AS_USUAL,
    PARTLY,
    SCORES_AS_THEY_ARE,
    Report,
    Running,
    Scores,
    all_there,
    claim,
    cohort_of,
    engine_of,
    warn,
)
from segcal.data.files import claims

if TYPE_CHECKING:
    from segcal.tasks.apply import Done


def apply(
    calibrator: Path,
    new: list[Path],
    /,
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"))],
    maps: str = "",
    triage: Annotated[bool, Parameter(show_default=False)] = False,
    volumes: Annotated[bool, Parameter(show_default=False)] = False,
    outer: float | None = None,
    alpha: float = 0.1,
    report: Report = None,
    format: Literal["nnunet", "npz", "npy", "zarr", "nifti"] | None = None,
    resume: Annotated[bool, Parameter(show_default=False)] = False,
    go_on: Annotated[bool, Parameter(show_default=False)] = False,
    scores: Scores = SCORES_AS_THEY_ARE,
    running: Running = AS_USUAL,
) -> int:
    """Write calibrated probabilities of new cases, their label maps as delivered, and maps to look at.

    What nnU-Net wrote comes back in its layout, so that its ensembling and post-processing read on; the delivered label
    map is copied byte for byte. A case's files are complete or absent: an interrupted run goes on with --resume. If
    some cases fail the others are still written, and the exit code is 4.

        segcal apply cal.safetensors NEW -o OUT
        segcal apply cal.safetensors NEW -o OUT --maps entropy,error --resume
        segcal apply cal.safetensors NEW -o OUT --triage --volumes --outer 0.05

    Parameters
    ----------
    calibrator
        A file written by segcal fit.
    new
        One folder of predictions, or several: the members of an ensemble.
    output
        The folder to write to; made if missing.
    maps
        Maps to write beside, with commas: entropy (nats), confidence, error (probability that the delivered label is
        wrong), probability (one map a class).
    triage
        Write OUT/triage.csv, the cases to look at first on top: the Dice to be expected of each delivered label map,
        and what it exceeds for all but a share alpha of the patients; and say whether the cases look like those that
        these bounds were set by.
    volumes
        Write OUT/volumes.csv: the volume of each structure by the label map, by the probabilities, and an interval
        that holds the true one for all but a share alpha of the patients; in voxels, and in ml where known.
    outer
        Write a mask of each structure, OUT/outer_NAME, that misses at most this share of it in the mean over patients,
        such as 0.05.
    alpha
        Share of the patients for whom bounds and intervals may fail.
    format
        Format of the output; by default nnU-Net's layout for what nnU-Net wrote, else npz.
    resume
        Leave finished cases of an earlier, equal run alone and write the others. Digests of what is read, of the
        calibrator and of what was written decide what is finished.
    go_on
        Go on although scores were made in another way than those of the fit (a single fold against a mean of five,
        another pooling), or only one side knows how many networks they average.
    """
    all_there(running, new, scores, calibrator)
    from segcal.methods.files import load
    from segcal.tasks.apply import prepare
    from segcal.tasks.telling import Asked

    asked = Asked(triage, volumes, outer, alpha, listed=report is not None)
    out = Output(running.quiet, running.json)
    loaded = load(calibrator)
    cohort = cohort_of(new, scores, loaded, damaged="exclude")
    claim(running, [(report, claims.PAGE)], [calibrator, *new, *scores.read()], cohort)
    job = prepare(
        loaded,
        cohort,
        output,
        maps=[name.strip() for name in maps.split(",") if name.strip()],
        format=format,
        inputs=[*new, *scores.read()],
        file=calibrator,
        overwrite=running.overwrite,
        resume=resume,
        go_on=go_on,
        zyx=scores.zyx,
        asked=asked,
    )
    told = warn(out, cohort, running)
    with engine_of(running) as engine:
        done = job.run(engine)
        seen = page.NOTHING if report is None else page.shown_of_new(done, engine, zyx=scores.zyx)
    show(out, done)
    if report is not None:
        page.write(report, out, f"Calibrated probabilities of {cohort.name}", page.facts_of(loaded), seen)
    result = done.to_json()
    out.json({**result, "notes": [*map(str, told), *result["notes"]]})
    first = next((outcome.error for outcome in done.failed if outcome.error is not None), None)
    if first is None:
        return 0
    return PARTLY if done.skipped or len(done.failed) < len(done.outcomes) else first.exit_code


def show(out: Output, done: Done) -> None:
    """What was written on stdout, what failed on stderr."""
    n, counts = len(done.outcomes) - len(done.failed), done.counts
    if done.skipped:
        out.text(f"{len(done.skipped)} case(s) were finished before and left alone")
    if done.anew:
        out.text(f"{done.anew} case(s) were done again: what they are read from, or what was written, is not as it was")
    if n:
        out.text(
            f"{n} case(s) written to {done.job.ledger.folder}: {counts['voxels']:,} voxels, of which"
            f" {counts['padding']:,} padding, passed through unchanged"
        )
        out.text(f"labels that calibration flipped: {_share(counts['flips'], counts['decisions'], 'scored ')}")
    if done.job.with_delivered and n:
        out.text(
            "the delivered label map differs from the arg max of its scores (post-processing):"
            f" {_share(counts['delivered_differs'], counts['voxels'])}"
        )
    if done.told.triage:
        from segcal.tasks.telling import TRIAGE

        asked = done.job.asked
        where = TRIAGE if asked.triage else "a file with --triage"
        out.show(tables.triage(done.told.triage, asked.alpha, where), "Cases to look at first")
    if done.told.volumes:
        out.show(tables.volumes(done.told.volumes, done.job.asked.alpha), "Volumes")
    if done.told.drift is not None:
        out.prose(done.told.drift.sentence, "bold red" if done.told.drift.differs else "")
    for path in done.told.files:
        out.text(f"written: {path}")
    for mask in done.job.outer:
        out.text(
            f"written: {done.job.ledger.folder / mask.name}, where the probability is at least {mask.threshold:.2g}"
        )
    out.notes(done.notes)
    failures(
        {o.id: o.error for o in done.outcomes if o.error is not None},
        len(done.outcomes),
        "not written; the written ones are complete. Repair these and run again with --resume.",
    )


def _share(n: int, total: int, which: str = "") -> str:
    return f"{n:,} of {total:,} {which}voxels" + (f" ({100 * n / total:.2g} %)" if n and total else "")
