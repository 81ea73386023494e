"""A whole study on a small ensemble: honest splits, numbers that other parts of segcal confirm, the same bits however
it is run, interrupted or divided.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segcal
from segcal.data.places.objects import ObjectBoxes
from segcal.data.splits import CALIBRATION, TEST, VALIDATION
from segcal.engine import accumulate
from segcal.engine.ask import Ask
from segcal.engine.engine import Engine
from segcal.engine.progress import Silent
from segcal.engine.serial import Serial
from segcal.engine.threads import Threads
from segcal.errors import DataError, MissingError, UnreadableError, UsageError
from segcal.methods.files import load
from segcal.metrics.spatial import SpatialCalibration
from segcal.study import configuration, figures, fits, results, scoring, study
from segcal.study.design import Design
from segcal.study.pipelines import VIEWS
from segcal.study.results import Finished
from tests.study.conftest import PIPELINES, Make, files

Designed = Callable[..., Design]


def cohorts(ensembles: Path) -> dict[str, Any]:
    """A shifted cohort of the same cases, and one of others."""
    return {
        name: {
            "results": str(ensembles / name / "member*"),
            "labels": str(ensembles / name / "labels"),
            "background": 0,
        }
        for name in ("shifted", "elsewhere")
    }


SIZES = {"sizes": [4], "pipelines": ["TS(zbar)", "MS(zbar)"]}


def whole(designed: Designed, ensembles: Path, folder: Path, engine: Engine | None = None) -> tuple[Design, Finished]:
    found = designed(cohorts=cohorts(ensembles), sensitivity=SIZES)
    finished = study.run(found, folder, engine or Serial())
    assert finished is not None
    return found, finished


@pytest.fixture(scope="module")
def once(ensembles: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Design, Finished]:
    """The study, run once."""
    import yaml

    from segcal.study import configuration
    from segcal.study.design import design
    from tests.study.conftest import described

    root = tmp_path_factory.mktemp("study")
    (root / "study.yaml").write_text(
        yaml.safe_dump(described(ensembles, cohorts=cohorts(ensembles), sensitivity=SIZES))
    )
    found = design(configuration.read(root / "study.yaml"))
    finished = study.run(found, root / "out", Serial())
    assert finished is not None
    return found, finished


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of a small study's time; figures have tests of their own, and `once` and the command draw
    them.
    """
    monkeypatch.setattr(study.figures, "write", lambda *_, **__: figures.Written({}, {}))


def value(finished: Finished, table: str, **wanted: Any) -> float:
    rows = [row for row in finished.rows(table) if all(row[k] == v for k, v in wanted.items())]
    assert len(rows) == 1
    return float(rows[0]["value"])


def test_no_case_is_fitted_or_chosen_by_and_tested(once: tuple[Design, Finished]) -> None:
    found, finished = once
    scored = {(row["repeat"], row["case"]) for row in finished.rows("scores") if row["cohort"] in ("test", "shifted")}
    for arm in found.arms:
        for p in arm.pipelines:
            data = load(fits.file_of(finished.folder, arm, p)).data
            assert data is not None
            seen = {r.id.removeprefix("validation/") for r in data.records}
            assert set(arm.calibration) <= seen <= {*arm.calibration, *arm.validation}
            assert not {case for repeat, case in scored if repeat == arm.repeat} & {*arm.calibration, *arm.validation}
            assert data.voxels == sum(r.roles[0] for r in data.records if not r.id.startswith("validation/"))
    for repeat in found.repeats:
        assert {case for r, case in scored if r == repeat} == set(found.ids(repeat, TEST))


