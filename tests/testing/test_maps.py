"""Each law of maps rejects a specimen that breaks it, and names itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from segcal.methods.guarantees import Guarantees
from segcal.methods.maps import Map
from segcal.methods.temperature import ScaleMap
from segcal.testing import maps as laws
from segcal.testing.law import BrokenLawError, Law
from segcal.testing.maps import MAP_LAWS, check_map

REASONS = dict.fromkeys(laws.PROMISES, "it says so")
FACTORS = torch.tensor([1.0, 3.0, 0.5, 2.0, 0.1], dtype=torch.float64)


def _factors(x: Tensor) -> Tensor:
    return FACTORS[: x.shape[0], None].to(x.dtype)


class Sound(ScaleMap):
    """A temperature."""

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Sound:
        return cls(tensors["beta"])


class NotNormalised(Sound):
    def forward(self, log_probs: Tensor, free_energy: Tensor | None = None) -> Tensor:
        return self.beta.to(log_probs.dtype) * log_probs


class OverflowsFarOut(Sound):
    """Takes the exponential of large numbers; fine up to scores of some thousands."""

    def forward(self, log_probs: Tensor, free_energy: Tensor | None = None) -> Tensor:
        out = super().forward(log_probs, free_energy)
        return out + 0 * (0.1 * log_probs.abs()).exp()


class NeedsAVoxel(Sound):
    def forward(self, log_probs: Tensor, free_energy: Tensor | None = None) -> Tensor:
        return super().forward(log_probs - log_probs.max(), free_energy)


class ChangesItsInput(Sound):
    def forward(self, log_probs: Tensor, free_energy: Tensor | None = None) -> Tensor:
        return torch.log_softmax(log_probs.mul_(self.beta.to(log_probs.dtype)), 0)


class Trainable(Sound):
    def __init__(self, beta: float | Tensor) -> None:
        super().__init__(beta)
        self.extra = torch.nn.Parameter(torch.zeros(1))


class InSinglePrecision(Sound):
    def __init__(self, beta: float | Tensor) -> None:
        super().__init__(beta)
        self.register_buffer("extra", torch.zeros(1))


class ForgetsItsNumber(Sound):
    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> ForgetsItsNumber:
        return cls(1.0)


class DescribesTensors(Sound):
    def describe(self) -> dict[str, object]:
        return {"temperature": self.beta}


class GivesNoReason(Sound):
    def guarantees(self) -> Guarantees:
        return Guarantees("proven", "proven", "proven")


class MovesWithOffsets(Sound):
    """Says it is translation-invariant, and is not."""

    def forward(self, log_probs: Tensor, free_energy: Tensor | None = None) -> Tensor:
        assert free_energy is not None
        return torch.log_softmax(log_probs + 1e-3 * _factors(log_probs) * free_energy.to(log_probs.dtype), 0)


class RefusesInvariance(Sound):
    def guarantees(self) -> Guarantees:
        return Guarantees("no", "proven", "proven", REASONS)


class FavoursAClass(Sound):
    """Says it keeps the label, and does not where two classes are close."""

    def forward(self, log_probs: Tensor, free_energy: Tensor | None = None) -> Tensor:
        return torch.log_softmax(log_probs + 0.01 * _factors(log_probs), 0)


class RefusesTheLabel(Sound):
    def guarantees(self) -> Guarantees:
        return Guarantees("proven", "no", "proven", REASONS)


class SwapsTheRest(Sound):
    """Keeps the winner, and swaps classes behind it."""

    def forward(self, log_probs: Tensor, free_energy: Tensor | None = None) -> Tensor:
        return torch.log_softmax((log_probs - log_probs.amax(0)) * _factors(log_probs), 0)


class RefusesTheOrder(Sound):
    def guarantees(self) -> Guarantees:
        return Guarantees("proven", "proven", "no", REASONS)


class SaysItIsCalm(Sound):
    def sensitivity(self) -> float:
        return 1e-3


class LooksAtValues(Sound):
    def forward(self, log_probs: Tensor, free_energy: Tensor | None = None) -> Tensor:
        return super().forward(log_probs, free_energy) if log_probs.numel() == 0 or log_probs.min() < 1 else log_probs


BROKEN: list[tuple[Law[Any], type[Sound], str]] = [
    (laws.output_is_normalised, NotNormalised, "sum to one only within"),
    (laws.extreme_scores_stay_finite_probabilities, OverflowsFarOut, "or NaN"),
    (laws.nothing_gives_nothing, NeedsAVoxel, "max"),
    (laws.applying_is_pure, ChangesItsInput, "an input was changed"),
    (laws.parameters_are_fixed_numbers, Trainable, r"trainable parameters \['extra'\]"),
    (laws.parameters_are_fixed_numbers, InSinglePrecision, "extra is torch.float32"),
    (laws.copies_give_the_same_bits, ForgetsItsNumber, "rebuilt from its tensors"),
    (laws.descriptions_are_plain, DescribesTensors, "not JSON serializable"),
    (laws.descriptions_are_plain, GivesNoReason, "no reason for translation_invariant"),
    (laws.translation_promise_is_honest, MovesWithOffsets, "a shift of"),
    (laws.translation_promise_is_honest, RefusesInvariance, "no shift"),
    (laws.argmax_promise_is_honest, FavoursAClass, "a winner falls behind"),
    (laws.argmax_promise_is_honest, RefusesTheLabel, "no voxel tried"),
    (laws.order_promise_is_honest, SwapsTheRest, "two classes swap"),
    (laws.order_promise_is_honest, RefusesTheOrder, "no voxel tried"),
    (laws.sensitivity_is_a_bound, SaysItIsCalm, "beyond 0.001 times that"),
    (laws.a_trace_gives_the_same_numbers, LooksAtValues, "data-dependent"),
]


@pytest.mark.parametrize(
    ("law", "specimen", "says"), BROKEN, ids=lambda v: v.__name__ if isinstance(v, type) else str(v)
)
def test_a_broken_specimen_is_rejected(law: Law[Any], specimen: type[Map], says: str) -> None:
    with pytest.raises(BrokenLawError, match=says) as found:
        law.check(specimen(0.6))  # type: ignore[call-arg]  # all specimens take a number
    assert found.value.law is law


def test_every_law_has_a_specimen() -> None:
    assert {law for law, *_ in BROKEN} == set(MAP_LAWS)


def test_a_sound_one_keeps_every_law() -> None:
    check_map(Sound(0.6))
