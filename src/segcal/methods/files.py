"""Calibrator files: safetensors for the numbers, JSON metadata for everything else. Never pickle.

Schema 1: metadata key `segcal` holds {schema, method, head, kind, resolution, keep_decision, maps, solution, data,
crossfit, reference, versions}; tensors are named `part.name`. Files of before there was a `resolution` have the finest,
those of before there was a `unit` have 1, those of before there was a `reference` none. Anything else, a newer schema
included, is a clear error. Files are written whole or not at all.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np
import safetensors
import safetensors.torch
import torch

from segcal import __version__
from segcal.data import head as heads
from segcal.data.case import Origin
from segcal.data.files import journal
from segcal.data.files.reading import json_value, listed, readable, shown, too_much
from segcal.data.scores import Resolution
from segcal.errors import MissingError, SegcalError, UnreadableError
from segcal.methods.calibrator import Calibrator, FitData, Solution
from segcal.methods.composed import THEN, Composed
from segcal.methods.maps import PartMap
from segcal.methods.registry import kind_of_map
from segcal.metrics.summary import plain

SCHEMA = 1

METADATA = 32 << 20
"""Largest metadata of a calibrator, in bytes: some hundred a case it was fitted on."""

VALUES = 1_000_000
"""Most values in it."""


def save(calibrator: Calibrator, path: str | os.PathLike[str]) -> None:
    """Write `calibrator` to `path`. Raises OutputError if that cannot be done."""
    with journal.atomic(path) as temporary:
        try:
            safetensors.torch.save_file(_tensors(calibrator), temporary, {"segcal": json.dumps(describe(calibrator))})
        except safetensors.SafetensorError as error:
            # the library tells the system's refusal in words only
            refused = re.search(r"(?:os error |code: )(\d+)", str(error))
            if refused is None:
                raise
            raise OSError(int(refused[1]), os.strerror(int(refused[1]))) from error


def digest(calibrator: Calibrator) -> str:
    """By which a calibrator is known again: of its numbers and all that is said of them but the versions."""
    described = describe(calibrator)
    del described["versions"]
    packed: bytes = safetensors.torch.save(_tensors(calibrator), {"segcal": json.dumps(described)})
    return journal.digest(packed)


def _tensors(calibrator: Calibrator) -> dict[str, torch.Tensor]:
    return {
        f"{r}.{name}": t.clone(memory_format=torch.contiguous_format)
        for r, m in enumerate(calibrator.maps)
        for name, t in m.state_dict().items()
    }


def describe(calibrator: Calibrator) -> dict[str, Any]:
    """Everything but the tensors, as plain data."""
    return {
        "schema": SCHEMA,
        "method": calibrator.method,
        "head": calibrator.head.to_json(),
        "kind": calibrator.kind,
        "resolution": asdict(calibrator.resolution),
        "unit": calibrator.unit,
        "keep_decision": calibrator.keep_decision,
        "maps": [m.named for m in calibrator.maps],
        "guarantees": calibrator.guarantees().to_json(),
        "solution": None if calibrator.solution is None else calibrator.solution.to_json(),
        "data": None if calibrator.data is None else calibrator.data.to_json(),
        "crossfit": calibrator.crossfit,
        "reference": calibrator.reference,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """What made the file."""
    return {
        "segcal": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def load(path: str | os.PathLike[str]) -> Calibrator:
    """Read a calibrator.

    MissingError if there is no file; UnreadableError, naming the file, if it is anything but a calibrator of a known
    schema.
    """
    file = Path(path)
    described, tensors = _opened(file)
    with ours(file):
        return _build(file, described, tensors)


@contextlib.contextmanager
def ours(file: Path) -> Iterator[None]:
    """Inside, what goes wrong with numbers and metadata of a calibrator is a fault of the file: UnreadableError."""
    try:
        yield
    except UnreadableError:
        raise
    except SegcalError as error:
        raise _not_ours(file, f"{error.where} with {error.found}") from error
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise _not_ours(file, f"incomplete metadata or tensors ({type(error).__name__}: {reason})") from error


def metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `describe` gave when the file was written. Raises what `load` raises of a file that is no calibrator."""
    return _opened(Path(path), numbers=False)[0]


