"""A study resolved against its data: cohorts opened, cases dealt out, pipelines in arms; everything that can be wrong
is found here, before any work.

An `Arm` is one calibration set: a repeat, and in the sensitivity analysis a size. All pipelines of a repeat see the
same calibration, validation and test cases. No voxel is read. Raises what `open_cohort` raises for data, UsageError for
splits that cannot be made, for cohorts that do not fit together, and for pipelines their scores cannot serve.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import EllipsisType
from typing import Any

from segcal.data import splits
from segcal.data.cohort import Cohort
from segcal.data.formats.dataset_json import read_json
from segcal.data.formats.discover import open_cohort
from segcal.data.splits import CALIBRATION, TEST, VALIDATION, Partition
from segcal.errors import UsageError, visible
from segcal.study.configuration import CLEAN, Configuration, Data
from segcal.study.pipelines import VIEWS, Pipeline
from segcal.tasks.matching import likeness


@dataclass(frozen=True)
class Arm:
    """One calibration set: cases (ids) to fit on and to choose by, and the pipelines fitted on it.

    `size`: its number of cases in the sensitivity analysis, else None.
    """

    repeat: int
    size: int | None
    calibration: tuple[str, ...]
    validation: tuple[str, ...]
    pipelines: tuple[Pipeline, ...]

    @property
    def folder(self) -> str:
        """Where its fits lie."""
        return f"r{self.repeat}" if self.size is None else f"r{self.repeat}-n{self.size}"

    def label(self, pipeline: Pipeline) -> str:
        """What a pipeline of this arm is called among all that score a case."""
        return pipeline.name if self.size is None else f"{pipeline.name}@{self.size}"


@dataclass(frozen=True, eq=False)
class Design:
    """`configuration` with its opened `cohorts` (the clean one under the name "test"), and the `partitions` of the
    clean one, a repeat each.

    `left_out`: names of clean cases that are not dealt out (not selected, or frames between runs); nothing of that name
    is scored anywhere.
    """

    configuration: Configuration
    pipelines: tuple[Pipeline, ...]
    cohorts: Mapping[str, Cohort]
    partitions: tuple[Partition, ...]
    left_out: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    @property
    def clean(self) -> Cohort:
        """The cohort that is dealt out."""
        return self.cohorts[CLEAN]

    @property
    def has_energy(self) -> bool:
        """Whether raw logits are known, so that their free energy can be measured."""
        return self.clean.kind == "logits" and self.clean.head.has_free_energy

    @property
    def repeats(self) -> range:
        """Numbers of the repeats."""
        return range(len(self.partitions))

    def ids(self, repeat: int, role: str) -> tuple[str, ...]:
        """Cases of the clean cohort with a role in a repeat."""
        return tuple(self.clean[i].id for i in self.partitions[repeat].having(role))

    @cached_property
    def arms(self) -> tuple[Arm, ...]:
        """Every calibration set, the main ones first."""
        main = [
            Arm(
                r, None, self.ids(r, CALIBRATION), self.ids(r, VALIDATION), tuple(p for p in self.pipelines if p.method)
            )
            for r in self.repeats
        ]
        sized = self.configuration.sized()
        return (*main, *(self._sized(r, n, sized) for r in self.repeats for n in self.sizes))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Calibration set sizes beside the main one."""
        return tuple(n for n in self.configuration.sensitivity.sizes if n != self.configuration.split.calibration)

    def _sized(self, repeat: int, size: int, pipelines: tuple[Pipeline, ...]) -> Arm:
        """The first groups of a repeat that have at least so many cases calibrate, the other cases that are not tested
        validate.
        """
        cases = (*self.ids(repeat, CALIBRATION), *self.ids(repeat, VALIDATION))
        end = size
        while end < len(cases) and self.groups[cases[end]] == self.groups[cases[end - 1]]:
            end += 1
        return Arm(repeat, size, cases[:end], cases[end:], pipelines)

    @cached_property
    def groups(self) -> dict[str, str]:
        """The group of each clean case."""
        return dict(zip((c.id for c in self.clean), self.clean.groups, strict=True))

    def tested(self, cohort: str, repeat: int) -> tuple[str, ...]:
        """Cases of a cohort that a repeat scores: clean test cases, those of the same names elsewhere, and strangers,
        unless their group is one of those fitted on or chosen by.
        """
        test = set(self.ids(repeat, TEST))
        if cohort == CLEAN:
            return tuple(c.id for c in self.clean if c.id in test)
        seen = {self.groups[i] for role in (CALIBRATION, VALIDATION) for i in self.ids(repeat, role)}
        named = {*self.groups, *self.left_out}
        there = zip(self.cohorts[cohort], self.cohorts[cohort].groups, strict=True)
        return tuple(c.id for c, group in there if c.id in test or (c.id not in named and group not in seen))

    def described(self) -> dict[str, Any]:
        """The resolved configuration and what was found, plain, for the study's own record."""
        head = self.clean.head
        return {
            "configuration": self.configuration.resolved().model_dump(mode="json"),
            "pipelines": [p.name for p in self.pipelines],
            "classes": list(head.classes),
            "parts": list(head.parts),
            "background": head.part_background(0) if len(head.parts) == 1 else None,
            "members": self.clean.members,
            "kind": self.clean.kind,
            "has_logits": self.has_energy,
            "cohorts": {name: [c.id for c in cohort] for name, cohort in self.cohorts.items()},
            "groups": {case.id: group for case, group in zip(self.clean, self.clean.groups, strict=True)},
            "roles": [dict(zip((c.id for c in self.clean), p.roles, strict=True)) for p in self.partitions],
        }


