"""One input: a small tree copied from the nursery and harmed, and the words of a command that reads it.

Options come from the commands themselves, so that a new one is tried without being listed here. What is written goes
below `out` of the input's own folder, or over things in it; never to an absolute path.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .harm import Rng, harm
from .nursery import LAYOUTS, NAMES, Layout
from .values import INPUT, MARK, NUMBERS, OPTIONS, TEXTS, pick
from .values import NAMES as ODD

COMMANDS = ("check", "fit", "evaluate", "apply", "audit", "inspect", "export", "corrupt", "study", "merge", "methods")
SHARES = (0.17, 0.19, 0.13, 0.14, 0.08, 0.1, 0.02, 0.06, 0.08, 0.02, 0.01)
WRITES = (
    *("--output", "-o", "--json", "--csv", "--markdown", "--storage", "--energy-maps", "--report", "--figures"),
    *("--onnx", "--torch", "--sums"),
)
"""Options that name what is written: given places in the input's own folder only."""
GOOD = {
    "--method": ("ts", "ets", "dc", "cms-op", "isotonic", "ts,vs", "iop", "lts", "histogram", "ms-c", "cdc"),
    "--epochs": ("1", "2"),
    "--patience": ("1",),
    "--trials": ("1",),
    "--folds": ("2", "3"),
    "--lambda": ("0", "0.1", "cv"),
    "--mu": ("0", "0.1"),
    "--kind": ("logits", "log_probs", "probs", "scores"),
    "--pool": ("probs", "logits"),
    "--penalty": ("ts", "odir"),
    "--workers": ("1", "2"),
    "--max-memory": ("256MB", "1GB"),
    "--groups": ("groups.csv", "source", "consecutive:2", r"case_(\d)", r"(c)ase"),
    "--background": ("0", "none", "2"),
    "--ignore-index": ("255", "0", "254,255", "-1"),
    "--label-map": ("255:1", "1:0,2:1", "2:1", "2:ignore", "-1:0", "0:9"),
    "--channel-axis": ("0", "-1", "1"),
    "--classes": ("2", "2,3", "a"),
    "--cases": ("case_*", "case_0"),
    "--exclude": ("case_0", "case_*", "x"),
    "--maps": ("entropy", "entropy,confidence,error,probability"),
    "--format": ("npz", "npy", "zarr", "nifti", "nnunet"),
    "--shifts": ("1", "1,10"),
    "--severity": ("mild", "strong"),
    "--axes": ("1", "2", "3"),
    "--artefact": ("bias", "motion", "ghosting", "spike"),
    "--replicates": ("1", "2"),
    "--part": ("1/1", "1/2", "2/2"),
    "--merge": ("sums.safetensors", "cal.safetensors", "results"),
    "--scheduler": ("127.0.0.1:1", "groups.csv", "scheduler.json"),
    "--fitted": ("refuse", "exclude", "include"),
    "--mask": ("mask",),
    "--images": ("images",),
    "--labels": ("labels",),
    "--among": ("ts,dc", "ts"),
    "--solver": ("exact",),  # the recipe is slow by right
    "--json": ("-", "out/x.json", "new/folder/x.json", "results", "labels/case_0.npy"),
    "--csv": ("out/x.csv", "groups.csv", "results"),
    "--markdown": ("out/x.md",),
    "--storage": ("out/trials.json", "results"),
    "--energy-maps": ("out/maps", "labels"),
    "--calibrator": ("cal.safetensors", "results"),
}


@dataclass(frozen=True)
class Input:
    """What is run: words, in which folder, and what was done to it."""

    command: str
    words: tuple[str, ...]
    layout: str
    harms: tuple[str, ...]
    encoding: str


def options_of(command: str) -> list[tuple[str, bool]]:
    """Every option of a command: its first name, and whether it is a flag."""
    from segcal.cli import app

    arguments = app[command].assemble_argument_collection()
    return [(a.names[0], a.hint is bool) for a in arguments if a.names and a.names[0].startswith("-")]


