"""Resident memory of `fit` and `evaluate` stays within the limit, for cohorts and for single compressed cases larger
than it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pytest

from segcal.engine.need import MIB

ROOT = Path(__file__).parents[1]
LIMIT = 256 * MIB

PREPARED = """
    import json, sys
    import numpy as np
    from segcal import DirichletCalibration, EnsembleTemperatureScaling, TemperatureScaling, Threads
    from segcal import crossfitted, evaluate, fit_methods, open_cohort
    from segcal.data.formats.arrays import cohort_from_arrays
    from tests.lazy import random_cohort

    def status(name):
        return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))

    def peak(work):
        base = status("VmRSS")
        open("/proc/self/clear_refs", "w").write("5")  # the high-water mark begins anew
        result = work()
        return status("VmHWM") - base, result

    ts, ets = TemperatureScaling(), EnsembleTemperatureScaling()
    methods = {"ts": ts, "ets": ets, "dc": DirichletCalibration(lambda_=0.01)}
    engine = Threads(2, max_memory=256 * 2**20)
    # a fit of some voxels first: what torch and SciPy load and keep on first use is no part of what is measured
    rng = np.random.default_rng(0)
    little = cohort_from_arrays(rng.normal(size=(2, 3, 500)).astype(np.float32), rng.integers(3, size=(2, 500)))
    warm = fit_methods(methods, little, engine)
    evaluate(little, warm["dc"].calibrator, engine, fitted="include")
"""


def measured(code: str, timeout: int = 900) -> dict[str, int]:
    """Run `code` after PREPARED in a process of its own; the JSON it prints."""
    source = textwrap.dedent(PREPARED) + textwrap.dedent(code)
    path = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", source],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, int] = json.loads(done.stdout)
    print({name: f"{n / MIB:.0f} MiB" for name, n in found.items() if name != "voxels"})
    return found


pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="resident memory is read from /proc, which is Linux's"
)


def test_a_cohort_larger_than_the_limit_stays_within_it():
    found = measured("""
        cohort = random_cohort(9, (1_000_000,), classes=8)
        fitting, fits = peak(lambda: fit_methods({"ts": methods["ts"]}, cohort, engine))
        scoring, _ = peak(lambda: evaluate(cohort, fits["ts"].calibrator, engine, fitted="include"))
        print(json.dumps({"size": 9 * 1_000_000 * 32, "fit": fitting, "evaluate": scoring}))
        """)
    assert found["size"] > LIMIT
    assert found["fit"] < LIMIT
    assert found["evaluate"] < LIMIT


@pytest.mark.slow
def test_a_cohort_eight_times_larger_than_the_limit_stays_within_it():
    found = measured(
        """
        cohort = random_cohort(60, (3_000_000,), classes=3)
        first, fits = peak(lambda: fit_methods({"ts": ts}, cohort, engine))
        part = cohort[:16]
        fitting, fits = peak(lambda: fit_methods(methods, part, engine))
        scoring, _ = peak(lambda: evaluate(part, fits["dc"].calibrator, engine, fitted="include"))
        print(json.dumps({"size": 60 * 3_000_000 * 12, "part": 16 * 3_000_000 * 12,
                          "fit": first, "part fit": fitting, "evaluate": scoring}))
        """,
        timeout=3600,
    )
    assert found["size"] > 8 * LIMIT
    assert found["part"] > 2 * LIMIT
    assert max(found["fit"], found["part fit"], found["evaluate"]) < LIMIT


@pytest.mark.slow
def test_nineteen_classes_and_four_workers_stay_within_the_limit():
    found = measured("""
        engine = Threads(4, max_memory=256 * 2**20)
        cohort = random_cohort(8, (600_000,), classes=19)
        fitting, fits = peak(lambda: fit_methods(methods, cohort, engine, crossfit=True))
        scoring, _ = peak(lambda: crossfitted(cohort, fits, engine))
        print(json.dumps({"fit": fitting, "evaluate": scoring}))
        """)
    assert max(found.values()) < LIMIT


@pytest.mark.slow
def test_rows_filed_by_expert_and_by_rank_stay_within_the_limit():
    found = measured("""
        from segcal import ClassConditionalDirichlet, OrderPreservingMatrixScaling
        experts = {"cdc": ClassConditionalDirichlet(0.1), "cms-op": OrderPreservingMatrixScaling(0.1)}
        fit_methods(experts, little, engine)
        cohort = random_cohort(9, (1_000_000,), classes=8)
        fitting, fits = peak(lambda: fit_methods(experts, cohort, engine))
        scoring, _ = peak(lambda: evaluate(cohort, fits["cms-op"].calibrator, engine, fitted="include"))
        print(json.dumps({"fit": fitting, "evaluate": scoring}))
        """)
    assert max(found.values()) < LIMIT


ARRAYS = """
    def arrays(cases, voxels, classes):
        scores = (2 * rng.normal(size=(cases, classes, voxels))).astype(np.float32)
        drawn = rng.integers(classes, size=(cases, voxels))
        labels = np.where(rng.random((cases, voxels)) < 0.5, scores.argmax(1), drawn)
        return cohort_from_arrays(scores, labels, kind="logits")
