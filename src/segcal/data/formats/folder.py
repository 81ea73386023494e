"""Plain folders of scores: CASE.npz, .npy, .zarr or NIfTI, one folder a member of an ensemble, with a folder of label
maps beside.

Promises: the key of a .npz (or the array's name in a zarr group) declares the kind of scores, unless the caller does;
any other file needs `kind`, and nothing is guessed from values. Every member must hold every case: one that lacks a
case is a MissingError naming both. What is wrong with the files of one case costs that case (`Cohort.damaged`). Class
names come from the caller or from a dataset.json in a member's folder or the one above, in nnU-Net's style or the
Decathlon's; of another style it is somebody else's and is left alone. A case without a label map has no labels; if no
case has one, the folder of labels is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from segcal.data.case import Case, Field, Provenance
from segcal.data.cohort import Cohort, refusal
from segcal.data.files.reading import content, entries, json_value, listed
from segcal.data.formats import geometry, nifti, zarr
from segcal.data.formats import label_maps as maps
from segcal.data.formats.beside import Beside
from segcal.data.formats.dataset_json import named_head
from segcal.data.formats.label_maps import Maps, by_case, ending, open_map
from segcal.data.formats.nifti import NiftiField
from segcal.data.formats.npz import NpyField, NpzField, keys
from segcal.data.formats.request import Request
from segcal.data.formats.zarr import ZarrField
from segcal.data.head import Head
from segcal.data.places.region import slice_axis
from segcal.data.scores import Kind, check_kind
from segcal.errors import DataError, MissingError, ShapeError, UsageError

KIND_OF_KEY: Mapping[str, Kind] = {
    "logits": "logits",
    "log_probs": "log_probs",
    "probabilities": "probs",
    "probs": "probs",
    "scores": "scores",
}
"""What the name of an array declares."""


def has_scores(folder: Path) -> bool:
    """Whether a folder holds files of scores."""
    return any(ending(p, maps.SCORES) for p in entries(folder))


def files_of(folder: Path) -> dict[str, Path]:
    """The files of scores in `folder` by case: those of the first ending in `maps.SCORES` that occurs.

    None: MissingError.
    """
    for group in ((".npz",), (".npy",), (".zarr",), nifti.ENDINGS):
        found = by_case(folder, group)
        if found:
            return found
    inside = [p.name for p in entries(folder)]
    raise MissingError(
        str(folder),
        found="an empty folder" if not inside else f"no scores, but {', '.join(inside[:5])}",
        expected=(
            "files of scores: CASE.npz, CASE.npy, CASE.zarr or CASE.nii.gz with four axes; or a folder that nnU-Net"
            " wrote"
        ),
        do="Name the folder that holds the model's scores, not its label maps.",
    )


def open_folders(folders: Sequence[Path], request: Request) -> Cohort:
    """A cohort from one folder, or from several that are members of an ensemble."""
    return open_members([(f, files_of(f)) for f in folders], request, folders[0].name or "cohort")


def open_members(members: Sequence[tuple[Path, Mapping[str, Path]]], request: Request, name: str) -> Cohort:
    """A cohort from files by case, for each member the place it is called by and its files."""
    names = same_cases([(str(where), set(files)) for where, files in members])
    labels = None if request.labels is None else Maps.find(request.labels)
    masks = None if request.mask is None else Maps.find(request.mask)
    beside = Beside.find(request)
    if labels is not None:
        labels.check(names)
    kinds = dict[Kind, Path]()

    def open_case(case: str) -> Case:
        paths = [files[case] for _, files in members]
        found = [scores_in(path, request) for path in paths]
        kinds.update((kind, path) for (kind, _), path in zip(found, paths, strict=True) if kind not in kinds)
        return _case(case, paths, tuple(field for _, field in found), labels, masks, beside, request)

    cases, damaged = opened(names, open_case)
    channels = cases[0].scores[0].channels or 0
    if len(kinds) > 1:
        (one, here), (other, there) = list(kinds.items())[:2]
        raise UsageError(
            str(there),
            found=f"{other}",
            expected=f"{one} as in {here}",
            do="Store all cases and members as one kind of scores.",
        )
    return Cohort(
        cases,
        request.head(_described([where for where, _ in members], channels), channels),
        next(iter(kinds)),
        request.pool,
        beside.told(Provenance(members=len(members), origin="files").told(request.networks)),
        name,
        damaged=damaged,
    )


def opened(names: Iterable[str], open_case: Callable[[str], Case]) -> tuple[tuple[Case, ...], dict[str, DataError]]:
    """Cases by name, and the errors of those whose data cannot be used. None can: the first one's error."""
    cases, damaged = list[Case](), dict[str, DataError]()
    for name in names:
        try:
            case = open_case(name)
            if not case.voxels:
                raise ShapeError(
                    f"case {name}",
                    found=f"shape {case.shape}",
                    expected="at least one voxel along every axis",
                    do="The file was cut short, or a crop left nothing: predict this case again, or leave it out.",
                )
            cases.append(case)
        except DataError as error:
            damaged[name] = error
    if not cases:
        raise refusal(damaged)
    return tuple(cases), damaged


