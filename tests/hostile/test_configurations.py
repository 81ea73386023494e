"""Configurations of studies that would hang or fill the memory: refused within bounds, by the name of the entry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from segcal.study import configuration

Bounds = Callable[..., list[str]]

PLAIN = """name: s
data: {results: [r], labels: l}
split: {calibration: 2, validation: 1}
"""

ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]\n" for k in range(1, 12)
)
MERGES = "m0: &m0 {x: 1}\n" + "".join(f"m{k}: &m{k} {{<<: [*m{k - 1}, *m{k - 1}], y{k}: 1}}\n" for k in range(1, 40))


def test_the_plain_one_is_read(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(PLAIN)
    assert configuration.read(path).split.calibration == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (PLAIN + ALIASES, "more than 10000 entries"),
        (PLAIN + MERGES, "more than 10000 entries"),
        (PLAIN + "pipelines: &l [*l]\n", "study.yaml: pipelines"),
        (PLAIN + "".join(f"k{k}: 0\n" for k in range(30_000)), "at most 262144"),
        (PLAIN + "".join(f"k{k}: 0\n" for k in range(4_000)), "'k0'"),
        (PLAIN + "".join(f"{k:x}:\n" for k in range(30_000)), "more than 10000 entries"),
        (PLAIN + "deep: " + "[" * 5_000 + "]" * 5_000, "nested more than"),
        (PLAIN + "deep: " + "{a: " * 5_000 + "}" * 5_000, "nested more than"),
        (PLAIN + "x" * 200_000 + ": 0\n", "study.yaml"),
        (PLAIN + "n: " + "9" * 200_000, "study.yaml"),
        (PLAIN + "sexagesimal: 1" + ":59" * 50_000, "study.yaml"),
    ],
    ids=[
        "aliases",
        "merges",
        "loop",
        "30,000 unknown keys",
        "4,000 unknown keys",
        "30,000 short ones",
        "lists",
        "mappings",
        "a long key",
        "digits",
        "base 60",
    ],
)
def test_what_a_file_makes_is_bounded(text: str, words: str, tmp_path: Path, within_bounds: Bounds) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    (said,) = within_bounds(lambda: configuration.read(path))
    assert said.startswith(("UnreadableError: ", "UsageError: ", "UnsafeFileError: ")) and "study.yaml" in said
    assert words in said and len(said) < 1_000


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ("repeats: 1000000000", "repeats"),
        ("bins: 1000000000", "bins"),
        ("bins: [20, 1000000000]", "bins"),
        (f"bins: [{', '.join(['20'] * 2_000)}]", "bins"),
        ("bands: [1.0e+300]", "bands"),
        (f"bands: [{', '.join(['20'] * 2_000)}]", "bands"),
        ("replicates: 1000000000", "replicates"),
        ("samples: 1000000000", "samples"),
        ("recipe: {trials: 1000000000}", "trials"),
        ("recipe: {epochs: 1000000000}", "epochs"),
        ("sensitivity: {sizes: [1000000000000]}", "sizes"),
        (f"sensitivity: {{sizes: [{', '.join(['20'] * 2_000)}]}}", "sizes"),
        ("seed: 1000000000000", "seed"),
        ("repeats: " + "9" * 4_000, "repeats"),
        ("repeats: 1.0e+300", "repeats"),
        ("repeats: .inf", "repeats"),
        ("pipelines: [LTS(zbar)]\nmethods: {lts: {epochs: 1000000000}}", "epochs"),
        ("pipelines: [LTS(zbar)]\nmethods: {lts: {patch: 1000000000}}", "patch"),
        ("pipelines: [LTS(zbar)]\nmethods: {lts: {draws: [1]}}", "draws"),
        ("pipelines: [iop(zbar)]\nmethods: {iop: {hidden: 1000000000}}", "hidden"),
        ("pipelines: [iop(zbar)]\nmethods: {iop: {hidden: many}}", "hidden"),
        ("pipelines: [iop(zbar)]\nmethods: {iop: {seed: x}}", "seed"),
        ("pipelines: [iop(zbar)]\nmethods: {iop: {learning_rate: {a: 1}}}", "learning_rate"),
        (f"pipelines: [iop(zbar)]\nmethods: {{iop: {{weight_decay: {'9' * 400}}}}}", "weight_decay"),
        ("pipelines: [histogram(zbar)]\nmethods: {histogram: {bins: 1000000000}}", "bins"),
        (f"pipelines: [histogram(zbar)]\nmethods: {{histogram: {{prior: {'9' * 400}}}}}", "prior"),
        (f"pipelines: [dc(zbar)]\nmethods: {{dc: {{mu: {'9' * 400}}}}}", "mu"),
        ("pipelines: [dc(zbar)]\nmethods: {dc: {solver: recipe}}", "solver"),
        ("pipelines: [ts(zbar)]\nmethods: {ts: {solver: [1]}}", "solver"),
    ],
)
def test_values_that_a_study_cannot_have_are_refused(
    entry: str, name: str, tmp_path: Path, within_bounds: Bounds
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"{PLAIN}{entry}\n")
    (said,) = within_bounds(lambda: len(configuration.read(path).chosen()))
    assert said.startswith(("UsageError: ", "UnreadableError: ")) and name in said and len(said) < 1_000
