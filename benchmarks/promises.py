"""Which promises hold on four real ensembles, of every method that needs no image: in the arrays returned, in the files
written, and under shifts of the logits.

    python -m benchmarks.promises --shared ../shared --work WORK -o docs/results/promises.md
    python -m benchmarks.promises --work WORK --only nuclei --methods ts,dc -o some.md

Methods are fitted at their defaults on half of the groups (hippocampus: subjects; camvid: runs of 20 frames; nuclei:
images) and audited on the other half; `nuclei, shifted` are images of other stains and microscopes, with the
calibrators of nuclei. Members' logits are pooled as their mean. Labels and orders are compared here with NumPy alone:
the array that a calibrator returns, and the .npz files that `segcal.apply` writes, read back, against the mean of the
members' files. Predictions are written to WORK once and reused. Ends with an error where a promise that is proven does
not hold.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import segcal
from benchmarks.real_ensembles import group_of, halves
from segcal.data.formats.npz import NpzSink
from segcal.methods import Trained, methods

MEMBERS = 5
SHIFT = 100.0
EPOCHS = 15
"""Of trained methods: promises do not depend on how far a training went."""


@dataclass(frozen=True)
class Pool:
    """A data set: its folder in WORK, the writer's words, the name the calibrators were fitted under, and what its
    labels mean.
    """

    title: str
    folder: str
    written: tuple[str, ...]
    fitted_on: str
    background: int | None = 0
    ignore: int | None = None


POOLS = (
    Pool("nuclei", "nuclei-npz", ("nuclei",), "nuclei"),
    Pool("nuclei, shifted", "nuclei-shifted-npz", ("nuclei", "--split", "shifted"), "nuclei"),
    Pool("hippocampus", "hippocampus-npz", ("hippocampus",), "hippocampus"),
    Pool("camvid", "camvid-npz", ("camvid",), "camvid", None, 255),
)


def opened(pool: Pool, args: argparse.Namespace) -> segcal.Cohort:
    """All cases of a pool, written first if they are not there."""
    root = args.work / pool.folder
    if not (root / "done").exists():
        writer = [
            sys.executable,
            "write_predictions.py",
            pool.written[0],
            str(root.resolve()),
            "--layout",
            "npz",
            "--members",
            str(MEMBERS),
            *pool.written[1:],
        ]
        subprocess.run(writer, check=True, cwd=args.shared / "zoo")
        (root / "done").touch()
    folders = [root / f"member{k}" for k in range(MEMBERS)]
    return segcal.open_cohort(
        folders, root / "labels", pool="logits", background=pool.background, ignore_index=pool.ignore
    )


def split(pool: Pool, cohort: segcal.Cohort, args: argparse.Namespace) -> tuple[segcal.Cohort, segcal.Cohort]:
    """Cases to fit on and to audit; a shifted pool is audited whole."""
    if pool.title != pool.fitted_on:
        return cohort, limited(cohort, args.limit)
    groups = group_of(args.shared, pool.written[0], [case.id for case in cohort])
    fit, test = halves(groups)
    return limited(cohort.grouped(groups).select(fit), args.limit), limited(cohort.select(test), args.limit)


def limited(cohort: segcal.Cohort, limit: int | None) -> segcal.Cohort:
    """An even choice of cases, so that several groups are among them."""
    return (
        cohort
        if limit is None
        else cohort.select([case.id for case in cohort][:: max(1, len(cohort) // limit)][:limit])
    )


def fitted(cohort: segcal.Cohort, names: list[str], engine: segcal.Threads) -> dict[str, segcal.Calibrator | str]:
    """Calibrators by method, or why there is none."""
    out: dict[str, segcal.Calibrator | str] = {}
    for name in names:
        try:
            named = methods()[name]
            method = named(epochs=EPOCHS) if issubclass(named.kind, Trained) else named()
            out[name] = segcal.fit_methods({name: method}, cohort, engine)[name].calibrator
        except segcal.SegcalError as error:
            out[name] = str(error)
    return out


def pooled(cohort: segcal.Cohort, name: str, work: Path, folder: str) -> np.ndarray:
    """Mean of the members' logits (C, *spatial), float64, read without segcal."""
    members = [
        np.load(work / folder / f"member{k}" / f"{name}.npz")["logits"].astype(np.float64)
        for k in range(cohort.members)
    ]
    return np.asarray(np.sum(members, 0) / len(members))


