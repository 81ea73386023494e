from __future__ import annotations

import os

import pytest

from segcal.data.case import Case
from segcal.data.files import journal
from segcal.data.files.journal import placed
from segcal.data.formats.placing import check_targets, output
from segcal.errors import OutputError, UsageError


class Unread:
    def __init__(self, where):
        self.where, self.channels, self.shape = where, 2, (3,)

    def open(self, scratch):
        raise AssertionError


def case(name="a", where="in/a.npz", **files):
    return Case(name, (Unread(where),), files=files)


def test_nothing_is_in_place_before_the_end_and_all_is_after(tmp_path):
    targets = [tmp_path / "out" / "a.npz", tmp_path / "out" / "deep" / "a.npy"]
    with placed(targets) as parts:
        for part in parts:
            part.write_bytes(part.suffix.encode())
        assert not any(t.exists() for t in targets)
        assert [p.suffix for p in parts] == [".npz", ".npy"] and [p.parent.parent for p in parts] == [
            t.parent for t in targets
        ]
    assert [t.read_bytes() for t in targets] == [b".npz", b".npy"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.npz", "deep"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_error_leaves_no_file_and_no_new_folder(tmp_path, error):
    (tmp_path / "out").mkdir()
    with pytest.raises(error), placed([tmp_path / "out" / "x" / "y" / "a", tmp_path / "out" / "b"]) as parts:
        parts[1].write_bytes(b"b")
        raise error
    assert (tmp_path / "out").exists() and list((tmp_path / "out").iterdir()) == []


def test_a_failing_rename_takes_back_those_already_done(tmp_path, monkeypatch):
    targets = [tmp_path / name for name in ("a", "b", "c")]
    rename, calls = os.replace, []

    def failing(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise PermissionError(13, "no")
        rename(source, target)

    monkeypatch.setattr(journal.os, "replace", failing)
    with pytest.raises(OutputError), placed(targets) as parts:
        for part in parts:
            part.write_bytes(b"x")
    assert len(calls) == 2 and list(tmp_path.iterdir()) == []


def test_a_folder_that_others_use_stays(tmp_path):
    with pytest.raises(RuntimeError), placed([tmp_path / "maps" / "a"]):
        (tmp_path / "maps" / "of another case").write_bytes(b"")
        raise RuntimeError
    assert [p.name for p in (tmp_path / "maps").iterdir()] == ["of another case"]


def test_no_target():
    with placed([]) as parts:
        assert parts == []


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/b", "a\\b", "/etc/passwd", "a\0b"])
def test_names_that_are_no_file_names(tmp_path, name):
    with pytest.raises(UsageError, match="cannot be the name of a file"):
        output(tmp_path, case(name), ".npz")


@pytest.mark.parametrize("name", ["a", "case 1", "a.b", "é", "..a", "-rf"])
def test_names_that_are(tmp_path, name):
    assert output(tmp_path, case(name), ".npz", "entropy") == tmp_path / "entropy" / f"{name}.npz"


def test_inputs_are_not_overwritten(tmp_path):
    for inputs in (case(where=str(tmp_path / "a.npz")), case(label_map=tmp_path / "x" / ".." / "a.npz")):
        with pytest.raises(UsageError, match="also an input"):
            check_targets(inputs, [tmp_path / "b.npz", tmp_path / "a.npz"])
    check_targets(case(where=str(tmp_path / "a.npz")), [tmp_path / "b.npz"])


def test_a_folder_in_the_way_is_seen_before_any_work(tmp_path):
    (tmp_path / "a.npz").mkdir()
    (tmp_path / "a.zarr").mkdir()
    check_targets(case(), [tmp_path / "a.zarr"])
    with pytest.raises(OutputError, match="a folder"):
        check_targets(case(), [tmp_path / "a.npz"])
