"""Pipelines as the paper prints them: symbols, the sections of Table 4, which are not translation invariant, which keep
the decision, and the matched comparisons.

Source: K26 3.3 and Table 4; DC(zbar) is printed twice, in (b) and in (f). A pipeline that is not the paper's is shown
under its own name, in a last section.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from segcal.study.pipelines import parsed
from segcal.study.tables.table import Text

VIEWS = {
    "p0": Text("p0", "p₀", "$p_0$"),
    "pbar": Text("pbar", "p̄", r"$\bar{p}$"),
    "zbar": Text("zbar", "z̄", r"$\bar{z}$"),
}
METHODS = {"MSc": ("MS", "c"), "CMSap": ("CMS", "ap"), "CMSop": ("CMS", "op")}
"""Names with a subscript."""

SECTIONS: tuple[tuple[Text, tuple[str, ...]], ...] = (
    (Text("(a) Uncalibrated baselines"), ("p0", "pbar", "zbar")),
    (
        Text(
            "(b) Translation invariance: MS vs. MSc and DC",
            "(b) Translation invariance: MS vs. MS<sub>c</sub> and DC",
            r"(b) Translation invariance: MS vs.\ MS$_c$ and DC",
        ),
        ("MS(zbar)", "DC(zbar)", "MSc(zbar)"),
    ),
    (Text("(c) Translation invariance: LTS with logits vs. log-probabilities"), ("LTS(zbar)", "LTS(logS(zbar))")),
    (
        Text("(d) Decision preservation: CDC vs. CMS"),
        ("CDC(pbar)", "CMSap(pbar)", "CMSop(pbar)", "CDC(zbar)", "CMSap(zbar)", "CMSop(zbar)"),
    ),
    (
        Text("(e) Standard temperature-based calibrators (order-preserving, TI): TS/ETS"),
        ("TS(pbar)", "TS(zbar)", "ETS(pbar)", "ETS(zbar)"),
    ),
    (Text("(f) Standard affine calibrator (non order-preserving, TI): DC"), ("DC(pbar)", "DC(zbar)")),
)
FURTHER = Text("(g) Further pipelines")

RECIPE = " recipe"
"""What the name of a pipeline fitted by the papers' training recipe ends in."""


def is_crossed(pipeline: str) -> bool:
    """Whether the paper's cross stands behind it: it is not translation invariant. On `pbar` all are, for
    log-probabilities have no offset.
    """
    found = parsed(pipeline.removesuffix(RECIPE))
    promised = None if found is None or found.view == "pbar" else found.guarantees
    return promised is not None and promised.translation_invariant == "no"


def keeps_labels(pipeline: str) -> bool:
    """Whether it changes no label by construction, so that flips do not apply to it."""
    found = parsed(pipeline.removesuffix(RECIPE))
    if found is None or found.method is None:
        return found is not None
    return found.guarantees is not None and found.guarantees.preserves_argmax == "proven"


@dataclass(frozen=True)
class Pair:
    """A matched comparison: differences are second - first."""

    first: str
    second: str


COMPARISONS: tuple[tuple[Text, tuple[Pair, ...]], ...] = (
    (
        Text("Translation invariance"),
        (Pair("MS(zbar)", "MSc(zbar)"), Pair("MS(zbar)", "DC(zbar)"), Pair("LTS(zbar)", "LTS(logS(zbar))")),
    ),
    (
        Text("Decision preservation"),
        tuple(Pair(f"CDC({v})", f"{m}({v})") for v in ("pbar", "zbar") for m in ("CMSap", "CMSop")),
    ),
)


def comparisons(pipelines: Sequence[str]) -> list[tuple[Text, tuple[Pair, ...]]]:
    """The matched comparisons that can be made with these pipelines, and the recipe against the exact solver where both
    are there.
    """
    recipe = tuple(Pair(p, p.removesuffix(RECIPE)) for p in pipelines if p.endswith(RECIPE))
    wanted = [*COMPARISONS, (Text("The papers' recipe, then the exact solver"), recipe)]
    there = [
        (title, tuple(p for p in pairs if p.first in pipelines and p.second in pipelines)) for title, pairs in wanted
    ]
    return [(title, pairs) for title, pairs in there if pairs]


def symbol(pipeline: str) -> Text:
    """A pipeline as it is printed; one that is not built like the paper's stays as it is."""
    if pipeline.endswith(RECIPE):
        exact = symbol(pipeline.removesuffix(RECIPE))
        return Text(pipeline, exact.markdown and exact.markdown + RECIPE, exact.latex and exact.latex + RECIPE)
    if pipeline in VIEWS:
        return VIEWS[pipeline]
    found = re.fullmatch(r"([\w.+-]+)\((?:logS\((\w+)\)|(.+))\)", pipeline)
    under = None if found is None else symbol(found[2] or found[3])
    if found is None or under is None or not under.latex:
        return Text(pipeline)
    name, canonical = found[1], bool(found[2])
    base, below = METHODS.get(name, (name, ""))
    shown = f"{base}<sub>{below}</sub>" if below else base
    upright = (
        rf"\mathrm{{{base}}}_{{\mathrm{{{below}}}}}"
        if below
        else rf"\mathrm{{{base.replace('_', chr(92) + '_').replace('-', '{-}')}}}"
    )
    inner = under.latex.strip("$")
    return Text(
        pipeline,
        f"{shown}(log S({under.markdown}))" if canonical else f"{shown}({under.markdown})",
        rf"${upright}(\log S({inner}))$" if canonical else f"${upright}({inner})$",
    )


def arrow(pair: Pair) -> Text:
    """first -> second, as it is printed."""
    a, b = symbol(pair.first), symbol(pair.second)
    return Text(
        f"{pair.first} -> {pair.second}",
        f"{a.markdown or a.plain} → {b.markdown or b.plain}",
        rf"{a.latex or a.plain} $\to$ {b.latex or b.plain}",
    )
