"""What the kernels of a cell do in which phase, and where every value lies. No code is made here.

Arrays hold T steps (or, those marked *, the present one), B rows and one or more slots of H units:

    x         the input's share of every gate; forward writes what it keeps over what it has read
    extra     what else forward keeps: values that backward reads, computed operands of products
    s.NAME    a state after every step; before.NAME the same one step earlier
    p*        per-unit weights
    d_x       adjoints of the input's shares           d_extra  of products, where those differ
    d_out     cotangent of the output                  d_p*     of per-unit weights, for every row
    carry.NAME*  adjoint of a state, from step to step
    memory*   what a later phase of the same step reads
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

from elman.cell import Cell
from elman.derivative import derivative
from elman.graph import Graph, Node, trace
from elman.phases import Phase, phases


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
    memory: int  # slots
    operands: Mapping[int, Place] = MappingProxyType({})  # forward: where computed operands of products are stored


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
    """The plan of a cell. NotTraceable if its step, or the derivative of its step, is no graph."""
    graph = trace(cell).needed()
    back = derivative(graph)
    _zero_where_missing(cell, graph, back)
    back = back.needed()
    cut = phases(graph, _waits_for)
    kept = {int(node.name) for node in back.nodes if node.op == "kept"}
    infer, _ = _forward(cell, graph, cut, None)
    forward, extra = _forward(cell, graph, cut, kept)
    backward, d_extra, multiplied = _backward(cell, forward, back)
    shares = _runs([k for k, gate in enumerate(cell.anatomy.input_gates) if f"x.{gate}" in back.outputs])
    return Plan(cell, infer, forward, backward, extra, d_extra, multiplied, shares)


@cache
def fingerprint(cell: Cell) -> str:
    """All that kernels depend on of a cell, in sixteen digits: the same in every process."""
    graph = plan(cell).forward.graph
    nodes = [(n.op, [a.index for a in n.arguments], n.name, n.value) for n in graph.nodes]
    outputs = [(name, node.index) for name, node in graph.outputs.items()]
    form = repr((cell.gates, cell.states, cell.vectors, cell.anatomy, nodes, outputs))
    return hashlib.sha256(form.encode()).hexdigest()[:16]


def _waits_for(node: Node) -> tuple[Node, ...] | None:
    if node.op != "R":
        return None
    return () if node.arguments[0].op == "s" else node.arguments


def _zero_where_missing(cell: Cell, graph: Graph, back: Graph) -> None:
    """A state that the step does not depend on has the gradient zero, which is stored like any other."""
    operands = {node.arguments[0].name for node in graph.nodes if node.op == "R" and node.arguments[0].op == "s"}
    for state in cell.states:
        if state not in operands:
            back.outputs.setdefault(f"s.{state}", back.add("number", value=0.0))


def _runs(numbers: list[int]) -> tuple[tuple[int, int], ...]:
    """Ascending numbers as runs that follow each other: the first of each, and how many."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and sum(found[-1]) == number:
            found[-1] = found[-1][0], found[-1][1] + 1
        else:
            found.append((number, 1))
    return tuple(found)


def _forward(cell: Cell, graph: Graph, cut: list[Phase], kept: set[int] | None) -> tuple[Pass, int]:
    """The pass that runs the step, and how many slots of `extra` it needs; kept is None for inference."""
    gates = cell.anatomy.input_gates
    places: dict[int, Place] = {}
    for node in graph.nodes:
        if node.op == "x":
            places[node.index] = Place("x", gates.index(node.name))
        elif node.op == "s":
            places[node.index] = Place(f"before.{node.name}")
        elif node.op == "p":
            places[node.index] = Place("p", cell.vectors.index(node.name))

    last_read = dict.fromkeys(range(len(gates)), 0)  # the phase after which a slot of x may be overwritten
    for number, phase in enumerate(cut):
        for node in phase.nodes:
            for argument in node.arguments:
                if argument.op == "x":
                    last_read[gates.index(argument.name)] = number
    free = [
        slot
        for slot in last_read
        if not any(n.index in (kept or ()) and n.op == "x" and n.name == gates[slot] for n in graph.nodes)
    ]

    stores: list[list[tuple[Node, Place]]] = []
    operand_places: dict[int, Place] = {}
    extra = memory = 0
    for number, phase in enumerate(cut):
        here: list[tuple[Node, Place]] = []

        def store(node: Node, place: Place, here: list[tuple[Node, Place]] = here) -> None:
            here.append((node, place))
            places.setdefault(node.index, place)

        for state, node in graph.outputs.items():
            if any(node is other for other in (*phase.nodes, *phase.products)):
                store(node, Place(f"s.{state}"))
        operands = {n.arguments[0].index for n in graph.nodes if n.op == "R" and n.arguments[0].op != "s"}
        for node in [*phase.products, *phase.nodes]:
            is_operand, is_kept = node.index in operands, node.index in (kept or ())
            stored = next((place for other, place in here if other is node), None)  # as a state
            if is_operand:
                if stored is None and kept is None:
                    store(node, Place("memory", memory))
                    memory += 1
                elif stored is None:
                    store(node, Place("extra", extra))
                    extra += 1
                operand_places[node.index] = stored or here[-1][1]  # a leaf is still read where it was
            elif is_kept and stored is None and node.op != "x":
                slot = next((slot for slot in free if last_read[slot] <= number), None)
                if slot is not None:
                    free.remove(slot)
                    store(node, Place("x", slot))
                else:
                    store(node, Place("extra", extra))
                    extra += 1
        for node in phase.remembered:
            if node.index not in places:
                store(node, Place("memory", memory))
                memory += 1
        stores.append(here)

    products: list[list[Product]] = []
    for phase in cut:
        by_operand: dict[int, list[Node]] = {}
        for node in phase.products:
            by_operand.setdefault(node.arguments[0].index, []).append(node)
        products.append(
            [
                Product(
                    tuple(nodes),
                    gates=tuple(cell.anatomy.recurrent_gates.index(node.name) for node in nodes),
                    operand=operand_places.get(operand, places[operand]),
                )
                for operand, nodes in by_operand.items()
            ]
        )
    return Pass(graph, cut, products, places, stores, memory, operand_places), extra


