"""`segcal audit`: the table, the JSON, exit codes, images, and words that cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from segcal.cli.audit import PROMISES, sizes_of
from segcal.errors import UsageError
from segcal.methods.affine.map import AffineMap
from segcal.methods.calibrator import Calibrator
from segcal.methods.files import load
from segcal.tasks.audit import auditor


def test_a_temperature_holds_all_its_promises(segcal: Any, calibrator: Path, heldout: Any) -> None:
    said = segcal("audit", calibrator, *heldout.labelled)
    assert said.code == 0
    assert [line.split()[-1] for line in said.out.splitlines() if line.strip().split("  ")[0] in PROMISES.values()] == [
        "holds"
    ] * 3
    assert "no label changed in 1,920 voxels" in said.out and "Constants added to all scores" in said.out


def test_the_json_is_the_audit_of_the_library(segcal: Any, calibrator: Path, heldout: Any, tmp_path: Path) -> None:
    found = segcal("audit", calibrator, *heldout.labelled, "--shifts", "10", "--seed", "4", "--json").json
    assert [(row["unit"], row["size"]) for row in found["shifts"]] == [("voxel", 10.0), ("member", 10.0)]
    assert found["subject"] == "ts" and found["cases"] == 4 and found["broken"] == []
    assert found["flips"]["audit"]["flipped"] == 0
    other = segcal(
        "audit", calibrator, *heldout.words, "--shifts", "10", "--seed", "5", "--json", tmp_path / "audit.json"
    )
    assert "no labels: the flip audit is left out" in other.out and (tmp_path / "audit.json").is_file()


def test_a_promise_that_was_never_made_is_no_failure(
    segcal: Any, calibrator: Path, heldout: Any, tmp_path: Path
) -> None:
    fitted = load(calibrator)
    w = torch.tensor([[1.0, 0.2, 0.0], [0.0, 0.5, 0.0], [0.3, 0.0, 1.4]])
    path = tmp_path / "ms.safetensors"
    Calibrator(
        fitted.head, "logits", [AffineMap(w, torch.tensor([0.5, 0.0, 0.0]), logits=True)], "ms", data=fitted.data
    ).save(path)
    said = segcal("audit", path, *heldout.labelled)
    assert said.code == 0 and said.out.count("does not hold") == 3
    assert "raising all logits leads to 2, lowering them to 1" in said.out
    assert "Against the truth" in said.out and "within 7" in said.out


def test_a_broken_promise_ends_with_code_1(
    segcal: Any, calibrator: Path, heldout: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        auditor.VoxelWise, "deliver", lambda self, scores, kind: torch.softmax(-scores.double(), 0).float()
    )
    said = segcal("audit", calibrator, *heldout.labelled)
    assert said.code == 1
    assert "A promise that is proven does not hold: the label map stays, the ranking of classes stays." in said.out


def test_regions_say_what_cannot_be_shifted(segcal: Any, regions: Any, tmp_path: Path) -> None:
    path = tmp_path / "ts.safetensors"
    assert segcal("fit", *regions.labelled, "-o", path).code == 0
    said = segcal("audit", path, *regions.labelled)
    assert said.code == 0 and "shifts are left out" in said.out and "Parameters whole" in said.out


def test_images_are_written_on_request(segcal: Any, calibrator: Path, heldout: Any, tmp_path: Path) -> None:
    said = segcal("audit", calibrator, *heldout.words, "--energy-maps", tmp_path / "maps", "--shifts", "")
    assert said.code == 0 and "no shift was asked for" in said.out
    assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == [f"q0{k}.png" for k in range(4)]


@pytest.mark.parametrize("words", ["1,x", "0", "-5", "inf"])
def test_sizes_that_are_none_are_wrong_usage(segcal: Any, calibrator: Path, heldout: Any, words: str) -> None:
    assert segcal("audit", calibrator, *heldout.words, f"--shifts={words}").code == 2


def test_sizes_are_read() -> None:
    assert sizes_of("1, 2.5,") == [1.0, 2.5]
    with pytest.raises(UsageError):
        sizes_of("one")
