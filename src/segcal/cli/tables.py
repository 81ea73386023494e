"""Numbers of an evaluation as tables for a terminal, and as a CSV table of cases.

They are made from the JSON-safe blocks of `segcal.metrics.summary`, so that numbers just computed and numbers read from
a calibrator look the same. What is not defined is shown as '-'. Rates are fractions, as in the JSON, but for flips,
which are per cent here (definitions 16).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from segcal.data.files.table import write_rows
from segcal.errors import visible

NUMBERS = (
    ("nll", "NLL"),
    ("brier", "Brier"),
    ("entropy", "mean entropy"),
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

STRATA = ("foreground", "boundary")
IN_STRATA = {"nll": "NLL", "ece": "ECE"}
"""Where else, by the prediction, and which numbers are shown there, too."""

MEANING = (
    "NLL, Brier: how wrong the stated probabilities are. ECE, ACE, BA-ECE: how far they lie from how often they are"
    " right (0.05: five points in a hundred); class-wise, for every class. Lower is better. Mean entropy: how unsure"
    " the probabilities are, what the NLL would be were they right. Dice, IoU: overlap of the"
    " label maps; higher is better. Flips: voxels whose label changes, in per cent. Means over cases, or pooled over"
    " all voxels; foreground and boundary are those of the prediction."
)
INTERVALS = "Intervals: where the change lies with 95 % confidence for such patients (groups of cases), not for voxels."
"""What the numbers are, for who has not met them."""

PER_CENT = ("flip_rate",)
"""Numbers shown times 100."""

MOST_DECIMALS = 6
"""Decimals of a column beyond which all its numbers have exponents."""

FOLDED, GAP = 14, 2
"""Columns of a terminal that a folded column of words keeps, and those between two columns."""


@dataclass(frozen=True)
class Numbers:
    """A cell of numbers (None: not defined) in the words `form`; `signed`: with their signs. All numbers of a column
    are set alike: see `Rows`.
    """

    values: tuple[float | None, ...]
    signed: bool = False
    form: str = "{}"

    def set(self, style: str) -> str:
        """The cell in a format such as '.4f'."""
        sign = "+" if self.signed else ""
        shown = ("-" if v is None else "0" if v == 0 else format(v, sign + style) for v in self.values)
        return self.form.format(*shown)


def cell(value: float | None, signed: bool = False, form: str = "{}") -> Numbers:
    """A cell of one number."""
    return Numbers((value,), signed, form)


def style(cells: Iterable[Numbers]) -> str:
    """How the numbers of a column are set, all of them: four decimals, or as many as give the smallest cell two digits
    (an interval is as large as its larger end), one where all are 100 or more; with exponents where that is more than
    `MOST_DECIMALS`.
    """
    sizes = [size for c in cells if (size := max((abs(v) for v in c.values if v is not None), default=0))]
    if sizes and min(sizes) >= 100:
        return ".1f"
    decimals = 4 if not sizes or min(sizes) >= 5e-4 else 1 - math.floor(math.log10(min(sizes)))
    return f".{decimals}f" if decimals <= MOST_DECIMALS else ".2e"


class Rows(Table):
    """A table whose digits are never cut, and in which no name can steer the terminal or end its line.

    The numbers of a column have one notation. Where it is wider than the terminal, columns of words are folded, then
    the table is set as several below one another, each with the first column.
    """

    def __init__(self) -> None:
        super().__init__(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
        self.caption_justify = "left"
        self._cells: list[tuple[str | Numbers, ...]] = []
        self._how: list[dict[str, Any]] = []

    def add_row(self, *cells: Any, **how: Any) -> None:
        """Cells as they are seen, text or `Numbers`; `how` as rich has it."""
        self._cells.append(tuple(visible(c) if isinstance(c, str) else c for c in cells))
        self._how.append(how)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table in the width there is."""
        columns = [[str(self.columns[k].header), *self._set(k)] for k in range(len(self.columns))]
        widths = [max(map(cell_len, column)) for column in columns]
        least = [
            width if shown.no_wrap else max(min(FOLDED, cell_len(w)) for text in column for w in text.split() or [""])
            for shown, column, width in zip(self.columns, columns, widths, strict=True)
        ]
        pieces: list[list[int]] = [[0]]
        for k in range(1, len(columns)):
            if len(pieces[-1]) > 1 and sum(least[c] + GAP for c in (*pieces[-1], k)) - GAP > options.max_width:
                pieces.append([0])
            pieces[-1].append(k)
        for place, piece in enumerate(pieces):
            shown = Table(box=self.box, pad_edge=False, show_edge=False, collapse_padding=True)
            room = options.max_width - sum(least[k] + GAP for k in piece) + GAP
            given = dict.fromkeys(piece, 0)
            for k in sorted(piece, key=lambda k: widths[k] - least[k]):  # what needs least is folded last
                given[k] = max(0, min(room, widths[k] - least[k]))
                room -= given[k]
            for k in piece:
                shown.add_column(
                    columns[k][0], justify=self.columns[k].justify, width=least[k] + given[k], overflow="fold"
                )
            for row, how in enumerate(self._how, 1):
                shown.add_row(*(Text(columns[k][row]) for k in piece), **how)
            yield shown
            if place < len(pieces) - 1:
                yield Text()
        if self.caption:
            yield Text(str(self.caption), style="dim")

    def texts(self) -> tuple[list[str], list[list[str]], set[int]]:
        """The header, the rows, and the numbers of those that end a section, as they are printed."""
        columns = [self._set(k) for k in range(len(self.columns))]
        ends = {k for k, how in enumerate(self._how) if how.get("end_section")}
        return [str(c.header) for c in self.columns], [list(row) for row in zip(*columns, strict=True)], ends

    def _set(self, column: int) -> list[str]:
        cells = [row[column] if column < len(row) else "" for row in self._cells]
        how = style(c for c in cells if isinstance(c, Numbers))
        return [c.set(how) if isinstance(c, Numbers) else c for c in cells]


