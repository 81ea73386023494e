"""nnU-Net's layout of a prediction folder, as its own `ensemble_folders` and `apply_postprocessing_to_folder` read on.

For each case CASE.npz (`probabilities`, float32, channels first, in nnU-Net's axes), CASE.pkl (copied byte for byte,
never opened) and the label map: with one member the delivered file byte for byte, which may be post-processed and
differ from the arg max; with several the decision of the pooled probabilities, on the grid and in the format of the
first member's label map. `finish` copies dataset.json, plans.json and predict_from_raw_data_args.json from the first
member. Maps go to subfolders, so that nnU-Net does not take them for cases: MAP/CASE.nii.gz on the grid of the label
map, or MAP/CASE.tif for pictures, float32.

Promises: a label map holds every label (its type is widened where a label would not fit); geometry is the reference's,
bit for bit; readers of nnU-Net that turn images to canonical axes (`WithReorient` in plans.json) are undone. Costs: see
`gathering`. When there is nothing: a case without the files that nnU-Net leaves is a MissingError before any work.
Source: nnU-Net 2.8.1, nnunetv2/inference/export_prediction.py and nnunetv2/imageio. Deviation: label maps and maps as
.nrrd, .mha, .gipl or 3-D .tif are not written; where one would have to be, that is a UsageError.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from segcal.cases import Case, Cohort
from segcal.errors import MissingError, UsageError
from segcal.head import Head, Softmax
from segcal.journal import Scratch
from segcal.reading import json_object
from segcal.sinks import pictures, streams
from segcal.sinks.gathering import FLOAT, Gathered, gather
from segcal.sinks.grids import Grid, grid_of, is_nifti
from segcal.sinks.maps import Requested
from segcal.sinks.pictures import Picture, is_picture, picture_of
from segcal.sinks.placing import check_targets, output, placed

ROLES = ("folder", "properties", "label_map")
"""What a case must carry in `files`: the folder it was predicted to, its .pkl, its delivered label map."""

SETTINGS = {"dataset.json": "dataset", "plans.json": "plans", "predict_from_raw_data_args.json": "arguments"}
"""What describes a folder, and the role in `files` of a case that says where it is; without one, it is in the case's
folder.
"""


class NnunetSink:
    """Writes nnU-Net prediction folders.

    `maps`: names of maps to write beside; `classes`: names of the channels, needed for the map 'probability'.
    """

    def __init__(self, folder: Path, maps: Sequence[str] = (), classes: Sequence[str] = ()) -> None:
        self._folder, self._maps = Path(folder), Requested(tuple(maps), tuple(classes))

    @contextlib.contextmanager
    def case(self, cohort: Cohort, case: Case, scratch: Scratch) -> Iterator[Gathered]:
        """Open `case` for writing."""
        targets = self.outputs(case)
        check_targets(case, targets)
        pooled = cohort.members > 1
        frame = _frame(case) if pooled or self._maps.names else None
        dtype = (
            None
            if not pooled or frame is None
            else np.promote_types(frame.dtype, np.min_scalar_type(_highest(cohort.head))).newbyteorder("<")
        )
        with gather(cohort, case, self._maps, scratch, dtype) as gathered:
            yield gathered
            gathered.check_complete()
            with placed(targets) as parts:
                streams.write_npz(parts[0], "probabilities", gathered.channels(), (cohort.head.channels, *case.shape))
                shutil.copyfile(case.files["properties"], parts[1])
                if pooled:
                    _write_label_map(parts[2], gathered, frame)
                else:
                    shutil.copyfile(case.files["label_map"], parts[2])
                for part, wanted in zip(parts[3:], self._maps.maps, strict=True):
                    row = gathered.map(wanted)
                    if isinstance(frame, Grid):
                        streams.write_gzip(part, frame.volume(FLOAT), frame.pieces(row))
                    else:
                        pictures.write_map(part, row, case.shape)

    def finish(self, cohort: Cohort) -> None:
        """Copy what describes the folder, as far as it is there."""
        with placed(self.shared(cohort)) as parts:
            for part in parts:
                shutil.copyfile(_setting(cohort.cases[0], part.name), part)

    def shared(self, cohort: Cohort) -> list[Path]:
        """Copies of what describes the folder."""
        return [self._folder / name for name in SETTINGS if _setting(cohort.cases[0], name).is_file()]

    def outputs(self, case: Case) -> list[Path]:
        """Files that `case` will leave: npz, pkl, label map, maps.

        MissingError for a case that nnU-Net did not write.
        """
        missing = [role for role in ROLES if role not in case.files or not case.files[role].exists()]
        if missing:
            raise MissingError(
                f"case {case.id}",
                found="no " + " and no ".join(missing),
                expected="the folder, the .pkl and the label map that nnU-Net leaves beside the probabilities",
                do="Restore them, or write another format (--format npz).",
            )
        label_map = case.files["label_map"]
        ending = ".nii.gz" if label_map.name.lower().endswith(".nii.gz") else label_map.suffix
        own = [output(self._folder, case, e) for e in (".npz", ".pkl", ending)]
        return own + [
            output(self._folder, case, ".nii.gz" if is_nifti(label_map) else ".tif", m.folder) for m in self._maps.maps
        ]


def _frame(case: Case) -> Grid | Picture:
    """What the delivered label map tells of grid and format."""
    label_map = case.files["label_map"]
    if is_nifti(label_map):
        return grid_of(label_map, case.shape, reversed_axes=True, canonical=turns_to_canonical_axes(case))
    if is_picture(label_map, case.shape):
        return picture_of(label_map, case.shape)
    raise UsageError(
        str(label_map),
        found=f"a label map in {label_map.suffix or 'a file without ending'} for a case of shape {case.shape}",
        expected="NIfTI, or a PNG, BMP or TIFF of one slice, wherever maps or a pooled label map are written",
        do="Leave maps out and give one folder of predictions, or write another format (--format npz).",
    )


def _write_label_map(part: Path, gathered: Gathered, frame: Grid | Picture | None) -> None:
    row = gathered.label_map()
    if isinstance(frame, Grid):
        write = streams.write_gzip if part.name.lower().endswith(".gz") else streams.write_plain
        write(part, frame.volume(row.held.dtype, intent=True), frame.pieces(row))
    elif frame is not None:
        pictures.write_label_map(part, row, frame)


def _highest(head: Head) -> int:
    """The highest label a decision can have."""
    return len(head.classes) - 1 if isinstance(head, Softmax) else max(head.order)


def _setting(case: Case, name: str) -> Path:
    return case.files.get(SETTINGS[name], case.files["folder"] / name)


def turns_to_canonical_axes(case: Case) -> bool:
    """Whether the reader named in plans.json turned the image of a case to canonical axes.

    No plans.json: it did not. UnreadableError for one that is no JSON object.
    """
    path = _setting(case, "plans.json")
    if not path.is_file():
        return False
    reader = json_object(path, "Copy it again from the folder of the trained model.").get("image_reader_writer")
    return isinstance(reader, str) and reader.endswith("WithReorient")
