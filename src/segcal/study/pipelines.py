"""Pipelines: which pooled scores of an ensemble a calibrator acts on, and which method fitted it (K26 3.3), each under
the paper's own name.

    p0, pbar, zbar              the first network alone, the mean of probabilities, the mean of logits, as they are
    MS(zbar), CDC(pbar), ...    a method on one of them: log-probabilities of pbar, or logits zbar
    LTS(logS(zbar))             local temperature scaling that sees log S(zbar); LTS(zbar) sees the raw logits

`PAPER` are the nineteen of the paper's Table 4. Any other registered method goes by its own name: `cms-op(p0)`,
`iop(zbar)`. Where only probabilities are stored, "logits" are their log-probabilities (see `segcal.data.pooling`). An
unknown name: UsageError with the nearest known one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import Any

from segcal.data.cohort import Cohort
from segcal.data.pooling import Pool
from segcal.errors import UsageError
from segcal.methods import REGISTERED, TRAINED
from segcal.methods.method import AnyMethod


@dataclass(frozen=True)
class View:
    """One way of looking at an ensemble: how its members are pooled, and how many of them (None: all)."""

    name: str
    pool: Pool
    members: int | None = None

    def of(self, cohort: Cohort) -> Cohort:
        """The cohort seen this way; nothing is read."""
        cases = (
            cohort.cases
            if self.members is None
            else tuple(replace(c, scores=c.scores[: self.members]) for c in cohort.cases)
        )
        provenance = cohort.provenance if self.members is None else replace(cohort.provenance, members=self.members)
        return replace(cohort, cases=cases, pool=self.pool, provenance=provenance)


VIEWS = {v.name: v for v in (View("p0", "logits", 1), View("pbar", "probs"), View("zbar", "logits"))}
"""By the paper's names without their bars."""

NAMES = {
    "TS": "ts",
    "ETS": "ets",
    "MS": "ms",
    "MSc": "ms-c",
    "DC": "dc",
    "CDC": "cdc",
    "CMSap": "cms-ap",
    "CMSop": "cms-op",
}
"""The paper's names of methods, and the registered ones. LTS, which has two, is read apart."""

PAPER = (
    "p0",
    "pbar",
    "zbar",
    "MS(zbar)",
    "DC(zbar)",
    "MSc(zbar)",
    "LTS(zbar)",
    "LTS(logS(zbar))",
    "CDC(pbar)",
    "CMSap(pbar)",
    "CMSop(pbar)",
    "CDC(zbar)",
    "CMSap(zbar)",
    "CMSop(zbar)",
    "TS(pbar)",
    "TS(zbar)",
    "ETS(pbar)",
    "ETS(zbar)",
    "DC(pbar)",
)
"""The nineteen pipelines of the paper's Table 4, in its order."""

_FORM = re.compile(r"(?P<method>[A-Za-z-]+)\((?P<canonical>logS\()?(?P<view>\w+)\)?\)$")


@dataclass(frozen=True)
class Pipeline:
    """`name` as in tables; the `view` it acts on; the registered `method`, None for scores as they are; `options` of
    the method, by name (lambda, penalty, epochs, ...).
    """

    name: str
    view: str
    method: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def make(self) -> AnyMethod | None:
        """The method with its options; None for scores as they are.

        An option it does not have, or a value that is none for it: UsageError.
        """
        if self.method is None:
            return None
        kind = REGISTERED.get(self.method) or TRAINED[self.method]
        known = {name.rstrip("_"): name for name in signature(kind).parameters}
        for option in self.options:
            if option not in known:
                raise unknown(f"methods: {self.method}", str(option), known, "an option of this method")
        return kind(**{known[option]: value for option, value in self.options.items()})

    def with_options(self, **options: Any) -> AnyMethod:
        """The method with further options."""
        made = replace(self, options={**self.options, **options}).make()
        assert made is not None
        return made

    @property
    def file(self) -> str:
        """Its name as part of a file's name."""
        return re.sub(r"[^A-Za-z0-9@.+-]+", "_", self.name).strip("_")


def pipeline(name: str, options: Mapping[str, Mapping[str, Any]] | None = None) -> Pipeline:
    """The pipeline of that name; `options` of methods, by registered name. UsageError for an unknown name."""
    if name in VIEWS:
        return Pipeline(name, name)
    found = _FORM.match(name)
    called = found["method"] if found else ""
    canonical = bool(found and found["canonical"])
    if called == "LTS":
        method = "lts-raw" if found and found["view"] != "pbar" and not canonical else "lts"
    else:
        method = "" if canonical else NAMES.get(called, called)
    if (
        not found
        or found["view"] not in VIEWS
        or name.count("(") != name.count(")")
        or not (method in REGISTERED or method in TRAINED)
    ):
        raise unknown(
            "pipelines",
            name,
            [*PAPER, *(f"{m}(zbar)" for m in (*REGISTERED, *TRAINED))],
            "one of the paper's nineteen, or METHOD(p0), METHOD(pbar), METHOD(zbar)",
        )
    given = options or {}
    return Pipeline(name, found["view"], method, {**given.get(family(method), {}), **given.get(method, {})})


def family(method: str) -> str:
    """The method that a name is a variant of: `lts-raw` is `lts` on other scores, and options given to `lts` are meant
    for both, or a comparison of the two would compare their options. Its own options come before those.
    """
    kind = getattr(TRAINED.get(method), "func", None)
    return next((name for name, other in TRAINED.items() if getattr(other, "func", None) is kind), method)


def unknown(where: str, name: str, known: Iterable[str], expected: str) -> UsageError:
    """The error for a name nobody knows, with the nearest one that is known."""
    names, name = sorted(set(known)), name[:80]
    near = difflib.get_close_matches(name, names, 1, 0.5) or [n for n in names if n.lower() == name.lower()][:1]
    return UsageError(
        where,
        found=repr(name),
        expected=expected,
        do=f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(names)}.",
    )
