"""One step function a class, on bins even in the log-odds of its probability: q_k = f_k(p_k), then q / sum q (Zadrozny
and Elkan 2002).

Isotonic regression and histogram binning end here. Bins have edges at i w, i integer, from -`reach` to `reach`; the
outer two take whatever lies beyond. With two classes the bin of class 1 mirrors that of class 0, so that a tie counts
for class 0, as in every arg max here. Promises: it sees log-probabilities only, hence translation-invariant. With two
classes it preserves label and order iff f_0 > f_1 in every pair of mirrored bins on class 0's side of 0.5 and f_0 < f_1
on the other. With more, two classes whose probabilities share a bin tie, and the label is not preserved. Costs a
logarithm and a look-up a class.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import Module

from segcal.calibrators.maps import Map
from segcal.errors import UsageError
from segcal.guarantees import Guarantees, Status


def bins_of(log_probs: Tensor, reach: float, bins: int) -> Tensor:
    """Bin (C, n), int64, of each class's log-odds log p_k - log (1 - p_k), from log-probabilities (C, n)."""
    half = bins // 2
    scale = half / reach
    if log_probs.shape[0] == 2:
        first = _place(log_probs[0] - log_probs[1], scale, half)
        return torch.stack([first, bins - 1 - first])
    others = torch.log(-torch.expm1(log_probs.clamp_max(0)))
    return _place(log_probs - others, scale, half)


def _place(log_odds: Tensor, scale: float, half: int) -> Tensor:
    return (log_odds * scale).clamp(-half, half - 1).floor().long() + half


class BinnedMap(Map):
    """`table` (C, B), B even: calibrated probability of each class by bin, strictly between 0 and 1; `reach` > 0 in
    log-odds. UsageError for anything else.
    """

    type_name: ClassVar[str] = "binned"
    table: Tensor
    reach: Tensor

    def __init__(self, table: Tensor, reach: float | Tensor) -> None:
        super().__init__()
        limit = torch.as_tensor(reach, dtype=torch.float64).reshape(())
        if table.dim() != 2 or table.shape[0] < 2 or table.shape[1] < 2 or table.shape[1] % 2:
            raise UsageError(
                "table",
                found=f"shape {tuple(table.shape)}",
                expected="(C, B), C at least 2, B even",
                do="Give one row a class and an even number of bins.",
            )
        if not bool(((table > 0) & (table < 1)).all()):
            raise UsageError(
                "table",
                found="a probability of 0, of 1, or none",
                expected="numbers strictly between 0 and 1",
                do="Keep them away from 0 and 1: no NLL is finite there.",
            )
        if not (torch.isfinite(limit) and limit > 0):
            raise UsageError(
                "reach",
                found=f"{limit.item()}",
                expected="a finite number above 0",
                do="Bins run from -reach to reach.",
            )
        self.parameter("table", table)
        self.parameter("reach", limit)
        self._limit = limit.item()  # a plain number: read off the buffer in `forward`, it would end a trace
        self.register_load_state_dict_post_hook(_read_again)  # type: ignore[no-untyped-call]

    @property
    def classes(self) -> int | None:
        """C."""
        return self.table.shape[0]

    def forward(self, log_probs: Tensor, free_energy: Tensor | None = None, given: Tensor | None = None) -> Tensor:
        """log of the normalised f_k(p_k), (C, n)."""
        index = bins_of(log_probs, self._limit, self.table.shape[1])
        return torch.log_softmax(self.table.log().to(log_probs.dtype).gather(1, index), 0)

    def guarantees(self) -> Guarantees:
        """Read off the table."""
        reasons = {"translation_invariant": "it sees log-probabilities only"}
        status: Status = "no"
        why = "one step function a class: two classes in one bin tie"
        if self.table.shape[0] == 2:
            half = self.table.shape[1] // 2
            ahead = self.table[0] - self.table[1].flip(0)
            if bool((ahead[half:] > 0).all() and (ahead[:half] < 0).all()):
                status, why = "proven", "in every bin the class ahead before is ahead after"
            else:
                why = "in some bin the class ahead before is not ahead after"
        reasons |= {"preserves_argmax": why, "preserves_order": why}
        return Guarantees("proven", status, status, reasons)

    def describe(self) -> dict[str, object]:
        """Steps of each class, its lowest and highest probability, and the bins."""
        return {
            "bins": self.table.shape[1],
            "bin_width": 2 * self._limit / self.table.shape[1],
            "steps": [len(torch.unique_consecutive(row)) for row in self.table],
            "lowest": self.table.amin(1).tolist(),
            "highest": self.table.amax(1).tolist(),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> BinnedMap:
        return cls(tensors["table"], tensors["reach"])


def _read_again(loaded: Module, keys: object) -> None:
    """Parameters that were loaded into a map may have another reach than those it was made with."""
    del keys
    assert isinstance(loaded, BinnedMap)
    loaded._limit = loaded.reach.item()
