"""What a benchmark leaves: a page, and the numbers it was made of in JSON beside it, each complete or as it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segcal.data.files import journal


def written(output: Path, page: str, found: Mapping[str, Any]) -> None:
    """Write both; the JSON has the page's name."""
    for path, text in ((output.with_suffix(".json"), json.dumps(found, indent=1) + "\n"), (output, page)):
        with journal.atomic(path) as aside:
            aside.write_text(text)
