"""Threads of a team: they do not wait for one that has not come, and do not share a processor if another is free."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from elman.cpu.codegen import llvm
from elman.cpu.codegen.formats import FLOAT64
from elman.cpu.codegen.program import POINTER, Program
from elman.cpu.scripts import team

linux = pytest.mark.skipif(sys.platform != "linux", reason="processors are chosen as Linux has them")


class System:
    """What compiled code asks of the system, answered and written down here."""

    def __init__(self, processor: int, allowed: set[int], refuses: bool = False):
        whole, address = ctypes.c_int, ctypes.c_void_p
        self.asked: list[set[int]] = []

        def mask(pid: int, size: int, out: int) -> int:
            ctypes.memmove(out, sum(1 << number for number in allowed).to_bytes(size, "little"), size)
            return 0

        def set_mask(pid: int, size: int, given: int) -> int:
            word = int.from_bytes(ctypes.string_at(given, size), "little")
            self.asked.append({number for number in range(8 * size) if word >> number & 1})
            return -1 if refuses else 0

        of_mask = ctypes.CFUNCTYPE(whole, whole, ctypes.c_size_t, address)
        self.kept = ctypes.CFUNCTYPE(whole)(lambda: processor), of_mask(mask), of_mask(set_mask)

    def move_over(self, caller: int) -> list[set[int]]:
        """The masks that a thread sets which finds the caller on that processor."""
        p = Program(llvm.new_module("move"), "move", {"words": POINTER}, FLOAT64, lanes=1)
        team.move_over(p, p.given["words"])
        words = (ctypes.c_int64 * team.HEAD)()
        addresses = [ctypes.cast(function, ctypes.c_void_p).value or 0 for function in self.kept]
        words[team.PROCESSOR], words[team.MASK], words[team.SET_MASK] = addresses
        words[team.CALLER] = caller
        p.done()
        (address,) = llvm.load(llvm.machine_code(p.module), [p.function.name])
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)(ctypes.addressof(words))
        return self.asked


def test_a_thread_on_the_callers_processor_moves_over() -> None:
    """It leaves that one out for a moment, and may then stand where it could before."""
    for caller, allowed in ((5, {5, 70}), (0, {0, 1}), (63, set(range(1024))), (64, {2, 64}), (1023, {0, 1023})):
        assert System(caller, allowed).move_over(caller) == [allowed - {caller}, allowed]


def test_a_thread_elsewhere_stays() -> None:
    assert System(3, {3, 4}).move_over(4) == []


def test_a_thread_that_has_no_other_processor_stays() -> None:
    assert System(5, {5}, refuses=True).move_over(5) == [set()]


ALONE = """
import os, sys
processors = {processors}
os.sched_setaffinity(0, processors)  # before anybody starts a thread
sys.path.insert(0, {tests!r})
import torch, elman
from cases import gradients, inputs, layer
from elman.cpu.layer import kernel_tasks
from elman.cpu.scripts import threads
threads.SHARED_FROM = kernel_tasks.MEETING = 0
torch.set_num_threads(2)
for name, batch in (("lstm", 6), ("gru_before", 1)):  # sharing rows, and units
    of = layer(name, 3, 40, bidirectional=batch == 6)
    x, states = inputs(of, 5, batch)
    with elman.use_engine("cpu"):
        both = [gradients(of, x, states) for _ in range(20)]
        torch.set_num_threads(1)
        one = gradients(of, x, states)
        torch.set_num_threads(2)
    assert all(torch.equal(a, b) for each in both for a, b in zip(each, one, strict=True)), name
masks = {{task: os.sched_getaffinity(int(task)) for task in os.listdir("/proc/self/task")}}
assert len(masks) > 1 and all(mask == processors for mask in masks.values()), masks
"""


@linux
@pytest.mark.parametrize("count", [1, 2])
def test_two_threads_on_few_processors(count: int) -> None:
    """Results are those of one thread, and no thread is kept from a processor that it might use before."""
    processors = set(sorted(os.sched_getaffinity(0))[:count])
    if len(processors) < count:
        pytest.skip("this process may use one processor only")
    script = ALONE.format(tests=str(Path(__file__).parent), processors=processors)
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