"""


@pytest.mark.parametrize("cases", [300, pytest.param(4000, marks=pytest.mark.slow)])
def test_many_small_cases_take_little_each(cases):
    found = measured(
        ARRAYS
        + f"""
    cohort = arrays({cases}, 64, 3)
    fitting, fits = peak(lambda: fit_methods({{"ts": ts}}, cohort, engine, crossfit=True))
    scoring, _ = peak(lambda: crossfitted(cohort, fits, engine))
    print(json.dumps({{"fit": fitting, "evaluate": scoring}}))
    """,
        timeout=3600,
    )
    assert max(found.values()) < min(LIMIT, 24 * MIB + cases * 32 * 1024)


@pytest.mark.parametrize("classes", [300, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_classes_stay_within_the_limit(classes):
    found = measured(
        ARRAYS
        + f"""
    cohort = arrays(6, 2000, {classes})
    fitting, fits = peak(lambda: fit_methods({{"ts": ts}}, cohort, engine, crossfit=True))
    scoring, _ = peak(lambda: crossfitted(cohort, fits, engine))
    print(json.dumps({{"fit": fitting, "evaluate": scoring}}))
    """
    )
    assert max(found.values()) < LIMIT


@pytest.mark.parametrize(
    ("method", "classes"),
    [
        ("VectorScaling(0.1)", 16),
        pytest.param("VectorScaling(0.1)", 118, marks=pytest.mark.slow),
        pytest.param("DirichletCalibration(0.1)", 40, marks=pytest.mark.slow),
        pytest.param("DirichletCalibration()", 12, marks=pytest.mark.slow),
        pytest.param("ClassConditionalDirichlet(0.1)", 12, marks=pytest.mark.slow),
        pytest.param("OrderPreservingMatrixScaling(0.1)", 12, marks=pytest.mark.slow),
        pytest.param("IsotonicRegression()", 100, marks=pytest.mark.slow),
    ],
)
def test_what_a_fit_takes_is_not_above_what_was_said_before(method, classes):
    found = measured(
        ARRAYS
        + f"""
    import segcal
    from segcal.engine.need import Sizes
    from segcal.methods.method import need_of
    method = eval("segcal.{method}")
    engine = Threads(2, max_memory=4096 * 2**20)
    fit_methods({{"one": method}}, little, engine)
    cohort = arrays(8, 1500, {classes})
    said = Sizes.of(cohort).fitting(need_of(method, cohort), 2, engine.memory)
    fitting, _ = peak(lambda: fit_methods({{"one": method}}, cohort, engine))
    print(json.dumps({{"said": said, "fit": fitting}}))
    """
    )
    assert found["fit"] <= 1.1 * found["said"] + 16 * MIB


def blocky(path: Path, shape: tuple[int, ...], classes: int, key: str) -> None:
    """A case that compresses well: probabilities of few digits, in blocks, with labels beside it."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(classes, size=tuple(-(-n // 16) for n in shape), dtype=np.uint8)
    labels = coarse.repeat(16, 0).repeat(16, 1).repeat(16, 2)[: shape[0], : shape[1], : shape[2]]
    p = np.full((classes, *shape), np.float32(0.2 / (classes - 1)), np.float32)
    np.put_along_axis(p, labels[None], np.float32(0.8), 0)
    (path / "labels").mkdir(parents=True)
    (path / "scores").mkdir()
    with (
        zipfile.ZipFile(path / "scores" / "big.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(f"{key}.npy", "w") as file,
    ):
        np.lib.format.write_array(file, p)
    wrong = rng.random(shape) < 0.3
    np.save(path / "labels" / "big.npy", np.where(wrong, (labels + 1) % classes, labels).astype(np.uint8))


@pytest.mark.parametrize(
    ("shape", "classes"),
    [((256, 256, 350), 3), pytest.param((330, 330, 330), 4, marks=pytest.mark.slow)],
)
def test_a_compressed_case_larger_than_the_limit_stays_within_it(tmp_path, shape, classes):
    blocky(tmp_path, shape, classes, "probabilities")
    size = int(np.prod(shape)) * classes * 4
    assert size > LIMIT > 20 * (tmp_path / "scores" / "big.npz").stat().st_size
    found = measured(f"""
        cohort = open_cohort({str(tmp_path / "scores")!r}, {str(tmp_path / "labels")!r}, kind="probs")
        fitting, fits = peak(lambda: fit_methods({{"ts": methods["ts"]}}, cohort, engine))
        scoring, result = peak(lambda: evaluate(cohort, fits["ts"].calibrator, engine, fitted="include"))
        print(json.dumps({{"fit": fitting, "evaluate": scoring, "voxels": result.to_json()["voxels"]}}))
        """)
    assert found["voxels"] == np.prod(shape)
    assert found["fit"] < LIMIT
    assert found["evaluate"] < LIMIT


def _with_copies(root: Path, shape: tuple[int, int, int]) -> None:
    """Two cases of four classes, with what a network says of two copies of each."""
    for folder in ("results", "labels", "copies"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for k in range(2):
        z = rng.normal(size=(4, *shape)).astype(np.float32)
        logs = z - np.log(np.exp(z).sum(0))
        np.savez(root / "results" / f"c{k}.npz", logits=z)
        np.save(root / "labels" / f"c{k}.npy", z.argmax(0).astype(np.uint8))
        copies = {"mean": np.exp(logs), "spread": 0.1 * np.exp(logs), "scores": np.concatenate([logs, logs])}
        np.savez(root / "copies" / f"c{k}.npz", **copies, image=z[:1], images=z[:2])
    (root / "copies" / "copies.json").write_text('{"made": {}, "kept": 2}')


@pytest.mark.slow
def test_susceptibility_calibration_of_a_volume_takes_what_its_voxels_ask_for(tmp_path):
    """128^3 voxels, four classes and two copies were measured to take 2.1 GiB of 4 (docs/methods): an eighth of them
    within an eighth of 4. Most of it is a step on 4 planes of two copies, some 8 kB a voxel of them. A fit of small
    planes first, as above.
    """
    _with_copies(tmp_path / "little", (2, 16, 16))
    _with_copies(tmp_path, (64, 64, 64))
    found = measured(f"""
        from segcal import SusceptibilityCalibration, apply
        from segcal.data.formats.npz import NpzSink
        root = {str(tmp_path)!r}
        engine = Threads(1, max_memory=512 * 2**20)
        method = SusceptibilityCalibration(epochs=1, prior_epochs=1, planes=8)
        little, cohort = (
            open_cohort([one + "/results"], one + "/labels", copies=one + "/copies") for one in (root + "/little", root)
        )
        method.fit(little, engine=engine)
        fitting, made = peak(lambda: method.fit(cohort, engine=engine))
        applying, _ = peak(lambda: apply(made, cohort, NpzSink(root + "/out"), engine))
        print(json.dumps({{"fit": fitting, "apply": applying}}))
        """)
    assert found["fit"] < 2 * LIMIT
    assert found["apply"] < 2 * LIMIT
