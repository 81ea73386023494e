"""An evaluation in parts is that of one run: the same JSON, whatever the order of parts; other files are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from segcal.cli import run
from segcal.data.cohort import Cohort
from segcal.data.formats.arrays import cohort_from_arrays
from segcal.data.formats.discover import open_cohort
from segcal.data.head import Regions
from segcal.engine.serial import Serial
from segcal.engine.threads import Threads
from segcal.errors import HeldOutError, MissingError, UnreadableError, UsageError
from segcal.methods.calibrator import Calibrator
from segcal.methods.method import fit_methods
from segcal.methods.temperature import TemperatureScaling
from segcal.tasks.evaluate import evaluate, evaluate_part
from segcal.tasks.parts import Part, Sums


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven cases of three classes and of four patients, one wholly ignored, one truncated where only reading sees."""
    root = tmp_path_factory.mktemp("cohort")
    rng = np.random.default_rng(0)
    for name in ("scores", "labels"):
        (root / name).mkdir()
    for k in range(11):
        logits = rng.normal(size=(3, 9, 8 + k)).astype(np.float32)
        labels = (logits + rng.gumbel(size=logits.shape)).argmax(0).astype(np.uint8)
        labels[:2] = 255
        if k == 5:
            labels[:] = 255
        if k == 8:
            logits[:, 4] = np.nan
        np.savez(root / "scores" / f"p{k % 4}_{k:02d}.npz", logits=2 * logits)
        np.savez(root / "labels" / f"p{k % 4}_{k:02d}.npz", labels=labels)
    return root


def cohort(folder: Path) -> Cohort:
    found = open_cohort(folder / "scores", folder / "labels", ignore_index=255, background=0)
    return found.grouped({case.id: case.id[:2] for case in found})


@pytest.fixture(scope="module")
def calibrator(folder: Path) -> Calibrator:
    """Fitted on two of the cases."""
    return TemperatureScaling().fit(cohort(folder).select(["p0_00", "p1_01"]), engine=Serial())


def whole(found: Any) -> Any:
    """What an evaluation says, its notes in any order."""
    told = found.to_json()
    return {**told, "notes": sorted(told["notes"])}


@pytest.mark.parametrize("of", [1, 3, 11])
@pytest.mark.parametrize("fitted", ["include", "exclude"])
def test_parts_together_are_one_run(folder: Path, calibrator: Calibrator, tmp_path: Path, of: int, fitted: Any) -> None:
    options = {"fitted": fitted, "damaged": "exclude", "bins": (7,)}
    expected = evaluate(cohort(folder), calibrator, Serial(), **options)
    files = [tmp_path / f"{k}.safetensors" for k in range(of)]
    for k, file in enumerate(files):
        evaluate_part(cohort(folder), calibrator, Threads(2), Part(k + 1, of), **options).save(file)
    found = evaluate(cohort(folder), calibrator, Serial(), **options, merge=files[::-1])
    assert set(expected.cohort.damaged) == {"p0_08"} and expected.cohort.unscored == ("p1_05",)
    if fitted == "include":  # what is said of cases left out is said by each part of its own
        assert whole(found) == whole(expected)
    else:
        assert {**whole(found), "notes": []} == {**whole(expected), "notes": []}
        assert any("left out" in note for note in found.notes)
    assert found.to_json()["verdict"] == expected.to_json()["verdict"]
    assert found.to_json()["differences"] == expected.to_json()["differences"]


def test_cases_of_the_fit_are_refused_by_the_part_that_has_them(folder: Path, calibrator: Calibrator) -> None:
    with pytest.raises(HeldOutError):
        evaluate_part(cohort(folder), calibrator, Serial(), Part(1, 2), damaged="exclude")


