"""The paper's own designs are read and dealt out as its Table 1 says, on made-up predictions of that shape, and a small
one runs to its end.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from segcal.engine.threads import Threads
from segcal.study import configuration, study
from segcal.study.design import Design, design
from segcal.study.pipelines import PAPER
from segcal.study.results import means
from studies.paper import synthetic

PAPERS = {"brats": (5, 50, 27, 194), "cityscapes": (20, 50, 50, 400), "roadseg": (2, 50, 24, 169)}
"""Classes, and cases to calibrate, to validate and to test (K26 Table 1)."""

FOLDER = Path(synthetic.__file__).parent


@pytest.fixture(scope="module")
def designs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Design]:
    """Each configuration as it stands, on the whole pool; cityscapes as logits, which are quicker to write."""
    out = {}
    with pytest.MonkeyPatch.context() as patch:
        for name, data in synthetic.DATA_SETS.items():
            root = tmp_path_factory.mktemp(name)
            synthetic.write(data, root, data.pool, layout="npz" if name == "cityscapes" else "nnunet")
            patch.setenv(name.upper(), str(root))
            out[name] = design(configuration.read(FOLDER / f"{name}.yaml"))
    return out


@pytest.mark.parametrize("name", list(PAPERS))
def test_the_papers_splits(name: str, designs: dict[str, Design]) -> None:
    found, (classes, *split) = designs[name], PAPERS[name]
    assert len(found.clean.head.classes) == classes
    assert found.clean.members == 5
    assert [p.name for p in found.pipelines] == list(PAPER)
    assert len(found.partitions) == 3
    for partition in found.partitions:
        assert [partition.calibration, partition.validation, partition.test] == split
        assert Counter(partition.roles) == dict(zip(("calibration", "validation", "test"), split, strict=True))
    assert len({p.order for p in found.partitions}) == 3
    assert found.configuration.bins == (20, 30, 40)
    assert found.configuration.replicates == 2000


def test_corrupted_cityscapes_follow_the_test_split(designs: dict[str, Design]) -> None:
    found = designs["cityscapes"]
    assert set(found.cohorts) == {"test", "mild", "strong"}
    for repeat in found.repeats:
        assert (
            sorted(found.tested("mild", repeat))
            == sorted(found.tested("strong", repeat))
            == sorted(found.ids(repeat, "test"))
        )


def test_sensitivity_is_the_papers(designs: dict[str, Design]) -> None:
    for name, sizes, rest in (("brats", (3, 14, 27, 41), 77), ("cityscapes", (5, 25, 75, 98), 100)):
        arms = [arm for arm in designs[name].arms if arm.size is not None and arm.repeat == 0]
        assert tuple(len(arm.calibration) for arm in arms) == sizes
        assert {len(arm.calibration) + len(arm.validation) for arm in arms} == {rest}
        assert {p.name for p in arms[0].pipelines} == {"TS(zbar)", "MS(zbar)", "MSc(zbar)", "LTS(zbar)", "CDC(zbar)"}
    assert not designs["roadseg"].configuration.sized()


def test_logits_have_an_energy_and_probabilities_none(designs: dict[str, Design]) -> None:
    assert {name: found.has_energy for name, found in designs.items()} == {
        "brats": False,
        "cityscapes": True,
        "roadseg": False,
    }


def test_patients_stay_whole_where_they_are_asked_for(designs: dict[str, Design]) -> None:
    found = designs["brats"].configuration
    text = (FOLDER / "brats.yaml").read_text()
    pattern = re.search(r"# groups: (\S+)", text)
    assert pattern is not None
    grouped = design(
        found.model_copy(update={"split": found.split.model_copy(update={"groups": pattern[1], "test": None})})
    )
    patient = {case.id: case.id.rsplit("-", 1)[0] for case in grouped.clean}
    assert max(Counter(patient.values()).values()) == 3
    for partition in grouped.partitions:
        roles: dict[str, set[str]] = {}
        for case, role in zip(grouped.clean, partition.roles, strict=True):
            roles.setdefault(patient[case.id], set()).add(role)
        assert all(len(r) == 1 for r in roles.values())
        assert 50 <= partition.calibration <= 52
        assert 27 <= partition.validation <= 29


@pytest.mark.parametrize("name", list(PAPERS))
def test_every_commented_entry_is_one(
    name: str, designs: dict[str, Design], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name.upper(), str(tmp_path))
    for k in range(5):
        for folder in ("", "mild", "strong"):
            (tmp_path / folder / f"member{k}").mkdir(parents=True)
    text = (FOLDER / f"{name}.yaml").read_text()
    body = text.split("\nname:", 1)[1]
    path = tmp_path / "study.yaml"
    path.write_text("name:" + re.sub(r"^( *)# (?=( *)[\w -]+:( |$))", r"\1", body, flags=re.MULTILINE))
    taken = yaml.safe_load(path.read_text())
    assert taken["recipe"] == {"trials": 20, "epochs": 200}
    assert set(taken["methods"]) == {"ms", "ms-c", "dc", "cdc", "cms-ap", "cms-op"}
    assert "sensitivity" in taken
    chosen = configuration.read(path).chosen()
    assert {p.options.get("penalty") for p in chosen[: len(PAPER)] if p.method in taken["methods"]} == {"odir"}
    assert [p.name for p in chosen[len(PAPER) :]] == [
        f"{p} recipe" for p in PAPER if "(" in p and not p.startswith("LTS")
    ]


@pytest.mark.parametrize("name", list(PAPERS))
@pytest.mark.parametrize("cases", [20, 45])
def test_reduced_designs_keep_the_proportions(name: str, cases: int, tmp_path: Path) -> None:
    path = synthetic.write(synthetic.DATA_SETS[name], tmp_path, cases)
    found = design(configuration.read(path))
    split = [max(2, n * cases // sum(PAPERS[name][1:])) for n in PAPERS[name][1:]]
    assert [found.partitions[0].calibration, found.partitions[0].validation, found.partitions[0].test] == split
    assert [p.name for p in found.pipelines] == list(PAPER)
    assert bool(found.configuration.sensitivity.sizes) == (name != "roadseg")


def test_a_reduced_study_runs_to_its_end(tmp_path: Path) -> None:
    path = synthetic.write(synthetic.DATA_SETS["roadseg"], tmp_path / "data", 24)
    whole = yaml.safe_load(path.read_text())
    assert whole["split"] == {"calibration": 4, "validation": 2, "test": 16}
    path.write_text(
        yaml.safe_dump(
            {
                **whole,
                "pipelines": ["p0", "pbar", "zbar", "TS(zbar)", "DC(zbar)", "CMSop(zbar)"],
                "repeats": 2,
                "samples": 1,
                "replicates": 200,
            }
        )
    )
    finished = study.run(configuration.read(path), tmp_path / "study", Threads(1))
    assert finished is not None
    nll: dict[str, list[float]] = {}
    for row in finished.rows("scores"):
        if row["metric"] == "nll":
            nll.setdefault(row["pipeline"], []).append(row["value"])
    assert {name: len(values) for name, values in nll.items()} == dict.fromkeys(nll, 2 * 16)
    # the networks are overconfident by a factor of two, and a temperature knows
    assert means(nll["TS(zbar)"]) < means(nll["zbar"]) - 0.02
    assert (tmp_path / "study" / "tables").is_dir()


def test_what_is_written_depends_on_the_seed_and_a_full_folder_is_refused(tmp_path: Path) -> None:
    data = synthetic.DATA_SETS["brats"]
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        synthetic.write(data, tmp_path / folder, 2, seed=seed)
    name = data.names(2)[0]
    a, b, c = ((tmp_path / f / "member0" / f"{name}.npz").read_bytes() for f in "abc")
    assert a == b != c
    with pytest.raises(SystemExit, match="not empty"):
        synthetic.write(data, tmp_path / "a", 2)


@pytest.mark.parametrize("name", list(PAPERS))
def test_names_are_as_many_as_cases_and_unlike(name: str) -> None:
    data = synthetic.DATA_SETS[name]
    assert data.pool == sum(PAPERS[name][1:])
    for count in (1, 7, data.pool):
        assert len(set(data.names(count))) == count
