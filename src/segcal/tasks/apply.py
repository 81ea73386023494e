"""Applying a calibrator to a cohort, case by case, block by block, into a sink; and doing so in a folder of outputs,
where an earlier run may have stopped.

Padding passes through unchanged; every other voxel gets calibrated probabilities with each promised label kept. Maps on
request:

    entropy      nats, of the calibrated distribution; for regions the largest of theirs
    confidence   probability of the decided label; for regions the smallest of theirs
    error        probability that the *delivered* label map is wrong there; for regions the largest of theirs, a lower
                 bound
    probability  one map a class

Told on request of the cases (`Asked`): triage.csv, the list of those to look at first; volumes.csv, with intervals
(`segcal.outcomes.triage`); and outer masks, a map a structure that is 1 where it may be (`segcal.tasks.telling`). Cases
that earlier runs finished are told of, too: their sums are in the note of the folder.

What a case reports: voxels, padding, flips, and how often the delivered label map differs from the arg max of its own
scores (post-processing). A case without a delivered map uses the arg max.

A folder of outputs holds files of one calibrator and one choice of maps, unless the user overwrites; what is read is
never overwritten, nor mixed with outputs (`prepare`). A run that goes on (`Job.run`) leaves alone what is finished, by
digests of what is read and of what was written. Nothing left to do: nothing is written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segcal.data.case import PADDING, SCORED, Case, Window
from segcal.data.cohort import Cohort
from segcal.data.files import claims, journal
from segcal.data.files.journal import Scratch
from segcal.data.files.ledger import Ledger, read_digest
from segcal.data.formats.nnunet import POSTPROCESSING
from segcal.data.formats.placing import check_targets
from segcal.data.formats.registry import sink_for
from segcal.data.formats.sink import Delivered, Sink, Writer
from segcal.data.head import Head
from segcal.data.padding import found_note
from segcal.data.reader import CaseReader
from segcal.data.rows import Block
from segcal.data.scores import Resolution
from segcal.data.surroundings import Contexts
from segcal.engine import accumulate
from segcal.engine.accumulate import State
from segcal.engine.engine import Engine, Outcome, damaged
from segcal.errors import OutputError, UsageError
from segcal.methods.calibrator import Calibrator
from segcal.methods.files import digest, versions
from segcal.outcomes.reference import Reference
from segcal.outcomes.sums import joined, known_targets, sums_of
from segcal.tasks.matching import check_match, level
from segcal.tasks.telling import NOTHING, Asked, Outer, Told, outer_masks, shortcomings, tell

PROBABILITY = "probability"
"""One map a class, which sinks take from the probabilities themselves."""

MAPS = ("entropy", "confidence", "error", PROBABILITY)
"""Maps that can be asked for."""

COUNTS = ("voxels", "padding", "flips", "decisions", "delivered_differs")
"""What is counted of each case."""

REPLACEABLE = (".npz", ".pkl", ".zarr")
"""Endings of outputs that no folder of label maps or images has."""


def apply(
    calibrator: Calibrator,
    cohort: Cohort,
    sink: Sink,
    engine: Engine,
    *,
    maps: tuple[str, ...] = (),
    outer: Sequence[Outer] = (),
    told: bool = False,
    go_on: bool = False,
    ledger: Ledger | None = None,
) -> list[Outcome]:
    """Write calibrated probabilities of every case to `sink`; an outcome a case. `outer`: masks that the sink was asked
    for, by their names; `told`: whether the sums of each case are in its summary, as `outcome`.

    With a `ledger` each case is noted in it when its files are in place, so that a later run can leave it alone
    (`finished`). Raises MismatchError as `check_match`, UsageError for an unknown map.
    """
    _known(maps)
    check_match(calibrator, cohort, go_on=go_on)
    calibrator, cohort, _ = level(calibrator, cohort)
    # whatever counts elsewhere, here every voxel needs a score
    outcomes = engine.map(cohort.bare(), Application(calibrator, sink, maps, tuple(outer), told, ledger))
    if any(o.error is None for o in outcomes):
        sink.finish(cohort)
    return outcomes


def _known(maps: Sequence[str]) -> None:
    """UsageError for a map that there is not."""
    for name in maps:
        if name not in MAPS:
            raise UsageError(
                "maps", found=repr(name), expected="some of " + ", ".join(MAPS), do="Separate several with commas."
            )


def finished(cohort: Cohort, sink: Sink, engine: Engine, ledger: Ledger) -> tuple[str, ...]:
    """Names of the cases that an earlier, equal run has finished: what they are read from and what was written for them
    have the digests in the ledger.

    UsageError where the run was another one, or there is no note of any.
    """
    ledger.resumable()
    engine.progress.start("looking for finished cases", len(cohort))

    def look(case: Case) -> bool:
        found = ledger.finished(case, sink.outputs(case))
        engine.progress.step()
        return found

    done = engine.gather(look, cohort.cases)
    return tuple(case.id for case, is_done in zip(cohort, done, strict=True) if is_done)


@dataclass(frozen=True, eq=False)
class Application:
    """What is done to each case."""

    calibrator: Calibrator
    sink: Sink
    maps: tuple[str, ...]
    outer: tuple[Outer, ...] = ()
    told: bool = False
    ledger: Ledger | None = None

    @contextlib.contextmanager
    def case(self, reader: CaseReader, scratch: Scratch) -> Iterator[AppliedCase]:
        """Open the delivered map of the case for reading, and the sink for writing."""
        cohort, case = reader.cohort, reader.cohort[reader.index]
        read = "" if self.ledger is None else read_digest(case)
        with contextlib.ExitStack() as stack:
            delivered = case.fields.get("delivered")
            window = None if delivered is None else stack.enter_context(delivered.open(scratch))
            writer = stack.enter_context(self.sink.case(cohort, case, scratch))
            contexts = Contexts(reader, scratch, self.calibrator.contexts)
            applied = AppliedCase(self, cohort, case, writer, window, contexts)
            yield applied
        if self.ledger is not None:
            self.ledger.note(case, read, self.sink.outputs(case), applied.told())


@dataclass(eq=False)
class AppliedCase:
    """One case being written."""

    application: Application
    cohort: Cohort
    case: Case
    writer: Writer
    delivered: Window | None
    contexts: Contexts
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    states: list[State] = field(default_factory=list)

    def block(self, block: Block) -> None:
        """Calibrate and write one block."""
        calibrator, head = self.application.calibrator, self.cohort.head
        padding = block.role == PADDING
        p = calibrator.deliver(block.scores, block.kind, self.contexts.of(block.start, block.start + block.voxels))
        if bool(padding.any()):
            p = torch.where(padding, _published(block, head, self.cohort.resolution), p)
        label, before = head.label_map(p), head.predicted(block.scores, block.kind)
        shown = label
        if self.delivered is not None:
            shown = torch.from_numpy(self.delivered.read(block.start, block.start + block.voxels).astype("int64"))
        maps = {name: _map(name, p, shown, head) for name in self.application.maps if name != PROBABILITY}
        maps |= {mask.name: (p[mask.channel] >= mask.threshold).float() for mask in self.application.outer}
        if self.application.told:
            self._sum(p[:, ~padding], shown[~padding])
        self.writer.write(Delivered(block.start, p, label, maps))
        self.counts["voxels"] += block.voxels
        self.counts["padding"] += int(padding.sum())
        scored, decided = block.role == SCORED, head.decide(block.scores, block.kind)
        moved = (decided != head.decide(p, "probs")) & scored
        self.counts["flips"] += int(moved.sum())
        self.counts["decisions"] += len(decided) * int(scored.sum())
        self.counts["delivered_differs"] += int((shown != before).sum()) if self.delivered is not None else 0

    def _sum(self, p: Tensor, shown: Tensor) -> None:
        """Add voxels that are no padding to the sums of the case."""
        head, rows = self.cohort.head, self.cohort.head.canonical(p, "probs")
        targets = known_targets(head.targets(shown))
        for part, sums in enumerate(sums_of(head, thresholds=False)):
            new = accumulate.lift(sums, sums.of(rows[head.slice(part)], targets[part], None))
            if len(self.states) == part:
                self.states.append(new)
            else:
                self.states[part] = accumulate.merge(sums, self.states[part], new)

    def told(self) -> dict[str, Any]:
        """The sums of the case, where they were asked for."""
        if not self.application.told:
            return {}
        all_sums = sums_of(self.cohort.head, thresholds=False)
        states = self.states or [accumulate.zero(sums) for sums in all_sums]
        parts = [accumulate.result(sums, state) for sums, state in zip(all_sums, states, strict=True)]
        return {"outcome": joined(parts).to_json()}

    def summary(self) -> dict[str, Any]:
        """Counts of voxels, and what is told of the case."""
        return {**self.counts, **self.told()}


def _published(block: Block, head: Head, resolution: Resolution) -> Tensor:
    """The scores themselves as float32 probabilities.

    What lies at the floor of the logarithm was stored as less, as 0 in padding.
    """
    if block.kind == "probs":
        return block.scores.float()
    rows = head.canonical(block.scores, block.kind).exp()
    floors = torch.tensor(head.floors(resolution), dtype=rows.dtype)[:, None]
    rows = torch.where(rows <= floors * (1 + 1e-9), 0.0, rows)
    parts = [rows[head.slice(part)] for part in range(len(head.parts))]
    return head.probabilities(torch.cat([part / part.sum(0) for part in parts]).log()).float()


def _map(name: str, p: Tensor, label: Tensor, head: Head) -> Tensor:
    if name == "error":
        return head.error(p, label)
    return head.entropy(p) if name == "entropy" else head.confidence(p)


@dataclass(frozen=True, eq=False)
class Done:
    """Outcomes of the cases of a run; `skipped`: cases that were finished before; `anew`: how many of the others had
    files of an earlier run that do not count any more.
    """

    outcomes: Sequence[Outcome]
    skipped: Sequence[str]
    anew: int
    job: Job
    told: Told = field(default_factory=Told)

    @property
    def failed(self) -> list[Outcome]:
        """Cases that were not written."""
        return [o for o in self.outcomes if o.error is not None]

    @property
    def counts(self) -> dict[str, int]:
        """Voxels of the cases written."""
        return {name: sum(int(o.summary[name]) for o in self.outcomes if o.summary is not None) for name in COUNTS}

    @property
    def notes(self) -> list[str]:
        """What a reader of the outputs must know."""
        return [*self.job.warnings, *found_note(self.job.cohort), *self.job.carried]

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
            "triage": list(self.told.triage),
            "volumes": list(self.told.volumes),
            "outer": {mask.name: mask.threshold for mask in self.job.outer},
            "drift": None if self.told.drift is None else self.told.drift.to_json(),
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
    asked: Asked = NOTHING
    reference: Reference | None = None
    outer: tuple[Outer, ...] = ()

    @property
    def tables(self) -> list[Path]:
        """Tables that the run leaves."""
        return self.asked.tables(self.ledger.folder)

    @property
    def with_delivered(self) -> bool:
        """Whether any case comes with a delivered label map that can be compared."""
        return any("delivered" in case.fields for case in self.cohort)

    @property
    def carried(self) -> list[str]:
        """That nnU-Net's post-processing came along, and how it is applied."""
        copies = {path.name: path for path in self.sink.shared(self.cohort)}
        if POSTPROCESSING[0] not in copies:
            return []
        copy = copies[POSTPROCESSING[0]]
        return [
            f"nnU-Net's post-processing was copied, not applied; to apply it: nnUNetv2_apply_postprocessing -i"
            f" {copy.parent} -o FOLDER -pp_pkl_file {copy}"
        ]

    def run(self, engine: Engine) -> Done:
        """Write what is left to write."""
        skipped = finished(self.cohort, self.sink, engine, self.ledger) if self.going_on else ()
        left = tuple(case for case in self.cohort if case.id not in set(skipped))
        anew = sum(any(path.exists() for path in self.sink.outputs(case)) for case in left) if self.going_on else 0
        if not left:
            # an earlier run may have been stopped after its last case
            self.sink.finish(self.cohort)
            return Done(damaged(self.cohort), skipped, 0, self, self._tell())
        self.ledger.begin([case.id for case in left])
        outcomes = apply(
            self.calibrator,
            replace(self.cohort, cases=left),
            self.sink,
            engine,
            maps=self.maps,
            outer=self.outer,
            told=self.asked.told,
            go_on=True,
            ledger=self.ledger,
        )
        return Done(outcomes, skipped, anew, self, self._tell())

    def _tell(self) -> Told:
        """What is told of all cases that are done, by the note of the folder."""
        if not self.asked.told:
            return Told()
        noted = ((case, self.ledger.told(case.id).get("outcome")) for case in self.cohort)
        cases = [(case, found) for case, found in noted if found is not None]
        return tell(self.asked, self.cohort.head, self.reference, cases, self.ledger.folder)


