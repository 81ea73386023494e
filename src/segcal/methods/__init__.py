"""Methods fit, calibrators apply: one place a family, a file or a folder of `map`, `sums` and `fit`.

`BUILT_IN` is the only list of methods; everything else asks `segcal.methods.registry`, which adds those from outside
(`register`). Names are imported when they are first used: the command line's help lists the methods without torch.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segcal.methods.method import AnyMethod, Method, Trained
    from segcal.methods.names import named, names
    from segcal.methods.registry import find, methods, register


@dataclass(frozen=True)
class Place:
    """Where a method is, what it is in a few words, how many numbers its paper fits for C classes (a formula, empty
    where their number is no matter of C alone), and whether it keeps the label of every voxel.
    """

    module: str
    kind: str
    gist: str
    numbers: str
    keeps: bool


_AFFINE, _EXPERTS = "segcal.methods.affine.fit", "segcal.methods.conditional.fit"
_BOUNDARY = ("segcal.methods.boundary.fit", "BoundaryTemperatureScaling")
_LOCAL = ("segcal.methods.local.fit", "LocalTemperatureScaling")

BUILT_IN: dict[str, Place] = {
    "ts": Place("segcal.methods.temperature", "TemperatureScaling", "one temperature", "1", True),
    "ets": Place("segcal.methods.mixture", "EnsembleTemperatureScaling", "a mixture of three", "4", True),
    "vs": Place(_AFFINE, "VectorScaling", "a factor and a bias a class", "2*C", False),
    "ms": Place(_AFFINE, "MatrixScaling", "a matrix on logits", "C*C + C", False),
    "ms-c": Place(_AFFINE, "ConstrainedMatrixScaling", "a matrix on logits, of equal row sums", "C*C + 1", False),
    "dc": Place(_AFFINE, "DirichletCalibration", "a matrix on log-probabilities", "C*C + C", False),
    "cdc": Place(_EXPERTS, "ClassConditionalDirichlet", "a matrix for each predicted class", "C*C*C + C*C", False),
    "cms-ap": Place(_EXPERTS, "ArgmaxPreservingMatrixScaling", "the same, and keeps the label", "C*C*C + C", True),
    "cms-op": Place(_EXPERTS, "OrderPreservingMatrixScaling", "the same, and keeps the ranking", "C*C*C + C", True),
    "isotonic": Place("segcal.methods.binned", "IsotonicRegression", "rising steps", "", False),
    "histogram": Place("segcal.methods.binned", "HistogramBinning", "steps", "", False),
    "iop": Place(
        "segcal.methods.intra_order", "IntraOrderPreserving", "a small net that keeps the ranking", "21*C + 109", True
    ),
    "bts": Place(*_BOUNDARY, "a temperature by distance to the predicted boundary", "6", True),
    "bts-class": Place(*_BOUNDARY, "the same for each predicted class", "6*C", True),
    "bts-both": Place(*_BOUNDARY, "and by how unsure the neighbours are", "13*C", True),
    "lts": Place(*_LOCAL, "a temperature from each voxel's neighbourhood", "175*C + 7", True),
    "lts-raw": Place(*_LOCAL, "the same from raw logits", "175*C + 7", True),
    "lts-image": Place(*_LOCAL, "from the image too, which --images gives", "200*C + 34", True),
    "meta-cal": Place("segcal.methods.meta_cal", "MetaCal", "one temperature, and 1/C where unsure", "2", False),
    "meta-cal-star": Place("segcal.methods.meta_cal", "MetaCal", "and a high one where unsure", "2", True),
    "selective": Place(
        "segcal.methods.selective.fit",
        "SelectiveScaling",
        "a net picks the voxels to be less sure of",
        "5*C*C + 14*C + 2",
        True,
    ),
    "susceptibility": Place(
        "segcal.methods.susceptibility.fit",
        "SusceptibilityCalibration",
        "from the answer to small changes of the image, which --copies gives",
        "1681*C + 234649",
        True,
    ),
}
"""Methods of segcal by the name that `--method` takes, in the order in which they are listed."""


def flag(option: str) -> str:
    """What a method's option is called on the command line."""
    return f"--{option.rstrip('_').replace('_', '-')}"


_HOME = {place.kind: place.module for place in BUILT_IN.values()}
_HOME |= dict.fromkeys(("AnyMethod", "Method", "Trained"), "segcal.methods.method")
_HOME |= dict.fromkeys(("named", "names"), "segcal.methods.names")
_HOME |= dict.fromkeys(("find", "methods", "register"), "segcal.methods.registry")

__all__ = ["BUILT_IN", "AnyMethod", "Method", "Place", "Trained", "find", "methods", "named", "names", "register"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
