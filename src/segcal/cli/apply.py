"""`segcal apply`: write calibrated probabilities, and maps, of new cases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from segcal.cli.common import AS_USUAL, SCORES_AS_THEY_ARE, Running, Scores
from segcal.cli.console import Output


def apply(
    calibrator: Path,
    new: list[Path],
    /,
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"))],
    maps: str = "",
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
    format
        Format of the output; by default nnU-Net's layout for what nnU-Net wrote, else npz.
    resume
        Leave finished cases of an earlier, equal run alone and write the others. Digests of what is read, of the
        calibrator and of what was written decide what is finished.
    go_on
        Go on although scores were made in another way than those of the fit (a single fold against a mean of five,
        another pooling), or only one side knows how many networks they average.
    """
    from segcal.calibrators import load
    from segcal.cli import applying, findings
    from segcal.cli.opening import claim, cohort_of, engine_of

    out = Output(running.quiet, running.json)
    loaded = load(calibrator)
    cohort = cohort_of(new, scores, loaded, damaged="exclude")
    claim(running, inputs=[calibrator, *new, *scores.read()], cohort=cohort)
    job = applying.prepare(
        calibrator,
        loaded,
        cohort,
        output,
        maps,
        format,
        inputs=[*new, *scores.read()],
        overwrite=running.overwrite,
        resume=resume,
        go_on=go_on,
        zyx=scores.zyx,
    )
    told = findings.warn(out, cohort, running)
    with engine_of(running) as engine:
        done = job.run(engine)
    done.show(out)
    result = done.to_json()
    out.json({**result, "notes": [*map(str, told), *result["notes"]]})
    return done.exit_code
