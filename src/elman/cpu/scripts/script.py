"""A pass over a layer as a script: which kernels run on which tables, in which order.

A script is written once for its sizes and run many times. It consists of stages, and a stage of tasks. A stage begins
when the previous one has ended. The tasks of a stage run in any order, on any thread of the team; tasks that wait for
each other need a thread each. One call into compiled code runs the whole script, however many kernels it has.

The words of a script are whole numbers and addresses. A call supplies the addresses: those of the arrays that are
given to the script, and those of its rooms, which are arrays in the workspace.
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
    """An array (T, B, columns) in memory with contiguous columns. Its address is known only at the call."""

    format: Format
    base: int  # which address it begins at: 1, 2, ... for the given arrays, -1, -2, ... for the rooms
    offset: int = 0  # from that address, in numbers
    time: int = 0  # stride from step to step, in numbers
    row: int = 0  # stride from row to row, in numbers

    def at(self, time: int = 0, row: int = 0, column: int = 0) -> Array:
        """Returns the part of the array that begins at this step, row and column."""
        offset = self.offset + time * self.time + row * self.row + column
        return Array(self.format, self.base, offset, self.time, self.row)


class Task(NamedTuple):
    """A kernel and the table of words that it is called with."""

    kernel: int  # its address
    words: Sequence[int | Array]


Run = Callable[[Sequence[int]], bool]  # runs a script on the addresses of its arrays; False: too few threads


def _value(number: Any) -> int:
    return number.value if isinstance(number, Number) else number


class Script:
    """A pass over a layer. `given`, `room` and `stage` write it, `close` completes it, and a call runs it.

    form: the format of arrays for which no other is named.
    part: "whole"; or "first", which fills the kept arrays, and "rest", which runs any number of times with them.
    """

    def __init__(self, form: Format, threads: int, part: str = "whole") -> None:
        self._form = form
        self._threads = threads  # the most threads that it may use
        self._part = part
        self.names: tuple[str, ...] = ()  # of the given arrays, in the order of the addresses that `_run` takes
        self.keeps: dict[str, int] = {}  # bytes of each array that the first part fills for the rest
        self.steps = 0  # in inference: how many steps of a sequence one run computes
        self.usual: Run | None = None  # what `taking` returned for the names that its pass uses
        self._given: dict[str, int] = {}  # the base of each given array
        self._rooms: list[int] = []  # bytes of each room
        self._stages: list[list[Task]] = []
        self._together = 1  # the least number of threads: tasks that wait for each other

    def given(self, name: str, time: int = 0, row: int = 0, *, form: Format | None = None) -> Array:
        """Returns an array whose address the call gives under this name. Raises ValueError if the name is taken."""
        if name in self._given:
            raise ValueError(f"a script is given the array {name!r} twice")
        self._given[name] = base = len(self._given) + 1
        return Array(form or self._form, base, 0, time, row)

    def room(self, size: int, time: int = 0, row: int = 0, *, form: Format | None = None) -> Array:
        """Returns an array of `size` numbers in the workspace. What they are at the beginning is undefined."""
        form = form or self._form
        self._rooms.append(max(1, size) * form.bytes)
        return Array(form, -len(self._rooms), 0, time, row)

    def kept(self, size: int, row: int = 0) -> Array:
        """Returns an array that the first part fills and the rest reads. It has `size` numbers.

        In a whole script it is a room. In a part it is a given array, which the caller keeps between the parts.
        """
        if self._part == "whole":
            return self.room(size, row=row)
        name = f"panel.{len(self.keeps)}"
        self.keeps[name] = max(1, size) * self._form.bytes
        return self.given(name, row=row)

    def begin(self, keeping: Sequence[Task], others: Sequence[Task]) -> None:
        """Writes the first stage. keeping: the tasks that fill kept arrays. others: what else has to come first."""
        tasks = {"whole": [*keeping, *others], "first": keeping, "rest": others}[self._part]
        self._stages = [list(tasks)] if tasks else []

    def stage(self, tasks: Iterable[Task], *, together: bool = False) -> None:
        """Adds a stage, but not to the first part. together: its tasks wait for each other, so each needs a thread."""
        if self._part == "first":
            return
        tasks = list(tasks)
        if tasks:
            self._stages.append(tasks)
        if together:
            self._together = max(self._together, len(tasks))

    def close(self) -> Script:
        """Completes the script: lays out its words, and returns it. Nothing can be added afterwards.

        A number of a tape becomes a word with its value on the tape; its place is recorded for `again`. The addresses
        of a call are, in this order: zero, for words that are no address; those of the given arrays in the order of
        `names`, the kept ones last; those of the rooms. The first part is given only the arrays that it uses.
        """
        tasks = [task for stage in self._stages for task in stage]
        flat: list[int | Array] = []  # for each task the kernel and its words
        for task in tasks:
            flat.append(task.kernel)
            flat += task.words
        # Kept arrays come last, as frozen layers give them.
        self.names = tuple(sorted(self._given, key=lambda name: name in self.keeps))
        if self._part == "first":
            used = {word.base for word in flat if word.__class__ is Array}  # pyright: ignore[reportAttributeAccessIssue]
            self.names = tuple([name for name in self.names if self._given[name] in used])
        self._count = len(self.names)
        places = {self._given[name]: 1 + place for place, name in enumerate(self.names)}
        places |= {-1 - number: 1 + len(self.names) + number for number in range(len(self._rooms))}
        self.stages = [len(tasks) for tasks in self._stages]  # how many tasks each stage has
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
        """Returns this script for other sizes.

        values: what `play` of the tape that the script was written on returns for the other sizes.
        """
        other = copy(self)
        other._words = self._words[:]
        for place, number in self._from_tape:
            other._words[place] = values[number]
        other._settle(lambda number: values[number.place] if isinstance(number, Number) else number)
        return other

    def _settle(self, value: Callable[[Any], int]) -> None:
        """Sets the sizes that are not words with `value`, and forgets what earlier calls have found out."""
        steps, rooms, keeps = self._sizes
        self.steps, self._rooms = value(steps), [value(size) for size in rooms]
        self.keeps = dict(zip(self.keeps, map(value, keeps), strict=True))
        self._addresses = self._words.buffer_info()[0], self._bases.buffer_info()[0], len(self._words)
        self._seen: tuple[object, list[int]] = (None, [])
        self._orders: dict[tuple[str, ...], Run] = {}
        self.usual = None

    def __call__(self, addresses: Mapping[str, int]) -> bool:
        """Runs the script on arrays at these addresses. Returns False, with nothing done, if threads are too few.

        Raises TypeError, with their names, if arrays are missing or unknown to the script.
        """
        return self.taking(tuple(addresses))(tuple(addresses.values()))

    def taking(self, names: tuple[str, ...]) -> Run:
        """Returns a function that runs the script on addresses in the order of `names`, which are checked only here."""
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
        """Runs the script on the addresses of the given arrays in the order of `self.names`."""
        if len(given) != self._count:
            raise TypeError(f"a script runs on {self._count} addresses, but {len(given)} were given")
        if self._threads < self._together:
            return False
        own = of_thread.workspace
        if own.busy:  # a signal handler runs the engine in the middle of a call, or one was interrupted as it ended
            own = of_thread.workspace = Workspace()
        try:
            own.busy = True
            buffers, rooms = self._seen
            if buffers is not own.buffers:  # the addresses are another thread's, or buffers were replaced
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
            if own.large:  # nothing in the buffers is needed any more
                own.clear()
            return words[team.REFUSED] == 0
        finally:
            own.busy = False

    @property
    def contents(self) -> tuple[bytes, bytes]:
        """Words and bases, as bytes. Two scripts with equal contents do the same on equal addresses."""
        return self._words.tobytes(), self._bases.tobytes()
