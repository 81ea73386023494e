"""`segcal audit`: which promises of a calibrator are proven, and which are seen to hold on data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from segcal.cli.common import AS_USUAL, LABELLED_AS_THEY_ARE, Labelled, Running, Seed
from segcal.cli.console import Output

BROKEN = 1


def audit(
    calibrator: Path,
    results: list[Path],
    /,
    *,
    shifts: str = "1,10,100",
    seed: Seed = 0,
    energy_maps: Path | None = None,
    go_on: Annotated[bool, Parameter(show_default=False)] = False,
    scores: Labelled = LABELLED_AS_THEY_ARE,
    running: Running = AS_USUAL,
) -> int:
    """Say which promises of a calibrator hold: proven from its parameters, and measured on data.

    Three promises: the label map stays as it is, the ranking of classes stays, and a constant added to all scores of a
    voxel changes nothing. A promise that was never made and does not hold is a property of the method, and the exit
    code is 0. A promise that is proven and yet seen not to hold is a fault, and the exit code is 1. With --labels,
    changed labels are also compared with the truth.

        segcal audit cal.safetensors RESULTS
        segcal audit cal.safetensors RESULTS --labels LABELS --energy-maps MAPS

    Parameters
    ----------
    calibrator
        A file written by segcal fit.
    results
        One folder of predictions, or several: the members of an ensemble.
    shifts
        Sizes of the constants added to all scores of a voxel, or of a member, before pooling; with commas.
    seed
        Which random constants are drawn.
    energy_maps
        A folder for one image of the free energy a case: PNG for pictures, NIfTI for volumes.
    go_on
        Go on although scores were made in another way than those of the fit (a single fold against a mean of five,
        another pooling), or only one side knows how many networks they average.
    """
    from segcal.cli import promises
    from segcal.cli.opening import claim, cohort_of, engine_of
    from segcal.methods.files import load
    from segcal.tasks import audit as auditing
    from segcal.tasks.audit.energy_maps import claim_maps

    out = Output(running.quiet, running.json)
    loaded = load(calibrator)
    cohort = cohort_of(results, scores, loaded)
    sizes = promises.sizes_of(shifts)
    claim(running, inputs=[calibrator, *results, *scores.read()], cohort=cohort)
    if energy_maps is not None:
        claim_maps(energy_maps, cohort, [*results, *scores.read()], overwrite=running.overwrite)
    with engine_of(running) as engine:
        found = auditing.audit(
            loaded, cohort, engine, shifts=sizes, seed=seed, energy_maps=energy_maps, zyx=scores.zyx, go_on=go_on
        )
    result = found.to_json()
    promises.show(out, result)
    if energy_maps is not None:
        out.text(f"written: {energy_maps}")
    out.json(result)
    return BROKEN if found.broken else 0