def make(nursery: Path, place: Path, rng: Rng) -> Input:
    """Write one input below `place`, an empty folder, and say how to run it."""
    command = str(rng.choice(COMMANDS, p=SHARES))
    fits = ["npz", "pictures", "nnunet", "ensemble"] if command == "study" else [x.name for x in LAYOUTS]
    name = pick(rng, fits)
    layout = next(x for x in LAYOUTS if x.name == name)
    shutil.copytree(nursery / layout.name, place, dirs_exist_ok=True)
    calibrators = sorted((nursery / f"{layout.name}.calibrators").iterdir())
    if command in ("inspect", "export") or rng.random() < 0.2:
        calibrators = sorted(nursery.glob("*.calibrators/*"))
    shutil.copy(pick(rng, calibrators), place / "cal.safetensors")
    if command == "merge":
        shutil.copytree(nursery / "parts", place / "parts")
    harms: list[str] = []
    if rng.random() < 0.2:
        harms.append(_rename_case(place, rng))
    if rng.random() < 0.15:
        harms.append(_name_classes(place, rng))
    words = _words(command, layout, rng)
    many = int(rng.choice([0, 1, 2, 3], p=[0.25, 0.45, 0.2, 0.1]))
    touched: set[Path] = set()
    for _ in range(many):
        target = _target(command, place, rng)
        if target is not None:
            harms.append(harm(target, rng, target in touched))
            touched.add(target)
    for _ in range(int(rng.choice([0, 1, 2, 4], p=[0.35, 0.3, 0.25, 0.1]))):
        words += _option(command, rng)
    if rng.random() < 0.05:
        words = _shaken(words, rng)
    encoding = str(rng.choice(["utf-8", "ascii", "latin-1"], p=[0.9, 0.05, 0.05]))
    return Input(command, tuple(words), layout.name, tuple(harms), encoding)


def _words(command: str, layout: Layout, rng: Rng) -> list[str]:
    """A command that would be right."""
    scores = [*layout.results, *layout.words]
    labelled = [*scores, "--labels", "labels"]
    if command == "check":
        return [command, *(labelled if rng.random() < 0.8 else scores)]
    if command == "fit":
        cheap = [] if rng.random() < 0.3 else ["--no-crossfit"]
        method = pick(rng, (*GOOD["--method"], "auto"))
        cheap += ["--epochs", "1"] if method in ("iop", "lts") else []
        output = pick(rng, ["out/cal.safetensors", "out", "cal.safetensors"])
        return [
            command,
            *labelled,
            "-o",
            output,
            "--method",
            method,
            *(cheap if method != "auto" else ["--among", "ts,dc"]),
        ]
    if command == "evaluate":
        fitted = pick(rng, ["include", "exclude", "refuse"])
        with_it = ["--calibrator", "cal.safetensors", "--fitted", fitted] if rng.random() < 0.7 else []
        if not with_it and layout.name == "npz":
            with_it = ["--merge", "sums.safetensors"]
        return [command, *labelled, *with_it]
    if command == "apply":
        maps = ["--maps", "entropy,error"] if rng.random() < 0.5 else []
        return [command, "cal.safetensors", *scores, "-o", "out", "--go-on", *maps]
    if command == "audit":
        return [command, "cal.safetensors", *(labelled if rng.random() < 0.5 else scores), "--go-on", "--shifts", "10"]
    if command == "inspect":
        return [command, "cal.safetensors"]
    if command == "export":
        kind = ["--torch", "out/cal.pt2"] if rng.random() < 0.8 else ["--onnx", "out/cal.onnx"]
        return [command, "cal.safetensors", *kind]
    if command == "corrupt":
        flat = layout.name != "nifti"
        return [command, "images", "-o", "out", *(["--severity", "mild"] if flat else ["--artefact", "bias"])]
    if command == "study":
        return [command, "study.yaml", *(["-o", "out"] if rng.random() < 0.15 else ["--dry-run"])]
    if command == "merge":
        return [command, "parts/part1", "parts/part2", "-o", pick(rng, ["out", "parts/part1"])]
    return [command, "--classes", "2,3"]


