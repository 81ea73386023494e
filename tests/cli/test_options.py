"""Options become cohorts, groups and sizes; a calibrator stands in for what was not given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segcal.cli import app, several
from segcal.cli.options import Labelled, Running, Scores, cohort_of, engine_of, memory_of, numbers_of, typed
from segcal.data.head import Softmax
from segcal.data.splits import grouped
from segcal.errors import MissingError, UsageError
from segcal.methods.files import load


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GB", 2**32),
        ("512MB", 2**29),
        ("512MiB", 2**29),
        ("0.5g", 2**29),
        (" 300 M ", 300 * 2**20),
        ("268435456", 2**28),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert memory_of(text) == size


@given(st.integers(1, 10**6), st.sampled_from("KMGT"), st.sampled_from(["", "B", "iB"]))
def test_units_are_powers_of_1024(number: int, unit: str, ending: str) -> None:
    assert memory_of(f"{number}{unit}{ending}") == number * 1024 ** ("KMGT".index(unit) + 1)


@pytest.mark.parametrize("text", ["", "much", "4 gigs", "-1GB", "4GBB", "1e3"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="max-memory"):
        memory_of(text)


@pytest.mark.parametrize("text", ["9" * 400, "9" * 400 + "GB", "1" + "0" * 300 + "TB", "2000000TB"])
def test_more_memory_than_there_is_anywhere(text: str) -> None:
    with pytest.raises(UsageError, match=r"--max-memory.*at most 1048576 TB"):
        memory_of(text)


def test_too_little_memory_is_said_before_any_work() -> None:
    with pytest.raises(UsageError, match="256 MiB"), engine_of(Running(max_memory="1MB")):
        pass


def test_no_bars_in_a_log() -> None:
    for quiet, kind in ((False, "Lines"), (True, "Silent")):
        with engine_of(Running(workers=1, quiet=quiet)) as engine:
            engine.progress.start("nothing", 1)
            engine.progress.step()
            assert type(engine.progress).__name__ == kind


def test_groups_by_pattern_table_and_runs(fitting: Any, tmp_path: Path) -> None:
    cohort = cohort_of(fitting.results, Labelled(labels=fitting.labels))
    ids = [c.id for c in cohort]
    assert len(set(cohort.groups)) == len(ids)
    assert set(grouped(cohort, "p(0)").groups) == {"0"}
    assert grouped(cohort, "consecutive:3").groups == tuple(ids[k - k % 3] for k in range(len(ids)))
    assert grouped(cohort, "consecutive:3:^(p)").groups == grouped(cohort, "consecutive:3").groups
    table = tmp_path / "groups.tsv"
    table.write_text("case\tgroup\n" + "".join(f"{i}\tg{k // 2}\n" for k, i in enumerate(ids)))
    assert grouped(cohort, str(table)).groups == tuple(f"g{k // 2}" for k in range(len(ids)))


def test_groups_that_cannot_be_had(fitting: Any, tmp_path: Path) -> None:
    cohort = cohort_of(fitting.results, Labelled(labels=fitting.labels))
    with pytest.raises(UsageError, match="source"):
        grouped(cohort, "source")
    with pytest.raises(UsageError, match="no group"):
        grouped(cohort, "subject_(x)")
    with pytest.raises(UsageError, match="regular expression"):
        grouped(cohort, "(")
    with pytest.raises(MissingError, match=r"groups\.csv"):
        grouped(cohort, str(tmp_path / "groups.csv"))


def test_cases_and_classes(fitting: Any) -> None:
    cohort = cohort_of(fitting.results, Scores(cases=("p00", "p0[67]"), classes=("a", "b", "c")))
    assert [c.id for c in cohort] == ["p00", "p06", "p07"]
    assert cohort.head.classes == ("a", "b", "c")


def test_what_the_calibrator_remembers_stands_in(fitting: Any, heldout: Any, calibrator: Path) -> None:
    loaded = load(calibrator)
    plain = cohort_of(heldout.results, Labelled(labels=heldout.labels)).head
    as_fitted = cohort_of(heldout.results, Labelled(labels=heldout.labels), loaded).head
    told = cohort_of(heldout.results, Labelled(labels=heldout.labels, background="none"), loaded).head
    assert isinstance(plain, Softmax)
    assert isinstance(as_fitted, Softmax)
    assert isinstance(told, Softmax)
    assert (plain.background, as_fitted.background, told.background) == (None, 0, None)


def test_the_calibrators_pooling_stands_in(cohort_writer: Any, tmp_path: Path, segcal: Any) -> None:
    folder = cohort_writer(tmp_path / "ensemble", ["a", "b", "c"], members=2)
    path = tmp_path / "cal.safetensors"
    assert segcal("fit", *folder.labelled, "--pool", "logits", "-o", path).code == 0
    assert cohort_of(folder.results, Scores(), load(path)).pool == "logits"
    assert cohort_of(folder.results, Scores(pool="probs"), load(path)).pool == "probs"
    assert cohort_of(folder.results, Scores()).pool == "probs"


def test_options_can_be_typed_again() -> None:
    given = Labelled(
        labels=Path("my labels"),
        pool="logits",
        groups=r"s_(\d+)",
        ignore_index=(255, -1),
        label_map=("254:1", "3:ignore"),
        exclude=("ab",),
        background=0,
        cases=("a*",),
        zyx=True,
        channel_axis=-1,
        classes=("a", "b"),
    )
    words = given.words()
    assert typed("segcal", "fit", words).startswith(
        "segcal fit --labels 'my labels' --pool logits --groups 's_(\\d+)' --ignore-index 255 -1 --label-map 254:1 3:"
    )
    assert words[words.index("--cases") + 1] == "a*"
    assert words[words.index("--exclude") + 1] == "ab"
    assert "--zyx" in words
    assert Labelled().words() == []


@pytest.mark.parametrize(
    ("words", "read"),
    [
        (["--label-map", "255:1", "3:ignore"], {255: 1, 3: None}),
        (["--label-map", "-1:0,4:3"], {-1: 0, 4: 3}),
        (["--label-map=4:3", "--label-map=4:3"], {4: 3}),
    ],
)
def test_label_maps_and_ignored_labels_are_several_words(
    words: list[str], read: dict[int, int | None], fitting: Any
) -> None:
    """Paths may come after them, as before."""
    given = several(["check", "--ignore-index", "254", "-1", *words, *fitting.labelled])
    _, bound, _ = app.parse_args(given, exit_on_error=False, print_error=False)
    scores = bound.arguments["scores"]
    assert scores.ignore_index == (254, -1)
    assert numbers_of(scores.label_map) == read
    assert bound.arguments["results"] == list(fitting.results)


@pytest.mark.parametrize("word", ["255", "255:", "a:1", "1:2,1:3", "255:1,", f"1:{'9' * 30}"])
def test_label_maps_that_cannot_be_read(word: str) -> None:
    with pytest.raises(UsageError, match=r"--label-map: found .*expected OLD:NEW or OLD:ignore"):
        numbers_of([word])


def test_what_a_label_map_says_goes_along_where_labels_are_read() -> None:
    given = Labelled(label_map=("255:1",), ignore_index=(254, 253), exclude=("a",), zyx=True)
    assert given.elsewhere(labelled=False) == ["--zyx"]
    assert given.elsewhere(labelled=True) == ["--ignore-index", "254", "253", "--label-map", "255:1", "--zyx"]
    assert Labelled(ignore_index=(255,)).elsewhere(labelled=True) == []  # a calibrator remembers it
