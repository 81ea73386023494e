from __future__ import annotations

import nibabel
import numpy as np

from segcal.data.formats.gathering import FLOAT
from segcal.data.formats.grids import grid_without_reference
from segcal.data.formats.nifti import NiftiSink
from segcal.data.formats.requested import Requested
from segcal.data.head import Regions, Softmax
from segcal.tasks.apply import MAPS

SHAPE = (6, 5, 4)


def test_native_axes_take_the_geometry_of_the_labels(kit, head, scratch, tmp_path):
    kit.nifti(tmp_path / "a.nii.gz", np.zeros(SHAPE, np.uint8), kit.OBLIQUE, 2, 4)
    content, cohort = (
        kit.Content.random(head, SHAPE),
        kit.cohort_of(SHAPE, head, files=lambda name: {"labels": tmp_path / "a.nii.gz"}),
    )
    sink = NiftiSink(tmp_path / "out", ("entropy", "probability"), head.classes)
    kit.deliver(sink, cohort, 0, content, scratch)
    sink.finish(cohort)
    out, ref = nibabel.load(tmp_path / "out" / "a.nii.gz"), nibabel.load(tmp_path / "a.nii.gz")
    assert out.shape == (*SHAPE, 3) and out.get_data_dtype() == np.float32
    assert np.array_equal(out.get_fdata(dtype=np.float32), np.moveaxis(content.probabilities, 0, -1))
    for other in (out, nibabel.load(tmp_path / "out" / "entropy" / "a.nii.gz")):
        assert np.array_equal(other.affine, ref.affine) and np.array_equal(other.get_qform(), ref.get_qform())
        assert int(other.header["qform_code"]) == 2 and int(other.header["sform_code"]) == 4
    assert np.array_equal(
        nibabel.load(tmp_path / "out" / "entropy" / "a.nii.gz").get_fdata(dtype=np.float32), content.maps["entropy"]
    )
    assert np.array_equal(
        nibabel.load(tmp_path / "out" / "probability_anterior" / "a.nii.gz").get_fdata(dtype=np.float32),
        content.probabilities[1],
    )


def test_maps_say_what_they_are_and_in_what_range(kit, head, scratch, tmp_path):
    kit.nifti(tmp_path / "a.nii.gz", np.zeros(SHAPE, np.uint8), kit.OBLIQUE)
    content, cohort = (
        kit.Content.random(head, SHAPE),
        kit.cohort_of(SHAPE, head, files=lambda name: {"labels": tmp_path / "a.nii.gz"}),
    )
    kit.deliver(NiftiSink(tmp_path / "out", ("entropy", "probability"), head.classes), cohort, 0, content, scratch)
    for place, description, high in (
        ("entropy", b"entropy of the class probabilities, nats", np.log(3)),
        ("probability_anterior", b"probability of anterior", 1),
        (".", b"calibrated probabilities, a class after the other", 1),
    ):
        header = nibabel.load(tmp_path / "out" / place / "a.nii.gz").header
        assert header["descrip"].item() == description
        assert (float(header["cal_min"]), float(header["cal_max"])) == (0, np.float32(high))


def test_every_map_of_apply_has_a_description_that_fits():
    long = "ä" * 60
    for head in (Softmax((long, "b", "c")), Regions((long,), ((1,),), (1,))):
        for wanted in Requested(MAPS, head.classes).maps:
            shown = wanted.shown(head)
            assert shown is not None and shown.low == 0 < shown.high <= np.log(3)
            header = grid_without_reference((2, 2), None, reversed_axes=False).volume(FLOAT, shown=shown)
            said = nibabel.Nifti1Header(header[:348])["descrip"].item().decode()
            assert said and shown.description.startswith(said)


def test_an_nnunet_case_is_turned_to_file_axes(kit, head, scratch, tmp_path):
    files = kit.nnunet_folder(
        tmp_path / "in", ["a"], lambda path: kit.nifti(path, np.zeros(SHAPE[::-1], np.uint8), kit.OBLIQUE)
    )
    content, cohort = kit.Content.random(head, SHAPE), kit.cohort_of(SHAPE, head, files=files)
    kit.deliver(NiftiSink(tmp_path / "out"), cohort, 0, content, scratch)
    out = nibabel.load(tmp_path / "out" / "a.nii.gz")
    assert np.array_equal(out.get_fdata(dtype=np.float32), content.probabilities.transpose(3, 2, 1, 0))


def test_a_case_without_reference_has_its_spacing_and_no_place(kit, head, scratch, tmp_path):
    content, cohort = (
        kit.Content.random(head, (6, 5)),
        kit.cohort_of((6, 5), head, spacing=(0.5, 0.25), files=lambda name: {"labels": tmp_path / "a.png"}),
    )
    kit.deliver(NiftiSink(tmp_path / "out"), cohort, 0, content, scratch)
    out = nibabel.load(tmp_path / "out" / "a.nii.gz")
    assert (
        out.shape == (6, 5, 1, 3)
        and out.header.get_zooms()[:2] == (0.5, 0.25)
        and out.header["sform_code"] == out.header["qform_code"] == 0
    )
    assert np.array_equal(out.get_fdata(dtype=np.float32)[:, :, 0], np.moveaxis(content.probabilities, 0, -1))


def test_a_nifti_of_scores_gives_its_geometry_and_reversed_axes_are_declared(kit, head, scratch, tmp_path):
    """A cube, so that shapes tell nothing of the order of axes."""
    shape = (4, 4, 4)
    kit.nifti(tmp_path / "a.nii.gz", np.zeros((*shape, 3), np.float32), kit.OBLIQUE, 1, 2)
    content, cohort = (
        kit.Content.random(head, shape),
        kit.cohort_of(shape, head, files=lambda name: {"geometry": tmp_path / "a.nii.gz"}),
    )
    ref = nibabel.load(tmp_path / "a.nii.gz")
    for zyx, axes in ((False, (0, 1, 2)), (True, (2, 1, 0))):
        kit.deliver(NiftiSink(tmp_path / str(zyx), ("entropy",), zyx=zyx), cohort, 0, content, scratch)
        out, entropy = (
            nibabel.load(tmp_path / str(zyx) / "a.nii.gz"),
            nibabel.load(tmp_path / str(zyx) / "entropy" / "a.nii.gz"),
        )
        assert np.array_equal(entropy.get_fdata(dtype=np.float32), content.maps["entropy"].transpose(axes))
        assert np.array_equal(
            out.get_fdata(dtype=np.float32), np.moveaxis(content.probabilities, 0, -1).transpose(*axes, 3)
        )
        for image in (out, entropy):
            assert (
                np.array_equal(image.affine, ref.affine)
                and image.header.get_zooms()[:3] == ref.header.get_zooms()[:3]
                and image.header["sform_code"] == 2
            )
