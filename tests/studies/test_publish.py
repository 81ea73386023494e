"""`studies/publish.py` on a tiny study: every table and figure with its paragraph, none without one, and directions
that are those of the numbers.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import against
import numpy as np
import publish
import pytest
import yaml
from PIL import Image

from segcal.engine.serial import Serial
from segcal.errors import DataError, MissingError, UnreadableError
from segcal.study import configuration, figures, results, study
from segcal.study.tables.names import Pair
from segcal.study.tables.results import Results
from tests.study.conftest import CASES, described, write_ensemble

PIPELINES = ("p0", "pbar", "zbar", "TS(zbar)", "MS(zbar)", "DC(zbar)", "MSc(zbar)", "CDC(zbar)", "CMSap(zbar)")
OVERVIEW = ("table1", "table2", "table3", "table4", "table5")
TABLES = ("table7", "table8", "differences", "flips", "against-paired", "against-means", "across", "against-shift")
FIGURES = (
    "figure1-gauge",
    "figure2-samples",
    "figure3-energy",
    "figure4-flips",
    "figure5-sizes",
    "figure6-bins",
    "figure8-reliability",
    "bands",
    "spread",
)
LINK = re.compile(r"\]\(([^)]+)\)")

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study of three classes with a shifted cohort."""
    root = tmp_path_factory.mktemp("finished")
    write_ensemble(root / "clean", CASES)
    write_ensemble(root / "shifted", CASES, noise=3.0)
    (root / "clean" / "images").mkdir()
    for case in CASES:
        Image.fromarray((85 * np.load(root / "clean" / "labels" / f"{case}.npy")).astype(np.uint8)).save(
            root / "clean" / "images" / f"{case}.png"
        )
    clean = {**described(root)["data"], "images": str(root / "clean" / "images")}
    noisy = {"results": str(root / "shifted" / "member*"), "labels": str(root / "shifted" / "labels"), "background": 0}
    sizes = {"sizes": [4], "pipelines": ["TS(zbar)", "MS(zbar)"]}
    (root / "study.yaml").write_text(
        yaml.safe_dump(
            described(
                root,
                data=clean,
                methods={},
                pipelines=list(PIPELINES),
                cohorts={"shifted": noisy},
                sensitivity=sizes,
                replicates=200,
            )
        )
    )
    study.run(configuration.read(root / "study.yaml"), root / "out", Serial())
    return root / "out"


