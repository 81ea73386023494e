"""Pipes, sockets, links to devices and folders in place of a file: each is refused by name, and never opened."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from segcal.data.formats import dataset_json
from segcal.data.formats.discover import open_cohort
from segcal.data.formats.zarr import ZarrField
from segcal.data.splits import groups_from_table
from segcal.errors import UnreadableError
from segcal.methods import files
from segcal.study import configuration
from segcal.study.shift.folder import Photometric, corrupt
from tests.hostile.test_bombs import chunk_of, prediction, read, store

Bounds = Callable[..., list[str]]


def special(path: Path, kind: str) -> Path:
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            here = Path.cwd()
            os.chdir(path.parent)  # names of sockets are short
            try:
                made.bind(path.name)
            finally:
                os.chdir(here)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "terminal":
        path.symlink_to("/dev/tty")
    else:
        path.mkdir()
    return path


KINDS = ["fifo", "socket", "device", "folder"]


BESIDE = ("case.npz", "case.pkl", "case.nii.gz", "dataset.json", "plans.json", "predict_from_raw_data_args.json")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_beside_a_prediction(kind: str, tmp_path: Path, within_bounds: Bounds) -> None:
    works = []
    for name in BESIDE:
        (tmp_path / name).mkdir()
        root = prediction(tmp_path / name)
        special(root / name, kind)
        works.append(lambda root=root: open_cohort(root))
    for name, said in zip(BESIDE, within_bounds(*works), strict=True):
        assert said.startswith(("UnreadableError", "MissingError")) and f"{name}: found" in said.replace(
            "m: found no ", ""
        )


ROLES = {
    "scores": (".npz", ".npy", ".nii.gz", ".zarr"),
    "labels": (".npz", ".npy", ".nii", ".nii.gz", ".png", ".tif", ".zarr"),
    "images": (".npz", ".npy", ".nii.gz", ".png", ".tif", ".jpg"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", ["scores", "labels", "mask", "images"])
def test_what_is_no_file_in_a_plain_folder(role: str, kind: str, tmp_path: Path, within_bounds: Bounds) -> None:
    works = []
    for ending in ROLES[role if role != "mask" else "labels"]:
        if (ending, kind) == (".zarr", "folder"):
            continue
        root = tmp_path / ending
        for folder in ("scores", "labels", "mask", "images"):
            (root / folder).mkdir(parents=True)
            if folder != role:
                name = "logits" if folder == "scores" else folder
                np.savez(root / folder / "case.npz", **{name: np.zeros((2, 4, 4) if folder == "scores" else (4, 4))})
        special(root / role / f"case{ending}", kind)
        for where in (root / role, root / role / f"case{ending}")[: 1 if role == "images" else 2]:
            given = {"scores": root / "scores", role: where}
            scores = given.pop("scores")
            works.append(lambda scores=scores, given=given: open_cohort(scores, kind="logits", **given))
    for said in within_bounds(*works):
        assert said.startswith(("UnreadableError", "MissingError")) and f"/{role}" in said


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_elsewhere(kind: str, tmp_path: Path, within_bounds: Bounds) -> None:
    root = store(tmp_path / "a.zarr")
    special(chunk_of(root), kind)
    (tmp_path / "in").mkdir()
    special(tmp_path / "in" / "a.png", kind)
    names = ("cal.safetensors", "study.yaml", "groups.csv")
    for name in names:
        special(tmp_path / name, kind)
    said = within_bounds(
        lambda: files.load(tmp_path / "cal.safetensors"),
        lambda: configuration.read(tmp_path / "study.yaml"),
        lambda: groups_from_table(tmp_path / "groups.csv"),
        lambda: corrupt(tmp_path / "in", tmp_path / "out", Photometric("mild")),
        lambda: read(ZarrField.find(root, channel_axis=0)),
    )
    for text, name in zip(said, (*names, "in", "a.zarr"), strict=True):
        assert text.startswith(("UnreadableError", "MissingError")) and name in text


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_nothing_that_is_no_file_is_opened(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="never read"):
        dataset_json.read_json(special(tmp_path / "dataset.json", kind))
