"""Hostile inputs by the hundred, each in a fork: no traceback, no more than 256 MB of its own, no more than 10 seconds
of the processor; and specimens that show that each check can fail.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fuzzing.runner import Fuzzer, Result, tally
from benchmarks.fuzzing.values import value
from benchmarks.fuzzing.words import COMMANDS, Input

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and memory of a child are measured on Linux")

INPUTS = 500
MANY, PARTS = 2000, 8


@pytest.fixture(scope="module")
def fuzzer() -> Iterator[Fuzzer]:
    with Fuzzer(seed=1) as made:
        yield made


def described(results: list[Result]) -> str:
    """The inputs that failed, to be looked at with `python benchmarks/fuzz.py --seed 1 --only NUMBER`."""
    return "\n".join(f"{r.number}: {ascii(' '.join(r.input.words))[:300]} {r.faults}" for r in results if r.faults)


def no_fault(results: list[Result]) -> None:
    """None failed, and they came by many different ways."""
    assert not described(results)
    found = tally(results)
    assert {"0", "2", "3"} <= set(found.codes)
    assert len(found.outcomes) > len(results) / 5


def test_hostile_inputs(fuzzer: Fuzzer) -> None:
    results = [fuzzer.run(number) for number in range(INPUTS)]
    no_fault(results)
    assert set(tally(results).commands) == set(COMMANDS)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_many_hostile_inputs(fuzzer: Fuzzer, part: int) -> None:
    no_fault([fuzzer.run(number) for number in range(INPUTS + part, INPUTS + MANY, PARTS)])


def test_the_same_number_gives_the_same_input(fuzzer: Fuzzer, tmp_path: Path) -> None:
    one, two = (fuzzer.keep(7, tmp_path / name) for name in ("one", "two"))
    assert one == two
    files = [p.relative_to(tmp_path / "one") for p in sorted((tmp_path / "one").rglob("*")) if p.is_file()]
    assert files
    assert all((tmp_path / "one" / p).read_bytes() == (tmp_path / "two" / p).read_bytes() for p in files)


# each check can fail -------------------------------------------------------------------------------------------------


def good() -> int:
    return 0


def raising() -> int:
    raise ValueError("a fault")


def allocating() -> int:
    held = bytearray(300 << 20)
    held[:: 1 << 12] = b"x" * len(held[:: 1 << 12])
    del held  # the peak counts, not what is left
    return 0


def looping() -> int:
    while True:
        pass


def sitting() -> int:
    time.sleep(1000)
    return 0


def steering() -> int:
    print("\x1b[31mred")
    return 0


def bypassing() -> int:
    os.write(2, b"\x1b[2J")  # as a library does that has kept the stream it found
    return 0


def saying_nothing() -> int:
    return 3


def leaving() -> int:
    Path(".segcal-left").mkdir()
    return 0


def naming() -> int:
    Path("page.html").write_text("<p><script>fuzz</script></p>")
    return 0


def killed() -> int:
    os.kill(os.getpid(), 11)
    return 0


def test_a_specimen_without_fault(fuzzer: Fuzzer) -> None:
    result = fuzzer.specimen(good)
    assert (result.code, result.faults) == (0, ())
    assert 0 < result.memory < 64 << 20


@pytest.mark.parametrize(
    ("work", "fault"),
    [
        (raising, "ValueError: a fault"),
        (allocating, "MB of memory"),
        (looping, "s of processor time"),
        (steering, "on the terminal"),
        (bypassing, "written past the streams of the command line: b'\\x1b[2J'"),
        (saying_nothing, "exit code 3 without a word"),
        (leaving, "hidden or scratch files are left"),
        (naming, "a name unescaped in a .html"),
        (killed, "ended by the system"),
    ],
)
def test_each_check_can_fail(fuzzer: Fuzzer, work: object, fault: str) -> None:
    result = fuzzer.specimen(work)
    assert any(fault in f for f in result.faults), result.faults
    found = tally([result])
    assert found.traceback == (work is raising)
    assert found.memory == (work is allocating)
    assert found.time == (work is looping)


def test_a_command_that_waits_forever_is_ended(fuzzer: Fuzzer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.fuzzing.runner.WALL", 0.5)
    assert "still there" in fuzzer.specimen(sitting).faults[0]


@pytest.mark.parametrize("fault", [ValueError("a fault"), MemoryError(), RecursionError()])
def test_a_command_that_raises_is_seen(fuzzer: Fuzzer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault) -> None:
    """Through the command line itself, whose `run` must not hide it."""

    def broken(*_: object) -> None:
        raise fault

    monkeypatch.setattr("segcal.methods.parameters.table", broken)
    place = fuzzer._place()
    result = fuzzer.judge(0, Input("methods", ("methods", "--classes", "3"), "", (), "utf-8"), place)
    assert type(fault).__name__ in result.faults[0]
    assert result.trace


def test_what_is_put_into_a_tree_is_the_callers_own() -> None:
    """Else a list that is put in twice holds itself, and an input depends on those before it."""
    every = [value(np.random.default_rng(k)) for k in range(2_000)]
    containers = [one for one in every if isinstance(one, list | dict)]
    assert len({id(one) for one in containers}) == len(containers) > 50
