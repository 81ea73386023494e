"""What `segcal corrupt` does with its options: which work they ask for, progress, the note `segcal.json`, and what is
shown.

The note is written before the first file and says what made the folder, versions included, since JPEG depends on
Pillow's libjpeg and artefacts on TorchIO. Options that contradict each other: UsageError. No file: nothing is written.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from segcal import __version__
from segcal.cli.console import Output, bars
from segcal.cli.tables import table
from segcal.data.files import journal
from segcal.data.files.ledger import NAME
from segcal.errors import UsageError
from segcal.study.shift import artefacts, folder, photometric


def work_of(
    severity: photometric.Severity | None, kind: str | None, artefact: str | None, replicates: int, seed: int
) -> folder.Work:
    """What the options ask for."""
    if (severity is None) == (artefact is None):
        found = "neither --severity nor --artefact" if severity is None else "--severity and --artefact"
        raise UsageError(
            "corrupt",
            found=found,
            expected="one of them",
            do="Pictures take --severity mild or strong, NIfTI volumes take --artefact.",
        )
    if severity is not None:
        if replicates != 1:
            raise UsageError(
                "--replicates",
                found=str(replicates),
                expected="1 for pictures",
                do="Replicates are for --artefact; use another --seed for pictures.",
            )
        return folder.Photometric(severity, kind, seed)
    if kind is not None:
        raise UsageError(
            "--kind", found=kind, expected="no kind with --artefact", do="Kinds are of pictures: use --severity."
        )
    if replicates < 1:
        raise UsageError(
            "--replicates", found=str(replicates), expected="1 or more", do=f"The papers use {artefacts.REPLICATES}."
        )
    artefacts.require_torchio()
    return folder.Artefacts(str(artefact), replicates, seed)


@dataclass(frozen=True)
class Done:
    """What was written to `output`."""

    output: Path
    rows: list[folder.Row]

    def show(self, out: Output) -> None:
        """A line a kind, and where everything is."""
        shown = table("kind", "files", "parameters")
        for (kind, parameters), files in sorted(Counter((r.kind, r.parameters) for r in self.rows).items()):
            shown.add_row(kind, str(files), parameters)
        out.show(shown, f"{len(self.rows)} files written to {self.output}")
        out.text(f"what was done to each: {self.output / folder.TABLE}")

    def to_json(self) -> dict[str, Any]:
        """The table."""
        return {"output": str(self.output), "files": [asdict(r) for r in self.rows]}


def run(images: Path, output: Path, work: folder.Work, *, overwrite: bool, quiet: bool) -> Done:
    """Do it, with a bar on a terminal."""
    with bars(quiet) as progress:

        def begin(total: int) -> None:
            note = {"command": "corrupt", "work": type(work).__name__, **asdict(work), "versions": versions()}
            with journal.atomic(output / NAME) as temporary:
                temporary.write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
            if progress is not None:
                progress.start("corrupt", total)

        return Done(
            output,
            folder.corrupt(
                images, output, work, overwrite=overwrite, begin=begin, step=None if progress is None else progress.step
            ),
        )


def versions() -> dict[str, str]:
    """Versions of what pixels depend on; TorchIO where it is installed."""
    out = {"segcal": __version__}
    for name in ("numpy", "scipy", "pillow", "nibabel", "torch", "torchio"):
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return out
