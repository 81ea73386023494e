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
from collections.abc import Callable
from types import FrameType

from segcal.data.files import journal

TERMINATED = 143

PATIENCE, LAST = 0.5, 1.3
"""Seconds until the thread ends the process, and until the child does."""


class Watch:
    """Listens from its creation until `rest`. To be made once, before any other thread is there."""

    def __init__(self) -> None:
        self._told = False
        self._child = 0
        told, tell = os.pipe()
        called, call = os.pipe()
        os.set_blocking(tell, False)
        command = os.getpid()
        signal.signal(signal.SIGTERM, self._leave)
        try:
            self._child = os.fork()
        except OSError:  # no more processes for this user: the main thread alone is told
            return
        if self._child == 0:
            try:
                _last_resort(command, told, call)
            finally:
                os._exit(0)
        os.close(told)
        os.close(call)
        # the interpreter writes the number of a signal there as soon as it comes, whatever Python code is doing
        signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
        threading.Thread(target=_leave_at_once, args=(called,), daemon=True).start()

    def code(self, command: Callable[[], int]) -> int:
        """Run a command; its exit code. What fails after it was told to end fails because of that: a library that is
        just being imported may swallow the exception of `_leave` (torch's import of NumPy does) and stumble over it.
        """
        try:
            code = command()
        except Exception:
            if not self._told:
                raise
            return TERMINATED
        return TERMINATED if self._told and code else code

    def rest(self) -> None:
        """The command is done: let the child go, if there is one."""
        if not self._child:
            return
        os.close(signal.set_wakeup_fd(-1))
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._child, 0)

    def _leave(self, number: int, frame: FrameType | None) -> None:
        """End as an interruption does, so that unfinished files are removed."""
        del number, frame
        self._told = True
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
