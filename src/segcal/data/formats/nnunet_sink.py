"""nnU-Net's folders written, as its own `ensemble_folders` and `apply_postprocessing_to_folder` read on.

For each case CASE.npz (`probabilities`, float32, channels first, in nnU-Net's axes), CASE.pkl (copied byte for
byte, never opened) and the label map: with one member the delivered file byte for byte, which may be post-processed and
differ from the arg max; with several the decision of the pooled probabilities, on the grid and in the format of the
first member's label map. `finish` copies what describes the first member's folder and, of one member, its
postprocessing.pkl and .json: for an ensemble nnU-Net determines others. Maps go to subfolders, so that nnU-Net does not
take them for cases: MAP/CASE.nii.gz on the grid of the label map, or MAP/CASE.tif for pictures, float32.

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

from segcal.data.case import Case
from segcal.data.cohort import Cohort
from segcal.data.files.journal import Scratch, placed
from segcal.data.formats import pictures, streams
from segcal.data.formats.dataset_json import SETTINGS, setting, turns_to_canonical_axes
from segcal.data.formats.gathering import FLOAT, Gathered, gather
from segcal.data.formats.grids import VoxelGrid, grid_of, is_nifti
from segcal.data.formats.nnunet import POSTPROCESSING
from segcal.data.formats.pictures import Picture, is_picture, picture_of
from segcal.data.formats.placing import check_targets, output
from segcal.data.formats.requested import Requested
from segcal.errors import MissingError, UsageError

ROLES = ("folder", "properties", "label_map")
"""What a case must carry in `files`."""


class NnunetSink:
    """`maps`: names of maps to write beside; `classes`: names of the channels, needed for the map 'probability'."""

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
            else np.promote_types(frame.dtype, np.min_scalar_type(cohort.head.highest)).newbyteorder("<")
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
                    if isinstance(frame, VoxelGrid):
                        streams.write_gzip(part, frame.volume(FLOAT, shown=row.shown), frame.pieces(row))
                    else:
                        pictures.write_map(part, row, case.shape)

    def finish(self, cohort: Cohort) -> None:
        """Copy what describes the folder, as far as it is there."""
        sources = _describing(cohort.cases[0])
        with placed(self.shared(cohort)) as parts:
            for source, part in zip(sources, parts, strict=True):
                shutil.copyfile(source, part)

    def shared(self, cohort: Cohort) -> list[Path]:
        """Copies of what describes the folder."""
        return [self._folder / source.name for source in _describing(cohort.cases[0])]

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


def _describing(case: Case) -> list[Path]:
    """What describes the folder of a case and its predictions, as far as it is there."""
    files = [setting(case, name) for name in SETTINGS]
    if "postprocessing" in case.files:
        files += [case.files["postprocessing"].parent / name for name in POSTPROCESSING]
    return [path for path in files if path.is_file()]


def _frame(case: Case) -> VoxelGrid | Picture:
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


def _write_label_map(part: Path, gathered: Gathered, frame: VoxelGrid | Picture | None) -> None:
    row = gathered.label_map()
    if isinstance(frame, VoxelGrid):
        write = streams.write_gzip if part.name.lower().endswith(".gz") else streams.write_plain
        write(part, frame.volume(row.held.dtype, intent=True), frame.pieces(row))
    elif frame is not None:
        pictures.write_label_map(part, row, frame)
