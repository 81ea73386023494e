"""Runs inputs, each in a fork of this process, and judges what came of it.

A child may use 10 seconds of the processor (a limit of the kernel) and 256 MB of memory of its own: the pages it does
not share, at its end, and by how much it was larger before. It fails for an exception that leaves `segcal.cli.run`, for
more time or memory, for sitting still longer than `WALL` seconds, for an exit code that means nothing or says nothing,
for characters on a terminal that could steer it, for names unescaped in pages, and for hidden files it leaves.

Needs Linux. As root, children become nobody, so that permissions mean something and nothing of the machine is in reach.
"""

from __future__ import annotations

import contextlib
import encodings
import gc
import importlib
import io
import json
import os
import pkgutil
import pwd
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import nursery
from .values import INPUT, MARK
from .words import Input, make, rng_of

CPU = 10.0
MEMORY = 256 << 20
WALL = 120.0
RUNAWAY = 2 << 30
"""A child that grew by so much is ended, lest it take the machine with it."""

CODES = (0, 1, 2, 3, 4)
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Result:
    """What came of one input."""

    number: int
    input: Input
    code: int | None
    cpu: float
    memory: int
    wall: float
    faults: tuple[str, ...]
    said: str
    trace: str

    @property
    def outcome(self) -> str:
        """Command, exit code and the message without names and numbers."""
        return f"{self.input.command} {self.code}: {skeleton(self.said)}"


def skeleton(text: str) -> str:
    """A message without what differs from input to input."""
    text = re.sub(r"(error: )(case )?[^\n]*?: found ", r"\1... found ", text)
    text = re.sub(r"'[^']*'|\"[^\"]*\"|\S*/\S*|\S*case_\S*", "_", text)
    return re.sub(r"-?\d[\d,.e+-]*", "N", text)[:160]


class Fuzzer:
    """Forks of this process, warm: everything the command line may import is imported. A context manager: the nursery
    is grown when it is entered (or taken from `kept`), and everything written is removed when it is left.
    """

    def __init__(self, seed: int = 0, kept: Path | None = None) -> None:
        self.seed, self._kept = seed, kept

    def __enter__(self) -> Fuzzer:
        _warm()
        self._root = Path(tempfile.mkdtemp(prefix="segcal-fuzz-"))
        self._root.chmod(0o755)
        self._nursery = self._root / "nursery" if self._kept is None else self._kept
        modules = self._nursery / "modules.json"
        if not modules.is_file() and os.waitpid(_fork(self._grow), 0)[1]:
            raise RuntimeError("the nursery did not grow: a valid command failed")
        # what its commands imported: nobody may not be allowed to read it later
        for name in json.loads(modules.read_text()):
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        gc.collect()
        gc.freeze()
        return self

    def _grow(self) -> None:
        self._nursery.mkdir(parents=True)
        with contextlib.redirect_stdout(io.StringIO()):
            nursery.grow(self._nursery)
        (self._nursery / "modules.json").write_text(json.dumps(sorted(sys.modules)))

    def __exit__(self, *_: object) -> None:
        gc.unfreeze()
        _remove(self._root)

    def run(self, number: int) -> Result:
        """Make and run input `number`."""
        place = self._place()
        try:
            found = make(self._nursery, place, rng_of(self.seed, number))
            return self.judge(number, found, place)
        finally:
            _remove(place.parent)

    def keep(self, number: int, folder: Path) -> Input:
        """Write input `number` to a folder, to be looked at."""
        folder.mkdir(parents=True)
        return make(self._nursery, folder, rng_of(self.seed, number))

    def specimen(self, work: Callable[[], int]) -> Result:
        """Judge a piece of work as if it were a command."""
        place = self._place()
        try:
            return self.judge(-1, Input("specimen", (), "", (), "utf-8"), place, work)
        finally:
            _remove(place.parent)

    def judge(self, number: int, given: Input, place: Path, work: Callable[[], int] | None = None) -> Result:
        """Run an input that lies in `place`, and say what is wrong with what came of it."""
        _give_away(place.parent)
        report = place.parent / "report.json"
        begun = time.monotonic()
        pid = _fork(lambda: _child(given, place, report, work))
        usage, status, faults = _watch(pid, begun)
        told: dict[str, Any] = json.loads(report.read_text()) if report.is_file() else {}
        memory = int(told.get("memory", 0))
        cpu = usage.ru_utime + usage.ru_stime
        faults += [] if cpu <= CPU else [f"{cpu:.1f} s of processor time"]
        faults += [] if memory <= MEMORY else [f"{memory >> 20} MB of memory"]
        if not told and not faults and cpu <= CPU:
            over = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU
            faults.append(f"{cpu:.1f} s of processor time" if over else f"ended by the system (status {status})")
        faults += told.get("faults", [])
        if told and not told["trace"]:
            faults += _outputs(place)
        code, said, trace = told.get("code"), told.get("said", ""), told.get("trace", "")
        return Result(number, given, code, cpu, memory, time.monotonic() - begun, tuple(faults), said, trace)

    def _place(self) -> Path:
        place = Path(tempfile.mkdtemp(prefix="input-", dir=self._root)) / "work"
        place.mkdir()
        return place


