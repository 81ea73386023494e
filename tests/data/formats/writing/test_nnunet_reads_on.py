"""nnU-Net's own ensembling and post-processing run on what the sink writes (issue 2, "must show" 2)."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from segcal.data.files.journal import Scratch
from segcal.data.formats.nnunet_sink import NnunetSink
from segcal.data.head import Regions, Softmax

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning"
    ),  # SimpleITK's, when imported: as an error it ends the interpreter
]

SOFTMAX = Softmax(("background", "anterior", "posterior"), background=0)
REGIONS = Regions(("whole", "posterior"), ((1, 2), (2,)), (1, 2))
NAMES = ["case_1", "case_2"]


@pytest.fixture
def nnunet(nnunetv2):
    """What of nnU-Net runs on."""
    from nnunetv2.ensembling import ensemble
    from nnunetv2.postprocessing import remove_connected_components

    class Nnunet:
        ensemble_folders = staticmethod(ensemble.ensemble_folders)
        apply_postprocessing_to_folder = staticmethod(remove_connected_components.apply_postprocessing_to_folder)
        largest_component = staticmethod(remove_connected_components.remove_all_but_largest_component_from_segmentation)

    return Nnunet


def description(head, ending, reader):
    labels = (
        {name: k for k, name in enumerate(SOFTMAX.classes)}
        if isinstance(head, Softmax)
        else {"background": 0, "whole": [1, 2], "posterior": [2]}
    )
    regions = {} if isinstance(head, Softmax) else {"regions_class_order": [1, 2]}
    dataset = {"channel_names": {"0": "image"}, "numTraining": 2, "file_ending": ending, "labels": labels, **regions}
    axes = {"transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2]}
    plans = {
        "dataset_name": "Dataset900_synthetic",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": reader,
        "configurations": {},
        **axes,
    }
    return json.dumps(dataset), json.dumps(plans)


def smooth_content(kit, head, shape, seed):
    """Blobs, so that components are worth removing; no value is near a tie."""
    rng = np.random.default_rng(seed)
    z = (
        np.stack(
            [
                ndimage.gaussian_filter(rng.normal(size=shape), [0 if n == 1 else 1.2 for n in shape])
                for _ in range(head.channels)
            ]
        )
        * 20
    )
    p = (np.exp(z) / np.exp(z).sum(0) if isinstance(head, Softmax) else 1 / (1 + np.exp(-z))).astype(np.float32)
    return kit.Content(p, decision(head, p), {"entropy": p[0], "error": p[1]})


def decision(head, p):
    if isinstance(head, Softmax):
        return p.argmax(0)
    return np.where(p[1] > 0.5, 2, np.where(p[0] > 0.5, 1, 0))


def largest(labels):
    """Only the largest component (faces, edges and corners touching) of each foreground label is kept."""
    out = labels.copy()
    for label in (1, 2):
        parts, count = ndimage.label(out == label, np.ones((3,) * out.ndim))
        sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
        if count:
            assert (sizes == sizes.max()).sum() == 1, "a test volume with a tie decides nothing"
            out[(parts > 0) & (parts != sizes.argmax() + 1)] = 0
    return out


def read(path, canonical=False):
    if path.suffix == ".png":
        with Image.open(path) as image:
            return np.asarray(image)[None]
    image = nibabel.load(path)
    return (nibabel.as_closest_canonical(image) if canonical else image).get_fdata().transpose().astype(np.int64)


def write_member(kit, head, folder, shape, ending, reader, affine, seed):
    """What nnU-Net leaves: label maps and properties written by nnU-Net's own reader and writer class."""
    from batchgenerators.utilities.file_and_folder_operations import save_pickle
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

    rw = recursive_find_reader_writer_by_name(reader)()
    dataset, plans = description(head, ending, reader)
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(dataset)
    (folder / "plans.json").write_text(plans)
    (folder / "predict_from_raw_data_args.json").write_text("{}")
    contents = []
    for k, name in enumerate(NAMES):
        image = folder.parent / f"{name}_0000{ending}"
        if ending == ".png":
            Image.fromarray(np.zeros(shape[1:], np.uint8)).save(image)
        else:
            stored = np.zeros(shape[::-1], np.uint8)
            if "Reorient" in reader:  # the network sees `shape`; the file has other axes
                turned = nibabel.as_closest_canonical(nibabel.Nifti1Image(np.zeros((3, 4, 5), np.uint8), affine))
                where = [(3, 4, 5).index(n) for n in turned.shape]
                stored = np.zeros([shape[::-1][where.index(axis)] for axis in range(3)], np.uint8)
            nibabel.save(nibabel.Nifti1Image(stored, affine), image)
        array, properties = rw.read_images([str(image)])
        assert array.shape[1:] == shape
        content = smooth_content(kit, head, shape, 10 * seed + k)
        rw.write_seg(content.label_map.astype(np.uint8), str(folder / f"{name}{ending}"), properties)
        save_pickle(properties, str(folder / f"{name}.pkl"))
        contents.append(content)
    return contents, lambda name: {
        "folder": folder,
        "properties": folder / f"{name}.pkl",
        "label_map": folder / f"{name}{ending}",
    }


