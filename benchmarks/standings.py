"""Standings of the arena: what each entrant removed, ranks with intervals, tests, and the page, from what lies in KEEP.

A cell is a cohort, a condition and a number of groups to calibrate on. Definitions stand in `benchmarks.arena`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[Any]

IDENTITY = "identity"
REFERENCE = "segcal ts"
OURS = "segcal auto"
SHUFFLED = ", labels permuted"
ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class Cell:
    """A cohort, a condition, a number of groups: of each entrant its draws. `sums` (D, G, S, 4) by entrant, `cases`
    (D, n, 4), `seconds` (D,), `expected`: the interval of each draw. `failed`: why, of those that did.
    """

    cohort: str
    condition: str
    size: int
    sums: Mapping[str, Array]
    cases: Mapping[str, Array]
    seconds: Mapping[str, Array]
    expected: Mapping[str, Sequence[Sequence[float] | None]]
    failed: Mapping[str, str]

    @property
    def groups(self) -> int:
        """How many judge."""
        return int(next(iter(self.sums.values())).shape[1])

    def macro(self, entrant: str, column: int, weights: Array) -> Array:
        """Mean over strata of a pooled number under `weights` (B, G) of groups: (B, D)."""
        sums = self.sums[entrant]
        total = np.einsum("bg,dgs->bds", weights, sums[..., column])
        voxels = np.einsum("bg,dgs->bds", weights, sums[..., 0])
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.where(voxels > 0, total / voxels, 0).sum(-1) / (voxels > 0).sum(-1))

    def removed(self, entrant: str, column: int, weights: Array) -> Array:
        """Share of the uncalibrated number that is removed, mean over draws: (B,)."""
        return np.asarray((1 - self.macro(entrant, column, weights) / self.macro(IDENTITY, column, weights)).mean(1))

    def resampled(self, count: int) -> Array:
        """Weights of groups: all once first, then `count` bootstrap samples; the same for every cell of a cohort."""
        rng = np.random.default_rng(0)
        drawn = rng.multinomial(self.groups, np.full(self.groups, 1 / self.groups), count)
        return np.concatenate([np.ones((1, self.groups)), drawn]).astype(float)

    def against(self, entrant: str, other: str) -> tuple[float, float, int]:
        """Share removed by one minus that by another, its jackknife standard error and the groups."""
        weights = np.concatenate([np.ones((1, self.groups)), 1 - np.eye(self.groups)])
        change = self.removed(entrant, NLL, weights) - self.removed(other, NLL, weights)
        without, count = change[1:], self.groups
        return float(change[0]), math.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum()), count


NLL, BRIER, DIVERGENCE = 1, 2, 3


def collected(keep: Path, names: Sequence[str]) -> list[Cell]:
    """What lies in `keep`, cell by cell; draws in which an entrant has not been yet are left out."""
    cells = []
    for cohort in sorted(path for path in keep.iterdir() if path.is_dir()):
        sizes = sorted({int(path.name.split("-")[0]) for path in cohort.iterdir()})
        for size in sizes:
            drawn = [
                path for path in sorted(cohort.glob(f"{size}-*")) if all((path / f"{n}.npz").is_file() for n in names)
            ]
            if not drawn:
                continue
            files = {name: [path / f"{name}.npz" for path in drawn] for name in names}
            read = {name: [dict(np.load(file)) for file in some] for name, some in files.items()}
            told = {name: [json.loads(str(one["told"])) for one in some] for name, some in read.items()}
            failed = {
                n: next(t["failed"] for t in some if t["failed"])
                for n, some in told.items()
                if any(t["failed"] for t in some)
            }
            fine = [name for name in names if name not in failed]
            for condition in sorted({key.split("/")[0] for key in read[IDENTITY][0] if key != "told"}):
                sums, cases = (
                    {name: np.stack([one[f"{condition}/{what}"] for one in read[name]]) for name in fine}
                    for what in ("sums", "cases")
                )
                seconds = {name: np.array([t["seconds"] for t in told[name]]) for name in fine}
                expected = {name: [t["interval"] for t in told[name]] for name in fine}
                cells += [Cell(cohort.name, condition, size, sums, cases, seconds, expected, failed)]
    return cells


def ranks(shares: Array) -> Array:
    """Rank of each entrant, 1 for the most removed: (E, B) to (E, B); ties share."""
    return np.asarray(stats.rankdata(-shares, axis=0))


def percent(values: Array) -> str:
    """All groups once, and the interval over resampled groups."""
    low, high = np.percentile(values[1:], (2.5, 97.5))
    return f"{100 * values[0]:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def standings(cells: Sequence[Cell], names: Sequence[str], replicates: int) -> dict[str, Any]:
    """Every figure of the page."""
    out: dict[str, Any] = {"cells": [], "overall": {}}
    every: dict[str, list[Array]] = {name: [] for name in names}
    for cell in cells:
        weights, fine = cell.resampled(replicates), list(cell.sums)
        removed = {name: cell.removed(name, NLL, weights) for name in fine}
        ranked = dict(zip(fine, ranks(np.stack([removed[name] for name in fine])), strict=True))
        alone = {
            name: 1 - cell.macro(name, NLL, weights[:1])[0] / cell.macro(IDENTITY, NLL, weights[:1])[0] for name in fine
        }
        rows = {
            name: {
                "nll": percent(removed[name]),
                "nll removed": float(removed[name][0]),
                "brier": percent(cell.removed(name, BRIER, weights)),
                "worst draw": float(alone[name].min()),
                "rank": [float(ranked[name][0]), *map(float, np.percentile(ranked[name][1:], (2.5, 97.5)))],
                "flips": float(cell.cases[name][..., 3].mean()),
                "dice": float(cell.cases[name][..., 2].mean()),
                "seconds": float(np.median(cell.seconds[name])),
            }
            for name in fine
        }
        found = {
            "cohort": cell.cohort,
            "condition": cell.condition,
            "groups": cell.size,
            "judges": cell.groups,
            "draws": len(cell.seconds[IDENTITY]),
            "rows": rows,
        }
        found["failed"] = dict(cell.failed)
        if OURS in fine and REFERENCE in fine and not cell.cohort.endswith(SHUFFLED):
            change, error, count = cell.against(OURS, REFERENCE)
            t = change / error if error > 0 else 0.0
            found["auto minus ts"] = {"change": change, "error": error, "p": float(2 * stats.t.sf(abs(t), count - 1))}
            told = [
                (one[:, 1].mean() - one[:, 0].mean(), *interval)
                for one, interval in zip(cell.cases[OURS], cell.expected[OURS], strict=True)
                if interval is not None and None not in interval and np.isfinite(interval).all()
            ]
            # what is left as it came is given back rounded
            found["intervals"] = {
                "told": len(told),
                "gained more": sum(bool(change < low - ROUNDING) for change, low, _ in told),
                "gained less": sum(bool(change > high + ROUNDING) for change, _, high in told),
            }
        truth = {name: float(cell.macro(name, DIVERGENCE, weights[:1]).mean()) for name in fine}
        if not any(math.isnan(value) for value in truth.values()):
            found["kendall"] = float(stats.kendalltau([-removed[n][0] for n in fine], [truth[n] for n in fine])[0])
        if not cell.cohort.endswith(SHUFFLED):
            worst = np.full(replicates + 1, float(len(names)))
            for name in names:
                every[name].append(ranked.get(name, worst))
        out["cells"].append(found)
    for name, some in every.items():
        if some:
            mean = np.mean(some, 0)
            out["overall"][name] = [float(mean[0]), *map(float, np.percentile(mean[1:], (2.5, 97.5)))]
    return out


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p values (Holm 1979)."""
    order, out, largest = np.argsort(p), [0.0] * len(p), 0.0
    for k, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - k) * p[i]))
        out[i] = largest
    return out


