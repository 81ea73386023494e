"""Scores stored coarsely, and scores declared as another kind than they are: what every command makes of them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import segcal
from segcal import Serial, Threads
from segcal.cli import run
from segcal.errors import KindWarning
from segcal.head import Regions
from segcal.matching import level
from segcal.scores import FULL, Resolution
from segcal.sources.arrays import cohort_from_arrays

SHARPER = 2.5
STORED = {
    "float16": (lambda p: p.astype(np.float16), "probs"),
    "uint16": (lambda p: np.round(p * 65535).astype(np.uint16), "scores"),
    "six decimals": (lambda p: np.round(p, 6).astype(np.float32), "scores"),
    "three decimals": (lambda p: np.round(p, 3), "scores"),
    "uint8": (lambda p: np.round(p * 255).astype(np.uint8), "scores"),
    "uint8 by its sum": (lambda p: _by_sum(np.round(p * 255).astype(np.float32)), "probs"),
}


def _by_sum(q):
    return q / q.sum(-3, keepdims=True)


def softmax(z):
    e = np.exp(z - z.max(-3, keepdims=True))
    return e / e.sum(-3, keepdims=True)


def drawn(seed, count=4, classes=4, side=64):
    """Probabilities 2.5 times too sharp in their logits, and labels of the true ones."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 1.5, (count, classes, side, side))
    z[:, 0] += 1
    labels = (softmax(z).cumsum(1) < rng.random((count, 1, side, side))).sum(1).clip(0, classes - 1)
    return softmax(SHARPER * z), labels


def temperature(calibrator):
    return 1 / float(calibrator.maps[0].beta)


@pytest.mark.parametrize("name", list(STORED))
def test_zeros_do_not_rule_a_fit(name):
    stored, kind = STORED[name]
    (p, y), (q, x) = drawn(2), drawn(3)
    exact = segcal.TemperatureScaling().fit(p.astype(np.float32), y, kind="probs")
    cal = segcal.TemperatureScaling().fit(stored(p), y, kind=kind)
    assert temperature(exact) == pytest.approx(SHARPER, abs=0.04) and 2.2 < temperature(cal) < 2.55
    assert "a stored 0 counts as" in cal.solution.message and "of the labelled voxels" in cal.solution.message
    held_out = segcal.evaluate(cohort_from_arrays(stored(q), x, kind=kind), cal, Serial())
    best = segcal.evaluate(cohort_from_arrays(q.astype(np.float32), x, kind="probs"), exact, Serial())
    assert held_out.calibrated.block["ece"] < best.calibrated.block["ece"] + 0.012
    assert held_out.calibrated.block["nll"] < best.calibrated.block["nll"] + 0.016
    assert "a stored 0 counts as" in held_out.notes[0]


def test_a_stored_zero_costs_what_it_counts_as():
    p, y = drawn(2)
    data = cohort_from_arrays(np.round(p, 2), y, kind="scores")
    rows = segcal.evaluate(data, None, Serial()).uncalibrated.block
    stored = np.maximum(np.round(p, 2) / np.round(p, 2).sum(1, keepdims=True), data.resolution.zero)
    own = np.take_along_axis(stored / stored.sum(1, keepdims=True), y[:, None], 1)
    assert data.resolution.step == pytest.approx(0.01, rel=0.02)
    assert data.resolution.zero == pytest.approx(p[p < 0.005].mean(), rel=0.2)
    assert rows["nll"] == pytest.approx(-np.log(own).mean(), rel=1e-6)


def test_float32_probabilities_give_the_same_bits_as_before():
    p, y = drawn(2)
    data = cohort_from_arrays(p.astype(np.float32), y, kind="probs")
    with Serial().pin(data) as pinned:
        block = pinned.shelf.load(*pinned.blocks[0])
    s = torch.from_numpy(p[0].astype(np.float32)).flatten(1).double().clamp_min(1e-12).log()
    assert torch.equal(block.log_probs, (s - s.logsumexp(0, keepdim=True)).float())
    assert segcal.TemperatureScaling().fit(data).data.notes == ()


@pytest.mark.parametrize("name", ["uint8", "float16"])
def test_the_same_bits_for_any_number_of_workers(name):
    stored, kind = STORED[name]
    p, y = drawn(4)
    one, three = (
        segcal.TemperatureScaling().fit(cohort_from_arrays(stored(p), y, kind=kind), engine=e)
        for e in (Serial(), Threads(3))
    )
    assert one.resolution == three.resolution and torch.equal(one.maps[0].beta, three.maps[0].beta)


def test_the_floor_travels_with_the_calibrator(tmp_path):
    p, y = drawn(2)
    cal = segcal.TemperatureScaling().fit(np.round(p * 255), y, kind="scores")
    cal.save(tmp_path / "c.safetensors")
    back = segcal.load(tmp_path / "c.safetensors")
    assert back.resolution == cal.resolution and back.resolution.step == pytest.approx(1 / 255, rel=0.02)
    certain = torch.tensor([1.0, 0, 0, 0])[None, :, None]
    floor, beta = back.resolution.zero, float(back.maps[0].beta)
    assert back(certain)[0, 0, 0].item() == pytest.approx(1 / (1 + 3 * floor**beta), rel=1e-6)
    assert back.data.notes == cal.data.notes != ()


