"""What single figures compute before they draw, by hand; and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcal.errors import UnreadableError
from segcal.study import results as tidy
from segcal.study.figures import bands, bins, corruption, energy, flips, gauge, reliability, sizes, spread, style
from segcal.study.figures.material import Absent, Columns, Material, among, interval, rows
from segcal.study.shift import photometric

Table = Callable[[str, list[tuple[Any, ...]]], Columns]


def texts(figure: Any) -> list[str]:
    """Every text of a figure, legends included."""
    return [t.get_text() for t in figure.findobj(match=lambda artist: hasattr(artist, "get_text")) if t.get_text()]


def test_gauge_only_ms_sees_the_offset() -> None:
    by_offset = [gauge.outputs(k) for k in gauge.OFFSETS]
    same = {name: all(np.allclose(found[name], by_offset[0][name]) for found in by_offset) for name in by_offset[0]}
    assert list(same.values()) == [True, False, True, True]
    assert len({int(found["MS"].argmax()) for found in by_offset}) == 2
    assert np.allclose(gauge.constrained(gauge.MATRIX).sum(1), 1)


def test_flips_are_shares_of_labelled_pixels(results: Material) -> None:
    e = results.examples[0]
    flipped = np.zeros_like(e.flipped)
    flipped[0, :6] = True
    flipped[-1] = True  # ignored
    assert flips.share(replace(e, flipped=flipped), 3) == 6 / (29 * 40)
    assert np.isnan(flips.share(replace(e, labels=np.full_like(e.labels, 255)), 3))


def test_flips_say_whose_they_are(results: Material) -> None:
    figure = flips.draw(results.examples[:1], ("a", "b", "c"), 0, "MS(zbar)")
    assert any(text.startswith(f"flipped by {style.named('MS(zbar)')}: ") for text in texts(figure))


def test_energy_without_a_number(results: Material) -> None:
    with pytest.raises(Absent, match="no finite free energy"):
        energy.draw([replace(results.examples[0], energy=np.full((30, 40), np.nan))])


def test_sizes_are_paired_by_repeat_and_case(table_of: Table) -> None:
    given = [
        (5, 0, "a", 3.0),
        (5, 0, "b", 5.0),
        (50, 0, "b", 1.0),
        (50, 0, "a", 2.0),
        (5, 1, "c", 7.0),
        (50, 1, "c", 7.5),
        (50, 1, "d", 0.0),
    ]
    table = table_of("size repeat case value group", [(*row, row[2]) for row in given])
    assert sizes.paired(table, 5, 50)["value"].tolist() == [1.0, 4.0, -0.5]
    assert sizes.paired(table, 50, 50)["value"].tolist() == [0.0] * 4
    pooled = table_of("size repeat value", [(5, 0, 3.0), (5, 1, 2.0), (50, 1, 0.5), (50, 0, 1.0), (5, 2, 9.0)])
    assert sizes.pooled(pooled, 5, 50).tolist() == [2.0, 1.5]
    assert (sizes.reference([5, 50, 99]), sizes.reference([5, 25, 40])) == (50, 40)


def test_every_size_lies_where_it_is(results: Material) -> None:
    figure = sizes.draw(results.table("sizes"), results.table("sizes_pooled"))
    there = sorted(set(results.table("sizes")["size"].tolist()))
    for axes in figure.axes:
        assert axes.get_xscale() == "log"
        assert axes.get_xticks().tolist() == there
        named = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
        assert named and all(line.get_xdata().tolist() == there for line in named)


def test_one_size_is_no_figure(results: Material) -> None:
    with pytest.raises(Absent, match="only one calibration set size"):
        sizes.draw(rows(results.table("sizes"), size=5), results.table("sizes_pooled"))


def test_bins_show_mean_and_extent(results: Material) -> None:
    figure = bins.draw(results.table("scores"), results.table("pooled"))
    second = figure.axes[1]
    heights = [p.get_height() for p in second.patches]
    chosen = rows(results.table("pooled"), cohort="test", metric="ace", pipeline="zbar")["value"]
    assert heights[0] == pytest.approx(chosen.mean())
    first_bar = second.collections[0].get_segments()[0]
    assert first_bar[:, 1].tolist() == [chosen.min(), chosen.max()]
    ece = rows(results.table("scores"), cohort="test", metric="ece_20", pipeline="zbar")
    assert figure.axes[0].patches[0].get_height() == pytest.approx(interval(ece).mean)


def test_reliability_chooses_the_best_and_merges_equals() -> None:
    assert reliability.chosen_of(
        {"p0": 0.1, "zbar": 0.01, "pbar": 0.2, "MS(zbar)": 0.03, "TS(zbar)": 0.05, "CDC(pbar)": 0.04}
    ) == {
        "p0": "",
        "zbar": "",
        "MS(zbar)": "*",
        "TS(zbar)": "°",
    }
    assert reliability.chosen_of(
        {"p0": 0.1, "zbar": 0.01, "pbar": 0.2, "MS(zbar)": 0.03, "CMSop(pbar)": 0.02, "CMSap(pbar)": 0.025}
    ) == {
        "p0": "",
        "pbar": "",
        "CMSop(pbar)": "*°",
    }
    with pytest.raises(Absent, match="no calibrated pipeline"):
        reliability.chosen_of({"p0": 0.1, "zbar": 0.2})


def test_reliability_over_repeats(table_of: Table) -> None:
    nan = np.nan
    table = table_of(
        "repeat bin voxels confidence accuracy",
        [
            (0, 0, 0, nan, nan),
            (1, 0, 0, nan, nan),
            (0, 1, 5, 0.5, 0.4),
            (1, 1, 3, 0.6, 0.8),
            (0, 2, 1, 0.9, 1.0),
            (1, 2, 0, nan, nan),
        ],
    )
    x, y, extent = reliability.curve(table)
    assert np.allclose(x, [0.55, 0.9])
    assert np.allclose(y, [0.6, 1.0])
    assert np.allclose(extent, [[0.4, 1.0], [0.8, 1.0]])


def test_reliability_prints_mean_ace(results: Material) -> None:
    figure = reliability.draw(results.table("curves"), results.table("pooled"))
    shown = texts(figure)
    for cohort in ("test", "mild"):
        ace = reliability.mean_ace(results.table("pooled"), cohort)
        chosen = reliability.chosen_of(ace)
        assert min(ace[p] for p in chosen if p not in reliability.UNCALIBRATED) == min(
            v for p, v in ace.items() if p not in reliability.UNCALIBRATED
        )
        for pipeline, role in chosen.items():
            assert f"({ace[pipeline]:.3f}{role})" in shown
    assert {"test", "mild", "strong"} <= set(shown)


def test_bands_show_the_gap(results: Material, table_of: Table) -> None:
    nan = np.nan
    made = table_of(
        "low voxels confidence accuracy distance",
        [
            (3.0, 1, 0.9, 0.5, 4.0),
            (0.0, 10, 0.9, 0.8, 1.0),
            (0.0, 30, 0.7, 0.8, 2.0),
            (7.0, 0, nan, nan, nan),
            (3.0, 0, nan, nan, nan),
        ],
    )
    assert np.allclose(bands.gaps(made), [[1.75, 0.0, -0.1, 0.1, 40], [4.0, 0.4, 0.4, 0.4, 1]])
    figure = bands.draw(results.table("bands"))
    panel = next(axes for axes in figure.axes if axes.get_title() == "mild")
    line = next(entry for entry in panel.get_lines() if entry.get_label() == style.named("TS(zbar)"))
    one = rows(results.table("bands"), cohort="mild", pipeline="TS(zbar)", low=0.0)
    assert line.get_ydata()[0] == pytest.approx((one["confidence"] - one["accuracy"]).mean())


def test_spread_is_by_image(table_of: Table) -> None:
    table = table_of("case value", [("b", 1.0), ("a", 2.0), ("b", 3.0), ("c", np.nan)])
    assert spread.by_image(table).tolist() == [2.0, 2.0]


def test_corruption_shows_all_kinds_on_pictures_and_samples_of_volumes(results: Material) -> None:
    clean = [e for e in results.examples if e.cohort == "test"]
    shown = corruption.pictures(clean, ["test", "mild"])
    assert [title for title, _ in shown] == ["clean", "noise", "blur", "brightness", "jpeg", "fog"]
    assert np.array_equal(
        shown[4][1], photometric.choose(f"{clean[0].case}.png", "strong", kind="jpeg").apply(clean[0].image)
    )
    scaled = [replace(e, image=e.image / np.float32(255)) for e in clean if e.image is not None]
    assert all(
        np.array_equal(a, b) for (_, a), (_, b) in zip(shown, corruption.pictures(scaled, ["mild"]), strict=True)
    )
    moved = replace(clean[0], cohort="motion")
    assert [title for title, _ in corruption.pictures([*clean, moved], ["test", "motion"])] == ["clean", "motion"]
    for examples, cohorts in (
        (clean, ["test"]),
        (clean, ["motion"]),
        ([replace(e, image=None) for e in clean], ["mild"]),
        ([], ["mild"]),
    ):
        with pytest.raises(Absent, match="no image of a clean test case"):
            corruption.pictures(examples, cohorts)


def test_material_of_a_finished_study(tmp_path: Path) -> None:
    arrays = {"labels": np.zeros((3, 4), int), "decision": np.ones((3, 4), int), "flipped": np.ones((3, 4), bool)}
    np.savez(tmp_path / "a.npz", **arrays)
    tables = {
        "samples": tidy.table("samples", [{"name": "a", "cohort": "test", "case": "c", "file": "a.npz"}]),
        "pooled": tidy.table("pooled", [{"cohort": "test", "value": 0.5}]),
    }
    finished = tidy.Finished(tmp_path, {"classes": ["x", "y"], "background": None}, tables)
    found = Material.of(finished)
    assert (found.classes, found.background, found.tables["pooled"]["value"].tolist()) == (("x", "y"), None, [0.5])
    (one,) = found.of_clean("flipped")
    assert (one.case, one.image, one.energy, one.decision.tolist()) == ("c", None, None, arrays["decision"].tolist())
    assert one.seen.shape == (3, 4)
    with pytest.raises(Absent, match="with energy"):
        found.of_clean("energy")
    (tmp_path / "a.npz").write_bytes(b"nothing")
    with pytest.raises(UnreadableError, match=r"a\.npz"):
        Material.of(finished)


def test_pipelines_that_are_not_there(results: Material) -> None:
    with pytest.raises(Absent, match="none of the pipelines"):
        among(results.table("scores"), ["bogus"])
