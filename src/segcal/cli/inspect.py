"""`segcal inspect`: what a calibrator is, what it promises, and what it was fitted on."""

from __future__ import annotations

from pathlib import Path

from segcal.cli.common import AS_USUAL, Running
from segcal.cli.console import Output


def inspect(calibrator: Path, /, *, running: Running = AS_USUAL) -> int:
    """Show what a calibrator file holds: parameters, promises, how its fit ended, its cases and cross-fitted numbers.

    Reading the file runs no code of it. The cases are known by digests of their content: nothing of the images is in
    the file.

        segcal inspect cal.safetensors
        segcal inspect cal.safetensors --json cal.json

    Parameters
    ----------
    calibrator
        A file written by segcal fit.
    """
    from segcal.cli import inspection
    from segcal.cli.opening import claim
    from segcal.methods.files import load, ours

    out = Output(running.quiet, running.json)
    claim(running, inputs=[calibrator])
    loaded = load(calibrator)
    with ours(calibrator):
        described = inspection.describe(loaded, calibrator)
        inspection.show(out, described)
    out.json(described)
    return 0
