"""Where every value of a cell's schedule lies, for the kernels. No code is made here.

Arrays hold T steps or the present one, B rows, and one or more slots of H units:

    x         the input's share of every gate; forward writes what it keeps over what it has read
    extra     what else forward keeps: values that backward reads, computed operands of products
    s.NAME    a state after every step; before.NAME the same one step earlier
    p         per-unit weights
    d_x       adjoints of the input's shares           d_extra  of products, where those differ
    d_out     cotangent of the output                  d_p      of per-unit weights, for every row
    carry.NAME   adjoint of a state, from step to step
    memory    what a later phase of the same step reads
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

from elman.cell import Cell
from elman.graph import Graph, Node
from elman.leaves import LEAVES
from elman.phases import Phase
from elman.schedule import Returned, Schedule, schedule


class Kind(NamedTuple):
    """What is known of an array by its name, up to a dot."""

    steps: bool  # whether it holds every step, or the present one
    padded: bool = False  # whether its slots are whole vectors apart, or H units
    given: bool = False  # whether training gets it from its caller, or finds room for it


ARRAYS = {
    "x": Kind(steps=True, given=True),
    "extra": Kind(steps=True, given=True),
    "s": Kind(steps=True, given=True),
    "before": Kind(steps=True, given=True),
    "p": Kind(steps=False, given=True),
    "d_x": Kind(steps=True),
    "d_extra": Kind(steps=True),
    "d_out": Kind(steps=True, given=True),
    "d_p": Kind(steps=False, padded=True),
    "carry": Kind(steps=False, padded=True),
    "memory": Kind(steps=False, padded=True),
}


def kind_of(array: str) -> Kind:
    return ARRAYS[array.partition(".")[0]]


class Place(NamedTuple):
    """A slot of an array."""

    array: str
    slot: int = 0


class Segment(NamedTuple):
    """A part of a product's depth: slots beside each other, and as many blocks of rows of weight_hh."""

    place: Place
    gate: int  # the first of the blocks of rows
    slots: int


class Product(NamedTuple):
    """Products that read the same operand in the same phase, done together."""

    nodes: tuple[Node, ...]  # results, one block of units each
    gates: tuple[int, ...] = ()  # forward: the block of rows of weight_hh of each result
    operand: Place = Place("")  # forward: what is multiplied
    segments: tuple[Segment, ...] = ()  # backward: what is multiplied with weight_hh transposed
    state: str = ""  # backward: the state whose adjoint this is; its products were made in the step after

    @property
    def slots(self) -> int:
        """How many times H units it is deep."""
        return sum(segment.slots for segment in self.segments) or 1


class Pass(NamedTuple):
    """What one kernel does, phase by phase."""

    graph: Graph
    phases: list[Phase]
    products: list[list[Product]]
    places: dict[int, Place]  # where a value that is not computed in a phase is read in it
    stores: list[list[tuple[Node, Place]]]
    slots: Mapping[str, int]  # of "extra" or "d_extra", and of "memory"
    operands: Mapping[int, Place] = MappingProxyType({})  # forward: where computed operands of products are stored

    @property
    def memory(self) -> int:
        return self.slots.get("memory", 0)


class Multiplied(NamedTuple):
    """A product of the step as the weight's gradient sees it: d_weight_hh[gate] += d^T operand."""

    gate: int
    operand: Place
    d: Place


class Plan(NamedTuple):
    cell: Cell
    infer: Pass
    forward: Pass
    backward: Pass
    extra: int  # slots
    d_extra: int  # slots
    multiplied: tuple[Multiplied, ...]
    shares: tuple[tuple[int, int], ...]  # input gates that have an effect: the first of each run, and how many


@cache
def plan(cell: Cell) -> Plan:
    """The plan of a cell. NotTraceable if its step is no graph."""
    made = schedule(cell)
    infer, forward = _Step(made, keeps=False).done(), _Step(made, keeps=True).done()
    adjoints = _places_of_adjoints(made)
    multiplied = tuple(
        Multiplied(each.block, _operand(forward, each.operand), adjoints[each.adjoint.index]) for each in made.products
    )
    live = [k for k, gate in enumerate(cell.anatomy.input_gates) if f"x.{gate}" in made.derivative.outputs]
    backward = _backward(made, forward, adjoints)
    extra, d_extra = forward.slots.get("extra", 0), backward.slots.get("d_extra", 0)
    return Plan(cell, infer, forward, backward, extra, d_extra, multiplied, _runs(live))


