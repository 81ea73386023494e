"""What can go wrong, as a tree; every message says where, what was found, what was expected and what to do.

SegcalError
├── UsageError          an argument is wrong                              exit 2
│   └── MismatchError   a calibrator does not fit what it is applied to    exit 2
├── DataError           a file or an array cannot be used                  exit 3
│   ├── MissingError    something that should be there is not
│   ├── UnreadableError a file is truncated, or is not what its name says
│   ├── UnsafeFileError a file asks for code to run, or unpacks to more than it may
│   ├── ShapeError      shapes or geometries disagree
│   ├── LabelError      labels out of range, or nothing to score
│   ├── ScoreError      scores that cannot be what they are declared to be
│   └── HeldOutError    cases offered as a test that the calibrator was fitted on
└── OutputError         a result cannot be written (a full disk, an existing file)   exit 3

KindWarning             scores look like another kind than declared: goes on
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """Text on one line that cannot steer a terminal or a page: control characters, marks of direction, characters
    without width and bytes that are no UTF-8 stand as Python escapes them. Names of files and classes may hold any.
    """
    return _UNSEEN.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


def spell(seconds: float) -> str:
    """A time for a person: '40 s', '12 min', '3 h 20 min'; at least a second."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    hours, rest = divmod(minutes, 60)
    return f"{minutes} min" if minutes < 90 else f"{hours} h {rest} min" if rest else f"{hours} h"


class KindWarning(UserWarning):
    """Scores look like another kind than the one they are declared to be; they are used as declared."""


class SegcalError(Exception):
    """Base of all errors raised on purpose. `exit_code` is what the command line returns for it.

    `where` names the file or the argument, `found` and `expected` say what is wrong with it, `do` what to do next. The
    message is one line, whatever names it holds.
    """

    exit_code = 1

    def __init__(self, where: str, *, found: str, expected: str, do: str) -> None:
        self.where, self.found, self.expected, self.do = str(where), found, expected, do
        super().__init__(visible(f"{where}: found {found}; expected {expected}. {do}"))

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.where, self.found, self.expected, self.do))


def _rebuild(kind: type[SegcalError], where: str, found: str, expected: str, do: str) -> SegcalError:
    return kind(where, found=found, expected=expected, do=do)


class UsageError(SegcalError):
    """An argument is wrong or arguments contradict each other."""

    exit_code = 2


class MismatchError(UsageError):
    """A calibrator is asked to work on something it was not fitted for: other classes, another pooling, another number
    of networks.
    """


class DataError(SegcalError):
    """A file or an array cannot be used."""

    exit_code = 3


class MissingError(DataError):
    """Something that should be there is not: probabilities, labels, a folder's cases."""


class UnreadableError(DataError):
    """A file is truncated or is not what its name says."""


class UnsafeFileError(DataError):
    """A file asks for code to be run when it is read, or unpacks to more than its header admits."""


class ShapeError(DataError):
    """Shapes or geometries of things that belong together disagree."""


class LabelError(DataError):
    """Labels out of range, or no voxel left to score."""


class ScoreError(DataError):
    """Scores that cannot be what they are declared to be: NaN, infinite, negative, not summing to one."""


class HeldOutError(DataError):
    """Cases offered as a test that the calibrator was fitted on."""


class OutputError(SegcalError):
    """A result cannot be written: a full disk, an existing file, no permission."""

    exit_code = 3


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Around imports of what the extra `name` brings: UsageError with its install line where that is missing."""
    try:
        yield
    except ModuleNotFoundError as missing:
        raise UsageError(
            f"segcal[{name}]",
            found=f"no package {missing.name}",
            expected=f"what the extra '{name}' brings",
            do=f'Install it: pip install "segcal[{name}]".',
        ) from missing
