"""The plan of a cell: the place in the kernels' arrays of every value of its schedule, on every processor.

The phases, and what each of them computes, come from schedule.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

from elman.arrays import Place, kind_of, width_of
from elman.cell import Cell
from elman.graph import Graph, Node
from elman.leaves import HIDDEN, LEAVES, MATRICES
from elman.phases import Phase
from elman.schedule import Returned, Schedule, schedule


class Segment(NamedTuple):
    """A part of the depth of a backward product: neighbouring slots of adjoints, times neighbouring blocks of a weight.

    Each slot is multiplied with one block of rows of the weight.
    """

    place: Place  # the first slot
    width: str  # units in a slot, and rows in a block
    weight: str  # field of `layout.Weights`
    block: int  # the first block
    slots: int  # number of slots, and of blocks


class Product(NamedTuple):
    """Forward: products that read the same operand in the same phase. Backward: the sum that products give back.

    A kernel computes all results of a `Product` together.
    """

    nodes: tuple[Node, ...]  # the results; forward has one for each block of the weight, backward has one
    width: str  # width of every result
    depths: Mapping[str, int]  # width -> number of slots of that width that one result sums over
    weight: str = ""  # forward: field of `layout.Weights`
    bias: str | None = None  # forward: field of `layout.Weights`
    blocks: tuple[int, ...] = ()  # forward: for each result, its block of rows of the weight
    operand: Place = Place("")  # forward: what the weight is multiplied with
    segments: tuple[Segment, ...] = ()  # backward: adjoints, and the weights they are multiplied with
    state: str = ""  # backward: the state, if the operand was one; the adjoints are then of the step after


class OverRow(NamedTuple):
    """An operation over all units of a row, whose argument an earlier phase has stored."""

    node: Node
    operand: Place


class Pass(NamedTuple):
    """What one kernel does, phase by phase."""

    graph: Graph
    phases: list[Phase]
    products: list[list[Product]]
    places: dict[int, Place]  # by node index: where a phase reads a value that it does not compute itself
    stores: list[list[tuple[Node, Place]]]  # for each phase: the values it stores, and where
    slots: Mapping[str, int]  # array -> number of slots: extra, d_extra and memory have as many as the cell needs
    operands: Mapping[int, Place] = MappingProxyType({})  # forward: by node index, where products' operands are stored

    def over_rows(self, number: int) -> list[OverRow]:
        """Returns the operations over whole rows of a phase, which are done before its nodes, as its products are."""
        return [OverRow(n, self.places[n.arguments[0].index]) for n in self.phases[number].products if n.whole_row]

    def arrays(self, kind: str) -> dict[str, int]:
        """Returns the number of slots of each array of a kind, which is "extra", "d_extra" or "memory"."""
        return {array: slots for array, slots in self.slots.items() if array.partition(".")[0] == kind}


class Multiplied(NamedTuple):
    """A product of the step, as the gradient of its weight needs it: d_weight[block] += d^T operand."""

    weight: str  # field of `layout.Weights`
    bias: str | None  # field of `layout.Weights`
    block: int  # block of rows of the weight
    operand: Place
    d: Place  # the adjoint of the product


class Plan(NamedTuple):
    cell: Cell
    infer: Pass
    forward: Pass
    backward: Pass
    multiplied: tuple[Multiplied, ...]  # every product that has an effect
    shares: tuple[tuple[int, int], ...]  # runs of input gates that have an effect: (first gate, number of gates)


class Kept(NamedTuple):
    """An array that forward keeps for backward."""

    array: str
    width: str  # of a slot
    slots: int


class Run(NamedTuple):
    """Recurrent products whose weight gradients one large product makes.

    They multiply the same operand. Their adjoints lie side by side, and so do their blocks of the weight's rows.
    """

    weight: str  # field of `Weights`
    bias: str | None  # field of `Weights`
    operand: Place
    d: Place  # where the first adjoint lies
    block: int  # the first block of the weight's rows
    blocks: int  # the number of blocks
    add: bool  # whether an earlier run has written the gradients of these blocks


@cache
def plan(cell: Cell) -> Plan:
    """Returns the plan of a cell. Raises NotTraceable if the cell's step cannot be traced to a graph."""
    scheduled = schedule(cell)
    infer, forward = _Step(scheduled, keeps=False).done(), _Step(scheduled, keeps=True).done()
    adjoints, slots = _places_of_adjoints(scheduled)
    backward = _backward(scheduled, forward, adjoints, slots)
    multiplied = tuple(
        Multiplied(
            each.matrix.weight,
            each.matrix.bias,
            each.block,
            _operand(forward, each.operand),
            adjoints[each.adjoint.index],
        )
        for each in scheduled.products
    )
    live = [k for k, gate in enumerate(cell.anatomy.input_gates) if f"x.{gate}" in scheduled.derivative.outputs]
    return Plan(cell, infer, forward, backward, multiplied, _runs(live))


