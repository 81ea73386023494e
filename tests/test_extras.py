"""What an extra brings is not needed without it, and named with its install line where it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXTRAS = {
    "study": ("pydantic", "yaml", "pyarrow"),
    "zarr": ("zarr", "numcodecs"),
    "recipe": ("optuna",),
    "torchio": ("torchio",),
    "onnx": ("onnxruntime",),
}
"""Packages of extras that segcal itself imports."""

NEEDS = {
    "study": "from segcal.study.study import run",
    "zarr": "from segcal.data.formats.zarr import ZarrSink; ZarrSink('out')",
    "recipe": "import segcal; segcal.Recipe()",
    "torchio": "from segcal.study.shift.artefacts import require_torchio; require_torchio()",
    "onnx": "import pathlib; from segcal.tasks.copies.segmenters import Onnx; Onnx(pathlib.Path('net.onnx'))",
}
"""What cannot be done without each."""

ABSENT = """import sys
class Absent:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in {names}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Absent)
"""


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", NEEDS)
def test_a_missing_extra_is_named_with_its_install_line(name: str, tmp_path: Path) -> None:
    code = f"""{ABSENT.format(names=EXTRAS[name])}
from segcal.errors import UsageError
try:
    {NEEDS[name]}
except UsageError as error:
    print(error)
"""
    said = python(code, tmp_path)
    assert f'pip install "segcal[{name}]"' in said.stdout, said.stderr
    assert "no package" in said.stdout


def test_the_commands_of_the_readme_need_no_extra(tmp_path: Path) -> None:
    """Check, fit with auto, evaluate, apply, audit, inspect and methods, on a cohort that nnU-Net might have left."""
    code = f"""{ABSENT.format(names=sum(EXTRAS.values(), ()))}
from pathlib import Path
from segcal.cli import run
from segcal.data.simulate import Design, Simulation, Truth, write_nnunet
design = Design(classes=("background", "kidney", "tumour"), shape=(6, 16, 14), margin=(1, 2, 2), members=2)
members = write_nnunet(Simulation(design, Truth.general(3, 1), 1), range(4), Path("all"))
results, labels = [str(m) for m in members], ["--labels", str(Path("all") / "labelsTr")]
done = [
    run(["check", *results, *labels]),
    run(["fit", *results, *labels, "--method", "auto", "-o", "cal.safetensors"]),
    run(["evaluate", *results, *labels, "--calibrator", "cal.safetensors", "--fitted", "include"]),
    run(["apply", "cal.safetensors", *results, "-o", "out", "--maps", "entropy"]),
    run(["audit", "cal.safetensors", *results]),
    run(["inspect", "cal.safetensors"]),
    run(["methods"]),
]
print("codes", done)
"""
    found = python(code, tmp_path)
    assert "codes [0, 0, 0, 0, 0, 0, 0]" in found.stdout, found.stdout[-2000:] + found.stderr[-2000:]