SITK = np.array([[-0.8, 0.1, 0.02, 30], [0.1, -0.9, 0.1, -12], [0.0, 0.12, 2.0, 5], [0, 0, 0, 1.0]])
SITK[:3, :3] = np.linalg.qr(SITK[:3, :3])[0] * (0.8, 0.9, 2.0)  # SimpleITK reads orthogonal axes only
TURNED = np.array([[0, 0, 1.5, 3], [-1, 0, 0, 2], [0, 0.7, 0, -9], [0, 0, 0, 1.0]])


@pytest.mark.parametrize(
    ("head", "shape", "ending", "reader", "affine"),
    [
        pytest.param(SOFTMAX, (9, 11, 13), ".nii.gz", "SimpleITKIO", SITK, id="SimpleITKIO"),
        pytest.param(REGIONS, (9, 11, 13), ".nii.gz", "SimpleITKIO", SITK, id="regions"),
        pytest.param(SOFTMAX, (9, 11, 13), ".nii.gz", "NibabelIO", SITK, id="NibabelIO"),
        pytest.param(SOFTMAX, (9, 11, 13), ".nii.gz", "NibabelIOWithReorient", TURNED, id="NibabelIOWithReorient"),
        pytest.param(SOFTMAX, (9, 11, 13), ".nii.gz", "SimpleITKIOWithReorient", TURNED, id="SimpleITKIOWithReorient"),
        pytest.param(SOFTMAX, (1, 17, 19), ".png", "NaturalImage2DIO", None, id="pictures"),
    ],
)
def test_ensembling_and_post_processing(kit, nnunet, tmp_path, head, shape, ending, reader, affine):
    canonical = "Reorient" in reader
    members = [
        write_member(kit, head, tmp_path / "in" / f"member{k}", shape, ending, reader, affine, k) for k in range(3)
    ]
    files_of_first, written, contents = members[0][1], [], []
    for k, (delivered, files) in enumerate(members):
        out = tmp_path / f"calibrated{k}"
        cohort = kit.cohort_of(shape, head, NAMES, files)
        sink = NnunetSink(out, ("entropy", "probability"), head.classes)
        with Scratch(0) as scratch:
            for index, content in enumerate(delivered):
                kit.deliver(sink, cohort, index, content, scratch, 333)
        sink.finish(cohort)
        contents.append(delivered)
        written.append(out)
        if ending != ".png":  # nnU-Net reads a map on the very grid of the label map
            for name, content in zip(NAMES, delivered, strict=True):
                image = nibabel.load(out / "entropy" / f"{name}.nii.gz")
                seen = (
                    (nibabel.as_closest_canonical(image) if canonical else image)
                    .get_fdata(dtype=np.float32)
                    .transpose()
                )
                assert np.array_equal(seen, content.maps["entropy"])

    nnunet.ensemble_folders(
        [str(f) for f in written], str(tmp_path / "merged"), save_merged_probabilities=False, num_processes=1
    )
    for index, name in enumerate(NAMES):
        mean = sum(member[index].probabilities.astype(np.float64) for member in contents) / 3
        assert np.array_equal(read(tmp_path / "merged" / f"{name}{ending}", canonical), decision(head, mean))

    # several members pooled here: the label map is ours, in the format of the first member's
    cohort, sink = kit.cohort_of(shape, head, NAMES, files_of_first, members=3), NnunetSink(tmp_path / "pooled")
    with Scratch(0) as scratch:
        for index in range(2):
            kit.deliver(sink, cohort, index, contents[1][index], scratch)
    sink.finish(cohort)
    merged_by_one = tmp_path / "merged by one"
    nnunet.ensemble_folders(
        [str(tmp_path / "pooled")], str(merged_by_one), save_merged_probabilities=False, num_processes=1
    )
    for index, name in enumerate(NAMES):
        own = read(tmp_path / "pooled" / f"{name}{ending}", canonical)
        assert np.array_equal(own, contents[1][index].label_map) and np.array_equal(
            own, read(merged_by_one / f"{name}{ending}", canonical)
        )

    for source in (tmp_path / "pooled", written[1]):
        done = tmp_path / f"post-processed {source.name}"
        nnunet.apply_postprocessing_to_folder(
            str(source),
            str(done),
            [nnunet.largest_component] * 2,
            [{"labels_or_regions": 1}, {"labels_or_regions": 2}],
            num_processes=1,
        )
        assert sorted(p.name for p in done.iterdir() if not p.name.endswith(".json")) == [
            f"{name}{ending}" for name in NAMES
        ]
        for index, name in enumerate(NAMES):
            before = contents[1][index].label_map
            assert np.array_equal(read(done / f"{name}{ending}", canonical), largest(before)) and not np.array_equal(
                largest(before), before
            )
