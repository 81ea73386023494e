"""`segcal check`: what is in a folder of predictions, what is missing, which traps are there, and what to type next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segcal.cli.console import Output
from segcal.cli.fit import AUTO
from segcal.cli.options import (
    AS_USUAL,
    LABELLED_AS_THEY_ARE,
    Labelled,
    Running,
    all_there,
    claim,
    cohort_of,
    engine_of,
    typed,
)
from segcal.cli.tables import cell, table

if TYPE_CHECKING:
    from segcal.data.cohort import Cohort
    from segcal.tasks.check.check import Checkup


def check(results: list[Path], /, *, scores: Labelled = LABELLED_AS_THEY_ARE, running: Running = AS_USUAL) -> int:
    """See what is here, what is missing, which traps are present, and what to type next.

    Run this first. It reads every file once and changes nothing. RESULTS is an nnU-Net prediction folder
    (--save_probabilities), an nnU-Net results folder (fold_*/validation with --npz), or a folder of CASE.npz, .npy,
    .zarr or NIfTI scores. Ends with exit code 3 if any case cannot be used.

        segcal check RESULTS --labels LABELS
        segcal check member0 member1 member2 --labels LABELS --pool logits

    Parameters
    ----------
    results
        One folder of predictions, or several: the members of an ensemble.
    """
    all_there(running, results, scores)
    from segcal.data.formats.discover import layout_of
    from segcal.tasks import check as checking

    out = Output(running.quiet, running.json)
    cohort = cohort_of(results, scores, damaged="exclude")
    claim(running, inputs=[*results, *scores.read()], cohort=cohort)
    with engine_of(running) as engine:
        found = checking.check(cohort, engine)
    layout = layout_of(results[0]).name
    show(out, layout, found)
    advised = scores.advised(found.findings)
    command = next_command(results, advised, cohort, found)
    if command is not None:
        out.next(typed(command))
    out.json({"layout": layout, **found.to_json(), "next": None if command is None else typed(command)})
    return 0 if found.usable else 3


def show(out: Output, layout: str, found: Checkup) -> None:
    """All findings, worst first, then the classes."""
    out.text(f"{layout[0].upper()}{layout[1:]}")
    out.findings(found.findings)
    if found.facts["classes"]:
        classes = table("class", "cases", "voxels", "Dice", "class-wise ECE")
        for row in found.facts["classes"]:
            name = f"{row['name']} (background)" if row["background"] else str(row["name"])
            classes.add_row(
                name, str(row["cases"]), f"{row['voxels']:,}", cell(row["dice"]), cell(row["classwise_ece"])
            )
        out.show(classes)


def next_command(results: Sequence[Path], scores: Labelled, cohort: Cohort, found: Checkup) -> list[str] | None:
    """The words of what to type next; None where files have to be repaired first."""
    words = [str(p) for p in results]
    if not found.usable:
        return None
    if len(found.facts["unlabelled"]) == len(cohort):
        return ["segcal", "check", *words, "--labels", "LABELS", *scores.words()]
    method = AUTO if found.facts["groups"] > 1 else "ts"  # of one group nothing can be held out, and auto not chosen
    return ["segcal", "fit", *words, *scores.words(), "--method", method, "-o", "cal.safetensors"]
