"""All exactly fitted methods on the whole pools of three real ensembles, in every layout a user may have, through the
command line.

    python benchmarks/real_ensembles.py --shared ../shared --work WORK -o docs/results/real_ensembles.md

For each pool: `check` on all of it, `fit` on half of the groups, `evaluate` and `apply` on the other half. Groups stay
whole: hippocampus by subject, camvid by runs of 20 consecutive frames of a sequence, nuclei by image. Predictions are
written to WORK once and reused. Every written file is compared with the scores it was made from: labels that a
preserving calibrator flipped, and delivered label maps that are not byte for byte the same, are counted and must be
none.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

METHODS = ("ts", "ets", "vs", "ms", "ms-c", "dc", "cdc", "cms-ap", "cms-op")
APPLIED = ("ts", "ets", "dc", "cms-ap", "cms-op")
PRESERVING = ("ts", "ets", "cms-ap", "cms-op")
MEMBERS = 5


@dataclass(frozen=True)
class Pool:
    """One data set in one layout: what the writer is called with, how it is pooled, and how many members are used."""

    title: str
    dataset: str
    options: tuple[str, ...]
    pool: str | None = None
    members: int = MEMBERS
    maps: bool = False

    @property
    def folder(self) -> str:
        return "-".join([self.dataset, *(o.strip("-") for o in self.options if o != "--layout")])


POOLS = (
    Pool("hippocampus, logits, mean of logits", "hippocampus", ("--layout", "npz"), "logits"),
    Pool("hippocampus, logits, mean of probabilities", "hippocampus", ("--layout", "npz"), "probs"),
    Pool("hippocampus, nnU-Net predictions, mean of probabilities", "hippocampus", ("--layout", "nnunet"), "probs"),
    Pool("hippocampus, nnU-Net predictions, mean of logits", "hippocampus", ("--layout", "nnunet"), "logits"),
    Pool(
        "hippocampus, nnU-Net predictions, transposed, cropped, post-processed, one network",
        "hippocampus",
        ("--layout", "nnunet", "--transpose", "--postprocess", "--crop", "3"),
        None,
        1,
        True,
    ),
    Pool(
        "hippocampus, nnU-Net predictions, transposed, cropped, post-processed, five networks",
        "hippocampus",
        ("--layout", "nnunet", "--transpose", "--postprocess", "--crop", "3"),
        "probs",
    ),
    Pool(
        "hippocampus, nnU-Net regions, transposed, cropped, post-processed, one network",
        "hippocampus",
        ("--layout", "nnunet", "--regions", "--transpose", "--postprocess", "--crop", "3"),
        None,
        1,
        True,
    ),
    Pool("hippocampus, nnU-Net results folder", "hippocampus", ("--layout", "nnunet-results")),
    Pool("camvid, logits, mean of logits", "camvid", ("--layout", "npz"), "logits"),
    Pool("camvid, logits, mean of probabilities", "camvid", ("--layout", "npz"), "probs"),
    Pool("camvid, nnU-Net results folder", "camvid", ("--layout", "nnunet-results")),
    Pool("camvid, nnU-Net predictions, cropped, one network", "camvid", ("--layout", "nnunet", "--crop", "3"), None, 1),
    Pool("nuclei, logits, mean of logits", "nuclei", ("--layout", "npz"), "logits"),
    Pool("nuclei, logits, mean of probabilities", "nuclei", ("--layout", "npz"), "probs"),
    Pool("nuclei, nnU-Net predictions, cropped, one network", "nuclei", ("--layout", "nnunet", "--crop", "3"), None, 1),
    Pool("nuclei, nnU-Net results folder", "nuclei", ("--layout", "nnunet-results")),
)


def group_of(shared: Path, dataset: str, names: list[str]) -> dict[str, str]:
    """The group of each case."""
    if dataset == "hippocampus":
        info = json.loads((shared / "data" / "hippocampus" / "dataset.json").read_text())["case_info"]
        return {n: info[n]["subject_inferred"] for n in names}
    if dataset == "camvid":
        out: dict[str, str] = {}
        seen: dict[str, int] = {}
        for name in sorted(names):
            sequence = name.split("_")[0]
            out[name] = f"{sequence}-{seen.get(sequence, 0) // 20}"
            seen[sequence] = seen.get(sequence, 0) + 1
        return out
    return {n: n for n in names}


def halves(groups: dict[str, str], seed: int = 0) -> tuple[list[str], list[str]]:
    """Cases to fit on and cases to score, whole groups, about half of the cases each."""
    names = sorted(set(groups.values()))
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    fit: list[str] = []
    for group in order:
        members = [n for n, g in sorted(groups.items()) if g == group]
        if len(fit) + len(members) / 2 <= len(groups) / 2:
            fit += members
    return sorted(fit), sorted(set(groups) - set(fit))


def inputs(root: Path, pool: Pool) -> tuple[list[str], list[str]]:
    """Folders of scores and the labels argument."""
    if "nnunet-results" in pool.options:
        return [str(root / "nnUNet_results")], []
    labels = root / ("labels" if "npz" in pool.options else "labelsTr")
    return [str(root / f"member{k}") for k in range(pool.members)], ["--labels", str(labels)]


def case_names(root: Path, pool: Pool) -> list[str]:
    pattern = "nnUNet_results/*/*/fold_*/validation/*.npz" if "nnunet-results" in pool.options else "member0/*.npz"
    return sorted(p.stem for p in root.glob(pattern))


def segcal(*arguments: str, expect: int = 0) -> str:
    """Run the command line as a user would."""
    done = subprocess.run([sys.executable, "-m", "segcal", *arguments], capture_output=True, text=True)
    if done.returncode != expect:
        raise SystemExit(f"segcal {' '.join(arguments)}\nexit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def run(pool: Pool, args: argparse.Namespace) -> dict[str, Any]:
    root = args.work / pool.folder
    if not (root / "done").exists():
        writer = [sys.executable, "write_predictions.py", pool.dataset, str(root.resolve()), *pool.options]
        if args.limit:
            writer += ["--limit", str(args.limit)]
        subprocess.run(writer, check=True, cwd=args.shared / "zoo")
        (root / "done").touch()
    names = case_names(root, pool)
    groups = group_of(args.shared, pool.dataset, names)
    table = root / "groups.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("case", "group"), *groups.items()])
    fit, test = halves(groups)
    scores, labels = inputs(root, pool)
    how = ["--pool", pool.pool] if pool.pool else []
    common = [*scores, *labels, *how]
    if pool.dataset == "camvid" and "npz" in pool.options:
        common += ["--ignore-index", "255"]
    if pool.dataset != "camvid" and "npz" in pool.options:
        common += ["--background", "0"]
    grouped = ["--groups", str(table), "--workers", "2", "--quiet"]
    started = time.perf_counter()
    segcal("check", *common, "--quiet", "--workers", "2")
    checked = time.perf_counter()
    cals = root / f"calibrators-{pool.pool}-{pool.members}"
    segcal("fit", *common, *grouped, "--method", ",".join(METHODS), "--no-crossfit", *_cases(fit), "-o", str(cals))
    fitted = time.perf_counter()
    results, counts = {}, {}
    for method in METHODS:
        out = root / f"evaluation-{method}.json"
        segcal(
            "evaluate",
            *common,
            *grouped,
            "--calibrator",
            str(cals / f"{method}.safetensors"),
            *_cases(test),
            "--json",
            str(out),
        )
        results[method] = json.loads(out.read_text())
    evaluated = time.perf_counter()
    for method in APPLIED:
        out = root / f"applied-{method}-{pool.pool}-{pool.members}"
        maps = ["--maps", "entropy,confidence,error"] if pool.maps and method == "dc" else []
        segcal(
            "apply",
            str(cals / f"{method}.safetensors"),
            *scores,
            *how,
            *_cases(test),
            "-o",
            str(out),
            "--overwrite",
            "--workers",
            "2",
            "--quiet",
            *maps,
        )
        counts[method] = compare(out, scores, test, pool)
    seconds = {
        "check": checked - started,
        "fit": fitted - checked,
        "evaluate": evaluated - fitted,
        "apply": time.perf_counter() - evaluated,
    }
    print(f"{pool.title}: { ({k: round(v, 1) for k, v in seconds.items()}) }", flush=True)
    return {
        "seconds": seconds,
        "pool": pool.title,
        "fit_cases": len(fit),
        "test_cases": len(test),
        "groups": len(set(groups.values())),
        "results": results,
        "written": counts,
    }


def _cases(names: list[str]) -> list[str]:
    return [part for name in names for part in ("--cases", name)]


def compare(out: Path, scores: list[str], names: list[str], pool: Pool) -> dict[str, int]:
    """Voxels whose arg max (or side of 0.5) differs between what was written and the pooled scores, read here
    independently; label maps not copied byte for byte.
    """
    flipped = voxels = changed = copied = 0
    regions = "--regions" in pool.options
    for name in names:
        p = np.load(out / f"{name}.npz")["probabilities"]
        if "nnunet-results" in pool.options:
            files = [next(Path(scores[0]).glob(f"*/*/fold_*/validation/{name}.npz"))]
        else:
            files = [Path(s) / f"{name}.npz" for s in scores]
        source = pooled(files, pool.pool)
        voxels += p[0].size
        flipped += (
            int(((p > 0.5) != (source > 0.5)).any(0).sum()) if regions else int((p.argmax(0) != source.argmax(0)).sum())
        )
        if len(files) == 1 and "npz" not in pool.options:
            maps = [f for f in files[0].parent.glob(f"{name}.*") if f.suffix not in (".npz", ".pkl")]
            copied += len(maps)
            changed += sum((out / f.name).read_bytes() != f.read_bytes() for f in maps)
    return {"voxels": voxels, "flipped": flipped, "label_maps": copied, "label_maps_changed": changed}


def pooled(files: list[Path], how: str | None) -> np.ndarray:
    """Mean of the members in float64, by the definition."""
    total: np.ndarray | None = None
    for file in files:
        with np.load(file) as opened:
            key = opened.files[0]
            x = opened[key].astype(np.float64)
        if len(files) > 1 and key == "logits" and how == "probs":
            x = np.exp(x - x.max(0))
            x /= x.sum(0)
        if len(files) > 1 and key == "probabilities" and how == "logits":
            x = np.log(np.maximum(x, 1e-12))
            top = x.max(0)
            x = x - (top + np.log(np.exp(x - top).sum(0)))
        total = x if total is None else total + x
    assert total is not None
    return total / len(files)


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def page(rows: list[dict[str, Any]], command: str) -> str:
    lines = [
        "# Methods on three real ensembles",
        "",
        f"Made by `{command}`.",
        "",
        (
            "Each pool is split once by group (hippocampus: subject; camvid: runs of 20 consecutive frames of a"
            " sequence; nuclei: image): calibrators are fitted on one half,"
        ),
        (
            "all numbers are of the other. NLL, ECE (50 bins) and Dice are means of images; ACE (15 bins, unweighted)"
            " is pooled; flips are voxels whose label"
        ),
        (
            "changed, in per cent. The interval is the change of NLL, paired over cases and clustered by group, 95 %."
            " Penalised methods are averages over"
        ),
        (
            "strengths, weighed by case-wise cross-validation on the fitting half. Camvid has no background class: all"
            " eleven count. Pools can be made"
        ),
        "one by one (`--only`); one that was last made before a method existed shows the others.",
        "",
    ]
    for row in rows:
        before = row["results"][METHODS[0]]["uncalibrated"]
        lines += [
            f"## {row['pool']}",
            "",
            f"{row['fit_cases']} cases to fit on, {row['test_cases']} to score, {row['groups']} groups in all.",
            "",
            "| method | NLL | change of NLL | ECE % | ACE % | Dice % | flips % |",
            "|---|---|---|---|---|---|---|",
            (
                f"| none | {before['nll']:.4f} | | {percent(before['ece'])} | {percent(before['ace'])} |"
                f" {percent(before['dice'])} | |"
            ),
        ]
        for method in (m for m in METHODS if m in row["results"]):
            after, change = row["results"][method]["calibrated"], row["results"][method]["differences"]["nll"]
            interval = (
                f"{change['mean']:+.4f} [{change['low']:+.4f}, {change['high']:+.4f}]"
                if change["low"] is not None
                else f"{change['mean']:+.4f}"
            )
            lines.append(
                f"| {method} | {after['nll']:.4f} | {interval} | {percent(after['ece'])} | {percent(after['ace'])} |"
                f" {percent(after['dice'])} | {percent(after['flip_rate'])} |"
            )
        lines.append("")
        for method, count in row["written"].items():
            text = (
                f"- `apply` of {method}: {count['flipped']} of {count['voxels']} voxels of the written files have"
                " another label than the pooled scores"
            )
            if count["label_maps"]:
                text += (
                    f"; {count['label_maps'] - count['label_maps_changed']} of {count['label_maps']} delivered label"
                    " maps are byte for byte the same"
                )
            lines.append(text + ".")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--limit", type=int, help="cases of each pool, for a quick look")
    parser.add_argument("--only", help="pools whose title contains this")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    kept = args.output.with_suffix(".json")
    rows = []
    for pool in (p for p in POOLS if not args.only or args.only in p.title):
        made = run(pool, args)
        rows.append({**made, "results": {m: _brief(v) for m, v in made["results"].items()}})
        before = json.loads(kept.read_text()) if kept.is_file() else []
        known = {r["pool"]: r for r in [*before, rows[-1]]}
        everything = [known[p.title] for p in POOLS if p.title in known]
        args.output.write_text(
            page(everything, "python benchmarks/real_ensembles.py --work WORK -o docs/results/real_ensembles.md")
        )
        kept.write_text(json.dumps(everything, indent=1))
    bad = [
        (r["pool"], m, c)
        for r in rows
        for m, c in r["written"].items()
        if (m in PRESERVING and c["flipped"]) or c["label_maps_changed"]
    ]
    if bad:
        raise SystemExit(f"a promise does not hold: {bad}")


def _brief(result: dict[str, Any]) -> dict[str, Any]:
    keep = ("nll", "brier", "ece", "ece_pooled", "classwise_ece", "ace", "dice", "iou", "flip_rate")
    return {side: {k: result[side][k] for k in keep} for side in ("uncalibrated", "calibrated")} | {
        "differences": result["differences"]
    }


if __name__ == "__main__":
    main()
