"""What `segcal apply` does around `segcal.apply`: notices existing outputs before any work, goes on where an earlier
run stopped, and tells what was written.

Promises: an output folder holds files of one calibrator and one choice of maps, unless the user overwrites; inputs are
never overwritten. Nothing left to do: nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segcal import application, journal
from segcal.calibrators import Calibrator
from segcal.calibrators.files import versions
from segcal.cases import Cohort, found_note
from segcal.cli.console import Output, error
from segcal.cli.receipt import Receipt
from segcal.engines import Engine, Outcome
from segcal.errors import OutputError, UsageError
from segcal.matching import check_match
from segcal.sinks import Sink
from segcal.sinks.formats import sink_for
from segcal.sinks.placing import check_targets

PARTLY = 4
COUNTS = ("voxels", "padding", "flips", "delivered_differs")


@dataclass(frozen=True, eq=False)
class Done:
    """Outcomes of the cases of a run; `skipped`: cases that were finished before."""

    outcomes: Sequence[Outcome]
    skipped: Sequence[str]
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
        if n:
            out.text(
                f"{n} case(s) written to {self.job.receipt.folder}: {counts['voxels']:,} voxels, of which"
                f" {counts['padding']:,} padding, passed through unchanged"
            )
            out.text(f"labels that calibration flipped: {_share(counts['flips'], counts['voxels'])}")
        if self.job.with_delivered and n:
            out.text(
                "the delivered label map differs from the arg max of its scores (post-processing):"
                f" {_share(counts['delivered_differs'], counts['voxels'])}"
            )
        for warning in self.notes:
            out.text(f"note: {warning}", "yellow")
        for outcome in self.failed:
            error(f"case {outcome.id}: {outcome.error}")
        if self.failed:
            error(
                f"{len(self.failed)} of {len(self.outcomes)} case(s) not written; the written ones are complete. Repair"
                " these and run again with --resume."
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
    """One run, checked and ready."""

    calibrator: Calibrator
    cohort: Cohort
    sink: Sink
    maps: tuple[str, ...]
    receipt: Receipt
    skipped: tuple[str, ...]
    fresh: bool
    warnings: tuple[str, ...]

    @property
    def with_delivered(self) -> bool:
        """Whether any case comes with a delivered label map that can be compared."""
        return any("delivered" in case.fields for case in self.cohort)

    def run(self, engine: Engine) -> Done:
        """Write what is left to write."""
        left = tuple(case for case in self.cohort if case.id not in set(self.skipped))
        if not left:
            # an earlier run may have been stopped after its last case
            self.sink.finish(self.cohort)
            return Done((), self.skipped, self)
        if self.fresh:
            self.receipt.write()
        outcomes = application.apply(
            self.calibrator, replace(self.cohort, cases=left), self.sink, engine, maps=self.maps, go_on=True
        )
        return Done(outcomes, self.skipped, self)


def prepare(
    path: Path,
    calibrator: Calibrator,
    cohort: Cohort,
    folder: Path,
    maps: str,
    format: str | None,
    *,
    overwrite: bool,
    resume: bool,
    go_on: bool,
) -> Job:
    """Check everything that can be checked without reading scores. Raises MismatchError, UsageError, OutputError."""
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
    warnings = check_match(calibrator, cohort, go_on=go_on)
    sink = sink_for(cohort, folder, wanted, format)
    targets = {case.id: sink.outputs(case) for case in cohort}
    for case in cohort:
        check_targets(case, targets[case.id])
    entries = {
        "calibrator": journal.digest(path.read_bytes()),
        "maps": list(wanted),
        "format": type(sink).__name__,
        "file": path.name,
        "method": calibrator.method,
        "scores": cohort.name,
        "members": cohort.members,
        "pool": cohort.pool,
        "versions": versions(),
    }
    receipt = Receipt(folder, entries)
    there = [target for listed in targets.values() for target in listed if target.exists()]
    if there and not (overwrite or resume):
        found = (
            f"a file that is there already (and {len(there) - 1} more)"
            if len(there) > 1
            else "a file that is there already"
        )
        raise OutputError(
            str(there[0]),
            found=found,
            expected="a folder without outputs of these cases",
            do="Use --resume to go on with an earlier run, --overwrite to replace, or another folder.",
        )
    if there and resume:
        receipt.resumable()
    going_on = bool(there) and resume
    skipped = tuple(case.id for case in cohort if receipt.finished(sink, case)) if going_on else ()
    return Job(calibrator, cohort, sink, wanted, receipt, skipped, not going_on, tuple(warnings))


def _share(n: int, total: int) -> str:
    return f"{n:,} of {total:,} voxels" + (f" ({100 * n / total:.2g} %)" if n and total else "")