@pytest.mark.parametrize("name", PIPELINES)
def test_scores_are_those_that_evaluate_finds(name: str, once: tuple[Design, Finished]) -> None:
    found, finished = once
    pipeline = next(p for p in found.pipelines if p.name == name)
    test = VIEWS[pipeline.view].of(found.clean).select(found.ids(1, TEST))
    calibrator = None if pipeline.method is None else load(fits.file_of(finished.folder, found.arms[1], pipeline))
    direct = segcal.evaluate(test, calibrator, Serial())
    summary = direct.uncalibrated if calibrator is None else direct.calibrated
    assert summary is not None
    told = {
        (r["case"], r["metric"]): r["value"]
        for r in finished.rows("scores")
        if (r["cohort"], r["repeat"], r["pipeline"]) == ("test", 1, name)
    }
    for row in summary.per_case:
        for metric in ("nll", "brier", "ece", "dice", "iou", "flip_rate", "ba_ece", "ece_boundary", "ece_interior"):
            expected = math.nan if row[metric] is None else row[metric]
            assert told[row["case"], metric] == pytest.approx(expected, abs=1e-12, nan_ok=True)
    case = summary.per_case[0]["case"]
    alone = None if calibrator is None else segcal.evaluate(test.select([case]), calibrator, Serial()).verdict
    strata = [] if alone is None else [c for c in alone.cells if c.where != "overall" and c.metric != "ace"]
    for cell in strata:
        assert told[case, f"{cell.metric}_predicted_{cell.where}"] == pytest.approx(cell.after, abs=1e-12)
    assert calibrator is None or len(strata) == 6
    metric = SpatialCalibration(len(test.head.classes), bins=10, region=ObjectBoxes())
    ask = Ask(metric, by_case=True, through=None if calibrator is None else calibrator.through(0))
    for k, state in Serial().survey(test, {"it": ask})[0]["it"].items():
        direct_scores = accumulate.result(metric, state)
        for where in ("boundary", "interior"):
            expected = getattr(direct_scores, f"{where}_inside").ece
            assert told[test[k].id, f"ece_objects_{where}"] == pytest.approx(expected, abs=1e-12, nan_ok=True)
    for metric in ("ace", "ece_pooled", "classwise_ece"):
        assert value(finished, "pooled", cohort="test", repeat=1, pipeline=name, metric=metric) == pytest.approx(
            summary.block[metric], abs=1e-12
        )
    curve = [
        row for row in finished.rows("curves") if (row["cohort"], row["repeat"], row["pipeline"]) == ("test", 1, name)
    ]
    assert [row["voxels"] for row in curve] == summary.block["reliability"]["counts"]