def design(configuration: Configuration) -> Design:
    """Open the cohorts, deal the cases out, and check that everything can be done."""
    pipelines = configuration.chosen()
    notes: list[str] = []
    whole = _cohort(configuration.data)
    configuration = _presented(configuration, whole)
    clean = _spaced(_selected(whole, configuration.data), configuration, notes)
    cohorts = {CLEAN: clean}
    for name, data in configuration.cohorts.items():
        beside = data.as_beside(configuration.data)
        opened = _alike(name, _grouped(name, _selected(_cohort(beside), beside), beside, clean), clean)
        cohorts[name] = opened
        notes += _made_alike(name, opened, clean, beside.go_on)
    split = configuration.split
    partitions = tuple(
        splits.partition(
            clean.groups, split.calibration, split.validation, split.test, seed=configuration.seed, repeat=repeat
        )
        for repeat in range(configuration.repeats)
    )
    found = Design(
        configuration,
        pipelines,
        cohorts,
        partitions,
        frozenset(c.id for c in whole) - {c.id for c in clean},
        tuple(notes),
    )
    _check_pipelines(found)
    _check_arms(found)
    return replace(found, notes=(*notes, *_remarks(found)))


def _presented(configuration: Configuration, cohort: Cohort) -> Configuration:
    """With what a dataset.json beside the predictions says of the images and of training, where nothing else does."""
    where = Path(configuration.data.results[0]) / "dataset.json"
    described = read_json(where) if where.is_file() else {}
    names, count = described.get("channel_names") or described.get("modality"), described.get("numTraining")
    shape = tuple(n for n in cohort[0].shape if n > 1)
    told: dict[str, Any] = {}
    if not configuration.modality and isinstance(names, Mapping):
        told["modality"] = f"{len(shape)}D {', '.join(dict.fromkeys(visible(str(name)) for name in names.values()))}"
    if configuration.training_cases is None and isinstance(count, int) and count > 0:
        told["training_cases"] = count
    return configuration.model_copy(update=told)


def _cohort(data: Data) -> Cohort:
    background: int | EllipsisType | None = (
        ... if data.background is None else None if data.background == "none" else data.background
    )
    cohort = open_cohort(
        [Path(r) for r in data.results],
        data.labels,
        kind=data.kind,
        pool="logits",
        classes=data.classes or None,
        background=background,
        ignore_index=data.ignore_index,
        label_map={old: None if new == "ignore" else new for old, new in data.label_map.items()},
        mask=data.mask,
        zyx=data.zyx,
        channel_axis=data.channel_axis,
        images=data.images,
        copies=data.copies,
        networks=data.networks,
        geometry=data.geometry,
        damaged="exclude",
    )
    return cohort.labelled()


def _selected(cohort: Cohort, data: Data) -> Cohort:
    chosen = cohort.select(data.cases) if data.cases else cohort
    return (chosen.exclude(data.exclude) if data.exclude else chosen).whole()


