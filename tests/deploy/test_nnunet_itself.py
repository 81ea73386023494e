"""nnU-Net's own predictor, with a calibrator inside and without: the same label maps and probabilities as by files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

import segcal
from segcal.cli import run
from segcal.deploy.nnunet import calibrate
from segcal.errors import MismatchError

pytestmark = [
    pytest.mark.slow,
    # SimpleITK's and nnU-Net's, when imported: as an error it ends the interpreter
    pytest.mark.filterwarnings("ignore"),
]

FOLDS = (0, 1)
CASES = ["case_1", "case_2", "case_3"]
HEADS = {
    "classes": {"labels": {"background": 0, "anterior": 1, "posterior": 2}},
    "regions": {"labels": {"background": 0, "whole": [1, 2], "posterior": 2}, "regions_class_order": [1, 2]},
}
AFFINE = np.diag([0.9, 0.9, 1.7, 1.0])
RESAMPLED = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}


def configuration() -> dict[str, Any]:
    return {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [16, 16, 16],
        "median_image_size_in_voxels": [20.0, 20.0, 20.0],
        "spacing": [1.2, 1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        **{f"resampling_fn_{what}": "resample_data_or_seg_to_shape" for what in ("data", "seg", "probabilities")},
        "resampling_fn_data_kwargs": RESAMPLED,
        "resampling_fn_seg_kwargs": RESAMPLED,
        "resampling_fn_probabilities_kwargs": RESAMPLED,
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 2,
                "features_per_stage": [4, 8],
                "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
                "strides": [[1, 1, 1], [2, 2, 2]],
                "n_conv_per_stage": [1, 1],
                "n_conv_per_stage_decoder": [1],
                "conv_bias": True,
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": False,
    }


def training(folder: Path, head: str) -> Path:
    """What nnU-Net needs of a trained model: two folds of random networks whose logits are far apart."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    dataset = {"channel_names": {"0": "MRI"}, "numTraining": 3, "file_ending": ".nii.gz", **HEADS[head]}
    plans = {
        "dataset_name": "Dataset900_synthetic",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "label_manager": "LabelManager",
        # no permutation that is its own inverse
        "transpose_forward": [2, 0, 1],
        "transpose_backward": [1, 2, 0],
        "foreground_intensity_properties_per_channel": {"0": {}},
        "configurations": {"3d_fullres": configuration()},
    }
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(dataset))
    (folder / "plans.json").write_text(json.dumps(plans))
    manager = PlansManager(plans)
    for fold in FOLDS:
        torch.manual_seed(fold)
        network = nnUNetTrainer.build_network_architecture(
            manager, manager.get_configuration("3d_fullres"), 1, 3 if head == "classes" else 2, False
        )
        weights = {k: v * (4.0 if "seg_layers" in k else 1.0) for k, v in network.state_dict().items()}
        (folder / f"fold_{fold}").mkdir()
        torch.save(
            {
                "network_weights": weights,
                "trainer_name": "nnUNetTrainer",
                "init_args": {"configuration": "3d_fullres"},
                "inference_allowed_mirroring_axes": (0, 1, 2),
            },
            folder / f"fold_{fold}" / "checkpoint_final.pth",
        )
    return folder


def images(folder: Path) -> Path:
    """Noise in a frame of zeros that nnU-Net crops; slices thicker than pixels are wide."""
    rng = np.random.default_rng(3)
    folder.mkdir()
    for k, name in enumerate(CASES):
        shape = (24 + k, 22, 14)
        image = np.zeros(shape, np.float32)
        image[3:-2, 2:-4, 1:-1] = 1 + rng.random((shape[0] - 5, 16, 12))
        nibabel.save(nibabel.Nifti1Image(image, AFFINE), folder / f"{name}_0000.nii.gz")
    return folder


def labels(plain: Path, folder: Path, head: str) -> Path:
    """Labels drawn from what was predicted, at a temperature of 2."""
    rng = np.random.default_rng(4)
    folder.mkdir()
    for name in CASES:
        p = np.load(plain / f"{name}.npz")["probabilities"].astype(np.float64)
        if head == "classes":
            p = np.sqrt(p) / np.sqrt(p).sum(0)
            drawn = (rng.random(p.shape[1:]) > np.cumsum(p, 0)[:-1]).sum(0)
        else:
            odds = np.sqrt(p / (1 - p).clip(1e-9))
            whole, posterior = rng.random(p.shape[1:]) < odds / (1 + odds)
            drawn = np.where(posterior, 2, whole)
        nibabel.save(nibabel.Nifti1Image(drawn.T.astype(np.uint8), AFFINE), folder / f"{name}.nii.gz")
    return folder


@pytest.fixture
def predictor_of(nnunetv2: None) -> Any:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    def made(model: Path, folds: tuple[int, ...] = FOLDS) -> Any:
        predictor = nnUNetPredictor(
            tile_step_size=0.5, use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False
        )
        predictor.initialize_from_trained_model_folder(str(model), folds)
        return predictor

    return made


def predicted(predictor: Any, images: Path, out: Path) -> Path:
    out.mkdir()
    predictor.predict_from_files(
        str(images), str(out), True, num_processes_preprocessing=1, num_processes_segmentation_export=1
    )
    return out


@pytest.mark.parametrize("head", HEADS)
def test_it_writes_what_the_files_lead_to(predictor_of: Any, tmp_path: Path, head: str) -> None:
    model = training(tmp_path / "model", head)
    seen = images(tmp_path / "images")
    plain = predicted(predictor_of(model), seen, tmp_path / "plain")
    truth = labels(plain, tmp_path / "labels", head)
    for method in ("ts", "dc", "cms-op", "bts-both") if head == "classes" else ("ts", "bts"):
        file = tmp_path / f"{method}.safetensors"
        words = [plain, "--labels", truth, "--networks", 2, "--method", method, "-o", file]
        assert run(["fit", *map(str, words)]) == 0
        by_files = tmp_path / f"{method}-files"
        assert run(["apply", str(file), str(plain), "--networks", "2", "-o", str(by_files)]) == 0
        predictor = predictor_of(model)
        assert calibrate(predictor, file) == []
        inside = predicted(predictor, seen, tmp_path / f"{method}-inside")
        moved = 0.0
        for name in CASES:
            mapped, expected = (np.load(folder / f"{name}.npz")["probabilities"] for folder in (inside, by_files))
            raw = np.load(plain / f"{name}.npz")["probabilities"]
            assert np.abs(mapped - expected).max() < 2e-6
            moved = max(moved, float(np.abs(mapped - raw).max()))
            decided, expected = (
                np.asarray(nibabel.load(folder / f"{name}.nii.gz").dataobj) for folder in (inside, by_files)
            )
            assert len(np.unique(decided)) > 1
            assert (decided == expected).all()
        assert moved > 0.01


def test_one_fold_is_not_two(predictor_of: Any, tmp_path: Path) -> None:
    model = training(tmp_path / "model", "classes")
    seen = images(tmp_path / "images")
    plain = predicted(predictor_of(model), seen, tmp_path / "plain")
    truth = labels(plain, tmp_path / "labels", "classes")
    calibrator = segcal.TemperatureScaling().fit(segcal.open_cohort(plain, labels=truth, networks=2))
    with pytest.raises(MismatchError, match=r"a single network.*2 networks averaged"):
        calibrate(predictor_of(model, (0,)), calibrator)
    assert "a single network" in calibrate(predictor_of(model, (0,)), calibrator, go_on=True)[0]
