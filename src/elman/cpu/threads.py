"""The OpenMP team that torch's own operations use, and how work is divided among it.

One thread where there is no OpenMP, and in a forked child, where a parallel region would wait for ever.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from itertools import pairwise
from typing import Any

import torch

SMALL = 1 << 20  # multiplications below which a second thread is not worth waking
_forked = False


def _in_child() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def available() -> int:
    """How many threads a script may use."""
    return torch.get_num_threads() if not _forked and parallel() is not None else 1


def shares(count: int, multiplications: int, threads: int) -> list[tuple[int, int]]:
    """`count` rows or blocks divided among threads: the first of each part, and how many. Small work stays whole."""
    parts = min(count, 1 if multiplications < SMALL else threads)
    edges = [count * part // parts for part in range(parts + 1)] if parts else []
    return [(first, last - first) for first, last in pairwise(edges)]


@cache
def parallel() -> Any:
    """GOMP_parallel(function, data, threads, flags) of the OpenMP that torch has loaded, or None."""
    try:
        library = ctypes.CDLL(torch._C.__file__)
        run, _, _ = library.GOMP_parallel, library.GOMP_barrier, library.omp_get_num_threads
    except (AttributeError, OSError):
        return None
    run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    run.restype = None
    return run


@cache
def give_way() -> int:
    """The address of a function that lets another thread have the processor, or 0."""
    return _address(None, "sched_yield")


@cache
def team_size() -> int:
    """The address of the function that says how many threads a parallel region has got."""
    return _address(torch._C.__file__, "omp_get_num_threads")


@cache
def barrier() -> int:
    """The address of the function that waits for the rest of the team."""
    return _address(torch._C.__file__, "GOMP_barrier")


def _address(library: str | None, name: str) -> int:
    """Where a function of a library, or of the process, lies; 0 if it is not there."""
    try:
        return ctypes.cast(getattr(ctypes.CDLL(library), name), ctypes.c_void_p).value or 0
    except (AttributeError, OSError, TypeError):
        return 0
