"""What axes too many, or in another place, are said to be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segcal.data.axes import likely
from segcal.data.formats.discover import open_cohort
from segcal.errors import ShapeError


@pytest.mark.parametrize(
    ("channels", "spatial", "labels", "said"),
    [
        (3, (24, 20), (3, 24, 20), "one-hot"),
        (3, (24, 20), (24, 20, 3), "argmax(-1)"),
        (24, (20,), (24, 20), "scores[None]"),
        (3, (24, 20), (1, 24, 20), "labels[0]"),
        (24, (20, 3), (24, 20), "--channel-axis -1"),
        (1, (3, 24, 20), (24, 20), "scores[0]"),
        (1, (24, 20), (20,), "batch axis"),
        (3, (24, 20), (9, 9), ""),
    ],
)
def test_likely(channels: int, spatial: tuple[int, ...], labels: tuple[int, ...], said: str) -> None:
    found = likely(channels, spatial, labels)
    assert (said in found) if said else not found


def save(folder: Path, scores: object, labels: object) -> tuple[Path, Path]:
    results, truth = folder / "results", folder / "labels"
    results.mkdir()
    truth.mkdir()
    np.savez(results / "a.npz", logits=scores)
    np.save(truth / "a.npy", labels)
    return results, truth


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros((24, 20, 3)), np.zeros((24, 20), int), "classes on the last axis.*--channel-axis -1"),
        (np.zeros((1, 3, 24, 20)), np.zeros((24, 20), int), r"batch axis before their classes: save scores\[0\]"),
        (np.zeros((3, 24, 20)), np.zeros((3, 24, 20), int), r"one-hot labels.*labels\.argmax\(0\)"),
        (np.zeros((24, 20)), np.zeros((24, 20), int), r"scores\[None\] of each case"),
    ],
)
def test_files(tmp_path: Path, scores: object, labels: object, message: str) -> None:
    paths = save(tmp_path, scores, labels)
    with pytest.raises(ShapeError, match=message):
        open_cohort(*paths)


def test_the_advice_is_taken(tmp_path: Path) -> None:
    paths = save(tmp_path, np.zeros((24, 20, 3)), np.zeros((24, 20), int))
    assert open_cohort(*paths, channel_axis=-1)[0].shape == (24, 20)


def test_classes_named_beside_scores_on_another_axis(tmp_path: Path) -> None:
    results, _ = save(tmp_path, np.zeros((24, 20, 3)), np.zeros((24, 20), int))
    (results / "dataset.json").write_text('{"labels": {"background": 0, "a": 1, "b": 2}}')
    with pytest.raises(ShapeError, match="the last axis: say so with channel_axis=-1"):
        open_cohort(results)
