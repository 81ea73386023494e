"""A calibrator inside nnU-Net's own prediction: no file of uncalibrated probabilities is written or read.

    predictor = nnUNetPredictor(...)
    predictor.initialize_from_trained_model_folder(training, use_folds=None)
    calibrate(predictor, "cal.safetensors")
    predictor.predict_from_files(IMAGES, OUT, save_probabilities=True)

Where it happens: nnU-Net averages the logits of its folds (which it accumulates in half precision), resamples them to
the grid of the image inside the box that it cropped to, and takes softmax or sigmoid; those probabilities are what
`--save_probabilities` writes. The calibrator maps just these, on the axes of the file, and hands logarithms back, of
which nnU-Net takes softmax or sigmoid again; the rest of its export goes on as it is.

Promises: the label map is the one that `segcal apply` finds for the files; so are the probabilities, but for the
logarithm on the way (2e-6, relative: a winner that leads by less is moved to lead by `LEAD`). Costs: two arrays of
float32 of the case beside nnU-Net's own, and the engine's memory. Source: nnU-Net 2.8.1,
nnunetv2/inference/export_prediction.py. Nothing of nnU-Net is imported here.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segcal.data.case import Case, Provenance
from segcal.data.cohort import Cohort
from segcal.data.files.journal import Scratch
from segcal.data.formats.arrays import cohort_from_arrays
from segcal.data.formats.dataset_json import head_of
from segcal.data.formats.sink import Delivered
from segcal.data.head import Head
from segcal.data.places.region import slice_axis
from segcal.engine.engine import Engine
from segcal.engine.serial import Serial
from segcal.errors import UsageError
from segcal.methods.calibrator import Calibrator
from segcal.methods.files import load
from segcal.tasks.apply import apply
from segcal.tasks.matching import check_match

LEAD = 2.0**-20
"""By how much the logarithm of the decided label's probability leads, at least: softmax and float32 keep that."""


def calibrate(predictor: Any, calibrator: Calibrator | str | os.PathLike[str], *, go_on: bool = False) -> list[str]:
    """From here on, let an initialised `nnUNetPredictor` write calibrated probabilities, in every way it predicts.

    Returns what must be said of how its predictions differ from those the calibrator was fitted on. Raises
    MismatchError where classes differ, or, unless `go_on`, the number of folds, mirroring or step size; UsageError
    where the predictor is not initialised, is calibrated already, or the calibrator needs images or a network beside
    scores.
    """
    configuration = getattr(predictor, "configuration_manager", None)
    if configuration is None or isinstance(configuration, Calibrated):
        raise UsageError(
            "predictor",
            found="no training" if configuration is None else "one that is calibrated already",
            expected="an initialised nnUNetPredictor",
            do=(
                "Call initialize_from_trained_model_folder first."
                if configuration is None
                else "Initialise it again, or make another, for another calibrator."
            ),
        )
    loaded = calibrator if isinstance(calibrator, Calibrator) else load(calibrator)
    if loaded.needs.fields or loaded.needs.segmenter:
        raise UsageError(
            "calibrator",
            found="one that needs images or the network beside scores",
            expected="one of scores alone",
            do="Save probabilities and use `segcal apply` with --images.",
        )
    head = head_of(predictor.dataset_json, Path("dataset.json"))
    networks = predictor.list_of_parameters
    made = Provenance(
        folds=len(networks) if networks else 1,
        tta=bool(predictor.use_mirroring),
        step_size=float(predictor.tile_step_size),
        origin="prediction",
    )
    inside = Calibrated(configuration, predictor.plans_manager, predictor.label_manager, loaded, head, made)
    notes = check_match(loaded, inside.cohort(torch.zeros(head.channels, 0, 1, 1)), go_on=go_on)
    predictor.configuration_manager = inside
    return notes


class Calibrated:
    """A configuration of nnU-Net whose resampled logits are calibrated; in all else the configuration itself. Can be
    pickled, as nnU-Net does for the processes that export.
    """

    def __init__(
        self, configuration: Any, plans: Any, labels: Any, calibrator: Calibrator, head: Head, made: Provenance
    ) -> None:
        self._configuration, self._plans, self._labels = configuration, plans, labels
        self._calibrator, self._head, self._made = calibrator, head, made

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_configuration" not in self.__dict__:  # while it is being unpickled
            raise AttributeError(name)
        return getattr(self._configuration, name)

    def resampling_fn_probabilities(
        self, logits: Any, shape: Sequence[int], current_spacing: Sequence[float], new_spacing: Sequence[float]
    ) -> Tensor:
        """Logits (channels, *spatial) resampled as the configuration says, and calibrated: logarithms of probabilities,
        float32, or log-odds of regions.
        """
        resampled = self._configuration.resampling_fn_probabilities(logits, shape, current_spacing, new_spacing)
        p = self._labels.apply_inference_nonlin(resampled)
        forward, backward = self._plans.transpose_forward, self._plans.transpose_backward
        as_filed = p.permute(0, *(i + 1 for i in backward))
        spacing = tuple(float(new_spacing[i]) for i in backward)
        calibrated = self._applied(as_filed, spacing).permute(0, *(i + 1 for i in forward))
        return _handed_back(calibrated, self._head)

    def cohort(self, probabilities: Tensor, spacing: tuple[float, ...] | None = None) -> Cohort:
        """One case (channels, *spatial), as this training predicts it."""
        found = cohort_from_arrays([probabilities], kind="probs", head=self._head)
        axis = slice_axis(tuple(probabilities.shape[1:]), spacing, 0)
        case = replace(found[0], spacing=spacing, slice_axis=axis)
        return replace(found, cases=(case,), provenance=self._made, name="the predictor")

    def _applied(self, probabilities: Tensor, spacing: tuple[float, ...]) -> Tensor:
        out = torch.empty(probabilities.shape, dtype=torch.float32)
        engine: Engine = Serial()
        # what differs from the fit was looked at before
        outcomes = apply(self._calibrator, self.cohort(probabilities, spacing), Into(out), engine, go_on=True)
        for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error
        return out


@dataclass(frozen=True, eq=False)
class Into:
    """A sink that is one array (channels, *spatial), contiguous."""

    array: Tensor

    @contextlib.contextmanager
    def case(self, cohort: Cohort, case: Case, scratch: Scratch) -> Iterator[Into]:
        """The only case."""
        yield self

    def write(self, delivered: Delivered) -> None:
        """Put a block in its place."""
        p = delivered.probabilities
        self.array.view(len(self.array), -1)[:, delivered.start : delivered.start + p.shape[1]] = p

    def finish(self, cohort: Cohort) -> None:
        """Nothing belongs to a folder."""

    def outputs(self, case: Case) -> list[Path]:
        """No files."""
        return []

    def shared(self, cohort: Cohort) -> list[Path]:
        """No files."""
        return []


def _handed_back(p: Tensor, head: Head) -> Tensor:
    """What softmax, or sigmoid, turns into `p` again, with the decision of `p`."""
    tiny = torch.finfo(torch.float32).tiny
    if not head.sums_to_one:  # regions
        odds = torch.logit(p.double())
        return torch.where(p > 0.5, odds.clamp_min(LEAD), odds.clamp_max(0.0)).float()
    logs = p.clamp_min(tiny).log()
    winner = p.argmax(0, keepdim=True)
    others = logs.scatter(0, winner, -torch.inf).amax(0, keepdim=True)
    return logs.scatter(0, winner, torch.maximum(logs.gather(0, winner), others + LEAD))
