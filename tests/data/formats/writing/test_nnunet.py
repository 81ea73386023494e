from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest
from PIL import Image

from segcal.data.formats.nnunet_sink import NnunetSink
from segcal.data.head import Regions, Softmax
from segcal.errors import MissingError, UnreadableError, UsageError

SHAPE = (6, 5, 4)


def post_processed(kit, dtype=np.uint8, **codes):
    """A delivered label map that is not the arg max, gzipped by somebody else."""
    return lambda path: kit.nifti(
        path, np.random.default_rng(9).integers(0, 3, SHAPE[::-1]).astype(dtype), kit.OBLIQUE, **codes
    )


def test_one_member_leaves_the_delivered_files_byte_for_byte(kit, head, scratch, tmp_path):
    names = ["a", "b"]
    files = kit.nnunet_folder(tmp_path / "in", names, post_processed(kit))
    for name in names:  # compressed in another way than any library here would
        path = files(name)["label_map"]
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 2) + gzip.compress(b""))
    cohort, contents = (
        kit.cohort_of(SHAPE, head, names, files),
        [kit.Content.random(head, SHAPE, seed) for seed in range(2)],
    )
    sink = NnunetSink(tmp_path / "out", ("entropy", "probability"), head.classes)
    for k, content in enumerate(contents):
        kit.deliver(sink, cohort, k, content, scratch)
    sink.finish(cohort)
    read, written = kit.everything(tmp_path / "in"), kit.everything(tmp_path / "out")
    copied = {n: b for n, b in written.items() if n.endswith((".pkl", ".json")) or n in ("a.nii.gz", "b.nii.gz")}
    assert copied == read
    folders = ("entropy", "probability_background", "probability_anterior", "probability_posterior_tail")
    assert set(written) == {*read, "a.npz", "b.npz", *(f"{f}/{n}.nii.gz" for f in folders for n in names)}
    for name, content in zip(names, contents, strict=True):
        stored = np.load(tmp_path / "out" / f"{name}.npz")["probabilities"]
        assert stored.dtype == np.float32 and np.array_equal(stored, content.probabilities)


def test_post_processing_is_carried_over(kit, head, scratch, tmp_path):
    files = kit.nnunet_folder(tmp_path / "in", ["a"], post_processed(kit))
    for name in ("postprocessing.pkl", "postprocessing.json"):
        (tmp_path / "in" / name).write_bytes(name.encode())
    known = {**files("a"), "postprocessing": tmp_path / "in" / "postprocessing.pkl"}
    for k, present in enumerate((known, files("a"))):
        sink = NnunetSink(tmp_path / f"out{k}")
        cohort = kit.cohort_of(SHAPE, head, ["a"], lambda _, present=present: present)
        kit.deliver(sink, cohort, 0, kit.Content.random(head, SHAPE), scratch)
        sink.finish(cohort)
        carried = {p.name: p.read_bytes() for p in (tmp_path / f"out{k}").glob("postprocessing.*")}
        assert carried == {n: n.encode() for n in ("postprocessing.json", "postprocessing.pkl") if present is known}


@pytest.mark.parametrize(("qform_code", "sform_code"), [(1, 1), (1, 4), (2, 0), (0, 2)])
def test_maps_lie_exactly_on_the_delivered_label_map(kit, head, scratch, tmp_path, qform_code, sform_code):
    files = kit.nnunet_folder(tmp_path / "in", ["a"], post_processed(kit, qform_code=qform_code, sform_code=sform_code))
    content = kit.Content.random(head, SHAPE)
    kit.deliver(
        NnunetSink(tmp_path / "out", ("entropy", "confidence", "error", "probability"), head.classes),
        kit.cohort_of(SHAPE, head, files=files),
        0,
        content,
        scratch,
    )
    ref = nibabel.load(tmp_path / "out" / "a.nii.gz")
    expected = {**content.maps, "probability_anterior": content.probabilities[1]}
    for folder, values in expected.items():
        out = nibabel.load(tmp_path / "out" / folder / "a.nii.gz")
        assert out.get_data_dtype() == np.float32 and np.array_equal(
            out.get_fdata(dtype=np.float32), values.transpose()
        )
        assert np.array_equal(out.affine, ref.affine)
        for name in (
            "dim",
            "pixdim",
            "qform_code",
            "sform_code",
            "srow_x",
            "srow_y",
            "srow_z",
            "quatern_b",
            "quatern_c",
            "quatern_d",
            "qoffset_x",
            "qoffset_y",
            "qoffset_z",
        ):
            assert np.array_equal(out.header[name], ref.header[name]), name


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_several_members_leave_the_pooled_decision_in_the_first_members_format(
    kit, head, scratch, tmp_path, dtype, ending
):
    files = kit.nnunet_folder(tmp_path / "in", ["a"], post_processed(kit, dtype), ending)
    content, cohort = kit.Content.random(head, SHAPE), kit.cohort_of(SHAPE, head, files=files, members=3)
    kit.deliver(NnunetSink(tmp_path / "out"), cohort, 0, content, scratch)
    out, ref = nibabel.load(tmp_path / "out" / f"a{ending}"), nibabel.load(files("a")["label_map"])
    assert out.get_data_dtype() == dtype and np.array_equal(out.get_fdata(), content.label_map.transpose())
    assert (
        np.array_equal(out.affine, ref.affine)
        and out.header["descrip"] == ref.header["descrip"]
        and out.header["qform_code"] == ref.header["qform_code"]
    )
    assert (tmp_path / "out" / "a.pkl").read_bytes() == files("a")["properties"].read_bytes()