def _opened(file: Path, *, numbers: bool = True) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    if not listed(file):
        raise MissingError(
            str(file),
            found="no such file",
            expected="a calibrator written by segcal",
            do="Fit one with `segcal fit ... -o cal.safetensors`.",
        )
    with readable(file), file.open("rb") as raw:
        size = int.from_bytes(raw.read(8), "little")
    if METADATA < size < file.stat().st_size:
        raise too_much(file, f"metadata of {size} bytes", f"at most {METADATA}")
    try:
        with safetensors.safe_open(file, "pt") as opened:
            told = opened.metadata() or {}
            names = list(opened.keys()) if numbers else []
            tensors = {name: opened.get_tensor(name) for name in names}
    except (safetensors.SafetensorError, OSError) as error:
        raise _not_ours(file, "a file that is not safetensors") from error
    if "segcal" not in told:
        raise _not_ours(file, "a safetensors file without segcal's metadata")
    try:
        described = json_value(told["segcal"], file, VALUES)
    except UnreadableError as error:
        raise _not_ours(file, "metadata that cannot be read") from error
    if not isinstance(described, dict) or "schema" not in described:
        raise _not_ours(file, "metadata that cannot be read")
    if type(described["schema"]) is not int or described["schema"] != SCHEMA:
        raise UnreadableError(
            str(file),
            found=f"file schema {shown(described['schema'], 40)}",
            expected=f"schema {SCHEMA}",
            do="Use the segcal version that wrote it, or fit again.",
        )
    return described, tensors


_NUMBER = (int, float, type(None))
_SOLUTION: dict[str, Any] = {
    "objective": _NUMBER,
    "nll": _NUMBER,
    "status": (str,),
    "message": (str,),
    "passes": (int,),
    "certificate": {"gap": _NUMBER},
    "selection": [dict.fromkeys(("lambda", "nll", "gain", "standard_error", "weight", "trial"), _NUMBER)],
    "settings": {},
}
_BLOCK = dict.fromkeys(("nll", "brier", "ece", "ece_pooled", "classwise_ece", "ace", "dice", "iou"), _NUMBER)
_FORM: dict[str, Any] = {
    "method": (str,),
    "unit": (int, float),
    "keep_decision": (bool, type(None)),
    "maps": [(str,)],
    "head": {"classes": [(str,)], "names": [(str,)], "members": [[(int,)]], "order": [(int,)]},
    "versions": {},
    "data": {
        "provenance": {
            "members": (int,),
            "folds": (int, type(None)),
            "tta": (bool, type(None)),
            "step_size": _NUMBER,
            "origin": (*get_args(Origin), None),
            "validated": (int, type(None)),
        },
        "name": (str,),
        "pool": (str,),
        "voxels": (int,),
        "notes": [(str,)],
        "grouping": (str,),
        "records": [{"id": (str,), "group": (str,), "labels": (str,), "scores": (str,), "roles": [(int,)]}],
    },
    "crossfit": {
        "cases": (int,),
        "groups": (int,),
        "folds": (int,),
        "uncalibrated": _BLOCK,
        "calibrated": _BLOCK,
        "differences": {},
    },
    "reference": {},
}
"""What entries of the metadata are, where they are there: types, or the values that are known."""

_MAYBE_NULL = ("data", "crossfit", "reference", "gap")


