"""What the README and the docs show is run: every Python block of every page, page by page, in one namespace."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[str]:
    """Python blocks of a page, in order."""
    return BLOCK.findall(page.read_text())


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType(
        "page"
    )  # a real module: what a page defines can then be pickled, as in a file of one's own
    monkeypatch.setitem(sys.modules, "page", module)
    for code in blocks(page):
        exec(compile(code, str(page), "exec"), module.__dict__)
    assert set(module.__dict__) - {"__name__", "__builtins__"}


def test_there_is_something_to_run() -> None:
    assert sum(len(blocks(p)) for p in PAGES) >= 3


LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#\s]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    missing = [target for target in LINK.findall(page.read_text()) if not (page.parent / target).exists()]
    assert missing == []
