"""Pages on finished studies: their tables side by side, their figures, each with a paragraph on how it agrees with the
paper (K26).

    python studies/publish.py STUDY1 STUDY2 ... --shared ../shared -o docs/results/studies

A STUDY is a folder that `segcal study` finished. Writes OUT/README.md (Tables 1 to 6, all studies side by side) and for
each study OUT/NAME.md (how it compares with the paper, Tables 7 and 8, differences, flips, figures) and OUT/NAME/ (its
figures; SVG, or PNG for those with pictures and where it is smaller). Tables and figures are made anew from the
studies' tidy tables and samples. Studies named after --apart have a page, and no place in the tables of all.

Paragraphs are written by people, in studies/notes/overview.md and studies/notes/NAME.md: text before the first heading
opens the page, `## KEY` heads the paragraph of a table or figure, `## KEY, not shown` that of a figure which is not
published (its pictures' licence). A table or figure without a paragraph, or a paragraph on something that is not there:
nothing is written, and each is named. Where a figure with pictures is shown, the paragraph `images` has to say whose
they are and under which licence.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import against
from PIL import Image

from segcal.data.files import journal
from segcal.errors import DataError, MissingError, SegcalError
from segcal.study import figures, results
from segcal.study.results import Finished
from segcal.study.tables import markdown
from segcal.study.tables.results import Results
from segcal.study.tables.table import Table
from segcal.study.tables.writing import tables

TITLES = {
    "table1": "Table 1: splits",
    "table2": "Table 2: methods and their parameters",
    "table3": "Table 3: free energy",
    "table4": "Table 4: every pipeline",
    "table5": "Table 5: free energy by ensemble size",
    "table6": "Table 6: corruptions",
    "against-paired": "Beside the paper: paired differences",
    "against-means": "Beside the paper: means",
    "table8": "Table 8: every pipeline, with intervals",
    "differences": "Paired differences",
    "table7": "Table 7: under shift",
    "across": "Paired differences under shift",
    "against-shift": "Beside the paper: means under shift",
    "flips": "Flip audit",
    "figure1-gauge": "Figure 1: one prediction, three sets of logits",
    "figure2-samples": "Figure 2: samples",
    "figure3-energy": "Figure 3: free energy",
    "figure4-flips": "Figure 4: flips",
    "figure5-sizes": "Figure 5: size of the calibration set",
    "figure6-bins": "Figure 6: number of bins",
    "figure7-corruption": "Figure 7: shifted images",
    "figure8-reliability": "Figure 8: reliability",
    "bands": "Calibration by distance to a boundary",
    "spread": "Calibration image by image",
    "images": "Source of the images",
}
"""Keys of tables and figures, in the order of the pages."""

PICTURES = frozenset({"figure1-gauge", "figure2-samples", "figure3-energy", "figure4-flips", "figure7-corruption"})
"""Figures that show images of the data set."""

REDUCED, LARGEST = 150_000, 500_000
"""Bytes above which a PNG gets a palette of 256 colours, and above which no figure is published."""

HEADING = re.compile(r"^## (\S+?)(, not shown)?$", re.MULTILINE)


@dataclass(frozen=True)
class Notes:
    """What people wrote for one page."""

    path: Path
    opening: str
    paragraphs: dict[str, str]
    withheld: frozenset[str]

    @classmethod
    def read(cls, path: Path) -> Notes:
        """A file of paragraphs. MissingError where there is none, DataError for two of one key."""
        if not path.is_file():
            raise MissingError(
                str(path),
                found="no file",
                expected="the paragraphs of a page",
                do="Write it: an opening, then `## KEY` and a paragraph for each table and figure.",
            )
        opening, *rest = HEADING.split(path.read_text(encoding="utf-8"))
        found: dict[str, str] = {}
        for key, text in zip(rest[::3], rest[2::3], strict=True):
            if key in found:
                raise DataError(str(path), found=f"two paragraphs on {key}", expected="one", do="Join them.")
            found[key] = text.strip()
        return cls(
            path,
            opening.strip(),
            found,
            frozenset(key for key, hidden in zip(rest[::3], rest[1::3], strict=True) if hidden),
        )

    def faults(self, keys: Sequence[str]) -> list[str]:
        """What lacks a paragraph, and paragraphs on what is not there."""
        lacking = [f"{self.path} has no paragraph on {key}" for key in keys if not self.paragraphs.get(key)]
        lacking += [] if self.opening else [f"{self.path} has no opening"]
        return lacking + [
            f"{self.path} has a paragraph on {key}, which is not there" for key in self.paragraphs if key not in keys
        ]


@dataclass(frozen=True)
class Page:
    """One page: its title, notes, and what it shows by key, as Markdown."""

    title: str
    notes: Notes
    shown: dict[str, str]

    def render(self, after: str = "") -> str:
        """The whole page; `after` follows the opening."""
        parts = [f"# {self.title}", self.notes.opening, *([after] if after else [])]
        for key in sorted(self.shown, key=list(TITLES).index):
            parts += [f"## {TITLES[key]}", *([self.shown[key]] if self.shown[key] else []), self.notes.paragraphs[key]]
        return "\n\n".join(p.strip() for p in parts) + "\n"


def of_study(
    finished: Finished,
    study: Results,
    slug: str,
    made: dict[str, Table],
    paper: against.Paper,
    notes: Notes,
    drawn: Path,
) -> Page:
    """The page of one study; its figures are drawn into `drawn`, those not published are not."""
    shown = {
        key: markdown.render(made[f"{key}-{slug}"])
        for key in ("table7", "table8", "differences", "flips")
        if f"{key}-{slug}" in made
    }
    shown["differences"] += f"- {against.two_bootstraps(study)}\n"
    compared = [against.paired(study, paper), against.means(study, paper)]
    if "table7" in shown:
        compared += [against.across(study), against.shifted(study, paper)]
    shown |= {table.name: markdown.render(table) for table in compared if table.rows}
    there = figures.write(figures.Material.of(finished), drawn, (".svg", ".png")).paths
    for name, files in there.items():
        kept = None if name in notes.withheld else _chosen(*files)
        for file in files:
            if file != kept:
                file.unlink()
        shown[name] = "" if kept is None else f"![{TITLES[name]}, {study.name}]({slug}/{kept.name})"
    if any(shown.get(name) for name in PICTURES):
        shown["images"] = ""
    return Page(study.name, notes, shown)


def _chosen(vector: Path, picture: Path) -> Path:
    """The file to publish. DataError where every one is too large."""
    if picture.stat().st_size > REDUCED:
        with Image.open(picture) as image:
            small = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        small.save(picture, optimize=True)
    drawing = "<image" not in vector.read_text(encoding="utf-8") and vector.stat().st_size < max(
        REDUCED, picture.stat().st_size
    )
    chosen = vector if drawing else picture
    if chosen.stat().st_size > LARGEST:
        raise DataError(
            str(chosen),
            found=f"{chosen.stat().st_size} bytes",
            expected=f"at most {LARGEST}",
            do="Show fewer samples: `samples` in the study's configuration.",
        )
    return chosen


def publish(folders: Sequence[Path], shared: Path, out: Path, written: Path, apart: Sequence[Path] = ()) -> list[Path]:
    """Make all pages; the files written.

    MissingError naming every paragraph that is missing, before anything is written.
    """
    found = [results.read(folder) for folder in (*folders, *apart)]
    studies = [Results.of(one) for one in found]
    together = tables(studies[: len(folders)])
    alone = [table for study in studies[len(folders) :] for table in tables([study])]
    made = {table.name: table for table in (*alone, *together)}
    slugs = [table.name.removeprefix("flips-") for table in (*together, *alone) if table.name.startswith("flips-")]
    paper = against.Paper.read(shared)
    with tempfile.TemporaryDirectory() as temporary:
        drawn = Path(temporary)
        pages = {
            "README": Page(
                "Studies of real ensembles",
                Notes.read(written / "overview.md"),
                {k: markdown.render(made[k]) for k in TITLES if k in made},
            )
        }
        for one, study, slug in zip(found, studies, slugs, strict=True):
            pages[slug] = of_study(one, study, slug, made, paper, Notes.read(written / f"{slug}.md"), drawn / slug)
        faults = [fault for page in pages.values() for fault in page.notes.faults(list(page.shown))]
        if faults:
            raise MissingError(
                str(written),
                found="; ".join(faults),
                expected="a paragraph for every table and figure, and for nothing else",
                do="Write or remove them.",
            )
        listed = "\n".join(
            [
                "| study | page |",
                "|---|---|",
                *(f"| {study.name} | [{slug}]({slug}.md) |" for study, slug in zip(studies, slugs, strict=True)),
            ]
        )
        out.mkdir(parents=True, exist_ok=True)
        files = [
            _write(out / f"{name}.md", page.render(listed if name == "README" else "").encode())
            for name, page in pages.items()
        ]
        for slug in slugs:
            files += [_write(out / slug / file.name, file.read_bytes()) for file in sorted((drawn / slug).iterdir())]
            for old in (out / slug).glob("*.*"):
                if old not in files:
                    old.unlink()
    return files


def _write(path: Path, content: bytes) -> Path:
    with journal.atomic(path) as temporary:
        temporary.write_bytes(content)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", type=Path, metavar="STUDY", help="folders of finished studies")
    parser.add_argument(
        "--apart",
        nargs="+",
        type=Path,
        default=[],
        metavar="STUDY",
        help="further ones with a page, not in the tables of all",
    )
    parser.add_argument("--shared", type=Path, required=True, help="the folder with science/paper_tables.json")
    parser.add_argument("-o", "--out", type=Path, required=True, help="where pages go")
    parser.add_argument("--notes", type=Path, default=Path(__file__).parent / "notes", help="where the paragraphs lie")
    args = parser.parse_args()
    try:
        files = publish(args.studies, args.shared, args.out, args.notes, args.apart)
    except SegcalError as error:
        sys.exit(str(error))
    print(f"{args.out}: {len(files)} files, {sum(f.stat().st_size for f in files) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