@cache
def kept(cell: Cell, first: bool) -> list[Kept]:
    """Returns the arrays that forward keeps in each direction, besides the output.

    first: whether the first state is one of them. The output is this state, too, unless its rows lie in another order.
    """
    slots = {"x": len(cell.anatomy.input_gates), "extra": 0} | plan(cell).forward.arrays("extra")
    slots |= {f"s.{state}": 1 for state in cell.states[0 if first else 1 :]}
    return [Kept(array, width_of(cell, array), count) for array, count in slots.items()]


def joined_products(planned: Plan) -> list[Run]:
    """Returns the recurrent products of the plan, joined into as few runs as possible."""
    runs: list[Run] = []
    written: set[tuple[str, int]] = set()
    for weight, bias, block, operand, d in planned.multiplied:
        add = (weight, block) in written
        written.add((weight, block))
        here, last = Run(weight, bias, operand, d, block, 1, add), runs[-1] if runs else None
        if last is not None:
            place = last.d._replace(slot=last.d.slot + last.blocks)
            if last._replace(d=place, block=last.block + last.blocks, blocks=1) == here:
                runs[-1] = last._replace(blocks=last.blocks + 1)
                continue
        runs.append(here)
    return runs


def _runs(numbers: list[int]) -> tuple[tuple[int, int], ...]:
    """Returns ascending numbers as runs of consecutive ones, each (first number, length)."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and sum(found[-1]) == number:
            found[-1] = found[-1][0], found[-1][1] + 1
        else:
            found.append((number, 1))
    return tuple(found)


def _place_of(cell: Cell, kind: str, name: str, array: str) -> Place:
    """Returns the place of a leaf or of its adjoint. array: `array` or `d_array` of the leaf's kind in `LEAVES`."""
    return Place(array.format(name), 0 if "{}" in array else LEAVES[kind].names(cell).index(name))


def _operand(forward: Pass, node: Node) -> Place:
    """Returns the place from which products read an operand: where it was stored for them, or where a leaf lies."""
    return forward.operands.get(node.index, forward.places[node.index])


class _Slots(dict[str, int]):
    """The number of slots of each array."""

    def new(self, array: str, width: str) -> Place:
        """Adds a slot of this width to the array of this kind, and returns its place."""
        array = array if width == HIDDEN else f"{array}.{width}"
        self[array] = self.get(array, 0) + 1
        return Place(array, self[array] - 1)


class _Step:
    """Gives every value of the step a place. With `keeps`, for training, values that backward reads are kept."""

    def __init__(self, scheduled: Schedule, *, keeps: bool) -> None:
        self.scheduled, self.keeps = scheduled, keeps
        self.kept = scheduled.kept if keeps else frozenset()
        self.slots = _Slots()
        self.operands: dict[int, Place] = {}
        self.places = {
            leaf.index: _place_of(scheduled.cell, leaf.op, leaf.name, LEAVES[leaf.op].array)
            for leaf in scheduled.graph.nodes
            if leaf.op in LEAVES
        }
        self.free = self.overwritable()
        self.stores = [self.stored_in(number, phase) for number, phase in enumerate(scheduled.phases)]

    def done(self) -> Pass:
        scheduled = self.scheduled
        products = [self.products_in(phase) for phase in scheduled.phases]
        return Pass(scheduled.graph, scheduled.phases, products, self.places, self.stores, self.slots, self.operands)

    def overwritable(self) -> dict[int, int]:
        """Returns the slots of x that backward does not read, each with the first phase that may overwrite it.

        This is the last phase that reads the slot, 0 if none does; but if it reads whole rows, the phase after it.
        """
        cell, graph = self.scheduled.cell, self.scheduled.graph
        gates = cell.anatomy.input_gates
        kept = {node.name for node in graph.nodes if node.op == "x" and node.index in self.kept}
        until = {slot: 0 for slot, gate in enumerate(gates) if gate not in kept}
        for number, phase in enumerate(self.scheduled.phases):
            over_rows = [node for node in phase.products if node.whole_row]
            for node, argument in ((n, a) for n in (*phase.nodes, *over_rows) for a in n.arguments):
                if argument.op == "x" and argument.name not in kept:
                    slot = gates.index(argument.name)
                    until[slot] = max(until[slot], number + node.whole_row)
        return until

    def stored_in(self, number: int, phase: Phase) -> list[tuple[Node, Place]]:
        """Returns what a phase stores, with the places.

        It stores new states, operands of products, values that backward reads and values that later phases read.
        """
        nodes = [*phase.products, *phase.nodes]
        here: list[tuple[Node, Place]] = []
        for state, node in self.scheduled.graph.outputs.items():
            if any(node is other for other in nodes):
                self.store(node, Place(f"s.{state}"), here)
        states = {node.index: place for node, place in reversed(here)}
        for node in nodes:
            if node.index in self.scheduled.operands:
                place = states.get(node.index)
                if place is None:
                    place = self.store(node, self.slots.new("extra" if self.keeps else "memory", phase.width), here)
                self.operands[node.index] = place  # `places` is unchanged for a leaf: only products read this copy
            elif node.index in self.kept and node.index not in states and node.op not in ("x", "u"):
                self.store(node, self.room(number, phase.width), here)
        for node in phase.remembered:
            if node.index not in self.places:
                self.store(node, self.slots.new("memory", phase.width), here)
        return here

    def room(self, number: int, width: str) -> Place:
        """Returns a place for a value that a phase keeps: a slot of x that no later phase reads, or a slot of extra."""
        slot = next((slot for slot, until in self.free.items() if until <= number), None)
        if slot is None or width != HIDDEN:
            return self.slots.new("extra", width)
        del self.free[slot]
        return Place("x", slot)

    def store(self, node: Node, place: Place, here: list[tuple[Node, Place]]) -> Place:
        here.append((node, place))
        self.places.setdefault(node.index, place)
        return place

    def products_in(self, phase: Phase) -> list[Product]:
        cell = self.scheduled.cell
        by_operand: dict[tuple[str, int], list[Node]] = {}
        for node in phase.products:
            if node.whole_row:
                continue
            by_operand.setdefault((node.op, node.arguments[0].index), []).append(node)
        products: list[Product] = []
        for (kind, operand), nodes in by_operand.items():
            matrix, place = MATRICES[kind], self.operands.get(operand, self.places[operand])
            products.append(
                Product(
                    tuple(nodes),
                    phase.width,
                    {width_of(cell, place.array): 1},
                    matrix.weight,
                    matrix.bias,
                    tuple(matrix.block(cell, node.name) for node in nodes),
                    place,
                )
            )
        return products