def test_what_becomes_of_a_case_does_not_depend_on_its_company():
    (p, y), (q, x) = drawn(2), drawn(3)
    q[1] = np.eye(4)[:, :1, None].astype(q.dtype) * np.ones_like(q[1]) * 0.9 + q[1] * 0.1  # another case's sample
    cal = segcal.TemperatureScaling().fit(np.round(p * 255), y, kind="scores")
    alone, together = (cohort_from_arrays(np.round(255 * q[:n]), x[:n], kind="scores") for n in (1, 4))
    assert alone.resolution.zero != together.resolution.zero and alone.resolution.like(together.resolution)
    for data in (alone, together):
        own, at, said = level(cal, data)
        assert own.resolution == at.resolution == cal.resolution
        assert len(said) == 1 and f"a stored 0 counts as {cal.resolution.zero:.2g}" in said[0]
    nll = [segcal.evaluate(data, cal, Serial()).calibrated.per_case[0]["nll"] for data in (alone, together)]
    assert nll[0] == nll[1]


def test_a_calibrator_of_before_counts_zeros_as_it_did():
    (p, y), (q, x) = drawn(2), drawn(3)
    cal = segcal.TemperatureScaling().fit(np.round(p * 255), y, kind="scores").at_least(FULL)
    cal.resolution = Resolution(1 / 510)  # half a step, and no step kept
    own, at, said = level(cal, cohort_from_arrays(np.round(255 * q), x, kind="scores"))
    assert own.resolution == at.resolution == Resolution(1 / 510) and len(said) == 1 and "counts as 0.002" in said[0]


@pytest.mark.parametrize(("dtype", "step"), [(np.float32, 2.0**-24), (np.float16, 2.0**-11)])
def test_saturated_regions_do_not_rule_a_fit(dtype, step):
    rng = np.random.default_rng(0)
    z = rng.normal(0, 3, (6, 1, 48, 48))
    y = (rng.random(z.shape) < 1 / (1 + np.exp(-z)))[:, 0].astype(int)
    s = (1 / (1 + np.exp(-6 * z))).astype(dtype)
    head = Regions(("r",), ((1,),), (1,))
    assert (s == 1).mean() > 0.1 and ((s[:, 0] == 1) & (y == 0)).any()
    data = cohort_from_arrays(s, y, kind="probs", head=head)
    one = data.resolution.one
    assert data.resolution.step_one == step and step / 1000 < one < step / 2
    cal, held = segcal.TemperatureScaling().fit(data), segcal.evaluate(data, None, Serial())
    pair = np.stack([np.maximum(1 - s.astype(float), one), np.maximum(s.astype(float), data.resolution.zero)])
    own = np.take_along_axis((pair / pair.sum(0))[:, :, 0], y[None], 0)
    assert held.uncalibrated.block["nll"] == pytest.approx(-np.log(own).mean(), rel=1e-6)
    assert 4.8 < temperature(cal) < 6.1  # of 6; above where 1 - 1 counts as 1e-12
    assert torch.equal(cal(torch.from_numpy(s.astype(np.float32))) > 0.5, torch.from_numpy(s.astype(np.float32)) > 0.5)


@pytest.mark.parametrize("method", [segcal.OrderPreservingMatrixScaling, segcal.ArgmaxPreservingMatrixScaling])
def test_what_is_proven_stays_true_of_bytes(method):
    p, y = drawn(5)
    data = cohort_from_arrays(np.round(p * 255), y, kind="scores")
    found = segcal.audit(method(lambda_=0.1, mu=0.1).fit(data), data, Serial())
    assert found.preserved.labels_changed == 0 and not found.broken
    if method is segcal.OrderPreservingMatrixScaling:
        assert found.preserved.orders_changed == 0
    assert found.saturated.voxels_at_floor == int((np.round(p * 255) == 0).any(1).sum())
    assert any("a stored 0 counts as" in note for note in found.notes)


def folder(root: Path, arrays, key="scores", labels=None) -> list[str]:
    (root / "pred").mkdir(parents=True)
    (root / "lab").mkdir()
    for k, array in enumerate(arrays):
        np.savez_compressed(root / "pred" / f"c{k}.npz", **{key: array})
        if labels is not None:
            np.save(root / "lab" / f"c{k}.npy", labels[k].astype(np.uint8))
    return [str(root / "pred"), *(["--labels", str(root / "lab")] if labels is not None else [])]


def said(capsys, *words) -> tuple[int, str]:
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        code = run([*map(str, words), "--workers", "1"])
    captured = capsys.readouterr()
    return code, " ".join((captured.out + captured.err).split())


