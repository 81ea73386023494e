"""How the strength of a penalty should be chosen with few images: segcal's average over strengths beside picking one,
and beside fiducio's default.

    python benchmarks/peers/strengths.py --shared ../shared --work WORK -o docs/results/strengths.md

Only the calibration half of each data set is read (the test half of `class_conditional.py` is not): some images of half
of its groups, drawn at random, are calibrated on, and those of its other groups judge. All rules see the same
cross-validation, which the fit reports: `lowest` takes the strength of lowest NLL; `one error`, the strongest within
one standard error of it (Breiman et al. 1984); `average` is segcal's default. Each rule's fit is made anew on all
voxels. Adds to a JSON file beside the page; data sets and methods may be run one by one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from class_conditional import PEERS, Table, by_case, fit, nll_of, tables
from ensembles import IGNORED, added, arguments, predictions
from scipy import stats

import segcal

METHODS = ("dc", "cms-ap", "cms-op", "cdc")
DRAWS = {5: 8, 15: 4}
RULES = ("temperature scaling", "fiducio", "one error", "lowest", "average")


def picked(selection: Sequence[Mapping[str, Any]], groups: int) -> dict[str, float | None]:
    """The strength each rule picks from a cross-validated path; None is temperature scaling."""
    wider = stats.t.ppf(stats.norm.cdf(1), groups - 1)
    lowest = min(selection, key=lambda row: row["nll"])
    first = next(row for row in selection if row["excess"] <= wider * row["excess_standard_error"])
    return {"lowest": lowest["lambda"], "one error": first["lambda"]}


def drawn(name: str, some: Table, others: Table, groups: int, threads: int, temperature: float) -> dict[str, float]:
    """Mean NLL over the other images under each rule."""
    default = fit(name, some, threads)
    assert default.solution is not None
    found = {"temperature scaling": temperature, "average": float(np.mean(by_case(nll_of(default, others), others)[0]))}
    at: dict[float | None, float] = {None: temperature}
    for rule, strength in picked(default.solution.selection, groups).items():
        if strength not in at:
            at[strength] = float(
                np.mean(by_case(nll_of(fit(name, some, threads, lambda_=strength), others), others)[0])
            )
        found[rule] = at[strength]
    if name in PEERS:
        torch.set_num_threads(threads)
        theirs = PEERS[name](device="cpu").fit(torch.from_numpy(some.logits), torch.from_numpy(some.labels))
        found["fiducio"] = float(np.mean(by_case(nll_of(theirs, others), others)[0]))
    return found


def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["dataset"], row["images"], row["method"], row["draw"]


def page(rows: Sequence[Mapping[str, Any]], command: str) -> str:
    """Means over draws, and the worst draw against temperature scaling."""
    lines = [
        "# Averaging over strengths, or picking one",
        "",
        (
            f"Made by `{command}`. Images of the calibration half alone: some of half of its groups calibrate, drawn at"
            " random, all of the other groups judge. NLL, mean over images and draws; in brackets the worst draw's"
            " difference from temperature scaling (below zero: better in every draw). Lowest in bold. segcal"
            f" {segcal.__version__}."
        ),
        "",
        f"| data | images | draws | method | {' | '.join(RULES)} |",
        f"|---|---|---|---|{'---|' * len(RULES)}",
    ]
    cells: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        cells.setdefault(key(row)[:3], []).append(row)
    for (dataset, images, method), of in cells.items():
        mean = {rule: float(np.mean([row["nll"][rule] for row in of])) for rule in RULES if rule in of[0]["nll"]}
        worst = {rule: max(row["nll"][rule] - row["nll"]["temperature scaling"] for row in of) for rule in mean}
        best = min(mean.values())

        def cell(rule: str, mean: dict[str, float] = mean, worst: dict[str, float] = worst, best: float = best) -> str:
            if rule not in mean:
                return ""
            number = f"**{mean[rule]:.4f}**" if mean[rule] == best else f"{mean[rule]:.4f}"
            return number if rule == RULES[0] else f"{number} ({worst[rule]:+.4f})"

        lines.append(f"| {dataset} | {images} | {len(of)} | {method} | {' | '.join(cell(rule) for rule in RULES)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    args = arguments(__doc__, list(METHODS), 500_000, 1, 1).parse_args()
    kept = args.output.with_suffix(".json")
    for dataset in args.datasets:
        train, _ = tables(
            predictions(args.shared, args.work / f"{dataset}-npz", dataset, "--members", "5"), dataset, args.voxels
        )
        cases = sorted(set(train.cases.tolist()))
        rows = []
        for images, draws in DRAWS.items():
            for draw in range(draws):
                rng = np.random.default_rng(1000 + draw)
                mine = set(rng.permutation(sorted({train.group_of[i] for i in cases}))[::2].tolist())
                chosen = rng.permutation([i for i in cases if train.group_of[i] in mine])[:images].tolist()
                some, others = train.of(chosen), train.of([i for i in cases if train.group_of[i] not in mine])
                of = len({train.group_of[i] for i in chosen})
                temperature = float(np.mean(by_case(nll_of(fit("ts", some, args.threads), others), others)[0]))
                for name in args.methods:
                    begin = time.perf_counter()
                    rows.append(
                        {
                            "dataset": dataset,
                            "images": images,
                            "method": name,
                            "draw": draw,
                            "nll": drawn(name, some, others, of, args.threads, temperature),
                        }
                    )
                    print(rows[-1], f"{time.perf_counter() - begin:.1f} s", flush=True)
        everything = added(
            kept,
            rows,
            key,
            lambda r: (list(IGNORED).index(r["dataset"]), r["images"], METHODS.index(r["method"]), r["draw"]),
        )
        args.output.write_text(
            page(everything, "python benchmarks/peers/strengths.py --work WORK -o docs/results/strengths.md")
        )


if __name__ == "__main__":
    main()
