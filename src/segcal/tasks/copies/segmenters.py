"""Networks as callables on their input: (channels, *spatial) float32 in, scores (classes, *spatial) out.

A callable in Python, a PyTorch module, or an ONNX file. Their `digest` is remembered by calibrators, never they
themselves: it is told where a calibrator meets copies of another network. What a network needs done to an image first
is `prepared`, so that copies can be made of its input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from segcal.data.files import journal
from segcal.errors import ShapeError, UnreadableError, extra

Normalisation = Literal["none", "zscore", "unit", "percentile"]
"""What is done to an image before a network sees it (`normalised`)."""

BORDERS: dict[str, str] = {"reflect": "reflect", "zero": "constant"}


class Segmenter(Protocol):
    """A network."""

    @property
    def digest(self) -> str:
        """By which it is recognised; empty where nobody can tell."""

    def __call__(self, x: NDArray[np.float32]) -> NDArray[Any]:
        """Scores (classes, *spatial) of its input (channels, *spatial)."""


def normalised(image: NDArray[Any], how: Normalisation) -> NDArray[np.float32]:
    """An image (channels, *spatial) as a network sees it: as it is stored; less its mean, in units of its standard
    deviation; 8-bit values divided by 255, 16-bit by 65535; or its 1st percentile at 0 and its 99.8th at 1, cut to 0 to
    1.5.
    """
    x: NDArray[Any] = np.asarray(image, np.float32)
    if how == "zscore":
        x = (x - x.mean()) / (x.std() + 1e-6)
    elif how == "unit":
        x = x / (np.iinfo(image.dtype).max if np.issubdtype(image.dtype, np.integer) else 1)
    elif how == "percentile":
        low, high = np.percentile(x, [1, 99.8])
        x = np.clip((x - low) / (high - low + 1e-6), 0, 1.5)
    return np.asarray(x, np.float32)


@dataclass(frozen=True)
class Plain:
    """A callable in Python, or a PyTorch module, which is given a batch of one tensor; the digest of a module is that
    of its parameters.
    """

    network: Callable[[Any], Any]

    @property
    def digest(self) -> str:
        """Of a module's parameters; empty for another callable."""
        if not isinstance(self.network, torch.nn.Module):
            return ""
        state = self.network.state_dict()
        return journal.digest(*(state[k].detach().cpu().contiguous().numpy().tobytes() for k in sorted(state)))

    def __call__(self, x: NDArray[np.float32]) -> NDArray[Any]:
        """See Segmenter."""
        if not isinstance(self.network, torch.nn.Module):
            return checked(self.network(x), x)
        with torch.no_grad():
            return checked(self.network(torch.from_numpy(x)[None])[0].float().cpu().numpy(), x)


class Onnx:
    """A network in an ONNX file with one input (1, channels, *spatial) and, first of its outputs, scores (1, classes,
    *spatial); a grey image is given as often as it has input channels. Sides are padded at their ends to a `multiple`,
    `border` says with what, and scores are cut back. `threads` of its runtime. Needs onnxruntime.

    UnreadableError for a file that is no network.
    """

    def __init__(self, path: Path, multiple: int = 1, border: str = "reflect", threads: int = 1) -> None:
        with extra("onnx"):
            import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's own errors have no common class
            raise UnreadableError(
                str(path),
                found="no network that onnxruntime reads",
                expected="an ONNX file",
                do="Export the network again.",
            ) from error
        self._input = self._session.get_inputs()[0]
        self.digest = journal.digest_files([path])
        self.multiple, self.border = multiple, border

    def __call__(self, x: NDArray[np.float32]) -> NDArray[Any]:
        """See Segmenter."""
        wanted = self._input.shape[1]
        if len(x) == 1 and isinstance(wanted, int) and wanted > 1:
            x = x.repeat(wanted, axis=0)
        pad = [(0, 0), *((0, -n % self.multiple) for n in x.shape[1:])]
        whole = np.pad(x, pad, mode=BORDERS[self.border])[None]  # type: ignore[call-overload]  # one of two words
        found = self._session.run(None, {self._input.name: whole})[0][0]
        return checked(found[(slice(None), *(slice(0, n) for n in x.shape[1:]))], x)


def checked(scores: Any, x: NDArray[np.float32]) -> NDArray[Any]:
    """Scores, if they have the spatial shape of the input; ShapeError otherwise."""
    found = np.asarray(scores)
    if found.ndim != x.ndim or found.shape[1:] != x.shape[1:]:
        raise ShapeError(
            "segmenter",
            found=f"scores of shape {found.shape}",
            expected=f"(classes, {', '.join(map(str, x.shape[1:]))}) as its input",
            do="Return scores on the grid of the input, classes first.",
        )
    return found
