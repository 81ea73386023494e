"""Applying: padding as it came, promised labels kept, maps as their formulas say, counts as a loop would count, nothing
partial.
"""

from __future__ import annotations

import contextlib
import errno
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from segcal.data.case import Case, Provenance
from segcal.data.cohort import Cohort
from segcal.data.files import journal
from segcal.data.formats.arrays import ArrayField
from segcal.data.formats.npz import NpzSink
from segcal.data.head import Regions, Softmax
from segcal.data.scores import FULL, Resolution
from segcal.engine.serial import Serial
from segcal.engine.threads import Threads
from segcal.errors import MismatchError, OutputError, ScoreError, UsageError
from segcal.methods.affine.map import AffineMap
from segcal.methods.calibrator import Calibrator, FitData
from segcal.methods.temperature import ScaleMap
from segcal.tasks.apply import COUNTS, MAPS, apply, prepare

HEAD = Softmax(("background", "organ", "lesion"), 0)
REGIONS = Regions(("whole", "core"), ((1, 2), (2,)), (1, 2))
SHAPE = (6, 7, 8)
VOXELS = 6 * 7 * 8


@dataclass(eq=False)
class Kept:
    """A sink that keeps what it is given, case by case; a case that fails is not kept."""

    cases: dict = field(default_factory=dict)
    finished: int = 0

    @contextlib.contextmanager
    def case(self, cohort, case, scratch):
        blocks = []

        class Writer:
            def write(self, delivered):
                blocks.append(delivered)

        yield Writer()
        self.cases[case.id] = {
            "p": torch.cat([b.probabilities for b in blocks], 1).numpy(),
            "label": torch.cat([b.label_map for b in blocks]).numpy(),
            **{name: torch.cat([b.maps[name] for b in blocks]).numpy() for name in blocks[0].maps},
        }

    def finish(self, cohort):
        self.finished += 1

    def outputs(self, case):
        return []


def random_probs(seed=0, channels=3, regions=False, scale=3.0):
    z = scale * np.random.default_rng(seed).normal(size=(channels, *SHAPE))
    p = 1 / (1 + np.exp(-z)) if regions else np.exp(z) / np.exp(z).sum(0)
    return p.astype(np.float32)


def cohort(p, kind="probs", head=HEAD, pool="probs", delivered=None, crop=None, provenance=None):
    members = tuple(ArrayField(m, True, f"member {k}") for k, m in enumerate(p if isinstance(p, list) else [p]))
    fields = {} if delivered is None else {"delivered": ArrayField(delivered, False, "delivered")}
    return Cohort(
        (Case("one", members, crop=crop, fields=fields),), head, kind, pool, provenance or Provenance(len(members))
    )


def scale(beta, head=HEAD, kind="probs", **options):
    return Calibrator(head, kind, [ScaleMap(beta) for _ in head.parts], "ts", **options)


def swap(head=HEAD):
    """A map that moves the label of nearly every voxel."""
    return Calibrator(
        head,
        "probs",
        [AffineMap(torch.eye(3, dtype=torch.float64).roll(1, 0), torch.zeros(3, dtype=torch.float64), False)],
        "dc",
    )


def applied(calibrator, to, maps=(), engine=None, **options):
    sink = Kept()
    (outcome,) = apply(calibrator, to, sink, engine or Serial(), maps=maps, **options)
    if outcome.error is not None:
        raise outcome.error
    return sink.cases["one"], outcome.summary


def test_probabilities_are_those_of_the_calibrator():
    p = random_probs()
    kept, counts = applied(scale(0.5), cohort(p))
    expected = scale(0.5)(torch.from_numpy(p)[None])[0].reshape(3, -1).numpy()
    assert (kept["p"] == expected).all()
    assert (kept["label"] == expected.argmax(0)).all()
    assert kept["p"].dtype == np.float32
    assert counts == {"voxels": VOXELS, "padding": 0, "flips": 0, "decisions": VOXELS, "delivered_differs": 0}


@pytest.mark.parametrize("beta", [1e-10, 0.3, 1.0, 50.0])
def test_a_preserving_map_flips_nothing_of_what_is_delivered(beta):
    p = random_probs(scale=30.0)
    p[:, 0] = np.float32(1 / 3)
    p[:, 1] = np.array([0, 1, 0], np.float32)[:, None, None]
    kept, counts = applied(scale(beta), cohort(p))
    assert (kept["p"].argmax(0) == p.reshape(3, -1).argmax(0)).all()
    assert counts["flips"] == 0
    assert abs(kept["p"].sum(0, dtype=np.float64) - 1).max() < 1e-6