def _warm() -> None:
    """Import all a command may, so that no child pays for it."""
    for found in pkgutil.iter_modules(encodings.__path__):
        if found.name not in ("mbcs", "oem"):  # Windows only
            importlib.import_module(f"encodings.{found.name}")
    import matplotlib
    import PIL.Image
    import torch

    import segcal

    matplotlib.use("Agg")
    for found in pkgutil.walk_packages(segcal.__path__, "segcal."):
        if not found.name.startswith(("segcal.testing", "segcal.__main__")):
            importlib.import_module(found.name)
    for name in ("importlib.readers", "matplotlib.pyplot", "optuna", "torchio", "zarr"):
        importlib.import_module(name)
    PIL.Image.init()
    torch.set_num_threads(1)


def _fork(work: Callable[[], None]) -> int:
    """A child that does `work` and never comes back here."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - the child must not go on as its parent
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _give_away(folder: Path) -> None:
    """To nobody, if we are root."""
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        for base, folders, files in os.walk(folder):
            for name in (*folders, *files):
                os.chown(os.path.join(base, name), nobody.pw_uid, nobody.pw_gid, follow_symlinks=False)


def _become_nobody() -> None:
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.setgroups([])
        os.setgid(nobody.pw_gid)
        os.setuid(nobody.pw_uid)


def _child(given: Input, place: Path, report: Path, work: Callable[[], int] | None) -> None:
    """Run the words where the input lies, and report."""
    from segcal.cli import run

    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (int(CPU) + 1, int(CPU) + 3))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    os.chdir(place)  # while that is allowed: its permissions may have been taken away
    _become_nobody()
    for name in ("HOME", "SEGCAL_SCRATCH", "TMPDIR"):
        os.environ[name] = str(place.parent)
    tempfile.tempdir = None
    sys.stdin = open(os.devnull)  # noqa: SIM115 - lives as long as the child
    out, err, past = io.BytesIO(), io.BytesIO(), os.memfd_create("past")
    real = sys.stdout, sys.stderr
    for descriptor in (1, 2):  # libraries that kept the streams they found, or know none
        os.dup2(past, descriptor)
    sys.stdout = io.TextIOWrapper(out, given.encoding, "backslashreplace", write_through=True)  # as `main` does
    sys.stderr = io.TextIOWrapper(err, given.encoding, "backslashreplace", write_through=True)
    code: int | None = None
    trace = ""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("default")
        try:
            code = run(list(given.words)) if work is None else work()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException:  # noqa: BLE001 - whatever leaves the command is what we look for
            trace = traceback.format_exc()
    sys.stdout.flush()
    printed = out.getvalue().decode(given.encoding, "replace")
    complained = err.getvalue().decode(given.encoding, "replace")
    sys.stdout, sys.stderr = real
    faults = list(_said(code, printed, complained, given)) if not trace else [trace.strip().splitlines()[-1][:300]]
    if stray := os.pread(past, 2000, 0):
        faults.append(f"written past the streams of the command line: {stray!r}")
    told = {
        "code": code,
        "said": (complained or printed)[:2000],
        "trace": trace,
        "faults": faults,
        "warned": [f"{w.category.__name__}: {w.message}"[:200] for w in warned],
        "memory": _private(),
    }
    report.write_bytes(json.dumps(told).encode())


def _private() -> int:
    """Bytes of this process that are its own, and by how much it was larger before."""
    fields: Counter[str] = Counter()
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, size = line.split()[:2]
        fields[name] += int(size) << 10
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    before = max(0, (int(peak.split()[1]) << 10) - fields["Rss:"])
    return fields["Private_Dirty:"] + fields["Private_Clean:"] + before


def _said(code: int | None, printed: str, complained: str, given: Input) -> Iterator[str]:
    """What is wrong with an exit and its words."""
    if code not in CODES:
        yield f"exit code {code}"
    if code in (2, 3, 4) and not (complained or printed).strip():
        yield f"exit code {code} without a word"
    if code == 2 and "error: " not in complained:
        yield "exit code 2 without an error on stderr"
    if "Traceback (most recent" in printed + complained and "--debug" not in " ".join(given.words):
        yield "a traceback was printed"
    raw = STEERING.search(printed + complained)
    if raw is not None:
        yield f"a raw {raw.group()!r} on the terminal"


def _watch(pid: int, begun: float) -> tuple[resource.struct_rusage, int, list[str]]:
    """Wait for a child; end it if it sits still or runs away."""
    faults: list[str] = []
    start = _anonymous(pid)
    pause = 0.002
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            return usage, status, faults
        if not faults and time.monotonic() - begun > WALL:
            faults.append(f"still there after {WALL:.0f} s")
        if not faults and _anonymous(pid) - start > RUNAWAY:
            faults.append(f"more than {RUNAWAY >> 20} MB of memory")
        if faults:
            os.kill(pid, signal.SIGKILL)
        time.sleep(pause)
        pause = min(0.05, pause * 1.3)


def _anonymous(pid: int) -> int:
    """Anonymous memory of a process, in bytes; 0 once it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(r"RssAnon:\s+(\d+)", text)
    return int(found.group(1)) << 10 if found else 0


