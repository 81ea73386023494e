"""Susceptibility calibration on MRI artefacts (O22, Tables 1 and 2): three networks of the hippocampus, and what each
of its components is worth.

    python -m benchmarks.susceptibility --shared ../shared --work WORK -o docs/results/susceptibility.md

Twelve cases to fit on and twenty of other subjects to judge, clean and under four artefacts of TorchIO in three random
replicates; members 0 to 2 are three segmenters, and a fit is repeated with three seeds. 180 copies of the input of each
test case, the states after 15, 45 and 90 of one stream kept; 18 of each calibration case, which training draws from.
ECE and SCE in O22's region, 10 bins, of each case, in per cent; a case counts once, as the mean over segmenters,
replicates and seeds, and its subject is what is independent. `alea`: mean over copies, which may change labels. O22
trains with geometric augmentation too; here there is none, for the method or its rival. Predictions, copies and numbers
in the JSON already are kept, so that an interrupted run goes on: copies take hours.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import segcal
from benchmarks.boundary import evenly
from segcal.data.cohort import Cohort
from segcal.data.files import journal
from segcal.engine import accumulate
from segcal.engine.ask import Ask
from segcal.methods import find
from segcal.methods.calibrator import Calibrator
from segcal.metrics.flips import Flips
from segcal.metrics.overlap import Overlap
from segcal.metrics.region import RegionCalibration
from segcal.metrics.statistics.clustered import paired_difference
from segcal.metrics.statistics.verdict import seen
from segcal.study.shift import artefacts
from segcal.tasks.copies.making import Drawing, Making, predict
from segcal.tasks.copies.ranges import Ranges

CLEAN = "clean"
RIVAL, PROPOSED = "lts-image", "susceptibility"
WITHOUT = "uncalibrated", "alea"
FITTED: dict[str, dict[str, Any]] = {
    "ts": {},
    RIVAL: {},
    "two branches": {"copies": False, "prior": False},
    "copies only": {"prior": False},
    "prior only": {"copies": False},
    PROPOSED: {},
}
"""What is fitted, by what it is called, with its options; the last four are susceptibility calibration."""

STATES = (15, 45, 90)


@dataclass(frozen=True)
class Network:
    """A network of the zoo as a callable on its own input, whose sides it wants in fours."""

    session: Any
    digest: str

    def __call__(self, x: NDArray[np.float32]) -> NDArray[Any]:
        """Logits of (1, x, y, z)."""
        padded = np.pad(x, [(0, 0), *((0, -n % 4) for n in x.shape[1:])])[None]
        found: NDArray[Any] = self.session.run(None, {"image": padded.astype(np.float32)})[0][0]
        return found[(slice(None), *(slice(0, n) for n in x.shape[1:]))]


@dataclass(frozen=True)
class Bench:
    """Where things are, and how much of everything there is."""

    work: Path
    zoo: Any
    args: argparse.Namespace

    @property
    def cases(self) -> dict[str, list[str]]:
        """Calibration and test cases, of different subjects."""
        info, pool = self.zoo.info("hippocampus")["case_info"], self.zoo.cases("hippocampus")
        subjects = list(dict.fromkeys(info[case]["subject_inferred"] for case in pool))
        first = set(evenly(subjects, self.args.calibration))
        mine = {s: next(c for c in pool if info[c]["subject_inferred"] == s) for s in subjects}
        rest = evenly([s for s in subjects if s not in first], self.args.test)
        return {"calibration": [mine[s] for s in subjects if s in first], "test": [mine[s] for s in rest]}

    @property
    def groups(self) -> dict[str, str]:
        """The subject of each case."""
        return {case: one["subject_inferred"] for case, one in self.zoo.info("hippocampus")["case_info"].items()}

    @property
    def cohorts(self) -> list[str]:
        """Of the test cases: clean, and ARTEFACT-REPLICATE."""
        return [CLEAN, *(f"{kind}-{r}" for kind in artefacts.ARTEFACTS for r in range(self.args.replicates))]

    def image(self, case: str, cohort: str) -> NDArray[Any]:
        """As the segmenter is given it."""
        raw: NDArray[Any] = self.zoo.image("hippocampus", case)
        if cohort == CLEAN:
            return raw
        kind, _, replicate = cohort.partition("-")
        return np.asarray(artefacts.choose(kind, case, replicate=int(replicate)).apply(raw))

    def folder(self, member: int, role: str, cohort: str) -> Path:
        """Of one segmenter's predictions of a cohort."""
        return self.work / "susceptibility" / f"member{member}" / role / cohort

    def made(self, member: int, role: str, cohort: str, count: int, engine: Any) -> None:
        """Predictions and copies that are not there yet."""
        folder, segmenter = self.folder(member, role, cohort), self.zoo.Member("hippocampus", member, 1)
        for case in self.cases[role]:
            target = folder / "results" / f"{case}.npz"
            if target.exists():
                continue
            image = self.image(case, cohort)
            for path, value in (
                (folder / "images" / f"{case}.npy", image),
                (folder / "labels" / f"{case}.npy", self.zoo.labels("hippocampus", case)),
            ):
                with journal.atomic(path) as temporary, temporary.open("wb") as file:
                    np.save(file, value)
            with journal.atomic(target) as temporary:
                np.savez(temporary, logits=segmenter(image))
        pictured = segcal.open_cohort([folder / "results"], folder / "labels", images=folder / "images", background=0)
        drawing = Drawing(count, self.states if role == "test" else (), self.ranges, 0, "logits", "zscore")
        path = Path(self.zoo.HERE) / "hippocampus" / f"member{member}.onnx"
        network = Network(segmenter.session, journal.digest_files([path]))
        predict(pictured, folder / "copies", network, drawing, Making(kept=18), engine)

    @property
    def states(self) -> tuple[int, ...]:
        """Numbers of copies after which states are kept."""
        return tuple(n for n in STATES if n < self.args.copies)

    @property
    def ranges(self) -> Ranges:
        """The paper's, but for brightness as --brightness says."""
        return Ranges(brightness=(-self.args.brightness, self.args.brightness))

    def opened(self, member: int, role: str, cohort: str, state: int | None = None) -> Cohort:
        """With the copies, or the first few of them."""
        folder = self.folder(member, role, cohort)
        copies = folder / "copies" / ("" if state is None else f"first{state}")
        found: Cohort = segcal.open_cohort([folder / "results"], folder / "labels", background=0, copies=copies)
        return found.grouped(self.groups)

    def alea(self, member: int, cohort: str) -> Cohort:
        """The mean over copies, in place of the scores."""
        folder = self.folder(member, "test", cohort)
        for case in self.cases["test"]:
            target = folder / "alea" / f"{case}.npz"
            if not target.exists():
                with journal.atomic(target) as temporary:
                    np.savez(temporary, probs=np.load(folder / "copies" / f"{case}.npz")["mean"])
        return segcal.open_cohort([folder / "alea"], folder / "labels", background=0)


