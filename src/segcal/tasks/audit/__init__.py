"""The audit of promises: what a calibrator's parameters prove, what data show, and whether the two agree.

The room is not called `audit`, because a package of that name would hide the function `segcal.audit`.
"""

from segcal.tasks.audit.auditor import audit
from segcal.tasks.audit.findings import Audit, Finding
from segcal.tasks.audit.measures import REGISTERED
from segcal.tasks.audit.proofs import Proof

__all__ = ["REGISTERED", "Audit", "Finding", "Proof", "audit"]
