"""Three journeys, typed as a user types them and written down with what was printed and how long it took.

    python -m benchmarks.journeys --shared ../shared -o docs/journeys [--only practitioner]

Predictions are made first, by the zoo's networks, as a user's own networks would leave them; from there on every
command runs in a shell, in one folder, at 80 columns without a terminal, and must end as the page says. What stands in
the pages is what was printed, progress left out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINES = 70
"""Most lines of an answer that a page shows."""


@dataclass(frozen=True)
class Step:
    """What one wants, the command for it, and with which exit codes it may end."""

    wish: str
    command: str
    ends: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Journey:
    """Who goes, what lies there at the beginning, and the way."""

    title: str
    who: str
    prepare: Callable[[Path, Path], None]
    steps: Sequence[Step]


def predicted(shared: Path, at: Path, dataset: str, options: str) -> None:
    """Predictions of the zoo's networks in the folder `at`."""
    command = [sys.executable, str(shared / "zoo" / "write_predictions.py"), dataset, str(at), *options.split()]
    subprocess.run(command, check=True, capture_output=True)


def practice(shared: Path, here: Path) -> None:
    """Volumes of three networks in nnU-Net's layout: the first ten to fit on, the next six held out, the last four new.

    What is new has no labels.
    """
    predicted(shared, here / "all", "hippocampus", "--layout nnunet --members 3 --crop 7 --postprocess --limit 20")
    names = sorted(p.name[: -len(".npz")] for p in (here / "all" / "member0").glob("*.npz"))
    for folder, chosen in (("RESULTS", names[:10]), ("HELDOUT", names[10:16]), ("NEW", names[16:])):
        for member in sorted((here / "all").glob("member*")):
            (here / folder / member.name).mkdir(parents=True)
            for path in member.iterdir():
                if path.suffix == ".json" or any(path.name.startswith(f"{name}.") for name in chosen):
                    (here / folder / member.name / path.name).write_bytes(path.read_bytes())
    (here / "all" / "labelsTr").rename(here / "LABELS")


PRACTITIONER = Journey(
    "A practitioner with an nnU-Net folder",
    "Three networks have predicted hippocampus volumes with `--save_probabilities`: `RESULTS` (10 cases), `HELDOUT` (6"
    " others) and `NEW` (4 without labels), a folder a network in each; `LABELS` has the label maps. The names of the"
    " cases end in the number of the patient.",
    practice,
    (
        Step("What is here, and what is wrong with it?", r"segcal check RESULTS/* --labels LABELS --groups '_(\d+)'"),
        Step(
            "Fit a calibrator that keeps the segmentation; patients are never split.",
            r"segcal fit RESULTS/* --labels LABELS --groups '_(\d+)' --method auto -o cal.safetensors",
        ),
        Step(
            "Is it better on patients it has not seen?",
            r"segcal evaluate HELDOUT/* --labels LABELS --groups '_(\d+)' --calibrator cal.safetensors",
        ),
        Step(
            "Calibrated probabilities of new cases, maps of where to look, which cases to look at first, how large the"
            " structures are, and a page of it all.",
            "segcal apply cal.safetensors NEW/* -o OUT --maps error --triage --volumes --report page.html && ls . OUT",
        ),
        Step("What does it promise, and does it keep that here?", "segcal audit cal.safetensors NEW/*"),
    ),
)

STUDY = """\
name: nuclei
data: {results: predictions/member*, labels: predictions/labels, background: 0}
split: {calibration: 20, validation: 10}
repeats: 4
pipelines: [p0, pbar, zbar, TS(zbar), CMSop(zbar), DC(zbar)]
"""


def research(shared: Path, here: Path) -> None:
    """Sixty pictures of nuclei, predicted by five networks, and the file of the study."""
    predicted(shared, here / "predictions", "nuclei", "--layout npz --members 5 --limit 60")
    (here / "study.yaml").write_text(STUDY)


RESEARCHER = Journey(
    "A researcher with a deadline",
    "Five networks have predicted 60 pictures of nuclei; `study.yaml` says what is to be compared:\n\n```yaml\n"
    + STUDY
    + "```",
    research,
    (
        Step("Is the file right, and how long will it take?", "segcal study study.yaml --dry-run"),
        Step(
            "Half of the repeats, on one machine, which is switched off after a while.",
            "timeout -s INT 12 segcal study study.yaml -o PART1 --part 1/2",
            (124, 130),
        ),
        Step("The same command goes on.", "segcal study study.yaml -o PART1 --part 1/2"),
        Step("The other half, on another machine.", "segcal study study.yaml -o PART2 --part 2/2"),
        Step("Together.", "segcal merge PART1 PART2 -o STUDY && ls STUDY STUDY/tables"),
        Step("The main table.", "cat STUDY/tables/table4.md"),
    ),
)

