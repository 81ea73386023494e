"""What may be written, asked once before any work: every command claims its outputs here.

An output is a regular file, or nothing, in a place that can be written to. It is never something that is read from (an
input, a label map, the calibrator in use), whatever it is called: links and hard links are recognised by device and
inode. An earlier output of the same `Mark` is replaced, an empty file too; what segcal did not write only where a user
says so (`overwrite`), and in a folder that is read from not even then. A folder of outputs is none that is read from,
and holds nothing that is. Costs: a few calls of the operating system a file. No output: nothing happens.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from segcal.data.files import journal
from segcal.errors import OutputError, UsageError


@dataclass(frozen=True)
class Mark:
    """How the files of one kind begin, by which an earlier output is known."""

    name: str
    begins: re.Pattern[bytes]

    def of(self, path: Path) -> bool:
        """Whether `path` is of this kind, or empty."""
        with path.open("rb") as file:
            head = file.read(1024)
        if head.startswith(b"\x1f\x8b"):
            head = zlib.decompressobj(wbits=31).decompress(head, 1024)
        return not head or self.begins.match(head) is not None


CALIBRATOR = Mark("a calibrator of segcal", re.compile(rb'.{8}\{"__metadata__":\{"segcal":', re.DOTALL))
RESULT = Mark("a result of segcal's --json", re.compile(rb'\{\s*"segcal":'))
SUMS = Mark("sums of segcal evaluate --part", re.compile(rb'.{8}\{"__metadata__":\{"segcal_sums":', re.DOTALL))
CASES = Mark("a table of cases of segcal's --csv", re.compile(rb"case,group,in_sample,"))
METHODS = Mark("a page of segcal methods", re.compile(rb"# Parameters of every method\n"))
PAGE = Mark("a page of segcal's --report", re.compile(rb"<!doctype html>\n<!-- a page of segcal -->"))
TRIALS = Mark("a journal of trials", re.compile(rb'\{"segcal_recipe":'))
_PNG = rb"\x89PNG.*tEXtSoftware\0segcal"
ONNX = Mark("an ONNX file of segcal", re.compile(rb"\x08.\x12\x06segcal", re.DOTALL))
PROGRAM = Mark("a file that nothing is in", re.compile(rb"(?!)"))  # of torch.export: a zip file like any other
ENERGY = Mark("a map of segcal's --energy-maps", re.compile(rb".{328}free energy\0|" + _PNG, re.DOTALL))
FIGURE = Mark("a figure of segcal's --figures", re.compile(_PNG, re.DOTALL))


def claim(outputs: Sequence[tuple[Path, Mark]], inputs: Iterable[Path] = (), *, overwrite: bool = False) -> None:
    """See that all files of `outputs` may be written while `inputs` (files and folders) are read.

    UsageError for an input, '-', or one file named twice; OutputError for anything else that must not be replaced or
    cannot be written. What dead processes left in their folders is removed.
    """
    read = list(inputs) if outputs else []
    kept = journal.identities(read)
    folders = journal.identities({path if path.is_dir() else path.parent for path in read})
    taken: dict[Path, Path] = {}
    for path, mark in outputs:
        if str(path) == "-":
            raise UsageError(
                "-", found="'-' for a file", expected="the name of a file", do="Only --json writes to standard output."
            )
        target = Path(os.path.realpath(journal.placeable(path)))
        if target in taken:
            raise UsageError(
                str(path),
                found=f"the same file as {taken[target]}",
                expected="a file for each output",
                do="Name another file.",
            )
        taken[target] = path
        writable(path.parent)
        found = journal.identity(path)
        if found is not None:
            _replaceable(path, mark, found in kept, journal.identity(target.parent) in folders, overwrite)


def _replaceable(path: Path, mark: Mark, is_input: bool, beside_inputs: bool, overwrite: bool) -> None:
    if path.is_dir():
        raise OutputError(str(path), found="a folder", expected="a file, or nothing, there", do="Name another file.")
    if is_input:
        raise refusal(path)
    if mark.of(path):
        return
    if beside_inputs:
        raise UsageError(
            str(path),
            found="a file that segcal did not write, in a folder that is read from",
            expected="a new file, or another folder",
            do="Choose another place: what is read is never overwritten.",
        )
    if not overwrite:
        raise OutputError(
            str(path),
            found="a file that is there already",
            expected=f"nothing, or {mark.name}",
            do="Use --overwrite to replace it, or choose another name.",
        )


def claim_folder(folder: Path, inputs: Iterable[Path]) -> None:
    """See that `folder` may be written into while `inputs` are read.

    UsageError where it is, or holds, a folder or file that is read; OutputError for anything but a folder or nothing.
    """
    if str(folder) == "-":
        raise UsageError("-", found="'-' for a folder", expected="the name of a folder", do="Name one.")
    if folder.exists() and not folder.is_dir():
        raise OutputError(
            str(folder),
            found="something that is no folder",
            expected="a folder, or nothing, there",
            do="Choose another.",
        )
    writable(folder)
    own = journal.identity(folder)
    holding: set[Path] = set()
    for path in inputs if own is not None else ():
        real = Path(os.path.realpath(path))
        holding |= {real if real.is_dir() else real.parent, *real.parents}
    for place in holding:
        if journal.identity(place) == own:
            raise UsageError(
                str(folder),
                found="a folder that is read from, or holds what is read",
                expected="a folder of its own for the output",
                do="Choose another folder: inputs and label maps are never overwritten, nor mixed with outputs.",
            )


def writable(folder: Path) -> None:
    """OutputError unless `folder` is there, or can be made, and can be written to."""
    with journal.explained(folder):
        there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(
            str(there),
            found="a place that cannot be written to",
            expected="a folder with permission to write",
            do="Choose another place for the output.",
        )
    journal.sweep(folder)


def refusal(path: Path) -> UsageError:
    """What is said of an output that is an input."""
    return UsageError(
        str(path),
        found="an output that is also an input",
        expected="another place for the output",
        do="Choose a name that is not read from; links to inputs count as inputs.",
    )
