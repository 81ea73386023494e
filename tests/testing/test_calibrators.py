"""Each law of calibrators rejects a specimen that breaks it, and names itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from segcal.data.head import Regions, Softmax
from segcal.data.rows import Rows
from segcal.data.scores import Kind
from segcal.engine.ask import Through
from segcal.methods.affine.map import AffineMap
from segcal.methods.calibrator import NOTHING, Calibrator
from segcal.methods.guarantees import Guarantees
from segcal.methods.temperature import ScaleMap
from segcal.testing import calibrators as laws
from segcal.testing.calibrators import CALIBRATOR_LAWS, check_calibrator
from segcal.testing.law import BrokenLawError, Law

HEAD = Softmax(("a", "b", "c"), 0)


class Specimen(Calibrator):
    """A temperature on logits; the broken ones override something."""

    def __init__(self, beta: float = 0.6) -> None:
        super().__init__(HEAD, "logits", [ScaleMap(beta)], "specimen")


class DeliversTooMuch(Specimen):
    def deliver(self, flat: Tensor, kind: Kind, contexts: Any = NOTHING) -> Tensor:
        return super().deliver(flat, kind, contexts) * 1.00001


class RoundsTheWinnerAway(Specimen):
    """Forgets that rounding may tie: at T = 1e10 whole rows are equal."""

    def __init__(self) -> None:
        super().__init__(1e-10)

    def deliver(self, flat: Tensor, kind: Kind, contexts: Any = NOTHING) -> Tensor:
        return self.map_rows(self.head.canonical(flat, kind), None).exp().float()


class SwapsTheLosers(Specimen):
    """Keeps the winner and turns the other two around."""

    def deliver(self, flat: Tensor, kind: Kind, contexts: Any = NOTHING) -> Tensor:
        p = super().deliver(flat, kind, contexts)
        places = p.argsort(0)
        return p.scatter(0, places, p.gather(0, places[[1, 0, 2]]))


class TakesAVolumeForImages(Specimen):
    def forward(self, scores: Tensor, *, kind: Kind | None = None, check: bool = True) -> Tensor:
        p = super().forward(scores, kind=kind, check=check)
        return p.flip(0) if scores.dim() == 5 and scores.shape[0] > 1 else p


class NeedsAVoxel(Specimen):
    def forward(self, scores: Tensor, *, kind: Kind | None = None, check: bool = True) -> Tensor:
        return super().forward(scores - scores.min() * 0, kind=kind, check=check)


class DropsOutInTraining(Specimen):
    def forward(self, scores: Tensor, *, kind: Kind | None = None, check: bool = True) -> Tensor:
        p = super().forward(scores, kind=kind, check=check)
        return p.flip(-1) if self.training else p


class ChangesTheScores(Specimen):
    def forward(self, scores: Tensor, *, kind: Kind | None = None, check: bool = True) -> Tensor:
        p = super().forward(scores, kind=kind, check=check)
        scores[..., 0] = 0.5
        return p


class SavesRounded(Specimen):
    def save(self, path: Any) -> None:
        Calibrator(HEAD, "logits", [ScaleMap(float(torch.tensor(0.6)))], "specimen").save(path)


class CopiesForget(Specimen):
    def __deepcopy__(self, memo: dict[int, Any]) -> Calibrator:
        return Calibrator(HEAD, "logits", [ScaleMap(0.7)], "specimen")


class TellsOtherLogProbs(Specimen):
    def log_probs(self, scores: Tensor, *, kind: Kind | None = None, check: bool = True) -> Tensor:
        return super().log_probs(scores, kind=kind, check=check) * 1.01


class ClaimsInvariance(Calibrator):
    """Acts on raw logits with unequal row sums, and says that offsets do not matter."""

    def __init__(self) -> None:
        super().__init__(
            HEAD,
            "logits",
            [AffineMap(torch.diag(torch.tensor([1.0, 1.2, 0.9])), torch.zeros(3), logits=True)],
            "specimen",
        )

    def guarantees(self) -> Guarantees:
        return Guarantees("proven", "no", "no")


class Unmapped(Through):
    def __call__(self, rows: Rows) -> Rows:
        return rows


class MeasuresSomethingElse(Specimen):
    def through(self, part: int) -> Any:
        return Unmapped()


class TakesAnything(Specimen):
    def forward(self, scores: Tensor, *, kind: Kind | None = None, check: bool = True) -> Tensor:
        return super().forward(scores, kind=kind, check=False)


class LooksAtValues(Specimen):
    def log_probs(self, scores: Tensor, *, kind: Kind | None = None, check: bool = True) -> Tensor:
        return super().log_probs(scores if scores.max() < 1e9 else -scores, kind=kind, check=check)


BROKEN: list[tuple[Law[Any], type[Calibrator], str]] = [
    (laws.delivers_probabilities, DeliversTooMuch, "sum to one only within|outside"),
    (laws.promised_label_is_delivered, RoundsTheWinnerAway, "labels flip"),
    (laws.promised_order_is_delivered, SwapsTheLosers, "two classes swap"),
    (laws.shape_of_the_batch_is_free, TakesAVolumeForImages, "volumes give other"),
    (laws.an_empty_batch_gives_an_empty_result, NeedsAVoxel, "min"),
    (laws.applying_is_pure, DropsOutInTraining, "applying again"),
    (laws.applying_is_pure, ChangesTheScores, "the scores were changed"),
    (laws.a_file_gives_the_same_bits, SavesRounded, "a loaded copy gives other bits"),
    (laws.copies_give_the_same_bits, CopiesForget, "copy gives other bits"),
    (laws.log_probs_agree_with_what_is_delivered, TellsOtherLogProbs, "differ by"),
    (laws.a_shift_of_logits_moves_nothing_if_promised, ClaimsInvariance, "a shift of the logits"),
    (laws.what_is_measured_is_what_is_delivered, MeasuresSomethingElse, "metrics see other probabilities"),
    (laws.bad_scores_are_refused, TakesAnything, "were taken"),
    (laws.a_trace_gives_the_same_numbers, LooksAtValues, "data-dependent"),
]


@pytest.mark.parametrize(
    ("law", "specimen", "says"), BROKEN, ids=lambda v: v.__name__ if isinstance(v, type) else str(v)
)
def test_a_broken_specimen_is_rejected(law: Law[Any], specimen: type[Any], says: str) -> None:
    with pytest.raises(BrokenLawError, match=says) as found:
        law.check(specimen())
    assert found.value.law is law


def test_every_law_has_a_specimen() -> None:
    assert {law for law, *_ in BROKEN} == set(CALIBRATOR_LAWS)


def test_a_sound_one_keeps_every_law() -> None:
    check_calibrator(Specimen())


def test_labels_of_regions_are_sides_of_a_half() -> None:
    head = Regions(("whole", "core"), ((1, 2), (2,)), (1, 2))
    p = torch.tensor([[[0.5, 0.6]], [[0.4, 0.9]]]).transpose(0, 1).numpy()
    assert laws.promised(p, head, "probs").tolist() == [[[False, True], [False, True]]]
    assert laws.promised(p, head, "logits").all()