def changes(z: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Voxels whose label differs, and voxels in which two classes that differ in the scores (C, *spatial) are the other
    way round in the probabilities.
    """
    swapped = np.zeros(z.shape[1:], bool)
    for a in range(len(z)):
        for b in range(a):
            swapped |= ((z[a] > z[b]) & (p[a] < p[b])) | ((z[a] < z[b]) & (p[a] > p[b]))
    return np.array([(z.argmax(0) != p.argmax(0)).sum(), swapped.sum()])


def examined(
    pool: Pool, calibrator: segcal.Calibrator, cohort: segcal.Cohort, engine: segcal.Threads, args: argparse.Namespace
) -> dict[str, Any]:
    """One calibrator on one pool."""
    found = segcal.audit(calibrator, cohort, engine, shifts=(SHIFT,))
    returned, written = np.zeros(2, np.int64), np.zeros(2, np.int64)
    with tempfile.TemporaryDirectory() as folder:
        failed = [
            o.error for o in segcal.apply(calibrator, cohort, NpzSink(Path(folder)), engine) if o.error is not None
        ]
        if failed:
            raise failed[0]
        for case in cohort:
            z = pooled(cohort, case.id, args.work, pool.folder)
            with np.load(Path(folder) / f"{case.id}.npz") as file:
                written += changes(z, file["probabilities"])
            returned += changes(z, calibrator(torch.from_numpy(z)[None], kind="logits")[0].numpy())
    moved = {probe.unit: m for probe, m in found.shifts.items()}
    return {
        "promises": {f.promise: {"claimed": f.claimed, "verdict": f.verdict} for f in found.findings},
        "voxels": found.preserved.voxels,
        "returned": {"labels": int(returned[0]), "orders": int(returned[1])},
        "written": {"labels": int(written[0]), "orders": int(written[1])},
        "audited": {"labels": found.preserved.labels_changed, "orders": found.preserved.orders_changed},
        "ties": found.preserved.ties,
        "plain_ties": found.preserved.plain_ties,
        "shifts": {
            unit: {
                "largest": m.largest,
                "plain": m.plain,
                "units": m.units,
                "plain_units": m.plain_units,
                "exact": m.exact,
                "plain_exact": m.plain_exact,
                "labels": m.labels_changed,
            }
            for unit, m in moved.items()
        },
        "flips": found.flips.to_json(),
        "free_energy_std": found.to_json()["free_energy_std"],
    }


def faults(row: dict[str, Any]) -> list[str]:
    """Proven promises that do not hold, here or in the audit."""
    claims = {name: promise["claimed"] == "proven" for name, promise in row["promises"].items()}
    out = [name for name, promise in row["promises"].items() if promise["verdict"] == "broken"]
    for where in ("returned", "written"):
        out += [f"labels {where}"] if claims["preserves_argmax"] and row[where]["labels"] else []
        out += [f"orders {where}"] if claims["preserves_order"] and row[where]["orders"] else []
    return out


def page(results: list[dict[str, Any]], command: str) -> str:
    """The results as Markdown."""
    lines = [
        "# Promises on real ensembles",
        "",
        f"Made by `{command}`.",
        "",
        (
            "Calibrators are fitted at their defaults on half of the groups; everything here is of the other half, and"
            " of nuclei under another stain or microscope."
        ),
        (
            "Labels and orders are counted in voxels, against the mean of the members' logits, with NumPy alone: in the"
            " float32 arrays that a calibrator returns"
        ),
        (
            "(`returned`) and in the files that `segcal apply` writes, read back (`written`). Shifts are constants of"
            " up to"
        ),
        (
            f"{SHIFT:g} added in float64 to all logits, one a voxel, or one a member and case, before pooling: the"
            " largest change of a delivered float32 probability,"
        ),
        (
            "how many units in the last place of float32 that is, and in brackets the change before rounding to"
            " float32. The last line of each table is a plain softmax"
        ),
        "of the same scores. `proven` stands for a promise that follows from the parameters.",
        "",
    ]
    for pool in results:
        lines += [
            f"## {pool['title']}",
            "",
            (
                f"{pool['cases']} cases, {pool['voxels']:,} voxels, {pool['classes']} classes; fitted on"
                f" {pool['fit_cases']} other cases."
            ),
            "",
            (
                "| method | label kept | order kept | invariant | labels changed, returned | written | orders changed,"
                " returned | written | shift a voxel | shift a member |"
            ),
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        plain: dict[str, str] = {}
        for name, row in pool["methods"].items():
            if isinstance(row, str):
                lines.append(f"| {name} | not fitted: {row.replace('|', ' ')} | | | | | | | | |")
                continue
            claims = [
                row["promises"][p]["claimed"] for p in ("preserves_argmax", "preserves_order", "translation_invariant")
            ]
            counts = [f"{row[where][what]:,}" for what in ("labels", "orders") for where in ("returned", "written")]
            moved = [shift_cell(m["largest"], m["units"], m["exact"]) for m in row["shifts"].values()]
            plain = {
                unit: shift_cell(m["plain"], m["plain_units"], m["plain_exact"]) for unit, m in row["shifts"].items()
            }
            lines.append("| " + " | ".join([name, *claims, *counts, *moved]) + " |")
        if plain:
            lines.append("| " + " | ".join(["softmax", *[""] * 7, *plain.values()]) + " |")
        lines.append("")
    return "\n".join(lines)


def shift_cell(largest: float, units: int, exact: float | None) -> str:
    """What one unit of shifts does; a map that looks at neighbours is audited on whole cases, where nothing is known
    before rounding.
    """
    many = "many" if units > 1000 else str(units)
    return f"{largest:.2g}, {many} unit{'' if units == 1 else 's'}" + ("" if exact is None else f" ({exact:.1e})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", help="pools whose title contains this")
    parser.add_argument("--methods", help="some of the registered methods, with commas")
    parser.add_argument("--limit", type=int, help="cases of each half, for a quick look")
    parser.add_argument("--workers", type=int)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    names = args.methods.split(",") if args.methods else [name for name in methods() if name != "lts-image"]
    given = {"--only": args.only, "--methods": args.methods, "--limit": args.limit}
    flags = [f"{name} {value}" for name, value in given.items() if value is not None]
    engine = segcal.Threads(args.workers)
    calibrators: dict[str, dict[str, segcal.Calibrator | str]] = {}
    fit_cases: dict[str, int] = {}
    results, wrong = [], []
    for pool in POOLS:
        if args.only and args.only not in pool.title:
            continue
        if pool.fitted_on not in calibrators:
            source = next(p for p in POOLS if p.title == pool.fitted_on)
            own, _ = split(source, opened(source, args), args)
            calibrators[pool.fitted_on], fit_cases[pool.fitted_on] = fitted(own, names, engine), len(own)
        _, test = split(pool, opened(pool, args), args)
        rows: dict[str, Any] = {}
        for name, calibrator in calibrators[pool.fitted_on].items():
            started = time.perf_counter()
            rows[name] = calibrator if isinstance(calibrator, str) else examined(pool, calibrator, test, engine, args)
            print(f"{pool.title}, {name}: {time.perf_counter() - started:.1f} s", flush=True)
            wrong += (
                []
                if isinstance(calibrator, str)
                else [f"{pool.title}, {name}: {fault}" for fault in faults(rows[name])]
            )
        voxels = sum(case.voxels for case in test)
        results.append(
            {
                "title": pool.title,
                "cases": len(test),
                "voxels": voxels,
                "classes": test.head.channels,
                "fit_cases": fit_cases[pool.fitted_on],
                "methods": rows,
            }
        )
        args.output.write_text(
            page(
                results, " ".join(["python -m benchmarks.promises --work WORK", *flags, "-o docs/results/promises.md"])
            )
        )
        args.output.with_suffix(".json").write_text(json.dumps(results, indent=1))
    if wrong:
        raise SystemExit("a promise does not hold: " + "; ".join(wrong))


if __name__ == "__main__":
    main()