@pytest.mark.parametrize(("labels", "expected"), [(256, np.uint8), (257, np.uint16)])
def test_a_label_that_does_not_fit_widens_the_type(kit, scratch, tmp_path, labels, expected):
    head = Softmax(tuple(map(str, range(labels))))
    files = kit.nnunet_folder(
        tmp_path / "in", ["a"], lambda path: kit.nifti(path, np.zeros((2, 2, 2), np.uint8), kit.OBLIQUE)
    )
    p = np.zeros((labels, 2, 2, 2), np.float32)
    p[-1] = 1
    content = kit.Content(p, np.full((2, 2, 2), labels - 1), {})
    kit.deliver(
        NnunetSink(tmp_path / "out"), kit.cohort_of((2, 2, 2), head, files=files, members=2), 0, content, scratch
    )
    out = nibabel.load(tmp_path / "out" / "a.nii.gz")
    assert out.get_data_dtype() == expected and np.all(out.get_fdata() == labels - 1)


def test_regions(kit, scratch, tmp_path):
    head = Regions(("whole", "core"), ((1, 2), (2,)), (1, 2))
    files = kit.nnunet_folder(tmp_path / "in", ["a"], post_processed(kit))
    content, cohort = kit.Content.random(head, SHAPE), kit.cohort_of(SHAPE, head, files=files, members=2)
    kit.deliver(NnunetSink(tmp_path / "out", ("probability",), head.classes), cohort, 0, content, scratch)
    assert np.array_equal(np.load(tmp_path / "out" / "a.npz")["probabilities"], content.probabilities)
    whole, core = content.probabilities > 0.5
    assert np.array_equal(
        nibabel.load(tmp_path / "out" / "a.nii.gz").get_fdata(), np.where(core, 2, np.where(whole, 1, 0)).transpose()
    )
    assert np.array_equal(
        nibabel.load(tmp_path / "out" / "probability_core" / "a.nii.gz").get_fdata(dtype=np.float32),
        content.probabilities[1].transpose(),
    )


@pytest.mark.parametrize("members", [1, 3])
def test_pictures(kit, head, scratch, tmp_path, members):
    shape = (1, 7, 9)
    delivered = np.random.default_rng(9).integers(0, 3, (7, 9)).astype(np.uint8)
    files = kit.nnunet_folder(
        tmp_path / "in", ["a"], lambda path: Image.fromarray(delivered).save(path, optimize=True), ".png"
    )
    content, cohort = kit.Content.random(head, shape), kit.cohort_of(shape, head, files=files, members=members)
    sink = NnunetSink(tmp_path / "out", ("entropy", "probability"), head.classes)
    kit.deliver(sink, cohort, 0, content, scratch)
    assert np.load(tmp_path / "out" / "a.npz")["probabilities"].shape == (3, *shape)
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert np.array_equal(np.asarray(image), delivered if members == 1 else content.label_map[0])
    assert members > 1 or (tmp_path / "out" / "a.png").read_bytes() == files("a")["label_map"].read_bytes()
    for folder, values in (("entropy", content.maps["entropy"]), ("probability_anterior", content.probabilities[1])):
        with Image.open(tmp_path / "out" / folder / "a.tif") as image:
            assert image.mode == "F" and np.array_equal(np.asarray(image), values[0])
    assert all(path.exists() for path in sink.outputs(cohort[0]))


def test_readers_that_turn_images_are_undone(kit, head, scratch, tmp_path):
    """NibabelIOWithReorient hands the network RAS axes, reversed; label maps are written back in the file's own."""
    stored = np.random.default_rng(3).integers(0, 3, (3, 4, 5)).astype(np.uint8)
    affine = np.array([[0, 0, 1.5, 3], [-1, 0, 0, 2], [0, 0.7, 0, -9], [0, 0, 0, 1.0]])
    plans = '{"image_reader_writer": "NibabelIOWithReorient"}'
    files = kit.nnunet_folder(
        tmp_path / "in", ["a"], lambda path: nibabel.save(nibabel.Nifti1Image(stored, affine), path), plans=plans
    )
    seen = np.ascontiguousarray(
        nibabel.as_closest_canonical(nibabel.Nifti1Image(stored, affine)).get_fdata().transpose()
    ).astype(np.int64)
    assert seen.shape != stored.shape[::-1]
    p = (np.eye(3)[:, seen] * 0.8 + 0.2 / 3).astype(np.float32)
    content = kit.Content(p, seen, {"entropy": p[1]})
    kit.deliver(
        NnunetSink(tmp_path / "out", ("entropy",)),
        kit.cohort_of(seen.shape, head, files=files, members=2),
        0,
        content,
        scratch,
    )
    assert np.array_equal(nibabel.load(tmp_path / "out" / "a.nii.gz").get_fdata(), stored)
    assert np.array_equal(
        nibabel.load(tmp_path / "out" / "entropy" / "a.nii.gz").get_fdata(dtype=np.float32) > 0.5, stored == 1
    )
    assert np.array_equal(np.load(tmp_path / "out" / "a.npz")["probabilities"], p)