def table(*columns: str) -> Rows:
    """An empty table: the first column to the left, numbers to the right."""
    out = Rows()
    for k, name in enumerate(columns):
        out.add_column(name, justify="left" if k == 0 else "right", no_wrap=k > 0)
    return out


def words(out: Rows, *columns: int) -> Rows:
    """The table with these columns set as words, which may be folded."""
    for k in columns:
        out.columns[k].justify, out.columns[k].no_wrap = "left", False
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
    """Rows of the table before and after, of what the block holds: segcal's own numbers, the ECE over other numbers of
    bins, metrics from outside. A calibrator of an earlier version may hold fewer.
    """
    from segcal.metrics.registry import added  # torch is left out of the help

    more = [(key, f"{kind.label}, pooled" if kind.pooled else kind.label) for key, kind in added().items()]
    bins = [(f"ece_{b}", f"ECE, {b} bins") for b in block.get("ece_by_bins") or ()]
    return [(key, name) for key, name in (*NUMBERS, *bins, *more) if key in block]


def shown(key: str, value: float | None, signed: bool = False) -> Numbers:
    """A number as it is shown under its name."""
    return cell(_scaled(key, value), signed)


def _scaled(key: str, value: float | None) -> float | None:
    from segcal.metrics.registry import added  # torch is left out of the help

    per_cent = key in PER_CENT or any(key == name and kind.per_cent for name, kind in added().items())
    return 100 * value if value is not None and per_cent else value


def interval(key: str, difference: Mapping[str, Any] | None) -> Numbers | str:
    """The interval of a difference, or why there is none."""
    if difference is None:
        return "-"
    if difference["low"] is None:
        return "none: one group" if difference["groups"] == 1 else "-"
    return Numbers((_scaled(key, difference["low"]), _scaled(key, difference["high"])), True, "{} to {}")


def before_after(found: Mapping[str, Any]) -> Rows:
    """An evaluation as JSON, one row a number; calibrated, with its change and interval, and with a verdict those of
    its strata, too.
    """
    before, after, differences = found["uncalibrated"], found["calibrated"], found["differences"]
    if after is None:
        out = table("", "uncalibrated")
        for key, name in numbers(before):
            out.add_row(name, shown(key, before[key]))
        out.caption = MEANING
        return out
    level = next((f"{100 * d['level']:.0f} % interval" for d in differences.values()), "interval")
    out = table("", "before", "after", "change", level)
    out.caption = f"{MEANING} {INTERVALS}"
    for key, name in numbers(before):
        _row(out, name, key, before[key], after[key], differences.get(key))
    for where in STRATA:
        stratum = (found.get("verdict") or {}).get(where, {})
        for key, metric in IN_STRATA.items():
            if key in stratum:
                one = stratum[key]
                _row(out, f"{metric}, {where}", key, one["before"], one["after"], one["change"])
    return out


def _row(
    out: Rows, name: str, key: str, before: float | None, after: float | None, change: Mapping[str, Any] | None
) -> None:
    mean = None if change is None else change["mean"]
    out.add_row(name, shown(key, before), shown(key, after), shown(key, mean, True), interval(key, change))


def verdict(found: Mapping[str, Any]) -> Rows:
    """Metrics by strata, each in a word with its change; where it cannot be told, the change that would be seen."""
    from segcal.metrics.statistics.verdict import METRICS, OVERALL, UNKNOWN, WHERE
    from segcal.metrics.strata import NEAR

    out = table("", *METRICS.values())
    for where in (w for w in WHERE if w in found):
        stratum = found[where]
        told, sizes = [], []
        for metric in METRICS:
            one = stratum[metric]
            told.append(one["verdict"])
            unknown = one["verdict"] == UNKNOWN and one["seen"] is not None
            sizes.append(cell(one["seen"], form="needs {}") if unknown else cell(one["change"]["mean"], True))
        share = "" if where == OVERALL else f" {100 * stratum['share']:.3g} %"
        out.add_row(where, *told)
        out.add_row(share, *sizes, end_section=True)
    out.caption = (
        "Foreground: where the scores predict anything but background; boundary: closer than"
        f" {NEAR:g} voxels to a predicted border; per cent: their share of the voxels. Better, worse: the 95 % interval"
        " of the change excludes 0. 'needs': how large a change has to be for"
        f" {found['groups']} such groups to show it {100 * found['power']:.0f} times in 100."
    )
    return out


