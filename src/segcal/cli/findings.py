"""What is shown of findings: by `segcal check` all of them, the classes as a table, and the command to type next, with
the user's own paths; by other commands what they must say too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from segcal.cli.common import Labelled, Running
from segcal.cli.console import Output
from segcal.cli.opening import engine_of
from segcal.cli.tables import number, table
from segcal.data.cohort import Cohort
from segcal.data.formats.discover import LAYOUTS
from segcal.tasks import check as checking
from segcal.tasks.check.check import Checkup
from segcal.tasks.check.finding import Finding

STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan", "ok": "green"}


def layout_of(path: Path) -> str:
    """How the layout of `path` is called."""
    return next(layout.name for layout in LAYOUTS if layout.matches(path))


def show(out: Output, layout: str, found: Checkup) -> None:
    """All findings, worst first, then the classes."""
    out.text(f"{layout[0].upper()}{layout[1:]}")
    _tell(out, found.findings)
    if found.facts["classes"]:
        classes = table("class", "cases", "voxels", "Dice", "class-wise ECE")
        for row in found.facts["classes"]:
            name = f"{row['name']} (background)" if row["background"] else str(row["name"])
            classes.add_row(
                name, str(row["cases"]), f"{row['voxels']:,}", number(row["dice"]), number(row["classwise_ece"])
            )
        out.show(classes)


def warn(out: Output, cohort: Cohort, running: Running) -> tuple[Finding, ...]:
    """Say what every command that reads these cases must say, and return it."""
    with engine_of(running) as engine:
        found = checking.traps(cohort, engine)
    _tell(out, found)
    return found


def _tell(out: Output, found: Sequence[Finding]) -> None:
    for finding in found:
        out.text(
            f"{finding.severity:>7}  {finding.topic}: {finding.text}"
            + (f"\n         {finding.do}" if finding.do else ""),
            STYLES[finding.severity],
        )


def advised(scores: Labelled, found: Sequence[Finding]) -> Labelled:
    """The options that were given, with those that the findings advise in their place."""
    return replace(scores, **{name: value for finding in found for name, value in finding.options.items()})


def next_command(results: Sequence[Path], scores: Labelled, cohort: Cohort, found: Checkup) -> list[str] | None:
    """The words of what to type next; None where files have to be repaired first."""
    words = [str(p) for p in results]
    if not found.usable:
        return None
    if len(found.facts["unlabelled"]) == len(cohort):
        return ["segcal", "check", *words, "--labels", "LABELS", *scores.words()]
    return ["segcal", "fit", *words, *scores.words(), "--method", "ts", "-o", "cal.safetensors"]


def compare_command(results: Sequence[Path], scores: Labelled, found: Checkup) -> list[str] | None:
    """The words that fit and compare the methods worth trying; None where that is temperature scaling alone, or nothing
    can be fitted.
    """
    if not found.usable or len(found.methods) < 2:
        return None
    return [
        "segcal",
        "fit",
        *(str(p) for p in results),
        *scores.words(),
        "--method",
        ",".join(found.methods),
        "-o",
        "calibrators",
    ]
