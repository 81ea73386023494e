"""What every method shares: `fit`, and one of two ways of fitting one softmax problem on several subsets of the cases.

A `Method` is a plan: a conversation about pinned rows, driven together with those of other methods. A `Trained` method
learns by epochs from planes of whole cases (`segcal.fitting.training`), one problem and one subset after another, from
what its own plan found out first.

`fit` is atomic (it returns a new calibrator or raises) and deterministic. Arrays are `(B, C, *spatial)` scores with
`(B, *spatial)` labels, or a plain table `(N, C)`, `(N,)` with `groups` naming each row's case; a `Cohort` may be larger
than memory. No voxel to score: LabelError.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from segcal.data import splits
from segcal.data.cohort import Cohort
from segcal.data.formats.arrays import cohort_from_arrays
from segcal.data.head import Head
from segcal.data.numbering import Numbers
from segcal.data.rows import Record
from segcal.data.scores import Kind
from segcal.data.storage import doubt
from segcal.data.surroundings import Pinnable
from segcal.engine.engine import Engine
from segcal.engine.need import Need
from segcal.engine.pinned import Pinned
from segcal.engine.threads import Threads
from segcal.errors import UsageError
from segcal.fitting.plans import Plan, Subset, Task, drive, together
from segcal.fitting.training import Examples, Lesson
from segcal.methods.calibrator import Calibrator, FitData, Solution, check_keeps
from segcal.methods.maps import PartMap
from segcal.methods.parameterisation import ParameterCount
from segcal.methods.solutions import Overview, combined, judged, overview

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor

FOLDS = 5
SEED = 0


@dataclass(frozen=True, eq=False)
class FittedMap:
    """One part's map and how its fit ended."""

    map: PartMap
    solution: Solution


