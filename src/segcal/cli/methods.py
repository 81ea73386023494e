"""`segcal methods`: which methods there are, what they promise and how many numbers they have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from segcal.cli.common import AS_USUAL, Running
from segcal.cli.console import Output


def methods(
    *,
    classes: str = "2,5,20",
    markdown: Annotated[Path | None, Parameter(show_default=False)] = None,
    running: Running = AS_USUAL,
) -> int:
    """List the methods: what each is, what it promises, and how many parameters it has.

    Three counts, for each number of classes: optimised (as the method's paper writes it), identifiable (the rank of the
    Jacobian of the probabilities, computed here), and varied by the exact solver. Promises are read off a map of the
    family, not off its name.

        segcal methods
        segcal methods --classes 3 --json methods.json

    Parameters
    ----------
    classes
        Numbers of classes to count for, separated by commas.
    markdown
        Also write the table to this file, as Markdown.
    """
    from segcal.cli import listing
    from segcal.cli.opening import claim
    from segcal.data.files import claims

    out = Output(running.quiet, running.json)
    numbers = listing.numbers_of(classes)
    claim(running, [(markdown, claims.METHODS)])
    rows = listing.rows(numbers)
    listing.show(out, rows, numbers)
    if markdown is not None:
        listing.write(markdown, rows, numbers)
    out.json(listing.to_json(rows, numbers))
    return 0
