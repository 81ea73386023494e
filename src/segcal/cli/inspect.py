"""`segcal inspect`: what a calibrator is, what it promises, and what it was fitted on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from segcal.cli.console import Output
from segcal.cli.options import AS_USUAL, Running, all_there, claim
from segcal.cli.tables import before_after, cell, number, table, words

SMALL = 12
"""Classes up to which a matrix is shown whole."""


def inspect(calibrator: Path, /, *, running: Running = AS_USUAL) -> int:
    """Show what a calibrator file holds: parameters, promises, how its fit ended, its cases and cross-fitted numbers.

    Reading the file runs no code of it. The cases are known by digests of their content: nothing of the images is in
    the file.

        segcal inspect cal.safetensors
        segcal inspect cal.safetensors --json cal.json

    Parameters
    ----------
    calibrator
        A file written by segcal fit.
    """
    all_there(running, calibrator=calibrator)
    from segcal.methods.files import contents, load, ours

    out = Output(running.quiet, running.json)
    claim(running, inputs=[calibrator])
    loaded = load(calibrator)
    with ours(calibrator):
        described = contents(loaded, calibrator)
        show(out, described)
    out.json(described)
    return 0


def show(out: Output, described: Mapping[str, Any]) -> None:
    """Everything a person wants to see."""
    pooled = f", members pooled as {described['pool']}" if described["pool"] else ""
    out.text(
        f"{described['method']} for {', '.join(described['classes'])}; fitted on {described['kind']}{pooled}", "bold"
    )
    for name, parameters in described["parameters"].items():
        for line in _parameters(parameters, described["classes"]):
            out.text(f"{name}: {line}" if len(described["parameters"]) > 1 else line)
    promised = table("", "status", "because")
    words(promised, 2)
    guarantees = described["guarantees"]
    for name in ("translation_invariant", "preserves_argmax", "preserves_order"):
        promised.add_row(name.replace("_", " "), guarantees[name], guarantees["reasons"].get(name, ""))
    out.show(promised, "Promises")
    if described["solution"] is not None:
        _solution(out, described["solution"])
    if described["data"] is not None:
        _data(out, described["data"])
    crossfit = described["crossfit"]
    if crossfit is None:
        out.text("No cross-fitted numbers.")
    else:
        title = f"Cross-fitted over {crossfit['cases']} cases in {crossfit['groups']} groups, {crossfit['folds']} folds"
        out.show(before_after(crossfit), title)
        if "verdict" in crossfit:  # files written before have none
            out.text(crossfit["verdict"]["sentence"], "bold")
        for reason in crossfit.get("recommendation", {}).get("reasons", ()):
            out.text(reason)
    out.text("made by " + ", ".join(f"{name} {version}" for name, version in described["versions"].items()))


def _parameters(parameters: Mapping[str, Any], classes: list[str]) -> Iterator[str]:
    for name, value in parameters.items():
        if not isinstance(value, list):
            yield f"{name} {value:.6g}" if isinstance(value, float) else f"{name.replace('_', ' ')} {value}"
        elif len(classes) > SMALL:
            yield f"{name}: {len(value)} rows, in full with --json"
        elif _depth(value) == 3:  # an expert for each predicted class
            for expert, predicted in zip(value, classes, strict=True):
                yield f"{name} where {predicted} is predicted:\n{_matrix(expert)}"
        elif _depth(value) == 2:  # a row for each class, or for all
            yield f"{name}:\n{_matrix(value, classes if len(value) == len(classes) else ())}"
        else:
            yield f"{name}: " + " ".join(str(v) if isinstance(v, int) else number(v) for v in value)


def _depth(value: object) -> int:
    return 1 + _depth(value[0]) if isinstance(value, list) and value else int(isinstance(value, list))


def _matrix(rows: list[list[float | None]], names: Sequence[str] = ()) -> str:
    wide = max(map(len, names), default=0)
    lines = [" ".join(f"{'-':>9}" if v is None else f"{v:9.4f}" for v in row) for row in rows]
    return "\n".join(f"  {name:{wide}}{line}" for name, line in zip(names or [""] * len(lines), lines, strict=True))


def _solution(out: Output, solution: Mapping[str, Any]) -> None:
    out.text(f"Solution: {solution['status']}; {solution['message']}")
    gap, passes = solution["certificate"].get("gap"), solution["passes"]
    bound = "no bound on the distance to" if gap is None else f"at most {gap:.1e} above"
    out.text(
        f"NLL {number(solution['nll'])}, objective {number(solution['objective'])}, {bound} the optimum; {passes}"
        " passes over the data"
    )
    for name, path in [("", solution["selection"]), *((part, s["selection"]) for part, s in solution["parts"].items())]:
        if path and "trial" in path[0]:
            tried = table("trial", "learning rate", "patience", "lambda", "mu", "validation NLL")
            for row in path:
                strengths = (f"{row['lambda']:.3g}", f"{row['mu']:.3g}")
                tried.add_row(
                    str(row["trial"] + 1),
                    f"{row['learning_rate']:.3g}",
                    str(row["patience"]),
                    *strengths,
                    cell(row["validation_nll"]),
                )
            out.show(tried, f"Trials of the papers' recipe{': ' + name if name else ''}")
        elif path:
            chosen = table("lambda", "NLL", "gain over ts", "standard error", "weight %")
            for row in path:
                strength = "ts" if row["lambda"] is None else f"{row['lambda']:g}"
                chosen.add_row(
                    strength,
                    cell(row["nll"]),
                    cell(row["gain"], True),
                    cell(row["standard_error"]),
                    f"{100 * row['weight']:.0f}",
                )
            out.show(chosen, f"Strengths by cross-validation over cases{': ' + name if name else ''}")


def _data(out: Output, data: Mapping[str, Any]) -> None:
    from segcal.data.splits import TABLE
    from segcal.tasks.matching import ORIGINS

    made = data["provenance"]
    groups = {r["group"] or r["id"] for r in data["records"]}
    known = [f"{made['members']} member(s)"]
    unknown = ["how many networks in each is not known"] if made["origin"] == "prediction" else []
    known += unknown if made["folds"] is None else [f"{made['folds']} network(s) in each"]
    known += [] if made["origin"] is None else [ORIGINS[made["origin"]]]
    known += [] if made["tta"] is None else [f"test-time mirroring {'on' if made['tta'] else 'off'}"]
    known += [] if made["step_size"] is None else [f"step size {made['step_size']:g}"]
    by = f" by {data['grouping'].removeprefix(TABLE)!r}" if data["grouping"] else ""
    out.text(
        f"Fitted on {data['name']}: {len(data['records'])} cases in {len(groups)} groups{by},"
        f" {data['voxels']:,} voxels; {', '.join(known)}"
    )
