"""`segcal check`: what is in a folder of predictions, what is missing, which traps are there, and what to type next."""

from __future__ import annotations

from pathlib import Path

from segcal.cli.common import AS_USUAL, LABELLED_AS_THEY_ARE, Labelled, Running, typed
from segcal.cli.console import Output


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
    from segcal import checking
    from segcal.cli import findings
    from segcal.cli.opening import claim, cohort_of, engine_of

    out = Output(running.quiet, running.json)
    cohort = cohort_of(results, scores, damaged="exclude")
    claim(running, inputs=[*results, *scores.read()], cohort=cohort)
    with engine_of(running) as engine:
        found = checking.check(cohort, engine)
    layout = findings.layout_of(results[0])
    findings.show(out, layout, found)
    advised = findings.advised(scores, found.findings)
    command = findings.next_command(results, advised, cohort, found)
    compare = findings.compare_command(results, advised, found)
    if command is not None:
        out.next(typed(command))
    if compare is not None:
        out.text(f"or compare methods, of which vs, ms-c and dc may change labels: {typed(compare)}")
    out.json(
        {
            "layout": layout,
            **found.to_json(),
            "next": None if command is None else typed(command),
            "compare": None if compare is None else typed(compare),
        }
    )
    return 0 if found.usable else 3
