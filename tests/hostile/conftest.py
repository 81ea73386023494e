"""A child process that can neither hang nor fill the memory: what hostile input is read in."""

from __future__ import annotations

import json
import os
import resource
import signal
import traceback
from collections.abc import Callable, Sequence

import pytest

from segcal.errors import SegcalError

CPU_SECONDS = 10
PRIVATE_BYTES = 256 << 20


def _taken() -> int:
    """Bytes of private writable memory of this process."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmData:"))


def _child(works: Sequence[Callable[[], object]]) -> list[str]:
    signal.alarm(60)  # who waits uses no CPU
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    most = _taken() + PRIVATE_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    return [_said(one) for one in works]


def _said(work: Callable[[], object]) -> str:
    try:
        return f"done {work()!r}"[:4_000]
    except SegcalError as error:
        return f"{type(error).__name__}: {error}"
    except BaseException:  # noqa: BLE001  # a crash is what the test looks for
        return traceback.format_exc()


@pytest.fixture
def within_bounds() -> Callable[..., list[str]]:
    """Do pieces of work in one child within 10 CPU seconds and 256 MiB, and return the error of segcal that each
    raised, or 'done ...'. Anything else fails the test.
    """

    def run(*works: Callable[[], object]) -> list[str]:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            with os.fdopen(writing, "w", encoding="utf-8", errors="backslashreplace") as pipe:
                json.dump(_child(works), pipe)
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            said = pipe.read().decode()
        _, status = os.waitpid(child, 0)
        assert status == 0, f"killed by signal {os.WTERMSIG(status)} (24: the CPU seconds, 14: it waited)"
        assert "Traceback" not in said, said.replace("\\n", "\n")
        found: list[str] = json.loads(said)
        return found

    return run
