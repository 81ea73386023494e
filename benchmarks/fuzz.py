"""Thousands of hostile inputs to every command: no traceback, no more than 256 MB of its own and 10 s of the processor.

    python benchmarks/fuzz.py --inputs 10000 -o docs/results/fuzz.json

Stopped, it goes on where it was when the same words are typed again. `--jobs 2` runs them in two processes, which share
the inputs between them; an input is the same in any. `--only N` runs one input and shows all of it;
`--keep FOLDER` writes that input there first.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fuzzing.runner import CPU, MEMORY, Fuzzer, Result, Tally

BLOCK = 50


def main() -> int:
    """Run, write, and end with 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--jobs", type=int, default=1, help="processes, with -o")
    parser.add_argument("--share", help=argparse.SUPPRESS)  # k/n: what one of the processes does
    parser.add_argument("--only", type=int, nargs="+", help="run these inputs and show them")
    parser.add_argument("--nursery", type=Path, help="keep the valid inputs in this folder, for the next time")
    parser.add_argument("--keep", type=Path, help="with --only: write the input to this new folder")
    options = parser.parse_args()
    if options.jobs > 1 and options.output is not None and options.only is None:
        return shared(options)
    with Fuzzer(options.seed, options.nursery) as fuzzer:
        if options.only is not None:
            return show(fuzzer, options.only, options.keep)
        share, of = map(int, (options.share or "0/1").split("/"))
        numbers = range(options.first, options.first + options.inputs)[share::of]
        return many(fuzzer, options.first, numbers, options.output)


def shared(options: argparse.Namespace) -> int:
    """Several processes, each with its share and a file of its own; then all of it in one."""
    words = ["--inputs", str(options.inputs), "--seed", str(options.seed), "--first", str(options.first)]
    parts = [options.output.with_suffix(f".share{k}.json") for k in range(options.jobs)]
    command = [sys.executable, __file__, *words]
    running = [
        subprocess.Popen([*command, "--share", f"{k}/{options.jobs}", "-o", str(part)]) for k, part in enumerate(parts)
    ]
    for one in running:
        one.wait()
    described = {"seed": options.seed, "first": options.first, "commit": commit()}
    done = Tally()
    for part in parts:
        done.join(restored(json.loads(part.read_text()), described))
    if done.inputs < options.inputs:
        sys.exit(f"{done.inputs} of {options.inputs} inputs: a process ended early; type the same again")
    write(options.output, described, done)
    for part in parts:
        for file in (part, part.with_suffix(".md")):
            file.unlink()
    return int(bool(done.failures))


def show(fuzzer: Fuzzer, numbers: list[int], keep: Path | None) -> int:
    """One input after the other, in full."""
    failed = 0
    for number in numbers:
        if keep is not None:
            fuzzer.keep(number, keep)
        result = fuzzer.run(number)
        failed += bool(result.faults)
        said(result)
    return int(failed > 0)


def said(result: Result) -> None:
    """One result, safe for a terminal."""
    words = shlex.join(result.input.words).encode("unicode_escape").decode()[:600]
    print(f"{result.number}: segcal {words}\n  {result.input.layout}; {', '.join(result.input.harms) or 'not harmed'}")
    print(f"  exit {result.code}, {result.cpu:.2f} s, {result.memory / 2**20:.0f} MB, {list(result.faults)}")
    print("  " + result.said.encode("unicode_escape").decode()[:500])
    if result.trace:
        print(result.trace.encode("ascii", "backslashreplace").decode()[-3500:], flush=True)


def many(fuzzer: Fuzzer, first: int, numbers: Sequence[int], output: Path | None) -> int:
    """Blocks of inputs, each written when it is done."""
    done = Tally()
    described = {"seed": fuzzer.seed, "first": first, "commit": commit()}
    if output is not None and output.is_file():
        done = restored(json.loads(output.read_text()), described)
    begun = time.monotonic()
    for number in numbers[done.inputs :]:
        result = fuzzer.run(number)
        done.add(result)
        if result.faults:
            said(result)
        if done.inputs % BLOCK == 0 or done.inputs == len(numbers):
            print(f"{done.inputs} inputs, {len(done.failures)} failed, {time.monotonic() - begun:.0f} s", flush=True)
            if output is not None:
                write(output, described, done)
    print(f"{len(done.outcomes)} different outcomes; at most {done.peak_mb:.0f} MB and {done.most_cpu:.1f} s")
    return int(bool(done.failures))


