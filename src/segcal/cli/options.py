"""Options that commands share, as dataclasses: the text under a field is its help; and what they open: a cohort from
paths, an engine with its progress bars, outputs that may be written.

What a calibrator remembers stands in for options that were not given: pooling, class names, background and ignored
label. Nothing given, nothing remembered: the source decides. Raises what `open_cohort` and `segcal.data.splits` raise;
UsageError for words that cannot be read. What is opened is imported when it is, so that help costs no import of torch.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import EllipsisType
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter, validators

from segcal.cli.console import STDOUT, Output, bars
from segcal.data.files import claims, reading
from segcal.data.files.claims import Mark
from segcal.errors import UsageError, extra

if TYPE_CHECKING:
    from segcal.data.cohort import Cohort, Damaged
    from segcal.engine.engine import Engine
    from segcal.methods.calibrator import Calibrator
    from segcal.tasks.check.finding import Finding

PARTLY = 4
"""Exit code of a command that did its work for some cases and not for others."""

SCORES = Group("Scores", sort_key=1)
LABELS = Group("Labels", sort_key=2)
RUNNING = Group("Running", sort_key=3)

GROUPS = (
    "Which cases belong together (a patient, a sequence) and are never split between fit and test: a table (.csv or"
    " .tsv with the columns case and group); 'consecutive:20' for runs of 20 neighbouring names; 'source' for what the"
    " files say; or else a regular expression on the names, such as 'subject_(\\d+)'."
)

LABEL_MAP = (
    "What labels are read as, OLD:NEW, where label maps do not number the classes as the channels do, from 0: 255:1 for"
    " masks of 0 and 255; 4:3 for BraTS labels 0, 1, 2, 4; 1:0 2:1 for labels counted from 1. Two labels may become one"
    " class; OLD:ignore leaves one out. Others keep their number. Not remembered by calibrators."
)

Seed = Annotated[int, Parameter(validator=validators.Number(gte=0, lt=2**63))]
"""Which random numbers are drawn."""

Figures = Annotated[
    Path | None,
    Parameter(
        help="Folder for two pictures: reliability.png, confidence against what was right, for all voxels, for the"
        " predicted foreground and at its boundary; and worst_cases.png, a slice of the cases with the worst"
        " probabilities: labels, prediction and probability of an error, before and after; with --images over the"
        " image."
    ),
]
"""Where pictures of what was measured go."""

Report = Annotated[
    Path | None,
    Parameter(
        help="One page of it all, an HTML file that needs nothing else: the answer in a sentence or two, the numbers,"
        " and, of labelled cases, reliability and slices of the worst."
    ),
]
"""Where a page of what was found goes."""

Kind = Literal["logits", "log_probs", "probs", "scores"]
"""`segcal.data.scores.Kind`, which would bring torch."""

Several = Parameter(consume_multiple=True, negative="", show_default=False)


@Parameter(name="*", group=SCORES)
@dataclass(frozen=True)
class Scores:
    """What the files of scores do not say themselves."""

    kind: Kind | None = None
    """What the network's outputs are, where the files do not say or say something else (nnU-Net's are probabilities;
    the key of an npz declares it): probabilities, their logarithms, logits (raw, before they become probabilities), or
    positive scores that need not sum to 1. Never guessed."""

    pool: Literal["probs", "logits"] | None = None
    """How members of an ensemble are averaged: their probabilities or their logits. Default: as the calibrator
    was fitted, else probs."""

    cases: Annotated[tuple[str, ...], Several] = ()
    """Only the cases with these names; shell patterns such as 'patient_0*' are allowed."""

    exclude: Annotated[tuple[str, ...], Several] = ()
    """Leave out the cases with these names, or patterns."""

    classes: Annotated[tuple[str, ...], Several] = ()
    """Names of the classes, in the order of the channels, where no dataset.json names them; with spaces between them,
    or with commas."""

    zyx: Annotated[bool, Parameter(show_default=False)] = False
    """Arrays of a plain folder have their axes as SimpleITK gives them, (z, y, x), against NIfTI's (x, y, z)."""

    channel_axis: Annotated[int, Parameter(show_default=False)] = 0
    """The class axis of arrays in a plain folder; the first unless given."""

    networks: Annotated[int | None, Parameter(show_default=False)] = None
    """How many networks each folder's probabilities average, where nnU-Net does not record it (2.2 and later):
    5 for the mean of five folds, 1 for one fold. A calibrator is bound to the number."""

    geometry: Literal["strict", "nnunet", "ignore"] = "strict"
    """What to do where label map and prediction lie at different places in the files' millimetres: strict refuses the
    case, nnunet goes on with a warning if the voxels are as large, ignore does not compare. The shape always counts."""

    images: Path | None = None
    """Folder of the images that were segmented, named as the cases (CASE.png, CASE.nii.gz, CASE_0000.nii.gz,
    ...), for calibrators that look at them: lts-image, susceptibility."""

    copies: Path | None = None
    """Folder that segcal copies wrote, for the calibrator that looks at it: susceptibility."""

    def read(self) -> list[Path]:
        """Folders that the options name."""
        return [p for p in (self.images, self.copies) if p is not None]


