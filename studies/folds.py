"""A training of several folds, deployed as the mean of its networks: may what was fitted on validation predictions, one
network a case, be applied to the mean?

    python studies/networks.py hippocampus --shared ../shared --work WORK --folds 5 --losses ce+dice --seeds 1
    python studies/predict.py --shared ../shared --work WORK hippocampus --cohorts clean
    python studies/folds.py --shared ../shared --work WORK -o docs/results/folds.md

Real: five networks trained here on folds of hippocampus' 100 training cases; its pool is untouched by training. In each
of `--draws` draws half of the pool's groups is the reference half, the other is judged. Simulated: five networks whose
pooled scores have a known posterior; case i is scored by network i mod 5. Compared, by NLL of the judged half (and the
distance to the truth, KL in nats a voxel, where it is known):

    reference   fitted on labelled mean predictions of the reference half: what needs spare labelled cases
    a           each fold's calibrator, fitted on its validation cases, applied to its network, then averaged
    b           fitted on all validation cases, applied to the mean
    c           b, then one temperature that brings it to the mean of the networks calibrated by b's calibrator, on
                unlabelled cases of the reference half

The share of the gain kept: of the reference's over the uncalibrated mean, with a jackknife interval over groups in the
first draw; labels of the mean that a way changes.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import optimize

import segcal
from segcal.data import splits
from segcal.data.cohort import Cohort
from segcal.data.files import journal
from segcal.data.formats.npz import NpzSink
from segcal.data.simulate.cohort import Design, Simulation
from segcal.data.simulate.nnunet import write_nnunet
from segcal.data.simulate.truth import Truth
from segcal.engine.engine import Engine
from segcal.methods import find
from segcal.methods.calibrator import Calibrator
from segcal.methods.composed import Composed
from segcal.methods.temperature import ScaleMap
from segcal.metrics.statistics.clustered import jackknife
from segcal.tasks.apply import apply
from segcal.tasks.demo import distances_to_truth
from segcal.tasks.evaluate import evaluate
from segcal.tasks.reference import set_aside

METHODS = ("ts", "cms-op", "bts-both")
WAYS = ("uncalibrated", "reference", "a", "b", "c")
FOLDS = 5


def fitted(method: str, cohort: Cohort, engine: Engine) -> Calibrator:
    """By that method, on all of a cohort."""
    made = find(method)
    assert made is not None
    return segcal.fit_methods({"it": made()}, cohort, engine, crossfit=False)["it"].calibrator


def together(parts: Sequence[Cohort]) -> Cohort:
    """Cases of several cohorts of one network each."""
    return replace(parts[0], cases=tuple(case for part in parts for case in part))


def averaged(cohort: Cohort, calibrators: Sequence[Calibrator], folder: Path, engine: Engine) -> Cohort:
    """The mean of the members, each calibrated by its own first."""
    for k, calibrator in enumerate(calibrators):
        one = replace(
            cohort,
            cases=tuple(replace(case, scores=(case.scores[k],)) for case in cohort),
            provenance=replace(cohort.provenance, members=1),
        )
        outcomes = apply(calibrator, one, NpzSink(folder / f"member{k}"), engine, go_on=True)
        for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error
    found = segcal.open_cohort(sorted(folder.glob("member*")))
    stored = {case.id: case for case in found}
    cases = tuple(replace(case, scores=stored[case.id].scores) for case in cohort)
    return replace(cohort, cases=cases, kind="probs", pool="probs")


def probabilities(
    cohort: Cohort, calibrator: Calibrator | None, folder: Path, engine: Engine
) -> dict[str, torch.Tensor]:
    """Delivered probabilities of each case (C, voxels); None: as they are."""
    used = calibrator or Calibrator(cohort.head, cohort.pooled_kind, [ScaleMap(1.0)], "none")
    for outcome in apply(used, cohort, NpzSink(folder), engine, go_on=True):
        if outcome.error is not None:
            raise outcome.error
    return {
        case.id: torch.from_numpy(np.load(folder / f"{case.id}.npz")["probabilities"]).flatten(1).double()
        for case in cohort
    }


def corrected(
    calibrator: Calibrator, mean: Cohort, networks: Cohort, folder: Path, engine: Engine
) -> tuple[Calibrator, float]:
    """`calibrator` and one temperature after it, by which what it makes of the `mean` is nearest to the mean of the
    calibrated `networks` (cross-entropy); and that temperature.
    """
    of_mean = probabilities(mean, calibrator, folder / "mean", engine)
    of_networks = probabilities(networks, None, folder / "networks", engine)
    logs = torch.cat([p.clamp_min(1e-12).log() for p in of_mean.values()], 1)
    target = torch.cat(list(of_networks.values()), 1)

    def distance(log_t: float) -> float:
        scaled = torch.log_softmax(logs / math.exp(log_t), 0)
        return float(-(target * scaled).sum(0).mean())

    t = math.exp(float(optimize.minimize_scalar(distance, bounds=(-1.5, 1.5), method="bounded").x))
    maps = [Composed(m, ScaleMap(1 / t)) for m in calibrator.maps]
    made = Calibrator(
        calibrator.head,
        calibrator.kind,
        maps,
        f"{calibrator.method}, ts",
        resolution=calibrator.resolution,
        unit=calibrator.unit,
    )
    return made, t


def compared(
    method: str, validation: Sequence[Cohort], known: Cohort, judged: Cohort, engine: Engine, truth: Truth | None = None
) -> dict[str, Any]:
    """Numbers of each way on the judged cases, which as `known` are means of networks."""
    with tempfile.TemporaryDirectory(prefix="folds-") as name:
        folder = Path(name)
        by_fold = [fitted(method, one, engine) for one in validation]
        of_all = fitted(method, together(validation), engine)
        reference = fitted(method, known, engine)
        mean_known = averaged(known, [of_all] * FOLDS, folder / "known", engine)
        after, temperature = corrected(of_all, known, mean_known, folder / "c", engine)
        mean_judged = averaged(judged, by_fold, folder / "judged", engine)
        stages: dict[str, tuple[Cohort, Calibrator | None]] = {
            "reference": (judged, reference),
            "a": (mean_judged, None),
            "b": (judged, of_all),
            "c": (judged, after),
        }
        found: dict[str, Any] = {"temperature": temperature}
        for way, (cohort, calibrator) in stages.items():
            scored = evaluate(cohort, calibrator, engine, go_on=True, fitted="include")
            summary = scored.calibrated or scored.uncalibrated
            found[way] = {"nll": [row["nll"] for row in summary.per_case], "ece": summary.block["ece"]}
            if way == "reference":
                found["uncalibrated"] = {
                    "nll": [row["nll"] for row in scored.uncalibrated.per_case],
                    "ece": scored.uncalibrated.block["ece"],
                }
            if truth is not None and way != "a":  # the posterior is known of the networks' mean, not of other scores
                named = {} if calibrator is None else {way: calibrator}
                distances = distances_to_truth(cohort, truth, named, engine)
                found[way]["distance"] = list(distances.values())[-1].mean
                if way == "reference":
                    found["uncalibrated"]["distance"] = distances["uncalibrated"].mean
        labels = [
            {case: p.argmax(0) for case, p in probabilities(cohort, None, folder / f"labels{k}", engine).items()}
            for k, cohort in enumerate((judged, mean_judged))
        ]
        changed = sum(int((labels[0][case] != labels[1][case]).sum()) for case in labels[0])
        found["a"]["labels"] = 100 * changed / sum(len(y) for y in labels[0].values())
        found["groups"] = list(judged.groups)
    return found


def kept(found: Mapping[str, Any], way: str) -> dict[str, Any]:
    """The share of the reference's gain that a way keeps, with its interval over groups."""
    groups = np.unique(found["groups"], return_inverse=True)[1]
    nll = {name: np.array(found[name]["nll"], np.float64) for name in ("uncalibrated", "reference", way)}

    def share(inside: Any) -> float:
        before, best, now = (float(nll[name][inside].mean()) for name in ("uncalibrated", "reference", way))
        return (before - now) / (before - best)

    whole = share(np.ones(len(groups), bool))
    return jackknife(whole, [share(groups != g) for g in range(groups.max() + 1)], values=len(groups)).to_json()