def restored(held: dict[str, Any], described: dict[str, Any]) -> Tally:
    """What an earlier run came to. SystemExit if that was of another state of the code."""
    if {name: held.get(name) for name in described} != described:
        sys.exit(f"the file holds another run ({held.get('commit')}); name another with -o, or remove it")
    numbers = {name: held[name] for name in Tally.__dataclass_fields__ if name in held}
    counters = {n: Counter(v) for n, v in numbers.items() if isinstance(v, dict)}
    return Tally(**{**numbers, **counters})


def write(output: Path, described: dict[str, Any], done: Tally) -> None:
    """Complete or as it was."""
    numbers = done.to_json()
    for name in ("commands", "layouts", "harms", "codes", "outcomes"):
        numbers[name] = dict(sorted(numbers[name].items(), key=lambda kv: (-kv[1], kv[0])))
    limits = {"memory_mb": MEMORY >> 20, "cpu_s": CPU}
    whole = {**described, "limits": limits, "different_outcomes": len(done.outcomes), **numbers}
    aside = output.with_suffix(".part")
    aside.write_text(json.dumps(whole, indent=1) + "\n")
    aside.replace(output)
    output.with_suffix(".md").write_text(page(whole))


def page(found: dict[str, Any]) -> str:
    """What was found, for a reader."""
    words = f"--inputs {found['inputs']}" + (f" --seed {found['seed']}" if found["seed"] else "")
    words += f" --first {found['first']}" if found["first"] else ""
    limits = found["limits"]
    rows = [
        ("inputs", found["inputs"]),
        ("exceptions that left the command line", found["traceback"]),
        (f"above {limits['memory_mb']} MB of memory of its own", found["memory"]),
        (f"above {limits['cpu_s']:g} s of the processor, or hanging", found["time"]),
        ("other faults (a raw control character, litter, an exit without a word)", found["other"]),
        ("largest memory of one input, MB", f"{found['peak_mb']:.0f}"),
        ("longest time of one input, s", f"{found['most_cpu']:.1f}"),
        ("different outcomes (command, exit code, message without names and numbers)", found["different_outcomes"]),
    ]
    lines = [
        "# Hostile inputs",
        "",
        f"Written by `python benchmarks/fuzz.py {words} -o docs/results/fuzz.json` at {found['commit']}.",
        "",
        "Each input is a small valid folder (npz, npy, zarr, NIfTI, pictures, nnU-Net predictions, results of a",
        "cross-validation, region heads, an ensemble; calibrators of every method; a study and its parts), harmed",
        "in up to three ways that know its format, under options that may be wrong themselves. It runs in a fork of a",
        "warm process that may use 10 s of the processor; its memory is that of the pages it does not share,",
        "at the peak. `--only NUMBER` runs one again and shows all of it.",
        "",
        "| | |",
        "|---|---:|",
        *(f"| {name} | {number} |" for name, number in rows),
        "",
        "| exit | inputs |",
        "|---|---:|",
        *(f"| {code} | {count} |" for code, count in found["codes"].items()),
        "",
        "| command | inputs |",
        "|---|---:|",
        *(f"| {name} | {count} |" for name, count in found["commands"].items()),
        "",
        "| harm | inputs |",
        "|---|---:|",
        *(f"| {name} | {count} |" for name, count in found["harms"].items()),
        "",
    ]
    return "\n".join(lines)


def commit() -> str:
    """Of the code that runs, with a sign if it differs from it."""
    here = Path(__file__).parent
    found = subprocess.run(["git", "-C", str(here), "describe", "--always", "--dirty"], capture_output=True, text=True)
    return found.stdout.strip() or "no commit"


if __name__ == "__main__":
    sys.exit(main())
