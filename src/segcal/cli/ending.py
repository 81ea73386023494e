"""How a command ends when it is told to by SIGTERM: within two seconds, wherever it is, and with no partial output.

At once the main thread leaves as after any interruption: unfinished files are removed, items under way end. Where that
takes longer than `PATIENCE`, because the main thread or a worker is inside a long call, a thread removes all temporary
folders and ends the process. Where even that cannot run, because the call holds the interpreter's lock (LAPACK through
SciPy does), a child process, forked before anything large is loaded, kills it after `LAST`; what is left then lies in
hidden folders, which the next run removes. Costs: one sleeping process of a few MB, gone with the command.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from types import FrameType

from segcal.data.files import journal

TERMINATED = 143

PATIENCE, LAST = 0.5, 1.3
"""Seconds until the thread ends the process, and until the child does."""


def watch() -> int:
    """Begin; returns what `rest` takes. To be called once, before any other thread is there."""
    told, tell = os.pipe()
    called, call = os.pipe()
    os.set_blocking(tell, False)
    command = os.getpid()
    signal.signal(signal.SIGTERM, _leave)
    try:
        child = os.fork()
    except OSError:  # no more processes for this user: the main thread alone is told
        return 0
    if child == 0:
        try:
            _last_resort(command, told, call)
        finally:
            os._exit(0)
    os.close(told)
    os.close(call)
    # the interpreter writes the number of a signal there as soon as it comes, whatever Python code is doing
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    threading.Thread(target=_leave_at_once, args=(called,), daemon=True).start()
    return child


def rest(child: int) -> None:
    """The command is done: let the child go, if there is one."""
    if not child:
        return
    os.close(signal.set_wakeup_fd(-1))
    with contextlib.suppress(ChildProcessError):
        os.waitpid(child, 0)


def _leave(number: int, frame: FrameType | None) -> None:
    """End as an interruption does, so that unfinished files are removed."""
    del number, frame
    raise SystemExit(TERMINATED)


def _leave_at_once(called: int) -> None:
    """In a thread: after the child's call and some patience, end the process from here."""
    if not os.read(called, 1):
        return
    time.sleep(PATIENCE)
    if sys.stderr.isatty():
        sys.stderr.write("\x1b[?25h")  # a progress bar hides the cursor
    journal.abandon()
    os._exit(TERMINATED)


def _last_resort(command: int, told: int, call: int) -> None:
    """In the child: hear SIGTERM with the command, pass it on, and see that the command ends."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):  # whoever reads what the command prints must not wait for this process
        os.dup2(nothing, stream)
    for opened in range(3, max(told, call, nothing) + 64):
        if opened not in (told, call):
            with contextlib.suppress(OSError):
                os.close(opened)
    while numbers := os.read(told, 64):
        if signal.SIGTERM in numbers:
            break
    else:
        return  # the command has ended
    os.write(call, b"!")
    end = time.monotonic() + LAST
    while (left := end - time.monotonic()) > 0:
        if select.select([told], [], [], left)[0] and not os.read(told, 64):
            return
    if os.getppid() == command:
        os.kill(command, signal.SIGKILL)
