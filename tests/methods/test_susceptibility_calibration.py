"""Susceptibility calibration: its networks are those written here layer by layer, it begins at the identity, it finds
what copies tell, it keeps every label.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import segcal
from segcal import SusceptibilityCalibration, TemperatureScaling, apply, cohort_from_arrays, evaluate, load
from segcal.data.cohort import Cohort
from segcal.data.formats.npz import NpzSink
from segcal.engine.checkpoints import Checkpoints
from segcal.engine.need import MIB
from segcal.engine.progress import Silent
from segcal.engine.serial import Serial
from segcal.engine.threads import Threads
from segcal.errors import MissingError, UsageError
from segcal.methods.calibrator import Calibrator
from segcal.methods.local.map import positive
from segcal.methods.susceptibility import net
from segcal.methods.susceptibility.map import INPUTS, LOWEST, SusceptibilityMap
from segcal.tasks.copies.making import Making, condense
from tests.study.conftest import write_ensemble

Array = NDArray[Any]
CLASSES, COPIES = 3, 6


def softmax(z: Array, axis: int = 1) -> Array:
    e = np.exp(z - z.max(axis, keepdims=True))
    return np.asarray(e / e.sum(axis, keepdims=True))


def told(cases: int = 6, shape: tuple[int, ...] = (32, 32), seed: int = 0) -> tuple[Array, Array, dict[str, Array]]:
    """Logits that are as sure everywhere, wrong in half of each image; only there do the copies differ."""
    rng = np.random.default_rng(seed)
    top = rng.integers(CLASSES, size=(cases, *shape))
    z = np.zeros((cases, CLASSES, *shape))
    np.put_along_axis(z, top[:, None], 4.0, 1)
    loose = np.arange(shape[-1]) < shape[-1] // 2
    wrong = (rng.random(top.shape) < 0.5) & loose
    labels = np.where(wrong, (top + 1) % CLASSES, top)
    moved = rng.normal(0, 1.5, (cases, COPIES, CLASSES, *shape)) * loose
    logs = np.log(softmax(z[:, None] + moved, 2))
    p = np.exp(logs)
    fields = {
        "image": rng.normal(100, 20, (cases, *shape)),
        "copies": logs.reshape(cases, -1, *shape),
        "copied_images": rng.normal(100, 20, (cases, COPIES, *shape)),
        "susceptibility": np.concatenate([p.mean(1), p.std(1)], 1),
    }
    return z.astype(np.float32), labels, {name: value.astype(np.float32) for name, value in fields.items()}


def cohort(*given: Any, **changes: Any) -> Cohort:
    z, y, fields = told(*given, **changes)
    return cohort_from_arrays(z, y, kind="logits", fields=fields)


QUICK: dict[str, Any] = {"width": 4, "prior_width": 4, "prior_epochs": 2, "batch": 1, "planes": 4}


class Residual(nn.Module):
    """Reflected border, 3 x 3 convolution, batch normalisation, ReLU, the same again, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3) for _ in range(2))
        self.first_norm, self.second_norm = (nn.BatchNorm2d(channels) for _ in range(2))
        self.border = nn.ReflectionPad2d(1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first_norm(self.first(self.border(x))))
        found: Tensor = x + self.second_norm(self.second(self.border(y)))
        return found

    def read(self, t: Mapping[str, Tensor], name: str) -> None:
        for which in ("first", "second"):
            norm = getattr(self, f"{which}_norm")
            getattr(self, which).weight.data = t[f"{name}_{which}_weight"]
            getattr(self, which).bias.data = t[f"{name}_{which}_bias"]
            norm.weight.data, norm.bias.data = t[f"{name}_{which}_scale"], t[f"{name}_{which}_shift"]
            norm.running_mean, norm.running_var = t[f"{name}_{which}_mean"], t[f"{name}_{which}_variance"]


