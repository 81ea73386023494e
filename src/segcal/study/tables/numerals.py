"""Numbers as words, the same for Markdown and LaTeX: fixed decimals, brackets for what stands beside, nothing for what
does not apply.
"""

from __future__ import annotations

import math

from segcal.study.tables.table import Column, Number


def numeral(value: float, column: Column) -> str:
    """One number; NaN gives "nan". A rounded zero has no sign."""
    if math.isnan(value):
        return "nan"
    rounded = round(column.scale * value, column.decimals)
    return format(
        0.0 if rounded == 0 else rounded, f"{'+' if column.signed and rounded != 0 else ''}.{column.decimals}f"
    )


def numerals(number: Number, column: Column) -> tuple[str, str]:
    """The number, empty where it does not apply, and its brackets, empty where there are none."""
    if math.isnan(number.value):
        return "", ""
    known = [numeral(v, column) for v in number.beside]
    return numeral(number.value, column), f"[{', '.join(known)}]" if known and "nan" not in known else ""
