"""nnU-Net's results folder: the validation predictions of the folds of a training, each case predicted by the one
network that did not see it.

Promises: `TRAINER__PLANS__CONFIGURATION/fold_K/validation` of every numbered fold, found from that folder, one above
it, or one or several folds named directly; `fold_all` is left out, since it validates on what it trained on. A case in
two folds is a UsageError. Several trainings are members of an ensemble. Labels, unless the caller names them, are
nnU-Net's gt_segmentations: under the environment variable nnUNet_preprocessed, else in the folder nnUNet_preprocessed
beside the results; if there are none, cases have no labels. Mirroring and step size of a validation are not recorded:
not known.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from segcal.data.cohort import Cohort
from segcal.data.files.reading import listed
from segcal.data.formats.dataset_json import read_json
from segcal.data.formats.nnunet import (
    GATHERED,
    Member,
    assemble,
    axes_of,
    backward_of,
    cases_in,
    ending_of,
    postprocessing_in,
)
from segcal.data.formats.request import Request
from segcal.errors import MissingError, UsageError

_FOLD = re.compile(r"fold_(\d+|all)$")
_DEPTH = 3


def is_results(path: Path) -> bool:
    """Whether `path` is a training's folder, lies in one (a fold, its validation), or contains one up to three levels
    below.
    """
    return _fold_of(path) is not None or bool(_trainings(path))


def open_results(paths: Sequence[Path], request: Request) -> Cohort:
    """A cohort from one training, some of its folds, or several trainings as an ensemble."""
    chosen: dict[Path, list[Path]] = {}
    for path in paths:
        fold = _fold_of(path)
        if fold is not None:
            chosen.setdefault(fold.parent, []).append(fold)
            continue
        found = _trainings(path)
        if len(found) > 1:
            raise UsageError(
                str(path),
                found=f"{len(found)} trainings: " + ", ".join(str(p.relative_to(path)) for p in found[:4]),
                expected="one",
                do="Name the one to use, or several one by one to take them as an ensemble.",
            )
        chosen.setdefault(found[0], []).extend(_folds(found[0]))
    members = [_member(training, folds) for training, folds in chosen.items()]
    labels = request.labels or _labels(next(iter(chosen)))
    return assemble(members, replace(request, labels=labels), next(iter(chosen)).name)


def _fold_of(path: Path) -> Path | None:
    """The fold that `path` is, or is the validation of."""
    fold = path.parent if path.name == "validation" else path
    return fold if _FOLD.fullmatch(fold.name) and listed(fold.parent / "dataset.json") else None


def _trainings(path: Path) -> list[Path]:
    """Training folders at `path`, or else at the first level below that has one."""
    for depth in range(_DEPTH + 1):
        found = {
            p.parent
            for p in path.glob("*/" * depth + "fold_*")
            if p.is_dir() and _FOLD.fullmatch(p.name) and ("__" in p.parent.name or listed(p.parent / "dataset.json"))
        }
        if found:
            return sorted(found)
    return []


def _folds(training: Path) -> list[Path]:
    folds = sorted(
        p for p in training.glob("fold_*") if p.is_dir() and _FOLD.fullmatch(p.name) and p.name != "fold_all"
    )
    if not folds:
        raise MissingError(
            str(training),
            found="fold_all only",
            expected="fold_0, fold_1, ...",
            do="fold_all validates on the cases it was trained on; train folds for cases that were held out.",
        )
    return folds


def _member(training: Path, folds: Sequence[Path]) -> Member:
    dataset, plans = training / "dataset.json", training / "plans.json"
    described = read_json(dataset)
    planned = read_json(plans) if listed(plans) else None
    file_ending = ending_of(described, dataset)
    cases: dict[str, Path] = {}
    for fold in dict.fromkeys(folds):
        if fold.name == "fold_all":
            raise UsageError(
                str(fold),
                found="fold_all",
                expected="a numbered fold",
                do="fold_all validates on the cases it was trained on.",
            )
        validation, command = fold / "validation", _command(training, fold)
        if not validation.is_dir():
            raise MissingError(
                str(fold),
                found="no folder 'validation'",
                expected="the validation predictions of this fold",
                do=f"Run: {command}, or name the finished folds one by one.",
            )
        for case in cases_in(validation, file_ending, f"Run: {command}"):
            if case in cases:
                raise UsageError(
                    str(validation),
                    found=f"case {case}, which is also in {cases[case].parent.name}",
                    expected="each case in one fold",
                    do="Name folds of one split only.",
                )
            cases[case] = validation
    return Member(
        training,
        cases,
        dataset,
        plans if planned is not None else None,
        file_ending,
        backward_of(planned, plans),
        axes_of(planned),
        folds=1,
        origin="validation",
        postprocessing=_postprocessing(training, folds),
        validated=len(set(folds)),
    )


def _postprocessing(training: Path, folds: Sequence[Path]) -> Path | None:
    """What nnU-Net determined on the validation of exactly these folds: among the predictions of one fold, or where
    nnUNetv2_find_best_configuration gathers those of several.
    """
    numbers = sorted(int(fold.name.removeprefix("fold_")) for fold in set(folds))
    gathered = training / (GATHERED + "_".join(map(str, numbers)))
    alone = [fold / "validation" for fold in folds] if len(numbers) == 1 else []
    return postprocessing_in(*alone[:1], gathered)


def _command(training: Path, fold: Path) -> str:
    parts = training.name.split("__")
    trainer, plans, configuration = parts if len(parts) == 3 else ("TRAINER", "PLANS", "CONFIGURATION")
    return (
        f"nnUNetv2_train {training.parent.name} {configuration} {fold.name.removeprefix('fold_')} -tr {trainer} -p"
        f" {plans} --val --npz"
    )


def _labels(training: Path) -> Path | None:
    """nnU-Net's copy of the labels it trained on, or None."""
    dataset = training.parent
    named = os.environ.get("nnUNet_preprocessed")  # noqa: SIM112  nnU-Net spells it so
    roots = [Path(named)] if named else []
    roots.append(dataset.parent.parent / "nnUNet_preprocessed")
    return next((p for root in roots if (p := root / dataset.name / "gt_segmentations").is_dir()), None)
