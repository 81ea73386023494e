"""One thread an operation: torch's and BLAS's own threading switched off for a while.

Their threading changes the bits of matrix products, and it stalls on a busy machine: an operation of microseconds then
waits for a core. What works side by side is the engines' to say. Settings are those of the process; what stood before
is put back, also after an error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache

import torch
from threadpoolctl import ThreadpoolController


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch and the BLAS behind NumPy compute each operation on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _blas().limit(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


@cache
def _blas() -> ThreadpoolController:
    # SciPy brings a BLAS of its own: it must be loaded to be found
    import scipy.linalg  # noqa: F401

    return ThreadpoolController()
