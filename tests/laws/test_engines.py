"""Every registered engine keeps the laws of engines."""

from __future__ import annotations

from typing import Any

import pytest

from segcal.engine import REGISTERED
from segcal.engine.engine import Engine
from segcal.engine.serial import Serial
from segcal.engine.threads import Threads
from segcal.testing.engines import ENGINE_LAWS
from segcal.testing.law import Law

ENGINES: dict[type[Engine], Any] = {Serial: lambda workers: Serial(), Threads: Threads}


@pytest.mark.parametrize("law", ENGINE_LAWS, ids=str)
@pytest.mark.parametrize("engine", REGISTERED, ids=lambda e: e.__name__)
def test_keeps_the_law(engine: type[Engine], law: Law[Any]) -> None:
    law.check(ENGINES[engine])
