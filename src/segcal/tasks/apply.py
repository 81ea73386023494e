"""Applying a calibrator to a cohort, case by case, block by block, into a sink.

Padding passes through unchanged; every other voxel gets calibrated probabilities with each promised label kept. Maps on
request:

    entropy      nats, of the calibrated distribution; for regions the largest of theirs
    confidence   probability of the decided label; for regions the smallest of theirs
    error        probability that the *delivered* label map is wrong there; for regions the largest of theirs, a lower
                 bound
    probability  one map a class

What a case reports: voxels, padding, flips, and how often the delivered label map differs from the arg max of its own
scores (post-processing). A case without a delivered map uses the arg max.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from segcal.data.case import PADDING, SCORED, Case, Window
from segcal.data.cohort import CaseReader, Cohort
from segcal.data.files.journal import Scratch
from segcal.data.files.ledger import Ledger, read_digest
from segcal.data.formats.sink import Delivered, Sink, Writer
from segcal.data.head import Head
from segcal.data.rows import Block
from segcal.data.scores import Resolution
from segcal.data.surroundings import Contexts
from segcal.engine.engine import Engine, Outcome
from segcal.errors import UsageError
from segcal.methods.calibrator import Calibrator
from segcal.tasks.matching import check_match, level

PROBABILITY = "probability"
"""One map a class, which sinks take from the probabilities themselves."""

MAPS = ("entropy", "confidence", "error", PROBABILITY)
"""Maps that can be asked for."""


def apply(
    calibrator: Calibrator,
    cohort: Cohort,
    sink: Sink,
    engine: Engine,
    *,
    maps: tuple[str, ...] = (),
    go_on: bool = False,
    ledger: Ledger | None = None,
) -> list[Outcome]:
    """Write calibrated probabilities of every case to `sink`; an outcome a case.

    With a `ledger` each case is noted in it when its files are in place, so that a later run can leave it alone
    (`finished`). Raises MismatchError as `check_match`, UsageError for an unknown map.
    """
    for name in maps:
        if name not in MAPS:
            raise UsageError(
                "maps", found=repr(name), expected="some of " + ", ".join(MAPS), do="Separate several with commas."
            )
    check_match(calibrator, cohort, go_on=go_on)
    calibrator, cohort, _ = level(calibrator, cohort)
    outcomes = engine.map(cohort, Application(calibrator, sink, maps, ledger))
    if any(o.error is None for o in outcomes):
        sink.finish(cohort)
    return outcomes


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
            yield AppliedCase(self, cohort, case, writer, window, contexts)
        if self.ledger is not None:
            self.ledger.note(case, read, self.sink.outputs(case))


@dataclass(eq=False)
class AppliedCase:
    """One case being written."""

    application: Application
    cohort: Cohort
    case: Case
    writer: Writer
    delivered: Window | None
    contexts: Contexts
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("voxels", "padding", "flips", "decisions", "delivered_differs"), 0)
    )

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
        self.writer.write(Delivered(block.start, p, label, maps))
        self.counts["voxels"] += block.voxels
        self.counts["padding"] += int(padding.sum())
        scored, decided = block.role == SCORED, head.decide(block.scores, block.kind)
        moved = (decided != head.decide(p, "probs")) & scored
        self.counts["flips"] += int(moved.sum())
        self.counts["decisions"] += len(decided) * int(scored.sum())
        self.counts["delivered_differs"] += int((shown != before).sum()) if self.delivered is not None else 0

    def summary(self) -> dict[str, Any]:
        """Counts of voxels."""
        return dict(self.counts)


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
