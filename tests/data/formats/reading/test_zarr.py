"""zarr: both formats, chunks of every shape, groups, damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from segcal.data.formats.discover import open_cohort
from segcal.data.formats.zarr import ZarrField, is_store, keys
from segcal.errors import MissingError, UnreadableError, UsageError


@pytest.mark.parametrize("limit", [1, 700, 1 << 20])
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("chunks", [(1, 2, 3, 4), (3, 5, 6, 7), (2, 5, 1, 7), (9, 9, 9, 9), (1, 1, 6, 7)])
def test_round_trip(
    chunks: tuple[int, ...],
    version: int,
    limit: int,
    tmp_path: Path,
    rng: np.random.Generator,
    read: Callable[..., Any],
) -> None:
    x = rng.normal(size=(3, 5, 6, 7)).astype(np.float32)
    array = zarr.create_array(tmp_path / "a.zarr", shape=x.shape, chunks=chunks, dtype=x.dtype, zarr_format=version)
    array[...] = x
    assert is_store(tmp_path / "a.zarr") and keys(tmp_path / "a.zarr") == [""]
    field = ZarrField.find(tmp_path / "a.zarr", channel_axis=0)
    assert (field.shape, field.channels) == ((5, 6, 7), 3)
    assert np.array_equal(read(field, limit), x)
    last = ZarrField.find(tmp_path / "a.zarr", channel_axis=-1)
    assert np.array_equal(read(last, limit), np.moveaxis(x, -1, 0))


def test_groups_shards_and_missing_chunks(tmp_path: Path, rng: np.random.Generator, read: Callable[..., Any]) -> None:
    group = zarr.create_group(tmp_path / "a.zarr")
    x = rng.normal(size=(2, 8, 8))
    group.create_array("logits", shape=x.shape, chunks=(1, 2, 2), shards=(2, 4, 4), dtype=x.dtype)[...] = x
    group.create_array("labels", shape=(8, 8), chunks=(3, 3), dtype="u1", fill_value=4)
    assert keys(tmp_path / "a.zarr") == ["labels", "logits"]
    for limit in (1, 1 << 20):
        assert np.array_equal(read(ZarrField.find(tmp_path / "a.zarr", "logits", channel_axis=0), limit), x)
        assert np.array_equal(
            read(ZarrField.find(tmp_path / "a.zarr", "labels", channel_axis=None), limit), np.full((8, 8), 4)
        )


@pytest.mark.parametrize("limit", [1, 1 << 20])
def test_damage(limit: int, tmp_path: Path, read: Callable[..., Any]) -> None:
    with pytest.raises(MissingError, match="no such store"):
        keys(tmp_path / "none.zarr")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises((MissingError, UnreadableError), match=r"empty\.zarr"):
        keys(tmp_path / "empty.zarr")
    array = zarr.create_array(tmp_path / "a.zarr", shape=(4, 50), chunks=(4, 50), dtype="f8")
    array[...] = np.arange(200.0).reshape(4, 50)
    chunk = next(p for p in (tmp_path / "a.zarr").rglob("*") if p.is_file() and p.name != "zarr.json")
    chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(UnreadableError, match=r"a\.zarr"):
        read(ZarrField.find(tmp_path / "a.zarr", channel_axis=0), limit)
    with pytest.raises(MissingError):
        ZarrField.find(zarr_group(tmp_path), "logits", channel_axis=0)


def zarr_group(folder: Path) -> Path:
    zarr.create_group(folder / "g.zarr")
    return folder / "g.zarr"


@pytest.mark.parametrize("version", [2, 3])
def test_an_ome_image_is_its_full_resolution(
    version: int, tmp_path: Path, rng: np.random.Generator, read: Callable[..., Any]
) -> None:
    """The pyramid of `CASE.ome.zarr` is not several arrays to choose from; as scores and as label map."""
    x, y = rng.normal(size=(2, 4, 6)).astype(np.float32), rng.integers(0, 2, (4, 6)).astype(np.uint8)
    described: Any = {"multiscales": [{"version": "0.4", "datasets": [{"path": "1"}, {"path": "0"}]}]}
    for place, whole in (("p", x), ("y", y)):
        group = zarr.create_group(tmp_path / place / "c0.ome.zarr", zarr_format=version)
        for name, level in (("0", whole[..., ::2, ::2]), ("1", whole)):
            group.create_array(name, shape=level.shape, chunks=level.shape, dtype=level.dtype)[...] = level
        group.attrs.update(described if version == 2 else {"ome": described})
    (case,) = open_cohort(tmp_path / "p", tmp_path / "y", kind="logits")
    assert case.id == "c0" and np.array_equal(read(case.scores[0]), x)
    assert case.labels is not None and np.array_equal(read(case.labels), y)
    for other in ({"ome": 3}, {"ome": {"multiscales": []}}, {"ome": {"multiscales": [{"datasets": [{"path": "7"}]}]}}):
        group.attrs.put(other)
        assert keys(tmp_path / "y" / "c0.ome.zarr") == ["0", "1"]
        with pytest.raises(UsageError, match=r"c0\.ome\.zarr: found arrays \['0', '1'\]"):
            open_cohort(tmp_path / "p", tmp_path / "y", kind="logits")
