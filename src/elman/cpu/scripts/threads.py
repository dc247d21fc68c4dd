"""The OpenMP team that torch's own operations use, and how work is divided among it.

One thread where there is no OpenMP, and in a forked child, where a parallel region would wait for ever.
"""

from __future__ import annotations

import os
from itertools import pairwise

import torch

from elman.cpu import system

SHARED_FROM = 1 << 20  # multiplications below which work is not shared
TEAM_FROM = 8  # times as many in all, below which a second thread is not worth waking
LEAST_EFFECTIVE_ROWS = 8  # rows that take no less time than so many: what waits is the reading of their weights
_forked = False


def _in_child() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def available() -> int:
    """How many threads a script may use."""
    return torch.get_num_threads() if not _forked and system.parallel() is not None else 1


def team_size(multiplications: int, threads: int) -> int:
    """How many threads are called for so much work."""
    return threads if multiplications >= TEAM_FROM * SHARED_FROM else 1


def effective_rows(rows: int) -> int:
    """As many rows as would take that long if they were many."""
    return max(rows, LEAST_EFFECTIVE_ROWS)


def shares(count: int, multiplications: int, threads: int) -> list[tuple[int, int]]:
    """`count` rows or blocks divided among threads: the first of each part, and how many. Small work stays whole."""
    if not count:
        return []
    return parts(count, 1 if threads == 1 or multiplications < SHARED_FROM else min(count, threads))


def parts(count: int, number: int) -> list[tuple[int, int]]:
    """So many parts: the first of each, and how many it has; some have none where there are too few."""
    if number == 1:
        return [(0, count)]
    edges = [count * part // number for part in range(number + 1)]
    return [(first, last - first) for first, last in pairwise(edges)]
