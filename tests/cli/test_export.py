"""`segcal export`: what is written, said and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import torch


def test_both_files_and_what_is_said(segcal: Any, calibrator: Path, tmp_path: Path) -> None:
    made, program = tmp_path / "cal.onnx", tmp_path / "cal.pt2"
    said = segcal("export", calibrator, "--onnx", made, "--torch", program, "--json", tmp_path / "e.json")
    assert said.code == 0, said.err
    told = " ".join(said.out.split())
    assert "scores (batch, 3, side0, side1), float32, logits of 0, 1, 2 -> probabilities" in told
    assert "run with onnxruntime on 2,328 voxels" in told and "no label changed" in told
    assert f"written: {made}" in told and f"written: {program}" in told
    onnx.checker.check_model(onnx.load(made))
    p = torch.rand(1, 3, 4, 5)
    out = torch.export.load(program).module()(p / p.sum(1, keepdim=True))
    torch.testing.assert_close(out.sum(1), torch.ones(1, 4, 5))
    # an earlier ONNX file of ours is replaced; what nobody can tell is not
    assert segcal("export", calibrator, "--onnx", made).code == 0
    refused = segcal("export", calibrator, "--torch", program)
    assert refused.code == 3 and "--overwrite" in refused.err


def test_what_is_refused(segcal: Any, calibrator: Path, tmp_path: Path) -> None:
    nothing = segcal("export", calibrator)
    assert nothing.code == 2 and "--onnx cal.onnx" in nothing.err
    itself = segcal("export", calibrator, "--onnx", calibrator)
    assert itself.code == 2 and "also an input" in itself.err
    (tmp_path / "mine.onnx").write_bytes(b"\x08\x0a\x12\x07pytorch")
    theirs = segcal("export", calibrator, "--onnx", tmp_path / "mine.onnx")
    assert theirs.code == 3 and "an ONNX file of segcal" in theirs.err
    assert segcal("export", calibrator, "--onnx", tmp_path / "c.onnx", "--axes", "4").code == 2
    assert segcal("export", tmp_path / "none.safetensors", "--onnx", tmp_path / "c.onnx").code in (2, 3)