def _backward(cell: Cell, forward: Pass, back: Graph) -> tuple[Pass, int, tuple[Multiplied, ...]]:
    graph = forward.graph
    recurrent = [node for node in graph.nodes if node.op == "R" and f"R.{node.index}" in back.outputs]

    d_places: dict[int, Place] = {}  # of the adjoints, by their node in the backward graph
    for slot, gate in enumerate(cell.anatomy.input_gates):
        if f"x.{gate}" in back.outputs:
            d_places.setdefault(back.outputs[f"x.{gate}"].index, Place("d_x", slot))
    d_extra = 0
    for node in recurrent:
        adjoint = back.outputs[f"R.{node.index}"]
        if adjoint.index not in d_places:
            d_places[adjoint.index] = Place("d_extra", d_extra)
            d_extra += 1

    def products_of(operand: int) -> list[Node]:
        return [node for node in recurrent if node.arguments[0].index == operand]

    def waits_for(node: Node) -> tuple[Node, ...] | None:
        if node.op != "returned":
            return None
        return tuple(back.outputs[f"R.{product.index}"] for product in products_of(int(node.name)))

    cut = phases(back, waits_for, once=lambda node: node.op == "adjoint")

    def segments(operand: int) -> tuple[Segment, ...]:
        """Slots that lie beside each other, and whose blocks of weight_hh do too, are one segment."""
        found: list[Segment] = []
        for node in products_of(operand):
            place = d_places[back.outputs[f"R.{node.index}"].index]
            gate = cell.anatomy.recurrent_gates.index(node.name)
            last = found[-1] if found else None
            if (
                last is not None
                and last.place.array == place.array
                and last.place.slot + last.slots == place.slot
                and last.gate + last.slots == gate
            ):
                found[-1] = last._replace(slots=last.slots + 1)
            else:
                found.append(Segment(place, gate, 1))
        return tuple(found)

    products = [[Product((node,), segments=segments(int(node.name))) for node in phase.products] for phase in cut]
    for state in cell.states:
        leaf = next((node for node in graph.nodes if node.op == "s" and node.name == state), None)
        if leaf is not None and products_of(leaf.index):
            adjoint = back.add("adjoint", name=state)
            products[0].append(Product((adjoint,), segments=segments(leaf.index), state=state))

    places = {node.index: forward.places[int(node.name)] for node in back.nodes if node.op == "kept"}
    stores: list[list[tuple[Node, Place]]] = []
    memory = 0
    for phase in cut:
        here: list[tuple[Node, Place]] = []
        for node in [*phase.products, *phase.nodes]:
            for name, output in back.outputs.items():
                if output is not node:
                    continue
                kind, _, of = name.partition(".")
                if kind == "x":
                    here.append((node, Place("d_x", cell.anatomy.input_gates.index(of))))
                elif kind == "s":
                    here.append((node, Place(f"carry.{of}")))
                elif kind == "p":
                    here.append((node, Place("d_p", cell.vectors.index(of))))
                elif d_places[node.index].array == "d_extra":
                    here.append((node, d_places[node.index]))
        here = list({(node.index, place): (node, place) for node, place in here}.values())
        for node in phase.remembered:
            place = next((place for other, place in here if other is node and place.array in ("d_x", "d_extra")), None)
            if place is None:
                place = Place("memory", memory)
                memory += 1
                here.append((node, place))
            places[node.index] = place
        stores.append(here)

    multiplied = tuple(
        Multiplied(
            cell.anatomy.recurrent_gates.index(node.name),
            forward.operands.get(node.arguments[0].index, forward.places[node.arguments[0].index]),
            d_places[back.outputs[f"R.{node.index}"].index],
        )
        for node in recurrent
    )
    return Pass(back, cut, products, places, stores, memory), d_extra, multiplied
