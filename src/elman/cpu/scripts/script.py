"""A pass over a layer as a script: which kernels run on which tables, in which order.

A script is written once for its sizes and run many times. Its words are whole numbers, and addresses that
are known at the call only: of the arrays given to it, and of rooms in the workspace. It has stages, and a stage
has tasks. Tasks of a stage run in any order, on any thread of the team, and those that wait for each other on a
thread each; a stage begins when the one before has ended. So running a script costs one call into compiled code,
however many kernels it takes.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from functools import partial
from itertools import accumulate, islice
from typing import Any, NamedTuple

from elman.cpu import system
from elman.cpu.codegen.formats import Format
from elman.cpu.scripts import team
from elman.cpu.scripts.memory import Workspace, of_thread
from elman.cpu.scripts.tape import Number


class Array(NamedTuple):
    """Numbers in memory, (T, B, columns beside each other): an address that the call completes."""

    format: Format
    base: int  # which of the addresses of the call
    offset: int = 0  # numbers beyond it
    time: int = 0  # from step to step
    row: int = 0  # from row to row

    def at(self, time: int = 0, row: int = 0, column: int = 0) -> Array:
        """The part that begins there."""
        offset = self.offset + time * self.time + row * self.row + column
        return Array(self.format, self.base, offset, self.time, self.row)


class Task(NamedTuple):
    """A kernel and its table."""

    kernel: int
    words: Sequence[int | Array]


Run = Callable[[Sequence[int]], bool]  # on addresses


def _value(number: Any) -> int:
    return number.value if isinstance(number, Number) else number


class Script:
    """Write it with `given`, `room` and `stage`; then `close`, and call it with the addresses of what is given, by name.

    form: of the numbers in an array that is given no other.
    part: "whole"; or "first", which fills what is kept, and "rest", which runs on that any number of times.
    """

    def __init__(self, form: Format, threads: int, part: str = "whole") -> None:
        self._form = form
        self._threads = threads  # at most
        self._part = part
        self.names: tuple[str, ...] = ()  # of the arrays it is given, in the order in which it runs on them
        self.keeps: dict[str, int] = {}  # bytes of each array that the first part fills for the rest
        self.steps = 0  # of a sequence, that it makes
        self.usual: Run | None = None  # `taking` the names that its pass uses, once these were checked
        self._given: dict[str, int] = {}
        self._rooms: list[int] = []  # bytes of each
        self._stages: list[list[Task]] = []
        self._together = 1  # threads that it cannot do without

    def given(self, name: str, time: int = 0, row: int = 0, *, form: Format | None = None) -> Array:
        """An array whose address the call gives under this name. ValueError for a name that is taken."""
        if name in self._given:
            raise ValueError(f"a script is given the array {name!r} twice")
        self._given[name] = base = len(self._given) + 1
        return Array(form or self._form, base, 0, time, row)

    def room(self, size: int, time: int = 0, row: int = 0, *, form: Format | None = None) -> Array:
        """So many numbers of the workspace. What they hold at the beginning is not defined."""
        form = form or self._form
        self._rooms.append(max(1, size) * form.bytes)
        return Array(form, -len(self._rooms), 0, time, row)

    def kept(self, size: int, row: int = 0) -> Array:
        """The same, for what the first part leaves to the rest: of a part, an array that is given."""
        if self._part == "whole":
            return self.room(size, row=row)
        name = f"panel.{len(self.keeps)}"
        self.keeps[name] = max(1, size) * self._form.bytes
        return self.given(name, row=row)

    def begin(self, keeping: Sequence[Task], others: Sequence[Task]) -> None:
        """The first stage: what fills kept arrays, and what else comes before everything."""
        tasks = {"whole": [*keeping, *others], "first": keeping, "rest": others}[self._part]
        self._stages = [list(tasks)] if tasks else []

    def stage(self, tasks: Iterable[Task], *, together: bool = False) -> None:
        """The next stage; `together` if its tasks wait for each other."""
        if self._part == "first":
            return
        tasks = list(tasks)
        if tasks:
            self._stages.append(tasks)
        if together:
            self._together = max(self._together, len(tasks))

    def close(self) -> Script:
        """Nothing is added from now on. What is a number of a tape has the tape's value, and is remembered for `again`.

        The order of addresses is settled here: zero, the arrays in the order of `names`, which has those last that are
        kept, the rooms. The first part is given only what it uses.
        """
        tasks = [task for stage in self._stages for task in stage]
        flat: list[int | Array] = []  # a kernel and its table, task by task
        for task in tasks:
            flat.append(task.kernel)
            flat += task.words
        self.names = tuple(sorted(self._given, key=lambda name: name in self.keeps))  # as a frozen layer has them
        if self._part == "first":
            used = {word.base for word in flat if word.__class__ is Array}  # pyright: ignore[reportAttributeAccessIssue]
            self.names = tuple([name for name in self.names if self._given[name] in used])
        self._count = len(self.names)
        places = {self._given[name]: 1 + place for place, name in enumerate(self.names)}
        places |= {-1 - number: 1 + len(self.names) + number for number in range(len(self._rooms))}
        self.stages = [len(tasks) for tasks in self._stages]  # tasks of each
        self._threads = min(self._threads, max(self.stages, default=1))

        words = team.head(len(self._stages), self._together, shared=self._threads > 1)
        directory = len(words) + team.PER_STAGE * len(self._stages)
        for stage in self._stages:
            words += (0, 0, len(stage), directory)
            directory += len(stage)
        starts = accumulate((1 + len(task.words) for task in tasks), initial=directory)
        words += islice(starts, len(tasks))
        place = len(words)
        self._bases = array("q", bytes(8 * (place + len(flat))))
        for number, word in enumerate(flat):
            if word.__class__ is Array:
                form, base, offset, _, _ = word  # pyright: ignore[reportGeneralTypeIssues]
                flat[number] = offset * form.bytes
                self._bases[place + number] = places[base]
        self._sizes = self.steps, self._rooms, list(self.keeps.values())
        self._from_tape = [(place + n, word.place) for n, word in enumerate(flat) if isinstance(word, Number)]
        self._words = array("q", [*words, *map(_value, flat)])
        self._stages = []
        self._settle(_value)
        return self

    def again(self, values: Sequence[int]) -> Script:
        """The script for other sizes of the tape that it was written on: with these values by place."""
        other = copy(self)
        other._words = self._words[:]
        for place, number in self._from_tape:
            other._words[place] = values[number]
        other._settle(lambda number: values[number.place] if isinstance(number, Number) else number)
        return other

    def _settle(self, value: Callable[[Any], int]) -> None:
        """What does not stand in the words; and nothing of a call is known."""
        steps, rooms, keeps = self._sizes
        self.steps, self._rooms = value(steps), [value(size) for size in rooms]
        self.keeps = dict(zip(self.keeps, map(value, keeps), strict=True))
        self._addresses = self._words.buffer_info()[0], self._bases.buffer_info()[0], len(self._words)
        self._seen: tuple[object, list[int]] = (None, [])
        self._orders: dict[tuple[str, ...], Run] = {}
        self.usual = None

    def __call__(self, addresses: Mapping[str, int]) -> bool:
        """Run it on arrays at these addresses. False, and nothing was done, if there are too few threads for it.

        TypeError for an array that is missing, or that the script does not know: it names them.
        """
        return self.taking(tuple(addresses))(tuple(addresses.values()))

    def taking(self, names: tuple[str, ...]) -> Run:
        """The same as a function of the addresses in the order of these names, which are checked here and not again."""
        known = self._orders.get(names)
        if known is None:
            missing, unknown = set(self.names) - set(names), set(names) - set(self.names)
            if missing or unknown or len(set(names)) != len(names):
                raise TypeError(
                    f"a script runs on the arrays {', '.join(self.names)}; "
                    f"missing: {', '.join(sorted(missing)) or 'none'}; unknown: {', '.join(sorted(unknown)) or 'none'}; "
                    f"given: {', '.join(names)}"
                )
            order = [names.index(name) for name in self.names]
            known = self._run if names == self.names else partial(self._run_in_order, order)
            self._orders[names] = known
        return known

    def _run_in_order(self, order: Sequence[int], given: Sequence[int]) -> bool:
        return self._run([given[place] for place in order] if len(given) == len(order) else given)

    def _run(self, given: Sequence[int]) -> bool:
        """On the addresses of `names`."""
        if len(given) != self._count:
            raise TypeError(f"a script runs on {self._count} addresses, but {len(given)} were given")
        if self._threads < self._together:
            return False
        own = of_thread.workspace
        if own.busy:  # a signal's handler may call in the midst of a call
            own = Workspace()
        try:
            own.busy = True
            buffers, rooms = self._seen
            if buffers is not own.buffers:  # for another thread, or the workspace has others now
                rooms = own.addresses(self._rooms)
                self._seen = own.buffers, rooms
            known = array("q", (0, *given, *rooms))
            words, place = own.words(len(self._words))
            runner = team.runner()
            if self._threads > 1:
                runner.fill(*self._addresses, known.buffer_info()[0], place)
                system.parallel()(runner.address, place, self._threads, 0)
            else:
                runner.fill_and_work(*self._addresses, known.buffer_info()[0], place)
            if own.large:  # what is in the buffers is no longer needed
                own.clear()
            return words[team.REFUSED] == 0
        finally:
            own.busy = False

    @property
    def contents(self) -> tuple[bytes, bytes]:
        """Two scripts of the same contents do the same with the same addresses."""
        return self._words.tobytes(), self._bases.tobytes()
