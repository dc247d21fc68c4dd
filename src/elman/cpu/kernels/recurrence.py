"""The kernels: one layer in one direction, all steps, for a range of the batch's rows.

A kernel is a function of one argument, a table of 64-bit words; `Kernel.words` names them in order.
Inside, for every step and phase, for every panel of units and tile of rows: the products of the phase
leave their sums in a scratch that stays in the first-level cache, and the cell's equations are applied
to them there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from llvmlite import ir

from elman.cell import Cell
from elman.cpu.codegen import code_cache, functions, llvm
from elman.cpu.codegen.code_cache import Written
from elman.cpu.codegen.formats import Format
from elman.cpu.codegen.program import INT, POINTER, Program, Value
from elman.cpu.kernels.arrays import Place, kind_of, width_of
from elman.cpu.kernels.plan import Pass, Product, plan
from elman.cpu.kernels.product import ACCUMULATORS, UNROLL, panels
from elman.graph import Node, walk
from elman.leaves import HIDDEN
from elman.phases import Phase


def text(cell: Cell, which: str, form: Format, ragged: tuple[str, ...]) -> Written:
    """The kernel `which`, "infer", "forward" or "backward"; `ragged`: widths that do not fill their last vector."""
    emit = _Backward if which == "backward" else _Forward
    emitted = emit(getattr(plan(cell), which), cell, which, form, ragged)
    return Written(emitted.p.module, [which], emitted.words)


kernel = code_cache.module(text)


# Steps that follow each other and have the same rows, the first ones of the batch; a kernel is given a list of such
# runs, in the order in which it does them. `enter`, `advance` and `leave` are how much time goes on from the step
# done before the run to its first, from one of its steps to the next, and from its last to the step after it.
RUN = ("steps", "rows", "enter", "advance", "leave")


class Step(NamedTuple):
    """Number n of those that are done, from 0 on; times are where arrays hold it, the one done before, the one after."""

    n: Value
    time: Value
    last: Value
    next: Value
    starts: Value  # whether it is the first of its run


class Range(NamedTuple):
    """Rows of a run, from one on, as they are cut into tiles in each phase."""

    begin: Value
    cuts: list[tuple[Value, Value, Value]]  # as `Cut` has them


class Tile(NamedTuple):
    """Blocks of units and rows of the batch that are done together: the first ones, and how many."""

    block: Value
    width: Value
    row: Value
    rows: Value
    number: Value  # among the tiles of its blocks
    backwards: Value  # whether the blocks before these are next


class _Emit:
    """What forward and backward share: the table, places in memory, products, loops."""

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
        most = max((sum(max(ACCUMULATORS, len(q.nodes)) for q in products) for products in planned.products), default=1)
        self.scratch = p.scratch(max(most, 1))
        with p.flushing_denormals():
            self.body()
        p.done()

    def body(self) -> None:
        """Run after run, and their steps. A single run may stand in the table, instead of an address of runs."""
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
        """How the rows of a run are divided, when the run before it had so many."""
        return [self.range(self.p.int(0), rows)]

    def range(self, begin: Value, rows: Value) -> Range:
        """So many rows from one on, in as few tiles as possible for each phase."""
        p, cuts = self.p, []
        for number in range(len(self.planned.phases)):
            tall = self.word(f"{number} tall")
            count = p.quotient(rows + tall - 1, tall)
            narrow = p.quotient(rows, p.maximum(count, p.int(1)))
            cuts.append((count, narrow, rows - narrow * count))
        return Range(begin, cuts)

    def in_step(self, step: Step, ranges: list[Range]) -> Iterator[tuple[Range, Value]]:
        """The ranges that are done in a step, and for each whether no step was done with its rows before."""
        yield ranges[0], step.n.equals(0)

    def wait(self, number: Value) -> None:
        """For those who do the same rows and other units, if there are any: each phase reads what all have made."""
        p, parties = self.p, self.word("parties")
        with p.when(parties > 1):
            target = (self.word("met before") + number + 1) * parties
            p.next_ticket(self.pointer("meeting"))
            p.wait_until(self.pointer("meeting"), target, self.word("give way"))

    def word(self, name: str, kind: ir.Type = INT) -> Value:
        """A word of the table, read once, on entry."""
        if name not in self._read:
            with self.p.builder.goto_entry_block():
                self._read[name] = self.p.load_word(self.p.given["table"], len(self.words), kind)
            self.words.append(name)
        return self._read[name]

    def units(self, width: str) -> Value:
        """How many units a value of this width has."""
        return self.word(width)

    def padded(self, width: str) -> Value:
        """The same, up to a whole number of vectors."""
        return self.word(f"{width} padded")

    def pointer(self, name: str) -> Value:
        return self.word(name, POINTER)

    def array(self, name: str, time: Value) -> tuple[Value, Value]:
        """Where an array's row 0 lies at this time, and how far apart its rows are."""
        start, row = self.pointer(name), self.word(f"{name} row")
        return self.p.at(start, time * self.word(f"{name} time")) if kind_of(name).steps else start, row

    def initial_or(self, first: Value, state: str, otherwise: tuple[Value, Value]) -> tuple[Value, Value]:
        """The initial state's place in the first step, else that of an array."""
        initial = self.pointer(f"s0.{state}"), self.word(f"s0.{state} row")
        start, row = (self.p.select(first, a, b) for a, b in zip(initial, otherwise, strict=True))
        return start, row

    def slot(self, place: Place) -> Value:
        """How far a slot is from the first one."""
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
            # Two elements at a time, so that one goes on while the other waits; the last may be alone.
            count = tile.rows * tile.width
            pairs = p.whole(count, 2)
            with p.loop(0, pairs, 2) as first:
                self.elements(number, results, Elements(self, phase, find, tile, [first, first + 1]))
            with p.when(pairs < count):
                self.elements(number, results, Elements(self, phase, find, tile, [pairs]))

    def fetch(self, number: int, find: Any, tile: Tile) -> None:
        """Ask for what the tile's elements are going to read and write, so that it comes during the products.

        It is spread over rows far apart, which no processor foresees.
        """
        p = self.p
        stored = [place for _, place in self.planned.stores[number]]
        places = {place: place in stored for place in [*self.read_in(number), *stored] if kind_of(place.array).steps}
        with p.loop(0, tile.rows) as r, p.loop(0, tile.width) as j:
            for place, write in places.items():
                start, apart = find(place.array)
                p.prefetch(start, (tile.row + r) * apart + self.slot(place) + (tile.block + j) * self.lanes, write)

    def read_in(self, number: int) -> list[Place]:
        """The places that a phase reads."""
        phase = self.planned.phases[number]
        here = {node.index for node in phase.nodes}
        nodes = [a for node in phase.nodes for a in node.arguments] + [node for node, _ in self.planned.stores[number]]
        return [self.planned.places[n.index] for n in nodes if n.index not in here and n.index in self.planned.places]

    def tiles(self, number: int, n: Value, rows: Range) -> Iterator[Tile]:
        """Every panel of a phase, and in it every tile of the rows.

        Every other step goes through the panels backwards: it begins with those that a cache still holds.
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
        """The sums of a product for a tile, into `out`; fresh: whether no step was done with these rows before."""
        raise NotImplementedError

    def run_tile(self, name: str, tile: Tile, b_row: Value, depth: Value, *arguments: Value) -> None:
        """arguments: rows to multiply and how far they are apart; weights; what to start from, rows apart; out.

        Rows of the weights and of `out` are `b_row` apart.
        """
        a, a_row, b, start, start_row, out = arguments
        p, number = self.p, name.partition(".")[0]
        # While one panel is multiplied, each of its tiles asks for a part of the next.
        panel, part = depth * b_row, tile.number & p.int(UNROLL - 1)
        ahead = p.at(b, p.select(tile.backwards, -1 * panel, panel) + p.quotient(panel, p.int(UNROLL)) * part)
        kind = tile.rows * 2 + p.select(tile.width > self.word(f"{number} narrow"), 1, p.int(0))
        run = p.load_word(self.pointer(f"{name} tiles"), kind, INT)
        p.call(run, a, a_row, p.int(1), depth, b, start, start_row, out, b_row, ahead)

    def locate(self, array: str, step: Step) -> tuple[Value, Value]:
        """Where an array's row 0 lies in a step, and how far apart its rows are."""
        raise NotImplementedError

    def elements(self, number: int, sums: Sums, elements: Elements) -> None:
        """Compute and store what the phase computes, for some vectors of units."""
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
            stored = [(value(node), place) for node, place in self.planned.stores[number]]  # all is read before
            for result, place in stored:
                elements.store(result, place)

    def fused(self, phase: Phase) -> set[int]:
        """Products that are only read by one sum, which they are fused with. The same in inference as in training."""
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


