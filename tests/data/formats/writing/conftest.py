"""Cohorts whose delivered content is known, and what writes them through a sink."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from segcal.data.case import Case, Provenance
from segcal.data.cohort import Cohort
from segcal.data.files.journal import Scratch
from segcal.data.formats.sink import Delivered, Sink
from segcal.data.head import Head, Softmax

OBLIQUE = np.array([[0.7, -0.21, 0.05, -31.5], [0.18, 0.82, -0.3, 12.25], [0.02, 0.35, 1.9, 7.125], [0, 0, 0, 1]])


class Unread:
    """A field that a sink never opens."""

    def __init__(self, where: str, channels: int, shape: tuple[int, ...]) -> None:
        self.where, self.channels, self.shape = where, channels, shape

    @contextlib.contextmanager
    def open(self, scratch: Scratch) -> Iterator[Any]:
        raise AssertionError("a sink reads no scores")
        yield


@dataclass(frozen=True)
class Content:
    """What is delivered: probabilities (channels, *shape), label map (*shape), maps (*shape)."""

    probabilities: NDArray[np.float32]
    label_map: NDArray[np.int64]
    maps: dict[str, NDArray[np.float32]]

    @classmethod
    def random(cls, head: Head, shape: tuple[int, ...], seed: int = 0) -> Content:
        z = np.random.default_rng(seed).normal(0, 2, (head.channels, *shape))
        p = np.exp(z) / np.exp(z).sum(0) if isinstance(head, Softmax) else 1 / (1 + np.exp(-z))
        p = p.astype(np.float32)
        labels = head.label_map(torch.from_numpy(p).flatten(1)).numpy().reshape(shape)
        maps = {"entropy": -(p * np.log(p)).sum(0), "confidence": p.max(0), "error": 1 - p.max(0)}
        return cls(p, labels, maps)


def deliver(sink: Sink, cohort: Cohort, index: int, content: Content, scratch: Scratch, step: int = 97) -> None:
    case = cohort[index]
    with sink.case(cohort, case, scratch) as writer:
        for start in range(0, case.voxels, step):
            stop = min(start + step, case.voxels)
            writer.write(block(content, start, stop))


def block(content: Content, start: int, stop: int) -> Delivered:
    p = torch.from_numpy(content.probabilities.reshape(len(content.probabilities), -1)[:, start:stop])
    labels = torch.from_numpy(content.label_map.reshape(-1)[start:stop])
    return Delivered(
        start, p, labels, {k: torch.from_numpy(v.reshape(-1)[start:stop]) for k, v in content.maps.items()}
    )


def cohort_of(
    shape: tuple[int, ...],
    head: Head,
    names: Sequence[str] = ("a",),
    files: Callable[[str], Mapping[str, Path]] = lambda name: {},
    members: int = 1,
    spacing: tuple[float, ...] | None = None,
) -> Cohort:
    cases = [
        Case(
            n,
            tuple(Unread(f"member{k}/{n}.npz", head.channels, shape) for k in range(members)),
            files=files(n),
            spacing=spacing,
        )
        for n in names
    ]
    return Cohort(tuple(cases), head, "probs", provenance=Provenance(members))


def everything(folder: Path) -> dict[str, bytes]:
    """All files under a folder, hidden ones too, by their relative path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def head() -> Softmax:
    return Softmax(("background", "anterior", "posterior / tail"), background=0)


@pytest.fixture(params=[0, 1 << 20], ids=["on disk", "in memory"])
def scratch(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scratch]:
    """Scratch space too small for any case, and large enough; nothing may be left in it when a case is closed."""
    base = tmp_path / "scratch"
    base.mkdir()
    monkeypatch.setenv("SEGCAL_SCRATCH", str(base))
    with Scratch(request.param) as space:
        yield space
        assert everything(base) == {}


def nifti(
    path: Path,
    array: NDArray[Any],
    affine: NDArray[np.float64],
    qform_code: int = 1,
    sform_code: int = 1,
    kind: type[nibabel.Nifti1Image] = nibabel.Nifti1Image,
) -> None:
    """`array` in file axes (x, y, z), with both forms set apart from each other, so that mixing them up shows."""
    image = kind(array, None)
    image.set_sform(affine, sform_code)
    shifted = affine.copy()
    shifted[:3, 3] += 1
    image.set_qform(shifted, qform_code)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"a label map"
    image.header["cal_max"] = 2
    nibabel.save(image, path)


def nnunet_folder(
    folder: Path,
    names: Sequence[str],
    label_map: Callable[[Path], None],
    ending: str = ".nii.gz",
    plans: str = '{"plans_name": "nnUNetPlans"}',
) -> Callable[[str], dict[str, Path]]:
    """A prediction folder as nnU-Net leaves it; gives the `files` of a case."""
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text('{"labels": {}}\n')
    (folder / "plans.json").write_text(plans)
    (folder / "predict_from_raw_data_args.json").write_text('{"use_folds": [0]}')
    for name in names:
        (folder / f"{name}.pkl").write_bytes(b"\x80never a pickle " + name.encode())
        label_map(folder / f"{name}{ending}")
    return lambda name: {
        "folder": folder,
        "properties": folder / f"{name}.pkl",
        "label_map": folder / f"{name}{ending}",
    }


@pytest.fixture
def kit() -> Any:
    """The functions above, for tests that cannot import this file."""
    return Kit


class Kit:
    OBLIQUE = OBLIQUE
    Content = Content
    deliver = staticmethod(deliver)
    block = staticmethod(block)
    cohort_of = staticmethod(cohort_of)
    everything = staticmethod(everything)
    nifti = staticmethod(nifti)
    nnunet_folder = staticmethod(nnunet_folder)
