"""`segcal corrupt`: images as another camera or scanner might have taken them."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter, validators

from segcal.cli.console import Output, bars
from segcal.cli.options import AS_USUAL, Running, Seed, claim
from segcal.cli.tables import table
from segcal.data.files.reading import check_there
from segcal.errors import UsageError

if TYPE_CHECKING:
    from segcal.study.shift import folder, photometric


def corrupt(
    images: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"))],
    severity: Literal["mild", "strong"] | None = None,
    kind: Literal["noise", "blur", "brightness", "jpeg", "fog"] | None = None,
    artefact: Literal["bias", "motion", "ghosting", "spike"] | None = None,
    replicates: Annotated[int, Parameter(show_default=False, validator=validators.Number(lte=1_000))] = 1,
    seed: Seed = 0,
    running: Running = AS_USUAL,
) -> int:
    """Write corrupted copies of images, to see how a calibrator does where it was not fitted.

    Run the network on the copies, then evaluate the calibrator fitted on clean images, with the labels as they are.
    Pictures (PNG, TIFF, JPEG) take --severity: one of Gaussian noise, blur, brightness, JPEG and fog is chosen by each
    file's name, the same for mild and strong. NIfTI volumes take --artefact, which needs: pip install
    "segcal[torchio]".

        segcal corrupt IMAGES -o STRONG --severity strong
        segcal corrupt VOLUMES -o MOTION --artefact motion

    Names stay; JPEG files come out as PNG, and volumes as float32 in [0, 1]. OUT/corruptions.csv says what was done
    to each file and is written last; OUT/segcal.json says with what.

    Parameters
    ----------
    images
        A folder of pictures, or of NIfTI volumes.
    output
        The folder to write to; made if missing.
    severity
        How much (Table 6 of the paper): noise of .03 or .10 of white, a 5 x 5 or 13 x 13 blur, brightness times 1.2 or
        1.8, JPEG quality 60 or 10, fog .1 or .5.
    kind
        One kind of corruption for all pictures, instead of the choice by file name.
    artefact
        The MRI artefact for volumes: a smooth bias field, motion of the subject, ghosts, or a spike in k-space.
    replicates
        Random replicates of the artefact a volume; more than one go to OUT/replicate0, OUT/replicate1, ...
    seed
        Another seed chooses and draws anew.
    """
    check_there(images, "a folder of images")
    out = Output(running.quiet, running.json)
    work = work_of(severity, kind, artefact, replicates, seed)
    from segcal.study.shift import folder

    claim(running, inputs=[images, *(images.iterdir() if images.is_dir() else ())])
    with bars(running.quiet) as progress:
        rows = folder.corrupt(images, output, work, overwrite=running.overwrite, progress=progress)
    shown = table("kind", "files", "parameters")
    for (name, parameters), files in sorted(Counter((r.kind, r.parameters) for r in rows).items()):
        shown.add_row(name, str(files), parameters)
    out.show(shown, f"{len(rows)} files written to {output}")
    out.text(f"what was done to each: {output / folder.TABLE}")
    out.json({"output": str(output), "files": [asdict(r) for r in rows]})
    return 0


def work_of(
    severity: photometric.Severity | None, kind: str | None, artefact: str | None, replicates: int, seed: int
) -> folder.Work:
    """What the options ask for. UsageError where they contradict each other."""
    if (severity is None) == (artefact is None):
        found = "neither --severity nor --artefact" if severity is None else "--severity and --artefact"
        raise UsageError(
            "corrupt",
            found=found,
            expected="one of them",
            do="Pictures take --severity mild or strong, NIfTI volumes take --artefact.",
        )
    if severity is not None:
        if replicates != 1:
            raise UsageError(
                "--replicates",
                found=str(replicates),
                expected="1 for pictures",
                do="Replicates are for --artefact; use another --seed for pictures.",
            )
        from segcal.study.shift import folder

        return folder.Photometric(severity, kind, seed)
    if kind is not None:
        raise UsageError(
            "--kind", found=kind, expected="no kind with --artefact", do="Kinds are of pictures: use --severity."
        )
    from segcal.study.shift import artefacts, folder

    if replicates < 1:
        raise UsageError(
            "--replicates", found=str(replicates), expected="1 or more", do=f"The papers use {artefacts.REPLICATES}."
        )
    artefacts.require_torchio()
    return folder.Artefacts(str(artefact), replicates, seed)