def page(found: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    """Overall ranks, what is claimed, then a table a cohort and condition."""
    cells = found["cells"]
    plain = [cell for cell in cells if not cell["cohort"].endswith(SHUFFLED)]
    lines = [
        "# Arena",
        "",
        "Made by " + ", ".join(f"`{one}`" for one in told["commands"]) + ".",
        "",
        *told["about"],
        "",
        "## Mean rank over all cells",
        "",
    ]
    lines += ["| entrant | rank by NLL [95 % over groups] |", "|---|---|"]
    for name, (mean, low, high) in sorted(found["overall"].items(), key=lambda kv: kv[1][0]):
        lines.append(f"| {name} | {mean:.2f} [{low:.2f}, {high:.2f}] |")
    tested = [cell for cell in plain if "auto minus ts" in cell]
    if tested:
        adjusted = holm([cell["auto minus ts"]["p"] for cell in tested])
        worse = [c for c, p in zip(tested, adjusted, strict=True) if p < 0.05 and c["auto minus ts"]["change"] < 0]
        better = [c for c, p in zip(tested, adjusted, strict=True) if p < 0.05 and c["auto minus ts"]["change"] > 0]
        lowest = min(tested, key=lambda c: c["auto minus ts"]["change"])
        lines += ["", "## `auto` against temperature scaling", ""]
        lines.append(
            f"Of {len(tested)} cells `auto` is better in {len(better)} and worse in {len(worse)} (5 %, after Holm)"
            + "".join(f"; worse: {where(c)}" for c in worse)
            + f". Lowest: {100 * lowest['auto minus ts']['change']:+.1f} points of the NLL ({where(lowest)},"
            f" standard error {100 * lowest['auto minus ts']['error']:.1f})."
        )
        for clean in (True, False):
            some = [c["intervals"] for c in tested if (c["condition"] == "clean") is clean]
            of, more, less = (sum(one[k] for one in some) for k in ("told", "gained more", "gained less"))
            if of:
                kind = "clean" if clean else "shifted"
                lines.append(
                    f"On {kind} cases its own 95 % intervals hold the change in {of - more - less} of {of} draws;"
                    f" it gained more than that in {more}, less in {less}."
                )
    known = [cell for cell in plain if "kendall" in cell]
    if known:
        taus = [cell["kendall"] for cell in known]
        lines += ["", "## Known truth", ""]
        lines.append(
            f"Kendall's tau of the order by NLL with that by divergence from the truth: mean {np.mean(taus):.2f},"
            f" lowest {min(taus):.2f} ({where(known[int(np.argmin(taus))])}), {len(taus)} cells."
        )
    shuffled = [cell for cell in cells if cell["cohort"].endswith(SHUFFLED)]
    if shuffled:
        most = max((row["nll removed"], name, where(cell)) for cell in shuffled for name, row in cell["rows"].items())
        lines += ["", "## Labels permuted before fitting", ""]
        lines.append(f"Most that anyone removes: {100 * most[0]:.1f} % ({most[1]}, {most[2]}), {len(shuffled)} cells.")
    for cohort, condition in dict.fromkeys((cell["cohort"], cell["condition"]) for cell in plain):
        some = [cell for cell in plain if (cell["cohort"], cell["condition"]) == (cohort, condition)]
        lines += [
            "",
            f"## {cohort}, {condition}",
            "",
            f"{some[0]['judges']} judging groups; draws: "
            + ", ".join(f"{cell['draws']} of {cell['groups']} groups" for cell in some)
            + ".",
            "",
        ]
        lines.append(
            "| entrant | "
            + " | ".join(f"NLL removed, {cell['groups']} groups, %" for cell in some)
            + " | Brier removed, most groups, %"
            + " | worst draw, fewest groups, % | rank, mean | flips, % | Dice | fit, s |"
        )
        lines.append("|---|" + "---|" * (len(some) + 6))
        names = [name for name in found["overall"] if any(name in cell["rows"] for cell in some)]
        mean = {n: np.mean([c["rows"][n]["rank"][0] if n in c["rows"] else len(names) for c in some]) for n in names}
        for name in sorted(names, key=lambda n: mean[n]):
            shares = [cell["rows"][name]["nll"] if name in cell["rows"] else "failed" for cell in some]
            last = [cell["rows"][name] for cell in some if name in cell["rows"]]
            lines.append(
                f"| {name} | {' | '.join(shares)} | {last[-1]['brier']} | {100 * last[0]['worst draw']:.1f} |"
                f" {mean[name]:.1f} | {100 * last[-1]['flips']:.2f} | {last[-1]['dice']:+.4f} |"
                f" {last[-1]['seconds']:.1f} |"
            )
        lost = {name: why for cell in some for name, why in cell["failed"].items()}
        lines += [f"\nFailed: {name}: {why}" for name, why in lost.items()]
    return "\n".join(lines) + "\n"


def where(cell: Mapping[str, Any]) -> str:
    """A cell in words."""
    return f"{cell['cohort']}, {cell['condition']}, {cell['groups']} groups"