@dataclass(frozen=True)
class Labelled(Scores):
    """Scores with labels."""

    labels: Annotated[Path | None, Parameter(group=LABELS)] = None
    """Folder of label maps, one a case and named as it. An nnU-Net results folder brings its own."""

    groups: Annotated[str | None, Parameter(group=LABELS, help=GROUPS)] = None

    mask: Annotated[Path | None, Parameter(group=LABELS)] = None
    """Folder of masks, one a case; only voxels where the mask is not 0 are scored."""

    ignore_index: Annotated[tuple[int, ...], Parameter(group=LABELS, negative="")] = ()
    """Label that marks voxels without a label, never scored; several, as in --ignore-index 254 255."""

    label_map: Annotated[tuple[str, ...], Parameter(group=LABELS, negative="", help=LABEL_MAP)] = ()

    background: Annotated[int | Literal["none"] | None, Parameter(group=LABELS)] = None
    """Index of the class left out of Dice and IoU, or 'none'. Default: as dataset.json or the calibrator says,
    else none."""

    def read(self) -> list[Path]:
        """Files and folders that the options name."""
        return [*super().read(), *(p for p in (self.labels, self.mask, _path(self.groups)) if p is not None)]

    def words(self) -> list[str]:
        """The options that were given, to be typed again."""
        out: list[str] = []
        for name, value in (
            ("labels", self.labels),
            ("kind", self.kind),
            ("pool", self.pool),
            ("groups", self.groups),
            ("mask", self.mask),
            ("networks", self.networks),
            ("images", self.images),
            ("copies", self.copies),
            ("geometry", None if self.geometry == "strict" else self.geometry),
        ):
            out += [] if value is None else _option(name, str(value))
        out += ["--ignore-index", *map(str, self.ignore_index)] if self.ignore_index else []
        out += ["--label-map", *self.label_map] if self.label_map else []
        out += [] if self.background is None else ["--background", str(self.background)]
        out += ["--zyx"] if self.zyx else []
        out += [] if self.channel_axis == 0 else ["--channel-axis", str(self.channel_axis)]
        for name, values in (("cases", self.cases), ("exclude", self.exclude), ("classes", self.classes)):
            out += [f"--{name}", *values] if values else []
        return out

    def advised(self, found: Sequence[Finding]) -> Labelled:
        """The options that were given, with those that findings advise in their place."""
        return replace(self, **{name: value for finding in found for name, value in finding.options.items()})

    def elsewhere(self, *, labelled: bool) -> list[str]:
        """The options with which other cases of the same kind are read, beside a calibrator that remembers the rest."""
        kept = Labelled(
            kind=self.kind,
            networks=self.networks,
            zyx=self.zyx,
            channel_axis=self.channel_axis,
            geometry=self.geometry,
        )
        kept = kept if self.images is None else replace(kept, images=Path("IMAGES"))
        kept = kept if self.copies is None else replace(kept, copies=Path("COPIES"))
        if labelled:
            kept = replace(kept, groups=self.groups, mask=None if self.mask is None else Path("MASKS"))
            # one ignored label is remembered; how label maps are numbered is a matter of files
            several = self.ignore_index if len(self.ignore_index) > 1 else ()
            kept = replace(kept, label_map=self.label_map, ignore_index=several)
        return kept.words()


def _option(name: str, value: str) -> list[str]:
    """An option as it is typed; one that begins with a dash would be taken for another."""
    return [f"--{name}={value}"] if value.startswith("-") else [f"--{name}", value]


@Parameter(name="*", group=RUNNING)
@dataclass(frozen=True)
class Running:
    """How a command runs; no number depends on it."""

    workers: Annotated[int | None, Parameter(show_default=False)] = None
    """Threads that work at once; every core unless given."""

    max_memory: str = "4GB"
    """Memory to work in beside the program itself, such as 512MB or 8GB (powers of 1024); at least 256MB. A command
    that needs more says how much before it reads, and auto leaves out the methods that do."""

    scheduler: Annotated[str | None, Parameter(show_default=False)] = None
    """Work on a Dask cluster: the address of its scheduler (tcp://host:8786), or the .json file it wrote. Fits and
    evaluations read and sum on its workers, which must find the files under the same paths; what writes, and training
    by epochs, stays on this machine. Needs "segcal[hpc]"."""

    json: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """Also write the result as JSON to this file; '-', or no file, for standard output, which then holds nothing
    else."""

    overwrite: Annotated[bool, Parameter(show_default=False)] = False
    """Replace files that are there already, whoever wrote them. Without it only an earlier output of the same kind is
    replaced; what is read is never overwritten."""

    quiet: Annotated[bool, Parameter(show_default=False)] = False
    """Print errors only."""

    debug: Annotated[bool, Parameter(show_default=False)] = False
    """Show the traceback of an error."""


def _path(groups: str | None) -> Path | None:
    """The table of groups, if it is one."""
    return None if groups is None or not groups.lower().endswith((".csv", ".tsv")) else Path(groups)