def test_a_calibrator_is_the_one_that_fit_gives(once: tuple[Design, Finished]) -> None:
    found, finished = once
    arm = found.arms[0]
    view = VIEWS["zbar"].of(found.clean)
    alone = segcal.MatrixScaling().fit(
        view.select(arm.calibration), validation=view.select(arm.validation), engine=Serial()
    )
    theirs = load(fits.file_of(finished.folder, arm, next(p for p in arm.pipelines if p.name == "MS(zbar)")))
    for a, b in zip(alone.state_dict().values(), theirs.state_dict().values(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert theirs.method == "ms"


def test_the_spread_of_the_free_energy_is_that_of_the_first_members(once: tuple[Design, Finished]) -> None:
    found, finished = once
    rows = {(row["members"], row["case"]): row["std"] for row in finished.rows("energy")}
    assert len(rows) == 3 * len(found.clean)
    for case in list(found.clean)[:2]:
        members = [np.load(f.where)["logits"].astype(float) for f in case.scores]  # type: ignore[attr-defined]
        for m in (1, 2, 3):
            mean = np.mean(members[:m], 0)
            assert rows[m, case.id] == pytest.approx(np.log(np.exp(mean).sum(0)).std(), abs=1e-7)


def test_every_table_is_there_and_tidy(once: tuple[Design, Finished]) -> None:
    _, finished = once
    read = results.read(finished.folder)
    for name, table in read.tables.items():
        assert repr(table.to_pylist()) == repr(finished.tables[name].to_pylist())
        csv = (finished.folder / "results" / f"{name}.csv").read_text().splitlines()
        assert len(csv) == table.num_rows + 1
    assert {row["cohort"] for row in read.rows("scores")} == {"test", "shifted", "elsewhere"}
    assert {row["pipeline"] for row in read.rows("scores")} == set(PIPELINES)
    assert {(row["size"], row["pipeline"]) for row in read.rows("sizes")} == {
        (n, name) for n in (4, 6) for name in ("TS(zbar)", "MS(zbar)")
    }
    roles = [row["role"] for row in read.rows("partition") if row["repeat"] == 0]
    assert [roles.count(role) for role in (CALIBRATION, VALIDATION, TEST)] == [6, 6, 8]
    for row in read.rows("samples"):
        with np.load(finished.folder / row["file"]) as arrays:
            assert (
                arrays["labels"].shape
                == arrays["decision"].shape
                == arrays["energy"].shape
                == arrays["flipped"].shape
                == (14, 12)
            )
    flips = {
        row["pipeline"]: row["value"]
        for row in read.rows("pooled")
        if (row["cohort"], row["repeat"], row["metric"]) == ("test", 0, "harmful")
    }
    assert flips["TS(zbar)"] == flips["CMSop(zbar)"] == flips["LTS(logS(zbar))"] == 0


@pytest.mark.parametrize("engine", [Threads(1), Threads(4)], ids=["one worker", "four workers"])
def test_the_same_bits_for_any_number_of_workers(
    engine: Engine, once: tuple[Design, Finished], designed: Designed, ensembles: Path, tmp_path: Path
) -> None:
    _, finished = whole(designed, ensembles, tmp_path / "out", engine)
    assert files(finished.folder) == files(once[1].folder)


def test_parts_merge_to_the_whole(
    once: tuple[Design, Finished], designed: Designed, ensembles: Path, tmp_path: Path
) -> None:
    found = designed(cohorts=cohorts(ensembles), sensitivity=SIZES)
    for k in (1, 2):
        assert study.run(found, tmp_path / f"part{k}", Serial(), part=(k, 2)) is None
    with pytest.raises(MissingError, match=r"no calibrator of .*repeat 2"):
        study.merge([tmp_path / "part1"], tmp_path / "half", Serial())
    merged = study.merge([tmp_path / "part1", tmp_path / "part2"], tmp_path / "out", Serial())
    assert files(merged.folder) == files(once[1].folder)
    # into one of the parts, as a job array that shares a folder would
    assert files(study.merge([tmp_path / "part1", tmp_path / "part2"], tmp_path / "part1", Serial()).folder) == files(
        merged.folder
    )
    with pytest.raises(UsageError, match="3 of a study with 2 repeats"):
        study.run(found, tmp_path / "other", Serial(), part=(1, 3))
    other = designed(cohorts=cohorts(ensembles), sensitivity=SIZES, seed=7)
    study.run(other, tmp_path / "other", Serial(), part=(2, 2))
    with pytest.raises(UsageError, match="another configuration: seed"):
        study.merge([tmp_path / "part1", tmp_path / "other"], tmp_path / "mixed", Serial())


def test_parts_merge_from_another_folder_and_with_what_a_cohort_left_to_the_clean_data(
    ensembles: Path, write: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record holds whole paths, and a shifted cohort keeps the kind, classes and background of the clean one."""
    shifted = {"results": "shifted/member*", "labels": "shifted/labels"}
    clean = {"results": "clean/member*", "labels": "clean/labels", "background": 0, "classes": ["a", "b", "c"]}
    path = write(data=clean, cohorts={"shifted": shifted}, pipelines=["zbar", "TS(zbar)"], methods={})
    there = ensembles / "study.yaml"
    shutil.copy(path, there)
    monkeypatch.chdir(ensembles)
    for k in (1, 2):
        assert study.run(configuration.read("study.yaml"), tmp_path / f"part{k}", Serial(), part=(k, 2)) is None
    monkeypatch.chdir(tmp_path)
    merged = study.merge(["part1", "part2"], "out", Serial())
    assert len(merged.rows("scores")) > 0 and merged.about["classes"] == ["a", "b", "c"]
    assert {row["cohort"] for row in merged.rows("scores")} == {"test", "shifted"}
    there.unlink()


def test_what_is_done_is_not_done_again(
    designed: Designed, ensembles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, finished = whole(designed, ensembles, tmp_path / "out")
    before = files(finished.folder)

    def never(*_: Any) -> None:
        raise AssertionError("fitted again")

    monkeypatch.setattr(fits, "fit", never)
    gone = scoring.file_of(finished.folder, 0, "shifted", found.tested("shifted", 0)[0])
    kept = {p: p.stat().st_mtime_ns for p in (finished.folder / "scores").rglob("*.npz") if p != gone}
    gone.unlink()
    study.run(found, finished.folder, Serial())
    assert gone.is_file()
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert files(finished.folder) == before


def test_progress_says_which_fit_it_is_part_of(designed: Designed, tmp_path: Path) -> None:
    told: list[str] = []

    class Teller(Silent):
        def start(self, what: str, total: int) -> None:
            told.append(what)

    study.run(
        designed(pipelines=["zbar", "TS(zbar)", "MS(zbar)", "LTS(logS(zbar))"], repeats=1),
        tmp_path / "out",
        Serial(progress=Teller()),
    )
    assert told[0] == "fit 1 of 2, 2 calibrators of zbar, repeat 1: reading cases"
    assert any(what.startswith("fit 2 of 2, LTS(logS(zbar)), repeat 1: training") for what in told)
    assert "scoring test cases" in told
    assert told[-1] == "drawing figures"


def test_another_study_in_the_folder_is_refused(designed: Designed, ensembles: Path, tmp_path: Path) -> None:
    small = {"pipelines": ["zbar", "TS(zbar)"], "methods": {}, "repeats": 1}
    study.run(designed(**small), tmp_path / "out", Serial())
    with pytest.raises(UsageError, match=r"a study with another configuration: split: test"):
        study.run(designed(**small, split={"calibration": 6, "validation": 6, "test": 6}), tmp_path / "out", Serial())
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="a folder with other files"):
        study.run(designed(**small), tmp_path / "else", Serial())
    with pytest.raises(MissingError, match=r"study\.json"):
        study.merge([tmp_path / "else"], tmp_path / "merged", Serial())
    with pytest.raises(MissingError, match="a study that has been run"):
        results.read(tmp_path / "else")
    torn = next((tmp_path / "out" / "scores").rglob("*.npz"))
    torn.write_bytes(torn.read_bytes()[:100])
    with pytest.raises(UnreadableError, match=torn.name):
        study.run(designed(**small), tmp_path / "out", Serial())
    (tmp_path / "out" / "study.json").write_text("{")
    with pytest.raises(UnreadableError, match=r"study\.json"):
        study.run(designed(**small), tmp_path / "out", Serial())


def test_files_of_a_study_that_hold_something_else_are_named(designed: Designed, tmp_path: Path) -> None:
    """Whatever stands in a folder that `merge` is given, the error names the file."""
    small = {"pipelines": ["zbar", "TS(zbar)"], "methods": {}, "repeats": 1}
    study.run(designed(**small), tmp_path / "out", Serial())
    whole = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    record = tmp_path / "out" / "study.json"
    energy = next((tmp_path / "out" / "energy").iterdir())
    sums = next((tmp_path / "out" / "scores").rglob("*.npz"))
    with np.load(sums) as held:
        arrays = dict(held)
    one = next(name for name in arrays if "/" in name)
    lost = {name: value for name, value in arrays.items() if name != one}
    harms: list[tuple[Path, Any]] = [
        *((record, text) for text in ("1.5", "[]", "null", "[" * 5000, "{}", '{"configuration": 3}')),
        *((energy, text) for text in ("1.5", "{}", '{"1": [[]]}', '{"x": 1.0}', '{"1": "a"}', "[" * 5000)),
        (sums, lost),
        (sums, {**arrays, one: arrays[one].astype(np.float32)}),
        (sums, {**arrays, one: arrays[one][:1, ..., None]}),
        (sums, {**arrays, "pipelines": np.array(["other"])}),
        (sums, {**arrays, "pipelines": np.array("zbar")}),
        (sums, {**arrays, "digests": np.array(["a"])}),
        (sums, {"a": np.zeros(3)}),
    ]
    for path, content in harms:
        if isinstance(content, str):
            path.write_text(content)
        else:
            np.savez_compressed(path, **content)
        with pytest.raises(DataError, match=re.escape(path.name)):
            study.merge([tmp_path / "out"], tmp_path / "out", Serial())
        path.write_bytes(whole[path])


def test_data_that_change_while_a_study_runs_are_noticed(designed: Designed, ensembles: Path, tmp_path: Path) -> None:
    shutil.copytree(ensembles / "clean", tmp_path / "data")
    data = {"results": str(tmp_path / "data" / "member*"), "labels": str(tmp_path / "data" / "labels"), "background": 0}
    found = designed(data=data, pipelines=["zbar", "TS(zbar)"], methods={})
    finished = study.run(found, tmp_path / "out", Serial())
    assert finished is not None
    recorded = {(row["cohort"], row["case"]): (row["labels"], row["scores"]) for row in finished.rows("cases")}
    assert len({scores for _, scores in recorded.values()}) == len(recorded) >= 20
    both = sorted(set(found.ids(0, TEST)) & {c for role in (CALIBRATION, VALIDATION) for c in found.ids(1, role)})
    np.savez_compressed(tmp_path / "data" / "member0" / f"{both[0]}.npz", logits=np.zeros((3, 14, 12), np.float32))
    study.run(found, tmp_path / "out", Serial())  # nothing is read anew
    scoring.file_of(tmp_path / "out", 0, "test", both[0]).unlink()
    with pytest.raises(DataError, match=f"test case {both[0]}: found other labels or predictions"):
        study.run(found, tmp_path / "out", Serial())


def run_until_killed(path: Path, out: Path, wait: float) -> int | None:
    """Run the command; kill it after `wait` seconds. Its exit code, None if it was killed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "segcal", "study", str(path), "-o", str(out), "--quiet"],
        env={**os.environ, "PYTHONWARNINGS": ""},
    )
    try:
        return process.wait(wait)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return None


@pytest.mark.slow
def test_killed_at_twelve_random_moments_it_ends_with_the_same_tables(
    once: tuple[Design, Finished], write: Make, ensembles: Path, tmp_path: Path
) -> None:
    path, out = write(cohorts=cohorts(ensembles), sensitivity=SIZES), tmp_path / "out"
    begun = time.monotonic()
    assert run_until_killed(path, tmp_path / "calm", 600) == 0
    calm = time.monotonic() - begun
    rng, grown = random.Random(0), list[int]()

    def lose() -> None:
        """Half of what can be made again, so that there is something to do."""
        for folder in ("results", "tables", "scores"):
            victims = sorted(p for p in (out / folder).rglob("*") if p.is_file())
            for victim in rng.sample(victims, len(victims) // 2):
                victim.unlink()

    while len(grown) < 12:
        # from before the first import to after the last table of an undisturbed run
        if run_until_killed(path, out, rng.uniform(0.1, 1.1) * calm) is None:
            grown.append(sum(p.is_file() for p in out.rglob("*")) if out.is_dir() else 0)
            if grown[-2:-1] == grown[-1:]:  # on a machine that is busier than before nothing may be left to do
                lose()
        elif out.is_dir():
            assert files(out) == files(tmp_path / "calm")
            lose()
    assert len(set(grown)) > 3
    assert run_until_killed(path, out, 600) == 0
    assert files(out) == files(tmp_path / "calm") == files(once[1].folder)


def test_bands_and_their_unit_are_the_studys(designed: Designed, tmp_path: Path) -> None:
    quick = {"pipelines": ["zbar"], "methods": {}, "repeats": 1}
    by_voxel, wide = (
        study.run(designed(**quick, **change), tmp_path / str(k), Serial())
        for k, change in enumerate(({}, {"bands": [2.5, 5]}))
    )
    assert by_voxel is not None
    assert wide is not None
    told = [{r["case"]: r["value"] for r in one.rows("scores") if r["metric"] == "ba_ece"} for one in (by_voxel, wide)]
    assert told[0].keys() == told[1].keys()
    assert told[0] != told[1]
    assert {2.5, 5.0} <= {row["low"] for row in wide.rows("bands")}
    with pytest.raises(MissingError, match="no voxel spacing"):
        study.run(designed(**quick, distance="mm"), tmp_path / "mm", Serial())


def test_a_record_of_an_earlier_version_is_completed(designed: Designed, tmp_path: Path) -> None:
    quick = {"pipelines": ["zbar"], "methods": {}, "repeats": 1}
    study.run(designed(**quick), tmp_path / "out", Serial())
    record = json.loads((tmp_path / "out" / "study.json").read_text())
    del record["configuration"]["bands"]
    (tmp_path / "out" / "study.json").write_text(json.dumps(record))
    assert study.run(designed(**quick), tmp_path / "out", Serial()) is not None


def test_region_heads_and_probabilities_alone_are_studied_too(
    ensembles: Path, tmp_path: Path, designed: Designed
) -> None:
    """From stored probabilities there is no free energy, and the logits of a member are its log-probabilities."""
    root = tmp_path / "probs"
    for member in sorted((ensembles / "clean").glob("member*")):
        (root / member.name).mkdir(parents=True)
        for file in member.glob("*.npz"):
            z = np.load(file)["logits"].astype(float)
            p = np.exp(z - z.max(0))
            np.savez(root / member.name / file.name, probabilities=(p / p.sum(0)).astype(np.float32))
    data = {
        "results": str(root / "member*"),
        "labels": str(ensembles / "clean" / "labels"),
        "background": 0,
        "kind": "probs",
    }
    found = designed(
        data=data,
        pipelines=["p0", "pbar", "zbar", "TS(zbar)", "LTS(zbar)"],
        methods={"lts-raw": {"epochs": 1}},
        repeats=1,
    )
    finished = study.run(found, tmp_path / "out", Serial())
    assert finished is not None
    assert finished.rows("energy") == []
    assert json.loads((tmp_path / "out" / "study.json").read_text())["has_logits"] is False
    nll = {
        name: np.mean([r["value"] for r in finished.rows("scores") if (r["pipeline"], r["metric"]) == (name, "nll")])
        for name in ("zbar", "TS(zbar)", "LTS(zbar)")
    }
    assert nll["TS(zbar)"] < nll["zbar"]
    assert nll["LTS(zbar)"] < nll["zbar"]