def test_flips_are_counted_where_the_label_moves():
    p = random_probs()
    kept, counts = applied(swap(), cohort(p))
    assert counts["flips"] == (kept["p"].argmax(0) != p.reshape(3, -1).argmax(0)).sum() == VOXELS


def padded(head, channels):
    p = random_probs(1, channels, regions=isinstance(head, Regions))
    inside = np.zeros(SHAPE, bool)
    inside[1:5, 2:7, 0:6] = True
    p[:, ~inside] = 0
    if isinstance(head, Softmax):
        p[0, ~inside] = 1
    return p, inside.ravel(), ((1, 5), (2, 7), (0, 6))


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("pool", ["probs", "logits"])
@pytest.mark.parametrize(("head", "channels"), [(HEAD, 3), (REGIONS, 2)], ids=["classes", "regions"])
@pytest.mark.parametrize("resolution", [FULL, Resolution(0.005, 0.005)], ids=["fine", "coarse"])
def test_padding_comes_through_as_it_was(head, channels, pool, members, resolution):
    p, inside, crop = padded(head, channels)
    pooled = cohort([p] * members, head=head, pool=pool, crop=crop).at_least(resolution)
    kept, counts = applied(scale(0.2, head, pooled.pooled_kind), pooled, ("entropy", "confidence", "error"))
    assert (kept["p"][:, ~inside] == p.reshape(channels, -1)[:, ~inside]).all()
    assert (kept["p"][:, inside] != p.reshape(channels, -1)[:, inside]).any(0).all()
    assert counts["padding"] == (~inside).sum()
    assert (kept["label"][~inside] == 0).all()
    assert (kept["entropy"][~inside] == 0).all()
    assert (kept["confidence"][~inside] == 1).all()
    assert (kept["error"][~inside] == 0).all()


def test_flips_in_padding_are_none():
    p, inside, crop = padded(HEAD, 3)
    _, counts = applied(swap(), cohort(p, crop=crop))
    assert counts["flips"] == counts["decisions"] == inside.sum()


def test_flips_of_regions_are_those_of_their_decisions_as_evaluate_counts_them():
    p = random_probs(1, 2, regions=True)
    free = Calibrator(
        REGIONS, "probs", [ScaleMap(1.0), AffineMap(torch.eye(2), torch.tensor([0.0, 40.0]))], "dc", keep_decision=False
    )
    _, counts = applied(free, cohort(p, head=REGIONS))
    assert counts["flips"] == (p[1] <= 0.5).sum() > 0
    assert counts["decisions"] == 2 * VOXELS


def test_maps_of_classes_are_their_formulas():
    p = random_probs()
    kept, _ = applied(scale(0.5), cohort(p), ("entropy", "confidence", "error"))
    q = kept["p"].astype(np.float64)
    np.testing.assert_allclose(kept["entropy"], -(q * np.log(q)).sum(0), atol=1e-6)
    np.testing.assert_allclose(kept["confidence"], q.max(0), atol=0)
    np.testing.assert_allclose(kept["error"], 1 - q.max(0), atol=1e-7)
    assert all(kept[name].dtype == np.float32 for name in ("entropy", "confidence", "error"))


def test_the_error_map_is_about_the_delivered_label():
    p = random_probs()
    delivered = np.random.default_rng(3).integers(3, size=SHAPE).astype(np.uint8)
    kept, counts = applied(scale(0.5), cohort(p, delivered=delivered), ("error",))
    q = kept["p"].astype(np.float64)
    np.testing.assert_allclose(kept["error"], 1 - q[delivered.ravel(), np.arange(VOXELS)], atol=1e-7)
    assert counts["delivered_differs"] == (delivered != p.argmax(0)).sum()
    assert counts["flips"] == 0


def test_a_delivered_label_that_no_class_has_has_no_error_probability():
    delivered = random_probs().argmax(0)
    delivered[0, 0, :3] = (3, 200, -1)
    kept, counts = applied(scale(0.5), cohort(random_probs(), delivered=delivered), ("error",))
    assert np.isnan(kept["error"]).tolist() == [True] * 3 + [False] * (VOXELS - 3)
    assert counts["delivered_differs"] == 3