SCORES_AS_THEY_ARE = Scores()
LABELLED_AS_THEY_ARE = Labelled()
AS_USUAL = Running()


def typed(*words: str | Path | Sequence[str | Path]) -> str:
    """A command as a user types it, quoted where that is needed."""
    flat = [w for word in words for w in ([word] if isinstance(word, str | Path) else word)]
    return shlex.join(str(w) for w in flat)


MOST = 1 << 60
"""Bytes of memory nobody has more of."""

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def all_there(
    running: Running, results: Sequence[Path] = (), scores: Scores = SCORES_AS_THEY_ARE, calibrator: Path | None = None
) -> None:
    """What is said of paths that are not there (MissingError) and of options that cannot be read (UsageError), before
    the seconds that importing torch takes.
    """
    memory_of(running.max_memory)
    maps = (scores.labels, scores.mask) if isinstance(scores, Labelled) else ()
    for path, expected in [*((p, "predictions") for p in results), *((p, "a folder of maps") for p in maps)]:
        if path is not None:
            reading.check_there(path, expected)
    if calibrator is not None:
        reading.check_there(
            calibrator, "a calibrator written by segcal", "Fit one with `segcal fit ... -o cal.safetensors`."
        )


def cohort_of(
    results: Sequence[Path], scores: Scores, calibrator: Calibrator | None = None, damaged: Damaged = "refuse"
) -> Cohort:
    """The cohort that `results` and options describe; no voxel is read. `damaged` as in `open_cohort`, of the cases
    chosen.
    """
    from segcal.data import splits
    from segcal.data.formats.discover import open_cohort

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
        classes=_names(scores.classes) or None,
        background=background,
        ignore_index=labelled.ignore_index,
        label_map=numbers_of(labelled.label_map),
        mask=labelled.mask,
        zyx=scores.zyx,
        channel_axis=scores.channel_axis,
        images=scores.images,
        networks=scores.networks,
        geometry=scores.geometry,
        copies=scores.copies,
        damaged="exclude",
    )
    if calibrator is not None:  # a plain folder does not name its classes, background and ignored label
        cohort = replace(cohort, head=cohort.head.completed(calibrator.head, background=labelled.background is None))
    if scores.cases:
        cohort = cohort.select(scores.cases)
    if scores.exclude:
        cohort = cohort.exclude(scores.exclude)
    cohort = cohort if damaged == "exclude" else cohort.whole()
    return cohort if labelled.groups is None else splits.grouped(cohort, labelled.groups)


def _names(words: Sequence[str]) -> Sequence[str]:
    """Names as they were meant: one word with commas is several."""
    return [name.strip() for name in words[0].split(",")] if len(words) == 1 else words


def numbers_of(words: Sequence[str]) -> dict[int, int | None]:
    """What `--label-map` says: numbers of classes by labels, None for one that is left out. UsageError for words that
    are no OLD:NEW, or name a label twice.
    """
    out: dict[int, int | None] = {}
    for word in (part for text in words for part in text.split(",")):
        found = re.fullmatch(r"(-?\d{1,19}):(?:(-?\d{1,19})|ignore)", word)
        old, new = (None, None) if found is None else (int(found[1]), None if found[2] is None else int(found[2]))
        if old is None or out.get(old, new) != new:
            raise UsageError(
                "--label-map",
                found=repr(word),
                expected="OLD:NEW or OLD:ignore in numbers, each label once",
                do="For example --label-map 255:1 for masks of 0 and 255.",
            )
        out[old] = new
    return out


def claim(
    running: Running,
    outputs: Iterable[tuple[Path | None, Mark]] = (),
    inputs: Iterable[Path | None] = (),
    cohort: Cohort | None = None,
) -> None:
    """See, before any work, that the files a command writes (its JSON among them) may be written while `inputs` and
    the cases of `cohort` are read. Raises as `segcal.data.files.claims.claim`.
    """
    read = [path for path in inputs if path is not None]
    read += [path for case in cohort or () for path in case.paths]
    files = [(path, mark) for path, mark in outputs if path is not None]
    if running.json not in (None, STDOUT):
        files.append((Path(str(running.json)), claims.RESULT))
    claims.claim(files, read, overwrite=running.overwrite)


@contextlib.contextmanager
def engine_of(running: Running) -> Iterator[Engine]:
    """The engine that options describe, with bars on a terminal while the block lasts."""
    from segcal.engine.threads import Threads

    memory = memory_of(running.max_memory)
    if running.scheduler is None:
        with bars(running.quiet) as progress:
            yield Threads(running.workers, memory, progress)
        return
    with extra("hpc"):
        from segcal.engine.dask import Dask, connected
    with connected(running.scheduler) as client, bars(running.quiet) as progress:
        yield Dask(client, memory, progress)


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


def warn(out: Output, cohort: Cohort, running: Running) -> tuple[Finding, ...]:
    """Say what every command that reads these cases must say, and return it."""
    from segcal.tasks import check as checking

    with engine_of(running) as engine:
        found = checking.traps(cohort, engine)
    out.findings(found)
    return found
