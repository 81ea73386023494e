"""nnU-Net's (version 2) folders read: probabilities, properties and label maps of every case, in one folder or several
as an ensemble.

Promises: arrays are (C, Z, Y, X) probabilities of a softmax or region head as dataset.json says, or what the
caller's `kind` says (early versions stored logits); label maps are read in the same order of axes. The box in which the
network looked comes from the .pkl (through `pickles`, which runs nothing), whose axes are permuted as plans.json tells;
outside is padding. Without a .pkl, or with one that holds the probabilities once more (nnUNetv2_ensemble wrote those
until 2026), the box is found in the probabilities, or the case is refused when it is read (`segcal.data.padding`).
Label maps must lie where the delivered map lies (`geometry`). A case without .npz is a MissingError with the command
that makes it. `fields['delivered']` is the label map nnU-Net wrote, for one member; members of an ensemble have one
each, of which none is the ensemble's. `files`: 'folder', 'dataset', 'plans', 'properties' and 'label_map' of the first
member, 'postprocessing' of the only one, 'labels'. Spacing in mm is known for volumes. Where plans.json names a reader
that turns images to canonical axes (`WithReorient`), label maps are turned alike. A delivered map in a format that
segcal does not read is in `files` and not in `fields`.

Writing the same layout: `nnunet_sink`. Source: nnU-Net 2.8.1, nnunetv2/inference/export_prediction.py.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segcal.data.case import Case, Field, Origin, Provenance
from segcal.data.cohort import Cohort
from segcal.data.files.reading import entries, listed, shown
from segcal.data.formats import geometry, pickles
from segcal.data.formats import label_maps as maps
from segcal.data.formats.beside import Beside
from segcal.data.formats.dataset_json import head_of, read_json
from segcal.data.formats.folder import agreed, opened, same_cases
from segcal.data.formats.label_maps import Maps, ending, open_map
from segcal.data.formats.nifti import Axes
from segcal.data.formats.npz import NpzField
from segcal.data.formats.request import Request
from segcal.data.padding import Box, UnrecordedBox
from segcal.data.places.region import slice_axis
from segcal.errors import MissingError, ShapeError, UnreadableError, UsageError

KEY = "probabilities"
ARGUMENTS = "predict_from_raw_data_args.json"
CASCADE = "folder_with_segs_from_prev_stage"
GATHERED = "crossval_results_folds_"
"""How the folder begins into which nnUNetv2_find_best_configuration gathers label maps; the numbers of folds follow."""

POSTPROCESSING = ("postprocessing.pkl", "postprocessing.json")
"""The steps, and how they are told to a person; nnU-Net writes both among the predictions."""


Record = Mapping[str, Any] | pickles.StoredArray | None
"""What a .pkl holds: properties, or the shape of the array in their place; None where there is no .pkl."""


@dataclass(frozen=True)
class Member:
    """One network's (or one folder's) predictions: the folder of each case, and what the training folder says about
    all.

    `backward`: plans.json's transpose_backward, or None without plans. `axes`: order of its arrays' axes. `folds`,
    `tta`, `step_size`, `origin`, `recorded`, `validated`: as in `Provenance`. `postprocessing`: what nnU-Net determined
    on these predictions, if it did.
    """

    where: Path
    cases: Mapping[str, Path]
    dataset: Path
    plans: Path | None
    file_ending: str
    backward: tuple[int, ...] | None
    axes: Axes
    folds: int | None = None
    tta: bool | None = None
    step_size: float | None = None
    origin: Origin = "prediction"
    recorded: tuple[tuple[str, str], ...] | None = None
    postprocessing: Path | None = None
    validated: int | None = None

    def map_of(self, case: str) -> Path | None:
        """The delivered label map, or None."""
        path = self.cases[case] / f"{case}{self.file_ending}"
        return path if listed(path) else None

    def properties_of(self, case: str) -> Path | None:
        """The .pkl, or None."""
        path = self.cases[case] / f"{case}.pkl"
        return path if listed(path) else None

    def record_of(self, case: str, scores: Field) -> Record:
        """What the .pkl says, or that it holds an array of the shape of the `scores`; None where there is none."""
        path = self.properties_of(case)
        found = None if path is None else pickles.load(path)
        if isinstance(found, pickles.StoredArray) and found.shape != (scores.channels, *scores.shape):
            raise UnreadableError(
                str(path),
                found=f"an array of shape {found.shape}",
                expected="the properties that nnU-Net writes, or the probabilities once more",
                do="Delete it, or copy the .pkl of this case from where it was predicted.",
            )
        return found


def is_predictions(folder: Path) -> bool:
    """Whether `nnUNetv2_predict` wrote this folder: dataset.json beside plans.json, the saved arguments or a .pkl."""
    return listed(folder / "dataset.json") and (
        listed(folder / "plans.json") or listed(folder / ARGUMENTS) or any(folder.glob("*.pkl"))
    )


def open_predictions(folders: Sequence[Path], request: Request) -> Cohort:
    """A cohort from one prediction folder, or from several that are members of an ensemble."""
    return assemble([_predictions(f) for f in folders], request, folders[0].name)


def _predictions(folder: Path) -> Member:
    dataset, plans = folder / "dataset.json", folder / "plans.json"
    described = read_json(dataset)
    planned = read_json(plans) if listed(plans) else None
    settings = read_json(folder / ARGUMENTS) if listed(folder / ARGUMENTS) else None
    data = (planned or {}).get("dataset_name")
    data = data if isinstance(data, str) and data else "DATASET"
    do = f"Run: nnUNetv2_predict -i IMAGES -o {folder} -d {data} -c CONFIGURATION --save_probabilities"
    if folder.name.startswith(GATHERED):
        do = f"nnU-Net gathers label maps alone here: name the folder of the training, {folder.parent}"
    file_ending = ending_of(described, dataset)
    cases = cases_in(folder, file_ending, do)
    folds, tta, step = ((settings or {}).get(name) for name in ("use_folds", "use_mirroring", "tile_step_size"))
    return Member(
        folder,
        dict.fromkeys(cases, folder),
        dataset,
        plans if planned is not None else None,
        file_ending,
        backward_of(planned, plans),
        axes_of(planned),
        len(folds) or None if isinstance(folds, list) else None,
        tta if isinstance(tta, bool) else None,
        float(step) if isinstance(step, int | float) and 0 < step <= 1 else None,
        recorded=None if settings is None else _recorded(settings),
        postprocessing=postprocessing_in(folder),
    )


def postprocessing_in(*folders: Path) -> Path | None:
    """What `nnUNetv2_determine_postprocessing` left in the first of these folders that has it."""
    return next((path for folder in folders if (path := folder / POSTPROCESSING[0]).is_file()), None)


def _recorded(settings: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What else of the saved arguments decides about probabilities: whether there were maps of a previous stage, not
    where; no path, and nothing of processes.
    """
    found = {name: json.dumps(settings[name])[:80] for name in ("checkpoint_name", "use_gaussian") if name in settings}
    if CASCADE in settings:
        found["previous stage"] = json.dumps(settings[CASCADE] is not None)
    return tuple(sorted(found.items()))


