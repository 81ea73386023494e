"""Operations as they are recorded, by torch.compile, torch.export or torch.jit.trace, to be run later by whatever
runtime: some of torch's own are missing there in float64, or lose their precision.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def traced() -> bool:
    """Whether operations are being recorded: what is decided by values then holds for all values."""
    return torch.compiler.is_compiling() or bool(torch.jit.is_tracing())  # type: ignore[attr-defined,no-untyped-call]


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x); spelled out where it is recorded: onnxruntime has none in float64."""
    return x.clamp_min(0) + torch.log1p(torch.exp(-x.abs())) if traced() else functional.softplus(x)


def log_sigmoid(x: Tensor) -> Tensor:
    """-log(1 + e^-x); where it is recorded torch's own becomes the logarithm of a sigmoid, which in float64 is 0 or 1
    in onnxruntime from 20 on.
    """
    return -softplus(-x) if traced() else functional.logsigmoid(x)
