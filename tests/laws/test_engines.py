"""Every registered engine keeps the laws of engines."""

from __future__ import annotations

from typing import Any

import pytest

from segcal.engines import REGISTERED, Engine, Serial, Threads
from segcal.testing import ENGINE_LAWS, Law

ENGINES: dict[type[Engine], Any] = {Serial: lambda workers: Serial(), Threads: Threads}


@pytest.mark.parametrize("law", ENGINE_LAWS, ids=str)
@pytest.mark.parametrize("engine", REGISTERED, ids=lambda e: e.__name__)
def test_keeps_the_law(engine: type[Engine], law: Law[Any]) -> None:
    law.check(ENGINES[engine])
