"""The serial engine: in order, in the calling thread."""

from __future__ import annotations

import threading

from segcal.engine.serial import Serial


def test_one_after_another_in_the_calling_thread():
    seen: list[tuple[int, int]] = []
    results = Serial().each(lambda k: seen.append((k, threading.get_ident())) or k * k, range(5))
    assert seen == []
    assert list(results) == [0, 1, 4, 9, 16]
    assert seen == [(k, threading.get_ident()) for k in range(5)]
    assert Serial().workers == 1
