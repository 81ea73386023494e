"""All figures at once: complete files that show something and cut nothing off, the same bytes again, and nothing drawn
where data are missing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from segcal.errors import OutputError
from segcal.study import figures
from segcal.study.figures import FIGURES, Written
from segcal.study.figures.material import Material

NEEDS = {
    "figure5-sizes": "sizes",
    "figure6-bins": "scores",
    "figure8-reliability": "curves",
    "bands": "bands",
    "spread": "scores",
}


@pytest.fixture(scope="module")
def written(results: Material, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return figures.write(results, tmp_path_factory.mktemp("figures") / "deep" / "figures")


def test_every_figure_in_every_format(written: Written) -> None:
    assert dict(written.absent) == {}
    assert list(written.paths) == list(FIGURES)
    for name, paths in written.paths.items():
        assert [p.name for p in paths] == [f"{name}.svg", f"{name}.pdf", f"{name}.png"]
        assert paths[0].read_text().startswith("<?xml")
        assert paths[1].read_bytes().startswith(b"%PDF")
    assert sorted(p.name for p in next(iter(written.paths.values()))[0].parent.iterdir()) == sorted(
        p.name for paths in written.paths.values() for p in paths
    )


@pytest.mark.parametrize("name", FIGURES)
def test_something_is_drawn_and_nothing_is_cut_off(name: str, written: Written) -> None:
    with Image.open(written.paths[name][2]) as image:
        pixels = np.asarray(image.convert("L"))
    assert min(pixels.shape) > 300
    assert np.mean(pixels < 200) > 0.005
    assert all((edge > 250).all() for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_results_give_the_same_bytes(name: str, written: Written, results: Material, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "FIGURES", {name: FIGURES[name]})
        again = figures.write(results, tmp_path, (".svg",))
    assert again.paths[name][0].read_bytes() == written.paths[name][0].read_bytes()


@pytest.mark.parametrize("name", ["figure4-flips", "figure8-reliability"])
def test_a_format_does_not_depend_on_what_was_written_before(
    name: str, written: Written, results: Material, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "FIGURES", {name: FIGURES[name]})
        again = figures.write(results, tmp_path, (".png", ".pdf"))
    assert again.paths[name][0].read_bytes() == written.paths[name][2].read_bytes()
    assert again.paths[name][1].read_bytes() == written.paths[name][1].read_bytes()


def test_a_process_with_other_settings_gives_the_same_figure(
    written: Written, results: Material, tmp_path: Path
) -> None:
    before = dict(matplotlib.rcParams)
    with (
        matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9, "svg.hashsalt": "other"}),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(figures, "FIGURES", {"bands": FIGURES["bands"]})
        again = figures.write(results, tmp_path, (".svg",))
    assert again.paths["bands"][0].read_bytes() == written.paths["bands"][0].read_bytes()
    assert dict(matplotlib.rcParams) == before


def test_a_figure_without_its_data_is_left_out_and_said(results: Material, tmp_path: Path) -> None:
    for name, table in NEEDS.items():
        lacking = replace(results, tables={k: v for k, v in results.tables.items() if k != table})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(figures, "FIGURES", {name: FIGURES[name]})
            found = figures.write(lacking, tmp_path)
        assert dict(found.absent) == {name: f"no rows in the table '{table}'"}


def test_nothing_at_all(tmp_path: Path) -> None:
    found = figures.write(Material({}), tmp_path / "figures")
    assert set(found.absent) == set(FIGURES)
    assert dict(found.paths) == {}
    assert not (tmp_path / "figures").exists()


def test_a_folder_that_cannot_be_written(results: Material, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        figures.write(results, tmp_path / "file" / "figures", (".svg",))


def test_one_network_and_one_repeat_are_enough(results: Material, tmp_path: Path) -> None:
    """A study with one repeat has intervals over its cases only, and no spread over repeats."""
    one = replace(
        results, tables={name: {c: v[t["repeat"] == 0] for c, v in t.items()} for name, t in results.tables.items()}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "FIGURES", {name: FIGURES[name] for name in NEEDS})
        found = figures.write(one, tmp_path, (".svg",))
    assert set(found.paths) == set(NEEDS)
