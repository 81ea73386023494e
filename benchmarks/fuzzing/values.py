"""Values nobody should give: for options, for names of files and classes, for what stands in JSON, YAML and pickles."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

MARK = "<script>fuzz</script>"
"""Must never stand in a page or a drawing as it is."""
INPUT = "\\input{fuzz}"
"""Must never stand in a LaTeX table as it is."""

NAMES: tuple[str, ...] = (
    "a\x1b[31mred",
    "\x1b]0;title\x07",
    "line\nbreak",
    "carriage\rreturn",
    "tab\there",
    "bell\x07",
    "\x9b31m",
    "bidi\u202eevil\u2066",
    "line\u2028separator",
    "zero\u200bwidth",
    "\udcff\udcfe",
    "caf\udce9",
    "[red]",
    "[blink]",
    "[link=x]a[\u2215link]",
    "$x$",
    "$\\frac{$",
    "$$",
    "100%_#&~^{}",
    MARK.replace("/", "\u2215"),
    "a|b|`c`",
    "*bold* _it_",
    "=1+1",
    "a,b;c",
    '"quoted"',
    "'",
    "-o",
    "--help",
    "-1",
    " ",
    ".hidden",
    "a" * 200,
    "日本語",
    "e\u0301",
    "\U0001f600",
    "CON",
    "a.nii",
    "a.npz",
    "*",
    "?[",
    "%s%n",
    "{0.__class__}",
    "~root",
    "$HOME",
    "NaN",
    "1e5",
    "None",
)
"""For files, so without a slash or a zero byte."""

TEXTS: tuple[str, ...] = (
    *NAMES,
    "[/]",
    "[link=file:///x]a[/link]",
    MARK,
    INPUT,
    "",
    "\x00",
    "../../etc",
    "a/b",
    "\ud800",
    "x" * 100_000,
)
"""For what stands in files."""

NUMBERS: tuple[str, ...] = (
    "-1",
    "0",
    "1",
    "-0",
    "1.5",
    "-1e-300",
    "1e-320",
    "1e308",
    "1e999",
    "-1e999",
    "nan",
    "inf",
    "-inf",
    "2147483648",
    "-9223372036854775809",
    "18446744073709551616",
    "1_0",
    "0x10",
    "1e3",
    "٣",
    "²",
    "9" * 400,
    "9" * 5000,
    "1/0",
)

OPTIONS: tuple[str, ...] = (
    *NUMBERS,
    *NAMES,
    "",
    ",",
    ",,,",
    "a,,b",
    "none",
    "null",
    "True",
    "cv",
    "-",
    "--",
    "..",
    "a/../b",
    "(",
    "(a+)+$",
    "[",
    "(?P<x>",
    "\\",
    "(?:)",
    "consecutive:0",
    "consecutive:-1",
    "consecutive:" + "9" * 30,
    "consecutive:1:(",
    "source",
    "1e99GB",
    "-4GB",
    "0GB",
    "nanGB",
    "1e9999TB",
    "9" * 400 + "GB",
    "256MB",
    "1/1",
    "0/0",
    "2/1",
    "1/" + "9" * 30,
    "x" * 10_000,
)

VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    -1,
    0,
    1,
    3,
    2**31,
    -(2**63) - 1,
    10**30,
    10**400,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "1",
    [],
    {},
    [[]],
    [None],
    [0, 0, 0],
    [1, 2],
    [-1, 1e30, 3],
    [[0, 1], [0, 1], [0, 1]],
    [[5, 1], [-3, 10**12], [0, 0]],
    ["a", "a"],
    {"": None},
    {"0": 0, "1": 1},
    {"a": {"a": {"a": {}}}},
)
"""For JSON and YAML, beside TEXTS."""


def nested(depth: int) -> list[Any]:
    """A list in a list in a list ..."""
    out: list[Any] = []
    for _ in range(depth):
        out = [out]
    return out


def value(rng: np.random.Generator) -> Any:
    """Something odd for JSON, YAML or a pickle; the caller's own, to be put anywhere and changed."""
    draw = rng.random()
    if draw < 0.55:
        return copy.deepcopy(VALUES[rng.integers(len(VALUES))])
    if draw < 0.9:
        return TEXTS[rng.integers(len(TEXTS))]
    return nested(50) if draw < 0.95 else list(range(2000))


def pick(rng: np.random.Generator, of: Any) -> Any:
    """One of a sequence."""
    return of[int(rng.integers(len(of)))]
