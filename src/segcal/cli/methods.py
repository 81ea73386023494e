"""`segcal methods`: which methods there are, what they promise and how many numbers they have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from segcal.cli.console import Output
from segcal.cli.options import AS_USUAL, Running, claim
from segcal.cli.tables import table, words
from segcal.data.files import claims, journal
from segcal.errors import UsageError
from segcal.methods import BUILT_IN

if TYPE_CHECKING:
    from segcal.methods.parameterisation import ParameterCount
    from segcal.methods.parameters import Row

MOST = 32
"""With so many classes the ranks take seconds, with twice as many minutes."""

YES = {"proven": "yes", "no": "no", "measured": "measured"}


def methods(
    *,
    classes: str | None = None,
    markdown: Annotated[Path | None, Parameter(show_default=False)] = None,
    running: Running = AS_USUAL,
) -> int:
    """List the methods of segcal fit: what each is, whether it keeps every label, how many numbers it fits.

    With --classes, --markdown or --json more is said, which takes seconds: the options of each method, and three counts
    for each number of classes. Optimised is what the method's paper fits; identifiable is how many of these the
    probabilities can tell apart (the rank of their Jacobian, computed here); the last is what segcal's own exact solver
    varies. What a method promises is read off a map of its family, not off its name.

        segcal methods
        segcal methods --classes 3 --json methods.json

    Parameters
    ----------
    classes
        Numbers of classes to count for, separated by commas; 2,5,20 where a file is asked for.
    markdown
        Also write the table to this file, as Markdown.
    """
    out = Output(running.quiet, running.json)
    numbers = numbers_of("2,5,20" if classes is None else classes)
    if classes is None and markdown is None and running.json is None:
        listed(out)
        return 0
    from segcal.methods import parameters

    claim(running, [(markdown, claims.METHODS)])
    rows = parameters.table(numbers)
    show(out, rows, numbers)
    if markdown is not None:
        write(markdown, rows, numbers)
    out.json(to_json(rows, numbers))
    return 0


def listed(out: Output) -> None:
    """Every method in a line, without what its module says: no torch, no package is imported."""
    from segcal.methods.names import names  # reading the packages' names takes a moment, which help has no need of

    shown = table("method", "keeps labels", "numbers", "what it fits")
    words(shown, 1, 2, 3)
    for name in names():
        place = BUILT_IN.get(name)
        if place is None:
            shown.add_row(name, "?", "?", "a method of an installed package")
        else:
            shown.add_row(name, "yes" if place.keeps else "no", place.numbers or "a table", place.gist)
    shown.caption = (
        "Keeps labels: the class given to a voxel never changes, only its percentage. Numbers: how many are fitted"
        " for C classes; the more, the more cases that takes."
    )
    out.show(shown, "Methods for segcal fit --method")
    out.text(
        "Recommended: --method auto, which compares those that keep labels and takes the simplest as good as the best."
    )
    out.text("Their options and exact counts, which takes seconds: segcal methods --classes 5")


def numbers_of(classes: str) -> tuple[int, ...]:
    """Numbers of classes from a list with commas. UsageError for anything but numbers from 2 to 32."""
    words = [w.strip() for w in classes.split(",")]
    if not all(w.isdecimal() and len(w) < 4 and 2 <= int(w) <= MOST for w in words):
        raise UsageError(
            "--classes",
            found=repr(classes),
            expected=f"numbers from 2 to {MOST}, separated by commas",
            do="For example --classes 2,5,20.",
        )
    return tuple(dict.fromkeys(int(w) for w in words))


def show(out: Output, rows: Sequence[Row], numbers: Sequence[int]) -> None:
    """For a terminal."""
    shown = table("method", "class", "invariant", "keeps", *(f"C = {c}" for c in numbers))
    for row in rows:
        shown.add_row(row.name, row.type_name, *_promises(row), *(_counts(row.counts.get(c)) for c in numbers))
    out.show(shown, "Methods; counts are parameters optimised as published / identifiable / varied by the exact solver")
    for row in rows:
        options = [f"{o} ({told})" if told else o for o, told in row.options.items()]
        out.text(f"{row.name}: {row.what}" + (f"; options: {', '.join(options)}" if options else ""))


def to_json(rows: Sequence[Row], numbers: Sequence[int]) -> dict[str, Any]:
    """What `methods --json` writes."""
    from segcal.methods.parameterisation import RANK_TOLERANCE

    return {"classes": list(numbers), "tolerance": RANK_TOLERANCE, "methods": [row.to_json() for row in rows]}


def write(path: Path, rows: Sequence[Row], numbers: Sequence[int]) -> None:
    """The table as a page of Markdown; complete or absent."""
    from segcal.methods.parameterisation import RANK_TOLERANCE

    command = f"segcal methods --classes {','.join(map(str, numbers))} --markdown docs/results/parameters.md"
    head = ["method", "class", "translation-invariant", "keeps", *(f"C = {c}" for c in numbers)]
    lines = [
        "# Parameters of every method",
        "",
        (
            f"Written by `{command}`, from the code itself: each cell is parameters optimised as the method's paper"
            " writes it / identifiable / varied by the exact solver."
        ),
        (
            "Identifiable is the rank of the Jacobian of log-probabilities in the parameters, at a random point in"
            f" float64; singular values above {RANK_TOLERANCE:g} of the largest count."
        ),
        "Promises are read off a random member of each family.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    lines += [
        "| "
        + " | ".join([f"`{r.name}`", f"`{r.type_name}`", *_promises(r), *(_counts(r.counts.get(c)) for c in numbers)])
        + " |"
        for r in rows
    ]
    with journal.atomic(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _promises(row: Row) -> tuple[str, str]:
    if row.guarantees is None:
        return "-", "-"
    kept = (
        "order"
        if row.guarantees.preserves_order == "proven"
        else "arg max"
        if row.guarantees.preserves_argmax == "proven"
        else "neither"
    )
    return YES[row.guarantees.translation_invariant], kept


def _counts(count: ParameterCount | None) -> str:
    if count is None:
        return "-"
    return " / ".join("-" if n is None else str(n) for n in (count.optimised, count.identifiable, count.exact))