@pytest.fixture
def quick(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are those that the study drew, not drawn again."""

    def copied(_: figures.Material, folder: Path, endings: tuple[str, ...]) -> figures.Written:
        folder.mkdir()
        names = sorted(f.stem for f in (finished / "figures").glob("*.pdf"))
        return figures.Written(
            {n: tuple(Path(shutil.copy(finished / "figures" / f"{n}{e}", folder)) for e in endings) for n in names}, {}
        )

    monkeypatch.setattr(figures, "write", copied)


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shared folder with a paper whose numbers are made up: calibrated pipelines are better by NLL, and nothing else
    differs.
    """
    rows = {
        p: {
            "NLL": 0.5 if p in ("p0", "pbar", "zbar") else 0.4,
            "DSC_pct": 70.0,
            "ECE": 0.1,
            "BA_ECE": 0.2,
            "ACE": None,
            "Flip_pct": None,
        }
        for p in PIPELINES
    }
    there = {"diff": -0.1, "lo": -0.2, "hi": -0.05, "significant": True}
    unclear = {**there, "hi": 0.1, "significant": False}
    pair = {
        "NLL": {"One": there, "Two": unclear},
        "DSC": "0 (order preserving)",
        "ECE": {"One": {**there, "diff": 0.1}, "Two": unclear},
    }
    paper = {
        "K26_camera_ready_paired_differences": {"values": {"MS(zbar)->MSc(zbar)": pair}},
        "K26_table4_main": {"One": rows, "Two": rows},
        "K26_table7_cityscapes_shift": {"mild": rows},
    }
    shared = tmp_path_factory.mktemp("papers")
    (shared / "science").mkdir()
    (shared / "science" / "paper_tables.json").write_text(json.dumps(paper))
    return shared


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write("small", left_out="bands")` writes the notes of a page, all but that one, and returns the folder
    of notes.
    """

    def make(name: str = "small", *, left_out: str = "", withheld: tuple[str, ...] = (), more: str = "") -> Path:
        folder = tmp_path / "notes"
        folder.mkdir(exist_ok=True)
        keys = {"overview": OVERVIEW, name: (*TABLES, *FIGURES, "images")}
        for page, wanted in keys.items():
            paragraphs = [
                f"## {k}{', not shown' if k in withheld else ''}\n\nWhat {k} of {page} says.\n"
                for k in wanted
                if k != left_out
            ]
            (folder / f"{page}.md").write_text("\n".join([f"About {page}.\n", *paragraphs, more]))
        return folder

    return make


@pytest.mark.slow
def test_every_table_and_figure_with_its_paragraph(finished: Path, papers: Path, write: Write, tmp_path: Path) -> None:
    files = publish.publish([finished], papers, tmp_path / "pages", write())
    page, overview = ((tmp_path / "pages" / name).read_text() for name in ("small.md", "README.md"))
    for key, text in [*((k, page) for k in (*TABLES, *FIGURES, "images")), *((k, overview) for k in OVERVIEW)]:
        _, after = text.split(f"## {publish.TITLES[key]}\n", 1)
        content, _ = after.split(f"What {key} of {'small' if text is page else 'overview'} says.", 1)
        assert "\n## " not in content
        assert ("|---|" in content) == (key in (*TABLES, *OVERVIEW))
        assert ("![" in content) == (key in FIGURES)
    assert page.startswith("# small\n\nAbout small.")
    assert page.index("Beside the paper") < page.index("Table 8") < page.index("Figure 1")
    # the same tables as the study's own
    assert (finished / "tables" / "table8-small.md").read_text().strip() in page
    assert (finished / "tables" / "table4.md").read_text().strip() in overview
    for written in (tmp_path / "pages").glob("*.md"):
        links = LINK.findall(written.read_text())
        assert links
        assert [link for link in links if not (written.parent / link).is_file()] == []
    assert sorted(files) == sorted(f for f in (tmp_path / "pages").rglob("*") if f.is_file())
    assert all(f.stat().st_size < publish.LARGEST for f in files)
    # lines as vectors, pictures as pixels
    assert {f.name for f in files} >= {"figure8-reliability.svg", "figure3-energy.png"}


@pytest.mark.usefixtures("quick")
def test_missing_and_superfluous_paragraphs_are_named(
    finished: Path, papers: Path, write: Write, tmp_path: Path
) -> None:
    for key, page in (("bands", "small"), ("table7", "small"), ("images", "small"), ("table4", "overview")):
        with pytest.raises(MissingError, match=rf"{page}\.md has no paragraph on {key}"):
            publish.publish([finished], papers, tmp_path / "pages", write(left_out=key))
    with pytest.raises(MissingError, match=r"has a paragraph on figure9, which is not there"):
        publish.publish([finished], papers, tmp_path / "pages", write(more="## figure9\n\nNothing.\n"))
    with pytest.raises(DataError, match="two paragraphs on bands"):
        publish.publish([finished], papers, tmp_path / "pages", write(more="## bands\n\nAgain.\n"))
    folder = write()
    (folder / "small.md").unlink()
    with pytest.raises(MissingError, match=r"small\.md"):
        publish.publish([finished], papers, tmp_path / "pages", folder)
    assert not (tmp_path / "pages").exists()


@pytest.mark.usefixtures("quick")
def test_a_withheld_figure_is_not_published_and_an_old_one_goes(
    finished: Path, papers: Path, write: Write, tmp_path: Path
) -> None:
    out = tmp_path / "pages"
    publish.publish([finished], papers, out, write())
    assert (out / "small" / "figure2-samples.png").is_file()
    hidden = tuple(publish.PICTURES)
    folder = write(withheld=tuple(k for k in hidden if k in FIGURES), left_out="images")
    publish.publish([finished], papers, out, folder)
    assert not [f for f in (out / "small").iterdir() if f.stem in hidden]
    assert "What figure2-samples of small says." in (out / "small.md").read_text()
    assert (out / "small" / "bands.svg").is_file()


@pytest.mark.usefixtures("quick")
def test_studies_side_by_side(finished: Path, papers: Path, write: Write, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(finished, other)
    about = json.loads((other / "study.json").read_text())
    about["configuration"]["name"] = "A second, larger"
    (other / "study.json").write_text(json.dumps(about))
    write("a-second-larger")
    publish.publish([finished, other], papers, tmp_path / "pages", write())
    overview = (tmp_path / "pages" / "README.md").read_text()
    head = next(line for line in overview.splitlines() if line.startswith("| Pipeline"))
    assert "small" in head and "A second, larger" in head
    assert "[a-second-larger](a-second-larger.md)" in overview
    publish.publish([finished], papers, tmp_path / "pages", write(), [other])
    overview = (tmp_path / "pages" / "README.md").read_text()
    assert "A second, larger" not in next(line for line in overview.splitlines() if line.startswith("| Pipeline"))
    assert "[a-second-larger](a-second-larger.md)" in overview


def cells(table: Any, pair: Pair) -> dict[tuple[str, str], str]:
    """Words of a row by group and head."""
    (row,) = [r for r in table.rows if r.label.plain == f"{pair.first} -> {pair.second}"]
    return {(c.group, c.head.plain): cell.content.plain for c, cell in zip(table.columns, row.cells, strict=True)}


def moved(finished: Path, **by: tuple[str, float]) -> Results:
    """The study with a number added to one metric of a pipeline, in every case: far enough that no interval includes
    zero.
    """
    one = results.read(finished)
    rows = one.rows("scores")
    for row in rows:
        method = row["pipeline"].removesuffix("(zbar)")
        if method in by and row["metric"] == by[method][0]:
            row["value"] += by[method][1]
    return replace(Results.of(one), tables={**one.tables, "scores": rows})


def test_directions_are_those_of_the_numbers(finished: Path, papers: Path) -> None:
    here, paper = moved(finished, MSc=("nll", 5.0), DC=("ece", -5.0)), against.Paper.read(papers)
    pair, order = Pair("MS(zbar)", "MSc(zbar)"), Pair("MS(zbar)", "DC(zbar)")
    found = cells(against.paired(here, paper), pair)
    assert [found[m, d] for m in ("NLL", "DSC", "ECE", "BA-ECE") for d in ("One", "Two")] == [
        "↓",
        "·",
        "=",
        "=",
        "↑",
        "·",
        "—",
        "—",
    ]
    assert cells(against.paired(here, paper), order)["NLL", "One"] == "—"
    compared = against.compared(here, "test", against.GROUPS)
    told = 0
    for (p, key), c in compared.items():
        head = {"nll": "NLL", "dice": "DSC", "ece": "ECE", "ba_ece": "BA-ECE"}[key]
        shown = cells(against.paired(here, paper), p)[head, "small"]
        assert shown == cells(against.across(here), p)[head, "clean"]
        assert shown == ("=" if c.identical else "↑" if c.estimate.low > 0 else "↓" if c.estimate.high < 0 else "·")
        told += shown in "↑↓"
    assert (found["NLL", "small"], cells(against.paired(here, paper), order)["ECE", "small"]) == ("↑", "↓")
    # the tally counts every comparison that is told apart on one side at least
    text = next(n for n in against.paired(here, paper).notes if n.startswith("Beside One"))
    same, other, only_here, only_there, of = (int(n) for n in re.findall(r"\d+", text))
    assert same + other + only_here == told >= 2
    assert other >= 1  # MSc by NLL
    assert same + other + only_there == 2 and of == len(compared)


def test_directions_of_means(finished: Path, papers: Path) -> None:
    here, paper = Results.of(results.read(finished)), against.Paper.read(papers)
    rows = [r for r in results.read(finished).rows("scores") if (r["cohort"], r["metric"]) == ("test", "nll")]
    nll = {p: float(np.mean([r["value"] for r in rows if r["pipeline"] == p])) for p in ("p0", "zbar", "TS(zbar)")}
    assert nll["p0"] - nll["zbar"] > 0.01 and nll["zbar"] - nll["TS(zbar)"] > 0.01
    table = against.means(here, paper)
    pooled, scaled = cells(table, Pair("p0", "zbar")), cells(table, Pair("zbar", "TS(zbar)"))
    assert (pooled["NLL", "small"], pooled["NLL", "One"]) == ("↓", "=")
    assert (scaled["NLL", "small"], scaled["NLL", "One"], scaled["ACE", "One"]) == ("↓", "↓", "—")
    assert scaled["DSC", "small"] == "="
    assert cells(against.shifted(here, paper), Pair("zbar", "TS(zbar)"))["NLL", "Cityscapes mild"] == "↓"


def test_the_paper_itself(shared: Path) -> None:
    paper = against.Paper.read(shared)
    pair = Pair("CDC(zbar)", "CMSap(zbar)")
    dice = next(m for m in against.PAIRED if m.key == "dice")
    assert [paper.paired(d, pair, dice) for d in paper.clean] == [
        "↑"
    ] * 3  # preservation keeps the Dice score, in all of its data sets


@pytest.mark.usefixtures("quick")
def test_command(
    finished: Path,
    papers: Path,
    write: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [
        "publish.py",
        str(finished),
        "--shared",
        str(papers),
        "--notes",
        str(write()),
        "-o",
        str(tmp_path / "pages"),
    ]
    monkeypatch.setattr(sys, "argv", words)
    publish.main()
    assert re.search(r"pages: \d+ files, \d\.\d MB", capsys.readouterr().out)
    monkeypatch.setattr(sys, "argv", [words[0], str(tmp_path / "nowhere"), *words[2:]])
    with pytest.raises(SystemExit, match="nowhere"):
        publish.main()
    with pytest.raises(UnreadableError, match=r"paper_tables\.json"):
        against.Paper.read(tmp_path)


@pytest.mark.usefixtures("quick")
def test_a_figure_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: Path, papers: Path, write: Write
) -> None:
    monkeypatch.setattr(publish, "LARGEST", 1000)
    with pytest.raises(DataError, match=r"bytes"):
        publish.publish([finished], papers, tmp_path / "pages", write())
