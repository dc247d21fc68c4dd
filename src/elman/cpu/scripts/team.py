"""The compiled code with which the threads of a team run a script (script.py), and how they wait for each other.

A stage is over when its tasks are done, whichever threads did them: no thread waits for one that has not started yet.
A waiting thread gives way again and again, since another thread may need the same processor. A thread that finds
itself on the caller's processor moves to another: the system may take milliseconds to notice that one is free.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, NamedTuple

from elman.cpu import system
from elman.cpu.codegen import code_cache, llvm
from elman.cpu.codegen.code_cache import Written
from elman.cpu.codegen.formats import FLOAT64
from elman.cpu.codegen.program import INT, POINTER, Program, Value

# The places of the first words of a script. PER_STAGE words for each stage follow: the next ticket, how many tasks
# are done, how many there are, and where the list of the tasks begins.
STAGES, REFUSED, LEFT, TOGETHER, TEAM, NUMBER, GIVE_WAY, PROCESSOR, MASK, SET_MASK, CALLER, HEAD = range(12)
PER_STAGE = 4
MASK_BYTES = 128  # in a set of processors, cpu_set_t of Linux


def head(stages: int, together: int, shared: bool) -> list[int]:
    """Returns the first words of a script.

    together: the least number of threads it needs.
    shared: whether a team runs it; otherwise it needs no functions of the system, and their addresses are 0.
    """
    functions = system.functions() if shared else system.Functions()
    return [stages, 0, 0, together, *functions, 0]


@code_cache.module
def text() -> Written:
    module = llvm.new_module("script")
    _fill(module)
    _work(module)
    _both(module)
    return Written(module, ["fill", "work", "fill_and_work"])


class Runner(NamedTuple):
    """The compiled functions as Python calls them, with the GIL released, and the address of `work`."""

    fill: Any
    fill_and_work: Any
    address: int


@cache
def runner() -> Runner:
    """Returns the functions: `fill` completes a script's words for a call, each thread of the team then runs `work`."""
    fill, work, both = text().addresses
    pointer, whole = ctypes.c_void_p, ctypes.c_int64
    kind = ctypes.CFUNCTYPE(None, pointer, pointer, whole, pointer, pointer)
    return Runner(kind(fill), kind(both), work)


FILL = {"script": POINTER, "bases": POINTER, "count": INT, "known": POINTER, "words": POINTER}


def _both(module: Any) -> None:
    """Writes `fill_and_work`, which fills and runs a script on one thread."""
    p = Program(module, "fill_and_work", FILL, FLOAT64, lanes=1)
    p.builder.call(module.get_global("fill"), [value.ir for value in p.given.values()])
    p.builder.call(module.get_global("work"), [p.given["words"].ir])
    p.done()


def _fill(module: Any) -> None:
    """Writes `fill`, which adds to each word of a script its base's address, and notes the caller's processor."""
    p = Program(module, "fill", FILL, FLOAT64, lanes=1)
    script, bases, known, words = (p.given[name] for name in ("script", "bases", "known", "words"))
    with p.loop(0, p.given["count"]) as n:
        p.store_word(p.load_word(script, n, INT) + p.load_word(known, p.load_word(bases, n, INT), INT), words, n)
    processor = p.load_word(words, PROCESSOR, INT)
    with p.when(processor > 0):
        p.store_word(p.asked(processor), words, CALLER)
    p.done()


def _work(module: Any) -> None:
    """Writes `work`, which takes tasks of each stage until none is left, and then waits for the others' tasks."""
    p = Program(module, "work", {"words": POINTER}, FLOAT64, lanes=1)
    words = p.given["words"]
    team, number, give_way = (p.load_word(words, index, INT) for index in (TEAM, NUMBER, GIVE_WAY))
    with p.when(team > 0):
        with p.when(p.asked(team) < p.load_word(words, TOGETHER, INT)):
            p.store_word(p.int(1), words, REFUSED)
        with p.when(p.asked(number) > 0):
            move_over(p, words)
    stages = p.select(p.load_word(words, REFUSED, INT) > 0, 0, p.load_word(words, STAGES, INT))
    with p.loop(0, stages) as stage:
        ticket = HEAD + PER_STAGE * stage
        done, count = p.at(words, ticket + 1), p.load_word(words, ticket + 2, INT)
        directory = p.load_word(words, ticket + 3, INT)
        with p.loop(0, count):  # a thread can take at most all tasks
            task = p.next_ticket(p.at(words, ticket))
            with p.when(task < count):
                table = p.load_word(words, directory + task, INT)
                p.call(p.load_word(words, table, INT), p.at(words, table + 1))
                p.next_ticket(done)
        with p.when(team > 0):
            p.wait_until(done, count, give_way)
    with p.when(team > 0):
        left = p.at(words, LEFT)
        with p.when(p.asked(number) > 0):
            p.next_ticket(left)
        with p.when(p.asked(number).equals(0)):  # wait here: OpenMP's wait at the end of a region does not give way
            p.wait_until(left, p.asked(team) - 1, give_way)
    p.done()


def move_over(p: Program, words: Value) -> None:
    """Moves this thread to another processor that it may use, if it runs on the caller's."""
    ask, mask_of, set_mask = (p.load_word(words, index, INT) for index in (PROCESSOR, MASK, SET_MASK))
    caller, size = p.load_word(words, CALLER, INT), p.int(MASK_BYTES)
    with p.when(ask > 0), p.when(p.asked(ask).equals(caller)):
        mask = p.scratch_words(MASK_BYTES // 8)
        with p.when(p.asked(mask_of, p.int(0), size, mask).equals(0)):
            word = p.quotient(caller, p.int(64))
            allowed = p.load_word(mask, word, INT)
            p.store_word(allowed & p.every_bit_but(caller - word * 64), mask, word)
            with p.when(p.asked(set_mask, p.int(0), size, mask).equals(0)):  # fails if there is no other processor
                p.store_word(allowed, mask, word)  # the thread has moved, and may use that processor again
                p.asked(set_mask, p.int(0), size, mask)