def ending_of(described: Mapping[str, Any], dataset: Path) -> str:
    """The ending of label maps that dataset.json names."""
    value = described.get("file_ending")
    if not isinstance(value, str) or not re.fullmatch(r"\.[\w.]{1,20}", value):
        raise UnreadableError(
            str(dataset),
            found=f"file_ending {shown(value)}",
            expected='an ending such as ".nii.gz"',
            do="Copy dataset.json from the training folder again.",
        )
    return value


def backward_of(plans: Mapping[str, Any] | None, path: Path) -> tuple[int, ...] | None:
    """plans.json's transpose_backward; None without plans."""
    if plans is None:
        return None
    value: Any = plans.get("transpose_backward")
    if not _are_integers(value, 2, 3) or sorted(value) != list(range(len(value))):
        raise UnreadableError(
            str(path),
            found=f"transpose_backward {shown(value)}",
            expected="a permutation of the axes",
            do="Copy plans.json from the training folder again.",
        )
    return tuple(value)


def axes_of(plans: Mapping[str, Any] | None) -> Axes:
    """The order in which nnU-Net's reader has the axes of NIfTI files."""
    return Axes(reverse=True, canonical=str((plans or {}).get("image_reader_writer", "")).endswith("WithReorient"))


def cases_in(folder: Path, file_ending: str, do: str) -> list[str]:
    """Cases of a folder, sorted.

    MissingError, with what to `do`, if one has a label map but no .npz, or if there is none. A .pkl beside neither is
    no case: nnU-Net writes postprocessing.pkl among its predictions.
    """
    names = [p.name for p in entries(folder)]
    found, delivered = (
        {n[: -len(e)] for n in names if n.endswith(e) and len(n) > len(e)} for e in (".npz", file_ending)
    )
    lacking = sorted(delivered - found)
    if lacking:
        raise MissingError(
            str(folder),
            found=f"no {lacking[0]}.npz"
            + (f" (and {len(lacking) - 1} more cases without one)" if len(lacking) > 1 else ""),
            expected="the probabilities of every case",
            do=do,
        )
    if not found:
        raise MissingError(str(folder), found="no case", expected="CASE.npz files", do=do)
    return sorted(found)


