"""`--report`: what a command said, as one page; with pictures and slices of labelled cases, where it has them."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segcal import __version__
from segcal.cli.console import Output
from segcal.cli.options import typed
from segcal.cli.tables import Rows
from segcal.data.files import journal

if TYPE_CHECKING:
    from segcal.engine.engine import Engine
    from segcal.methods.calibrator import Calibrator
    from segcal.report.page import Frames, Picture
    from segcal.tasks.apply import Done
    from segcal.tasks.evaluate import Evaluation

LEAD = "bold"
"""Style of the sentences that are the answer."""


@dataclass(frozen=True, eq=False)
class Shown:
    """Pictures, and slices of cases under a title, with a legend."""

    pictures: Sequence[Picture] = ()
    cases: Sequence[Frames] = ()
    title: str = ""
    legend: Sequence[tuple[str, str]] = ()


NOTHING = Shown()


def shown(
    found: Evaluation,
    calibrators: Mapping[str, Calibrator | None],
    engine: Engine,
    *,
    name: str = "",
    zyx: bool = False,
) -> Shown:
    """Reliability, and slices of the worst cases, of what was evaluated; arguments as `segcal.tasks.figures.draw`."""
    from segcal.report import strips
    from segcal.report.page import Picture
    from segcal.tasks import figures

    with tempfile.TemporaryDirectory(prefix="segcal-") as folder:
        path = figures.reliability(Path(folder) / figures.RELIABILITY, found, name)
        drawn = Picture(
            path.read_bytes(),
            "Reliability diagrams: how often voxels are right against how sure the probabilities are, for all voxels,"
            " in the predicted foreground and at its boundary; the numbers are in the tables.",
            "Confidence against accuracy",
        )
    cases = figures.frames(found, calibrators, engine, name=name, zyx=zyx)
    head, kind = found.cohort.head, "in-sample" if found.in_sample else "held-out"
    return Shown(
        [drawn],
        cases,
        f"The {len(cases)} {kind} cases of highest NLL, of {len(found.cohort)}",
        strips.legend(head.label_names, head.background),
    )


def shown_of_new(done: Done, engine: Engine, *, zyx: bool = False) -> Shown:
    """Slices of the cases to look at first of those that a calibrator was applied to."""
    from segcal.report import strips
    from segcal.tasks import figures

    job, told = done.job, {row["case"]: _expected(row) for row in done.told.triage}
    cases = figures.frames_of_new(job.cohort, told, job.calibrator, engine, zyx=zyx)
    head = job.cohort.head
    title = f"The {len(cases)} cases to look at first, of {len(told)}"
    return Shown((), cases, title, strips.legend(head.label_names, head.background))


def _expected(row: Mapping[str, Any]) -> str:
    """What is to be expected of a case, in words."""
    if row["expected_dice"] is None:
        return "no structure is expected"
    least = "" if row["at_least"] is None else f", at least {row['at_least']:.2f}"
    return f"expected Dice {row['expected_dice']:.2f}{least}"


def drawn(folder: Path) -> Shown:
    """The figures in a folder, by name."""
    from segcal.report.page import Picture

    names = sorted(path for path in folder.glob("*.png"))
    return Shown([Picture(p.read_bytes(), f"Figure {p.stem}; its numbers are in the tables.", p.stem) for p in names])


def write(path: Path, out: Output, title: str, facts: Sequence[tuple[str, str]] = (), shown: Shown = NOTHING) -> None:
    """Write the page of what was said so far; complete or absent, and said to be there."""
    from segcal.report.page import Page, Table, render

    tables = []
    for name, table in out.said.tables:
        if isinstance(table, Rows):
            header, rows, ends = table.texts()
            caption = str(table.caption or "")
            tables.append(Table(name, tuple(header), tuple(map(tuple, rows)), caption, frozenset(ends)))
    page = Page(
        title,
        typed("segcal", *sys.argv[1:]),
        tuple(text for text, style in out.said.prose if LEAD in style),
        tuple(text for text, style in out.said.prose if LEAD not in style),
        tuple(out.said.notes),
        tuple(tables),
        tuple(shown.pictures),
        tuple(shown.cases),
        shown.title,
        tuple(shown.legend),
        (("segcal", __version__), *facts),
    )
    with journal.atomic(path) as temporary:
        temporary.write_text(render(page), encoding="utf-8", errors="backslashreplace")
    out.text(f"written: {path}")


def facts_of(calibrator: Calibrator | None) -> list[tuple[str, str]]:
    """What a calibrator is, was fitted on, and promises."""
    if calibrator is None:
        return []
    given, data, reference = calibrator.guarantees(), calibrator.data, calibrator.reference
    keeps = "yes, proven" if calibrator.keeps_label else given.preserves_argmax
    out = [("method", calibrator.method), ("keeps every label", keeps)]
    out.append(("blind to the logits' offset", given.translation_invariant))
    if data is not None:
        groups = len({record.group for record in data.records})
        out.append(("fitted on", f"{len(data.records)} cases in {groups} groups, {data.voxels:,} voxels"))
    if reference is not None:
        out.append(("thresholds set by", f"{reference['groups']} groups, {reference['how']}"))
    return out
