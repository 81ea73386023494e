"""Pipelines: which pooled scores of an ensemble a calibrator acts on, and which method fitted it (K26 3.3), each under
the paper's own name.

    p0, pbar, zbar              the first network alone, the mean of probabilities, the mean of logits, as they are
    MS(zbar), CDC(pbar), ...    a method on one of them: log-probabilities of pbar, or logits zbar
    LTS(logS(zbar))             local temperature scaling that sees log S(zbar); LTS(zbar) sees the raw logits
    bts-class(CMSop(pbar))      a method that takes `on`, on what another one makes of pbar

`PAPER` are the nineteen of the paper's Table 4. Any other registered method goes by its own name: `cms-op(p0)`,
`iop(zbar)`. Where only probabilities are stored, "logits" are their log-probabilities (see `segcal.data.pooling`). An
unknown name: UsageError with the nearest known one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from segcal.data.cohort import Cohort
from segcal.data.pooling import Pool
from segcal.errors import UsageError
from segcal.methods.guarantees import Guarantees
from segcal.methods.method import AnyMethod
from segcal.methods.registry import find, methods


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

_FORM = re.compile(r"(?P<method>[A-Za-z][A-Za-z0-9-]*)\((?P<inside>.+)\)$")
_CANONICAL = re.compile(r"logS\((?P<view>\w+)\)$")


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
        named = find(self.method)
        assert named is not None
        known = {name.rstrip("_"): name for name in named.options}
        for option in self.options:
            if option not in known:
                raise unknown(f"methods: {self.method}", str(option), known, "an option of this method")
        return named(**{known[option]: value for option, value in self.options.items()})

    @cached_property
    def guarantees(self) -> Guarantees | None:
        """What its maps promise, read off one drawn at random; None: nothing is fitted, or not known before a fit."""
        made = None if self.method is None else self.with_options().drawn(4)
        return None if made is None else made.guarantees()

    def with_options(self, **options: Any) -> AnyMethod:
        """The method with further options."""
        made = replace(self, options={**self.options, **options}).make()
        assert made is not None
        return made

    @property
    def on(self) -> str:
        """The method it stands on; empty where it acts on the scores."""
        return str(self.options.get("on", ""))

    @property
    def file(self) -> str:
        """Its name as part of a file's name."""
        return re.sub(r"[^A-Za-z0-9@.+-]+", "_", self.name).strip("_")


def parsed(name: str) -> Pipeline | None:
    """The pipeline of that name, its methods with their defaults; None for an unknown name."""
    if name in VIEWS:
        return Pipeline(name, name)
    found = _FORM.match(name)
    if found is None:
        return None
    called, inside = found["method"], found["inside"]
    canonical = _CANONICAL.match(inside)
    below = parsed(canonical["view"] if canonical else inside)
    if below is None or (canonical and called != "LTS"):
        return None
    if called == "LTS":
        called = "lts-raw" if below.view != "pbar" and not canonical else "lts"
    named = find(_printed().get(called, called))
    if named is None or below.on or (below.method is not None and "on" not in named.options):
        return None
    return Pipeline(name, below.view, named.name, {} if below.method is None else {"on": below.method})


def pipeline(name: str, options: Mapping[str, Mapping[str, Any]] | None = None) -> Pipeline:
    """The pipeline of that name; `options` of methods, by registered name.

    UsageError for an unknown name, and for options of a method that another one stands on, which has its defaults.
    """
    found = parsed(name)
    if found is None:
        raise unknown(
            "pipelines",
            name,
            [*PAPER, *(f"{m}(zbar)" for m in methods())],
            "one of the paper's nineteen, or METHOD(p0), METHOD(pbar), METHOD(zbar)",
        )
    if found.method is None:
        return found
    given = options or {}
    if found.on and (family(found.on) in given or found.on in given):
        raise UsageError(
            "methods",
            found=f"options of {found.on}, and {name!r}, which stands on it",
            expected=f"{found.on} with its defaults under another method",
            do="Leave out one of the two.",
        )
    chosen = {**given.get(family(found.method), {}), **given.get(found.method, {})}
    return replace(found, options={**chosen, **found.options})


def family(method: str) -> str:
    """The method that a name is a variant of: `lts-raw` is `lts` on other scores, and options given to `lts` are meant
    for both, or a comparison of the two would compare their options. Its own options come before those.
    """
    named = find(method)
    return method if named is None else next(iter(named.kind.variants()))


def _printed() -> dict[str, str]:
    """The papers' names of methods, and the registered ones. LTS, which has two, is read apart."""
    return {printed: name for named in methods().values() for printed, name in named.kind.papers.items()}


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
