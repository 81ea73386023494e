"""Numbers of an evaluation as tables for a terminal, and as a CSV table of cases.

They are made from the JSON-safe blocks of `segcal.metrics.summary`, so that numbers just computed and numbers read from
a calibrator look the same. What is not defined is shown as '-'. Rates are fractions, as in the JSON, but for flips,
which are per cent here (definitions 16).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table

from segcal.data.files import journal
from segcal.errors import visible

NUMBERS = (
    ("nll", "NLL"),
    ("brier", "Brier"),
    ("ece", "ECE"),
    ("ece_pooled", "ECE, pooled"),
    ("classwise_ece", "class-wise ECE, pooled"),
    ("ace", "ACE, pooled"),
    ("ba_ece", "BA-ECE"),
    ("dice", "Dice"),
    ("iou", "IoU"),
    ("flip_rate", "flipped labels, %"),
)
"""Rows of the table before and after."""

SHORT = (("nll", "NLL"), ("ece", "ECE"), ("ace", "ACE"), ("dice", "Dice"), ("flip_rate", "flips %"))

PER_CENT = ("flip_rate",)
"""Numbers shown times 100."""


class Rows(Table):
    """A table in which no name can steer the terminal or end its line."""

    def add_row(self, *cells: RenderableType | None, **how: Any) -> None:
        """Cells as they are seen."""
        super().add_row(*(visible(c) if isinstance(c, str) else c for c in cells), **how)


def table(*columns: str) -> Table:
    """An empty table: the first column to the left, numbers to the right."""
    out = Rows(box=box.SIMPLE_HEAD, pad_edge=False, caption_justify="left")
    for k, name in enumerate(columns):
        out.add_column(name, justify="left" if k == 0 else "right", no_wrap=True)
    return out


def number(value: float | None, signed: bool = False) -> str:
    """Four decimals, or two digits where these would all be 0."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    short = ".4f" if abs(value) >= 5e-4 else ".1e"
    return format(value, ("+" if signed else "") + short)


def numbers(block: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows of the table before and after: segcal's own numbers, then metrics from outside that the block holds."""
    from segcal.metrics.registry import added  # torch is left out of the help

    more = [(key, f"{kind.label}, pooled" if kind.pooled else kind.label) for key, kind in added().items()]
    return [*NUMBERS, *((key, name) for key, name in more if key in block)]


def shown(key: str, value: float | None, signed: bool = False) -> str:
    """A number as it is shown under its name."""
    return number(100 * value if value is not None and key in _per_cent() else value, signed)


def _per_cent() -> list[str]:
    from segcal.metrics.registry import added  # torch is left out of the help

    return [*PER_CENT, *(key for key, kind in added().items() if kind.per_cent)]


def interval(key: str, difference: Mapping[str, Any] | None) -> str:
    """The interval of a difference, or why there is none."""
    if difference is None:
        return "-"
    if difference["low"] is None:
        return "none: one group" if difference["groups"] == 1 else "-"
    return f"{shown(key, difference['low'], True)} to {shown(key, difference['high'], True)}"


def before_after(
    before: Mapping[str, Any], after: Mapping[str, Any] | None, differences: Mapping[str, Mapping[str, Any]]
) -> Table:
    """One row a number; with `after`, its change and interval."""
    if after is None:
        out = table("", "uncalibrated")
        for key, name in numbers(before):
            out.add_row(name, shown(key, before[key]))
        return out
    level = next((f"{100 * d['level']:.0f} % interval" for d in differences.values()), "interval")
    out = table("", "before", "after", "change", level)
    out.caption = (
        "Means over cases, or pooled over all voxels; ECE has 50 bins, ACE and class-wise ECE have 15. Intervals are"
        " over groups; flips are of scored voxels."
    )
    for key, name in numbers(before):
        change = differences.get(key)
        out.add_row(
            name,
            shown(key, before[key]),
            shown(key, after[key]),
            shown(key, None if change is None else change["mean"], True),
            interval(key, change),
        )
    return out


def verdict(found: Mapping[str, Any]) -> Table:
    """Metrics by strata, each in a word with its change; where it cannot be told, the change that would be seen."""
    from segcal.metrics.statistics.verdict import METRICS, OVERALL, UNKNOWN, WHERE
    from segcal.metrics.strata import NEAR

    out = table("", *METRICS.values())
    out.collapse_padding = True
    for where in (w for w in WHERE if w in found):
        stratum = found[where]
        words, numbers = [], []
        for metric in METRICS:
            cell = stratum[metric]
            words.append(cell["verdict"])
            unknown = cell["verdict"] == UNKNOWN and cell["seen"] is not None
            numbers.append(f"needs {number(cell['seen'])}" if unknown else number(cell["change"]["mean"], True))
        share = "" if where == OVERALL else f" {100 * stratum['share']:.3g} %"
        out.add_row(where, *words)
        out.add_row(share, *numbers, end_section=True)
    out.caption = (
        "Foreground and boundary (share of voxels): where the uncalibrated scores predict foreground, or lie closer"
        f" than {NEAR:g} voxels to a predicted boundary. Better, worse: the 95 % interval over groups excludes 0."
        f" 'needs': the change that {found['groups']} such groups would show {100 * found['power']:.0f} times in 100."
    )
    return out


def methods(
    before: Mapping[str, Any], rows: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Mapping[str, Any]]]]
) -> Table:
    """One row a method (block after, differences), the uncalibrated first."""
    out = table("method", *(name for _, name in SHORT), "d NLL", "95 % interval")
    out.add_row("uncalibrated", *(shown(key, before[key]) for key, _ in SHORT), "", "")
    for name, (after, differences) in rows.items():
        change = differences["nll"]
        out.add_row(
            name, *(shown(key, after[key]) for key, _ in SHORT), number(change["mean"], True), interval("nll", change)
        )
    return out


def distances(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One row a method of a demonstration, with its distance to the truth and standard error."""
    out = table("method", *(name for _, name in SHORT), "distance", "standard error")
    for row in rows:
        out.add_row(
            row["method"],
            *(shown(key, row[key]) for key, _ in SHORT),
            f"{row['distance']:.5f}",
            f"{row['distance_se']:.5f}",
        )
    return out


def per_class(before: Mapping[str, Any], after: Mapping[str, Any] | None) -> Table:
    """One row a class."""
    columns = ["class", "cases", "voxels", "Dice", "class-wise ECE"]
    out = table(*columns, *(["after"] if after is not None else []))
    out.columns[0].no_wrap = False
    rows_after = [None] * len(before["per_class"]) if after is None else after["per_class"]
    for one, two in zip(before["per_class"], rows_after, strict=True):
        name = f"{one['name']} (background)" if one["background"] else str(one["name"])
        entries = [name, str(one["cases"]), f"{one['voxels']:,}", number(one["dice"]), number(one["classwise_ece"])]
        out.add_row(*entries, *([number(two["classwise_ece"])] if two is not None else []))
    return out


def write_cases(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The rows of `per_case` as CSV, complete or absent: case, group, in_sample, then uncalibrated.NAME and
    calibrated.NAME; an empty cell where not defined. Bytes of a name that are no UTF-8 are escaped.
    """
    flat = []
    for row in rows:
        plain = {k: v for k, v in row.items() if not isinstance(v, Mapping)}
        nested = {
            f"{stage}.{k}": v
            for stage, numbers in row.items()
            if isinstance(numbers, Mapping)
            for k, v in numbers.items()
        }
        flat.append({**plain, **nested})
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    with journal.atomic(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", errors="backslashreplace")