def test_maps_of_regions_are_their_formulas():
    p = random_probs(2, 2, regions=True)
    delivered = np.random.default_rng(3).integers(3, size=SHAPE)
    kept, counts = applied(
        scale(0.5, REGIONS), cohort(p, head=REGIONS, delivered=delivered), ("entropy", "confidence", "error")
    )
    q, y = kept["p"].astype(np.float64), delivered.ravel()
    entropies = -(q * np.log(q) + (1 - q) * np.log1p(-q))
    np.testing.assert_allclose(kept["entropy"], entropies.max(0), atol=1e-6)
    np.testing.assert_allclose(kept["confidence"], np.maximum(q, 1 - q).min(0), atol=1e-7)
    wrong = np.stack([np.where(np.isin(y, m), 1 - q[r], q[r]) for r, m in enumerate(REGIONS.members)])
    np.testing.assert_allclose(kept["error"], wrong.max(0), atol=1e-7)
    before = np.where(p[1] > 0.5, 2, np.where(p[0] > 0.5, 1, 0))
    assert counts["delivered_differs"] == (delivered != before).sum()


def test_a_region_at_one_half_stays_on_its_side():
    p = random_probs(2, 2, regions=True)
    half = np.float32(0.5)
    p[:, 0] = half
    p[:, 1] = np.nextafter(half, np.float32(1))
    kept, counts = applied(scale(1e-12, REGIONS), cohort(p, head=REGIONS))
    assert ((kept["p"] > 0.5) == (p.reshape(2, -1) > 0.5)).all()
    assert counts["flips"] == 0


def test_without_a_delivered_map_the_arg_max_is_meant():
    kept, counts = applied(swap(), cohort(random_probs()), ("error",))
    np.testing.assert_allclose(kept["error"], 1 - kept["p"].max(0), atol=1e-7)
    assert counts["delivered_differs"] == 0


def test_logits_and_pooled_members_are_delivered_as_probabilities():
    z = [np.random.default_rng(k).normal(size=(3, *SHAPE)).astype(np.float32) for k in range(3)]
    for pool, mean in (("probs", lambda x: torch.softmax(x, 1).mean(0).log()), ("logits", lambda x: x.mean(0))):
        pooled = cohort(z, "logits", pool=pool)
        kept, _ = applied(scale(0.5, kind=pooled.pooled_kind), pooled)
        u = 0.5 * mean(torch.from_numpy(np.stack(z)).double())
        np.testing.assert_allclose(kept["p"], torch.softmax(u, 0).reshape(3, -1).numpy(), atol=1e-7)


def test_probability_is_taken_by_the_sink_from_the_probabilities(tmp_path):
    sink = NpzSink(tmp_path / "out", ("probability", "entropy"), HEAD.classes)
    assert "probability" in MAPS
    (outcome,) = apply(scale(0.5), cohort(random_probs()), sink, Serial(), maps=("probability", "entropy"))
    assert outcome.error is None
    whole = np.load(tmp_path / "out" / "one.npz")["probabilities"]
    written = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.npy")}
    assert len(written) == 4
    for k, name in enumerate(HEAD.classes):
        (path,) = [p for p in written if name in p]
        assert (np.load(tmp_path / "out" / path) == whole[k]).all()


def test_unknown_maps_are_refused_before_any_work():
    sink = Kept()
    with pytest.raises(
        UsageError, match="maps: found 'entropie'; expected some of entropy, confidence, error, probability"
    ):
        apply(scale(0.5), cohort(random_probs()), sink, Serial(), maps=("entropie",))
    assert sink.cases == {}


def test_a_mismatch_stops_before_any_work_unless_told_to_go_on():
    single = scale(0.5, data=FitData("x", "probs", Provenance(1, 1), (), 1))
    five = cohort(random_probs(), provenance=Provenance(1, 5))
    sink = Kept()
    with pytest.raises(MismatchError, match="5 networks averaged"):
        apply(single, five, sink, Serial())
    assert (sink.cases, sink.finished) == ({}, 0)
    apply(single, five, sink, Serial(), go_on=True)
    assert list(sink.cases) == ["one"]


def several(bad):
    cases = []
    for k in range(4):
        p = random_probs(k)
        if k in bad:
            p[0, -1, -1, -1] = np.nan
        cases.append(Case(f"case{k}", (ArrayField(p, True, f"case{k}.npz"),)))
    return Cohort(tuple(cases), HEAD, "probs")


