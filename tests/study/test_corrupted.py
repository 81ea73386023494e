"""What was done to the images of shifted cohorts is read from the record beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from segcal.errors import UnreadableError
from segcal.study.corrupted import applied
from segcal.study.design import Design
from tests.study.conftest import CASES

HEADER = "file,kind,severity,parameters,digest\n"


def cohort(ensembles: Path, images: Path) -> dict[str, object]:
    return {
        "shifted": {
            "results": str(ensembles / "shifted" / "member*"),
            "labels": str(ensembles / "shifted" / "labels"),
            "images": str(images),
        }
    }


def images(folder: Path, ensembles: Path, ending: str = ".npy") -> Path:
    folder.mkdir(parents=True)
    for case in CASES:
        (folder / f"{case}{ending}").symlink_to(ensembles / "shifted" / "labels" / f"{case}.npy")
    return folder


def test_rows_are_those_of_the_cohort(designed: Callable[..., Design], ensembles: Path, tmp_path: Path) -> None:
    folder = images(tmp_path / "images" / "replicate1", ensembles)
    quoted = json.dumps({"degrees": [1.0, 2.0], "replicate": 1}).replace('"', '""')
    rows = [f'replicate{k}/{name}.npy,motion,,"{quoted}",x' for k in (0, 1) for name in (CASES[0], "stranger")]
    (folder.parent / "corruptions.csv").write_text(HEADER + "\n".join(rows) + "\n")
    found = applied(designed(cohorts=cohort(ensembles, folder)))
    assert [(r["cohort"], r["file"], r["kind"]) for r in found] == [("shifted", f"replicate1/{CASES[0]}.npy", "motion")]


def test_no_record_is_no_row_and_a_torn_one_is_said(
    designed: Callable[..., Design], ensembles: Path, tmp_path: Path
) -> None:
    folder = images(tmp_path / "images", ensembles)
    found = designed(cohorts=cohort(ensembles, folder))
    assert applied(found) == []
    for torn in ("file,kind\na,b\n", HEADER + 'a.npy,noise,mild,"{",x\n', HEADER + 'a.npy,noise,mild,"[[1]]",x\n'):
        (folder / "corruptions.csv").write_text(torn)
        with pytest.raises(UnreadableError, match="no record of corruptions"):
            applied(found)