class AnyMethod(ABC):
    """A way of fitting calibrators, and all that is said of it elsewhere: names, what it is, counts, promises.

    Concrete methods are frozen dataclasses of their options, each with a default. What a class does not say is unknown:
    no counts, no promises.
    """

    name: ClassVar[str]
    """What `--method` calls it."""

    papers: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Names that the papers' tables print, each with the name that `--method` takes."""

    automatic: ClassVar[bool] = True
    """Whether `segcal.recommend` compares it unless told otherwise; False for methods trained at length."""

    suggested: ClassVar[bool] = False
    """Whether `segcal check` weighs its parameters against the cases there are."""

    evaluations: ClassVar[int] = 90
    """About how many evaluations of an affine gradient a fit costs: what a study expects to take."""

    @classmethod
    def at_length(cls, classes: int) -> bool:
        """Whether it takes so long with so many classes that `segcal.recommend` compares it only where it is named."""
        del classes
        return False

    @classmethod
    def variants(cls) -> Mapping[str, Mapping[str, Any]]:
        """The names that `--method` takes, each with the options that it stands for."""
        return {cls.name: {}}

    @property
    def what(self) -> str:
        """Its name in full and its formula: what the docstring opens with, without the source."""
        opening = " ".join((type(self).__doc__ or "").strip().split("\n\n")[0].split())
        title, _, formula = opening.partition(": ")
        return f"{title.split(' (')[0]}: {formula.rstrip('.')}"

    def drawn(self, classes: int) -> PartMap | None:
        """A map of the family with parameters drawn at random, the same in every run: what holds for it is what the
        family promises. None: what its maps promise is not known before a fit.
        """
        del classes
        return None

    def counted(self, classes: int) -> ParameterCount | None:
        """How many parameters one softmax problem of so many classes has; None where `optimised` says nothing."""
        numbers = self.optimised(classes)
        if numbers is None:
            return None
        return ParameterCount(numbers, self.identifiable(classes), self.variables(classes), math.inf)

    @classmethod
    def optimised(cls, classes: int) -> int | None:
        """Numbers an optimiser moves in the module of its paper; None where that is not written here."""
        del classes
        return None

    @abstractmethod
    def identifiable(self, classes: int) -> int:
        """Parameters of one softmax problem of so many classes that data can tell: what "simpler" means where methods
        are compared.
        """

    @property
    def method(self) -> str:
        """What `--method` calls it with these options."""
        return self.name

    @property
    def fields(self) -> frozenset[str]:
        """Names of the fields of a case it needs beside scores and labels."""
        return frozenset()

    def check(self, cohort: Cohort) -> None:
        """Raise what keeps it from being fitted on such a cohort: UsageError for a field that a case does not have,
        ShapeError for cases without neighbours, where it looks at those. No voxel is read.
        """
        cohort.having(sorted(self.fields))

    @property
    def takes_validation(self) -> bool:
        """Whether a validation cohort is of use to it."""
        return False

    @property
    def convex(self) -> bool:
        """Whether its problem is convex, so that a solution is certified."""
        return True

    @classmethod
    def variables(cls, classes: int) -> int | None:
        """Numbers its exact solver varies for one softmax problem of so many classes; None where there is no exact
        solver.
        """
        del classes
        return None

    def contexts(self, task: Task) -> frozenset[Pinnable]:
        """What it must know of what lies around each voxel, such as a distance, beside rows; nothing, unless a method
        says so. It is kept with the pinned rows, and accumulators say which of it they need.
        """
        del task
        return frozenset()

    def need(self, task: Task) -> Need:
        """Memory that its plan takes beside rows and samples; nothing worth counting, unless a method says more."""
        del task
        return Need()

    @property
    def cross_validates(self) -> bool:
        """Whether folds of cases are needed to choose an option."""
        return False

    @property
    def needs_every_class(self) -> bool:
        """Whether a class that no voxel is labelled with leaves the fit undetermined."""
        return False

    def fit(
        self,
        scores: Cohort | Tensor | ArrayLike | Sequence[Any],
        labels: Tensor | ArrayLike | Sequence[Any] | None = None,
        *,
        mask: Tensor | ArrayLike | None = None,
        kind: Kind = "logits",
        ignore_index: int | Sequence[int] | None = None,
        label_map: Numbers | None = None,
        head: Head | None = None,
        groups: Sequence[Any] | None = None,
        validation: Cohort | None = None,
        engine: Engine | None = None,
        **fields: Any,
    ) -> Calibrator:
        """Fit on arrays, tensors or a cohort and return a calibrator that carries its solution.

        Arguments as `cohort_from_arrays` takes them; `validation` (labelled cases of other groups, to stop or choose
        by) and `fields` (image=...) are for methods that use them. A case of which no voxel counts is left out.
        """
        unused = [name for name in fields if name not in self.fields] + (
            ["validation"] if validation is not None and not self.takes_validation else []
        )
        if unused:
            raise UsageError(
                unused[0],
                found="a value",
                expected="nothing",
                do=f"{type(self).__name__} with these options has no use for it; leave it out.",
            )
        said: dict[str, Any] = {"mask": mask, "ignore_index": ignore_index, "label_map": label_map, "groups": groups}
        if isinstance(scores, Cohort):
            if fields or any(value is not None for value in (labels, head, *said.values())):
                raise UsageError("labels", found="a value beside a cohort", expected="nothing", do="It brings its own.")
            cohort = scores
        elif labels is None:
            raise UsageError("labels", found="None", expected="labels beside scores", do="Give one label a voxel.")
        else:
            cohort = cohort_from_arrays(scores, labels, kind=kind, head=head, fields=fields, **said)
        engine = engine or Threads()
        cohort = engine.scorable(cohort)
        fit = fit_methods({self.method: self}, cohort, engine, validation=validation)[self.method]
        return _told(fit.calibrator, cohort)


def _told(calibrator: Calibrator, cohort: Cohort) -> Calibrator:
    """`calibrator`, whose message also says what must be known of the scores."""
    if calibrator.solution is not None and calibrator.data is not None:
        doubts = (doubt(cohort.head),) if cohort.storage.doubtful else ()
        message = "; ".join((calibrator.solution.message, *calibrator.data.notes, *doubts, *cohort.notes))
        calibrator.solution = replace(calibrator.solution, message=message)
    return calibrator


class Method(AnyMethod):
    """A method that is a plan."""

    @abstractmethod
    def plan(self, task: Task) -> Plan[dict[Subset, FittedMap]]:
        """Fit one softmax problem on every subset the task names."""


