"""What the README and the docs show is run: every Python block of every page, page by page, in one namespace."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import types
from pathlib import Path

import pytest

from segcal.cli import run
from segcal.data.simulate.cohort import Design, Simulation
from segcal.data.simulate.nnunet import write_nnunet
from segcal.data.simulate.truth import Truth

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


def test_the_commands_of_the_readme_work_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (ROOT / "README.md").read_text()
    design = Design(classes=("background", "organ"), shape=(4, 12, 12), margin=(0, 1, 1), members=1)
    (member,) = write_nnunet(Simulation(design, Truth.general(2, 1), 1), range(6), tmp_path / "made")
    for name, made in (("PRED", member), ("NEW", member), ("LABELS", tmp_path / "made" / "labelsTr")):
        shutil.copytree(made, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    commands = [shlex.split(line, comments=True) for line in readme.splitlines() if line.startswith("segcal ")]
    assert [words[1] for words in commands] == ["check", "fit", "apply"]
    assert all({"--groups", r"(\d+)"} <= set(words) for words in commands[:2]) and "auto" in commands[1]
    few = {"fit": ["--among", "ts,vs"]}  # two methods of those that auto compares, for the suite's time
    for words in commands:
        assert run([*words[1:], *few.get(words[1], []), "--workers", "1"]) == 0, capsys.readouterr().err
    assert len(list((tmp_path / "OUT").rglob("*error*"))) >= 1
    assert len(re.findall(r"(?m)segcal demo$", readme)) == len(re.findall(r"(?m)-m pytest -n auto$", readme)) == 1


def test_there_is_something_to_run() -> None:
    assert sum(len(blocks(p)) for p in PAGES) >= 3


LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#\s]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    missing = [target for target in LINK.findall(page.read_text()) if not (page.parent / target).exists()]
    assert missing == []
