"""The formats by name, and which one suits a cohort: nnU-Net's layout for what nnU-Net wrote, compressed npz for
everything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segcal.data.cohort import Cohort
from segcal.data.formats.nifti import NiftiSink
from segcal.data.formats.nnunet_sink import ROLES, NnunetSink
from segcal.data.formats.npz import NpySink, NpzSink
from segcal.data.formats.sink import Sink
from segcal.data.formats.zarr import ZarrSink
from segcal.errors import UsageError

Format = type[NnunetSink] | type[NpzSink] | type[NpySink] | type[ZarrSink] | type[NiftiSink]

FORMATS: dict[str, Format] = {
    "nnunet": NnunetSink,
    "npz": NpzSink,
    "npy": NpySink,
    "zarr": ZarrSink,
    "nifti": NiftiSink,
}


def sink_for(
    cohort: Cohort, folder: Path, maps: Sequence[str] = (), format: str | None = None, *, zyx: bool = False
) -> Sink:
    """A sink into `folder` with the maps asked for, in `format` (a key of `FORMATS`), or the one that suits the cohort.

    `zyx`: the axes of cases from plain folders are (z, y, x), as they were opened; only NIfTI has to know. UsageError
    for a format that is not there, and for nnU-Net's layout where a case lacks the files that nnU-Net leaves.
    """
    if format is not None and format not in FORMATS:
        raise UsageError(
            "format",
            found=repr(format),
            expected="one of " + ", ".join(FORMATS),
            do="Choose one of these, or leave it out.",
        )
    bare = next((case for case in cohort if any(role not in case.files for role in ROLES)), None)
    if format == "nnunet" and bare is not None:
        raise UsageError(
            "format",
            found=f"'nnunet' for case {bare.id}, which nnU-Net did not write",
            expected="cases with a .pkl and a delivered label map",
            do="Choose another format, such as npz.",
        )
    chosen = FORMATS[format] if format is not None else NpzSink if bare is not None else NnunetSink
    if chosen is NiftiSink:
        return NiftiSink(folder, maps, cohort.head.classes, zyx=zyx)
    return chosen(folder, maps, cohort.head.classes)
