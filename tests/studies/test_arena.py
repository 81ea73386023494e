"""The arena ranks by what is removed, calls what fails failed, and lets nobody gain from permuted labels."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import arena

ENTRANTS = '''"""Of a truth that is a temperature of 1 / 0.6."""
import numpy as np

VERSION = "1"


def scaled(beta):
    def apply(case):
        z = beta * case.log_probs.astype(float)
        return z - np.log(np.exp(z).sum(0))

    return apply


def fit(beta, training):
    assert training.classes == len(training.cases[0].log_probs)
    return scaled(beta)


def learnt(training):
    rows, labels = training.rows()
    betas = np.linspace(0.05, 1.5, 30)
    own = rows[np.arange(labels.size), labels]
    losses = [np.log(np.exp(b * rows).sum(1)).mean() - (b * own).mean() for b in betas]
    return scaled(betas[int(np.argmin(losses))]), (-1.0, 0.0)


def broken(training):
    raise RuntimeError("no such thing")


def unnormalised(training):
    return lambda case: case.log_probs + 1


ENTRANTS = {
    "identity": lambda training: lambda case: case.log_probs,
    "segcal ts": lambda training: fit(0.6, training),
    "segcal auto": learnt,
    "worse": lambda training: fit(2.0, training),
    "broken": broken,
    "unnormalised": unnormalised,
}
'''


def entered(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> dict[str, Any]:
    (folder / "entrants").mkdir(exist_ok=True)
    (folder / "entrants" / "toys.py").write_text(ENTRANTS)
    (folder / "entrants" / "absent.py").write_text("import no_such_package\n")
    common = ["--entrants", str(folder / "entrants"), "--keep", str(folder / "keep"), "-o", str(folder / "out.md")]
    monkeypatch.setattr("sys.argv", ["arena", *words, *common, "--replicates", "50"])
    arena.main()
    found: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return found


def test_on_a_known_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--simulated", "1", "--permuted", "--sizes", "3", "5", "--draws", "2", "--judges", "6")
    found = entered(tmp_path, monkeypatch, *words)
    told = {(cell["cohort"], cell["groups"]): cell for cell in found["cells"]}
    assert set(told) == {("simulated temperature 0", 3), ("simulated temperature 0", 5)} | {
        ("simulated temperature 0, labels permuted", 5)
    }
    for cell in told.values():
        assert set(cell["failed"]) == {"broken", "unnormalised"}
        assert "no such thing" in cell["failed"]["broken"]
        assert "do not add up to 1" in cell["failed"]["unnormalised"]
    plain = told["simulated temperature 0", 5]
    assert plain["kendall"] == pytest.approx(1)
    removed = {name: row["nll removed"] for name, row in plain["rows"].items()}
    assert removed["worse"] < removed["identity"] == 0 < removed["segcal auto"] <= removed["segcal ts"] + 0.02
    assert plain["intervals"] == {"told": 2, "gained more": 0, "gained less": 0}
    shuffled = told["simulated temperature 0, labels permuted", 5]["rows"]
    assert max(row["nll removed"] for name, row in shuffled.items() if name == "segcal auto") < 0
    assert found["overall"]["broken"] == [6, 6, 6] and found["overall"]["worse"][0] > found["overall"]["identity"][0]
    page = (tmp_path / "out.md").read_text()
    assert "Left out: absent (no_such_package is not installed)." in page and "| failed |" not in page
    assert "Most that anyone removes:" in page
    # again: nothing is fitted anew, and the same comes out
    (tmp_path / "entrants" / "toys.py").write_text(
        ENTRANTS.replace("def learnt(training):", "def learnt(training):\n    1 / 0")
    )
    assert entered(tmp_path, monkeypatch, *words)["cells"] == found["cells"]


def test_a_frozen_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-probabilities, labels with an ignored value, groups; shifted cases of groups that were not fitted on."""
    rng = np.random.default_rng(0)
    for name in ("clean", "noisy"):
        for part in ("scores", "labels"):
            (tmp_path / name / part).mkdir(parents=True)
        rows = []
        for k in range(12):
            z = rng.normal(size=(3, 8, 9))
            labels = (z + rng.gumbel(size=z.shape)).argmax(0).astype(np.uint8)
            labels[0] = 255
            z = (2 * z + (name == "noisy") * rng.normal(size=z.shape)).astype(np.float32)
            np.savez(tmp_path / name / "scores" / f"c{k}.npz", log_probs=z - np.log(np.exp(z).sum(0)))
            np.savez(tmp_path / name / "labels" / f"c{k}.npz", labels=labels)
            rows.append((f"c{k}", f"g{k // 2}"))
        with (tmp_path / name / "groups.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("case", "group"), *rows])
        (tmp_path / name / "cohort.json").write_text('{"ignore_index": 255}')
    words = (
        f"toy={tmp_path / 'clean'}",
        "--shifted",
        f"toy:noisy={tmp_path / 'noisy'}",
        "--sizes",
        "3",
        "--draws",
        "1",
    )
    found = entered(tmp_path, monkeypatch, *words)
    cells = {cell["condition"]: cell for cell in found["cells"]}
    assert set(cells) == {"clean", "noisy"}
    assert cells["clean"]["judges"] == cells["noisy"]["judges"] == 3
    assert cells["clean"]["rows"]["segcal auto"]["nll removed"] > 0.1
    assert "kendall" not in cells["clean"]
    # the same in files that hold everything, case by case or all in one, is the same cohort
    (tmp_path / "whole").mkdir()
    every = []
    for k in range(12):
        with (
            np.load(tmp_path / "clean" / "scores" / f"c{k}.npz") as z,
            np.load(tmp_path / "clean" / "labels" / f"c{k}.npz") as y,
        ):
            every.append((z["log_probs"], y["labels"], f"g{k // 2}"))
        np.savez(tmp_path / "whole" / f"c{k}.npz", log_probs=every[-1][0], labels=every[-1][1], group=every[-1][2])
    scores, labels, groups = (np.array(some) for some in zip(*every, strict=True))
    np.savez(tmp_path / "one.npz", log_probs=scores, labels=labels, groups=groups)
    for name in ("whole", "one.npz"):
        other = tmp_path / f"of {name}"
        other.mkdir()
        again = entered(other, monkeypatch, f"toy={tmp_path / name}", "--sizes", "3", "--draws", "1")
        numbers = {key: row["nll removed"] for key, row in again["cells"][0]["rows"].items()}
        expected = {key: row["nll removed"] for key, row in cells["clean"]["rows"].items()}
        assert numbers["segcal ts"] == pytest.approx(expected["segcal ts"], abs=1e-6)
    with pytest.raises(SystemExit, match="other settings"):
        entered(tmp_path, monkeypatch, *words, "--judges", "2")
