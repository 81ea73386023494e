"""The house in numbers: entries, layers, circles, imports inside functions, tokens, lengths, lists kept by hand,
questions after a type.

    python -m benchmarks.house [-o docs/results/house.md] [--json]

Counted from the source alone (`src/segcal`), nothing is imported. `tests/test_house.py` holds the figures of `HELD` at
or below what docs/results/house.json says: they may only fall. One that must rise is a decision: write it there, and
why in docs/decisions. Files, tokens and words grow with what the house can do.

- entries: Python files and packages at the top.
- layers: of `tests/test_architecture.py`.
- circles: groups of modules that import each other at their top.
- deferred imports: of segcal's own modules inside functions (`cli` apart, whose help must not wait for torch), and
  those of other packages, which are extras or slow to load.
- tokens: of Python's own tokenizer, without comments, docstrings and blank lines; words of docstrings beside.
- lengths: lines of a file, median and ninetieth percentile; share of functions of at most three lines.
- lists of methods: places outside `methods/` that name three or more methods by hand, by class or by the name that
  `--method` takes.
- questions after a type: `isinstance` on heads outside data/head.py, and on maps outside methods/.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
import statistics
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "segcal"
METHODS = re.compile(
    r"\b(TemperatureScaling|EnsembleTemperatureScaling|VectorScaling|MatrixScaling|ConstrainedMatrixScaling"
    r"|DirichletCalibration|ClassConditionalDirichlet|ArgmaxPreservingMatrixScaling|OrderPreservingMatrixScaling"
    r"|HistogramBinning|IsotonicRegression|IntraOrderPreserving|LocalTemperatureScaling|BoundaryTemperatureScaling"
    r"|SelectiveScaling|SusceptibilityCalibration|MetaCal)\b"
)
NAMES = {"ts", "ets", "vs", "ms", "ms-c", "dc", "cdc", "cms-ap", "cms-op", "iop", "isotonic", "histogram", "lts"}
NAMES |= {"bts", "bts-class", "bts-both", "selective", "meta-cal", "meta-cal-star"}
MAPS = (
    "ScaleMap",
    "AffineMap",
    "MixtureMap",
    "ConditionalMap",
    "BinnedMap",
    "IntraOrderMap",
    "LocalMap",
    "BoundaryMap",
    "SelectiveMap",
    "SusceptibilityMap",
    "MetaCalMap",
    "TemperatureField",
)
HEADS = ("Regions", "Softmax")
HELD = (
    "entries at the top",
    "layers",
    "circles",
    "deferred imports of segcal outside cli",
    "deferred imports of other packages",
    "files in cli",
    "median lines of a file",
    "90th percentile of lines",
    "longest file",
    "functions of at most three lines, %",
    "lists of methods outside methods",
    "isinstance on heads outside data.head",
    "isinstance on maps outside methods",
    "isinstance on maps in methods",
)
"""Figures that may only fall."""


def modules() -> dict[str, Path]:
    """Files by dotted name."""
    return {
        ".".join(("segcal", *p.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): p
        for p in sorted(SOURCE.rglob("*.py"))
    }


def imported(nodes: list[ast.stmt], known: dict[str, Path]) -> Iterator[str]:
    """Modules of segcal that statements import."""
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "segcal":
            for a in node.names:
                inner = f"{node.module}.{a.name}"
                yield inner if inner in known else node.module
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name in known)


def circles(known: dict[str, Path], trees: dict[str, ast.Module]) -> list[list[str]]:
    """Strongly connected groups of more than one module."""
    graph = {m: {x for x in imported(t.body, known) if x != m and x in known} for m, t in trees.items()}

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        ahead = [start]
        while ahead:
            for other in graph[ahead.pop()] - seen:
                seen.add(other)
                ahead.append(other)
        return seen

    far = {m: reached(m) for m in graph}
    groups = {tuple(sorted(o for o in far[m] if m in far[o])) for m in graph if m in far[m]}
    return [list(g) for g in sorted(groups)]


def deferred(tree: ast.Module) -> tuple[int, int]:
    """Imports inside functions: of segcal, of other packages."""
    own = other = 0
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.ImportFrom):
                    own += (node.module or "").split(".")[0] == "segcal"
                    other += (node.module or "").split(".")[0] != "segcal"
                elif isinstance(node, ast.Import):
                    own += sum(a.name.split(".")[0] == "segcal" for a in node.names)
                    other += sum(a.name.split(".")[0] != "segcal" for a in node.names)
    return own, other


def docstrings(tree: ast.Module) -> list[ast.Constant]:
    """String statements: docstrings of modules, classes, functions and names."""
    return [
        n.value
        for n in ast.walk(tree)
        if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant) and isinstance(n.value.value, str)
    ]


def tokens(text: str, tree: ast.Module) -> int:
    """Tokens that do something."""
    prose = {(n.lineno, n.col_offset) for n in docstrings(tree)}
    quiet = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    return sum(
        t.type not in quiet and not (t.type == tokenize.STRING and t.start in prose)
        for t in tokenize.generate_tokens(io.StringIO(text).readline)
    )


def lists(module: str, tree: ast.Module) -> int:
    """Displays outside `methods` that name three or more methods by hand."""
    if module.startswith("segcal.methods") or module == "segcal":
        return 0
    found = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.List | ast.Tuple | ast.Set | ast.Dict):
            words = {n.value for n in ast.iter_child_nodes(node) if isinstance(n, ast.Constant)} & NAMES
            classes = set(METHODS.findall(ast.unparse(node)))
            found += len(words) >= 3 or len(classes) >= 3
    return found


def asked(tree: ast.Module, kinds: tuple[str, ...]) -> int:
    """`isinstance(x, kind)`, one or several kinds at a time."""
    return sum(
        isinstance(n, ast.Call)
        and isinstance(n.func, ast.Name)
        and n.func.id == "isinstance"
        and bool({x.id for x in ast.walk(n.args[1]) if isinstance(x, ast.Name)} & set(kinds))
        for n in ast.walk(tree)
    )


def layers() -> int:
    """Layers of the architecture test."""
    tree = ast.parse((ROOT / "tests" / "test_architecture.py").read_text())
    value = next(n.value for n in tree.body if isinstance(n, ast.AnnAssign) and getattr(n.target, "id", "") == "LAYERS")
    assert isinstance(value, ast.Tuple)
    return len(value.elts)


def measure() -> dict[str, Any]:
    """Every figure of the house as it stands."""
    known = modules()
    texts = {m: p.read_text() for m, p in known.items()}
    trees = {m: ast.parse(t) for m, t in texts.items()}
    lengths = [len(t.splitlines()) for m, t in texts.items()]
    functions = [
        n.end_lineno - n.lineno + 1 - (ast.get_docstring(n) is not None and _lines(n.body[0]))
        for t in trees.values()
        for n in ast.walk(t)
        if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) and n.end_lineno is not None
    ]
    inside = {m: deferred(t) for m, t in trees.items()}
    return {
        "entries at the top": len(
            {p.stem for p in SOURCE.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
        ),
        "layers": layers(),
        "circles": len(circles(known, trees)),
        "deferred imports of segcal outside cli": sum(
            o for m, (o, _) in inside.items() if not m.startswith("segcal.cli")
        ),
        "deferred imports of other packages": sum(o for _, o in inside.values()),
        "files": len(known),
        "files in cli": sum(m.startswith("segcal.cli") for m in known),
        "tokens": sum(tokens(texts[m], trees[m]) for m in known),
        "words of docstrings": sum(len(n.value.split()) for t in trees.values() for n in docstrings(t)),
        "median lines of a file": round(statistics.median(lengths)),
        "90th percentile of lines": sorted(lengths)[int(0.9 * len(lengths))],
        "longest file": max(lengths),
        "functions of at most three lines, %": round(100 * sum(f <= 3 for f in functions) / len(functions)),
        "lists of methods outside methods": sum(lists(m, t) for m, t in trees.items()),
        "isinstance on heads outside data.head": sum(
            asked(t, HEADS) for m, t in trees.items() if not m.startswith("segcal.data.head")
        ),
        "isinstance on maps outside methods": sum(
            asked(t, MAPS) for m, t in trees.items() if not m.startswith("segcal.methods")
        ),
        "isinstance on maps in methods": sum(
            asked(t, MAPS) for m, t in trees.items() if m.startswith("segcal.methods")
        ),
    }


def _lines(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def main(words: list[str]) -> None:
    """Print the figures, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", type=Path, help="write a page, before beside now (docs/results/house.md)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(words)
    found = measure()
    if given.json:
        print(json.dumps(found, indent=2))
    for name, value in () if given.json else found.items():
        print(f"{name:45} {value}")
    if given.o:
        record = json.loads((ROOT / "docs" / "results" / "house.json").read_text())
        record["now"] = found
        given.o.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
        given.o.write_text(page(record))


def page(record: dict[str, Any]) -> str:
    """The figures before and now, and the walks that `benchmarks.walk` recorded."""
    walks = json.loads((ROOT / "docs" / "results" / "walk.json").read_text())
    rows = [f"| {name} | {record['before'][name]} | {value} |" for name, value in record["now"].items()]
    rows += [
        f"| `segcal {command}` walks through {kind}: entered, entered again | "
        + " | ".join("{rooms}, {returns}".format(**walks[when][rooms][command]) for when in ("before", "now"))
        + " |"
        for rooms, kind in (("top", "entries at the top"), ("files", "files"))
        for command in walks["now"]["top"]
    ]
    return (
        "# The house in numbers\n\nMade by `python -m benchmarks.house -o docs/results/house.md`, the walks by `python"
        f" -m benchmarks.walk`; before: commit {record['commit']}. What is counted, and how: `benchmarks/house.py` and"
        " `benchmarks/walk.py`.\n\n| | before | now |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
