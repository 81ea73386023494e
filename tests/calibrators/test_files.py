"""Files: the same bits back, nothing partial, and a clear error for anything else."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import segcal
from segcal.calibrators import AffineMap, Calibrator, FitData, MixtureMap, ScaleMap, load
from segcal.calibrators.calibrator import Solution
from segcal.cases import Provenance, Record
from segcal.errors import MissingError, OutputError, UnreadableError
from segcal.head import Regions, Softmax
from segcal.scores import FULL, Resolution

HEAD = Softmax(("a", "b", "c"), background=0, ignore=255)
SOLUTION = Solution(
    0.123456789012345678,
    0.1,
    "optimal",
    "T = 1",
    7,
    {"gap": 1e-17, "proof": "x"},
    {"lambda": None},
    ({"lambda": None, "nll": 0.1, "standard_error": float("nan")},),
)
DATA = FitData(
    "cohort",
    "logits",
    Provenance(5, 1, False, 0.5, "prediction", (("previous stage", "false"),)),
    (Record("case", "group", "l" * 32, "s" * 32, (9, 1, 0, 2), 40, 4),),
    9,
)

CROSSFIT = {"cases": 4, "groups": 4, "folds": 2, "uncalibrated": {"nll": 0.2}, "calibrated": {}, "differences": {}}


def affine(seed: int = 0) -> AffineMap:
    g = torch.Generator().manual_seed(seed)
    return AffineMap(
        torch.randn(3, 3, generator=g, dtype=torch.float64),
        torch.randn(3, generator=g, dtype=torch.float64),
        logits=True,
    )


def calibrators() -> dict[str, Calibrator]:
    shared = ScaleMap(1 / 3)
    return {
        "scale": Calibrator(HEAD, "probs", [ScaleMap(1 / 3)], "ts", solution=SOLUTION, data=DATA),
        "affine": Calibrator(HEAD, "logits", [affine()], "ms", solution=SOLUTION, data=DATA, crossfit=CROSSFIT),
        "mixture": Calibrator(
            HEAD, "logits", [MixtureMap(1e-4, torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64))], "ets"
        ),
        "regions": Calibrator(
            Regions(("r", "s"), ((1, 2), (2,)), (1, 2), 3),
            "logits",
            [ScaleMap(0.1), AffineMap(torch.eye(2), torch.ones(2))],
            "dc",
            keep_decision=False,
        ),
        "one map twice": Calibrator(Regions(("r", "s"), ((1, 2), (2,)), (1, 2)), "probs", [shared, shared], "ts"),
    }


def test_what_earlier_versions_did_not_write_is_not_known() -> None:
    described = DATA.to_json()
    for name in ("origin", "recorded"):
        del described["provenance"][name]
    for record in described["records"]:
        del record["foreground"], record["hidden"]
    assert FitData.from_json(described) == FitData(
        "cohort",
        "logits",
        Provenance(5, 1, False, 0.5),
        (Record("case", "group", "l" * 32, "s" * 32, (9, 1, 0, 2)),),
        9,
    )


@pytest.mark.parametrize("name", calibrators())
def test_comes_back_bit_for_bit(name, tmp_path) -> None:
    made = calibrators()[name]
    path = tmp_path / "new folder" / "cal.safetensors"
    made.save(path)
    back = segcal.load(path)
    assert (back.head, back.kind, back.method, back.keep_decision, back.crossfit, back.data) == (
        made.head,
        made.kind,
        made.method,
        made.keep_decision,
        made.crossfit,
        made.data,
    )
    assert back.guarantees() == made.guarantees()
    assert (back.solution is None) == (made.solution is None)
    if made.solution is not None:
        assert json.dumps(back.solution.to_json()) == json.dumps(made.solution.to_json())
    ours, theirs = made.state_dict(), back.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(
        ours[k].dtype == theirs[k].dtype and ours[k].numpy().tobytes() == theirs[k].numpy().tobytes() for k in ours
    )
    scores = torch.rand(2, made.head.channels, 7)
    scores = scores / scores.sum(1, keepdim=True) if made.kind == "probs" and isinstance(made.head, Softmax) else scores
    assert torch.equal(made(scores), back(scores))


def test_what_stored_zeros_count_as_is_kept_and_files_of_before_have_the_finest(tmp_path) -> None:
    made = calibrators()["scale"]
    assert load(saved(tmp_path, lambda d: d.pop("resolution"))).resolution == FULL
    path = tmp_path / "coarse.safetensors"
    made.at_least(Resolution(0.002, 0.01, step=0.01, step_one=0.02)).save(path)
    assert load(path).resolution == Resolution(0.002, 0.01, step=0.01, step_one=0.02) and made.resolution == FULL
    before = saved(tmp_path, lambda d: d.update(resolution={"zero": 0.002, "one": 0.01, "unit": 1.0}))
    assert load(before).resolution == Resolution(0.002, 0.01)


@pytest.mark.parametrize(
    "wrong",
    [
        {"step": -1},
        {"step_one": "x"},
        {"zero": "x"},
        {"zero": 0.7},
        {"one": 0},
        {"two": 0.1},
        [],
        None,
        {"zero": float("nan")},
    ],
)
def test_a_floor_that_is_none_is_refused(tmp_path, wrong) -> None:
    with pytest.raises(UnreadableError):
        load(saved(tmp_path, lambda d: d.update(resolution=wrong)))


def test_says_what_it_is(tmp_path) -> None:
    path = tmp_path / "cal.safetensors"
    calibrators()["affine"].save(path)
    with safetensors.safe_open(path, "pt") as opened:
        described = json.loads(opened.metadata()["segcal"])
    assert described["schema"] == 1
    assert set(described) >= {"method", "head", "kind", "guarantees", "solution", "data", "versions", "maps"}
    assert described["versions"]["segcal"] == segcal.__version__


def test_saving_over_a_file_replaces_it_whole_or_not_at_all(tmp_path, monkeypatch) -> None:
    path = tmp_path / "cal.safetensors"
    calibrators()["scale"].save(path)
    before = path.read_bytes()

    def broken(tensors, filename, metadata) -> None:
        Path(filename).write_bytes(b"half a fi")
        raise RuntimeError("interrupted")

    monkeypatch.setattr(safetensors.torch, "save_file", broken)
    with pytest.raises(RuntimeError, match="interrupted"):
        calibrators()["affine"].save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["cal.safetensors"]


def test_a_place_that_cannot_be_written_is_said(tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="file"):
        calibrators()["scale"].save(tmp_path / "file" / "cal.safetensors")


def saved(tmp_path: Path, change=lambda d: None, tensors=lambda t: t) -> Path:
    """A file whose description and tensors were tampered with."""
    good = tmp_path / "good.safetensors"
    calibrators()["affine"].save(good)
    with safetensors.safe_open(good, "pt") as opened:
        described = json.loads(opened.metadata()["segcal"])
        kept = {k: opened.get_tensor(k) for k in opened.keys()}  # noqa: SIM118
    change(described)
    bad = tmp_path / "bad.safetensors"
    safetensors.torch.save_file(tensors(kept), bad, {"segcal": json.dumps(described)})
    return bad


CHANGES = {
    "newer schema": lambda d: d.update(schema=2),
    "no schema": lambda d: d.pop("schema"),
    "no head": lambda d: d.pop("head"),
    "no maps": lambda d: d.pop("maps"),
    "unknown map": lambda d: d.update(maps=["spline"]),
    "two maps": lambda d: d.update(maps=["affine", "scale"]),
    "other classes": lambda d: d["head"].update(classes=["a", "b"]),
    "one class": lambda d: d["head"].update(classes=["a"]),
    "unknown kind": lambda d: d.update(kind="logit"),
    "strange solution": lambda d: d.update(solution={"objective": 1}),
    "strange data": lambda d: d.update(data=[1, 2]),
    "keeps a softmax decision": lambda d: d.update(keep_decision=True),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_description_that_is_not_ours_is_refused_by_name(name, tmp_path) -> None:
    path = saved(tmp_path, CHANGES[name])
    with pytest.raises(UnreadableError) as caught:
        load(path)
    assert caught.value.where == str(path)


TENSORS = {
    "no weight": lambda t: {k: v for k, v in t.items() if not k.endswith("weight")},
    "no tensor": lambda t: {},
    "NaN": lambda t: {**t, "0.weight": t["0.weight"] * float("nan")},
    "another shape": lambda t: {**t, "0.weight": t["0.weight"][:2].contiguous()},
    "a bias too long": lambda t: {**t, "0.bias": torch.zeros(4, dtype=torch.float64)},
}


@pytest.mark.parametrize("name", TENSORS)
def test_parameters_that_cannot_be_are_refused_by_name(name, tmp_path) -> None:
    path = saved(tmp_path, tensors=TENSORS[name])
    with pytest.raises(UnreadableError) as caught:
        load(path)
    assert caught.value.where == str(path)


def _pickle(path: Path) -> None:
    torch.save({"weight": torch.eye(3)}, path)


def _bare(path: Path) -> None:
    safetensors.torch.save_file({"w": torch.eye(2)}, path)


def _foreign(path: Path) -> None:
    safetensors.torch.save_file({"w": torch.eye(2)}, path, {"format": "pt"})


def _deep(path: Path) -> None:
    safetensors.torch.save_file({"w": torch.eye(2)}, path, {"segcal": "[" * 100_000})


def _header_only(path: Path) -> None:
    path.write_bytes((10**12).to_bytes(8, "little") + b"{}")


FOREIGN = {
    "a torch pickle": _pickle,
    "a pickle": lambda p: p.write_bytes(pickle.dumps({"segcal": 1})),
    "text": lambda p: p.write_text("temperature: 1.3"),
    "an empty file": lambda p: p.write_bytes(b""),
    "safetensors without metadata": _bare,
    "safetensors of somebody else": _foreign,
    "metadata that nests for ever": _deep,
    "metadata that is no object": lambda p: safetensors.torch.save_file({"w": torch.eye(2)}, p, {"segcal": "3"}),
    "metadata that is no JSON": lambda p: safetensors.torch.save_file({"w": torch.eye(2)}, p, {"segcal": "{"}),
    "a header longer than the file": _header_only,
    "npz": lambda p: np.savez(p.open("wb"), w=np.eye(2)),
}


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("name", FOREIGN)
def test_anything_else_is_refused_by_name(name, tmp_path) -> None:
    path = tmp_path / "cal.safetensors"
    FOREIGN[name](path)
    with pytest.raises(UnreadableError) as caught:
        load(path)
    assert caught.value.where == str(path)
    assert "segcal fit" in caught.value.do


def test_no_file_is_said(tmp_path) -> None:
    with pytest.raises(MissingError, match=r"nowhere\.safetensors"):
        load(tmp_path / "nowhere.safetensors")
    with pytest.raises(UnreadableError, match="found a folder"):
        load(tmp_path)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_truncated_or_damaged_file_never_loads_as_something_strange(data, tmp_path) -> None:
    """Whatever byte is changed or cut, the result is an error of ours or a calibrator that works."""
    path = tmp_path / "cal.safetensors"
    if not path.exists():
        calibrators()["affine"].save(path)
        (tmp_path / "whole").write_bytes(path.read_bytes())
    whole = bytearray((tmp_path / "whole").read_bytes())
    if data.draw(st.booleans(), label="cut"):
        whole = whole[: data.draw(st.integers(0, len(whole) - 1), label="length")]
    else:
        whole[data.draw(st.integers(0, len(whole) - 1), label="at")] = data.draw(st.integers(0, 255), label="byte")
    path.write_bytes(bytes(whole))
    try:
        back, where = load(path), str(path)
    except UnreadableError as error:
        back, where = None, error.where
    assert where == str(path)
    if back is not None:
        assert torch.isfinite(back(torch.randn(1, back.head.channels, 4))).all()


def test_a_file_from_before_groups_had_a_word_still_loads(tmp_path) -> None:
    path = saved(tmp_path, lambda d: d["data"].pop("grouping"))
    found = load(path).data
    assert found is not None
    assert found.grouping == ""
    again = saved(tmp_path, lambda d: d["data"].update(grouping="p(.)"))
    assert load(again).data.grouping == "p(.)"
