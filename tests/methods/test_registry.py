"""Methods and kinds of maps from outside: registered by a script, or named by an installed package."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import safetensors.torch
import torch

import segcal
from segcal.errors import UnreadableError, UsageError
from segcal.methods import BUILT_IN, Method, find, methods, register
from segcal.methods.maps import KINDS
from segcal.methods.registry import kind_of_map
from segcal.methods.temperature import ScaleMap, TemperatureScaling
from segcal.testing.law import Law
from segcal.testing.methods import METHOD_LAWS
from tests.outside import Outside


@dataclass(frozen=True)
class Sharper(TemperatureScaling):
    """Sharper: as temperature scaling."""

    name: ClassVar[str] = "sharper"


@pytest.mark.usefixtures("apart")
def test_a_registered_method_is_known_by_its_name_after_segcals_own() -> None:
    assert find("sharper") is None
    assert register(Sharper) is Sharper
    assert [*BUILT_IN, "sharper"] == list(methods())
    found = find("sharper")
    assert found is not None
    assert found() == Sharper()
    assert found().what == "Sharper: as temperature scaling"
    assert found.guarantees == TemperatureScaling().drawn(4).guarantees()
    register(Sharper)


@dataclass(frozen=True)
class Other(TemperatureScaling):
    """Another of the same name."""

    name: ClassVar[str] = "sharper"


@dataclass(frozen=True)
class Taken(TemperatureScaling):
    """Of a name that is segcal's."""

    name: ClassVar[str] = "dc"


@dataclass(frozen=True)
class Auto(TemperatureScaling):
    """Of a name that says something else."""

    name: ClassVar[str] = "auto"


@dataclass(frozen=True)
class Spaced(TemperatureScaling):
    """Of a name that cannot be typed."""

    name: ClassVar[str] = "two words"


class Plain(Method):
    """No dataclass."""

    name: ClassVar[str] = "plain"


@dataclass(frozen=True)
class Unfinished(Method):
    """Without a plan."""

    name: ClassVar[str] = "unfinished"


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (Other, "'sharper'"),
        (Taken, "'dc'"),
        (Auto, "'auto'"),
        (Spaced, "'two words'"),
        (Plain, "frozen dataclass"),
        (Unfinished, "plan"),
        (ScaleMap, "ScaleMap"),
        ("ts", "'ts'"),
    ],
    ids=str,
)
def test_what_cannot_be_one_of_the_methods_is_refused(wrong: Any, told: str) -> None:
    register(Sharper)
    before = methods()
    with pytest.raises(UsageError, match=told):
        register(wrong)
    assert list(methods()) == list(before)


@pytest.mark.usefixtures("apart")
def test_two_kinds_of_map_cannot_have_one_name() -> None:
    with pytest.raises(UsageError, match=r"segcal\.methods\.temperature\.ScaleMap"):
        type("Mine", (ScaleMap,), {"type_name": "scale"})
    assert kind_of_map("scale") is ScaleMap
    assert KINDS["scale"] is ScaleMap


def test_a_method_that_says_nothing_of_counts_and_promises_has_none() -> None:
    @dataclass(frozen=True)
    class Silent(Method):
        """Silent: nothing is said."""

        name: ClassVar[str] = "silent"

        def identifiable(self, classes: int) -> int:
            return classes

        def plan(self, task: Any) -> Any:
            raise NotImplementedError

    assert (Silent().drawn(3), Silent().counted(3)) == (None, None)


def test_every_method_says_what_it_is_and_takes_options_with_defaults() -> None:
    for name, named in methods().items():
        made = named()
        assert made.method == name
        assert made.what.count(": ") >= 1
        assert named.guarantees is not None
        assert set(named.settled) <= set(named.options)
        assert all(
            f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING
            for f in named.options.values()
        )


@pytest.mark.parametrize(("option", "value"), [("ridge", "1e-6"), ("ridge", True), ("ridge", None), ("ridge", [1.0])])
def test_an_option_takes_what_its_class_declares(option: str, value: object, outside: Outside) -> None:
    found = find("bcts")
    assert found is not None
    assert found(ridge=1) == found(ridge=1.0)
    with pytest.raises(UsageError, match=rf"{option}: found .*expected a number"):
        found(**{option: value})


def test_an_installed_package_brings_a_method_and_the_files_it_fits(outside: Outside, tmp_path: Path) -> None:
    assert "bcts" in methods()
    found = find("bcts")
    assert found is not None
    assert (found.kind.__module__, found.printed) == ("bias_corrected", "bcts")
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(2, 3, 8, 8)), rng.integers(3, size=(2, 8, 8))
    made = found(ridge=1e-6).fit(z, y)
    made.save(tmp_path / "cal.safetensors")
    outside.forget()
    again = segcal.load(tmp_path / "cal.safetensors")
    assert torch.equal(again(torch.from_numpy(z)), made(torch.from_numpy(z)))
    assert again.method == "bcts"


@pytest.mark.slow
@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize("law", METHOD_LAWS, ids=str)
def test_it_keeps_the_laws_of_methods(law: Law[Any]) -> None:
    found = find("bcts")
    assert found is not None
    law.check(found())


def test_without_its_package_a_file_says_what_it_lacks(outside: Outside, tmp_path: Path) -> None:
    found = find("bcts")
    assert found is not None
    rng = np.random.default_rng(0)
    found().fit(rng.normal(size=(1, 3, 8, 8)), rng.integers(3, size=(1, 8, 8))).save(tmp_path / "cal.safetensors")
    outside.uninstall()
    with pytest.raises(UnreadableError, match=r"cal\.safetensors.*'biased-scale', of the method 'bcts'") as caught:
        segcal.load(tmp_path / "cal.safetensors")
    assert "Install the package" in str(caught.value)


def test_a_package_that_cannot_be_imported_is_named_where_it_is_asked_for(outside: Outside) -> None:
    outside.write("import no_such_module\n")
    assert find("ts") is not None
    with pytest.raises(UsageError, match=r"package bias-corrected.*no_such_module"):
        find("bcts")
    with pytest.raises(UsageError, match="package bias-corrected"):
        methods()


def test_a_package_that_gives_another_name_than_its_method_is_told(outside: Outside) -> None:
    outside.entry("other = bias_corrected:BiasCorrected")
    with pytest.raises(UsageError, match="called bcts"):
        find("other")


def test_a_kind_of_map_that_nothing_here_has_is_named(tmp_path: Path) -> None:
    file = tmp_path / "cal.safetensors"
    rng = np.random.default_rng(0)
    TemperatureScaling().fit(rng.normal(size=(1, 3, 8, 8)), rng.integers(3, size=(1, 8, 8))).save(file)
    with safetensors.safe_open(file, "pt") as opened:
        told = json.loads(opened.metadata()["segcal"])
        tensors = {name: opened.get_tensor(name) for name in list(opened.keys())}
    told["maps"], told["method"] = ["of-elsewhere"], "elsewhere"
    safetensors.torch.save_file(tensors, file, {"segcal": json.dumps(told)})
    with pytest.raises(UnreadableError, match="'of-elsewhere', of the method 'elsewhere'"):
        segcal.load(file)
