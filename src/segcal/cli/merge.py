"""`segcal merge`: join the parts of a study that ran on several machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from segcal.cli.common import AS_USUAL, Running
from segcal.cli.console import Output


def merge(
    parts: list[Path], /, *, output: Annotated[Path, Parameter(name=["--output", "-o"])], running: Running = AS_USUAL
) -> int:
    """Join the parts of a study and make its tables and figures.

    PARTS are the folders that `segcal study --part i/n` wrote; OUTPUT may be one of them, or the one they share. Fits
    and sums are copied, nothing is computed twice, and the result is the same as that of one run.

        segcal merge PART1 PART2 PART3 -o STUDY
        segcal merge SHARED -o SHARED

    Parameters
    ----------
    parts
        Folders of all parts.
    output
        Folder of the whole study.
    """
    from segcal.cli import studying
    from segcal.cli.opening import claim, engine_of

    out = Output(running.quiet, running.json)
    claim(running, inputs=[part / "study.json" for part in parts])
    with engine_of(running) as engine:
        results = studying.merge(parts, output, engine)
    studying.show(out, results)
    return 0
