"""A field of temperatures on top of another method: p = S(x' / T), x' what that method makes of the scores.

The other method is fitted first. With `held_out` the field is fitted on what its fits without the fold of a case give,
so that it sees the answers the other gives of cases it does not know (stacking, Wolpert 1992); else on those of the fit
on all cases, which look a little too sure. T is read off the scores as they came. Both are certified, each in turn;
that nothing is gained by moving both at once is not. Costs: with `held_out` a fit of the other method a fold more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from segcal.data.files.reading import shown
from segcal.errors import UsageError
from segcal.fitting.plans import Plan, Subset, Task, mapped, together
from segcal.methods.composed import Composed, ThroughMap
from segcal.methods.method import FittedMap, Method
from segcal.methods.registry import find

Exact = Callable[[Task], Plan[dict[Subset, FittedMap]]]
"""How the field of a task is fitted."""


def base_of(name: str) -> Method:
    """The method to stand on, with its defaults. UsageError for a name of none, or of one that does more than map
    rows.
    """
    known = find(name)
    made = None if known is None else known()
    drawn = None if made is None else made.drawn(3)
    if isinstance(made, Method) and drawn is not None and not drawn.needs.case:
        return made
    raise UsageError(
        "on",
        found=shown(name),
        expected="a method that maps single voxels, such as cms-op, cms-ap or dc",
        do="Leave it out to divide the scores themselves.",
    )


def on_top(name: str, base: Method, exact: Exact, task: Task, *, held_out: bool) -> Plan[dict[Subset, FittedMap]]:
    """Both, for every subset of a task, as one map."""
    folds = {s: task.inner(s) if held_out else [] for s in task.subsets}
    apart = {_without(s, k) for s, left in folds.items() for k in left} - {*task.subsets}
    first = yield from base.plan(replace(task, subsets=(*task.subsets, *sorted(apart))))

    def field(subset: Subset) -> Plan[FittedMap]:
        members, before = task.members(subset), first[subset]
        through = {
            members & frozenset(task.folds[k]): ThroughMap(first[_without(subset, k)].map) for k in folds[subset]
        } or {members: ThroughMap(before.map)}
        if task.validation:
            through[task.validation] = ThroughMap(before.map)
        inside = replace(
            task, cases=members, folds=tuple(task.folds[k] for k in task.inner(subset)), subsets=((),), unit=1.0
        )
        found = (yield from mapped(exact(inside), through))[()]
        return _both(name, before, found, held_out=held_out)

    return (yield from together({s: field(s) for s in task.subsets}))


def _without(subset: Subset, fold: int) -> Subset:
    return tuple(sorted((*subset, fold)))


def _both(name: str, first: FittedMap, second: FittedMap, *, held_out: bool) -> FittedMap:
    """One after the other, with what is to be said of both."""
    before, after = first.solution, second.solution
    status = next((s for s in ("stopped", "degenerate") if s in (before.status, after.status)), after.status)
    message = f"on {name} ({before.message}): {after.message}"
    settings = {**after.settings, "on": name, "held_out": held_out, "first": before.settings}
    return FittedMap(Composed(first.map, second.map), replace(after, status=status, message=message, settings=settings))