def test_regions(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    head = Regions(("whole", "core"), ((1, 2), (2,)), (1, 2))
    made = cohort_from_arrays(
        rng.normal(size=(6, 2, 5, 6)).astype(np.float32), rng.integers(3, size=(6, 5, 6)), kind="logits", head=head
    )
    found = fit_methods({"ts": TemperatureScaling()}, made, Serial())["ts"].calibrator
    files = [tmp_path / f"{k}.safetensors" for k in range(2)]
    for k, file in enumerate(files):
        evaluate_part(made, found, Serial(), Part(k + 1, 2), fitted="include").save(file)
    assert whole(evaluate(made, found, Serial(), fitted="include", merge=files)) == whole(
        evaluate(made, found, Serial(), fitted="include")
    )


def test_on_the_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", str(folder / "scores"), "--labels", str(folder / "labels"), "--ignore-index", "255"]
    words += ["--groups", r"(p\d)_", "--workers", "1"]
    files = [str(tmp_path / f"{k}.safetensors") for k in (1, 2)]
    for k, file in enumerate(files):
        assert run([*words, "--part", f"{k + 1}/2", "--sums", file]) == (0 if k else 4)
        said = capsys.readouterr().out
        assert f"Part {k + 1}/2: {6 if k else 3} cases scored" in said and "--merge" in said
    results = [tmp_path / "merged.json", tmp_path / "once.json"]
    assert run([*words, "--json", str(results[0]), "--csv", str(tmp_path / "m.csv"), "--merge", *files]) == 4
    assert run([*words, "--json", str(results[1]), "--csv", str(tmp_path / "o.csv")]) == 4
    assert json.loads(results[0].read_text()) == json.loads(results[1].read_text())
    assert (tmp_path / "m.csv").read_bytes() == (tmp_path / "o.csv").read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--part", "1/2"], "--merge with all files"),
        (["--sums", "s.safetensors"], "--merge with all files"),
        (["--part", "1/2", "--sums", "s", "--merge", "t"], "a part beside --merge"),
        (["--part", "3/2", "--sums", "s"], "i/n with i from 1 to n"),
        (["--part", "a", "--sums", "s"], "such as 1/3"),
        (["--part", "1/99", "--sums", "s"], "99 parts of 11 case(s)"),
    ],
)
def test_words_that_do_not_go_together(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    base = ["evaluate", str(folder / "scores"), "--labels", str(folder / "labels"), "--ignore-index", "255"]
    assert run([*base, *words]) == 2
    assert said in capsys.readouterr().err


def test_files_that_do_not_go_together(folder: Path, calibrator: Calibrator, tmp_path: Path) -> None:
    def part(number: int, of: int, made: Any = None, **options: Any) -> Path:
        file = tmp_path / f"{number}-{of}-{len(options)}-{made is None}.safetensors"
        evaluate_part(
            cohort(folder), made, Serial(), Part(number, of), **{"damaged": "exclude", "fitted": "include", **options}
        ).save(file)
        return file

    one, two = part(1, 2), part(2, 2)
    for files, said in (
        ([one], r"found parts 1/2; expected each of 1/2 to 2/2 once"),
        ([one, one, two], "each of 1/2 to 2/2 once"),
        ([one, part(2, 3)], "each of 1/2 to 2/2 once"),
        ([one, part(2, 2, calibrator)], "sums of another evaluation"),
        ([one, part(2, 2, bins=(9,))], "sums of another evaluation"),
    ):
        with pytest.raises(UsageError, match=said):
            evaluate(cohort(folder), None, Serial(), fitted="include", damaged="exclude", merge=files)
    fewer = cohort(folder).exclude(["p2_02"])
    with pytest.raises(UsageError, match="sums of another evaluation"):
        evaluate(fewer, None, Serial(), fitted="include", damaged="exclude", merge=[one, two])


def test_files_that_hold_something_else(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "one.safetensors"
    evaluate_part(cohort(folder), None, Serial(), Part(1, 1), damaged="exclude").save(file)
    with safetensors.safe_open(file, "np") as opened:
        metadata = opened.metadata()
        arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    name = next(name for name in arrays if name.endswith("counts"))
    broken = {
        "an array is missing": {k: v for k, v in arrays.items() if k != name},
        "of another shape": {**arrays, name: arrays[name][:, :-1].copy()},
        "of another type": {**arrays, name: arrays[name].astype(np.float32)},
    }
    for held in broken.values():
        file.write_bytes(safetensors.numpy.save(held, metadata))
        with pytest.raises(UnreadableError, match=r"one\.safetensors: found what are no sums of this evaluation"):
            evaluate(cohort(folder), None, Serial(), damaged="exclude", merge=[file])
    told = json.loads(metadata["segcal_sums"])
    harms: list[Any] = [
        {**told, "part": [1]},
        {**told, "cases": 3},
        {**told, "failed": {"a": ["OSError"] * 5}},
        [],
        None,
    ]
    harms += [{**told, "records": [{"id": 1}]}, {k: v for k, v in told.items() if k != "of"}]
    for harm in harms:
        file.write_bytes(safetensors.numpy.save(arrays, {"segcal_sums": json.dumps(harm)}))
        with pytest.raises(UnreadableError, match="no sums of this evaluation"):
            Sums.load(file)
    for content in (b"", b"nothing", bytes(8) + b"{}", safetensors.numpy.save(arrays, {})):
        file.write_bytes(content)
        with pytest.raises(UnreadableError):
            Sums.load(file)
    with pytest.raises(MissingError):
        Sums.load(tmp_path / "none")
