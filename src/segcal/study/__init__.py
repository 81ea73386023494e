"""The papers' protocol from one file: repeats, pipelines, shift, sensitivity, statistics, tables and figures (K26
Section 4 and Appendices C to J).

    run, merge, read    do a study, join its parts, read a finished one (`Finished`)
    Configuration       what a study is; `segcal.study.configuration.read` reads one from YAML

Names are imported when they are first used: a message about a configuration costs no import of torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segcal.study.configuration import Configuration
    from segcal.study.results import Finished, read
    from segcal.study.study import merge, run

__all__ = ["Configuration", "Finished", "merge", "read", "run"]

_HOME = {"Configuration": "configuration", "Finished": "results", "read": "results", "merge": "study", "run": "study"}
"""The module of each name."""


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'segcal.study' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"segcal.study.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