def _outputs(place: Path) -> list[str]:
    """What is wrong with the files that lie there now."""
    faults = []
    for base, folders, files in os.walk(place.parent):
        if any(name.startswith((".segcal-", "segcal-")) for name in (*folders, *files)):
            faults.append("hidden or scratch files are left")
        for name in files:
            path = Path(base) / name
            if path.suffix in (".svg", ".html", ".tex") and path.is_file() and not path.is_symlink():
                text = path.read_text(errors="replace")
                if (MARK if path.suffix != ".tex" else INPUT) in text:
                    faults.append(f"a name unescaped in a {path.suffix}")
    return sorted(set(faults))


def _remove(folder: Path) -> None:
    """Whatever its permissions, and however deep."""
    for base, folders, _ in os.walk(folder):
        for name in folders:
            with contextlib.suppress(FileNotFoundError, PermissionError, NotADirectoryError):
                if not os.path.islink(os.path.join(base, name)):
                    os.chmod(os.path.join(base, name), 0o755)
    shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Tally:
    """What many inputs came to; added up one by one."""

    inputs: int = 0
    traceback: int = 0
    memory: int = 0
    time: int = 0
    other: int = 0
    peak_mb: float = 0.0
    most_cpu: float = 0.0
    commands: Counter[str] = field(default_factory=Counter)
    layouts: Counter[str] = field(default_factory=Counter)
    harms: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, Any]] = field(default_factory=list)

    def join(self, other: Tally) -> None:
        """What other inputs came to."""
        for name in ("inputs", "traceback", "memory", "time", "other"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("peak_mb", "most_cpu"):
            setattr(self, name, max(getattr(self, name), getattr(other, name)))
        for name in ("commands", "layouts", "harms", "codes", "outcomes"):
            getattr(self, name).update(getattr(other, name))
        self.failures = sorted([*self.failures, *other.failures], key=lambda one: one["number"])

    def add(self, result: Result) -> None:
        """One more."""
        self.inputs += 1
        self.traceback += bool(result.trace)
        self.memory += any("MB of memory" in f for f in result.faults)
        self.time += any("processor time" in f or "still there" in f for f in result.faults)
        self.other += bool(result.faults) and not (
            result.trace or any("MB of memory" in f or "processor" in f or "still" in f for f in result.faults)
        )
        self.peak_mb = max(self.peak_mb, round(result.memory / 2**20, 1))
        self.most_cpu = max(self.most_cpu, round(result.cpu, 2))
        self.commands[result.input.command] += 1
        self.layouts[result.input.layout] += 1
        self.harms.update(result.input.harms or ("none",))
        self.codes[str(result.code)] += 1
        self.outcomes[result.outcome] += 1
        if result.faults:
            self.failures.append(
                {
                    "number": result.number,
                    "words": [w.encode("utf-8", "backslashreplace").decode()[:200] for w in result.input.words],
                    "layout": result.input.layout,
                    "harms": list(result.input.harms),
                    "faults": list(result.faults),
                    "trace": result.trace[-3000:],
                }
            )

    def to_json(self) -> dict[str, Any]:
        """Plain."""
        return {name: dict(v) if isinstance(v, Counter) else v for name, v in vars(self).items()}


def tally(results: Sequence[Result]) -> Tally:
    """All of them together."""
    out = Tally()
    for one in results:
        out.add(one)
    return out