def test_a_validation_folder_is_described_elsewhere(kit, head, tmp_path):
    trained = tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    inside = kit.nnunet_folder(trained / "fold_0" / "validation", ["a"], post_processed(kit))
    (trained / "fold_0" / "validation" / "predict_from_raw_data_args.json").unlink()
    (trained / "dataset.json").write_text("{}")
    (trained / "plans.json").write_text('{"a": 1}')

    def files(name):
        return {**inside(name), "dataset": trained / "dataset.json", "plans": trained / "plans.json"}

    NnunetSink(tmp_path / "out").finish(kit.cohort_of(SHAPE, head, files=files))
    assert kit.everything(tmp_path / "out") == {"dataset.json": b"{}", "plans.json": b'{"a": 1}'}


def test_interruption_leaves_an_empty_folder(kit, head, scratch, tmp_path):
    files = kit.nnunet_folder(tmp_path / "in", ["a"], post_processed(kit))
    cohort, content = kit.cohort_of(SHAPE, head, files=files, members=2), kit.Content.random(head, SHAPE)
    (tmp_path / "out").mkdir()
    with (
        pytest.raises(KeyboardInterrupt),
        NnunetSink(tmp_path / "out", ("error",)).case(cohort, cohort[0], scratch) as writer,
    ):
        writer.write(kit.block(content, 0, 100))
        raise KeyboardInterrupt
    assert list((tmp_path / "out").iterdir()) == []


def test_a_case_that_nnunet_did_not_write(kit, head, scratch, tmp_path):
    cohort = kit.cohort_of(SHAPE, head)
    with (
        pytest.raises(MissingError, match="no folder and no properties and no label_map"),
        NnunetSink(tmp_path / "out").case(cohort, cohort[0], scratch),
    ):
        raise AssertionError
    files = kit.nnunet_folder(tmp_path / "in", ["a"], post_processed(kit))
    files("a")["properties"].unlink()
    with pytest.raises(MissingError, match="case a: found no properties;"):
        NnunetSink(tmp_path / "out").outputs(kit.cohort_of(SHAPE, head, files=files)[0])


def test_label_maps_that_cannot_be_written_are_copied_but_not_made(kit, head, scratch, tmp_path):
    files = kit.nnunet_folder(tmp_path / "in", ["a"], lambda path: path.write_bytes(b"NRRD0005"), ".nrrd")
    content = kit.Content.random(head, SHAPE)
    kit.deliver(NnunetSink(tmp_path / "one"), kit.cohort_of(SHAPE, head, files=files), 0, content, scratch)
    assert (tmp_path / "one" / "a.nrrd").read_bytes() == b"NRRD0005"
    pooled = kit.cohort_of(SHAPE, head, files=files, members=2)
    for cohort, maps in ((pooled, ()), (kit.cohort_of(SHAPE, head, files=files), ("entropy",))):
        with (
            pytest.raises(UsageError, match=r"a label map in \.nrrd"),
            NnunetSink(tmp_path / "two", maps).case(cohort, cohort[0], scratch),
        ):
            raise AssertionError
    assert not (tmp_path / "two").exists()


def test_plans_that_are_not_json(kit, head, scratch, tmp_path):
    for k, text in enumerate(("{", "[]", "\xff")):
        files = kit.nnunet_folder(tmp_path / f"in{k}", ["a"], post_processed(kit), plans=text)
        cohort = kit.cohort_of(SHAPE, head, files=files, members=2)
        with (
            pytest.raises(UnreadableError, match=r"plans\.json"),
            NnunetSink(tmp_path / "out").case(cohort, cohort[0], scratch),
        ):
            raise AssertionError


def test_the_folder_read_is_not_written_to(kit, head, scratch, tmp_path):
    files = kit.nnunet_folder(tmp_path / "in", ["a"], post_processed(kit))
    cohort, before = kit.cohort_of(SHAPE, head, files=files), kit.everything(tmp_path / "in")
    with pytest.raises(UsageError, match="also an input"), NnunetSink(tmp_path / "in").case(cohort, cohort[0], scratch):
        raise AssertionError
    assert kit.everything(tmp_path / "in") == before
