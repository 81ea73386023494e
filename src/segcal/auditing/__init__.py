"""The audit of promises: what a calibrator's parameters prove, what data show, and whether the two agree.

The room is not called `audit`, because a package of that name would hide the function `segcal.audit`.
"""

from segcal.auditing.auditor import audit
from segcal.auditing.findings import Audit, Finding
from segcal.auditing.measures import REGISTERED
from segcal.auditing.proofs import Proof

__all__ = ["REGISTERED", "Audit", "Finding", "Proof", "audit"]
