"""A pass over a layer as a script: which kernels run on which tables, in which order.

A script is written once for its sizes and run many times. Its words are whole numbers, and addresses that
are known at the call only: of the arrays given to it, and of rooms in the workspace. It has stages, and a stage
has tasks. Tasks of a stage run in any order, on any thread of the team, and those that wait for each other on a
thread each; a stage begins when the one before has ended. So running a script costs one call into compiled code,
however many kernels it takes.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch

from elman.cpu import llvm, threads
from elman.cpu.memory import workspace
from elman.cpu.program import INT, POINTER, Program


class Array(NamedTuple):
    """Numbers in memory, (T, B, columns beside each other): an address that the call completes."""

    base: int  # which of the addresses of the call
    offset: int = 0  # numbers beyond it
    time: int = 0  # from step to step
    row: int = 0  # from row to row

    def at(self, time: int = 0, row: int = 0, column: int = 0) -> Array:
        """The part that begins there."""
        return self._replace(offset=self.offset + time * self.time + row * self.row + column)


class Task(NamedTuple):
    """A kernel and its table."""

    kernel: int
    words: Sequence[int | Array]


class Script:
    """Write it with `given`, `room` and `stage`; then `close`, and call it with the addresses of what is given."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._given = 0
        self._rooms: list[int] = []
        self._stages: list[list[Task]] = []
        self._together = 1  # threads that it cannot do without

    def given(self, time: int = 0, row: int = 0) -> Array:
        """An array whose address is the next one of the call."""
        self._given += 1
        return Array(self._given, 0, time, row)

    def room(self, size: int, time: int = 0, row: int = 0) -> Array:
        """So many numbers of the workspace. What they hold at the beginning is not defined."""
        self._rooms.append(max(1, size))
        return Array(-len(self._rooms), 0, time, row)

    def stage(self, tasks: Iterable[Task], *, together: bool = False) -> None:
        """The next stage; `together` if its tasks wait for each other."""
        tasks = list(tasks)
        if tasks:
            self._stages.append(tasks)
        if together:
            self._together = max(self._together, len(tasks))

    def close(self) -> Script:
        """Nothing is added from now on. Large rooms come first, so that scripts share the workspace well."""
        order = sorted(range(len(self._rooms)), key=lambda number: -self._rooms[number])
        base_of_room = {-1 - number: 1 + self._given + place for place, number in enumerate(order)}
        self._rooms = [self._rooms[number] for number in order]
        self.stages = [len(tasks) for tasks in self._stages]  # tasks of each
        self._team = max(self.stages, default=1)

        team_size = threads.team_size() if self._together > 1 else 0
        words: list[int] = [len(self._stages), 0, 0, self._together, team_size]
        bases: list[int] = []
        tasks = [task for stage in self._stages for task in stage]
        directory = len(words) + 3 * len(self._stages)
        for stage in self._stages:
            words += (0, len(stage), directory)
            directory += len(stage)
        place = directory
        for task in tasks:
            words.append(place)
            place += 1 + len(task.words)
        bases += [0] * len(words)
        for task in tasks:
            words.append(task.kernel)
            bases.append(0)
            for word in task.words:
                if isinstance(word, Array):
                    words.append(word.offset * self.dtype.itemsize)
                    bases.append(base_of_room.get(word.base, word.base))
                else:
                    words.append(word)
                    bases.append(0)
        self._stages = []
        self._words, self._bases = array("q", words), array("q", bases)
        return self

    def __call__(self, addresses: Sequence[int]) -> bool:
        """Run it on arrays at these addresses. False, and nothing was done, if there are too few threads for it."""
        assert len(addresses) == self._given
        team = min(threads.available(), self._team) if self._team > 1 else 1
        if team < self._together:
            return False
        known = array("q", (0, *addresses, *workspace.addresses(self._rooms, self.dtype)))
        count = len(self._words)
        words = workspace.words(count)
        known_address, words_address = known.buffer_info()[0], words.buffer_info()[0]
        compiled = _compiled()
        compiled.fill(
            self._words.buffer_info()[0],
            self._bases.buffer_info()[0],
            count,
            known_address,
            words_address,
            threads.barrier() if team > 1 else 0,
        )
        if team > 1:
            threads.parallel()(compiled.address, words_address, team, 0)
        else:
            compiled.here(words_address)
        workspace.trim()
        return words[_REFUSED] == 0


# The first words of a script; three for each stage follow: ticket, tasks, where these are listed.
_STAGES, _BARRIER, _REFUSED, _TOGETHER, _TEAM_SIZE, _HEAD = range(6)


class _Compiled(NamedTuple):
    fill: Any
    here: Any  # as functions of Python; the interpreter's lock is released while they run
    address: int


@cache
def _compiled() -> _Compiled:
    """`fill` completes a script's words for a call; `here` is what each thread of the team then does."""
    module = llvm.new_module("script")
    arguments = {"script": POINTER, "bases": POINTER, "count": INT, "known": POINTER, "words": POINTER, "barrier": INT}
    p = Program(module, "fill", arguments, 8, 1)
    script, bases, known, words = (p.given[name] for name in ("script", "bases", "known", "words"))
    with p.loop(0, p.given["count"]) as n:
        p.store_word(p.load_word(script, n, INT) + p.load_word(known, p.load_word(bases, n, INT), INT), words, n)
    p.store_word(p.given["barrier"], words, _BARRIER)
    p.done()

    p = Program(module, "work", {"words": POINTER}, 8, 1)
    words = p.given["words"]
    barrier, team_size = (p.load_word(words, index, INT) for index in (_BARRIER, _TEAM_SIZE))
    with p.when(team_size > 0), p.when(p.asked(team_size) < p.load_word(words, _TOGETHER, INT)):
        p.store_word(p.int(1), words, _REFUSED)
    stages = p.select(p.load_word(words, _REFUSED, INT) > 0, 0, p.load_word(words, _STAGES, INT))
    with p.loop(0, stages) as stage:
        ticket = _HEAD + 3 * stage
        count, directory = p.load_word(words, ticket + 1, INT), p.load_word(words, ticket + 2, INT)
        with p.loop(0, count):  # nobody takes more than all
            task = p.next_ticket(p.at(words, ticket))
            with p.when(task < count):
                table = p.load_word(words, directory + task, INT)
                p.call(p.load_word(words, table, INT), p.at(words, table + 1))
        with p.when(barrier > 0):
            p.call(barrier)
    p.done()
    fill, work = llvm.addresses(module, ["fill", "work"])
    pointer, whole = ctypes.c_void_p, ctypes.c_int64
    of_fill = ctypes.CFUNCTYPE(None, pointer, pointer, whole, pointer, pointer, whole)
    return _Compiled(of_fill(fill), ctypes.CFUNCTYPE(None, pointer)(work), work)
