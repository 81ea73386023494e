"""Options that commands share, as dataclasses: the text under a field is its help.

Nothing is opened here; `segcal.cli.opening` turns these into a cohort and an engine.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter, validators

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

Seed = Annotated[int, Parameter(validator=validators.Number(gte=0, lt=2**63))]
"""Which random numbers are drawn."""

Several = Parameter(consume_multiple=True, negative="")


@Parameter(name="*", group=SCORES)
@dataclass(frozen=True)
class Scores:
    """What the files of scores do not say themselves."""

    kind: Literal["logits", "log_probs", "probs", "scores"] | None = None
    """What the scores are, where the files do not say or say something else (nnU-Net's are probabilities; the key of
    an npz declares it). 'scores' are positive and need not sum to 1. Never guessed."""

    pool: Literal["probs", "logits"] | None = None
    """How members of an ensemble are averaged: their probabilities or their logits. Default: as the calibrator
    was fitted, else probs."""

    cases: Annotated[tuple[str, ...], Several] = ()
    """Only the cases with these names; shell patterns such as 'patient_0*' are allowed."""

    classes: Annotated[tuple[str, ...], Several] = ()
    """Names of the classes, in the order of the channels, where no dataset.json names them."""

    zyx: Annotated[bool, Parameter(show_default=False)] = False
    """Arrays of a plain folder have their axes as SimpleITK gives them, (z, y, x), against NIfTI's (x, y, z)."""

    channel_axis: Annotated[int, Parameter(show_default=False)] = 0
    """The class axis of arrays in a plain folder; the first unless given."""

    networks: Annotated[int | None, Parameter(show_default=False)] = None
    """How many networks each folder's probabilities average, where nnU-Net does not record it (2.2 and later):
    5 for the mean of five folds, 1 for one fold. A calibrator is bound to the number."""

    images: Path | None = None
    """Folder of the images that were segmented, named as the cases (CASE.png, CASE.nii.gz, CASE_0000.nii.gz,
    ...), for calibrators that look at them: lts-image."""

    def read(self) -> list[Path]:
        """Folders that the options name."""
        return [p for p in (self.images,) if p is not None]


@dataclass(frozen=True)
class Labelled(Scores):
    """Scores with labels."""

    labels: Annotated[Path | None, Parameter(group=LABELS)] = None
    """Folder of label maps, one a case and named as it. An nnU-Net results folder brings its own."""

    groups: Annotated[str | None, Parameter(group=LABELS, help=GROUPS)] = None

    mask: Annotated[Path | None, Parameter(group=LABELS)] = None
    """Folder of masks, one a case; only voxels where the mask is not 0 are scored."""

    ignore_index: Annotated[int | None, Parameter(group=LABELS)] = None
    """Label that marks voxels without a label, never scored."""

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
            ("ignore-index", self.ignore_index),
            ("networks", self.networks),
            ("images", self.images),
        ):
            out += [] if value is None else _option(name, str(value))
        out += [] if self.background is None else ["--background", str(self.background)]
        out += ["--zyx"] if self.zyx else []
        out += [] if self.channel_axis == 0 else ["--channel-axis", str(self.channel_axis)]
        for name, values in (("cases", self.cases), ("classes", self.classes)):
            out += [f"--{name}", *values] if values else []
        return out

    def elsewhere(self, *, labelled: bool) -> list[str]:
        """The options with which other cases of the same kind are read, beside a calibrator that remembers the rest."""
        kept = Labelled(kind=self.kind, networks=self.networks, zyx=self.zyx, channel_axis=self.channel_axis)
        kept = kept if self.images is None else replace(kept, images=Path("IMAGES"))
        if labelled:
            kept = replace(kept, groups=self.groups, mask=None if self.mask is None else Path("MASKS"))
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