def _follows(value: Any, form: Any, name: str = "metadata") -> None:
    """Raise TypeError naming the first entry that is of another type than its form."""
    expected: Any = dict if isinstance(form, dict) else list if isinstance(form, list) else form
    if isinstance(form, tuple) and not isinstance(form[0], type):
        fits = value is None or (isinstance(value, str) and value in form)
    else:
        fits = isinstance(value, expected) and not (isinstance(value, bool) and bool not in form)
    if not fits:
        raise TypeError(f"{name} is {shown(value, 60)}")
    inside = [(v, form[0], name) for v in value] if isinstance(form, list) else ()
    if isinstance(form, dict):
        inside = [
            (value[key], wanted, key)
            for key, wanted in form.items()
            if key in value and not (value[key] is None and key in _MAYBE_NULL)
        ]
    for entry, wanted, called in inside:
        _follows(entry, wanted, called)


def _build(file: Path, described: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Calibrator:
    _follows(described, _FORM)
    solutions = [] if described["solution"] is None else [described["solution"]]
    for solution in solutions:
        _follows(solution, _SOLUTION, "solution")
        solutions += solution["parts"].values()
    if described["crossfit"] is not None and not described["crossfit"].keys() >= _FORM["crossfit"].keys():
        raise KeyError(f"crossfit: {shown(list(described['crossfit']))}")
    maps = []
    for r, type_name in enumerate(described["maps"]):
        mine = {name.split(".", 1)[1]: t for name, t in tensors.items() if name.split(".", 1)[0] == str(r)}
        maps.append(_map(file, type_name, described["method"], mine))
    return Calibrator(
        heads.from_json(described["head"]),
        described["kind"],
        maps,
        described["method"],
        solution=None if described["solution"] is None else Solution.from_json(described["solution"]),
        data=None if described["data"] is None else FitData.from_json(described["data"]),
        keep_decision=described["keep_decision"],
        crossfit=described["crossfit"],
        reference=described.get("reference"),
        resolution=Resolution(**described.get("resolution", {})),
        unit=described.get("unit", 1.0),
    )


def _map(file: Path, name: str, method: str, tensors: dict[str, torch.Tensor]) -> PartMap:
    """The map that a file calls `name`, such as "affine", or "affine > boundary" of two, one after the other."""
    first, then, second = name.partition(THEN)
    if then:
        both = [
            _map(file, one, method, {n.removeprefix(where): t for n, t in tensors.items() if n.startswith(where)})
            for one, where in ((first, "first."), (second, "second."))
        ]
        return Composed(*both)
    kind = kind_of_map(name)
    if kind is None:
        raise UnreadableError(
            str(file),
            found=f"a map of the kind {shown(name, 60)}, of the method {shown(method, 60)}",
            expected="a kind that a method known here has",
            do="Install the package it was fitted with, or register its method before loading.",
        )
    return kind.from_tensors(tensors)


def _not_ours(file: Path, found: str) -> UnreadableError:
    return UnreadableError(
        str(file),
        found=found,
        expected="a calibrator written by segcal (safetensors with its metadata)",
        do="Fit one with `segcal fit ... -o cal.safetensors`.",
    )


def contents(calibrator: Calibrator, path: Path) -> dict[str, Any]:
    """What there is to say of a calibrator that was loaded from `path`, as plain data: what `inspect --json` writes."""
    parameters: dict[str, Any] = {
        name: m.describe() for name, m in zip(calibrator.head.parts, calibrator.maps, strict=True)
    }
    return {
        "method": calibrator.method,
        "classes": list(calibrator.head.classes),
        "head": calibrator.head.to_json(),
        "kind": calibrator.kind,
        "pool": None if calibrator.data is None else calibrator.data.pool,
        "parameters": plain(parameters),
        "keeps_decision": calibrator.keep_decision,
        "guarantees": calibrator.guarantees().to_json(),
        "solution": None if calibrator.solution is None else plain(calibrator.solution.to_json()),
        "data": None if calibrator.data is None else calibrator.data.to_json(),
        "crossfit": calibrator.crossfit,
        "versions": metadata(path).get("versions", {}),
    }