def numbers(cohort: Cohort, calibrators: Mapping[str, Calibrator | None], engine: Any) -> dict[str, Any]:
    """Of each calibrator and case: ECE, SCE, Dice, share of flipped labels."""
    classes = cohort.head.channels
    metrics: dict[str, Any] = {
        "region": RegionCalibration(classes),
        "overlap": Overlap(classes, 0),
        "flips": Flips(classes),
    }
    asks = {
        (name, what): Ask(metric, by_case=True, through=None if made is None else made.through(0))
        for name, made in calibrators.items()
        for what, metric in metrics.items()
    }
    answers, _ = engine.survey(cohort, asks)
    out: dict[str, Any] = {}
    for name in calibrators:
        out[name] = {}
        for k, case in enumerate(cohort):
            region, overlap, flips = (accumulate.result(m, answers[name, what][k]) for what, m in metrics.items())
            out[name][case.id] = {"ece": region.ece, "sce": region.sce, "dice": overlap.mean_dice, "flips": flips.rate}
    return out


def fitted(bench: Bench, member: int, seed: int, engine: Any) -> Iterator[tuple[str, Calibrator]]:
    """Every calibrator of a segmenter; temperature scaling has no seed."""
    cohort = bench.opened(member, "calibration", CLEAN)
    folder = bench.work / "susceptibility" / f"member{member}" / f"fits-{seed}"
    for name, options in FITTED.items():
        path = folder / f"{name.replace(' ', '-')}.safetensors"
        if not path.exists():
            known = find(name if name in (RIVAL, "ts") else PROPOSED)
            assert known is not None
            if name not in (RIVAL, "ts"):
                options = {"width": 8, "epochs": bench.args.epochs, "prior_epochs": bench.args.epochs, **options}
            given = {**options, "slice_axis": 1} if name != "ts" else options
            made = known(**given, **({"seed": seed} if name != "ts" else {})).fit(cohort, engine=engine)
            made.save(path)
        yield name, segcal.load(path)


def run(bench: Bench, found: dict[str, Any], keep: Any, engine: Any) -> None:
    """Whatever is not in what is `found`: by member, seed and cohort."""
    for member in range(bench.args.members):
        bench.made(member, "calibration", CLEAN, 18, engine)
        for cohort in bench.cohorts:
            bench.made(member, "test", cohort, bench.args.copies, engine)
            print("copies", member, cohort, flush=True)
    for member in range(bench.args.members):
        for seed in range(bench.args.seeds):
            calibrators: dict[str, Calibrator | None] = {
                "uncalibrated": None,
                **dict(fitted(bench, member, seed, engine)),
            }
            for cohort in bench.cohorts:
                key = f"{member}/{seed}/{cohort}"
                if key in found:
                    continue
                mine = numbers(bench.opened(member, "test", cohort), calibrators, engine)
                mine |= numbers(bench.alea(member, cohort), {"alea": None}, engine)
                for state in bench.states:
                    few = bench.opened(member, "test", cohort, state)
                    told = numbers(few, {f"{PROPOSED}, {state} copies": calibrators[PROPOSED]}, engine)
                    mine |= told
                found[key] = mine
                print(
                    key,
                    {
                        name: round(float(np.mean([c["ece"] for c in cases.values()])), 4)
                        for name, cases in mine.items()
                    },
                    flush=True,
                )
                keep()