def assemble(members: Sequence[Member], request: Request, name: str) -> Cohort:
    """A cohort from members; labels from `request.labels`."""
    described = agreed([(m.dataset, head_of(read_json(m.dataset), m.dataset)) for m in members])
    names = same_cases([(str(m.where), set(m.cases)) for m in members])
    labels = None if request.labels is None else Maps.find(request.labels)
    masks = None if request.mask is None else Maps.find(request.mask)
    beside = Beside.find(request)
    provenance = beside.told(_provenance(members).told(request.networks))
    if labels is not None:
        labels.check(names)
    cases, damaged = opened(names, lambda case: _case(case, members, labels, masks, beside, request.geometry))
    return Cohort(
        cases,
        request.head(described, cases[0].scores[0].channels or 0),
        request.kind or "probs",
        request.pool,
        provenance,
        name,
        damaged=damaged,
    )


def _case(
    name: str,
    members: Sequence[Member],
    labels: Maps | None,
    masks: Maps | None,
    beside: Beside,
    wanted: geometry.Geometry,
) -> Case:
    scores: tuple[Field, ...] = tuple(
        NpzField.find(m.cases[name] / f"{name}.npz", KEY, channel_axis=0) for m in members
    )
    first, shape = members[0], scores[0].shape
    records = [m.record_of(name, field) for m, field in zip(members, scores, strict=True)]
    crop, spacing = _geometry(name, members, scores, records)
    label_path = None if labels is None else labels.path(name)
    delivered = [path for m in members if (path := m.map_of(name)) is not None]
    volumes = [p for p in [*delivered, label_path] if p is not None and ending(p, maps.VOLUMES)]
    target = None if label_path is None else open_map(label_path, shape, first.axes, scores[0].channels)
    placements = [maps.placement(p) for p in volumes]
    elsewhere = geometry.compared(placements, wanted)
    recorded = spacing is not None
    if volumes and spacing is None and len(shape) == 3 and not first.axes.canonical:
        zooms = placements[0].spacing[::-1]
        spacing = zooms if len(zooms) == 3 else None
    files = {"folder": first.cases[name], "dataset": first.dataset}
    replaced = isinstance(records[0], pickles.StoredArray)
    files |= {
        role: path
        for role, path in (
            ("plans", first.plans),
            ("properties", None if replaced else first.properties_of(name)),
            ("postprocessing", first.postprocessing if len(members) == 1 else None),
        )
        if path is not None
    }
    for number, member in enumerate(members[1:], 1):
        files |= {
            f"{role}{number}": path
            for role, path in (("properties", member.properties_of(name)), ("label_map", member.map_of(name)))
            if path is not None
        }
    if label_path is not None:
        files["labels"] = label_path
    fields: dict[str, Field] = {}
    own = first.map_of(name)
    if own is not None:
        files["label_map"] = own
        if len(members) == 1 and ending(own, maps.ENDINGS):
            fields["delivered"] = open_map(own, shape, first.axes)
    fields |= beside.of(name, shape, first.axes, scores[0].channels or 0)
    mask = None if masks is None else open_map(masks.required(name), shape, first.axes)
    unrecorded = UnrecordedBox(f"{name}.pkl", replaced) if crop is None else None
    return Case(
        name,
        scores,
        target,
        mask=mask,
        crop=crop,
        spacing=spacing,
        fields=fields,
        files=files,
        unrecorded=unrecorded,
        slice_axis=slice_axis(shape, spacing, 0),
        elsewhere=elsewhere,
        spacing_from_labels=spacing is not None and not recorded and volumes[0] == label_path,
    )


