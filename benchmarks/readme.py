"""The picture of the README: how often voxels are right against how sure the network says it is, before and after, on
the held-out cases of `segcal demo`, whose network is made up.

    python -m benchmarks.readme -o docs/images/reliability.png

A slow test draws it anew and compares.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from segcal.engine.threads import Threads
from segcal.report import figures
from segcal.tasks import demo

NAMES = ("as the network says", "corrected by segcal")
TITLE = "Simulated cases that the correction has not seen: the closer to the dashed line, the better"


def draw(result: demo.DemoResult, path: Path) -> Path:
    """The picture of what the demo found."""
    chosen = result.evaluations[result.best]
    assert chosen.calibrated is not None
    return figures.reliability(chosen.uncalibrated.block, chosen.calibrated.block, path, names=NAMES, title=TITLE)


def main() -> None:
    """Run the demo and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = demo.run(Path(folder) / "demo", Threads(), echo=print)
        draw(result, given.output)
    for row in result.table():
        print(row)


if __name__ == "__main__":
    main()