def test_every_command_says_how_zeros_count(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    (p, y), (q, x) = drawn(2, side=32), drawn(3, side=32)
    fit, new = (
        folder(tmp_path / n, np.round(255 * a).astype(np.uint8), labels=b) for n, a, b in (("a", p, y), ("b", q, x))
    )
    cal = tmp_path / "c.safetensors"
    for words in (
        ["check", *fit, "--json", tmp_path / "check.json"],
        ["fit", *fit, "-o", cal],
        ["evaluate", *new, "--calibrator", cal],
        ["apply", cal, new[0], "-o", tmp_path / "out"],
        ["audit", cal, *new],
    ):
        code, text = said(capsys, *words)
        assert code == 0 and text.count("stored in steps of 1/255: a stored 0 counts as 0.00") == 1, text
        if words[0] in ("check", "fit", "evaluate"):
            assert "the label's is 0 at " in text
    facts = json.loads((tmp_path / "check.json").read_text())["storage"]
    assert facts["steps"] == "steps of 1/255" and facts["floored"] > 0
    fine = folder(tmp_path / "fine", q.astype(np.float32), "probs", x)
    assert "a stored 0 counted as 0.00" in said(capsys, "evaluate", *fine, "--calibrator", cal)[1]


def test_probabilities_given_as_logits_are_warned_of_wherever_they_are_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    p, y = drawn(2, side=32)
    q, x = drawn(3, side=32)
    fit, new = (folder(tmp_path / n, a.astype(np.float32), "logits", b) for n, a, b in (("a", p, y), ("b", q, x)))
    cal = tmp_path / "c.safetensors"
    for words in (
        ["check", *fit],
        ["fit", *fit, "-o", cal],
        ["evaluate", *new, "--calibrator", cal],
        ["apply", cal, new[0], "-o", tmp_path / "out"],
        ["audit", cal, *new],
    ):
        code, text = said(capsys, *words)
        assert code == 0 and text.count("all lie in [0, 1] and sum to 1 over the classes") == 1, text
    code, text = said(capsys, "check", *fit, "--kind", "probs")  # what is advised is taken
    assert code == 0 and "declared as logits" not in text
    with pytest.warns(KindWarning):
        cal = segcal.TemperatureScaling().fit(p, y)
    assert "declared as logits" in cal.solution.message and cal.kind == "logits"


@pytest.mark.parametrize("key", ["probabilities", "probs", "logits", "anything"])
def test_sums_off_one_lead_to_scores_which_are_taken_everywhere(key, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    p, y = drawn(2, side=32)
    fit = folder(tmp_path / "a", np.round(p, 2).astype(np.float32), key, y)
    code, text = said(capsys, "check", *fit, "--kind", "probs")
    assert code == 3 and "--kind scores" in text
    cal = tmp_path / "c.safetensors"
    for words in (
        ["check", *fit],
        ["fit", *fit, "-o", cal],
        ["evaluate", *fit, "--calibrator", cal, "--fitted", "include"],
        ["apply", cal, fit[0], "-o", tmp_path / "out"],
        ["audit", cal, *fit],
    ):
        code, text = said(capsys, *words, "--kind", "scores")
        assert code == 0, text
    with pytest.raises(segcal.SegcalError, match=r"kind='scores' \(--kind scores\)"):
        segcal.TemperatureScaling().fit(np.round(p, 2), y, kind="probs")


def test_bytes_of_regions_are_told_to_be_divided():
    head = Regions(("r", "s"), ((1,), (2,)), (1, 2))
    s = np.random.default_rng(0).integers(0, 256, (2, 2, 8, 8))
    with pytest.raises(segcal.SegcalError, match="Divide them by what stands for 1, 255 in bytes"):
        segcal.TemperatureScaling().fit(cohort_from_arrays(s, s[:, 0] % 3, kind="probs", head=head))


def test_probabilities_given_as_log_probabilities_are_told_what_they_are():
    p, y = drawn(2, side=16)
    with pytest.raises(segcal.SegcalError, match=r"kind='probs' \(--kind probs\)"):
        segcal.TemperatureScaling().fit(p, y, kind="log_probs")


def test_where_every_case_is_one_of_the_fit_leaving_them_out_is_not_advised(tmp_path, capsys):
    p, y = drawn(2, side=32)
    fit = folder(tmp_path / "a", p.astype(np.float32), "probs", y)
    cal = tmp_path / "c.safetensors"
    assert said(capsys, "fit", *fit, "-o", cal)[0] == 0
    for words in ([], ["--fitted", "exclude"]):
        code, text = said(capsys, "evaluate", *fit, "--calibrator", cal, *words)
        assert code == 3 and "--fitted include" in text and "--fitted exclude" not in text


def test_nnunet_folders_that_hold_logits_are_read_as_such(tmp_path, capsys):
    root = tmp_path / "pred"
    rng = np.random.default_rng(0)
    folder(tmp_path, rng.normal(0, 4, (4, 3, 4, 6, 8)).astype(np.float32), "probabilities")
    (root / "plans.json").write_text(json.dumps({"transpose_backward": [0, 1, 2]}))
    described = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1, "b": 2}, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(described))
    code, text = said(capsys, "check", root)
    assert code == 3 and "kind='logits' (--kind logits)" in text
    code, text = said(capsys, "check", root, "--kind", "logits")
    assert code == 0 and "scores of kind logits" in text
