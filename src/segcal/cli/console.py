"""What a command shows: results on stdout, errors on stderr, progress on a terminal only, JSON where it is asked for.

Promises: a log (stdout or stderr that is no terminal) gets results and errors, no bars and no colours, and on stderr a
line a minute of what is being done; with JSON on stdout nothing else is there. A JSON file is complete or absent, and
its first entry says that segcal wrote it. Where stdout cannot be written to (a reader that has gone, a full disk) the
work goes on, so that files are written all the same, and `Standard.failed` says why. Nothing to show: nothing is
printed.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import sys
import textwrap
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.text import Text

from segcal.errors import SegcalError, spell, visible

if TYPE_CHECKING:
    from rich.progress import TaskID

    from segcal.tasks.check.finding import Finding

LOG_WIDTH = 120
"""Columns of a log, which has no width of its own, unless COLUMNS says so."""

LEAST_WIDTH = 20
"""Columns below which nothing is set."""

STDOUT = "-"

EVERY = 60.0
"""Seconds from one line about progress in a log to the next."""

MANY = 100
"""Steps for which a time is told where nobody knows how many there will be."""

SEVERITIES = {"error": "bold red", "warning": "yellow", "note": "cyan", "ok": "green"}
"""Styles of findings."""


class Standard(io.FileIO):
    """Standard output or standard error, which may fail: what comes after that is dropped, and `failed` is the first
    reason. `closed_before`: it was closed when the process began.
    """

    def __init__(self, number: int, closed_before: bool) -> None:
        super().__init__(number, "w", closefd=False)
        self.failed: OSError | None = None
        self._closed_before = closed_before

    def write(self, data: Any) -> int:
        """Write as far as possible; everything counts as written."""
        if self.failed is None:
            try:
                if self._closed_before:
                    raise OSError(errno.EBADF, os.strerror(errno.EBADF))
                return super().write(data)
            except OSError as error:
                self.failed = error
        return len(data)


def standard_streams() -> Standard:
    """Put streams that may fail in the place of stdout and stderr; returns that under stdout."""
    while (spare := os.open(os.devnull, os.O_RDWR)) < 3:  # the number of a closed one, which no file may take
        pass
    os.close(spare)
    raw = [Standard(number, stream is None) for number, stream in ((1, sys.stdout), (2, sys.stderr))]
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(
            io.BufferedWriter(under), getattr(stream, "encoding", "utf-8"), "backslashreplace", line_buffering=True
        )
        for under, stream in zip(raw, (sys.stdout, sys.stderr), strict=True)
    )
    return raw[0]


def console(stderr: bool = False) -> Console:
    """A console that takes every text as it is."""
    stream = sys.stderr if stderr else sys.stdout
    terminal = stream.isatty()
    return Console(
        stderr=stderr,
        markup=False,
        highlight=False,
        emoji=False,
        width=None if terminal else columns(),
        force_terminal=terminal,
        no_color=not terminal or None,
    )


def columns() -> int:
    """The columns of a log: what COLUMNS says, if it is a number that a table can be set in."""
    given = os.environ.get("COLUMNS", "")
    return int(given) if given.isdecimal() and len(given) < 5 and int(given) >= LEAST_WIDTH else LOG_WIDTH


def error(text: str) -> None:
    """One message on stderr."""
    console(stderr=True).print(Text("error: ", style="bold red") + Text(escaped(text)), soft_wrap=True)


def failures(failed: Mapping[str, SegcalError], total: int, end: str) -> None:
    """Which of `total` cases failed and why, and how it ends for all of them, on stderr. None failed: nothing."""
    for case, why in failed.items():
        error(f"case {case}: {why}")
    if failed:
        error(f"{len(failed)} of {total} case(s) {end}")


def escaped(text: str) -> str:
    """What a file name may hold and a terminal must not get made visible; line ends stay."""
    return "\n".join(map(visible, text.split("\n")))


@dataclass(eq=False)
class Said:
    """What a command said for its reader, in order: sentences with their styles, notes, tables under their titles."""

    prose: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tables: list[tuple[str, RenderableType]] = field(default_factory=list)


class Output:
    """Where a command's results go: text to stdout unless `quiet`, JSON to the file `json` ('-': stdout, and then no
    text). `said`: what a page may say again.
    """

    def __init__(self, quiet: bool, json: str | None) -> None:
        self._console = console()
        self._silent = quiet or json == STDOUT
        self._json = json
        self.said = Said()

    def text(self, text: str = "", style: str = "") -> None:
        """A line or several, never wrapped, so that paths and commands can be copied."""
        if not self._silent:
            self._console.print(Text(escaped(text), style=style), soft_wrap=True)

    def prose(self, text: str, style: str = "") -> None:
        """Sentences: on a terminal wrapped between words, in a log a line that can be searched."""
        self.said.prose.append((text, style))
        self._prose(text, style)

    def _prose(self, text: str, style: str) -> None:
        if self._console.is_terminal:
            text = "\n".join(_wrapped(line, self._console.width) for line in text.split("\n"))
        self.text(text, style)

    def show(self, table: RenderableType, title: str = "") -> None:
        """A table under its title."""
        self.said.tables.append((title, table))
        if title:
            self.text(title, "bold")
        if not self._silent:
            self._console.print(table)

    def findings(self, found: Sequence[Finding]) -> None:
        """What was found out about predictions, with what to do about it; errors on stderr where nothing is printed."""
        for finding in found:
            if finding.severity != "ok":
                self.said.notes.append(f"{finding.topic}: {finding.text} {finding.do}".strip())
            if self._silent and finding.severity == "error":
                error(f"{finding.topic}: {finding.text}" + (f" {finding.do}" if finding.do else ""))
            self._prose(
                f"{finding.severity:>7}  {finding.topic}: {finding.text}"
                + (f"\n         {finding.do}" if finding.do else ""),
                SEVERITIES[finding.severity],
            )

    def notes(self, notes: Iterable[str]) -> None:
        """What a reader of the results must know."""
        for note in notes:
            self.said.notes.append(note)
            self._prose(f"note: {note}", "yellow")

    def next(self, *commands: str) -> None:
        """What to type next."""
        for command in commands:
            self.text(f"next: {command}", style="bold")

    def json(self, value: Mapping[str, Any]) -> None:
        """The result as JSON, where it was asked for. Raises OutputError if the file cannot be written."""
        if self._json is None:
            return
        from segcal import __version__

        text = json.dumps({"segcal": __version__, **value}, indent=1, allow_nan=False)
        if self._json == STDOUT:
            sys.stdout.write(text + "\n")
            return
        from segcal.data.files import journal

        with journal.atomic(self._json) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


def _wrapped(line: str, width: int) -> str:
    """A line broken between words; what follows is indented as it is. No word is broken: it may be a path."""
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


class Lines:
    """Progress of an engine in a log: what is being done and how long it will take, a line on stderr every
    `EVERY` seconds. Nothing begun yet, or all steps done: what was last begun.
    """

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._what, self._total, self._done, self._since = "preparing", 0, 0, self._begun
        self._end = threading.Event()

    def start(self, what: str, total: int) -> None:
        """What is done from now on."""
        self._what, self._total, self._done, self._since = what, total, 0, time.monotonic()

    def step(self) -> None:
        """One step."""
        self._done += 1

    def line(self, now: float) -> str:
        """What is said at a time of `time.monotonic`."""
        done, each = self._done, (now - self._since) / max(self._done, 1)
        if self._total == 0:
            left = f"{done} so far, {each:.1f} s each: {MANY} take {spell(MANY * each)}" if done else "begun"
        elif done == 0:
            left = f"0 of {self._total}"
        else:
            left = f"{done} of {self._total}, about {spell(each * (self._total - done))} left of this"
        return f"{self._what}: {left}; {spell(now - self._begun)} in all"

    @contextlib.contextmanager
    def told(self) -> Iterator[Lines]:
        """Inside, it is said."""
        teller = threading.Thread(target=self._tell, daemon=True)
        teller.start()
        try:
            yield self
        finally:
            self._end.set()
            teller.join()

    def _tell(self) -> None:
        while not self._end.wait(EVERY):
            console(stderr=True).print(Text(escaped(self.line(time.monotonic()))), soft_wrap=True)


class Bars:
    """Progress of an engine as bars."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.progress = Progress(*columns, console=console(stderr=True), transient=True)
        self._task: TaskID | None = None

    def start(self, what: str, total: int) -> None:
        """A new bar takes the place of the last."""
        if self._task is not None:
            self.progress.remove_task(self._task)
        self._task = self.progress.add_task(what, total=total or None)

    def step(self) -> None:
        """One step."""
        if self._task is not None:
            self.progress.advance(self._task)


@contextlib.contextmanager
def bars(quiet: bool) -> Iterator[Bars | Lines | None]:
    """Bars on stderr if that is a terminal, else lines; None if `quiet` is asked for."""
    if quiet:
        yield None
        return
    if not sys.stderr.isatty():
        with Lines().told() as lines:
            yield lines
        return
    shown = Bars()
    with shown.progress:
        yield shown
