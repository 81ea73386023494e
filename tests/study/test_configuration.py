"""A configuration is read, or refused with the entry that is wrong and what to do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from segcal.errors import MissingError, UnreadableError, UsageError
from segcal.study.configuration import read
from segcal.study.example import EXAMPLE
from segcal.study.pipelines import PAPER
from tests.study.conftest import Make, described


def test_paths_are_relative_to_the_file_and_patterns_are_expanded(
    ensembles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGCAL_TEST_DATA", str(ensembles))
    whole = described(ensembles)
    whole["data"] |= {"results": "$SEGCAL_TEST_DATA/clean/member*", "labels": "${SEGCAL_TEST_DATA}/clean/labels"}
    whole["split"]["groups"] = "groups.csv"
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(whole))
    found = read(tmp_path / "study.yaml")
    assert found.data.results == tuple(str(ensembles / "clean" / f"member{k}") for k in range(3))
    assert found.data.labels == str(ensembles / "clean" / "labels")
    assert found.split.groups == str(tmp_path / "groups.csv")


def test_defaults_are_the_papers(write: Make) -> None:
    path = write()
    whole = {k: v for k, v in yaml.safe_load(path.read_text()).items() if k in ("name", "data", "split")}
    path.write_text(yaml.safe_dump(whole))
    found = read(path)
    assert found.pipelines == PAPER
    assert (found.repeats, found.seed, found.replicates, found.recipe) == (3, 0, 2000, None)


def test_the_recipe_adds_pipelines_it_can_fit(write: Make) -> None:
    found = read(write(recipe={"trials": 2, "only": ["MS(zbar)"]})).chosen()
    assert [p.name for p in found if p.name.endswith("recipe")] == ["MS(zbar) recipe"]
    everything = read(write(recipe={"trials": 2})).chosen()
    assert {p.name for p in everything if p.name.endswith("recipe")} == {
        f"{n} recipe" for n in ("TS(zbar)", "MS(zbar)", "DC(pbar)", "CMSop(zbar)")
    }


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"pipelins": []}, "the top level: found 'pipelins'.*Did you mean 'pipelines'"),
    ({"split": {"calibration": 3, "validaton": 3}}, "split: found 'validaton'.*Did you mean 'validation'"),
    ({"split": {"calibration": 3}}, "split: validation: found nothing"),
    (
        {"split": {"calibration": 0, "validation": 3}},
        "split: calibration: found 0; expected input should be greater than 0",
    ),
    ({"repeats": "three"}, "repeats: found 'three'"),
    ({"name": None}, "name"),
    ({"pipelines": ["TS(zbar)", "MSd(zbar)"]}, r"found 'MSd\(zbar\)'.*Did you mean 'MS"),
    ({"pipelines": ["zbar", "zbar"], "methods": {}}, "found 'zbar' twice"),
    ({"pipelines": [], "methods": {}}, "pipelines: found none"),
    ({"methods": {"lst": {"epochs": 2}}}, "methods: found 'lst'.*Did you mean 'lts'"),
    ({"methods": {"lts": {"epoch": 2}}}, "methods: lts: found 'epoch'.*Did you mean 'epochs'"),
    ({"methods": {"lts": {"epochs": -2}}}, "epochs: found -2"),
    ({"recipe": {"only": ["LTS(logS(zbar))"]}}, "recipe: only"),
    ({"cohorts": {"mild": {"results": "x", "label": "y"}}}, "Did you mean 'labels'"),
    ({"cohorts": {"test": {"results": "x"}}}, "another name than 'test'"),
    ({"cohorts": {"../x": {"results": "x"}}}, "another name than '../x'"),
    ({"data": {"results": "$SEGCAL_NOT_SET/x"}}, "SEGCAL_NOT_SET is not set.*export SEGCAL_NOT_SET"),
]


@pytest.mark.parametrize(("change", "said"), WRONG, ids=lambda v: str(v)[:40])
def test_what_is_wrong_is_named(
    change: dict[str, Any], said: str, write: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEGCAL_NOT_SET", raising=False)
    path = write(**change)
    if change.get("name", "") is None:
        path.write_text(re.sub(r"name:.*\n", "", path.read_text(), count=1))
    with pytest.raises(UsageError, match=said):
        read(path).chosen()


def test_a_number_with_an_exponent_is_a_number(write: Make) -> None:
    path = write(pipelines=["zbar", "DC(zbar)"], methods={"dc": {"lambda": 12345}})
    for text, value in (("1e-3", 1e-3), ("+2E4", 2e4), ("5.0e-3", 5e-3)):
        path.write_text(path.read_text().replace("12345", text))
        assert read(path).methods == {"dc": {"lambda": value}}
        path.write_text(path.read_text().replace(text, "12345"))
    path.write_text(path.read_text().replace("12345", "1e-3x"))
    with pytest.raises(UsageError, match="1e-3x"):
        read(path).chosen()[1].make()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a: [", UnreadableError),
        ("name: a\nname: b", UnreadableError),
        ("- a\n- b", UnreadableError),
        ("", UnreadableError),
        ("\x00", UnreadableError),
    ],
    ids=repr,
)
def test_a_file_that_is_no_configuration_is_refused(text: str, error: type[Exception], tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(error, match="study"):
        read(path)
    with pytest.raises(MissingError, match="--example"):
        read(tmp_path / "nowhere.yaml")
    with pytest.raises(MissingError, match="nothing that matches"):
        path.write_text("name: a\ndata: {results: none*}\nsplit: {calibration: 1, validation: 1}")
        read(path)


def test_the_example_is_a_configuration_also_with_every_comment_taken(tmp_path: Path) -> None:
    for folder in ("predictions", "predictions-mild", "elsewhere"):
        (tmp_path / folder / "member0").mkdir(parents=True)
    path = tmp_path / "study.yaml"
    path.write_text(EXAMPLE)
    assert read(path).chosen()
    taken = re.sub(r"^( *)# (?=( *)[\w ]+: *[\w\[{'])", r"\1", EXAMPLE, flags=re.MULTILINE)
    taken = re.sub(r"^# (methods|cohorts|sensitivity):", r"\1:", taken, flags=re.MULTILINE)
    path.write_text("\n".join(line for line in taken.splitlines() if not line.startswith(("A study:", "Paths"))))
    found = read(path)
    assert found.sensitivity.sizes == (5, 10, 25)
    assert set(found.cohorts) == {"mild", "other hospital"}
    assert found.recipe is not None
    assert found.data.ignore_index == 255
