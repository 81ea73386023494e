"""From paths to a cohort: which layout of folders is this?

Promises: the layout is decided by names of files and folders alone, and all paths must have the same one. What is not
recognised is an error that says what was looked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType

from segcal.data import numbering
from segcal.data.cohort import Cohort, Damaged
from segcal.data.files.reading import check_there, entries
from segcal.data.formats import folder, nnunet, nnunet_results, zarr
from segcal.data.formats import label_maps as maps
from segcal.data.formats.geometry import Geometry
from segcal.data.formats.request import Request
from segcal.data.numbering import Numbers
from segcal.data.pooling import Pool
from segcal.data.scores import check_kind
from segcal.errors import MissingError, UsageError

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Layout:
    """One way in which predictions lie on disk: how it is called, how it is recognised, how it is opened."""

    name: str
    matches: Callable[[Path], bool]
    open: Callable[[Sequence[Path], Request], Cohort]


def open_cohort(
    paths: PathLike | Sequence[PathLike],
    labels: PathLike | None = None,
    *,
    kind: str | None = None,
    pool: Pool = "probs",
    classes: Sequence[str] | None = None,
    background: int | EllipsisType | None = ...,
    ignore_index: int | Sequence[int] | None = None,
    label_map: Numbers | None = None,
    mask: PathLike | None = None,
    zyx: bool = False,
    channel_axis: int = 0,
    images: PathLike | None = None,
    networks: int | None = None,
    geometry: Geometry = "strict",
    copies: PathLike | None = None,
    damaged: Damaged = "refuse",
) -> Cohort:
    """Find the cases in `paths` and describe them; no voxel is read.

    `paths`: an nnU-Net results folder, an nnU-Net prediction folder, a folder of CASE.npz, .npy, .zarr or NIfTI, or a
    single such file; several folders are members of an ensemble, several files cases. `labels`, `mask`: a folder of
    maps named as the cases, or the one file of a single case. `kind`: what the scores are, where the files do not say.
    `pool`: how members are averaged. `classes`: names. `background`: index left out of Dice and IoU, None for none;
    left out, what dataset.json says, else none. `ignore_index`: label, or labels, never scored. `label_map`: classes by
    the numbers label maps give them, where these are not those of the channels: {255: 1} for masks of 0 and 255, {1: 0,
    2: 1} for labels counted from 1; two labels may be one class, None leaves one out, and what is not named keeps its
    number. `zyx`: arrays of a plain folder have their spatial axes in the reverse of NIfTI's (x, y, z), as SimpleITK
    gives them. `channel_axis`: the class axis of arrays in a plain folder. `images`: a folder of the images that were
    segmented, named as the cases, for methods that look at them. `networks`: how many networks each path's
    probabilities average, where the files do not say. `copies`: a folder that `segcal copies` wrote, for methods that
    look at what the network says of copies of each image.
    `geometry`: what to do where files of one case lie at different places: 'strict' refuses the case, 'nnunet' goes on
    where the sizes of voxels agree, as nnU-Net does, 'ignore' does not compare (`segcal.data.formats.geometry`).
    `damaged`: cases with a file that cannot be used (truncated, of another shape than the scores) are refused, or
    'exclude' leaves them out, each with its error in the cohort's `damaged`.

    Raises UsageError for arguments, MissingError where cases, labels or probabilities are missing, other DataErrors for
    files that cannot be used.
    """
    listed = [Path(p) for p in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    if not listed:
        raise UsageError(
            "paths",
            found="no path",
            expected="at least one folder of predictions",
            do="Name the folder that holds the model's scores.",
        )
    ignored = numbering.listed(ignore_index)
    request = Request(
        None if labels is None else Path(labels),
        None if kind is None else check_kind(kind),
        pool,
        classes,
        background,
        ignored,
        None if mask is None else Path(mask),
        zyx,
        channel_axis,
        None if images is None else Path(images),
        networks,
        geometry,
        None if copies is None else Path(copies),
    )
    layouts = [layout_of(p) for p in listed]
    for path, layout in zip(listed, layouts, strict=True):
        if layout is not layouts[0]:
            raise UsageError(
                str(path),
                found=f"{layout.name}",
                expected=f"{layouts[0].name} as {listed[0]}",
                do="Members of an ensemble must lie in the same way; name folders of one kind.",
            )
    twice = [p for k, p in enumerate(listed) if p.resolve() in {q.resolve() for q in listed[:k]}]
    if twice:
        raise UsageError(str(twice[0]), found="a path named twice", expected="each member once", do="Leave it out.")
    cohort = layouts[0].open(listed, request).numbered(label_map, ignored)
    return cohort if damaged == "exclude" else cohort.whole()


def _is_file(path: Path) -> bool:
    return not path.is_dir() or zarr.is_store(path)


def _open_files(paths: Sequence[Path], request: Request) -> Cohort:
    """Files with different names are cases; files with the same name in different folders are members."""
    members: list[dict[str, Path]] = []
    for path in paths:
        name = maps.stem(path)
        free = next((m for m in members if name not in m), None)
        if free is None:
            members.append({name: path})
        else:
            free[name] = path
    return folder.open_members([(next(iter(m.values())), m) for m in members], request, maps.stem(paths[0]))


LAYOUTS = (
    Layout("a file of scores", _is_file, _open_files),
    Layout("an nnU-Net results folder", nnunet_results.is_results, nnunet_results.open_results),
    Layout("an nnU-Net prediction folder", nnunet.is_predictions, nnunet.open_predictions),
    Layout("a folder of scores", folder.has_scores, folder.open_folders),
)


def layout_of(path: Path) -> Layout:
    """How predictions lie in `path`. UsageError or MissingError where they do not."""
    check_there(path, "predictions")
    for layout in LAYOUTS:
        if layout.matches(path):
            return layout
    inside = entries(path)
    holding = [
        p
        for p in inside
        if p.is_dir() and not p.name.startswith(("label", "gt_")) and any(layout.matches(p) for layout in LAYOUTS)
    ]
    if holding:
        raise UsageError(
            str(path),
            found="folders only: " + ", ".join(p.name for p in inside[:8]),
            expected="one folder of predictions, or several named one by one",
            do="Name the members of the ensemble: " + " ".join(str(p) for p in holding[:8]),
        )
    raise MissingError(
        str(path),
        found=(
            "an empty folder"
            if not inside
            else f"neither scores nor an nnU-Net layout, but {', '.join(p.name for p in inside[:5])}"
        ),
        expected=(
            "CASE.npz, .npy, .zarr or NIfTI scores; an nnU-Net prediction folder (dataset.json, plans.json, CASE.npz);"
            " or an nnU-Net results folder (fold_0/validation, ...)"
        ),
        do=(
            "Name the folder that holds the model's scores; scores in another format are to be saved as one of these,"
            " such as numpy.savez_compressed('CASE.npz', logits=array) with the classes on the first axis."
        ),
    )
