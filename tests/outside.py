"""A package outside segcal, as the docs show one: installed for a test, its method and its kind of map forgotten
afterwards.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from segcal.methods import maps, registry
from segcal.metrics import registry as metrics

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "extend.md"
MODULE = "bias_corrected"


def shown(word: str) -> str:
    """The Python block of the page that holds a word."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return next(block for block in blocks if word in block)


@dataclass(frozen=True)
class Outside:
    """What is installed at `root`, on the path."""

    root: Path

    def write(self, code: str) -> None:
        """The package's module."""
        self.forget()
        (self.root / f"{MODULE}.py").write_text(code, encoding="utf-8")
        importlib.invalidate_caches()

    def entry(self, line: str) -> None:
        """What it names as a method."""
        info = self.root / "bias_corrected-1.0.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bias-corrected\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[segcal.methods]\n{line}\n")
        importlib.invalidate_caches()
        registry.packaged.cache_clear()

    def forget(self) -> None:
        """As in a new process."""
        registry.REGISTERED.clear()
        registry.packaged.cache_clear()
        sys.modules.pop(MODULE, None)
        for name in [name for name, kind in maps.KINDS.items() if kind.__module__ == MODULE]:
            del maps.KINDS[name]

    def uninstall(self) -> None:
        """Nothing is left of it."""
        self.forget()
        sys.path.remove(str(self.root))
        importlib.invalidate_caches()
        registry.packaged.cache_clear()


def kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it; segcal's own, imported here, is not."""
    registry.methods()
    monkeypatch.setattr(registry, "REGISTERED", dict(registry.REGISTERED))
    monkeypatch.setattr(maps, "KINDS", dict(maps.KINDS))
    monkeypatch.setattr(registry, "KINDS", maps.KINDS)
    monkeypatch.setattr(metrics, "REGISTERED", dict(metrics.REGISTERED))


def installed(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outside]:
    """The page's method in a package."""
    kept_apart(monkeypatch)
    monkeypatch.setattr(sys, "path", [str(root), *sys.path])
    made = Outside(root)
    made.write(shown("class BiasCorrected"))
    made.entry(f"bcts = {MODULE}:BiasCorrected")
    yield made
    made.uninstall() if str(root) in sys.path else made.forget()
    importlib.invalidate_caches()