def _option(command: str, rng: Rng) -> list[str]:
    """One more option, right or wrong."""
    name, flag = pick(rng, options_of(command))
    if flag:
        return [name] if rng.random() < 0.9 else [f"{name}={pick(rng, ['true', 'x', ''])}"]
    good = GOOD.get(name, ())
    if name in WRITES:
        text = pick(rng, good) if good else f"out/{pick(rng, ODD)}"
        text = text if rng.random() < 0.7 else f"out/{pick(rng, ODD)}"
    elif good and rng.random() < 0.45:
        text = pick(rng, good)
    else:
        text = pick(rng, NUMBERS if rng.random() < 0.6 else OPTIONS)
    return [f"{name}={text}"] if rng.random() < 0.7 else [name, text]


def _shaken(words: list[str], rng: Rng) -> list[str]:
    """Words left out, doubled, cut or in another order; the command stays."""
    first, rest = words[0], list(words[1:])
    if not rest:
        return [first, pick(rng, OPTIONS)]
    at = int(rng.integers(len(rest)))
    draw = rng.random()
    if draw < 0.3:
        del rest[at]
    elif draw < 0.5:
        rest.insert(at, rest[at])
    elif draw < 0.7:
        rest[at] = rest[at][: int(rng.integers(len(rest[at]) + 1))]
    else:
        rest = [rest[k] for k in rng.permutation(len(rest))]
    return [first, *rest]


def _target(command: str, place: Path, rng: Rng) -> Path | None:
    """A file the command reads."""
    inside = {
        "inspect": ["cal.safetensors"],
        "export": ["cal.safetensors"],
        "corrupt": ["images"],
        "merge": ["parts"],
        "methods": [],
    }
    roots = [place / name for name in inside.get(command, [])] or [place]
    if command in ("apply", "audit", "evaluate") and rng.random() < 0.25:
        roots = [place / "cal.safetensors"]
    if command == "study" and rng.random() < 0.7:
        roots = [place / "study.yaml"]
    files = sorted(f for r in roots for f in ([r] if r.is_file() else _files(r)) if f.is_file() and not f.is_symlink())
    metadata = [f for f in files if f.suffix in (".json", ".pkl", ".csv")]
    if metadata and rng.random() < 0.4:
        files = metadata
    return pick(rng, files) if files else None


def _files(root: Path) -> list[Path]:
    """Files below a folder, those that can be listed."""
    return [Path(base) / name for base, _, names in os.walk(root) for name in names]


def _rename_case(place: Path, rng: Rng) -> str:
    """One case under another name, everywhere."""
    names = {p.name.split(".")[0] for p in place.rglob("*")} & {*NAMES, "case_000", "case_001"}
    old, new = pick(rng, sorted(names)), pick(rng, ODD)
    for path in sorted(place.rglob(f"{old}*"), key=lambda p: -len(p.parts)):
        try:
            path.rename(path.with_name(new + path.name[len(old) :]))
        except OSError:  # a name the file system refuses
            return "case keeps its name"
    return "case renamed"


def _name_classes(place: Path, rng: Rng) -> str:
    """Classes with names from hell, in dataset.json or in the calibrator."""
    for path in sorted(place.rglob("dataset.json")):
        described = json.loads(path.read_text())
        labels = described["labels"]
        key = pick(rng, sorted(labels))
        new = pick(rng, [MARK, INPUT, *ODD, *TEXTS])
        described["labels"] = {new if name == key else name: index for name, index in labels.items()}
        path.write_bytes(json.dumps(described).encode())
    return "classes named"


def rng_of(seed: int, number: int) -> np.random.Generator:
    """The generator of one input."""
    return np.random.default_rng([seed, number])
