"""What `segcal check` finds out about predictions before anything is fitted, as data; and its part that `fit`,
`evaluate` and `apply` say too.

`check` reads every case once, and a case that cannot be used does not hide the others: voxels by role, classes,
agreement of scores and labels so far, what the delivered label maps are, cases that are there twice.

`traps` is what a user must hear who never typed `check`: the finders in `TRAPS`, each of which needs no more of the
facts than `brief` knows. To say one more thing in every command, write a finder, put it into `FINDERS` and `TRAPS`, and
add what it needs to `brief`; commands print what comes back and list it under `notes` in their JSON.

Promises: nothing is written; the same findings for any number of workers. No labels: what labels would tell is left
out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segcal.data.cohort import Cohort
from segcal.engine.engine import Engine
from segcal.tasks.check import contents, grouping, predictions
from segcal.tasks.check.agreement import Glance, agreement, looked_at, turns
from segcal.tasks.check.facts import Scores, brief, facts_of
from segcal.tasks.check.finding import SEVERITIES, Finder, Finding
from segcal.tasks.check.looking import Look, suites
from segcal.tasks.scoring import scoring_need

TRAPS: tuple[Finder, ...] = (contents.kind, contents.geometry, agreement, grouping.names)
"""What is said wherever predictions are read."""

FINDERS: tuple[Finder, ...] = (
    *(
        contents.failed,
        contents.data,
        contents.labels,
        contents.kind,
        contents.geometry,
        agreement,
        contents.voxels,
        contents.storage,
        contents.classes,
    ),
    *(grouping.groups, grouping.names, grouping.support),
    *(predictions.networks, predictions.delivered, predictions.energy, predictions.calibration),
)
"""What is looked for, in the order in which it is told within a severity."""


@dataclass(frozen=True, eq=False)
class Checkup:
    """What was found.

    `facts`: what the findings rest on; `methods`: those worth trying on these cases; none without labels.
    """

    findings: tuple[Finding, ...]
    facts: Mapping[str, Any]
    methods: tuple[str, ...]

    @property
    def usable(self) -> bool:
        """Whether nothing stands in the way of a fit or an application."""
        return all(f.severity != "error" for f in self.findings)

    def to_json(self) -> dict[str, Any]:
        """What `check --json` writes, but for the command to type next."""
        facts = {**self.facts, "agreement": self.facts["agreement"].to_json()}
        return {**facts, "findings": [f.to_json() for f in self.findings], "methods": list(self.methods)}


def check(cohort: Cohort, engine: Engine) -> Checkup:
    """Read `cohort` once and say what is there. Never raises for a single case: what is wrong with it is a finding."""
    cohort = engine.scorable(cohort)
    scores, few = Scores(cohort), frozenset(case.id for case in looked_at(cohort))
    look = Look(suites(cohort.head), Glance(turns(cohort)), few)
    with engine.within(cohort, scoring_need(cohort, 1), "checking", fitting=False):
        outcomes = engine.map(cohort, look, "checking cases", keep_members=cohort.members > 1, each=scores.take)
    facts = facts_of(cohort, outcomes, scores)
    findings = [f for finder in FINDERS for f in finder(cohort, facts)]
    return Checkup(tuple(sorted(findings, key=_first)), facts, grouping.worth_trying(cohort, facts))


def traps(cohort: Cohort, engine: Engine) -> tuple[Finding, ...]:
    """What every command that reads `cohort` must say, the worst first; empty where all is as it should be. Never
    raises for a case: the command that reads it does.
    """
    facts = brief(cohort, engine)
    found = [f for finder in TRAPS for f in finder(cohort, facts) if f.severity != "ok"]
    return tuple(sorted(found, key=_first))


def _first(finding: Finding) -> tuple[bool, int]:
    """What there is at all, then the worst."""
    return finding.topic != "data", SEVERITIES.index(finding.severity)