def real(shared: Path, work: Path, draws: int, engine: Engine) -> dict[str, list[Any]]:
    """Networks trained here."""
    sys.path.insert(0, str(shared / "zoo"))
    sys.dont_write_bytecode = True
    import zoo  # type: ignore[import-not-found]  # of the shared folder

    truth = work / "networks" / "labels"
    truth.mkdir(exist_ok=True)
    for case in zoo.cases("hippocampus", "train"):
        np.save(truth / f"{case}.npy", zoo.labels("hippocampus", case))
    folders = sorted((work / "networks").glob("hippocampus-w4-c32-n800-ce+dice-f*-s0"))
    labels = work / "hippocampus-clean" / "labels"
    pool = segcal.open_cohort(folders, labels, kind="logits", background=0)
    pool = splits.grouped(pool, str(work / "hippocampus-clean" / "groups.csv"))
    validation = [segcal.open_cohort([folder / "validation"], truth, kind="logits", background=0) for folder in folders]
    out: dict[str, list[Any]] = {method: [] for method in METHODS}
    for draw in range(draws):
        known, judged = set_aside(pool, 0.5, draw)
        for method in METHODS:
            out[method].append(compared(method, validation, known, judged, engine))
            told(f"hippocampus {draw} {method}", out[method][-1])
    return out


