"""`segcal export`: a calibrator for where Python or segcal is not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from segcal.cli.console import Output
from segcal.cli.options import AS_USUAL, Kind, Running, all_there, claim
from segcal.data.files import claims
from segcal.errors import UsageError

if TYPE_CHECKING:
    from segcal.methods.calibrator import Calibrator


def export(
    calibrator: Path,
    /,
    *,
    onnx: Path | None = None,
    torch: Path | None = None,
    kind: Kind | None = None,
    axes: int = 2,
    running: Running = AS_USUAL,
) -> int:
    """Write a calibrator as an ONNX file, or as a program of torch.export, to run without segcal.

    It takes scores (batch, channels, sides) as float32 and gives calibrated probabilities of that shape; batch and
    sides are free. An ONNX file is run with onnxruntime first, and written only if it gives what the calibrator gives.
    Calibrators that look around each voxel (bts, lts and the like) cannot be exported.

        segcal export cal.safetensors --onnx cal.onnx
        segcal export cal.safetensors --onnx cal.onnx --kind logits --axes 3

    Parameters
    ----------
    calibrator
        A file written by segcal fit.
    onnx
        The ONNX file to write (needs the extra: pip install "segcal[onnx]").
    torch
        The file to write for torch.export.load, such as cal.pt2.
    kind
        What it will be given: logits (raw network outputs), probs, log_probs or scores. By default what the calibrator
        was fitted on.
    axes
        Spatial axes of the scores: 2 for images, 3 for volumes.
    """
    all_there(running, calibrator=calibrator)
    targets = [(path, mark) for path, mark in ((onnx, claims.ONNX), (torch, claims.PROGRAM)) if path is not None]
    if not targets:
        raise UsageError(
            "--onnx, --torch",
            found="neither",
            expected="a file to write, or both",
            do="segcal export cal.safetensors --onnx cal.onnx",
        )
    from segcal.deploy.export import to_onnx, to_torch
    from segcal.methods.files import load

    out = Output(running.quiet, running.json)
    claim(running, targets, [calibrator])
    loaded = load(calibrator)
    result: dict[str, object] = {"kind": kind or loaded.kind, "axes": axes, "keeps_label": loaded.keeps_label}
    if torch is not None:
        to_torch(loaded, torch, kind=kind, axes=axes)
        out.text(f"written: {torch}, for torch.export.load")
    if onnx is not None:
        found = to_onnx(loaded, onnx, kind=kind, axes=axes)
        _signature(out, loaded, kind or loaded.kind, axes)
        away = (
            f"at most {found.difference:.1g} from the calibrator's" if found.difference else "equal to the calibrator's"
        )
        kept = ", no label changed" if loaded.keeps_label else ""
        out.text(f"run with onnxruntime on {found.voxels:,} voxels, hard ones among them: probabilities {away}{kept}")
        out.text(f"written: {onnx}")
        result |= {"largest_difference": found.difference, "voxels": found.voxels}
    out.json(result)
    return 0


def _signature(out: Output, calibrator: Calibrator, kind: str, axes: int) -> None:
    """What goes in and what comes out."""
    sides = ", ".join(["batch", str(calibrator.head.channels), *(f"side{k}" for k in range(axes))])
    out.text(f"scores ({sides}), float32, {kind} of {', '.join(calibrator.head.classes)} -> probabilities", "bold")