def methods(
    before: Mapping[str, Any], rows: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Mapping[str, Any]]]]
) -> Rows:
    """One row a method (block after, differences), the uncalibrated first."""
    out = table("method", *(name for _, name in SHORT), "change of NLL", "95 % interval")
    out.add_row("uncalibrated", *(shown(key, before[key]) for key, _ in SHORT), "", "")
    for name, (after, differences) in rows.items():
        change = differences["nll"]
        out.add_row(
            name, *(shown(key, after[key]) for key, _ in SHORT), cell(change["mean"], True), interval("nll", change)
        )
    out.caption = f"{MEANING} {INTERVALS}"
    return out


def ordering(found: Mapping[str, Any]) -> Rows:
    """What an order of cases by expected Dice is worth, one column a stage."""
    out = table("", *found)
    stages = list(found.values())
    for name, key in (("rank correlation", "rank_correlation"), ("expected minus true", "expected_minus_true_dice")):
        out.add_row(name, *(cell(one[key]["mean"], True) for one in stages))
        ends = [(one[key]["low"], one[key]["high"]) for one in stages]
        out.add_row("  95 % interval", *(Numbers(e, True, "{} to {}") if e[0] is not None else "-" for e in ends))
    for name, key in (("AURC", "aurc"), ("  of the best order", "aurc_best"), ("  of no order", "aurc_random")):
        out.add_row(name, *(cell(one[key]) for one in stages))
    out.caption = (
        "Of the cases' mean Dice over structures, from probabilities alone and by the labels. AURC: mean of 1 - Dice of"
        " the cases that are kept, over all shares kept in the order of expected Dice; lower is better."
    )
    return out


MOST_CASES = 10
"""Rows of a list of cases to look at first, in print."""


def triage(rows: Sequence[Mapping[str, Any]], alpha: float, where: str) -> Rows:
    """The first rows of a list of cases to look at first; `where` the others are."""
    out = table("case", "expected Dice", f"at least ({100 * (1 - alpha):g} %)", "confidence", "entropy", "p, unlike")
    for row in rows[:MOST_CASES]:
        numbers = ("expected_dice", "at_least", "confidence", "entropy", "unlike_p")
        out.add_row(row["case"], *(cell(row[name]) for name in numbers))
    left = len(rows) - MOST_CASES
    more = f" {left} more in {where}." if left > 0 else ""
    out.caption = (
        "Expected Dice: of the delivered label map, by the probabilities, mean over its structures. Entropy: nats for"
        f" each voxel of any structure. p, unlike: how rare such a case is among the reference.{more}"
    )
    return out


def volumes(rows: Sequence[Mapping[str, Any]], alpha: float) -> Rows:
    """The first rows of a list of volumes, in ml where they are known."""
    unit = "ml" if any(row["expected_ml"] is not None for row in rows) else "voxels"
    out = words(table("case", "structure", f"label map, {unit}", "expected", f"{100 * (1 - alpha):g} % interval"), 1)
    for row in rows[:MOST_CASES]:
        low, high = (row[f"{end}_{unit}"] for end in ("low", "high"))
        interval = "-" if low is None else Numbers((low, high), form="{} to {}")
        out.add_row(
            row["case"], row["structure"], cell(row[f"label_map_{unit}"]), cell(row[f"expected_{unit}"]), interval
        )
    left = len(rows) - MOST_CASES
    out.caption = (
        "Expected: the sum of the probabilities. The interval holds the true volume for that share of the patients."
        + (f" {left} more in the file." if left > 0 else "")
    )
    return out


def distances(rows: Sequence[Mapping[str, Any]]) -> Rows:
    """One row a method of a demonstration, with its distance to the truth and standard error."""
    out = table("method", *(name for _, name in SHORT), "distance", "+-")
    for row in rows:
        numbers = (shown(key, row[key]) for key, _ in SHORT)
        out.add_row(row["method"], *numbers, cell(row["distance"]), cell(row["distance_se"]))
    out.caption = MEANING
    return out


def per_class(before: Mapping[str, Any], after: Mapping[str, Any] | None) -> Rows:
    """One row a class."""
    columns = ["class", "cases", "voxels", "Dice", "class-wise ECE"]
    out = table(*columns, *(["after"] if after is not None else []))
    rows_after = [None] * len(before["per_class"]) if after is None else after["per_class"]
    for one, two in zip(before["per_class"], rows_after, strict=True):
        name = f"{one['name']} (background)" if one["background"] else str(one["name"])
        entries = [name, str(one["cases"]), f"{one['voxels']:,}", cell(one["dice"]), cell(one["classwise_ece"])]
        out.add_row(*entries, *([cell(two["classwise_ece"])] if two is not None else []))
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
    write_rows(path, flat)
