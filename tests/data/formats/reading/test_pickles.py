"""Properties: what nnU-Net pickles is read in every protocol, everything else is refused without being run."""

from __future__ import annotations

import contextlib
import os
import pickle
import tracemalloc
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segcal.data.formats import pickles
from segcal.data.formats.pickles import StoredArray
from segcal.errors import DataError, MissingError, UnreadableError, UnsafeFileError


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def run(data: bytes) -> dict[str, Any]:
        (tmp_path / "case.pkl").write_bytes(data)
        return pickles.load(tmp_path / "case.pkl")

    return run


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_what_nnunet_writes(protocol: int, load: Any) -> None:
    shared = [1, 2]
    written = {
        "spacing": [np.float64(999.0), np.float32(0.5)],
        "shape": (np.int64(3), 4, True, None),
        "bbox": [[0, np.int32(7)], shared, shared],
        "affine": np.arange(6.0).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3)),
        "big": np.dtype(">f8").type(2.5),
        "nested": OrderedDict(a={"b": b"raw"}),
        "name": np.str_("text"),
    }
    got = load(pickle.dumps(written, protocol))
    assert got["spacing"] == [999.0, 0.5] and all(type(v) is float for v in got["spacing"])
    assert got["shape"] == (3, 4, True, None) and type(got["shape"][0]) is int
    assert got["bbox"] == [[0, 7], [1, 2], [1, 2]]
    assert got["affine"] == [[0, 1, 2], [3, 4, 5]] == got["fortran"]
    assert (got["big"], got["nested"], got["name"]) == (2.5, {"a": {"b": b"raw"}}, "text")


@pytest.mark.parametrize("protocol", [4, 5])
def test_locations_of_each_class_may_be_of_any_size(
    protocol: int, load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nnU-Net's validations carry a share of all voxels; their bytes are neither counted nor held."""
    monkeypatch.setattr(pickles, "LIMIT", 10_000)
    written = {
        "spacing": [1.0],
        "class_locations": {k: np.zeros((100_000, 4), np.int64) for k in (1, (1, 2))},
        "empty": np.zeros((0, 4), np.int64),
    }
    (tmp_path / "large.pkl").write_bytes(pickle.dumps(written, protocol))
    tracemalloc.start()
    got = pickles.load(tmp_path / "large.pkl")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    located = StoredArray((100_000, 4))
    assert got == {"spacing": [1.0], "class_locations": {1: located, (1, 2): located}, "empty": []}
    assert peak < 1 << 20
    for cut in (3_000_000, 5_000):
        with pytest.raises(UnreadableError, match=r"case\.pkl"):
            load(pickle.dumps(written, protocol)[:cut])
    with pytest.raises(UnreadableError, match="bytes of no array"):
        load(pickle.dumps({"a": bytes(100_000)}, protocol))


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 30, 40, 20)])
def test_an_array_in_place_of_the_properties(protocol: int, shape: tuple[int, ...], load: Any) -> None:
    for order in "CF":
        assert load(pickle.dumps(np.zeros(shape, np.float32, order), protocol)) == StoredArray(shape)


def test_the_name_numpy_had_before_version_2(load: Any) -> None:
    assert load(pickle.dumps({"a": np.float64(3)}, 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")) == {
        "a": 3.0
    }


class Runs:
    def __init__(self, what: Any, *arguments: Any) -> None:
        self.what, self.arguments = what, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.what, self.arguments


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("what", "asked"),
    [(os.system, "system"), (eval, "eval"), (getattr, "getattr"), (np.load, "load"), (bytearray, "bytearray")],
)
def test_code_is_named_and_not_run(what: Any, asked: str, protocol: int, load: Any, tmp_path: Path) -> None:
    with pytest.raises(UnsafeFileError, match=rf"case\.pkl: found a request for \w+\.\w*{asked}"):
        load(pickle.dumps({"a": Runs(what, f"touch {tmp_path / 'ran'}")}, protocol))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04cnumpy\nndarray\n(I1000000000000\ntR.",  # an array made by a call
        b"\x80\x04cnumpy\ndtype\nV1000000\n\x85R.",  # a type of a million bytes
        b"\x80\x04cnumpy\ndtype\n}(V__setstate__\nNub.",  # a stand-in whose state is set
        b"\x80\x04cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nVO8\n\x85R]\x86R.",  # a scalar that is an object
        b"\x80\x04]\x94r\xff\xff\xff\x7f.",  # room for two thousand million objects
        b"\x80\x04\x8cxP.",  # cut short
        b"(cos\nsystem\nVls\no.",  # a class made by an instruction
        b"\x80\x04Pid\n.",  # a persistent object
        b"\x80\x04]\x94h\x00a.",  # a list that holds itself
        b"",
        pickle.dumps([1]),
        pickle.dumps({"a": Fraction(1, 2)}),
        pickle.dumps({"a": np.array([{}], dtype=object)}),
        pickle.dumps({"a": np.zeros(2, [("x", "f4")])}),
        b"\x80\x04"
        + b"]\x94" * 1
        + b"".join(b"](" + b"h" + bytes([k]) + b"h" + bytes([k]) + b"e\x94" for k in range(60))
        + b".",
    ],
)
def test_hostile_files(data: bytes, load: Any) -> None:
    with pytest.raises((UnsafeFileError, UnreadableError), match=r"case\.pkl"):
        load(data)


def test_nothing_of_a_hostile_file_stays_behind(load: Any) -> None:
    good = pickle.dumps({"a": np.float64(3)}, 2)
    for name in (
        "numpy\ndtype",
        "numpy.core.multiarray\nscalar",
        "numpy.core.multiarray\n_reconstruct",
        "_codecs\nencode",
    ):
        with pytest.raises(DataError):
            load(b"\x80\x02}(Va\nc" + name.encode() + b"\nN}(V__call__\nI1\nV_run\nI1\nu\x86bu.")
        assert load(good) == {"a": 3.0}


def test_size_and_absence(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "LIMIT", 1000)
    with pytest.raises(UnsafeFileError, match="expected at most 1000"):
        load(pickle.dumps({"a": "x" * 2000}))
    with pytest.raises(MissingError):
        pickles.load(tmp_path / "none.pkl")


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=40)
    | st.builds(
        lambda a, b, k: a[:k] + b + a[k:],
        st.just(pickle.dumps({"a": np.float64(1), "b": [(1, 2)]})),
        st.binary(max_size=4),
        st.integers(0, 90),
    )
)
def test_any_bytes_give_a_dictionary_or_an_error_of_ours(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.pkl"
    path.write_bytes(data)
    with contextlib.suppress(UnreadableError, UnsafeFileError):
        assert isinstance(pickles.load(path), dict | StoredArray)