def means(found: Mapping[str, Any], kind: str, method: str, number: str) -> dict[str, float]:
    """Of each case, over segmenters, seeds and replicates of a kind of cohort; `artefacts`: over all of them."""
    out: dict[str, list[float]] = {}
    for key, mine in found.items():
        cohort = key.split("/")[-1].partition("-")[0]
        if method in mine and (cohort == kind or (kind == "artefacts" and cohort != CLEAN)):
            for case, row in mine[method].items():
                out.setdefault(case, []).append(row[number])
    return {case: float(np.nanmean(values)) for case, values in out.items()}


def change(bench: Bench, found: Mapping[str, Any], kind: str, method: str, number: str) -> str:
    """Against LTS with images, an interval over subjects."""
    one, other = (means(found, kind, name, number) for name in (RIVAL, method))
    cases = sorted(one)
    told = paired_difference([one[c] for c in cases], [other[c] for c in cases], [bench.groups[c] for c in cases])
    text = f"{100 * told.mean:+.2f} [{100 * told.low:+.2f}, {100 * told.high:+.2f}]"
    return text if told.excludes_zero else f"{text}, not told (seen from {100 * seen(told):.2f})"


def page(bench: Bench, found: Mapping[str, Any], made: str) -> str:
    """As Markdown."""
    kinds = [CLEAN, *artefacts.ARTEFACTS, "artefacts"]
    text = " ".join((__doc__ or "").split("\n\n")[2].split())
    lines = ["# Susceptibility calibration on MRI artefacts", "", f"Made by `{made}`. {text}", ""]
    for number, title in (("ece", "ECE"), ("sce", "SCE")):
        lines += [f"## {title}, % (Table 1)", "", f"| | {' | '.join(kinds)} |", "|---" * (len(kinds) + 1) + "|"]
        for method in (*WITHOUT, *FITTED):
            cells = [f"{100 * np.mean(list(means(found, kind, method, number).values())):.2f}" for kind in kinds]
            lines.append(f"| {method} | {' | '.join(cells)} |")
        cells = [change(bench, found, kind, PROPOSED, number) for kind in kinds]
        lines += [f"| {PROPOSED} against {RIVAL} | {' | '.join(cells)} |", ""]
    lines += ["## Dice of the segmenters, labels flipped by `alea`, %", "", f"| | {' | '.join(kinds)} |"]
    lines += ["|---" * (len(kinds) + 1) + "|"]
    for method, number in (("uncalibrated", "dice"), ("alea", "dice")):
        cells = [f"{100 * np.mean(list(means(found, kind, method, number).values())):.2f}" for kind in kinds]
        lines.append(f"| {method}, {number} | {' | '.join(cells)} |")
    lines += ["", "## Components and copies, on artefacts (Table 2)", ""]
    lines += [f"| | ECE | SCE | ECE against {RIVAL} |", "|---|---|---|---|"]
    for method in (
        RIVAL,
        "two branches",
        "copies only",
        "prior only",
        PROPOSED,
        *(f"{PROPOSED}, {n} copies" for n in bench.states),
    ):
        ece, sce = (100 * np.mean(list(means(found, "artefacts", method, n).values())) for n in ("ece", "sce"))
        told = "" if method == RIVAL else change(bench, found, "artefacts", method, "ece")
        lines.append(f"| {method} | {ece:.2f} | {sce:.2f} | {told} |")
    return "\n".join([*lines, ""])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    for name, value in (("calibration", 12), ("test", 20), ("members", 3), ("seeds", 3), ("replicates", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--copies", type=int, default=180)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--brightness", type=float, default=10.0, help="in deviations of the network's input")
    args = parser.parse_args(argv)
    sys.path.insert(0, str(args.shared / "zoo"))
    sys.dont_write_bytecode = True
    import zoo  # type: ignore[import-not-found]  # of the shared folder

    torch.set_num_threads(1)
    bench, engine, data = Bench(args.work, zoo, args), segcal.Threads(2), args.output.with_suffix(".json")
    found: dict[str, Any] = json.loads(data.read_text()) if data.exists() else {}

    def keep() -> None:
        with journal.atomic(data) as temporary:
            temporary.write_text(json.dumps(found))

    run(bench, found, keep, engine)
    words = " ".join(
        f"--{name} {value}" for name, value in vars(args).items() if name not in ("shared", "work", "output")
    )
    made = f"python -m benchmarks.susceptibility --shared ../shared --work WORK {words} -o {args.output}"
    with journal.atomic(args.output) as temporary:
        temporary.write_text(page(bench, found, made))


if __name__ == "__main__":
    main()
