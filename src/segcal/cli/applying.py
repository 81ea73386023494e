"""What `segcal apply` does around `segcal.apply`: notices existing outputs before any work, goes on where an earlier
run stopped, and tells what was written.

Promises: an output folder holds files of one calibrator and one choice of maps, unless the user overwrites; what is
read is never overwritten, nor mixed with outputs. Nothing left to do: nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segcal import application, journal
from segcal.calibrators import Calibrator
from segcal.calibrators.files import digest, versions
from segcal.cases import Cohort, found_note
from segcal.cli.common import PARTLY
from segcal.cli.console import Output, failures
from segcal.engines import Engine, Outcome, damaged
from segcal.errors import OutputError, UsageError
from segcal.matching import check_match, level
from segcal.sinks import Sink, claims
from segcal.sinks.formats import sink_for
from segcal.sinks.ledger import Ledger
from segcal.sinks.placing import check_targets

REPLACEABLE = (".npz", ".pkl", ".zarr")
"""Endings of outputs that no folder of label maps or images has."""
COUNTS = ("voxels", "padding", "flips", "decisions", "delivered_differs")


@dataclass(frozen=True, eq=False)
class Done:
    """Outcomes of the cases of a run; `skipped`: cases that were finished before; `anew`: how many of the others had
    files of an earlier run that do not count any more.
    """

    outcomes: Sequence[Outcome]
    skipped: Sequence[str]
    anew: int
    job: Job

    @property
    def failed(self) -> list[Outcome]:
        """Cases that were not written."""
        return [o for o in self.outcomes if o.error is not None]

    @property
    def exit_code(self) -> int:
        """0 if every case is written, 4 if some are, else that of the first error."""
        first = next((o.error for o in self.outcomes if o.error is not None), None)
        if first is None:
            return 0
        return PARTLY if self.skipped or len(self.failed) < len(self.outcomes) else first.exit_code

    @property
    def counts(self) -> dict[str, int]:
        """Voxels of the cases written."""
        return {name: sum(int(o.summary[name]) for o in self.outcomes if o.summary is not None) for name in COUNTS}

    @property
    def notes(self) -> list[str]:
        """What a reader of the outputs must know."""
        return [*self.job.warnings, *found_note(self.job.cohort)]

    def show(self, out: Output) -> None:
        """What was written on stdout, what failed on stderr."""
        n, counts = len(self.outcomes) - len(self.failed), self.counts
        if self.skipped:
            out.text(f"{len(self.skipped)} case(s) were finished before and left alone")
        if self.anew:
            out.text(
                f"{self.anew} case(s) were done again: what they are read from, or what was written, is not as it was"
            )
        if n:
            out.text(
                f"{n} case(s) written to {self.job.ledger.folder}: {counts['voxels']:,} voxels, of which"
                f" {counts['padding']:,} padding, passed through unchanged"
            )
            out.text(f"labels that calibration flipped: {_share(counts['flips'], counts['decisions'], 'scored ')}")
        if self.job.with_delivered and n:
            out.text(
                "the delivered label map differs from the arg max of its scores (post-processing):"
                f" {_share(counts['delivered_differs'], counts['voxels'])}"
            )
        for warning in self.notes:
            out.text(f"note: {warning}", "yellow")
        failures(
            {o.id: o.error for o in self.outcomes if o.error is not None},
            len(self.outcomes),
            "not written; the written ones are complete. Repair these and run again with --resume.",
        )

    def to_json(self) -> dict[str, Any]:
        """What `apply --json` writes."""
        cases = [
            {"case": o.id, **(o.summary or {}), "error": None if o.error is None else str(o.error)}
            for o in self.outcomes
        ]
        return {
            "written": len(self.outcomes) - len(self.failed),
            "failed": len(self.failed),
            "skipped": list(self.skipped),
            **self.counts,
            "cases": cases,
            "notes": self.notes,
        }


@dataclass(frozen=True, eq=False)
class Job:
    """One run, checked and ready; `going_on`: where an earlier one stopped."""

    calibrator: Calibrator
    cohort: Cohort
    sink: Sink
    maps: tuple[str, ...]
    ledger: Ledger
    going_on: bool
    warnings: tuple[str, ...]

    @property
    def with_delivered(self) -> bool:
        """Whether any case comes with a delivered label map that can be compared."""
        return any("delivered" in case.fields for case in self.cohort)

    def run(self, engine: Engine) -> Done:
        """Write what is left to write."""
        skipped = application.finished(self.cohort, self.sink, engine, self.ledger) if self.going_on else ()
        left = tuple(case for case in self.cohort if case.id not in set(skipped))
        anew = sum(any(path.exists() for path in self.sink.outputs(case)) for case in left) if self.going_on else 0
        if not left:
            # an earlier run may have been stopped after its last case
            self.sink.finish(self.cohort)
            return Done(damaged(self.cohort), skipped, 0, self)
        self.ledger.begin([case.id for case in left])
        outcomes = application.apply(
            self.calibrator,
            replace(self.cohort, cases=left),
            self.sink,
            engine,
            maps=self.maps,
            go_on=True,
            ledger=self.ledger,
        )
        return Done(outcomes, skipped, anew, self)


def prepare(
    path: Path,
    calibrator: Calibrator,
    cohort: Cohort,
    folder: Path,
    maps: str,
    format: str | None,
    *,
    inputs: Sequence[Path],
    overwrite: bool,
    resume: bool,
    go_on: bool,
    zyx: bool = False,
) -> Job:
    """Check everything that can be checked without reading scores. `inputs`: folders that are read from; `path`: the
    calibrator, which may lie in the folder of the outputs; `zyx`: as the cohort was opened.

    Raises MismatchError, UsageError, OutputError.
    """
    if overwrite and resume:
        raise UsageError(
            "--overwrite, --resume",
            found="both",
            expected="one of them",
            do="--resume keeps finished cases, --overwrite replaces them.",
        )
    wanted = tuple(name.strip() for name in maps.split(",") if name.strip())
    unknown = [name for name in wanted if name not in application.MAPS]
    if unknown:
        raise UsageError(
            "--maps",
            found=repr(unknown[0]),
            expected="some of " + ", ".join(application.MAPS),
            do="Separate several with commas.",
        )
    warnings = check_match(calibrator, cohort, go_on=go_on) + level(calibrator, cohort)[2]
    sink = sink_for(cohort, folder, wanted, format, zyx=zyx)
    read = [*inputs, *(file for case in cohort for file in case.paths)]
    claims.claim_folder(folder, read)
    entries = {
        "calibrator": digest(calibrator),
        "maps": list(wanted),
        "format": type(sink).__name__,
        "kind": cohort.kind,
        "pool": cohort.pool,
        "zyx": zyx,
        "method": calibrator.method,
        "scores": cohort.name,
        "members": cohort.members,
        "versions": versions(),
    }
    ledger = Ledger(folder, entries)
    _check_targets(cohort, sink, ledger, journal.identities([path, *read]), overwrite=overwrite, resume=resume)
    return Job(calibrator, cohort, sink, wanted, ledger, resume and ledger.path.exists(), tuple(warnings))


def _check_targets(
    cohort: Cohort, sink: Sink, ledger: Ledger, read: set[journal.Identity], *, overwrite: bool, resume: bool
) -> None:
    """See that every file of the run may be written."""
    targets = [path for case in cohort for path in sink.outputs(case)]
    for case in cohort:
        check_targets(case, sink.outputs(case))
    for path in (*targets, ledger.path, *sink.shared(cohort)):
        journal.placeable(path)
        if journal.identity(path) in read:
            raise claims.refusal(path)
    for folder in {path.parent for path in targets}:
        claims.writable(folder)
    ours = ledger.is_ours()
    foreign = [] if ours else _foreign(cohort, ledger.folder, targets)
    if foreign:
        raise UsageError(
            str(foreign[0]),
            found="a file of one of these cases, in a folder that segcal did not write",
            expected="a folder of its own for the output",
            do="Choose another folder: outputs are not mixed with label maps, images or other predictions.",
        )
    there = [path for path in targets if path.exists()]
    if not ours:
        there += [path for path in (ledger.path, *sink.shared(cohort)) if path.exists()]
    if resume and there and (ours or any(path in targets for path in there)):
        ledger.resumable()
    elif there and not overwrite:
        found = (
            f"a file that is there already (and {len(there) - 1} more)"
            if len(there) > 1
            else "a file that is there already"
        )
        raise OutputError(
            str(there[0]),
            found=found,
            expected="a folder without outputs of these cases",
            do="Use --resume to go on with an earlier run, --overwrite to replace, or another folder."
            if ours
            else "Choose another folder, or use --overwrite to replace.",
        )


def _foreign(cohort: Cohort, folder: Path, targets: Sequence[Path]) -> list[Path]:
    """Files named after a case, and not after its probabilities: a label map, an image, somebody's notes."""
    if not folder.is_dir():
        return []
    names, mine = {case.id for case in cohort}, set(targets)
    found = []
    for path in sorted(folder.iterdir()):
        stems = (path.name[:k] for k, letter in enumerate(path.name) if letter == ".")
        replaceable = path in mine and path.suffix in REPLACEABLE
        if not replaceable and any(stem in names for stem in stems):
            found.append(path)
    return found


def _share(n: int, total: int, which: str = "") -> str:
    return f"{n:,} of {total:,} {which}voxels" + (f" ({100 * n / total:.2g} %)" if n and total else "")
