"""Calibrators and losses compute where the scores lie. Without a GPU: on torch's `meta` device, which has shapes and
devices but no numbers, under a mode that fails where an operation meets tensors of two devices; what is decided by
values is taken as it is recorded for export. What goes to NumPy must be fetched to the processor first.
"""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segcal import losses
from segcal.methods import find
from segcal.methods.calibrator import Calibrator

ROWS = (
    "ts",
    "ets",
    "vs",
    "ms",
    "ms-c",
    "dc",
    "cdc",
    "cms-ap",
    "cms-op",
    "isotonic",
    "histogram",
    "iop",
    "meta-cal-star",
)
AROUND = ("bts", "bts-class", "bts-both", "lts", "selective")
LOSSES = (
    losses.NACL,
    losses.SVLS,
    losses.MarginSmoothing,
    losses.LabelSmoothing,
    losses.Focal,
    losses.ConfidencePenalty,
    losses.CrossEntropyDice,
)
GENERATOR = torch.Generator().manual_seed(0)
SCORES = 2 * torch.randn(4, 3, 9, 10, generator=GENERATOR)
LABELS = (SCORES / 2 + torch.randn(SCORES.shape, generator=GENERATOR)).argmax(1)


def fitted(name: str) -> Calibrator:
    method = find(name)
    options = {"epochs": 1} if name in ("lts", "iop", "selective") else {}
    return method(**options).fit(SCORES, LABELS)


class OneDevice(TorchDispatchMode):
    """An operation is given tensors of one device, but for single numbers, as a GPU takes them."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor) and x.dim()]
        assert len({x.device for x in tensors}) <= 1, f"{func} of tensors on two devices"
        return func(*args, **kwargs)


@pytest.mark.parametrize("name", ROWS)
def test_maps_of_rows_compute_where_the_scores_lie(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = copy.deepcopy(fitted(name)).to("meta")
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    scores = SCORES.to("meta")
    with OneDevice():
        found = moved(scores, check=False)
    assert found.device.type == "meta" and found.shape == SCORES.shape and found.dtype == torch.float32


def test_devices_that_are_mixed_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    calibrator, scores = fitted("dc"), SCORES.to("meta")
    with pytest.raises(AssertionError, match="two devices"), OneDevice():
        calibrator(scores, check=False)  # its matrix lies on the processor


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_compute_where_the_logits_lie(loss: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # knows no such device
    logits, labels = SCORES.to("meta").requires_grad_(), LABELS.to("meta")
    mask = torch.ones_like(labels)
    with OneDevice():
        value = loss()(logits, labels, mask=mask)
        value.backward()
    assert value.device.type == logits.grad.device.type == "meta"


class Fetched(TorchFunctionMode):
    """What goes to NumPy came from `.cpu()`, as it must where scores lie on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.here: list[torch.Tensor] = []
        self.fetched = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.numpy and args[0].dtype not in (torch.bool,):
            assert any(args[0] is known for known in self.here), "to NumPy without .cpu()"
            self.fetched += 1
        found = func(*args, **(kwargs or {}))
        if func is torch.Tensor.cpu:
            self.here.append(found)
        return found


@pytest.mark.parametrize("name", AROUND)
def test_what_is_looked_for_around_a_voxel_is_fetched_first(name: str) -> None:
    calibrator = fitted(name)
    with Fetched() as mode:
        calibrator(SCORES)
    assert (mode.fetched > 0) == name.startswith("bts")