LOOP = """\
import sys

import numpy as np
import segcal

sys.path.insert(0, "ZOO")
import zoo  # images in, logits out: stands for your network and your data

names = zoo.cases("camvid", "pool")[:24]
network, size = zoo.Member("camvid", 0), zoo.labels("camvid", zoo.cases("camvid", "pool")[0]).shape
logits = np.lib.format.open_memmap("logits.npy", "w+", np.float32, (len(names), 11, *size))
labels = np.lib.format.open_memmap("labels.npy", "w+", np.uint8, (len(names), *size))
for k, name in enumerate(names):  # the validation loop: one frame in memory
    logits[k], labels[k] = network(zoo.image("camvid", name)), zoo.labels("camvid", name)

drives = [f"stretch {k // 4}" for k in range(len(names))]  # neighbouring frames belong together
cohort = segcal.cohort_from_arrays(
    np.load("logits.npy", mmap_mode="r"),
    np.load("labels.npy", mmap_mode="r"),
    kind="logits",
    ignore_index=255,
    groups=drives,
    ids=names,
    classes=list(zoo.info("camvid")["classes"].values()),
)
engine = segcal.Threads(2, max_memory=2**28)  # 256 MiB, however many frames
cal = segcal.TemperatureScaling().fit(cohort[:12], engine=engine)
print(cal)
found = segcal.evaluate(cohort[12:], cal, engine)
for metric in ("nll", "ece", "ace"):
    before, after = (block.block[metric] for block in (found.uncalibrated, found.calibrated))
    change = found.differences[metric]
    print(f"{metric}: {before:.4f} -> {after:.4f}, change {change.mean:+.4f} ({change.low:+.4f} to {change.high:+.4f})")
cal.save("cal.safetensors")
"""


def engineering(shared: Path, here: Path) -> None:
    """The script of the validation loop."""
    (here / "loop.py").write_text(LOOP.replace("ZOO", str(shared / "zoo")))


ENGINEER = Journey(
    "An engineer with a camera",
    "One network sees frames of a camera in a car. The validation loop writes its logits to a memory map, and the"
    " calibrator is fitted on that, `loop.py`:\n\n```python no-run\n" + LOOP + "```",
    engineering,
    (
        Step("Run the loop, fit on the first half, evaluate on the second.", "python loop.py"),
        Step("What is in the file?", "segcal inspect cal.safetensors"),
        Step(
            "The calibrator behind the network, without Python.",
            "segcal export cal.safetensors --onnx cal.onnx && ls -l cal.onnx",
        ),
    ),
)

JOURNEYS = {"practitioner": PRACTITIONER, "researcher": RESEARCHER, "engineer": ENGINEER}


def answered(step: Step, here: Path) -> tuple[str, float]:
    """What the command prints, and the seconds it takes. RuntimeError where it ends otherwise than it should."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    start = time.perf_counter()
    done = subprocess.run(
        ["bash", "-c", step.command],
        cwd=here,
        env={**os.environ, "PATH": path, "COLUMNS": "80", "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    took = time.perf_counter() - start
    if done.returncode not in step.ends:
        raise RuntimeError(f"{step.command}: exit {done.returncode}\n{done.stdout[-3000:]}")
    lines = [line.rstrip() for line in done.stdout.replace("\r", "\n").splitlines()]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")
    shown = text.splitlines()
    cut = [] if len(shown) <= LINES else [f"... ({len(shown) - LINES} more lines)"]
    return "\n".join([*shown[:LINES], *cut]), took


def page(name: str, journey: Journey, shared: Path) -> tuple[str, dict[str, float]]:
    """The journey as Markdown, and the seconds of each command."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True)
    parts = [
        f"# {journey.title}",
        f"Written by `python -m benchmarks.journeys --only {name}` at {commit.stdout.strip()}: every command was run,"
        " on two cores beside other work; what it printed is below it.",
        journey.who,
    ]
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        journey.prepare(shared, here)
        for step in journey.steps:
            print(f"{name}: {step.command}", file=sys.stderr, flush=True)
            text, took = answered(step, here)
            seconds[step.command] = round(took, 1)
            said = text.replace(str(here), ".")
            parts += [
                f"**{step.wish}** ({took:.0f} s)",
                f"```bash\n{step.command}\n```",
                f"```text\n{said}\n```" if said else "",
            ]
    return "\n\n".join(p for p in parts if p) + "\n", seconds


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--only", choices=JOURNEYS, action="append")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs" / "journeys")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.only or JOURNEYS:
        text, seconds = page(name, JOURNEYS[name], options.shared.resolve())
        (options.output / f"{name}.md").write_text(text)
        print(textwrap.indent(json.dumps(seconds, indent=1), "  "))


if __name__ == "__main__":
    main()
