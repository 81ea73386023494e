"""What `segcal.study` offers by name, and that looking at it costs no import of torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from segcal import study


def test_names_lead_where_they_say() -> None:
    assert set(study.__all__) == {"Configuration", "Finished", "merge", "read", "run"}
    for name in study.__all__:
        assert getattr(study, name).__name__ == name
        assert name in dir(study)
    with pytest.raises(AttributeError, match="no attribute 'rum'"):
        study.rum  # noqa: B018


def test_the_room_itself_costs_no_torch() -> None:
    code = "import sys, segcal.study; assert 'torch' not in sys.modules and 'pyarrow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
