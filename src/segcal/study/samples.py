"""Arrays for pictures: a few test cases of the first repeat, clean and as other cohorts have them, as 2-D images or the
slice of a volume that shows the most.

`samples/NAME.npz` holds image (H, W) or (H, W, 3) where the study names images (bytes as they are, anything else scaled
to [0, 1] by its own range), labels (H, W) int64 (-1: not scored), decision (H, W) of the mean of logits, energy (H, W)
float64 where raw logits are known, and flipped (H, W) bool: where `FLIPPING` changed the label in the first repeat, if
the study has it. Cases are spread evenly over the test cases by name. Volumes: the plane of the last axis with the most
voxels that are not of the commonest label.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segcal.data.case import SCORED
from segcal.data.files import journal
from segcal.data.files.journal import Scratch
from segcal.data.ranking import winner
from segcal.data.reader import CaseReader
from segcal.data.splits import TEST
from segcal.data.surroundings import Contexts
from segcal.engine.engine import Engine
from segcal.methods.calibrator import Calibrator
from segcal.study.design import Design
from segcal.study.fits import loaded
from segcal.study.pipelines import VIEWS
from segcal.study.results import Rows

FLIPPING = "MS(zbar)"
"""The pipeline whose changed labels are shown (K26 Figure 4)."""

NOT_SCORED = -1


def sample(design: Design, folder: Path, engine: Engine) -> Rows:
    """Write the arrays of every sample that is not there; a row each."""
    ids = sorted(design.ids(0, TEST))
    count = min(design.configuration.samples, len(ids))
    chosen = [ids[k * len(ids) // count] for k in range(count)]
    calibrator = loaded(folder, design.arms[0]).get(FLIPPING)
    rows = []
    for cohort in design.cohorts:
        view = VIEWS["zbar"].of(design.cohorts[cohort])
        at = {c.id: i for i, c in enumerate(view)}
        for case in (c for c in chosen if c in at):
            name = f"{cohort}-{case}"
            file = Path("samples") / f"{name}.npz"
            if not (folder / file).is_file():
                with (
                    engine.scratch(view) as scratch,
                    view.open(at[case], scratch) as reader,
                    journal.atomic(folder / file) as temporary,
                ):
                    found: dict[str, Any] = dict(arrays(reader, scratch, calibrator, energy=design.has_energy))
                    np.savez_compressed(temporary, **found)
            rows.append({"name": name, "cohort": cohort, "case": case, "file": str(file)})
    return rows


def arrays(
    reader: CaseReader, scratch: Scratch, calibrator: Calibrator | None, *, energy: bool
) -> dict[str, NDArray[Any]]:
    """What a picture of one open case is made from."""
    cohort, case = reader.cohort, reader.cohort[reader.index]
    head, shape = cohort.head, case.shape
    contexts = Contexts(reader, scratch, () if calibrator is None else calibrator.contexts)
    columns: dict[str, list[NDArray[Any]]] = {
        "labels": [],
        "decision": [],
        **({"energy": []} if energy else {}),
        **({"flipped": []} if calibrator is not None else {}),
    }
    for start, stop in cohort.cuts(reader.index):
        block = reader.block(start, stop)
        assert block.labels is not None
        decision = head.decide(block.scores, block.kind)[0]
        columns["labels"].append(torch.where(block.role == SCORED, head.targets(block.labels)[0], NOT_SCORED).numpy())
        columns["decision"].append(decision.numpy())
        if energy:
            found = head.free_energy(block.scores, block.kind)
            assert found is not None
            columns["energy"].append(found.double().numpy())
        if calibrator is not None:
            rows = calibrator.map_rows(
                head.canonical(block.scores, block.kind, cohort.resolution),
                head.free_energy(block.scores, block.kind),
                head.ranking(block.scores, block.kind),
                contexts.of(start, stop),
            )
            columns["flipped"].append((winner(rows[head.slice(0)]) != decision).numpy())
    whole = {name: np.concatenate(parts).reshape(shape) for name, parts in columns.items()}
    if "image" in case.fields:
        assert reader.fields is not None
        image = torch.cat(
            [reader.fields.read("image", start, stop) for start, stop in cohort.cuts(reader.index)], 1
        ).numpy()
        whole["image"] = np.moveaxis(image.reshape(-1, *shape), 0, -1)
    return {name: _plane(values, whole["labels"], name) for name, values in whole.items()}


def _plane(values: NDArray[Any], labels: NDArray[Any], name: str) -> NDArray[Any]:
    """The plane to show; an image as bytes or scaled to [0, 1], one channel or three."""
    if labels.ndim > 2:
        common = np.bincount(labels[labels >= 0].ravel()).argmax()
        best = int(((labels >= 0) & (labels != common)).sum(tuple(range(labels.ndim - 1))).argmax())
        values = values[..., best, :] if name == "image" else values[..., best]
    if name != "image":
        return values
    low, high = float(values.min()), float(values.max())
    octets = low >= 0 and high <= 255 and high > 1 and bool((values == np.rint(values)).all())
    shown = (
        values.astype(np.uint8) if octets else ((values - low) / (high - low if high > low else 1)).astype(np.float32)
    )
    return shown[..., 0] if shown.shape[-1] != 3 else shown