class ByEpochs(AnyMethod):
    """A method that is trained by epochs until validation cases get no better; where that ends is no proven optimum.

    Compared with others on request only.
    """

    automatic: ClassVar[bool] = False

    @property
    def takes_validation(self) -> bool:
        """To stop by."""
        return True

    @property
    def convex(self) -> bool:
        """No."""
        return False


class Trained(ByEpochs):
    """A method that is trained on whole planes."""

    @abstractmethod
    def plan(self, task: Task) -> Plan[dict[Subset, Any]]:
        """What to find out from pinned rows before training, for every subset."""

    @abstractmethod
    def train(self, lesson: Lesson, engine: Engine) -> FittedMap:
        """Learn one softmax problem from the cases of one subset; `lesson.start` is what the plan found for it."""


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted method: its `calibrator` and, if cross-fitted, one calibrator for each of `folds` (case indices), fitted
    without that fold.
    """

    calibrator: Calibrator
    folds: tuple[tuple[int, ...], ...] = ()
    held_out: tuple[Calibrator, ...] = ()


def fit_methods(
    methods: Mapping[str, AnyMethod],
    cohort: Cohort,
    engine: Engine,
    *,
    crossfit: bool = False,
    folds: int = FOLDS,
    seed: int = SEED,
    keep_decision: bool | None = None,
    validation: Cohort | None = None,
) -> dict[str, Fit]:
    """Fit several methods over shared passes: pin once, drive all their plans as one, then train those that are
    trained, one after another. Logits of an odd size are divided by a power of two first, and the calibrator does so
    too.

    `crossfit`: also fit each method without each fold (needs at least two groups, else UsageError). `keep_decision`: as
    for `Calibrator`. `validation`: labelled cases of other groups, for methods that stop or choose by them; no fit and
    no fold contains them. A UsageError where no method uses them. Without them such methods hold out a part of the
    cases they are given.
    """
    check_keeps(cohort.head, keep_decision)
    unit = cohort.resolution.unit if cohort.pooled_kind == "logits" else 1.0
    cohort, validation = cohort.scaled(unit), None if validation is None else validation.scaled(unit)
    for method in methods.values():
        for given in [cohort] if validation is None else [cohort, validation]:
            method.check(given)
    both = cohort if validation is None else _beside(cohort, validation, methods)
    found, pinned, parts = _driven(methods, cohort, both, engine, crossfit, folds, seed)
    subsets: tuple[Subset, ...] = ((), *((k,) for k in range(len(parts)))) if crossfit else ((),)
    found |= _trained(
        {n: m for n, m in methods.items() if isinstance(m, Trained)}, cohort, engine, found, parts, subsets, validation
    )
    return {
        name: _fit(name, method, found, cohort, pinned, parts if crossfit else (), keep_decision)
        for name, method in methods.items()
    }


@dataclass(frozen=True)
class Read:
    """What is remembered of pinned rows when they are let go."""

    records: Sequence[Record]
    passes: int


def _driven(
    methods: Mapping[str, AnyMethod],
    cohort: Cohort,
    both: Cohort,
    engine: Engine,
    crossfit: bool,
    folds: int,
    seed: int,
) -> tuple[dict[Any, Any], Read, tuple[tuple[int, ...], ...]]:
    """What all plans found, on pinned rows of `both`, the cohort and validation cases after it; and the folds."""
    parts, tasks = _tasks(cohort, both, crossfit, folds, seed)
    planned = {n: m for n, m in methods.items() if isinstance(m, Method | Trained)}
    turns, most = _turns(planned, tasks, both, engine)
    drawn = sorted({c for method in planned.values() for t in tasks for c in method.contexts(t)}, key=repr)
    with engine.within(both, most, "this fit", fitting=True), engine.pin(both, drawn) as pinned:
        _check_apart(pinned, len(cohort))
        stratum = {i: k for k, fold in enumerate(parts) for i in fold}
        pinned.resample([stratum.get(i, 0) if i < len(cohort) else len(parts) + 1 for i in range(len(both))])
        found: dict[Any, Any] = {}
        for turn in turns:
            plans: dict[Any, Plan[Any]] = {(name, t.part): planned[name].plan(t) for name in turn for t in tasks}
            plans |= {(None, t.part): overview(t) for t in tasks if turn is turns[0]}
            found |= drive(together(plans), engine, pinned)
        return found, Read(pinned.records, pinned.passes), parts


def _tasks(
    cohort: Cohort, both: Cohort, crossfit: bool, folds: int, seed: int
) -> tuple[tuple[tuple[int, ...], ...], list[Task]]:
    """The folds, and one task a part of the head; no voxel is read."""
    parts: tuple[tuple[int, ...], ...] = ()
    if len(set(cohort.groups)) >= 2:
        parts = splits.folds(cohort.groups, folds, seed).test
    elif crossfit:
        raise UsageError(
            "groups",
            found="cases of one group only",
            expected="at least two groups",
            do="Add cases of other patients or sequences, give finer groups, or fit one method, such as --method ts.",
        )
    subsets: tuple[Subset, ...] = ((), *((k,) for k in range(len(parts)))) if crossfit else ((),)
    whole, beside = frozenset(range(len(cohort))), frozenset(range(len(cohort), len(both)))
    return parts, [
        Task(
            part,
            len(cohort.head.part_classes(part)),
            whole,
            both.groups,
            parts,
            subsets,
            both.has_logits,
            beside,
            both.unit,
            both.voxel_size,
            cohort.head.part_background(part),
            tuple(case.id for case in both),
        )
        for part in range(len(cohort.head.parts))
    ]


def need_of(
    method: AnyMethod,
    cohort: Cohort,
    *,
    crossfit: bool = False,
    folds: int = FOLDS,
    seed: int = SEED,
    validation: Cohort | None = None,
) -> Need:
    """Memory that fitting a method on a cohort takes beside rows and samples; no voxel is read."""
    both = cohort if validation is None else _beside(cohort, validation, {method.method: method})
    return sum((_need(method, t) for t in _tasks(cohort, both, crossfit, folds, seed)[1]), Need())


def _need(method: AnyMethod, task: Task) -> Need:
    return method.need(task) + Need(drawn=sum(context.numbers for context in method.contexts(task)))


def _turns(
    methods: Mapping[str, AnyMethod], tasks: Sequence[Task], both: Cohort, engine: Engine
) -> tuple[list[list[str]], Need]:
    """Methods that are driven together, as far as memory goes, and the most memory that a turn needs.

    UsageError for one that does not fit by itself.
    """
    turns: list[tuple[list[str], Need]] = [([], Need())]
    for name, method in methods.items():
        need = sum((_need(method, task) for task in tasks), Need())
        engine.room_for(both, need, f"--method {method.method}", "another method, such as ts", fitting=True)
        names, so_far = turns[-1]
        if names and not engine.fits(both, so_far + need, fitting=True):
            turns.append(([name], need))
        else:
            turns[-1] = ([*names, name], so_far + need)
    needs = [need for _, need in turns]
    most = Need(max(n.kept for n in needs), max(n.each for n in needs), sum(n.drawn for n in needs))
    return [names for names, _ in turns], most


def _trained(
    methods: Mapping[str, Trained],
    cohort: Cohort,
    engine: Engine,
    found: Mapping[Any, Any],
    folds: tuple[tuple[int, ...], ...],
    subsets: Sequence[Subset],
    validation: Cohort | None,
) -> dict[Any, dict[Subset, FittedMap]]:
    """Every trained method's maps, by part and subset. Methods that need the same fields share what they read."""
    out: dict[Any, dict[Subset, FittedMap]] = {}
    shared: dict[tuple[Cohort, frozenset[str]], Examples] = {}
    cohorts = [cohort] if validation is None else [cohort, validation]
    limit = engine.max_memory // (3 * len(cohorts) * max(1, len({m.fields for m in methods.values()})))

    def examples(of: Cohort, fields: frozenset[str]) -> Examples:
        if (of, fields) not in shared:
            shared[of, fields] = Examples(of, engine, limit, fields)
        return shared[of, fields]

    for name, method in methods.items():
        for part in range(len(cohort.head.parts)):
            out[name, part] = {}
            for subset in subsets:
                cases = frozenset(range(len(cohort))) - {i for k in subset for i in folds[k]}
                held = None if validation is None else examples(validation, method.fields)
                out[name, part][subset] = method.train(
                    Lesson(examples(cohort, method.fields), part, cases, held, found[name, part][subset]), engine
                )
    return out