def _runs(numbers: list[int]) -> tuple[tuple[int, int], ...]:
    """Ascending numbers as runs that follow each other: the first of each, and how many."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and sum(found[-1]) == number:
            found[-1] = found[-1][0], found[-1][1] + 1
        else:
            found.append((number, 1))
    return tuple(found)


def _place_of(cell: Cell, kind: str, name: str, array: str) -> Place:
    """Where the leaf, or its adjoint, lies in an array of `LEAVES`."""
    return Place(array.format(name), 0 if "{}" in array else LEAVES[kind].names(cell).index(name))


def _operand(forward: Pass, node: Node) -> Place:
    """Where products find what they multiply."""
    return forward.operands.get(node.index, forward.places[node.index])


class _Slots(dict[str, int]):
    """How many slots arrays have."""

    def new(self, array: str) -> Place:
        self[array] = self.get(array, 0) + 1
        return Place(array, self[array] - 1)


class _Step:
    """The places of the step's values. In training it keeps what backward reads."""

    def __init__(self, made: Schedule, *, keeps: bool) -> None:
        self.made, self.keeps = made, keeps
        self.kept = made.kept if keeps else frozenset()
        self.slots = _Slots()
        self.operands: dict[int, Place] = {}
        self.places = {
            leaf.index: _place_of(made.cell, leaf.op, leaf.name, LEAVES[leaf.op].array)
            for leaf in made.graph.nodes
            if leaf.op in LEAVES
        }
        self.free = self.overwritable()
        self.stores = [self.stored_in(number, phase) for number, phase in enumerate(made.phases)]

    def done(self) -> Pass:
        made = self.made
        products = [self.products_in(phase) for phase in made.phases]
        return Pass(made.graph, made.phases, products, self.places, self.stores, self.slots, self.operands)

    def overwritable(self) -> dict[int, int]:
        """The slots of x that backward does not read, and the phase after which nobody does."""
        cell, graph = self.made.cell, self.made.graph
        gates = cell.anatomy.input_gates
        kept = {node.name for node in graph.nodes if node.op == "x" and node.index in self.kept}
        last_read = {slot: 0 for slot, gate in enumerate(gates) if gate not in kept}
        for number, phase in enumerate(self.made.phases):
            for argument in (argument for node in phase.nodes for argument in node.arguments):
                if argument.op == "x" and argument.name not in kept:
                    last_read[gates.index(argument.name)] = number
        return last_read

    def stored_in(self, number: int, phase: Phase) -> list[tuple[Node, Place]]:
        """What a phase stores where: new states, operands of products, what backward reads, what later phases read."""
        nodes = [*phase.products, *phase.nodes]
        here: list[tuple[Node, Place]] = []
        for state, node in self.made.graph.outputs.items():
            if any(node is other for other in nodes):
                self.store(node, Place(f"s.{state}"), here)
        states = {node.index: place for node, place in reversed(here)}
        for node in nodes:
            if node.index in self.made.operands:
                place = states.get(node.index)
                if place is None:
                    place = self.store(node, self.slots.new("extra" if self.keeps else "memory"), here)
                self.operands[node.index] = place  # a leaf is still read where it was
            elif node.index in self.kept and node.index not in states and node.op != "x":
                self.store(node, self.room(number), here)
        for node in phase.remembered:
            if node.index not in self.places:
                self.store(node, self.slots.new("memory"), here)
        return here

    def room(self, number: int) -> Place:
        """For what is kept in a phase: a slot of x that has been read, or one more of extra."""
        slot = next((slot for slot, last_read in self.free.items() if last_read <= number), None)
        if slot is None:
            return self.slots.new("extra")
        del self.free[slot]
        return Place("x", slot)

    def store(self, node: Node, place: Place, here: list[tuple[Node, Place]]) -> Place:
        here.append((node, place))
        self.places.setdefault(node.index, place)
        return place

    def products_in(self, phase: Phase) -> list[Product]:
        by_operand: dict[int, list[Node]] = {}
        for node in phase.products:
            by_operand.setdefault(node.arguments[0].index, []).append(node)
        gates = self.made.cell.anatomy.recurrent_gates
        return [
            Product(
                tuple(nodes),
                gates=tuple(gates.index(node.name) for node in nodes),
                operand=self.operands.get(operand, self.places[operand]),
            )
            for operand, nodes in by_operand.items()
        ]


def _places_of_adjoints(made: Schedule) -> dict[int, Place]:
    """Of input shares and of products, by their nodes in the derivative; one that is both has one place."""
    places: dict[int, Place] = {}
    for slot, gate in enumerate(made.cell.anatomy.input_gates):
        if f"x.{gate}" in made.derivative.outputs:
            places.setdefault(made.derivative.outputs[f"x.{gate}"].index, Place("d_x", slot))
    slots = _Slots()
    for each in made.products:
        if each.adjoint.index not in places:
            places[each.adjoint.index] = slots.new("d_extra")
    return places


def _backward(made: Schedule, forward: Pass, adjoints: dict[int, Place]) -> Pass:
    places = {n.index: forward.places[int(n.name)] for n in made.derivative.nodes if n.op == "kept"}
    slots = _Slots(d_extra=sum(place.array == "d_extra" for place in adjoints.values()))
    stores: list[list[tuple[Node, Place]]] = []
    for phase in made.backward:
        here = _stored_in(made, phase, adjoints)
        for node in phase.remembered:
            all_steps = (place for other, place in here if other is node and kind_of(place.array).steps)
            place = next(all_steps, None)
            if place is None:
                place = slots.new("memory")
                here.append((node, place))
            places[node.index] = place
        stores.append(here)
    products = [[_returned(each, adjoints) for each in of_phase] for of_phase in made.returned]
    return Pass(made.derivative, made.backward, products, places, stores, slots)


def _stored_in(made: Schedule, phase: Phase, adjoints: dict[int, Place]) -> list[tuple[Node, Place]]:
    """The derivative's outputs that a phase stores. A value that is several of them may have one place, or several."""
    here: dict[tuple[int, Place], tuple[Node, Place]] = {}
    for node in [*phase.products, *phase.nodes]:
        for output in [name for name, other in made.derivative.outputs.items() if other is node]:
            kind, _, name = output.partition(".")
            place = _place_of(made.cell, kind, name, LEAVES[kind].d_array) if kind in LEAVES else adjoints[node.index]
            here.setdefault((node.index, place), (node, place))
    return list(here.values())


def _returned(each: Returned, adjoints: dict[int, Place]) -> Product:
    """Slots that lie beside each other, and whose blocks of weight_hh do too, are one segment."""
    segments: list[Segment] = []
    for product in each.products:
        place, last = adjoints[product.adjoint.index], segments[-1] if segments else None
        if (
            last is not None
            and last.place.array == place.array
            and last.place.slot + last.slots == place.slot
            and last.gate + last.slots == product.block
        ):
            segments[-1] = last._replace(slots=last.slots + 1)
        else:
            segments.append(Segment(place, product.block, 1))
    return Product((each.node,), segments=tuple(segments), state=each.state)
