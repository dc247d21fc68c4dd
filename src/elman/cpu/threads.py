"""The OpenMP team that torch's own operations use, and how work is divided among it.

One thread where there is no OpenMP, and in a forked child, where a parallel region would wait for ever.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch

SMALL = 1 << 20  # multiplications below which work is not shared
TEAM = 8  # times as many in all, below which a second thread is not worth waking
_forked = False


def _in_child() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def available() -> int:
    """How many threads a script may use."""
    return torch.get_num_threads() if not _forked and parallel() is not None else 1


def of_team(multiplications: int, threads: int) -> int:
    """How many threads are called for so much work."""
    return threads if multiplications >= TEAM * SMALL else 1


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
        run, _, _ = library.GOMP_parallel, library.omp_get_thread_num, library.omp_get_num_threads
    except (AttributeError, OSError):
        return None
    run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    run.restype = None
    return run


class Functions(NamedTuple):
    """Addresses of what compiled code calls; 0 where the system has none."""

    team: int = 0  # how many threads a parallel region has got
    number: int = 0  # which of them this is
    give_way: int = 0  # let another thread have the processor
    processor: int = 0  # the number of the one this thread stands on
    mask: int = 0  # those it may stand on
    set_mask: int = 0


@cache
def functions() -> Functions:
    of_team = [_address(torch._C.__file__, name) for name in ("omp_get_num_threads", "omp_get_thread_num")]
    names = ("sched_yield", "sched_getcpu", "sched_getaffinity", "sched_setaffinity")
    return Functions(*of_team, *[_address(None, name) for name in names])


def _address(library: str | None, name: str) -> int:
    """Where a function of a library, or of the process, lies; 0 if it is not there."""
    try:
        return ctypes.cast(getattr(ctypes.CDLL(library), name), ctypes.c_void_p).value or 0
    except (AttributeError, OSError, TypeError):
        return 0
