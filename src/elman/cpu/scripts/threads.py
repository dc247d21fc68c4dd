"""The OpenMP team that torch's own operations use, and how work is divided among it.

There is one thread where OpenMP is missing, and in a forked child: a parallel region there would wait for ever.
"""

from __future__ import annotations

import os
from itertools import pairwise

import torch

from elman.cpu import system

SHARED_FROM = 1 << 20  # multiplications in one piece of work: below, threads do not share it
TEAM_FROM = 8  # times SHARED_FROM multiplications in a pass: below, a second thread is not worth waking
LEAST_EFFECTIVE_ROWS = 8  # fewer rows take as long as this many, since the time goes into reading the weights
_forked = False


def _in_child() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def available() -> int:
    """Returns how many threads a script may use."""
    return torch.get_num_threads() if not _forked and system.parallel() is not None else 1


def team_size(multiplications: int, threads: int) -> int:
    """Returns how many threads a pass of this many multiplications uses: all of them, or one if it is small."""
    return threads if multiplications >= TEAM_FROM * SHARED_FROM else 1


def effective_rows(rows: int) -> int:
    """Returns the number of rows to estimate time with: a few rows take as long as LEAST_EFFECTIVE_ROWS."""
    return max(rows, LEAST_EFFECTIVE_ROWS)


def shares(count: int, multiplications: int, threads: int) -> list[tuple[int, int]]:
    """Divides `count` rows or blocks among threads; small work stays whole. Returns (first, how many) for each part."""
    if not count:
        return []
    return parts(count, 1 if threads == 1 or multiplications < SHARED_FROM else min(count, threads))


def parts(count: int, number: int) -> list[tuple[int, int]]:
    """Divides `count` rows or blocks into `number` parts. Returns (first, how many) for each; a part may be empty."""
    if number == 1:
        return [(0, count)]
    edges = [count * part // number for part in range(number + 1)]
    return [(first, last - first) for first, last in pairwise(edges)]
