"""Running a study: fits, scores, tables and figures, each done once; and joining the parts of one that ran on several
machines.

`run` looks at what lies in its folder and does the rest: calibrators under fits/, sums of each case under scores/,
spreads under energy/, arrays for pictures under samples/, then results/, tables/ and figures/, which are made anew from
those. Everything is written whole or not at all, so a study may be killed at any moment and started again; its results
do not depend on how often, nor on the number of workers. `part` (i, n) does the repeats i, i + n, ...; `merge` joins
the parts. Another study in the folder: UsageError that names the first difference. Nothing of an earlier run is
removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segcal.data.files import journal
from segcal.data.files.reading import json_object, listed
from segcal.engine.checkpoints import Checkpoints
from segcal.engine.engine import Engine
from segcal.engine.progress import Progress
from segcal.errors import MissingError, UnreadableError, UsageError, extra
from segcal.methods.files import versions
from segcal.study import figures, fits, results
from segcal.study.configuration import Configuration
from segcal.study.corrupted import applied
from segcal.study.design import Design, design
from segcal.study.estimate import Estimate
from segcal.study.gathering import gather
from segcal.study.results import Finished
from segcal.study.samples import sample
from segcal.study.scoring import score
from segcal.study.tables.results import Results as Tabulated
from segcal.study.tables.writing import write as write_tables

with extra("study"):
    from pydantic import ValidationError

RECORD = "study.json"
KEPT = ("fits", "scores", "energy")
"""What parts have to be joined of."""

PLACES = (
    "results",
    "labels",
    "mask",
    "images",
    "copies",
    "groups",
    "replicates",
    "samples",
    "modality",
    "training_cases",
)
"""Entries in which the same study may differ."""


def run(
    configuration: Configuration | Design,
    folder: str | os.PathLike[str],
    engine: Engine,
    *,
    part: tuple[int, int] = (1, 1),
    expected: Estimate | None = None,
) -> Finished | None:
    """Do what is not done yet; the results, or None where `part` is one of several. With an `expected` time for this
    part, what is shown says how much of it is left, corrected by how long fits really took.

    Raises what `design` raises before any work, UsageError for another study in `folder`, a part there cannot be or
    memory that is too short for a fit, and what reading raises.
    """
    found = configuration if isinstance(configuration, Design) else design(configuration)
    mine = repeats_of(part, len(found.repeats))
    where = Path(folder)
    _record(found, where)
    left = fits.missing(found, where, mine)
    for piece in left:
        fits.room_for(found, piece, engine)
    begun = time.monotonic()
    engine.checkpoints = Checkpoints(where / "training")
    for number, piece in enumerate(left, 1):
        rest = "" if expected is None else expected.left([p.name for p in left], number - 1, time.monotonic() - begun)
        with _named(engine, f"fit {number} of {len(left)}{rest}, {piece.name}"):
            fits.fit(found, piece, where, engine)
    engine.checkpoints.clear()
    score(found, where, engine, mine)
    return finish(found, where, engine) if part[1] == 1 else None


def merge(parts: Sequence[str | os.PathLike[str]], folder: str | os.PathLike[str], engine: Engine) -> Finished:
    """Join the folders of all parts in `folder` (which may be one of them) and make the results.

    MissingError where a part has not ended.
    """
    where = Path(folder)
    told = [_told(Path(p)) for p in parts]
    for other, path in zip(told[1:], parts[1:], strict=True):
        _same(told[0], other, str(path))
    found = design(_at_hand([_configured(one, Path(part)) for one, part in zip(told, parts, strict=True)]))
    _record(found, where)
    for part in (Path(p) for p in parts):
        if part.resolve() == where.resolve():
            continue
        for kept in KEPT:
            for file in sorted((part / kept).rglob("*")):
                target = where / file.relative_to(part)
                if (
                    file.is_file()
                    and not target.is_file()
                    and not any(name.startswith(".") for name in file.relative_to(part).parts)
                ):
                    with journal.atomic(target) as temporary:
                        shutil.copyfile(file, temporary)
    rest = fits.missing(found, where, frozenset(found.repeats))
    if rest:
        raise MissingError(
            str(where),
            found=f"no calibrator of {rest[0].name}",
            expected="every part of the study",
            do="Run the parts that are missing, and merge again.",
        )
    return finish(found, where, engine)


@dataclass(frozen=True, eq=False)
class Named:
    """Progress that says what a step is part of."""

    progress: Progress
    whole: str

    def start(self, what: str, total: int) -> None:
        """With the name before it."""
        self.progress.start(f"{self.whole}: {what}", total)

    def step(self) -> None:
        """As it is."""
        self.progress.step()


@contextlib.contextmanager
def _named(engine: Engine, whole: str) -> Iterator[None]:
    """Inside, what the engine shows begins with a name."""
    before = engine.progress
    engine.progress = Named(before, whole)
    try:
        yield
    finally:
        engine.progress = before


def finish(found: Design, folder: Path, engine: Engine) -> Finished:
    """Make results, tables and figures from what is done."""
    progress = engine.progress
    progress.start("gathering numbers", len(found.cohorts) * len(found.repeats))
    tables = gather(found, folder, progress.step)
    progress.start("keeping samples", 1)
    tables["corruptions"] = results.table("corruptions", applied(found))
    tables["samples"] = results.table("samples", sample(found, folder, engine))
    results.write(folder / "results", tables)
    finished = Finished(folder, _told(folder), tables)
    progress.start("making tables", 1)
    write_tables([Tabulated.of(finished)], folder / "tables")
    progress.start("drawing figures", len(figures.FIGURES))
    drawn = figures.write(figures.Material.of(finished), folder / "figures", done=progress.step)
    return replace(finished, notes=tuple(f"{name} is left out: {why}" for name, why in drawn.absent.items()))


def repeats_of(part: tuple[int, int], repeats: int) -> frozenset[int]:
    """The repeats that a part does. UsageError for a part there cannot be."""
    i, n = part
    if not 1 <= i <= n <= repeats:
        raise UsageError(
            "part",
            found=f"{i}/{n} of a study with {repeats} repeats",
            expected=f"from 1/1 to {repeats}/{repeats}",
            do="A part does whole repeats: use at most that many.",
        )
    return frozenset(range(i - 1, repeats, n))


def _record(found: Design, folder: Path) -> None:
    """Write what the study is, or see that the folder holds the same."""
    described = json.loads(json.dumps(found.described()))
    if (folder / RECORD).is_file():
        _same(_told(folder), described, str(folder))
    elif folder.is_dir() and any(not p.name.startswith(".segcal-") for p in folder.iterdir()):
        raise UsageError(
            str(folder),
            found="a folder with other files",
            expected="a new folder, or one of this study",
            do="Choose another folder with -o.",
        )
    with journal.atomic(folder / RECORD) as temporary:
        temporary.write_text(json.dumps({**described, "versions": versions()}, indent=1), encoding="utf-8")


def _told(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    if not listed(path):
        raise MissingError(
            str(folder), found=f"no {RECORD}", expected="a folder written by segcal study", do="Check the path."
        )
    return json_object(path, "Choose another folder.")


def _same(there: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> None:
    """UsageError naming the first entry in which two studies differ: not where their files lie, nor how results are
    shown.
    """
    for key in ("configuration", *(k for k in wanted if k not in ("configuration", "versions"))):
        was, now = there.get(key), wanted.get(key)
        if key == "configuration":
            was, now = _complete(was), _complete(now)
        at = _difference(_essential(was), _essential(now), key)
        if at:
            raise UsageError(
                where,
                found=f"a study with another {at}",
                expected="the same study",
                do="Choose another folder with -o, or remove this one to begin anew.",
            )


def _complete(configuration: Any) -> Any:
    """With the defaults of entries that an earlier version did not have."""
    try:
        return Configuration.recorded(configuration).model_dump(mode="json")
    except ValidationError:
        return configuration


def _configured(told: Mapping[str, Any], part: Path) -> Configuration:
    """The configuration in the record of a part."""
    try:
        return Configuration.recorded(told.get("configuration"))
    except ValidationError as error:
        raise UnreadableError(
            str(part / RECORD),
            found="no configuration of a study",
            expected="the file that segcal study wrote",
            do="Run that part again in another folder.",
        ) from error


def _at_hand(configurations: Sequence[Configuration]) -> Configuration:
    """The first part's configuration whose files are on this machine: parts may have run on others. The first of all
    where none is, so that what is missing is named.
    """
    for one in configurations:
        if all(Path(folder).exists() for data in (one.data, *one.cohorts.values()) for folder in data.results):
            return one
    return configurations[0]


def _essential(value: Any) -> Any:
    """Without paths, which differ between machines, and what only results are made with."""
    if isinstance(value, Mapping):
        return {key: _essential(v) for key, v in value.items() if key not in PLACES}
    return value


def _difference(a: Any, b: Any, path: str) -> str:
    """Where two values first differ; empty where they do not."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return next(
            (d for k in [*a, *(k for k in b if k not in a)] if (d := _difference(a.get(k), b.get(k), f"{path}: {k}"))),
            "",
        )
    return "" if a == b else path
