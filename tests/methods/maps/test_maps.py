"""What maps share: parameters that are copies, float64, and stay so."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from segcal.methods.affine.map import AffineMap
from segcal.methods.binned import BinnedMap
from segcal.methods.conditional.map import ConditionalMap
from segcal.methods.conditional.sums import Gaps
from segcal.methods.intra_order import IntraOrderMap, shapes
from segcal.methods.maps import Map
from segcal.methods.meta_cal import MetaCalMap
from segcal.methods.mixture import MixtureMap
from segcal.methods.selective.map import SelectiveMap
from segcal.methods.selective.map import shapes as selector_shapes
from segcal.methods.temperature import ScaleMap
from tests.kinds import OF_ROWS

MAPS: list[Map] = [
    ScaleMap(0.7),
    AffineMap(torch.tensor([[1.1, 0.2], [0.1, 1.2]], dtype=torch.float64), torch.tensor([0.1, -0.1])),
    MixtureMap(0.3, torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)),
    ConditionalMap(torch.rand(2, 1, 1, dtype=torch.float64), torch.rand(2, 1, dtype=torch.float64), Gaps()),
    BinnedMap(torch.tensor([[0.1, 0.4, 0.6, 0.9], [0.2, 0.3, 0.5, 0.8]], dtype=torch.float64), 4.0),
    IntraOrderMap(
        [(torch.rand(a, b, dtype=torch.float64), torch.rand(a, dtype=torch.float64)) for a, b in shapes(2, 3)]
    ),
    SelectiveMap(
        [(torch.randn(a, b, dtype=torch.float64), torch.rand(a, dtype=torch.float64)) for a, b in selector_shapes(2)],
        5.0,
        1.0,
    ),
    MetaCalMap(0.4, 0.7),
]


def test_every_registered_map_is_tried() -> None:
    assert {type(m) for m in MAPS} == set(OF_ROWS)


@pytest.mark.parametrize("m", MAPS, ids=lambda m: m.type_name)
@pytest.mark.parametrize("change", ["half", "float", "bfloat16", "double"])
def test_a_change_of_type_changes_no_parameter(m, change) -> None:
    """A model made half with its calibrator inside it must not be calibrated by half a temperature."""
    x = torch.log_softmax(torch.randn(2, 50, dtype=torch.float64), 0)
    before = m(x)
    promised = m.guarantees()
    getattr(m, change)()
    assert torch.equal(m(x), before)
    assert m.guarantees() == promised
    assert {t.dtype for t in m.state_dict().values()} <= {torch.float64, torch.bool}


@pytest.mark.parametrize("m", MAPS, ids=lambda m: m.type_name)
def test_tensors_make_the_same_map(m) -> None:
    x = torch.log_softmax(torch.randn(2, 50, dtype=torch.float64), 0)
    assert torch.equal(type(m).from_tensors(dict(m.state_dict()))(x), m(x))
    with pytest.raises(KeyError):
        type(m).from_tensors({})


def test_parameters_are_copies_without_gradient() -> None:
    weight = torch.eye(2, dtype=torch.float64, requires_grad=True)
    m = AffineMap(weight, torch.zeros(2))
    with torch.no_grad():
        weight += 1
    assert torch.equal(m.weight, torch.eye(2, dtype=torch.float64))
    assert not m.weight.requires_grad
    assert list(m.parameters()) == []


def test_moves_with_the_device() -> None:
    m = AffineMap(torch.eye(2), torch.zeros(2)).to("meta")
    assert m.weight.device.type == "meta"
    assert m.weight.dtype == torch.float64


def test_parameters_loaded_into_a_map_bring_their_own_promises() -> None:
    """A checkpoint of a model with a calibrator inside: what was invariant no longer is, and the map must know."""
    skewed = AffineMap(torch.tensor([[1.0, 0.5], [0.0, 1.0]], dtype=torch.float64), torch.zeros(2), logits=True)
    m = AffineMap(torch.eye(2), torch.zeros(2), logits=True)
    assert not m.needs.logits
    torch.nn.Sequential(m).load_state_dict(torch.nn.Sequential(skewed).state_dict())
    assert m.needs.logits
    assert m.guarantees() == skewed.guarantees()
    z = torch.randn(2, 20, dtype=torch.float64)
    energy = z.logsumexp(0)
    assert torch.equal(m(z - energy, energy), skewed(z - energy, energy))
    assert copy.deepcopy(m).needs.logits
    assert pickle.loads(pickle.dumps(m)).needs.logits


def test_what_is_printed_are_parameters() -> None:
    weight = torch.tensor([[1.0, 0.25], [0.0, 1.0]])
    shown = repr(AffineMap(weight, torch.tensor([0.0, 1 / 3]), logits=True))
    assert shown == "AffineMap(weight=[[1, 0.25], [0, 1]], bias=[0, 0.3333], acts_on=logits)"
    assert repr(AffineMap(torch.eye(19), torch.zeros(19))).startswith("AffineMap(weight=(19, 19), bias=(19,)")
    assert repr(AffineMap(torch.eye(2), torch.zeros(2)).to("meta")) == "AffineMap()"