@pytest.mark.parametrize("engine", [Serial(), Threads(2)])
def test_a_case_with_nan_leaves_nothing_and_the_others_are_finished(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("SEGCAL_SCRATCH", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    outcomes = apply(scale(0.5), several({1}), NpzSink(tmp_path / "out", ("entropy",)), engine, maps=("entropy",))
    assert [o.error is None for o in outcomes] == [True, False, True, True]
    assert isinstance(outcomes[1].error, ScoreError)
    assert outcomes[1].error.where == "case1.npz"
    assert outcomes[1].summary is None
    left = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert left == sorted([f"case{k}.npz" for k in (0, 2, 3)] + [f"entropy/case{k}.npy" for k in (0, 2, 3)])
    assert list((tmp_path / "scratch").iterdir()) == []


def test_the_folder_is_finished_once_and_only_if_a_case_was():
    sink = Kept()
    apply(scale(0.5), several({0, 2}), sink, Serial())
    assert (sorted(sink.cases), sink.finished) == (["case1", "case3"], 1)
    sink = Kept()
    outcomes = apply(scale(0.5), several({0, 1, 2, 3}), sink, Serial())
    assert all(o.error is not None for o in outcomes)
    assert (sink.cases, sink.finished) == ({}, 0)


def test_a_full_disk_is_an_outcome_and_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(journal.os, "fsync", full)
    outcomes = apply(scale(0.5), several(()), NpzSink(tmp_path / "out"), Serial())
    assert all(isinstance(o.error, OutputError) for o in outcomes)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_an_interruption_leaves_nothing_of_the_case_under_way(tmp_path):
    sink = NpzSink(tmp_path / "out")
    steps = 0

    class Progress:
        def start(self, what, total):
            pass

        def step(self):
            nonlocal steps
            steps += 1
            if steps == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apply(scale(0.5), several(()), sink, Serial(progress=Progress()))
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["case0.npz", "case1.npz"]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_what_is_delivered_does_not_depend_on_the_workers(workers):
    reference, sink = Kept(), Kept()
    apply(scale(0.7), several(()), reference, Serial(), maps=("entropy",))
    apply(scale(0.7), several(()), sink, Threads(workers), maps=("entropy",))
    for name, kept in reference.cases.items():
        assert all((kept[k] == sink.cases[name][k]).all() for k in kept)


def plain_case(name: str, seed: int) -> Case:
    z = np.random.default_rng(seed).normal(size=(3, *SHAPE)).astype(np.float32)
    return Case(name, (ArrayField(z, True, name),))


def test_a_run_goes_on_where_another_stopped_without_the_command_line(tmp_path, monkeypatch):
    calibrator = Calibrator(HEAD, "logits", [ScaleMap(0.5)], "ts")
    cohort = Cohort(tuple(plain_case(f"c{k}", k) for k in range(3)), HEAD, "logits")
    whole = prepare(calibrator, cohort, tmp_path / "whole", maps=["entropy"]).run(Serial())
    assert [o.id for o in whole.outcomes] == ["c0", "c1", "c2"]
    assert (whole.failed, whole.skipped, whole.anew) == ([], (), 0)
    assert whole.counts["voxels"] == 3 * VOXELS
    assert set(COUNTS) <= set(whole.to_json())
    folder = tmp_path / "parts"
    first = Cohort(cohort.cases[:2], HEAD, "logits")
    prepare(calibrator, first, folder, maps=["entropy"]).run(Serial())
    with pytest.raises(OutputError, match="--resume to go on"):
        prepare(calibrator, cohort, folder, maps=["entropy"])
    with pytest.raises(UsageError, match="both"):
        prepare(calibrator, cohort, folder, maps=["entropy"], resume=True, overwrite=True)
    with pytest.raises(UsageError, match=r"maps \['error'\]"):
        prepare(calibrator, cohort, folder, maps=["error"], resume=True)
    (folder / "c1.npz").write_bytes(b"changed")
    rest = prepare(calibrator, cohort, folder, maps=["entropy"], resume=True).run(Serial())
    assert (rest.skipped, rest.anew, [o.id for o in rest.outcomes]) == (("c0",), 1, ["c1", "c2"])
    for k in range(3):
        with np.load(folder / f"c{k}.npz") as parts, np.load(tmp_path / "whole" / f"c{k}.npz") as one:
            assert parts.files == one.files
            assert all(np.array_equal(parts[name], one[name]) for name in one.files)
    again = prepare(calibrator, cohort, folder, maps=["entropy"], resume=True).run(Serial())
    assert (again.outcomes, len(again.skipped)) == ([], 3)


def test_a_folder_of_others_is_left_alone(tmp_path):
    calibrator = Calibrator(HEAD, "logits", [ScaleMap(0.5)], "ts")
    cohort = Cohort((plain_case("c0", 0),), HEAD, "logits")
    (tmp_path / "c0.png").write_bytes(b"a label map")
    with pytest.raises(UsageError, match="a folder that segcal did not write"):
        prepare(calibrator, cohort, tmp_path, overwrite=True)
    with pytest.raises(UsageError, match="maps: found 'nope'"):
        prepare(calibrator, cohort, tmp_path / "new", maps=["nope"])
    assert not (tmp_path / "new").exists()