def prepare(
    calibrator: Calibrator,
    cohort: Cohort,
    folder: Path,
    *,
    maps: Sequence[str] = (),
    format: str | None = None,
    inputs: Sequence[Path] = (),
    file: Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    go_on: bool = False,
    zyx: bool = False,
    asked: Asked = NOTHING,
) -> Job:
    """Check everything that can be checked without reading scores, of writing into `folder`. `inputs`: folders that are
    read from; `file`: the calibrator's, which may lie in the folder of the outputs; `overwrite` files that are there
    already, or `resume` where an earlier, equal run stopped; `zyx`: as the cohort was opened; `asked`: what is to be
    told of the cases.

    Raises MismatchError, UsageError, OutputError.
    """
    if overwrite and resume:
        raise UsageError(
            "--overwrite, --resume",
            found="both",
            expected="one of them",
            do="--resume keeps finished cases, --overwrite replaces them.",
        )
    _known(maps)
    warnings = check_match(calibrator, cohort, go_on=go_on) + level(calibrator, cohort)[2]
    reference = None if calibrator.reference is None else Reference.from_json(calibrator.reference)
    outer = () if asked.outer is None else outer_masks(cohort.head, reference, asked.outer)
    warnings += list(shortcomings(cohort.head, reference, asked, outer))
    sink = sink_for(cohort, folder, (*maps, *(mask.name for mask in outer)), format, zyx=zyx)
    read = [*inputs, *(file for case in cohort for file in case.paths)]
    claims.claim_folder(folder, read)
    entries = {
        "calibrator": digest(calibrator),
        "maps": list(maps),
        "format": type(sink).__name__,
        "kind": cohort.kind,
        "pool": cohort.pool,
        "zyx": zyx,
        "outcomes": [asked.told, *([] if asked.outer is None else [asked.outer])],
        "method": calibrator.method,
        "scores": cohort.name,
        "members": cohort.members,
        "versions": versions(),
    }
    ledger = Ledger(folder, entries)
    going_on = resume and ledger.path.exists()
    job = Job(calibrator, cohort, sink, tuple(maps), ledger, going_on, tuple(warnings), asked, reference, tuple(outer))
    _check_targets(
        job,
        journal.identities(read if file is None else [file, *read]),
        overwrite=overwrite,
        resume=resume,
    )
    return job


def _check_targets(job: Job, read: set[journal.Identity], *, overwrite: bool, resume: bool) -> None:
    """See that every file of the run may be written."""
    cohort, sink, ledger = job.cohort, job.sink, job.ledger
    targets = [path for case in cohort for path in sink.outputs(case)]
    for case in cohort:
        check_targets(case, sink.outputs(case))
    shared = [*sink.shared(cohort), *job.tables]
    for path in (*targets, ledger.path, *shared):
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
        there += [path for path in (ledger.path, *shared) if path.exists()]
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
