"""The kernels of the recurrence: one layer in one direction, all steps, for a range of the batch's rows.

A kernel is a function of one argument, a table of 64-bit words. `Code.words` (code_cache.py) names the words in order.
A kernel loops over steps, phases, panels of units and tiles of rows. For each tile, the products of the phase leave
their sums in a scratch that stays in the first-level cache, and the cell's equations are applied to the sums there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from llvmlite import ir

from elman.arrays import Place, kind_of, width_of
from elman.cell import Cell
from elman.cpu.codegen import code_cache, functions, llvm
from elman.cpu.codegen.code_cache import Written
from elman.cpu.codegen.formats import Format
from elman.cpu.codegen.program import INT, POINTER, Program, Value
from elman.cpu.kernels.product import ACCUMULATORS, UNROLL, panels
from elman.graph import Node, walk
from elman.leaves import HIDDEN
from elman.phases import Phase
from elman.plan import Pass, Product, plan


def text(cell: Cell, which: str, form: Format, ragged: tuple[str, ...]) -> Written:
    """Writes the kernel `which` of a cell: "infer", "forward" or "backward".

    ragged: the widths whose units do not fill their last vector.
    """
    emit = _Backward if which == "backward" else _Forward
    emitted = emit(getattr(plan(cell), which), cell, which, form, ragged)
    return Written(emitted.p.module, [which], emitted.words)


kernel = code_cache.module(text)


# A run is a sequence of steps that work on the same rows, the first rows of the batch. A kernel is given a list of
# runs in the order in which it does them: a (runs, 5) array at the address "runs at", or one run in the kernel's table.
# A kernel reads the words of a run when it begins the run, and writes none, so several kernels may read one list. The
# list must not overlap an array that a kernel writes, and must be aligned to 8 bytes.
#
# The time of a step is its number in the arrays that hold every step or, in packed rows (layer/rows.py), the number of
# the step's first row among the rows of all steps. The word "NAME time" says how many numbers of the array NAME lie
# between two successive times. Each word of a run is a 64-bit whole number. Differences of times are negative if a
# kernel goes backwards in time.
#   steps    number of steps
#   rows     number of rows in each of these steps
#   enter    time of the run's first step minus that of the step done before it; not used in the kernel's first step
#   advance  time of a step of the run minus that of the step done before it, for all but the run's first step
#   leave    time of the step done after the run minus that of the run's last step; not used in the kernel's last step
RUN = ("steps", "rows", "enter", "advance", "leave")


class Step(NamedTuple):
    """A step of the time loop, with the times (see `RUN`) at which arrays hold this step and its neighbours."""

    n: Value  # number of steps done before this one
    time: Value  # of this step
    last: Value  # of the step done before this one
    next: Value  # of the step done after this one
    starts: Value  # whether this step is the first of its run


class Range(NamedTuple):
    """A range of the rows of a run, and how each phase cuts it into tiles."""

    begin: Value  # its first row, counted from the kernel's "first row"
    cuts: list[tuple[Value, Value, Value]]  # for each phase, the numbers of `Cut`


class Tile(NamedTuple):
    """Blocks of units and rows of the batch that are done together."""

    block: Value  # the first block
    width: Value  # number of blocks
    row: Value  # the first row of the batch
    rows: Value  # number of rows
    number: Value  # about which tile of its panel and range this is, from 0 on; chooses what it prefetches
    backwards: Value  # whether the panel before this one is done next


class _Emit:
    """What the forward and the backward kernel share: the table, places in memory, products, loops."""

    def __init__(self, planned: Pass, cell: Cell, name: str, form: Format, ragged: tuple[str, ...]) -> None:
        self.planned, self.cell, self.name, self.ragged = planned, cell, name, ragged
        module = llvm.new_module(f"{cell.name} {name}")
        self.p = p = Program(module, name, {"table": POINTER}, form)
        self.lanes = form.lanes
        self.words: list[str] = []
        self._read: dict[str, Value] = {}
        self.units(HIDDEN)
        self.steps = self.word("steps")
        self.padded(HIDDEN)
        self.own_run = len(self.words)
        for name in RUN:
            self.word(f"run {name}")
        most = 1
        for number, products in enumerate(planned.products):
            vectors = [max(ACCUMULATORS, len(each.nodes)) for each in products]
            most = max(most, sum(vectors) + ACCUMULATORS * len(planned.over_rows(number)))
        self.scratch = p.scratch(most)
        with p.flushing_denormals():
            self.body()
        p.done()

    def body(self) -> None:
        """Loops over the runs and the steps of each. If the word "runs at" is 0, the table itself has the only run."""
        p, at = self.p, self.word("runs at")
        own = p.at_word(p.given["table"], self.own_run)
        records = p.select(at.equals(0), own, p.address(at))
        runs = p.loop_carrying(0, self.word("number of runs"), 1, p.int(0), self.word("first time"), p.int(0))
        first, begin, before = runs.carried
        record = p.at_word(records, runs.index * len(RUN))
        steps, rows, enter, advance, leave = (p.load_word(record, place, INT) for place in range(len(RUN)))
        rows = p.minimum(p.maximum(rows - self.word("first row"), p.int(0)), self.word("rows"))
        ranges = self.ranges(before, rows)
        with p.loop(0, steps) as k:
            time, starts, ends = begin + k * advance, k.equals(0), k.equals(steps - 1)
            last, following = p.select(starts, enter, advance), p.select(ends, leave, advance)
            step = Step(first + k, time, time - last, time + following, starts)
            for number in range(len(self.planned.phases)):
                self.phase(number, step, ranges)
                self.wait(step.n * len(self.planned.phases) + number)
        runs.end([first + steps, begin + (steps - 1) * advance + leave, rows])

    def ranges(self, before: Value, rows: Value) -> list[Range]:
        """Returns the ranges into which a run of `rows` rows is divided. The run before it had `before` rows."""
        return [self.range(self.p.int(0), rows)]

    def range(self, begin: Value, rows: Value) -> Range:
        """Returns the range of `rows` rows from row `begin` on, cut into the fewest tiles for each phase."""
        p, cuts = self.p, []
        for number in range(len(self.planned.phases)):
            tall = self.word(f"{number} tall")
            count = p.quotient(rows + tall - 1, tall)
            narrow = p.quotient(rows, p.maximum(count, p.int(1)))
            cuts.append((count, narrow, rows - narrow * count))
        return Range(begin, cuts)

    def in_step(self, step: Step, ranges: list[Range]) -> Iterator[tuple[Range, Value]]:
        """Yields the ranges of rows that a step does, each with whether this is the first step done with its rows."""
        yield ranges[0], step.n.equals(0)

    def wait(self, number: Value) -> None:
        """Waits for the threads that do other units of the same rows, if there are any.

        The next phase reads what all of them have computed. number: how many phases this kernel did before this one.
        """
        p, parties = self.p, self.word("parties")
        with p.when(parties > 1):
            target = (self.word("met before") + number + 1) * parties
            p.next_ticket(self.pointer("meeting"))
            p.wait_until(self.pointer("meeting"), target, self.word("give way"))

    def word(self, name: str, kind: ir.Type = INT) -> Value:
        """Returns a word of the table, which the kernel reads once, on entry."""
        if name not in self._read:
            with self.p.builder.goto_entry_block():
                self._read[name] = self.p.load_word(self.p.given["table"], len(self.words), kind)
            self.words.append(name)
        return self._read[name]

    def units(self, width: str) -> Value:
        """Returns the number of units of a value of this width."""
        return self.word(width)

    def padded(self, width: str) -> Value:
        """Returns the number of units of a value of this width, rounded up to whole vectors."""
        return self.word(f"{width} padded")

    def pointer(self, name: str) -> Value:
        return self.word(name, POINTER)

    def array(self, name: str, time: Value) -> tuple[Value, Value]:
        """Returns the address of row 0 of an array at this time, and the distance between its rows in numbers."""
        start, row = self.pointer(name), self.word(f"{name} row")
        return self.p.at(start, time * self.word(f"{name} time")) if kind_of(name).steps else start, row

    def initial_or(self, first: Value, state: str, otherwise: tuple[Value, Value]) -> tuple[Value, Value]:
        """Returns where the state before a step lies: the initial state if `first`, `otherwise` if not."""
        initial = self.pointer(f"s0.{state}"), self.word(f"s0.{state} row")
        start, row = (self.p.select(first, a, b) for a, b in zip(initial, otherwise, strict=True))
        return start, row

    def slot(self, place: Place) -> Value:
        """Returns the distance of a slot from the first slot of its array, in numbers."""
        width = width_of(self.cell, place.array)
        return (self.padded(width) if kind_of(place.array).padded else self.units(width)) * place.slot

    # One step

    def phase(self, number: int, step: Step, ranges: list[Range]) -> None:
        for rows, fresh in self.in_step(step, ranges):
            self.rows_of_phase(number, step, rows, fresh)

    def rows_of_phase(self, number: int, step: Step, rows: Range, fresh: Value) -> None:
        p, products, phase = self.p, self.planned.products[number], self.planned.phases[number]

        def find(array: str) -> tuple[Value, Value]:
            return self.locate(array, step)

        for tile in self.tiles(number, step.n, rows):
            self.fetch(number, find, tile)
            results: Sums = {}
            used = 0
            for index, product in enumerate(products):
                out = p.at(self.scratch, used * self.lanes)
                self.product(f"{number}.{index}", product, fresh, find, tile, out)
                for place, node in enumerate(product.nodes):
                    results[node.index] = (out, len(product.nodes), place)
                used += max(ACCUMULATORS, len(product.nodes))
            for node, operand in self.planned.over_rows(number):
                out = p.at(self.scratch, used * self.lanes)
                start, a_row = find(operand.array)
                a, units = p.at(start, tile.row * a_row + self.slot(operand)), self.units(phase.width)
                p.call(self.word(f"over row {node.op}"), a, a_row, tile.rows, units, out, tile.width)
                results[node.index] = (out, 1, 0)
                used += ACCUMULATORS
            # Two vectors of units at a time, so that one is computed while the other waits for a result. If there is
            # an odd number of them, the last one is alone.
            count = tile.rows * tile.width
            pairs = p.whole(count, 2)
            with p.loop(0, pairs, 2) as first:
                self.elements(number, results, Elements(self, phase, find, tile, [first, first + 1]))
            with p.when(pairs < count):
                self.elements(number, results, Elements(self, phase, find, tile, [pairs]))

    def fetch(self, number: int, find: Any, tile: Tile) -> None:
        """Prefetches what the equations will read and write for a tile, so that it arrives during the products.

        This memory lies in rows that are far apart, which the hardware does not foresee.
        """
        p = self.p
        stored = [place for _, place in self.planned.stores[number]]
        places = {place: place in stored for place in [*self.read_in(number), *stored] if kind_of(place.array).steps}
        with p.loop(0, tile.rows) as r, p.loop(0, tile.width) as j:
            for place, write in places.items():
                start, apart = find(place.array)
                p.prefetch(start, (tile.row + r) * apart + self.slot(place) + (tile.block + j) * self.lanes, write)

    def read_in(self, number: int) -> list[Place]:
        """Returns the places that a phase reads."""
        phase = self.planned.phases[number]
        here = {node.index for node in phase.nodes}
        nodes = [a for node in phase.nodes for a in node.arguments] + [node for node, _ in self.planned.stores[number]]
        return [self.planned.places[n.index] for n in nodes if n.index not in here and n.index in self.planned.places]

    def tiles(self, number: int, n: Value, rows: Range) -> Iterator[Tile]:
        """Loops over the panels of a phase and, for each panel, over the tiles of the rows. Yields the tiles.

        Every other step goes through the panels backwards, and so begins with the panels that a cache still holds.
        """
        p = self.p
        wide = [self.word(f"{number} {name}") for name in ("panels", "narrow", "wider")]
        tall = rows.cuts[number]
        backwards = (n & p.int(1)).equals(1)
        for panel, width in panels(p, *wide, backwards=backwards):
            block = panel + self.word(f"{number} first block")
            for row, count in panels(p, *tall):
                tile = p.quotient(row, tall[1])
                yield Tile(block, width, row + rows.begin + self.word("first row"), count, tile, backwards)

    def product(self, name: str, product: Product, fresh: Value, find: Any, tile: Tile, out: Value) -> None:
        """Computes the sums of a product for a tile, and stores them in `out`.

        fresh: whether this is the first step that is done with these rows.
        """
        raise NotImplementedError

    def run_tile(self, name: str, tile: Tile, b_row: Value, depth: Value, *arguments: Value) -> None:
        """Calls the tile kernel (`TILE` in product.py) for the product `name` and one tile.

        b_row: the numbers of one step of k in the panel, and the distance between rows of out.
        depth: the steps of k.
        arguments: A, A_row, B, start, start_row and out of `TILE`.
        """
        a, a_row, b, start, start_row, out = arguments
        p, number = self.p, name.partition(".")[0]
        # While one panel is multiplied, each of its tiles prefetches one of UNROLL parts of the panel that comes next.
        panel, part = depth * b_row, tile.number & p.int(UNROLL - 1)
        ahead = p.at(b, p.select(tile.backwards, -1 * panel, panel) + p.quotient(panel, p.int(UNROLL)) * part)
        kind = tile.rows * 2 + p.select(tile.width > self.word(f"{number} narrow"), 1, p.int(0))
        run = p.load_word(self.pointer(f"{name} tiles"), kind, INT)
        p.call(run, a, a_row, p.int(1), depth, b, start, start_row, out, b_row, ahead)

    def locate(self, array: str, step: Step) -> tuple[Value, Value]:
        """Returns the address of row 0 of an array in a step, and the distance between its rows in numbers."""
        raise NotImplementedError

    def elements(self, number: int, sums: Sums, elements: Elements) -> None:
        """Computes and stores the values of a phase, for some vectors of units."""
        p, phase = self.p, self.planned.phases[number]
        fused = self.fused(phase)
        here = {node.index for node in phase.nodes}

        def read(node: Node) -> Value:
            if node.op == "number":
                return p.splat(node.value)
            if node.op == "adjoint" and node.index in here:
                return self.adjoint(node, sums, elements)
            if node.index in sums:
                return elements.sum(*sums[node.index])
            return elements.load(self.planned.places[node.index])

        def compute(node: Node, value: Callable[[Node], Value]) -> Value:
            if node.op in ("add", "sub"):
                (a, b), minus = node.arguments, node.op == "sub"
                if a.index in fused:
                    c, d = map(value, a.arguments)
                    return p.fma(c, d, -value(b) if minus else value(b))
                if b.index in fused:
                    c, d = map(value, b.arguments)
                    return p.fma(-c if minus else c, d, value(a))
            return functions.OPERATIONS[node.op](p, *map(value, node.arguments))

        with p.side_by_side(len(elements.positions)):
            value = walk(phase.nodes, compute, read)
            for node in phase.nodes:
                if node.index not in fused and node.op != "number":
                    value(node)
            stored = [(value(node), place) for node, place in self.planned.stores[number]]  # all reads come first
            for result, place in stored:
                elements.store(result, place)

    def fused(self, phase: Phase) -> set[int]:
        """Returns the node indices of the multiplications that are read exactly once, by an addition or a subtraction.

        The kernel fuses such a multiplication with its reader. The set is the same in inference as in training.
        """
        readers: dict[int, list[Node]] = {}
        for node in phase.nodes:
            for argument in node.arguments:
                readers.setdefault(argument.index, []).append(node)
        kept = {node.index for node in (*phase.remembered, *self.planned.graph.outputs.values())}
        return {
            node.index
            for node in phase.nodes
            if node.op == "mul" and node.index not in kept
            if [reader.op for reader in readers.get(node.index, [])] in (["add"], ["sub"])
        }

    def adjoint(self, node: Node, sums: Sums, elements: Elements) -> Value:
        raise NotImplementedError


# The sums of products, by node index: the address where a tile has left them, the number of vectors for each block of
# units there, and which of these vectors is the sum of the node.
Sums = dict[int, tuple[Value, int, int]]


class Position(NamedTuple):
    """A vector of units in one row of the batch."""

    number: Value  # of this vector in its tile
    row: Value  # of the batch
    unit: Value  # the first unit
    mask: Value | None  # lanes that hold units; None if every vector is full


class Elements:
    """Some vectors of units of a tile that are computed side by side: a value has the lanes of all of them."""

    def __init__(self, emit: _Emit, phase: Phase, find: Any, tile: Tile, numbers: list[Value]) -> None:
        self.emit, self.p, self.find = emit, emit.p, find
        self.positions: list[Position] = []
        for number in numbers:
            row = self.p.quotient(number, tile.width)
            unit = (tile.block + number - row * tile.width) * emit.lanes
            mask = self.p.first_lanes(emit.units(phase.width) - unit) if phase.width in emit.ragged else None
            self.positions.append(Position(number, tile.row + row, unit, mask))

    def sum(self, out: Value, vectors: int, place: int) -> Value:
        """Returns the sums that a tile has left in `out`: of `vectors` vectors for each block, the one at `place`."""
        lanes = self.emit.lanes
        return self.p.join([self.p.load(out, (at.number * vectors + place) * lanes) for at in self.positions])

    def _address(self, place: Place, at: Position) -> Value:
        start, row = self.find(place.array)
        return self.p.at(start, at.row * row + self.emit.slot(place) + at.unit)

    def load(self, place: Place) -> Value:
        return self.p.join([self.p.load(self._address(place, at), 0, at.mask) for at in self.positions])

    def store(self, value: Value, place: Place) -> None:
        if place.array == "d_p":
            value = value + self.load(place)
        for part, at in zip(self.p.parts(value), self.positions, strict=True):
            self.p.store(part, self._address(place, at), 0, at.mask)


class _Forward(_Emit):
    def locate(self, array: str, step: Step) -> tuple[Value, Value]:
        kind, _, state = array.partition(".")
        if kind == "before":
            return self.initial_or(step.n.equals(0), state, self.state(state, step.n - 1, step.last))
        return self.state(state, step.n, step.time) if kind == "s" else self.array(array, step.time)

    def state(self, state: str, n: Value, time: Value) -> tuple[Value, Value]:
        """Returns the address of row 0 of a state after step n, which is at `time`, and the distance between its rows.

        An array holds every step of the output, which is the first state, and in training of the other states. In
        inference each other state has two places, which the steps use by turns.
        """
        by_turns = self.name == "infer" and state != self.cell.states[0]
        return self.array(f"s.{state}", n & self.p.int(1) if by_turns else time)

    def product(self, name: str, product: Product, fresh: Value, find: Any, tile: Tile, out: Value) -> None:
        p, vectors = self.p, len(product.nodes) * self.lanes
        start, a_row = find(product.operand.array)
        a = p.at(start, tile.row * a_row + self.slot(product.operand))
        units, (depth,) = self.units(product.width), (self.units(width) for width in product.depths)
        b = p.at(self.pointer(f"{name} weights"), tile.block * depth * vectors)
        bias = p.at(self.pointer(f"{name} bias"), tile.block * vectors)
        in_place, out_row = self.word("in place"), tile.width * vectors
        with p.when(in_place > 0):  # for few rows and steps the weights are not in panels
            weights, row = self.pointer(product.weight), self.word(f"{product.weight} row")
            with p.loop(0, tile.width) as j:
                unit = (tile.block + j) * self.lanes
                for position, block in enumerate(product.blocks):
                    of_block = p.at(weights, (units * block + unit) * row), row, units - unit
                    place = (j * len(product.blocks) + position) * self.lanes
                    here = p.at(bias, place), p.at(out, place), out_row
                    p.call(self.word("dots"), a, a_row, tile.rows, depth, *of_block, *here)
        with p.when(in_place.equals(0)):
            self.run_tile(name, tile, out_row, depth, a, a_row, b, bias, p.int(0), out)


class _Backward(_Emit):
    """The backward kernel, which does the steps in the opposite order: last in time, first done.

    In forward, rows only leave from one run to the next. In backward they therefore only join. In the first step of a
    run, the rows that join are a range of their own, because they have no later step that gives anything back to them.
    """

    def ranges(self, before: Value, rows: Value) -> list[Range]:
        return [self.range(self.p.int(0), rows), self.range(self.p.int(0), before), self.range(before, rows - before)]

    def in_step(self, step: Step, ranges: list[Range]) -> Iterator[tuple[Range, Value]]:
        p, (every, old, new) = self.p, ranges
        with p.loop(0, p.select(step.starts, 2, p.int(1))) as number:
            joins = number > 0

            def here(values: tuple[Value, Value, Value]) -> Value:
                return p.select(step.starts, p.select(joins, values[2], values[1]), values[0])

            cuts = [
                tuple([here(of_range) for of_range in zip(*of_phase, strict=True)])
                for of_phase in zip(every.cuts, old.cuts, new.cuts, strict=True)
            ]
            yield Range(p.select(joins, new.begin, 0), cuts), joins  # pyright: ignore[reportArgumentType]

    def body(self) -> None:
        super().body()
        p = self.p
        # The products of the first step in time give something back to the initial states. By now every row has joined.
        zero, time = p.int(0), self.word("last time")
        step, rows = Step(self.steps, zero, time, zero, zero), self.range(zero, self.word("rows"))
        all_products = [
            (number, k, each) for number, of in enumerate(self.planned.products) for k, each in enumerate(of)
        ]
        for number, index, product in all_products:
            if not product.state:
                continue
            for tile in self.tiles(number, self.steps, rows):
                find = lambda array: self.locate(array, step)  # noqa: E731
                self.product(f"{number}.{index}", product, zero > 0, find, tile, self.scratch)
                carry, carry_row = find(f"carry.{product.state}")
                with p.loop(0, tile.rows) as r, p.loop(0, tile.width) as j:
                    value = p.load(self.scratch, (r * tile.width + j) * self.lanes)
                    p.store(value, carry, (tile.row + r) * carry_row + (tile.block + j) * self.lanes)

    def locate(self, array: str, step: Step) -> tuple[Value, Value]:
        kind, _, state = array.partition(".")
        if kind == "before":
            first = step.n.equals(self.steps - 1)
            return self.initial_or(first, state, self.array(f"s.{state}", step.next))
        if kind == "later":  # the adjoints of the step that comes after in time, and was done before
            return self.array(state, step.last)
        return self.array(array, step.time)

    def product(self, name: str, product: Product, fresh: Value, find: Any, tile: Tile, out: Value) -> None:
        p, lanes = self.p, self.lanes
        depth, *more = [self.units(width) * slots for width, slots in product.depths.items()]
        for other in more:
            depth = depth + other
        panel = p.at(self.pointer(f"{name} weights"), tile.block * depth * lanes)
        if product.state:
            start, start_row = find(f"carry.{product.state}")
            start = p.at(start, tile.row * start_row + tile.block * lanes)
            if f"s.{product.state}" not in self.planned.graph.outputs:  # its whole adjoint comes back through products
                start = p.select(fresh, start, self.pointer("zeros"))
                start_row = p.select(fresh, start_row, p.int(0))
        else:
            start, start_row = self.pointer("zeros"), p.int(0)
        done = p.int(0)
        for segment in product.segments:
            rows, a_row = find(f"later.{segment.place.array}" if product.state else segment.place.array)
            a = p.at(rows, tile.row * a_row + self.slot(segment.place))
            length = self.units(segment.width) * segment.slots
            if product.state:
                # Rows without a later step multiply nothing: their sum is what it starts from.
                length = p.select(fresh, 0, length)
            out_row = tile.width * lanes
            b = p.at(panel, done * out_row)
            self.run_tile(name, tile, out_row, length, a, a_row, b, start, start_row, out)
            done = done + self.units(segment.width) * segment.slots
            start, start_row = out, out_row

    def read_in(self, number: int) -> list[Place]:
        phase = self.planned.phases[number]
        here = any(node.op == "adjoint" and node.name == self.cell.states[0] for node in phase.nodes)
        return [*super().read_in(number), *([Place("d_out")] if here else [])]

    def adjoint(self, node: Node, sums: Sums, elements: Elements) -> Value:
        """Returns the adjoint of a state after the step: what the later step gives back and, for the output, d_out."""
        summed = node.index in sums
        value = elements.sum(*sums[node.index]) if summed else elements.load(Place(f"carry.{node.name}"))
        return value + elements.load(Place("d_out")) if node.name == self.cell.states[0] else value