def _beside(cohort: Cohort, validation: Cohort, methods: Mapping[str, AnyMethod]) -> Cohort:
    """Both cohorts as one; validation cases come last, under names of their own."""
    if not any(m.takes_validation for m in methods.values()):
        raise UsageError(
            "validation",
            found="validation cases",
            expected="nothing",
            do=f"Nothing here stops or chooses by them ({', '.join(methods)}): leave them out, or fit on them too.",
        )
    ours, theirs = ((c.head, c.kind, c.members, c.pool if c.members > 1 else None) for c in (cohort, validation))
    if ours != theirs:
        raise UsageError(
            "validation",
            found="another head, kind of scores, number of members or pooling",
            expected="the same as the cases to fit on",
            do="Make both cohorts the same way.",
        )
    shared = sorted({c.group for c in cohort.cases if c.group} & {c.group for c in validation.cases if c.group})
    if shared:
        raise UsageError(
            "validation",
            found=f"group {shared[0]!r} among both kinds of cases",
            expected="other groups than those to fit on",
            do="Keep a patient or sequence on one side.",
        )
    renamed = tuple(replace(c, id=f"validation/{c.id}") for c in validation.cases)
    return replace(cohort, cases=(*cohort.cases, *renamed))


def _check_apart(pinned: Pinned, fitted: int) -> None:
    """Raise UsageError if a validation case is one of the `fitted` first cases, by content."""
    scores = {r.scores: r.id for r in pinned.records[:fitted]}
    for record in pinned.records[fitted:]:
        if record.scores in scores:
            raise UsageError(
                "validation",
                found=f"case {record.id}, which is case {scores[record.scores]} to fit on",
                expected="other cases",
                do="Give each case to one side.",
            )