# Of products: where a tile has left them, vectors for each block of units, which of these.
Sums = dict[int, tuple[Value, int, int]]


class Position(NamedTuple):
    """A vector of units in one row."""

    number: Value  # in its tile
    row: Value
    unit: Value  # the first
    mask: Value | None


class Elements:
    """Some vectors of a tile, by number, and memory as they see it: one value stands for all of them."""

    def __init__(self, emit: _Emit, phase: Phase, find: Any, tile: Tile, numbers: list[Value]) -> None:
        self.emit, self.p, self.find = emit, emit.p, find
        self.positions: list[Position] = []
        for number in numbers:
            row = self.p.quotient(number, tile.width)
            unit = (tile.block + number - row * tile.width) * emit.lanes
            mask = self.p.first_lanes(emit.units(phase.width) - unit) if phase.width in emit.ragged else None
            self.positions.append(Position(number, tile.row + row, unit, mask))

    def sum(self, out: Value, vectors: int, place: int) -> Value:
        """What a tile has left."""
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
        """Every step of the output is kept, and in training of the others; in inference these have two places, by turns."""
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
        with p.when(in_place > 0):  # for few steps the weights are read as they lie
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
    """Steps in the opposite order: the one done last is the step that forward made after this one.

    Rows only leave in forward, and so they only join here. In the first step of a run those that join are done by
    themselves: nothing comes to them from a step after, since they have none.
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
        # What the first step's products give to the initial states: now every row has joined.
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
        if kind == "later":  # the adjoints of the step that was just done
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
            if f"s.{product.state}" not in self.planned.graph.outputs:  # all comes through products
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
                # Where no step comes after, nothing is multiplied, and the sum is what it starts from.
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
        """Of a state after the step: from the step after, and for the output from outside."""
        summed = node.index in sums
        value = elements.sum(*sums[node.index]) if summed else elements.load(Place(f"carry.{node.name}"))
        return value + elements.load(Place("d_out")) if node.name == self.cell.states[0] else value