class Reference(nn.Module):
    """O22's calibration network, written with torch's layers."""

    def __init__(self, channels: Mapping[str, int], width: int) -> None:
        super().__init__()
        wide: dict[str, Any] = {"kernel_size": 5, "dilation": 2, "padding": 4, "padding_mode": "reflect"}
        self.heads = nn.ModuleDict({n: nn.Conv2d(c, width, **wide) for n, c in channels.items()})
        self.blocks = nn.ModuleDict({n: nn.ModuleList([Residual(width) for _ in range(2)]) for n in channels})
        total = width * len(channels)
        self.squeeze, self.excite = nn.Linear(total, total // 5, bias=False), nn.Linear(total // 5, total, bias=False)
        self.merge = nn.Conv2d(total, 4 * width, 1)
        self.merged = nn.ModuleList([Residual(4 * width) for _ in range(2)])
        self.out = nn.Conv2d(4 * width, 1, **wide)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """T + 0 (planes of one case), its attention from all of them."""
        found = []
        for name, x in inputs.items():
            y = self.heads[name](x)
            for block in self.blocks[name]:
                y = block(y)
            found.append(y)
        y = torch.cat(found, 1)
        weights = torch.sigmoid(self.excite(torch.relu(self.squeeze(y.mean((0, 2, 3))))))
        y = self.merge(y * weights[None, :, None, None])
        for block in self.merged:
            y = block(y)
        start = np.log(np.expm1(1 - 1e-6))
        temperature: Tensor = nn.functional.softplus(self.out(y)[:, 0] + start) + 1e-6
        return temperature

    def read(self, t: Mapping[str, Tensor]) -> Reference:
        for name, head in self.heads.items():
            head.weight.data, head.bias.data = t[f"{name}_weight"], t[f"{name}_bias"]
            for k, block in enumerate(self.blocks[name]):
                block.read(t, f"{name}_{k}")
        self.squeeze.weight.data, self.excite.weight.data = t["squeeze"], t["excite"]
        for name in ("merge", "out"):
            getattr(self, name).weight.data, getattr(self, name).bias.data = t[f"{name}_weight"], t[f"{name}_bias"]
        for k, block in enumerate(self.merged):
            block.read(t, f"merged_{k}")
        return self.double().eval()


class Prior(nn.Module):
    """A U-Net of three levels with dropout after each convolution of the encoder."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        sizes = [classes, width, 2 * width, 4 * width]
        self.down = nn.ModuleList(
            nn.ModuleList([nn.Conv2d(a, b, 3, padding=1), nn.Conv2d(b, b, 3, padding=1)])
            for a, b in itertools.pairwise(sizes)
        )
        self.larger = nn.ModuleList(nn.ConvTranspose2d(sizes[k + 2], sizes[k + 1], 2, 2) for k in range(2))
        self.up = nn.ModuleList(
            nn.ModuleList(
                [
                    nn.Conv2d(2 * sizes[k + 1], sizes[k + 1], 3, padding=1),
                    nn.Conv2d(sizes[k + 1], sizes[k + 1], 3, padding=1),
                ]
            )
            for k in range(2)
        )
        self.norms = nn.ModuleDict()
        for k in range(3):
            for layer in range(2):
                self.norms[f"down_{k}_{layer}"] = nn.BatchNorm2d(sizes[k + 1])
                if k < 2:
                    self.norms[f"up_{k}_{layer}"] = nn.BatchNorm2d(sizes[k + 1])
        self.out = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for k, layers in enumerate(self.down):
            x = nn.functional.max_pool2d(x, 2) if k else x
            for layer, conv in enumerate(layers):
                x = nn.functional.leaky_relu(self.norms[f"down_{k}_{layer}"](conv(x)), 0.2)
            kept.append(x)
        for k in (1, 0):
            x = torch.cat([kept[k], self.larger[k](x)], 1)
            for layer, conv in enumerate(self.up[k]):
                x = nn.functional.leaky_relu(self.norms[f"up_{k}_{layer}"](conv(x)), 0.2)
        return torch.log_softmax(self.out(x), 1)

    def read(self, t: Mapping[str, Tensor]) -> Prior:
        for where, side in (("down", self.down), ("up", self.up)):
            for k, layers in enumerate(side):
                for layer, conv in enumerate(layers):
                    conv.weight.data, conv.bias.data = t[f"{where}_{k}_{layer}_weight"], t[f"{where}_{k}_{layer}_bias"]
        for k, conv in enumerate(self.larger):
            conv.weight.data, conv.bias.data = t[f"up_{k}_larger_weight"], t[f"up_{k}_larger_bias"]
        for name, norm in self.norms.items():
            norm.weight.data, norm.bias.data = t[f"{name}_scale"], t[f"{name}_shift"]
            norm.running_mean, norm.running_var = t[f"{name}_mean"], t[f"{name}_variance"]
        self.out.weight.data, self.out.bias.data = t["prior_weight"], t["prior_bias"]
        return self.double().eval()


def shaken(tensors: Mapping[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Other numbers for all of them, variances above 0."""
    g = torch.Generator().manual_seed(seed)
    out = {n: t.double() + 0.3 * torch.randn(t.shape, generator=g, dtype=torch.float64) for n, t in tensors.items()}
    return {n: t.abs() + 0.5 if n.endswith("variance") else t for n, t in out.items()}


@pytest.mark.parametrize("names", [("image", "scores"), INPUTS])
def test_it_is_the_reference_network_weight_for_weight(names: tuple[str, ...]) -> None:
    """Without its components the map is the two-branch network, with them the whole one."""
    channels = dict.fromkeys(names, CLASSES) | {"image": 1}
    tensors = shaken(net.calibration_net(channels, 5, 0))
    prior = shaken(net.shape_net(CLASSES, 4, 0), 1) if "shape" in names else {}
    standard = {"image_mean": torch.tensor([100.0]), "image_scale": torch.tensor([20.0])}
    calibrator = Calibrator(cohort(1).head, "logits", [SusceptibilityMap({**tensors, **prior, **standard})], "it")
    z, _, fields = told(2, (5, 16, 12))
    wanted = {name: fields[name] for name in calibrator.needs.fields}
    p = calibrator(z, **wanted).numpy()
    for case in range(2):
        logs = torch.log_softmax(torch.from_numpy(z[case]).double(), 0)
        planes = logs.movedim(1, 0).clamp_min(LOWEST)
        inputs = {
            "image": (torch.from_numpy(fields["image"][case]).double()[:, None] - 100) / 20,
            "scores": planes,
        }
        if prior:
            inputs["shape"] = Prior(CLASSES, 4).read(prior)(planes).exp().detach() - planes.exp()
            both = torch.from_numpy(fields["susceptibility"][case]).double().movedim(1, 0)
            inputs["mean"], inputs["spread"] = both.chunk(2, 1)
        inputs = {name: inputs[name] for name in names}
        with torch.no_grad():
            temperature = Reference(channels, 5).read(tensors)(inputs)
        features = net.branches(inputs, tensors)
        weights = net.attention(features.mean((0, 2, 3)), tensors)
        mine = positive(net.merged(features, weights[None], tensors))
        assert np.ptp(temperature.numpy()) > 1e-3
        np.testing.assert_allclose(mine, temperature, rtol=1e-10)
        # what is delivered runs in float32
        np.testing.assert_allclose(p[case], torch.softmax(logs / temperature[None], 0), atol=1e-4)


def test_it_begins_at_the_identity() -> None:
    data = cohort(2)
    made = SusceptibilityCalibration(**QUICK)
    begun = made._begun(CLASSES, CLASSES, 1)
    standard = {"image_mean": torch.zeros(1), "image_scale": torch.ones(1)}
    calibrator = Calibrator(data.head, "logits", [SusceptibilityMap({**begun, **standard})], "it")
    z, _, fields = told(2)
    p = calibrator(z, **{name: fields[name] for name in calibrator.needs.fields}).numpy()
    np.testing.assert_allclose(p, softmax(z), atol=1e-6)


def test_it_finds_what_copies_tell() -> None:
    """Where copies differ half of the labels are wrong, elsewhere none: no single temperature says that."""
    quick = SusceptibilityCalibration(**QUICK, epochs=20, learning_rate=5e-3)
    made = quick.fit(cohort(8), engine=Serial())
    ts = TemperatureScaling().fit(cohort(8), engine=Serial())
    held = cohort(4, seed=1)
    found, plain = (evaluate(held, one, Serial()) for one in (made, ts))
    assert found.calibrated is not None
    assert plain.calibrated is not None
    # with one T for each half of the image .52: half of .5 log 2 + .5 log 4; with one for all .74
    assert found.calibrated.block["nll"] < 0.57
    assert plain.calibrated.block["nll"] > 0.72
    assert found.calibrated.block["flip_rate"] == 0


@pytest.mark.parametrize(
    ("off", "fields"),
    [
        ({}, {"image", "susceptibility"}),
        ({"copies": False}, {"image"}),
        ({"prior": False}, {"image", "susceptibility"}),
        ({"image": False}, {"susceptibility"}),
        ({"image": False, "copies": False, "prior": False}, set()),
    ],
)
def test_components_may_be_left_out(off: dict[str, bool], fields: set[str]) -> None:
    made = SusceptibilityCalibration(**QUICK, **off, epochs=2).fit(cohort(4), engine=Serial())
    assert set(made.needs.fields) == fields
    (one,) = made.maps
    assert isinstance(one, SusceptibilityMap)
    expected = ["image"] * off.get("image", True) + ["scores"] + ["shape"] * off.get("prior", True)
    assert list(one.inputs) == expected + ["mean", "spread"] * off.get("copies", True)


def numbers(made: Calibrator) -> list[bytes]:
    return [t.numpy().tobytes() for one in made.maps for t in one.state_dict().values()]


class Killed(Silent):
    """Stops after so many epochs."""

    def __init__(self, epochs: int) -> None:
        self.left, self.training = epochs, False

    def start(self, what: str, total: int) -> None:
        self.training = what.startswith("training")

    def step(self) -> None:
        if self.training:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt


@pytest.fixture
def filed(tmp_path: Path) -> Path:
    write_ensemble(tmp_path / "e", [f"c{k}" for k in range(6)], members=4, shape=(3, 20, 18))
    condense(segcal.open_cohort(sorted((tmp_path / "e").glob("member*"))), tmp_path / "copies", Serial(), Making())
    return tmp_path


def opened(root: Path) -> Cohort:
    return segcal.open_cohort([root / "e" / "member0"], root / "e" / "labels", copies=root / "copies")


FILED = SusceptibilityCalibration(**QUICK, image=False, epochs=3)


def test_the_same_bits_for_any_workers_and_after_a_kill(filed: Path) -> None:
    whole = FILED.fit(opened(filed), engine=Serial())
    assert numbers(FILED.fit(opened(filed), engine=Threads(2, 256 * MIB))) == numbers(whole)
    for epochs in (1, 3):  # in the prior's training, then in the other
        engine = Serial(progress=Killed(epochs))
        engine.checkpoints = Checkpoints(filed / "training", every=0)
        with pytest.raises(KeyboardInterrupt):
            FILED.fit(opened(filed), engine=engine)
    engine = Serial()
    engine.checkpoints = Checkpoints(filed / "training", every=0)
    resumed = FILED.fit(opened(filed), engine=engine)
    assert numbers(resumed) == numbers(whole)
    assert resumed.solution is not None
    assert whole.solution is not None
    assert repr(resumed.solution) == repr(whole.solution)


def test_no_label_changes_in_arrays_and_files(filed: Path, tmp_path: Path) -> None:
    made = FILED.fit(opened(filed), engine=Serial())
    made.save(tmp_path / "it.safetensors")
    again = load(tmp_path / "it.safetensors")
    data = opened(filed)
    outcomes = apply(again, data, NpzSink(tmp_path / "out"), Serial())
    assert all(one.error is None for one in outcomes)
    for case in data:
        z = np.load(filed / "e" / "member0" / f"{case.id}.npz")["logits"]
        written = np.load(tmp_path / "out" / f"{case.id}.npz")["probabilities"]
        stored = np.load(filed / "copies" / f"{case.id}.npz")
        field = np.concatenate([stored["mean"], stored["spread"]])[None]
        in_memory = made(z[None], susceptibility=field).numpy()[0]
        np.testing.assert_array_equal(written.argmax(0), z.argmax(0))
        np.testing.assert_allclose(written, in_memory, atol=1e-6)


def test_a_batch_is_its_cases() -> None:
    """Attention is of each case, whatever stands beside it."""
    (one,) = [SusceptibilityCalibration(width=4).drawn(CLASSES)]
    calibrator = Calibrator(cohort(1).head, "logits", [one], "it")
    z, _, fields = told(3, (4, 12, 10))
    wanted = {name: fields[name] for name in calibrator.needs.fields}
    together = calibrator(z, **wanted).numpy()
    for k in range(3):
        alone = calibrator(z[k : k + 1], **{name: value[k : k + 1] for name, value in wanted.items()}).numpy()
        np.testing.assert_allclose(together[k], alone[0], atol=1e-7)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_planes_along_any_axis(axis: int) -> None:
    """The same volume turned gives the same fit and the same probabilities, turned."""
    z, y, fields = told(4, (6, 9, 8))
    method = SusceptibilityCalibration(**QUICK, epochs=1)
    plain = method.fit(cohort_from_arrays(z, y, kind="logits", fields=fields), engine=Serial())

    def turned(a: Array) -> Array:
        return np.ascontiguousarray(np.moveaxis(a, a.ndim - 3, a.ndim - 3 + axis))

    other = replace(method, slice_axis=axis).fit(
        cohort_from_arrays(turned(z), turned(y), kind="logits", fields={n: turned(f) for n, f in fields.items()}),
        engine=Serial(),
    )
    wanted = {name: fields[name] for name in plain.needs.fields}
    p = plain(z, **wanted).numpy()
    q = other(turned(z), **{n: turned(f) for n, f in wanted.items()}).numpy()
    np.testing.assert_allclose(q, turned(p), atol=1e-5)


def test_small_planes_and_ignored_voxels() -> None:
    z, y, fields = told(4, (3, 4))
    y = np.where(np.arange(4) == 0, 255, y)
    made = SusceptibilityCalibration(**QUICK, epochs=2).fit(z, y, ignore_index=255, engine=Serial(), **fields)
    assert bool(torch.isfinite(made(z, **{n: fields[n] for n in made.needs.fields})).all())


def test_mean_and_spread_are_of_what_was_learnt_from(filed: Path) -> None:
    """Copies of log-probabilities are not taken for copies of probabilities."""
    members = segcal.open_cohort(sorted((filed / "e").glob("member*")))
    condense(members, filed / "logs", Serial(), Making("log_probs"))
    data = segcal.open_cohort([filed / "e" / "member0"], filed / "e" / "labels", copies=filed / "logs")
    with pytest.raises(UsageError, match="of=log_probs"):
        FILED.fit(data, engine=Serial())
    method = replace(FILED, of="log_probs")
    made = method.fit(data, engine=Serial())
    assert made.solution is not None
    with pytest.raises(UsageError, match="of=probs"):
        method.fit(opened(filed), engine=Serial())


def test_what_it_needs_is_asked_for() -> None:
    z, y, _ = told(2)
    with pytest.raises(MissingError, match=r"--copies FOLDER"):
        SusceptibilityCalibration().fit(cohort_from_arrays(z, y, kind="logits"))
    for wrong in ({"width": 0}, {"batch": 0}, {"copies": "yes"}, {"slice_axis": 3}, {"prior_epochs": 0}):
        with pytest.raises(UsageError):
            SusceptibilityCalibration(**wrong)  # type: ignore[arg-type]