def _geometry(
    name: str, members: Sequence[Member], scores: Sequence[Field], records: Sequence[Record]
) -> tuple[Box | None, tuple[float, ...] | None]:
    """The box in which the networks looked and the spacing, from the members' .pkl files; None where there is none."""
    box: Box | None = None
    spacing: tuple[float, ...] | None = None
    for member, field, properties in zip(members, scores, records, strict=True):
        path = member.properties_of(name)
        if path is None or not isinstance(properties, Mapping):
            continue
        found = _box(properties, member, field, path)
        if box is not None and found != box:
            raise ShapeError(
                str(path),
                found=f"a crop box {found}",
                expected=f"{box} as in the other members",
                do="Members of an ensemble must have predicted the same images.",
            )
        box = found
        value = properties.get("spacing")
        if member.file_ending.lower() in maps.VOLUMES and value is not None:
            spacing = _spacing(value, len(field.shape), path)
    return box, spacing


def _box(properties: Mapping[str, Any], member: Member, field: Field, path: Path) -> Box:
    """The crop box in the array's axes: array axis j is axis backward[j] of the network's. MissingError where
    plans.json, which tells that, is needed and not there.
    """
    box, before = properties.get("bbox_used_for_cropping"), properties.get("shape_before_cropping")
    count = len(field.shape)
    if not (
        _are_integers(before, count)
        and isinstance(box, list | tuple)
        and len(box) == count
        and all(_are_integers(b, 2) for b in box)
    ):
        raise UnreadableError(
            str(path),
            found=f"bbox_used_for_cropping {shown(box)}, shape_before_cropping {shown(before)}",
            expected=f"{count} pairs and {count} sizes",
            do="Predict this case again.",
        )
    assert before is not None and box is not None
    whole = all(low <= 0 and high >= n for (low, high), n in zip(box, before, strict=True))
    if member.backward is None and whole and sorted(before) == sorted(field.shape):
        # nnUNetv2_ensemble copies no plans.json, which does not matter where nothing was cropped
        return tuple((0, n) for n in field.shape)
    if member.backward is None or len(member.backward) != count:
        raise MissingError(
            str(member.where),
            found="no plans.json" if member.backward is None else f"plans.json for {len(member.backward)} axes",
            expected=f"plans.json for {count} axes, which tells in which axes {path.name} gives the crop box",
            do="Copy plans.json from the training folder.",
        )
    shape = tuple(before[b] for b in member.backward)
    if shape != field.shape:
        raise ShapeError(
            field.where,
            found=f"probabilities of shape {field.shape}",
            expected=f"{shape} as {path.name} says",
            do="Probabilities and properties must be of one prediction: predict this case again.",
        )
    return tuple((max(0, int(box[b][0])), min(int(box[b][1]), n)) for b, n in zip(member.backward, shape, strict=True))


def _are_integers(value: object, *counts: int) -> bool:
    return isinstance(value, list | tuple) and len(value) in counts and all(type(v) is int for v in value)


def _spacing(value: object, count: int, path: Path) -> tuple[float, ...] | None:
    """The spacing in mm; None for other axes than the array's. UnreadableError for what are no sizes of voxels."""
    if (
        not isinstance(value, list | tuple)
        or not value
        or not all(type(v) in (int, float) and 0 < v < math.inf for v in value)
    ):
        raise UnreadableError(
            str(path), found=f"spacing {shown(value)}", expected="positive numbers", do="Predict this case again."
        )
    return tuple(float(v) for v in value) if len(value) == count else None


def _provenance(members: Sequence[Member]) -> Provenance:
    """Settings common to all members; members made with different ones are a UsageError."""
    for member in members[1:]:
        for what, value, first in (
            ("networks (use_folds)", member.folds, members[0].folds),
            ("test-time mirroring (use_mirroring)", member.tta, members[0].tta),
            ("step size (tile_step_size)", member.step_size, members[0].step_size),
        ):
            if value != first and value is not None and first is not None:
                raise UsageError(
                    str(member.where),
                    found=f"{what}: {value}",
                    expected=f"{first} as in {members[0].where}",
                    do="Predict all members with the same settings; a calibrator is bound to them.",
                )
    known = [(m.folds, m.tta, m.step_size) for m in members]
    folds, tta, step = (
        values[0] if all(v is not None for v in values) else None for values in zip(*known, strict=True)
    )
    records = [m.recorded for m in members if m.recorded is not None]
    recorded = tuple(pair for pair in records[0] if all(pair in r for r in records)) if records else None
    validated = {m.validated for m in members}
    return Provenance(
        len(members),
        folds,
        tta,
        step,
        members[0].origin,
        recorded if len(records) == len(members) else None,
        validated.pop() if len(validated) == 1 else None,
    )
