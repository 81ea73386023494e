"""The way of scores through the house: rooms entered from `segcal fit` to the calibrator's file, and from `segcal
apply` to the label map.

    python -m benchmarks.walk [--rooms files] [-o docs/results/walk.json]

A small cohort is written, fitted (`--method METHOD`, default ts) and applied with one worker while Python reports every
call. Each function of segcal is noted when it is called for the first time; what is counted is the walk of their rooms,
neighbours of one room taken together: how many rooms are entered, and how often a room is entered again after it was
left. Calls that repeat (a block, a case, an iteration) do not count again. `--rooms`: "top" (default), the entries of
`src/segcal`; "files", its modules.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np

import segcal
from segcal.cli import run

ROOT = Path(segcal.__file__).parent


def walked(work: Callable[[], object], rooms: str) -> list[str]:
    """Rooms in the order in which first calls enter them."""
    seen: set[CodeType] = set()
    found: list[str] = []

    def note(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code not in seen:
            seen.add(code)
            path = Path(code.co_filename)
            if ROOT in path.parents and code.co_name != "<module>":
                relative = path.relative_to(ROOT).with_suffix("")
                room = relative.parts[0] if rooms == "top" else str(relative)
                if not found or found[-1] != room:
                    found.append(room)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]  # None ends it
    return found


def quiet(words: Sequence[str]) -> None:
    """A command that must succeed, without what it prints."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        code = run(list(words))
    if code:
        raise SystemExit(said.getvalue())


def main(words: Sequence[str]) -> None:
    """Print both walks as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", choices=("top", "files"), default="top")
    parser.add_argument("--method", default="ts")
    parser.add_argument("-o", type=Path, help="record the counts as those of now")
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        root, rng = Path(folder), np.random.default_rng(0)
        for name in ("scores", "labels"):
            (root / name).mkdir()
        for k in range(4):
            z = rng.normal(size=(3, 16, 16)).astype(np.float32) * 3
            np.savez(root / "scores" / f"c{k}.npz", logits=z)
            np.save(root / "labels" / f"c{k}.npy", (z + rng.gumbel(size=z.shape)).argmax(0).astype(np.uint8))
        scores, calibrator = str(root / "scores"), str(root / "cal.safetensors")
        commands = {
            "fit": ["fit", scores, "--labels", str(root / "labels"), "--method", given.method, "-o", calibrator],
            "apply": ["apply", calibrator, scores, "-o", str(root / "out")],
        }
        found = {}
        for name, command in commands.items():
            quiet(["inspect", "--help"])
            walk = walked(lambda command=command: quiet([*command, "--workers", "1"]), given.rooms)  # type: ignore[misc]
            found[name] = {"rooms": len(set(walk)), "returns": len(walk) - len(set(walk)), "walk": walk}
    print(json.dumps(found, indent=1))
    if given.o:
        record = json.loads(given.o.read_text())
        record["now"][given.rooms] = {k: {n: v[n] for n in ("rooms", "returns")} for k, v in found.items()}
        given.o.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
