"""Tables as CSV: complete or absent, an empty cell where nothing is known. Bytes of a name that are no UTF-8 are
escaped. No row: an empty file.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segcal.data.files import journal


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One line a row under the names of the first row, which all others have."""
    text = io.StringIO(newline="")
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    with journal.atomic(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", errors="backslashreplace")
