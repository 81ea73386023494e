"""What `segcal demo` does: the whole way from an ensemble's predictions to calibrated probabilities, on a cohort whose
true probabilities are known.

FOLDER receives `fitting` and `heldout` (five networks each, as nnU-Net leaves them, with labels), `calibrators`,
`calibrated` (the held-out cases with the best calibrator applied) and `figures`. Labels were drawn from a known
posterior, so beside NLL, ECE and the rest there is the distance of each method to the truth. Promises: the same numbers
for the same seed, any engine and any number of workers; every number of the table is of cases no calibrator has seen;
the best method keeps every label, and is chosen as `--method auto` does, by cross-fitting on the fitting cases. A
FOLDER that is not empty: OutputError. Costs: about a minute on two cores, 60 MB of disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segcal.data.cohort import Cohort
from segcal.data.formats.discover import open_cohort
from segcal.data.formats.registry import sink_for
from segcal.data.simulate.cohort import Design, Simulation
from segcal.data.simulate.nnunet import write_nnunet
from segcal.data.simulate.truth import Truth
from segcal.engine import accumulate
from segcal.engine.accumulate import State
from segcal.engine.ask import Ask
from segcal.engine.engine import Engine, Outcome
from segcal.errors import OutputError
from segcal.methods.calibrator import Calibrator
from segcal.methods.method import AnyMethod, Fit
from segcal.methods.registry import methods
from segcal.metrics.statistics.clustered import clustered_mean
from segcal.metrics.statistics.estimate import Estimate
from segcal.metrics.truth import DistanceToTruth
from segcal.report import figures, slices
from segcal.tasks.apply import apply
from segcal.tasks.choose import recommend
from segcal.tasks.evaluate import Evaluation, evaluate
from segcal.tasks.planes import told

UNCALIBRATED = "uncalibrated"
FITTING, HELD_OUT = 24, 12
SEED = 2
MAPS = ("entropy", "error")


@dataclass(frozen=True, eq=False)
class DemoResult:
    """What the demonstration found, and where it lies.

    `crossfitted`: each method on the fitting cases, every case held out in turn. `evaluations` and `distances`: on the
    held-out cases; `distances` begins with `UNCALIBRATED`. `best`: what `recommend` chooses of those that keep labels.
    `calibrators`, `figures`: files by name. `outcomes`: of applying the best one.
    """

    folder: Path
    simulation: Simulation
    fitting: Cohort
    held_out: Cohort
    fits: Mapping[str, Fit]
    crossfitted: Mapping[str, Evaluation]
    evaluations: Mapping[str, Evaluation]
    distances: Mapping[str, Estimate]
    best: str
    calibrators: Mapping[str, Path]
    figures: Mapping[str, Path]
    outcomes: Sequence[Outcome]

    def table(self) -> list[dict[str, Any]]:
        """One row a method, uncalibrated first, on the held-out cases:

        `method`, `nll`, `ece`, `ace`, `dice`, `flip_rate` (fractions), `distance` and its `distance_se` (nats).
        """
        first = next(iter(self.evaluations.values())).uncalibrated.block
        blocks = {
            UNCALIBRATED: first,
            **{name: e.calibrated.block for name, e in self.evaluations.items() if e.calibrated is not None},
        }
        return [
            {
                "method": name,
                **{key: block[key] for key in ("nll", "ece", "ace", "dice", "flip_rate")},
                "distance": self.distances[name].mean,
                "distance_se": self.distances[name].standard_error,
            }
            for name, block in blocks.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """What `demo --json` writes."""
        return {
            "folder": str(self.folder),
            "cases": {"fitting": len(self.fitting), "held_out": len(self.held_out)},
            "truth": {"weight": self.simulation.truth.weight.tolist(), "bias": self.simulation.truth.bias.tolist()},
            "best": self.best,
            "table": self.table(),
            "calibrators": {name: str(path) for name, path in self.calibrators.items()},
            "figures": {name: str(path) for name, path in self.figures.items()},
        }


def simple(classes: int) -> dict[str, AnyMethod]:
    """The methods compared, for they are quick: those that map single voxels with no more parameters than one affine
    map for all of them.
    """
    found = {name: named() for name, named in methods().items() if named.kind.automatic}
    few = {name: method for name, method in found.items() if method.identifiable(classes) < classes**2}
    return {name: m for name, m in few.items() if (drawn := m.drawn(classes)) is None or not drawn.needs.case}


def run(
    folder: str | os.PathLike[str],
    engine: Engine,
    *,
    echo: Callable[[str], None] = lambda line: None,
    design: Design | None = None,
    truth: Truth | None = None,
    fitting: int = FITTING,
    held_out: int = HELD_OUT,
    seed: int = SEED,
) -> DemoResult:
    """Make the cohort in `folder` and take it all the way; `echo` is told, a line at a time, what is being done.

    `truth`: by default a general distortion drawn from `seed`.
    """
    root = Path(folder)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        there = "a folder that is not empty" if root.is_dir() else "a file"
        raise OutputError(
            str(root), found=there, expected="a new or an empty folder", do="Choose another folder, or delete this one."
        )
    design = design or Design()
    simulation = Simulation(design, truth or Truth.general(len(design.classes), seed), seed)

    echo(
        f"Simulating {fitting} cases to fit on and {held_out} held out: {design.members} networks,"
        f" {len(design.classes)} classes, in nnU-Net's layout"
    )
    fit_cohort = _cohort(simulation, range(fitting), root / "fitting", engine)
    test_cohort = _cohort(simulation, range(fitting, fitting + held_out), root / "heldout", engine)

    compared = simple(len(design.classes))
    echo(f"Fitting {', '.join(compared)} together, and again without each fold of cases")
    found = recommend(fit_cohort, engine, methods=compared)
    fits = {name: fit for name in compared if (fit := found.candidates[name].fit) is not None}
    scored = {name: found.candidates[name].evaluation for name in compared}
    keeping = [name for name in compared if found.candidates[name].allowed]
    best = found.chosen if found.chosen in keeping else min(keeping, key=lambda name: _nll(scored[name]))

    echo("Scoring the held-out cases")
    evaluations = {name: evaluate(test_cohort, fit.calibrator, engine) for name, fit in fits.items()}
    distances = distances_to_truth(
        test_cohort, simulation.truth, {name: fit.calibrator for name, fit in fits.items()}, engine
    )

    echo(f"Applying {best}, the choice of those that keep every label, to the held-out cases")
    files = {name: root / "calibrators" / f"{name}.safetensors" for name in fits}
    for name, path in files.items():
        fits[name].calibrator.save(path)
    outcomes = apply(
        fits[best].calibrator, test_cohort, sink_for(test_cohort, root / "calibrated", MAPS), engine, maps=MAPS
    )
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error

    echo("Drawing figures")
    drawn = _draw(root / "figures", simulation, evaluations, distances, best, fits[best].calibrator, fitting)
    return DemoResult(
        root, simulation, fit_cohort, test_cohort, fits, scored, evaluations, distances, best, files, drawn, outcomes
    )


def distances_to_truth(
    cohort: Cohort, truth: Truth, calibrators: Mapping[str, Calibrator], engine: Engine
) -> dict[str, Estimate]:
    """Mean over cases of KL(q || p) in nats a voxel, uncalibrated first, with standard errors clustered by group; one
    pass.

    The cohort's pooled scores must be those `truth` acts on.
    """
    asks = {UNCALIBRATED: Ask(DistanceToTruth(truth), by_case=True)}
    asks |= {
        name: Ask(DistanceToTruth(truth, calibrator.through(0)), by_case=True)
        for name, calibrator in calibrators.items()
    }
    found: dict[str, dict[int, float]] = {name: {} for name in asks}

    def each(case: int, states: Mapping[str, State]) -> None:
        for name, state in states.items():
            found[name][case] = accumulate.result(asks[name].accumulator, state).kl

    engine.survey(cohort, asks, each)
    return {
        name: clustered_mean([by_case[case] for case in range(len(cohort))], cohort.groups)
        for name, by_case in found.items()
    }


def _cohort(simulation: Simulation, cases: range, folder: Path, engine: Engine) -> Cohort:
    """Write cases and open what was written, as a user would."""
    engine.progress.start("simulating cases", len(cases))
    members = write_nnunet(simulation, cases, folder, engine.each, engine.progress.step)
    return open_cohort(members, folder / "labelsTr", pool="logits")


def _nll(evaluation: Evaluation) -> float:
    assert evaluation.calibrated is not None
    return float(evaluation.calibrated.block["nll"])


def _draw(
    folder: Path,
    simulation: Simulation,
    evaluations: Mapping[str, Evaluation],
    distances: Mapping[str, Estimate],
    best: str,
    calibrator: Calibrator,
    index: int,
) -> dict[str, Path]:
    chosen = evaluations[best]
    assert chosen.calibrated is not None
    return {
        "reliability": figures.reliability(
            chosen.uncalibrated.block,
            chosen.calibrated.block,
            folder / "reliability.png",
            names=("as predicted", f"calibrated ({best})"),
            title="On held-out cases; the closer to the dashed line, the better",
        ),
        "gains": figures.gains(
            {name: e.differences["nll"] for name, e in evaluations.items()}, folder / "gains.png", highlight=best
        ),
        "distances": figures.distances(distances, folder / "distances.png", highlight=best),
        "error_maps": _error_maps(folder / "error_maps.png", simulation, calibrator, index),
    }


def _error_maps(path: Path, simulation: Simulation, calibrator: Calibrator, index: int) -> Path:
    """The slice of case `index` with most foreground, over an image as a scanner might show it: the probability of an
    error as the networks have it, as calibrated, and as it is.
    """
    case = simulation.case(index)
    (low, high), rows, columns = case.crop
    at = low + int(np.argmax((case.labels[low:high] > 0).sum((1, 2))))
    window = (slice(None), at, slice(*rows), slice(*columns))
    x = case.log_probs[window]
    predicted, labels = x.argmax(0), case.labels[window[1:]].astype(np.int64)
    looked_at = torch.zeros(1, *case.labels.shape, dtype=torch.bool)
    looked_at[0, slice(low, high), slice(*rows), slice(*columns)] = True
    whole = calibrator.log_probs(
        torch.from_numpy(case.log_probs[None]), kind="log_probs", counted=looked_at, spacing=simulation.design.spacing
    )
    calibrated = whole[0].numpy()[window]
    by_name = {"as predicted": x, "calibrated": calibrated, "truth": case.log_posterior[window]}
    wrong = {name: 1 - np.exp(np.take_along_axis(log_p, predicted[None], 0)[0]) for name, log_p in by_name.items()}
    spacing = simulation.design.spacing
    shown = slices.Slice(
        labels,
        predicted,
        wrong,
        case.image[window[1:]],
        f"{case.name}, slice {at + 1} of {case.labels.shape[0]}, simulated\n{told(labels, predicted, wrong)}",
        spacing[1] / spacing[2],
    )
    return slices.slices([shown], simulation.design.classes, path)