def _places_of_adjoints(scheduled: Schedule) -> tuple[dict[int, Place], _Slots]:
    """Returns the places of the adjoints of input shares and products, by node index in the derivative.

    An adjoint that belongs to both an input share and a product has one place. The second result has the slots of
    d_extra.
    """
    places: dict[int, Place] = {}
    for slot, gate in enumerate(scheduled.cell.anatomy.input_gates):
        if f"x.{gate}" in scheduled.derivative.outputs:
            places.setdefault(scheduled.derivative.outputs[f"x.{gate}"].index, Place("d_x", slot))
    slots = _Slots()
    for each in scheduled.products:
        if each.adjoint.index not in places:
            places[each.adjoint.index] = slots.new("d_extra", each.matrix.result)
    return places, slots


def _backward(scheduled: Schedule, forward: Pass, adjoints: dict[int, Place], slots: _Slots) -> Pass:
    places = {n.index: forward.places[int(n.name)] for n in scheduled.derivative.nodes if n.op == "kept"}
    stores: list[list[tuple[Node, Place]]] = []
    for phase in scheduled.backward:
        here = _stored_in(scheduled, phase, adjoints)
        for node in phase.remembered:
            all_steps = (place for other, place in here if other is node and kind_of(place.array).steps)
            place = next(all_steps, None)
            if place is None:
                place = slots.new("memory", phase.width)
                here.append((node, place))
            places[node.index] = place
        stores.append(here)
    # An adjoint that only a later phase reads has no place yet: that phase reads it where it is carried.
    for node in scheduled.derivative.nodes:
        if node.op == "adjoint":
            places.setdefault(node.index, _place_of(scheduled.cell, "s", node.name, LEAVES["s"].d_array))
    products = [
        [_returned(each, phase.width, adjoints) for each in of_phase]
        for phase, of_phase in zip(scheduled.backward, scheduled.returned, strict=True)
    ]
    return Pass(scheduled.derivative, scheduled.backward, products, places, stores, slots)


def _stored_in(scheduled: Schedule, phase: Phase, adjoints: dict[int, Place]) -> list[tuple[Node, Place]]:
    """Returns the outputs of the derivative that a phase stores, with their places.

    A value that is several outputs is stored once in each of the places that these outputs have.
    """
    here: dict[tuple[int, Place], tuple[Node, Place]] = {}
    for node in [*phase.products, *phase.nodes]:
        for output in [name for name, other in scheduled.derivative.outputs.items() if other is node]:
            kind, _, name = output.partition(".")
            of_leaf = kind in LEAVES
            place = _place_of(scheduled.cell, kind, name, LEAVES[kind].d_array) if of_leaf else adjoints[node.index]
            here.setdefault((node.index, place), (node, place))
    return list(here.values())


def _returned(each: Returned, width: str, adjoints: dict[int, Place]) -> Product:
    """Returns the product that computes what `each` describes.

    Adjoints in neighbouring slots whose blocks of the weight are neighbours too form one segment.
    """
    segments: list[Segment] = []
    depths: dict[str, int] = {}
    for product in each.products:
        matrix = product.matrix
        here = Segment(adjoints[product.adjoint.index], matrix.result, matrix.weight, product.block, 1)
        depths[matrix.result] = depths.get(matrix.result, 0) + 1
        last = segments[-1] if segments else None
        if last is not None and _follows(last, here):
            segments[-1] = last._replace(slots=last.slots + 1)
        else:
            segments.append(here)
    return Product((each.node,), width, depths, segments=tuple(segments), state=each.state)


def _follows(last: Segment, here: Segment) -> bool:
    """Whether the slot and the block of `here` come directly after those of `last`."""
    place = Place(last.place.array, last.place.slot + last.slots)
    return (place, last.weight, last.block + last.slots) == (here.place, here.weight, here.block)
