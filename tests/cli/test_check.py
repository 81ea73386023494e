"""`segcal check`: what it prints, its exit code, and that the command it suggests works."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

from segcal.cli import run


def test_the_command_to_type_next_works(segcal: Any, fitting: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    said = segcal("check", *fitting.labelled, "--background", "0", "--groups", "consecutive:2")
    assert said.code == 0
    line = next(line for line in said.out.splitlines() if line.startswith("next: "))
    words = shlex.split(line.removeprefix("next: "))
    assert words[:2] == ["segcal", "fit"]
    assert run([*words[1:], "--quiet", "--workers", "1"]) == 0
    assert (tmp_path / "cal.safetensors").is_file()
    compare = next(line for line in said.out.splitlines() if line.startswith("or compare")).partition(": ")[2]
    assert "ts,ets" in compare
    assert "--groups consecutive:2" in compare


def test_json(segcal: Any, fitting: Any) -> None:
    found = segcal("check", *fitting.labelled, "--json").json
    assert found["layout"] == "a folder of scores"
    assert (found["cases"], found["members"], found["kind"]) == (8, 1, "logits")
    assert found["next"].startswith("segcal fit ")
    assert {"severity", "topic", "text", "do"} == set(found["findings"][0])


def test_without_labels_it_asks_for_them(segcal: Any, fitting: Any) -> None:
    said = segcal("check", *fitting.words)
    assert said.code == 0
    assert "no label maps" in said.out
    assert "--labels LABELS" in said.out


def test_bad_cases_are_named_and_the_code_is_3(segcal: Any, fitting: Any, tmp_path: Path) -> None:
    copied = tmp_path / "results"
    shutil.copytree(fitting.results[0], copied)
    (copied / "p03.npz").write_bytes((copied / "p03.npz").read_bytes()[:-100])
    said = segcal("check", copied, "--labels", fitting.labels)
    assert said.code == 3
    assert "p03" in said.out + said.err
    assert "next:" not in said.out


def test_an_nnunet_ensemble(segcal: Any, nnunet: Any) -> None:
    said = segcal("check", *nnunet.labelled)
    assert said.code == 0
    assert "An nnU-Net prediction folder" in said.out
    assert "3 members, averaged as probabilities" in said.out
    assert "outside the box in which the network looked" in said.out
    single = segcal("check", nnunet.results[0], "--labels", nnunet.labels)
    assert "every delivered label map is the arg max" in single.out


def test_forgotten_groups_are_told_by_every_command_that_reads_labels(
    segcal: Any, cohort_writer: Any, tmp_path: Path
) -> None:
    names = [f"patient{k // 2}_{k % 2}" for k in range(8)]
    folder = cohort_writer(tmp_path / "a", names)
    said = segcal("check", *folder.labelled)
    assert "8 cases begin with one of 4 names" in said.out
    line = next(line for line in said.out.splitlines() if line.startswith("next: "))
    assert line.count("--groups '^(.+)[_-]'") == 1
    file = tmp_path / "cal.safetensors"
    for words in (("fit", *folder.labelled, "-o", file), ("evaluate", *folder.labelled)):
        assert "warning  groups: 8 cases begin with one of 4 names" in segcal(*words).out
        assert "warning: groups: 8 cases begin" in segcal(*words, "--json").json["notes"][0]
        assert "begin with one of" not in segcal(*words, "--groups", "^(.+)[_-]").out
