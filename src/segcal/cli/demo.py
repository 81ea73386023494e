"""`segcal demo`: the whole way on a cohort whose true probabilities are known, and the commands that take it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from segcal.cli import check, page, tables
from segcal.cli.console import Output
from segcal.cli.options import AS_USUAL, Running, claim, engine_of, typed

if TYPE_CHECKING:
    from segcal.methods.calibrator import Calibrator
    from segcal.tasks.demo import DemoResult

PAGE = "page.html"
"""All of it on one page, in the folder of the demonstration."""

FOLDER = "segcal-demo"


def demo(
    *, output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None, running: Running = AS_USUAL
) -> int:
    """Try everything on made-up predictions whose true probabilities are known: about a minute, no data needed.

    Five networks' predictions are made in nnU-Net's layout, with labels drawn from a known posterior. They are checked,
    six methods are fitted on some cases and evaluated on others, and the best of those that keep every label is
    applied. The table tells how far each method is from the truth; figures, calibrators, calibrated files and
    page.html, one page of it all, stay in the folder to look at.

        segcal demo
        segcal demo -o FOLDER

    Shows the commands that do the same on your own data, and ends with the table and where the page is.

    Parameters
    ----------
    output
        A new or empty folder for all files. Default: segcal-demo, or the first of segcal-demo-2, -3, ... that is free.
    """
    from segcal.data.formats.discover import layout_of
    from segcal.tasks import check as checking
    from segcal.tasks import demo as demonstration

    out = Output(running.quiet, running.json)
    claim(running)
    folder = free(Path(FOLDER)) if output is None else output
    with engine_of(running) as engine:
        result = demonstration.run(folder, engine, echo=out.text)
        checked = checking.check(result.fitting, engine)
        best, calibrator = result.evaluations[result.best], result.fits[result.best].calibrator
        used: dict[str, Calibrator | None] = {case.id: calibrator for case in best.cohort}
        shown = page.shown(best, used, engine, name=result.best)
    out.text("\nWhat check says of the cases to fit on", "bold")
    check.show(out, layout_of(folder / "fitting" / "member0").name, checked)
    out.text("The same, typed:", "bold")
    for command in commands(folder, list(result.calibrators)):
        out.text(f"  {command}")
    for name, path in result.figures.items():
        out.text(f"figure: {path} ({name.replace('_', ' ')})")
    out.show(
        tables.distances(result.table()),
        f"{len(result.held_out)} held-out cases; distance: how far from the true probabilities, +- its standard error"
        " (Kullback-Leibler divergence, nats a voxel)",
    )
    out.prose(closing(result), "bold")
    page.write(folder / PAGE, out, "segcal demo: made-up predictions whose truth is known", (), shown)
    out.json({**result.to_json(), "check": checked.to_json()})
    return 0


def free(folder: Path) -> Path:
    """`folder`, or the first of folder-2, folder-3, ... that is not there or empty."""
    number, tried = 1, folder
    while tried.exists() and (not tried.is_dir() or any(tried.iterdir())):
        number += 1
        tried = folder.with_name(f"{folder.name}-{number}")
    return tried


ON_REAL_NETWORKS = (
    "On real networks the best that keeps every label was bts-both, a temperature by distance to the predicted border"
    " (microscopy, MRI), or with eleven classes bts-class on top of cms-ap; --method auto compares bts-both and cms-ap."
)
"""What was measured: docs/results/boundary_studies.md and boundary_studies_camvid.md."""


def closing(result: DemoResult) -> str:
    """What was chosen, and what changing labels would gain."""
    rows = {row["method"]: row for row in result.table()}
    told = f"Chosen: {result.best}, which keeps every label."
    nearest = min(rows, key=lambda name: float(rows[name]["distance"]))
    if not rows[nearest]["flip_rate"]:
        return f"{told} {ON_REAL_NETWORKS}"
    return (
        f"{told} {nearest} comes closer to the truth and changes {100 * rows[nearest]['flip_rate']:.1f} % of the"
        " labels: segcal fit --method auto --may-change-labels would take such a one."
        f" {ON_REAL_NETWORKS}"
    )


def commands(folder: Path, methods: list[str]) -> list[str]:
    """What a user types for what the demonstration did, with other places for the outputs."""

    def of(part: str) -> str:
        return f"{typed(folder / part)}/member*"

    pool, labels = "--pool logits", "--labels"
    calibrator = typed(folder / "typed" / "cal.safetensors")
    return [
        f"segcal check {of('fitting')} {labels} {typed(folder / 'fitting' / 'labelsTr')} {pool}",
        (
            f"segcal fit {of('fitting')} {labels} {typed(folder / 'fitting' / 'labelsTr')} {pool} --method auto"
            f" --among {','.join(methods)} -o {calibrator}"
        ),
        (
            f"segcal evaluate {of('heldout')} {labels} {typed(folder / 'heldout' / 'labelsTr')} --calibrator"
            f" {calibrator}"
        ),
        (
            f"segcal apply {calibrator} {of('heldout')} -o {typed(folder / 'typed' / 'calibrated')} --maps"
            " entropy,error --triage --volumes"
        ),
    ]
