"""What `segcal check` shows: findings by severity, the classes as a table, and the command to type next, with the
user's own paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segcal.cases import Cohort
from segcal.checking import Checkup
from segcal.cli.common import Labelled
from segcal.cli.console import Output
from segcal.cli.tables import number, table
from segcal.sources.discover import LAYOUTS

STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan", "ok": "green"}


def layout_of(path: Path) -> str:
    """How the layout of `path` is called."""
    return next(layout.name for layout in LAYOUTS if layout.matches(path))


def show(out: Output, layout: str, found: Checkup) -> None:
    """All findings, worst first, then the classes."""
    out.text(f"{layout[0].upper()}{layout[1:]}")
    for finding in found.findings:
        out.text(
            f"{finding.severity:>7}  {finding.topic}: {finding.text}"
            + (f"\n         {finding.do}" if finding.do else ""),
            STYLES[finding.severity],
        )
    if found.facts["classes"]:
        classes = table("class", "cases", "voxels", "Dice", "class-wise ECE")
        for row in found.facts["classes"]:
            name = f"{row['name']} (background)" if row["background"] else str(row["name"])
            classes.add_row(
                name, str(row["cases"]), f"{row['voxels']:,}", number(row["dice"]), number(row["classwise_ece"])
            )
        out.show(classes)


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
