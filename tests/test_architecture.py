"""The layers hold: each module imports only from layers before its own, nothing imports the test kit, and no module is
too long.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "segcal"

LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("data",),
    ("engine",),
    ("metrics", "fitting", "losses"),
    ("methods", "report"),
    ("outcomes",),
    ("tasks",),
    ("study", "deploy"),
    ("__init__",),
    ("cli",),
    ("__main__", "testing"),
)
"""Rooms in the order in which they may import; rooms of one layer do not import each other."""

RANK = {room: rank for rank, layer in enumerate(LAYERS) for room in layer}
MODULES = sorted(SOURCE.rglob("*.py"))
LONGEST = 600


def room_of(module: str) -> str:
    """`segcal.data.formats.npz` is in the room `sources`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports_of(path: Path) -> set[str]:
    """Modules of segcal that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.split(".")[0] == "segcal"}
        elif (
            isinstance(node, ast.ImportFrom)
            and node.level == 0
            and node.module is not None
            and node.module.split(".")[0] == "segcal"
        ):
            if node.module == "segcal":
                found |= {
                    (
                        f"segcal.{a.name}"
                        if (SOURCE / a.name).is_dir() or (SOURCE / f"{a.name}.py").is_file()
                        else "segcal"
                    )
                    for a in node.names
                }
            else:
                found.add(node.module)
    return found


def violations(path: Path, imported: set[str]) -> list[str]:
    """What a file imports from its own layer's other rooms or from later layers.

    The version alone may be read from the package itself.
    """
    relative = path.relative_to(SOURCE).with_suffix("")
    room = relative.parts[0]
    out = []
    for module in sorted(imported):
        other = room_of(module)
        if other == room:
            continue
        if other == "__init__" and room in ("methods", "cli", "__main__", "testing"):
            continue
        if RANK[other] >= RANK[room] or other == "testing":
            out.append(f"{relative} imports {module}")
    return out


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_only_from_layers_before(path: Path) -> None:
    assert path.relative_to(SOURCE).with_suffix("").parts[0] in RANK, "a new room: give it a place in LAYERS"
    assert violations(path, imports_of(path)) == []


def test_a_forbidden_import_is_noticed() -> None:
    assert violations(SOURCE / "metrics" / "flips.py", {"segcal.methods.method"}) == [
        "metrics/flips imports segcal.methods.method"
    ]
    assert violations(SOURCE / "metrics" / "flips.py", {"segcal.fitting.plans"}) != []
    assert violations(SOURCE / "cli" / "fit.py", {"segcal.testing"}) != []


def test_relative_imports_are_not_used() -> None:
    relative = [
        p
        for p in MODULES
        for node in ast.walk(ast.parse(p.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_module_is_too_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST


@pytest.mark.parametrize(
    "path", [p for p in MODULES if p.read_text().strip()], ids=lambda p: str(p.relative_to(SOURCE))
)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_heads_answer_for_themselves() -> None:
    """Nothing but the heads asks which kind of head it has."""
    asking = [
        str(path.relative_to(SOURCE))
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "isinstance"
        and {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)} & {"Softmax", "Regions"}
    ]
    assert set(asking) <= {"data/head.py"}