def same_cases(members: Sequence[tuple[str, set[str]]]) -> list[str]:
    """All cases, sorted; MissingError naming case and place if a member lacks one."""
    every = sorted(set().union(*(cases for _, cases in members)))
    for where, cases in members:
        lacking = [c for c in every if c not in cases]
        if lacking:
            raise MissingError(
                where,
                found=f"no scores for case {lacking[0]}"
                + (f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""),
                expected="every case in every member of the ensemble",
                do="Predict the missing cases, or take them out of the other folders.",
            )
    return every


def scores_in(path: Path, request: Request) -> tuple[Kind, Field]:
    """The scores in a file, and their kind."""
    known = ending(path, maps.SCORES)
    if known == ".npz":
        key, kind = _pick(keys(path), request.kind, path)
        return kind, NpzField.find(path, key, channel_axis=request.channel_axis)
    if known == ".zarr":
        names = zarr.keys(path)
        if names != [""]:
            key, kind = _pick(names, request.kind, path)
            return kind, ZarrField.find(path, key, channel_axis=request.channel_axis)
        return _declared(request.kind, path), ZarrField.find(path, channel_axis=request.channel_axis)
    if known == ".npy":
        return _declared(request.kind, path), NpyField.find(path, channel_axis=request.channel_axis)
    if known in nifti.ENDINGS:
        return _declared(request.kind, path), NiftiField.find(path, scores=True, axes=request.axes)
    raise UsageError(
        str(path),
        found=f"a file ending in {path.suffix!r}",
        expected="one of " + ", ".join(maps.SCORES),
        do="Save the scores with numpy.savez_compressed(path, logits=...).",
    )


def _pick(names: list[str], kind: Kind | None, path: Path) -> tuple[str, Kind]:
    if not names:
        raise maps.nothing_in(path)
    known = [n for n in names if n in KIND_OF_KEY]
    fitting = [n for n in known if kind is None or KIND_OF_KEY[n] == kind]
    if len(fitting) == 1:
        return fitting[0], KIND_OF_KEY[fitting[0]]
    alone = known if len(known) == 1 else names
    if kind is not None and not fitting and len(alone) == 1:  # what the caller says is more than a name
        return alone[0], check_kind(kind)
    raise UsageError(
        str(path),
        found=f"arrays {', '.join(names)}" + (f" beside kind={kind!r}" if kind is not None else ""),
        expected="one array called " + ", ".join(KIND_OF_KEY),
        do="Name the array after what it holds, or, if it is the only one, declare it with kind= (--kind).",
    )


def _declared(kind: Kind | None, path: Path) -> Kind:
    if kind is None:
        raise UsageError(
            str(path),
            found="scores of undeclared kind",
            expected="kind= (--kind): " + ", ".join(dict.fromkeys(KIND_OF_KEY.values())),
            do="Say what the model put out, such as --kind logits.",
        )
    return check_kind(kind)


def _case(
    name: str,
    paths: list[Path],
    scores: tuple[Field, ...],
    labels: Maps | None,
    masks: Maps | None,
    beside: Beside,
    request: Request,
) -> Case:
    shape = scores[0].shape
    label_path = None if labels is None else labels.path(name)
    mask = None if masks is None else open_map(masks.required(name), shape, request.axes)
    volumes = [p for p in [*paths, label_path] if p is not None and ending(p, maps.VOLUMES)]
    files, spacing = {"scores": paths[0]}, None
    if label_path is not None:
        files["labels"] = label_path
    placements = [maps.placement(p) for p in volumes]
    if volumes:
        files["geometry"] = volumes[0]
        zooms = placements[0].spacing
        spacing = (zooms[::-1] if request.zyx else zooms) if len(zooms) == len(shape) else None
    target = None if label_path is None else open_map(label_path, shape, request.axes, scores[0].channels)
    elsewhere = geometry.compared(placements, request.geometry)
    fields = beside.of(name, shape, request.axes, scores[0].channels or 0)
    across = slice_axis(shape, spacing, 0 if request.zyx else 2)
    return Case(
        name,
        scores,
        target,
        mask=mask,
        spacing=spacing,
        fields=fields,
        files=files,
        slice_axis=across,
        elsewhere=elsewhere,
        spacing_from_labels=spacing is not None and volumes[0] == label_path,
    )


def _described(folders: Sequence[Path], channels: int) -> Head | None:
    """The head in the dataset.json of each member, which must agree; None if there is none that names the classes."""
    found: list[tuple[Path, Head]] = []
    for folder in folders:
        base = folder if folder.is_dir() and not ending(folder, (".zarr",)) else folder.parent
        path = next((p for p in (base / "dataset.json", base.parent / "dataset.json") if listed(p)), None)
        head = None if path is None else named_head(json_value(content(path), path), path, channels)
        if path is not None and head is not None:
            found.append((path, head))
    return agreed(found)


def agreed(heads: Sequence[tuple[Path, Head]]) -> Head | None:
    """The one head of all; ShapeError naming the file of one that differs. None for no head."""
    for path, head in heads[1:]:
        if head != heads[0][1]:
            raise ShapeError(
                str(path),
                found=f"classes {', '.join(head.classes)}",
                expected=f"{', '.join(heads[0][1].classes)} as in {heads[0][0]}, with the same labels",
                do="Members of an ensemble must be networks for the same classes.",
            )
    return heads[0][1] if heads else None
