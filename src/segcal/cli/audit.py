"""`segcal audit`: which promises of a calibrator are proven, and which are seen to hold on data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from segcal.cli import page
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
)
from segcal.cli.tables import cell, number, table, words
from segcal.data.files import claims
from segcal.errors import UsageError

BROKEN = 1

PROMISES = {
    "translation_invariant": "shifts change nothing",
    "preserves_argmax": "the label map stays",
    "preserves_order": "the ranking of classes stays",
}
CLAIMS = {"proven": "proven", "no": "not promised", "measured": "measured", None: "unknown"}
STYLES = {"broken": "bold red", "does not hold": "yellow"}


def audit(
    calibrator: Path,
    results: list[Path],
    /,
    *,
    shifts: str = "1,10,100",
    seed: Seed = 0,
    energy_maps: Path | None = None,
    figures: Figures = None,
    report: Report = None,
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
        segcal audit cal.safetensors RESULTS --labels LABELS --energy-maps MAPS --figures FIGURES

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
    all_there(running, results, scores, calibrator)
    sizes = sizes_of(shifts)
    from segcal.methods.files import load
    from segcal.tasks import audit as auditing
    from segcal.tasks.audit.energy_maps import claim_maps

    out = Output(running.quiet, running.json)
    loaded = load(calibrator)
    cohort = cohort_of(results, scores, loaded)
    claim(running, [(report, claims.PAGE)], [calibrator, *results, *scores.read()], cohort)
    if figures is not None:
        from segcal.tasks import figures as drawing  # matplotlib takes a second
        from segcal.tasks.evaluate import evaluate

        cohort = cohort.labelled()
        drawing.claim([figures], cohort, [calibrator, *results, *scores.read()], overwrite=running.overwrite)
    if energy_maps is not None:
        claim_maps(energy_maps, cohort, [*results, *scores.read()], overwrite=running.overwrite)
    with engine_of(running) as engine:
        found = auditing.audit(
            loaded, cohort, engine, shifts=sizes, seed=seed, energy_maps=energy_maps, zyx=scores.zyx, go_on=go_on
        )
        drawn, shown = {}, page.Shown()
        if figures is not None:
            scored = evaluate(cohort, loaded, engine, fitted="include", go_on=go_on)
            used = {case.id: loaded for case in scored.cohort}
            drawn = drawing.draw(figures, scored, used, engine, name=loaded.method, zyx=scores.zyx)
            if report is not None:
                shown = page.shown(scored, used, engine, name=loaded.method, zyx=scores.zyx)
    result = {**found.to_json(), "figures": {name: str(path) for name, path in drawn.items()}}
    show(out, result)
    for path in [*([] if energy_maps is None else [energy_maps]), *drawn.values()]:
        out.text(f"written: {path}")
    if report is not None:
        page.write(report, out, f"Audit of {loaded.method} on {cohort.name}", page.facts_of(loaded), shown)
    out.json(result)
    return BROKEN if found.broken else 0


def sizes_of(words: str) -> list[float]:
    """Numbers separated by commas; UsageError for anything else."""
    try:
        return [float(word) for word in words.split(",") if word.strip()]
    except ValueError as error:
        raise UsageError(
            "--shifts", found=repr(words), expected="numbers separated by commas", do="Give sizes such as 1,10,100."
        ) from error


def show(out: Output, found: Mapping[str, Any]) -> None:
    """The table, and what stands behind it."""
    roles = found["voxels"]
    left = f", {roles['padding']:,} of padding left out" if roles["padding"] else ""
    out.text(
        f"{found['subject']} on {found['cases']} cases, {sum(roles.values()) - roles['padding']:,} voxels{left}", "bold"
    )
    out.notes(found["notes"])
    promised = table("promise", "parameters", "what was seen", "verdict")
    words(promised, 0, 1, 2, 3)
    promised.caption = "A shift is a constant added to all scores of a voxel, which a softmax does not see."
    for finding in found["findings"]:
        verdict = finding["verdict"]
        promised.add_row(
            PROMISES[finding["promise"]],
            CLAIMS[finding["claimed"]],
            finding["seen"],
            verdict,
            style=STYLES.get(verdict, ""),
        )
    out.show(promised)
    _parameters(out, found)
    _shifts(out, found["shifts"])
    _preservation(out, found)
    _flips(out, found["flips"])
    low = found["saturation"]
    out.text(
        f"Saturation: {low['scores_at_floor']:,} of {low['scores']:,} scores stand for a probability at the floor,"
        f" in {low['voxels_at_floor']:,} voxels"
    )
    spread = found["free_energy_std"]
    if spread is not None:
        quartiles = " ".join(number(spread[k]) for k in ("p25", "p50", "p75"))
        out.text(
            f"Free energy: standard deviation within a case {number(spread['mean'])} on average, quartiles {quartiles},"
            f" over {spread['cases']} cases"
        )
    if found["broken"]:
        names = ", ".join(PROMISES[name] for name in found["broken"])
        out.text(
            f"A promise that is proven does not hold: {names}. This is a fault of segcal, or the file was changed:"
            " please report it.",
            "bold red",
        )


def _parameters(out: Output, found: Mapping[str, Any]) -> None:
    parameters = found["parameters"]
    for part in parameters["parts"]:
        name = f" {part['part']}" if len(parameters["parts"]) > 1 else ""
        for why in dict.fromkeys(proof["why"] for proof in part["proofs"]):
            out.text(f"Parameters{name}: {why}")
        for bound in part["at_bounds"]:
            out.text(f"At a bound{name}: {bound['name']} = {bound['value']:.4g}; {bound['meaning']}")
    if parameters["optimised"] is not None:
        out.text(
            f"Parameters in all: {parameters['optimised']}, of which {parameters['identifiable']} can be told from"
            " probabilities"
        )


def _shifts(out: Output, shifts: list[Mapping[str, Any]]) -> None:
    if not shifts:
        return
    moved = table("constants of up to", "largest change", "of a plain softmax", "mean change", "labels changed")
    for row in shifts:
        moved.add_row(
            f"{row['size']:g} a {row['unit']}",
            cell(row["largest"]),
            cell(row["plain"]),
            cell(row["mean"]),
            f"{row['labels_changed']:,}",
        )
    out.show(moved, "Constants added to all scores before pooling")


def _preservation(out: Output, found: Mapping[str, Any]) -> None:
    kept = found["preservation"]
    out.text(
        f"Ties: {kept['ties']:,} pairs of classes became equal, {kept['ties_with_winner']:,} with the winner; a plain"
        f" softmax in float32: {kept['plain_ties']:,}"
    )
    decided = ", ".join(f"{name}: {count:,}" for name, count in kept["decided"].items())
    out.text(f"Voxels by the class their scores decide for, which an expert of that class gets: {decided}")


def _flips(out: Output, flips: Mapping[str, Any]) -> None:
    if not flips["changed"]:
        return
    near = ", ".join(f"{100 * row['share']:.1f} % within {d}" for d, row in flips["near_boundary"].items())
    out.text(f"Changed labels: {flips['changed']:,}; {near} voxel(s) of a label boundary of the prediction")
    audit = flips["audit"]
    if audit is not None and audit["flipped"]:
        out.text(
            f"Against the truth: {audit['flipped']:,} of {audit['voxels']:,} scored voxels flipped"
            f" ({100 * audit['rate']:.2g} %), {audit['harmful']:,} harmful, {audit['beneficial']:,} beneficial,"
            f" {audit['neutral']:,} neutral"
        )
