"""Running a kernel on several tables at once, on the OpenMP team that torch's own operations use.

Each part is one table; which thread takes it does not matter to the result. One part after the other
where there is no OpenMP, and in a forked child, where a parallel region would wait for ever.
"""

from __future__ import annotations

import ctypes
import os
from array import array
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch

from elman.cpu import llvm
from elman.cpu.program import INT, POINTER, Program

SMALL = 1 << 20  # multiplications below which a second thread is not worth waking
_HEAD = 8  # words before the tables: next part, number of parts, kernel, words of a table
_forked = False


def _in_child() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def available() -> int:
    """How many threads a kernel may use."""
    return torch.get_num_threads() if not _forked and _parallel() is not None else 1


def shares(count: int, multiplications: int, threads: int) -> list[tuple[int, int]]:
    """`count` rows or blocks divided among threads: the first of each part, and how many. Small work stays whole."""
    parts = min(count, 1 if multiplications < SMALL else threads)
    edges = [count * part // parts for part in range(parts + 1)] if parts else []
    return [(first, last - first) for first, last in pairwise(edges)]


def run(kernel: int, parts: int, tables: Sequence[int]) -> None:
    """Run the kernel at this address on each of so many tables of equal length, which stand one after the other."""
    data = array("q", (0, parts, kernel, len(tables) // parts, 0, 0, 0, 0, *tables))
    address, _ = data.buffer_info()
    team = min(available(), parts) if parts > 1 else 1
    worker = _worker()
    if team == 1:
        worker.here(address)
    else:
        _parallel()(worker.address, address, team, 0)


@cache
def _parallel() -> Any:
    """GOMP_parallel(function, data, threads, flags) of the OpenMP that torch has loaded, or None."""
    try:
        parallel = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (AttributeError, OSError):
        return None
    parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None
    return parallel


class Worker(NamedTuple):
    address: int
    here: Any  # the same as a function of Python; the interpreter's lock is released while it runs


@cache
def _worker() -> Worker:
    """What each thread runs: take the next part until there is none."""
    module = llvm.new_module("worker")
    p = Program(module, "worker", {"data": POINTER}, 8, 1)
    data = p.given["data"]
    parts, kernel, words = (p.load_word(data, index, INT) for index in (1, 2, 3))
    with p.loop(0, parts):  # nobody takes more than all
        part = p.next_ticket(data)
        with p.when(part < parts):
            p.call(kernel, p.at(data, part * words + _HEAD))
    p.done()
    address = llvm.addresses(module, ["worker"])[0]
    return Worker(address, ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address))