def simulated(draws: int, engine: Engine) -> dict[str, list[Any]]:
    """Networks whose mean has a known posterior."""
    out: dict[str, list[Any]] = {method: [] for method in METHODS}
    design = Design(members=FOLDS)
    for draw in range(draws):
        truth = Truth.general(len(design.classes), draw)
        made = Simulation(design, truth, draw)
        with tempfile.TemporaryDirectory(prefix="folds-") as name:
            members = write_nnunet(made, range(60), Path(name))
            whole = segcal.open_cohort(members, Path(name) / "labelsTr", pool="logits")
            sides = [whole.cases[:20], whole.cases[20:40], whole.cases[40:]]
            validation = [
                replace(
                    whole,
                    cases=tuple(replace(case, scores=(case.scores[k],)) for case in sides[0][k::FOLDS]),
                    provenance=replace(whole.provenance, members=1),
                )
                for k in range(FOLDS)
            ]
            known, judged = (replace(whole, cases=side) for side in sides[1:])
            for method in METHODS:
                out[method].append(compared(method, validation, known, judged, engine, truth))
                told(f"simulated {draw} {method}", out[method][-1])
    return out


def told(what: str, found: Mapping[str, Any]) -> None:
    """A line of progress."""
    print(what, {way: round(float(np.mean(found[way]["nll"])), 5) for way in WAYS}, flush=True)


def page(found: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> str:
    """The results in words and tables."""
    lines = [
        "# Five folds, deployed as a mean",
        "",
        "`python studies/folds.py --shared ../shared --work WORK -o docs/results/folds.md`",
        "",
    ]
    design, ways, counted = (__doc__ or "").split("\n\n")[2:5]
    lines += [" ".join(design.split()), "", "```", textwrap.dedent(ways), "```", "", " ".join(counted.split()), ""]
    for name, methods in found.items():
        draws = len(next(iter(methods.values())))
        known = "distance" in next(iter(methods.values()))[0]["b"]
        lines += [f"## {name}, {draws} draws", ""]
        head = ["method", "way", "NLL", "ECE", *(["distance"] if known else [])]
        lines += ["| " + " | ".join([*head, "gain kept, mean [first draw]", "labels changed, %"]) + " |"]
        lines += ["|" + "---|" * (6 + known)]
        for method, rows in methods.items():
            for way in WAYS:
                nll, ece = (np.mean([np.mean(row[way][key]) for row in rows]) for key in ("nll", "ece"))
                cells = [method, way, f"{nll:.5f}", f"{ece:.4f}"]
                distances = [row[way]["distance"] for row in rows if "distance" in row[way]]
                cells += [f"{np.mean(distances):.5f}" if distances else ""] if known else []
                share = ""
                if way in ("a", "b", "c"):
                    shares = [kept(row, way) for row in rows]
                    first, mean = shares[0], np.mean([one["mean"] for one in shares])
                    share = f"{100 * mean:.0f} % [{100 * first['low']:.0f}, {100 * first['high']:.0f}]"
                changed = f"{np.mean([row[way]['labels'] for row in rows]):.3f}" if way == "a" else ""
                lines.append(f"| {' | '.join([*cells, share, changed])} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="the folder with data/ and zoo/")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    engine = segcal.Threads(2)
    record = args.output.with_suffix(".json")
    found = json.loads(record.read_text()) if record.is_file() else {}
    parts = {
        "simulated": lambda: simulated(args.draws, engine),
        "hippocampus": lambda: real(args.shared, args.work, args.draws, engine),
    }
    for name, made in parts.items():
        if name not in found:
            found[name] = made()
            with journal.atomic(record) as temporary:
                temporary.write_text(json.dumps(found) + "\n")
    with journal.atomic(args.output) as temporary:
        temporary.write_text(page(found) + "\n")


if __name__ == "__main__":
    main()
