"""The table of parameters: closed formulas, the paper's printed table, and promises that are those of maps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from segcal.methods import methods, parameterisation, parameters
from segcal.methods.conditional.map import ArgmaxExpert, DirichletExpert, Expert, OrderExpert
from segcal.methods.local.fit import local_rank
from segcal.methods.local.map import LocalMap
from segcal.methods.parameterisation import count
from segcal.methods.parameters import Row

FAMILIES = [name for name, named in methods().items() if named.kind.optimised(2) is not None]

FORMULAS = {
    "ts": (lambda c: 1, lambda c: 1),
    "ets": (lambda c: 4, lambda c: 3),
    "vs": (lambda c: 2 * c, lambda c: 2 * c - 1),
    "ms": (lambda c: c * (c + 1), lambda c: c**2 - 1),
    "ms-c": (lambda c: c**2 + 1, lambda c: c * (c - 1)),
    "dc": (lambda c: c * (c + 1), lambda c: c**2 - 1),
    "cdc": (lambda c: c**2 * (c + 1), lambda c: c * (c**2 - 1)),
    "cms-ap": (lambda c: c * (c**2 + 1), lambda c: c**2 * (c - 1)),
    "cms-op": (lambda c: c * (c**2 + 1), lambda c: c**2 * (c - 1)),
}

EXPERTS: dict[str, type[Expert]] = {"cdc": DirichletExpert, "cms-ap": ArgmaxExpert, "cms-op": OrderExpert}

PAPER = {
    "ts": "TS",
    "ets": "ETS",
    "ms": "MS",
    "ms-c": "MSc",
    "dc": "DC",
    "cdc": "CDC",
    "cms-ap": "CMSap",
    "cms-op": "CMSop",
}
COLUMNS = {2: "RoadSeg_C2", 5: "BraTS_C5", 20: "Cityscapes_C20"}


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    return {row.name: row for row in parameters.table((2, 3, 5))}


@pytest.fixture(scope="module")
def printed(shared: Path) -> dict[str, Any]:
    """K26 Table 2."""
    found: dict[str, Any] = json.loads((shared / "science" / "paper_tables.json").read_text())[
        "K26_table2_parameter_counts"
    ]
    return found


def test_every_registered_method_has_a_row(rows: dict[str, Row]) -> None:
    assert list(methods()) == list(rows)
    assert all(row.guarantees is not None for row in rows.values())
    assert all(row.what and row.type_name == methods()[name].kind.__name__ for name, row in rows.items())


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_counts_follow_the_formulas(rows: dict[str, Row], classes: int) -> None:
    for name, row in rows.items():
        if name in FORMULAS:
            optimised, identifiable = FORMULAS[name]
            found = row.counts[classes]
            assert (found.optimised, found.identifiable) == (optimised(classes), identifiable(classes)), name
            assert found.exact is not None
            assert found.identifiable is not None
            assert found.identifiable <= found.exact


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_what_methods_say_of_themselves_is_the_rank(rows: dict[str, Row], classes: int) -> None:
    for name in FAMILIES:
        assert methods()[name]().identifiable(classes) == rows[name].counts[classes].identifiable, name


@pytest.mark.parametrize("classes", [2, 3, 5, 11])
@pytest.mark.parametrize("name", list(EXPERTS))
def test_experts_follow_the_formulas(name: str, classes: int) -> None:
    expert = EXPERTS[name](classes)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in expert.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    rank, margin = parameterisation._rank(expert, parameterisation._scores(expert, classes))
    optimised, identifiable = FORMULAS[name]
    assert classes * sum(p.numel() for p in expert.parameters()) == optimised(classes)
    assert classes * rank == identifiable(classes)
    assert margin > 1e8


@pytest.mark.parametrize("classes", [2, 5, pytest.param(20, marks=pytest.mark.slow)])
def test_counts_are_the_papers(printed: dict[str, Any], classes: int) -> None:
    compared = [name for name in FAMILIES if name in PAPER]
    assert compared
    for name in compared:
        found = count(methods()[name].kind.parameterisation, classes, None)
        assert [found.optimised, found.identifiable] == printed[PAPER[name]][COLUMNS[classes]], name


@pytest.mark.parametrize("classes", [2, 5, 20])
def test_counts_of_local_temperature_scaling_are_the_papers(printed: dict[str, Any], classes: int) -> None:
    map_ = LocalMap.start(classes)
    numbers = map_.weight.numel() + map_.bias.numel()
    assert [numbers, local_rank(classes)] == printed["LTS"][COLUMNS[classes]]
    assert numbers == 7 * (25 * classes + 1)


def test_the_papers_table_follows_the_formulas(printed: dict[str, Any]) -> None:
    for name, (optimised, identifiable) in FORMULAS.items():
        if name in PAPER:
            for classes, column in COLUMNS.items():
                assert printed[PAPER[name]][column] == [optimised(classes), identifiable(classes)]


def test_promises_are_the_papers(rows: dict[str, Row], printed: dict[str, Any]) -> None:
    kept = {"Order": ("proven", "proven"), "Argmax": ("proven", "no"), "none": ("no", "no")}
    for name, row in rows.items():
        if name in PAPER and row.guarantees is not None:
            told = printed[PAPER[name]]
            assert (row.guarantees.translation_invariant == "proven") is told["TI"], name
            assert (row.guarantees.preserves_argmax, row.guarantees.preserves_order) == kept[told["preserves"]], name


def test_singular_values_leave_no_doubt(rows: dict[str, Row]) -> None:
    """The smallest value that counts lies eight powers of ten above the largest that does not."""
    assert min(n.margin for row in rows.values() for n in row.counts.values()) > 1e8


def test_a_row_is_plain_data(rows: dict[str, Row]) -> None:
    told = rows["dc"].to_json()
    assert told["counts"]["3"] == {"optimised": 12, "identifiable": 8, "exact": 12}
    assert told["guarantees"] == {"translation_invariant": "proven", "preserves_argmax": "no", "preserves_order": "no"}
    assert json.dumps(told)


def test_local_methods_promise_what_their_maps_do(rows: dict[str, Row]) -> None:
    for name, invariant in (("lts", "proven"), ("lts-raw", "no"), ("lts-image", "proven")):
        found = rows[name].guarantees
        assert found is not None
        assert (found.translation_invariant, found.preserves_argmax, found.preserves_order) == (
            invariant,
            "proven",
            "proven",
        )
    assert rows["lts-image"].counts[3].optimised == 532 + 26 + 76
