"""One page of what a command found: a single HTML file that needs nothing else and asks for nothing.

Promises: no request leaves it, and its policy forbids any (scripts and styles are named by their digests, pictures lie
in the file); every text is escaped, whatever a case is called; what is not printable is made visible. It reads in dark
and light, on paper, by keyboard and by screen reader, from 320 pixels on. The same content gives the same bytes. What
there is none of, has no heading.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

import jinja2

from segcal.errors import visible


@dataclass(frozen=True)
class Table:
    """Texts by row under the texts of a header; `ends`: rows that end a section."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    ends: frozenset[int] = frozenset()


@dataclass(frozen=True, eq=False)
class Picture:
    """A PNG with what it shows, in words for who does not see it."""

    png: bytes = field(repr=False)
    alt: str
    title: str = ""

    @property
    def source(self) -> str:
        """The picture as an address."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True, eq=False)
class Frames:
    """Slices of a case, one shown at a time; `first`: which one at first. `heads`: what the panels of each are."""

    name: str
    caption: str
    heads: tuple[str, ...]
    slices: tuple[Picture, ...]
    first: int = 0


@dataclass(frozen=True, eq=False)
class Page:
    """What a page says, in this order. `lead`: the answer in a sentence or two; `facts`: names and what they are;
    `legend`: names of labels and their colours (#rrggbb).
    """

    title: str
    command: str
    lead: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    cases: tuple[Frames, ...] = ()
    cases_title: str = ""
    legend: tuple[tuple[str, str], ...] = ()
    facts: Sequence[tuple[str, str]] = ()


def render(page: Page) -> str:
    """The page as HTML."""
    style, script = (_packaged(name).strip() for name in ("page.css", "page.js"))
    return _template().render(page=page, style=style, script=script, policy=_policy(style, script)) + "\n"


def _policy(style: str, script: str) -> str:
    """What the page may do."""
    digests = [base64.b64encode(hashlib.sha256(f"\n{text}\n".encode()).digest()).decode() for text in (style, script)]
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}';"
        " base-uri 'none'; form-action 'none'"
    )


@cache
def _packaged(name: str) -> str:
    return resources.files("segcal.report").joinpath(name).read_text(encoding="utf-8")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["visible"] = visible
    return environment.from_string(_packaged("page.html"))
