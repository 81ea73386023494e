"""`segcal corrupt`: what it writes and says, and options that contradict each other."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(4):
        Image.fromarray(np.random.default_rng(k).integers(0, 256, (10, 12, 3), np.uint8)).save(folder / f"{k}.png")
    return folder


def test_writes_images_a_table_and_a_note(segcal: Any, images: Path, tmp_path: Path) -> None:
    said = segcal("corrupt", images, "-o", tmp_path / "out", "--severity", "strong", "--json", tmp_path / "done.json")
    assert (said.code, said.err) == (0, "")
    assert "4 files written to" in said.out
    with (tmp_path / "out" / "corruptions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["file"] for r in rows] == ["0.png", "1.png", "2.png", "3.png"]
    assert json.loads((tmp_path / "done.json").read_text())["files"] == rows
    note = json.loads((tmp_path / "out" / "segcal.json").read_text())
    assert (note["command"], note["severity"], note["kind"], note["seed"]) == ("corrupt", "strong", None, 0)
    assert {"segcal", "pillow"} <= set(note["versions"])
    for row in rows:
        assert any(line.split()[:1] == [row["kind"]] for line in said.out.splitlines())


def test_a_used_folder_needs_overwrite(segcal: Any, images: Path, tmp_path: Path) -> None:
    words = ("corrupt", images, "-o", tmp_path / "out", "--severity", "mild", "--kind", "fog")
    assert segcal(*words).code == 0
    said = segcal(*words)
    assert said.code == 3
    assert "--overwrite" in said.err
    assert segcal(*words, "--overwrite").code == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "neither --severity nor --artefact"),
        (("--severity", "mild", "--artefact", "bias"), "--severity and --artefact"),
        (("--artefact", "bias", "--kind", "fog"), "no kind with --artefact"),
        (("--severity", "mild", "--replicates", "3"), "1 for pictures"),
        (("--artefact", "bias", "--replicates", "0"), "1 or more"),
        (("--severity", "medium"), "medium"),
    ],
)
def test_wrong_usage(segcal: Any, images: Path, tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    said = segcal("corrupt", images, "-o", tmp_path / "out", *words)
    assert said.code == 2
    assert says in said.err
    assert not (tmp_path / "out").exists()


def test_artefacts_without_the_extra(
    segcal: Any, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchio", None)
    said = segcal("corrupt", images, "-o", tmp_path / "out", "--artefact", "spike")
    assert said.code == 2
    assert 'pip install "segcal[torchio]"' in said.err


def test_bad_input(segcal: Any, images: Path, tmp_path: Path) -> None:
    assert segcal("corrupt", tmp_path / "absent", "-o", tmp_path / "out", "--severity", "mild").code == 3
    assert segcal("corrupt", images, "-o", images, "--severity", "mild", "--overwrite").code == 2
    (images / "x.png").write_bytes(b"nothing")
    said = segcal("corrupt", images, "-o", tmp_path / "out", "--severity", "mild")
    assert said.code == 3
    assert "x.png" in said.err
    assert not (tmp_path / "out" / "corruptions.csv").exists()
