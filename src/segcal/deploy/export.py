"""Calibrators for where Python or segcal is not: ONNX files, and programs of torch.export.

    scores (B, C, *spatial), float32  ->  calibrated probabilities, float32, of the same shape; all sizes but C are free

What is exported is `Calibrator.forward` itself, in float64 inside, so that promised labels are kept as there. Scores
are taken as they are: that they can be of their kind is not looked at. Every map of rows can be exported; one that
looks around each voxel is refused. Ranks are found by counting, class-conditional experts are all computed at every
voxel and one of them is taken: C^3 operations a voxel.

Promises: the file is complete or absent; an ONNX file is run with onnxruntime before it is put in place, on scores that
are hard to tell apart and on saturated ones (`checked`), and an OutputError says where it differs from the module by
more than `TOLERANCE` or changes a promised label. It carries what it is (`describe`).
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segcal.data.files import journal
from segcal.data.scores import Kind, check_kind
from segcal.errors import OutputError, UsageError, extra
from segcal.methods.calibrator import Calibrator
from segcal.methods.files import digest, versions

TOLERANCE = 1e-5
"""By how much a probability may differ."""

SIDES = ((2, 31, 37), (1, 7, 4), (3, 1, 2))
"""Batch and sides of what an export is tried on; of volumes with one side more."""


class Exported(nn.Module):
    """A calibrator for scores of one kind."""

    def __init__(self, calibrator: Calibrator, kind: Kind) -> None:
        super().__init__()
        self.calibrator, self.kind = calibrator, kind

    def forward(self, scores: Tensor) -> Tensor:
        """Calibrated probabilities of scores (B, C, *spatial)."""
        found: Tensor = self.calibrator(scores, kind=self.kind, check=False)
        return found


@dataclass(frozen=True)
class Checked:
    """How an export compares with the module: the largest `difference` of a probability, and over how many `voxels`."""

    difference: float
    voxels: int
    labels_kept: bool


def program(calibrator: Calibrator, *, kind: Kind | None = None, axes: int = 2) -> torch.export.ExportedProgram:
    """The calibrator as a program of torch.export, for scores with so many spatial `axes`; `kind` as in `forward`.

    UsageError for a calibrator that looks around each voxel, or other than 1 to 3 axes.
    """
    module, example = _prepared(calibrator, kind, axes)
    free = dict.fromkeys((0, *range(2, 2 + axes)), torch.export.Dim.DYNAMIC)
    with torch.no_grad(), _quiet():
        return torch.export.export(module, (example,), dynamic_shapes=(free,))


def to_torch(calibrator: Calibrator, path: str | os.PathLike[str], *, kind: Kind | None = None, axes: int = 2) -> None:
    """Write `program` to a file (.pt2) that `torch.export.load` reads. Errors as `program`, OutputError."""
    made = program(calibrator, kind=kind, axes=axes)
    with journal.atomic(Path(path)) as temporary:
        whole = io.BytesIO()
        torch.export.save(made, whole)
        temporary.write_bytes(whole.getvalue())


def to_onnx(
    calibrator: Calibrator, path: str | os.PathLike[str], *, kind: Kind | None = None, axes: int = 2
) -> Checked:
    """Write an ONNX file with input 'scores' and output 'probabilities', once onnxruntime has shown that it gives what
    the calibrator gives.

    Errors as `program`; UsageError without the extra 'onnx'; OutputError where it does not.
    """
    with extra("onnx"):
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    module, example = _prepared(calibrator, kind, axes)
    free = {0: "batch", **{2 + k: f"side{k}" for k in range(axes)}}
    with torch.no_grad(), _quiet():
        made = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            input_names=["scores"],
            output_names=["probabilities"],
            dynamic_shapes=(free,),
            verbose=False,
        )
    assert made is not None
    model = made.model_proto
    model.producer_name, model.producer_version = "segcal", versions()["segcal"]
    for name, value in describe(calibrator, module.kind).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, value
    written = model.SerializeToString()
    found = checked(calibrator, written, kind=module.kind, axes=axes)
    if found.difference > TOLERANCE or not found.labels_kept:
        raise OutputError(
            str(path),
            found=f"probabilities up to {found.difference:.2g} away from the calibrator's"
            + ("" if found.labels_kept else ", and a label changed"),
            expected=f"at most {TOLERANCE:g}",
            do="Report this with the versions of torch and onnxruntime; use the calibrator in Python meanwhile.",
        )
    with journal.atomic(Path(path)) as temporary:
        temporary.write_bytes(written)
    return found


def describe(calibrator: Calibrator, kind: Kind) -> dict[str, str]:
    """What an ONNX file says of itself."""
    return {
        "segcal.version": versions()["segcal"],
        "segcal.calibrator": digest(calibrator),
        "segcal.method": calibrator.method,
        "segcal.kind": kind,
        "segcal.head": json.dumps(calibrator.head.to_json()),
        "segcal.keeps_label": json.dumps(calibrator.keeps_label),
    }


def checked(calibrator: Calibrator, written: bytes, *, kind: Kind | None = None, axes: int = 2) -> Checked:
    """Compare an ONNX file with the calibrator on scores of several shapes (`hard`)."""
    with extra("onnx"):
        import onnxruntime
    kind = calibrator.kind if kind is None else check_kind(kind)
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    worst, voxels, kept = 0.0, 0, True
    for number, shape in enumerate(SIDES):
        batch, *sides = (*shape, *(2 for _ in range(axes - 2)))[: 1 + axes]
        scores = hard(calibrator.head.channels, (batch, *sides), kind, calibrator.head.sums_to_one, seed=number)
        expected = calibrator(torch.from_numpy(scores), kind=kind).numpy()
        (found,) = session.run(None, {"scores": scores})
        worst = max(worst, float(np.abs(found - expected).max(initial=0.0)))
        voxels += scores.size // scores.shape[1]
        if calibrator.keeps_label:
            kept &= _decided(calibrator, found, "probs").equal(_decided(calibrator, scores, kind))
    return Checked(worst, voxels, kept)


def hard(channels: int, shape: Sequence[int], kind: Kind, sums_to_one: bool, *, seed: int = 0) -> NDArray[np.float32]:
    """Scores (B, channels, *spatial) of that kind, float32, by turns: usual ones, ties, differences of one unit in the
    last place, saturated ones, and far from 0.
    """
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 3, (int(np.prod(shape)), channels)).astype(np.float32)
    turn = np.arange(len(z)) % 5
    tied = np.isin(turn, (1, 2))
    second = np.argsort(z, 1)[:, -2] if channels > 1 else np.zeros(len(z), int)
    z[tied, second[tied]] = z.max(1)[tied] if sums_to_one else 0
    close = turn == 2
    z[close, second[close]] = np.nextafter(z[close, second[close]], np.float32(np.inf))
    z[turn == 3] *= 60
    if kind == "logits":
        z[turn == 4] += 200 if sums_to_one else 0
    scores = torch.from_numpy(z.reshape(shape[0], *shape[1:], channels)).movedim(-1, 1).double()
    if kind != "logits":
        p = scores.softmax(1) if sums_to_one else scores.sigmoid()
        scores = {"probs": p, "log_probs": p.clamp_min(1e-300).log(), "scores": 255 * p}[kind]
    return np.ascontiguousarray(scores.float().numpy())


def _decided(calibrator: Calibrator, scores: NDArray[Any], kind: Kind) -> Tensor:
    return calibrator.head.decide(torch.from_numpy(scores).movedim(1, 0).flatten(1), kind)


def _prepared(calibrator: Calibrator, kind: Kind | None, axes: int) -> tuple[Exported, Tensor]:
    """The module, and scores to trace it with."""
    if axes not in (1, 2, 3):
        raise UsageError("axes", found=str(axes), expected="1, 2 or 3", do="Name the spatial axes of the scores.")
    if calibrator.needs.case:
        raise UsageError(
            "calibrator",
            found=f"{calibrator.method}, which looks around each voxel",
            expected="a map of rows",
            do="Fit one that needs nothing but a voxel's own scores (ts, ets, dc, cms-op, ...) to export it.",
        )
    kind = calibrator.kind if kind is None else check_kind(kind)
    example = hard(calibrator.head.channels, (2, 3, 4, 5)[: 1 + axes], kind, calibrator.head.sums_to_one)
    return Exported(calibrator, kind).eval(), torch.from_numpy(example)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter speaks of itself; its warnings are about what it is made of."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
