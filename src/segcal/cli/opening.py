"""From options to things: a cohort from paths, groups from a word, an engine with its progress bars.

What a calibrator remembers stands in for options that were not given: pooling, class names, background and ignored
label. Nothing given, nothing remembered: the source decides. Raises what `open_cohort` and `segcal.splits` raise;
UsageError for words that cannot be read.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import EllipsisType

from segcal import splits
from segcal.calibrators import Calibrator
from segcal.cases import Cohort, Damaged
from segcal.cli.common import Labelled, Running, Scores, typed
from segcal.cli.console import STDOUT, bars
from segcal.engines import Engine, Threads
from segcal.errors import UsageError
from segcal.head import Softmax
from segcal.sinks import claims
from segcal.sinks.claims import Mark
from segcal.sources.discover import open_cohort

MOST = 1 << 60
"""Bytes of memory nobody has more of."""

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def cohort_of(
    results: Sequence[Path], scores: Scores, calibrator: Calibrator | None = None, damaged: Damaged = "refuse"
) -> Cohort:
    """The cohort that `results` and options describe; no voxel is read. `damaged` as in `open_cohort`, of the cases
    chosen.
    """
    labelled = scores if isinstance(scores, Labelled) else Labelled()
    remembered = None if calibrator is None or calibrator.data is None else calibrator.data.pool
    background: int | EllipsisType | None = (
        ... if labelled.background is None else None if labelled.background == "none" else labelled.background
    )
    cohort = open_cohort(
        list(results),
        labelled.labels,
        kind=scores.kind,
        pool=scores.pool or remembered or "probs",
        classes=scores.classes or None,
        background=background,
        ignore_index=labelled.ignore_index,
        mask=labelled.mask,
        zyx=scores.zyx,
        channel_axis=scores.channel_axis,
        images=scores.images,
        networks=scores.networks,
        damaged="exclude",
    )
    if calibrator is not None:
        cohort = _as_fitted(cohort, calibrator, labelled)
    if scores.cases:
        cohort = cohort.select(scores.cases)
    cohort = cohort if damaged == "exclude" else cohort.whole()
    return cohort if labelled.groups is None else splits.grouped(cohort, labelled.groups)


def claim(
    running: Running,
    outputs: Iterable[tuple[Path | None, Mark]] = (),
    inputs: Iterable[Path | None] = (),
    cohort: Cohort | None = None,
) -> None:
    """See, before any work, that the files a command writes (its JSON among them) may be written while `inputs` and
    the cases of `cohort` are read. Raises as `segcal.sinks.claims.claim`.
    """
    read = [path for path in inputs if path is not None]
    read += [path for case in cohort or () for path in case.paths]
    files = [(path, mark) for path, mark in outputs if path is not None]
    if running.json not in (None, STDOUT):
        files.append((Path(str(running.json)), claims.RESULT))
    claims.claim(files, read, overwrite=running.overwrite)


def grouped_as_fitted(cohort: Cohort, calibrator: Calibrator | None) -> tuple[Cohort, list[str]]:
    """Cases that nobody grouped, by the groups that the calibrator remembers; and what to say of it."""
    data = None if calibrator is None else calibrator.data
    if data is None or not data.grouping or any(case.group for case in cohort):
        return cohort, []
    word = data.grouping.removeprefix(splits.TABLE)
    if not splits.regroupable(data.grouping):
        return cohort, [f"the calibrator was fitted in groups by {word}; give --groups to group these cases alike"]
    try:
        return splits.grouped(cohort, data.grouping), [f"groups by {typed('--groups', word)}, as in the fit"]
    except UsageError as error:
        return cohort, [f"the groups of the fit, by {typed('--groups', word)}, do not fit here: {error.found}"]


@contextlib.contextmanager
def engine_of(running: Running) -> Iterator[Engine]:
    """The engine that options describe, with bars on a terminal while the block lasts."""
    memory = memory_of(running.max_memory)
    with bars(running.quiet) as progress:
        yield Threads(running.workers, memory, progress)


def memory_of(text: str) -> int:
    """Bytes: '4GB', '512MiB', '0.5g' or a bare number; units are powers of 1024."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:I?B)?\s*", text.upper())
    if found is None:
        raise UsageError(
            "--max-memory", found=repr(text), expected="a size such as 512MB or 4GB", do="Give a number with a unit."
        )
    size = float(found.group(1)) * _UNITS[found.group(2)]
    if size > MOST:
        raise UsageError(
            "--max-memory",
            found=text[:40],
            expected=f"at most {MOST >> 40} TB",
            do="Give what this machine has room for.",
        )
    return int(size)


def _as_fitted(cohort: Cohort, calibrator: Calibrator, labelled: Labelled) -> Cohort:
    """A plain folder does not name its classes, background and ignored label; the calibrator does."""
    now, was = cohort.head, calibrator.head
    if not (isinstance(now, Softmax) and isinstance(was, Softmax)) or now.channels != was.channels:
        return cohort
    unnamed = now.classes == tuple(str(k) for k in range(now.channels))
    if not unnamed and now.classes != was.classes:
        return cohort
    background = was.background if labelled.background is None and now.background is None else now.background
    return replace(cohort, head=Softmax(was.classes, background, was.ignore if now.ignore is None else now.ignore))