def _fit(
    name: str,
    method: AnyMethod,
    found: Mapping[Any, Any],
    cohort: Cohort,
    pinned: Read,
    folds: tuple[tuple[int, ...], ...],
    keep: bool | None,
) -> Fit:
    def fitted_part(part: int, subset: Subset) -> FittedMap:
        fitted: FittedMap = found[name, part][subset]
        seen: Overview = found[None, part][subset]
        s = judged(fitted.solution, fitted.map.sensitivity(), seen.magnitude)
        absent = [cohort.head.part_classes(part)[k] for k in sorted(seen.absent)]
        if not absent:
            return replace(fitted, solution=s)
        message = f"{s.message}; no voxel is labelled {', '.join(absent)}"
        status = "degenerate" if method.needs_every_class and s.status == "optimal" else s.status
        return replace(fitted, solution=replace(s, message=message, status=status))

    def calibrator(subset: Subset) -> Calibrator:
        fitted = [fitted_part(part, subset) for part in range(len(cohort.head.parts))]
        left_out = {i for k in subset for i in folds[k]}
        records = tuple(r for i, r in enumerate(pinned.records) if i not in left_out)
        voxels = sum(r.roles[0] for i, r in enumerate(pinned.records) if i < len(cohort) and i not in left_out)
        data = FitData(
            cohort.name,
            cohort.pool,
            cohort.provenance,
            records,
            voxels,
            tuple(cohort.storage.notes(records)),
            grouping=cohort.grouping,
        )
        solution = combined([f.solution for f in fitted], cohort.head.parts, pinned.passes)
        maps, unit = [f.map for f in fitted], cohort.unit
        if unit != 1:
            there = [m.in_units(unit) for m in maps]
            if all(m is not None for m in there):
                maps, unit = [m for m in there if m is not None], 1.0
            solution = replace(solution, message=f"{solution.message}; logits are divided by {cohort.unit:.4g} first")
        return Calibrator(
            cohort.head,
            cohort.pooled_kind,
            maps,
            method.method,
            solution=solution,
            data=data,
            keep_decision=keep,
            resolution=replace(cohort.resolution, unit=cohort.resolution.unit * cohort.unit),
            unit=unit,
        )

    return Fit(calibrator(()), folds, tuple(calibrator((k,)) for k in range(len(folds))))