def _grouped(name: str, cohort: Cohort, data: Data, clean: Cohort) -> Cohort:
    """A further cohort with its own groups; a case named as a clean one is in that one's group."""
    try:
        own = cohort if data.groups is None else splits.grouped(cohort, data.groups)
    except UsageError as error:
        raise UsageError(f"cohorts: {name}: groups", found=error.found, expected=error.expected, do=error.do) from error
    there = dict(zip((c.id for c in clean), clean.groups, strict=True))
    return own.grouped({c.id: there.get(c.id, group) for c, group in zip(own, own.groups, strict=True)})


def _spaced(cohort: Cohort, configuration: Configuration, notes: list[str]) -> Cohort:
    """The clean cohort with its groups, frames between runs left out."""
    how, gap = configuration.split.groups, configuration.split.gap
    runs = None if how is None else splits.runs_of(how)
    if gap and runs is None:
        raise UsageError(
            "split: gap",
            found=str(gap),
            expected="0, where groups are no runs of consecutive frames",
            do="Give groups: consecutive:20, or leave the gap out.",
        )
    grouped = cohort if how is None else splits.grouped(cohort, how)
    if not gap or runs is None:
        return grouped
    between = splits.between_runs([c.id for c in cohort], runs[0], gap, runs[1])
    notes.append(f"{len(between)} frames between runs are left out")
    return grouped.select([c.id for c in grouped if c.id not in between])


def _alike(name: str, cohort: Cohort, clean: Cohort) -> Cohort:
    """The cohort, if the clean one's calibrators can score it."""
    facts = (
        ("head", cohort.head, clean.head),
        ("kind of scores", cohort.kind, clean.kind),
        ("members", cohort.members, clean.members),
    )
    for what, here, there in facts:
        if here != there:
            raise UsageError(
                f"cohorts: {name}",
                found=f"{what} {here}",
                expected=f"{there}, as in data",
                do="Predict both with the same networks and keep the same files.",
            )
    return cohort


def _made_alike(name: str, cohort: Cohort, clean: Cohort, go_on: bool) -> list[str]:
    """What to note of how scores were made; UsageError where that differs, unless the study is to go on."""
    found = likeness(clean.provenance, cohort.provenance)
    if found.differences and not go_on:
        raise UsageError(
            f"cohorts: {name}",
            found="; ".join(found.differences),
            expected="scores made as those of data, on which calibrators are fitted",
            do="Say `networks:` in both places if the numbers are the same, or `go_on: true` here to score it anyway.",
        )
    return [f"{name}: {text}" for text in (*found.differences, *found.notes)]


def _check_arms(found: Design) -> None:
    """UsageError where something is to be chosen by validation cases of fewer than two groups."""
    for arm in found.arms:
        chooses = [p for p in arm.pipelines if (m := p.make()) is not None and m.takes_validation]
        count = len({found.groups[case] for case in arm.validation})
        if chooses and count < 2:
            where, which = (
                ("split: validation", "")
                if arm.size is None
                else ("sensitivity: sizes", f" with {arm.size} to calibrate")
            )
            raise UsageError(
                where,
                found=(
                    f"{len(arm.validation)} validation case(s) in {count} group(s), in repeat {arm.repeat + 1}{which}"
                ),
                expected=f"at least two groups, which {chooses[0].name} is chosen by",
                do="Give more cases to validation, smaller sizes, or finer groups.",
            )


def _remarks(found: Design) -> list[str]:
    """What a reader of the results must know."""
    out = []
    if not found.has_energy and any(p.method in ("ms", "lts-raw") for p in found.pipelines):
        out.append("only probabilities are stored: MS(zbar) is then DC(zbar), and LTS(zbar) is LTS(logS(zbar))")
    for name in found.cohorts:
        lacking = [set(found.ids(r, TEST)) - {c.id for c in found.cohorts[name]} for r in found.repeats]
        same = any(c.id in found.groups for c in found.cohorts[name])
        if name != CLEAN and same and any(lacking):
            out.append(f"{name} has not all test cases: up to {max(map(len, lacking))} of a repeat are missing")
    return out


def _check_pipelines(found: Design) -> None:
    """UsageError for a pipeline that these scores cannot serve."""
    for p in (*found.pipelines, *found.configuration.sized()):
        method = p.make()
        fields = () if method is None else sorted(method.fields)
        for cohort in found.cohorts.values():
            cohort.having(fields)
        if p.view != "p0" and found.clean.members == 1:
            raise UsageError(
                f"pipelines: {p.name}",
                found="predictions of one network",
                expected="an ensemble",
                do="Name every member's folder under results, or study p0 pipelines only.",
            )
        assert p.view in VIEWS
