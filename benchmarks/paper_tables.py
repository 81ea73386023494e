"""The paper's printed numbers through the table writer: Table 4 in its own layout, as Markdown or LaTeX.

    python -m benchmarks.paper_tables --shared ../shared                    Table 4 as Markdown
    python -m benchmarks.paper_tables --shared ../shared --latex --table 8  Table 8 as LaTeX

The numbers are read at run time from SHARED/science/paper_tables.json and are in no file of this repository.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from segcal.study.tables import latex, markdown
from segcal.study.tables.main import pipelines
from segcal.study.tables.table import Number, Table

KEYS = {
    "NLL": ("nll", 1.0),
    "DSC_pct": ("dice", 100.0),
    "ECE": ("ece", 1.0),
    "BA_ECE": ("ba_ece", 1.0),
    "ACE": ("ace", 1.0),
    "Flip_pct": ("flip_rate", 100.0),
}
"""Names and units of the file, and what a study calls them."""


def points(data: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, str], Number]:
    """Printed numbers of one data set, or triples of them, as a study's."""

    def number(value: Any, scale: float) -> Number:
        if value is None:
            return Number(math.nan)
        first, *rest = value if isinstance(value, list) else [value]
        return Number(first / scale, tuple(v / scale for v in rest))

    return {
        (pipeline, key): number(row[name], scale)
        for pipeline, row in data.items()
        for name, (key, scale) in KEYS.items()
    }


def table(paper: Mapping[str, Any], which: int) -> Table:
    """Table 4, 7 or 8 of the paper, from its own numbers."""
    name = {4: "K26_table4_main", 7: "K26_table7_cityscapes_shift", 8: "K26_table8_with_intervals"}[which]
    caption = {
        4: "Calibration results.",
        7: "Calibration on Cityscapes under covariate shift.",
        8: "Complete calibration results on the test split.",
    }[which]
    groups = {dataset: points(data) for dataset, data in paper[name].items()}
    note = "Printed in arXiv 2607.01902: 3 repeats; no seed is given."
    return pipelines(f"table{which}", caption, groups, (note,), beside=("low", "high") if which == 8 else ())


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--table", type=int, choices=(4, 7, 8), default=4)
    parser.add_argument("--latex", action="store_true")
    args = parser.parse_args()
    render: Callable[[Table], str] = latex.render if args.latex else markdown.render
    print(render(table(json.loads((args.shared / "science" / "paper_tables.json").read_text()), args.table)), end="")


if __name__ == "__main__":
    main()
