"""What a step computes when, forward and backward, for every engine: phases, and what they multiply and keep.

Where values lie is the engine's own matter (`cpu/kernels/plan.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from elman.cell import Cell
from elman.derivative import derivative
from elman.graph import Graph, Node, NotTraceable, trace
from elman.leaves import HIDDEN, LEAVES, MATRICES, Matrix, width_of_state
from elman.phases import Phase, phases


class Product(NamedTuple):
    """A product of the step that has an effect."""

    node: Node  # of the step
    adjoint: Node  # of the derivative
    block: int  # which block of rows of the weight it multiplies with

    @property
    def matrix(self) -> Matrix:
        return MATRICES[self.node.op]

    @property
    def operand(self) -> Node:
        return self.node.arguments[0]


class Returned(NamedTuple):
    """What products give back to the operand that they have read: the sum of their adjoints times their matrices."""

    node: Node  # of the derivative
    products: tuple[Product, ...]
    state: str = ""  # where the operand is a state: the products were those of the step after


class Schedule(NamedTuple):
    """Phases of the step and of its derivative, in order."""

    cell: Cell
    graph: Graph  # the step, without what has no effect
    phases: list[Phase]
    kept: frozenset[int]  # nodes whose values backward reads
    operands: frozenset[int]  # nodes that products read, but for states
    products: tuple[Product, ...]  # the weights' gradients are sums over these
    derivative: Graph
    backward: list[Phase]
    returned: list[list[Returned]]  # by phase of `backward`


@cache
def schedule(cell: Cell) -> Schedule:
    """The schedule of a cell. NotTraceable if its step is no graph."""
    graph = trace(cell).needed()
    back = derivative(graph)
    _zero_where_missing(cell, graph, back)
    back = back.needed()
    width = _widths(cell, graph, lambda leaf: LEAVES[leaf.op].width(cell, leaf.name) if leaf.op in LEAVES else None)
    products = tuple(
        Product(node, back.outputs[f"{node.op}.{node.index}"], MATRICES[node.op].block(cell, node.name))
        for node in graph.nodes
        if node.op in MATRICES and f"{node.op}.{node.index}" in back.outputs
    )
    backward, returned = _backward(cell, graph, back, products, width)
    return Schedule(
        cell,
        graph,
        phases(graph, _waits_for, width=lambda node: width[node.index]),
        frozenset(int(node.name) for node in back.nodes if node.op == "kept"),
        frozenset(n.arguments[0].index for n in graph.nodes if n.op in MATRICES and n.arguments[0].op != "s"),
        products,
        back,
        backward,
        returned,
    )


def _waits_for(node: Node) -> tuple[Node, ...] | None:
    """The computed values that a product of the step waits for: of a state it knows all units beforehand."""
    if node.op not in MATRICES:
        return None
    return () if node.arguments[0].op == "s" else node.arguments


def _zero_where_missing(cell: Cell, graph: Graph, back: Graph) -> None:
    """A state that the step does not depend on has the gradient zero, which is an output like any other."""
    operands = {node.arguments[0].name for node in graph.nodes if node.op in MATRICES and node.arguments[0].op == "s"}
    for state in cell.states:
        if state not in operands:
            back.outputs.setdefault(f"s.{state}", back.add("number", name=width_of_state(cell, state), value=0.0))


def _widths(cell: Cell, graph: Graph, of_leaf: Callable[[Node], str | None]) -> dict[int, str]:
    """The width of every node; None of a leaf that fits any, as a number does. NotTraceable where two widths meet."""
    widths: dict[int, str | None] = {}
    for node in graph.nodes:
        read = {width for width in (widths[argument.index] for argument in node.arguments) if width is not None}
        if node.op in MATRICES:
            matrix = MATRICES[node.op]
            if read != {matrix.operand(cell)}:
                raise NotTraceable(f"{node.op}.{node.name} multiplies a {read.pop()} value, not one of its own width")
            widths[node.index] = matrix.result
        elif len(read) > 1:
            raise NotTraceable(f"{node.op} is of values of two widths, hidden_size and proj_size")
        else:
            widths[node.index] = read.pop() if read else of_leaf(node)
    return {index: width or HIDDEN for index, width in widths.items()}


def _backward(
    cell: Cell, graph: Graph, back: Graph, products: tuple[Product, ...], width: dict[int, str]
) -> tuple[list[Phase], list[list[Returned]]]:
    """The phases of the derivative, and for each what comes back through products."""

    def readers(operand: int) -> tuple[Product, ...]:
        return tuple(product for product in products if product.operand.index == operand)

    def waits_for(node: Node) -> tuple[Node, ...] | None:
        return tuple(each.adjoint for each in readers(int(node.name))) if node.op == "returned" else None

    def of_leaf(leaf: Node) -> str | None:
        if leaf.op == "number":
            return leaf.name or None
        return width_of_state(cell, leaf.name) if leaf.op == "adjoint" else width[int(leaf.name)]

    def in_phases(anytime: set[str]) -> list[Phase]:
        """An adjoint is read once, since the next one is stored in its place; those of some states at any time."""
        once = lambda node: node.op == "adjoint" and node.name not in anytime  # noqa: E731
        return phases(back, waits_for, once, lambda node: widths[node.index])

    widths = _widths(cell, back, of_leaf)
    multiplied = {leaf.name: readers(leaf.index) for leaf in graph.nodes if leaf.op == "s" and readers(leaf.index)}
    sums = {cell.states[0], *multiplied}  # adjoints that are sums, of what comes from outside or back through products
    cut = in_phases(_readable_later(back, in_phases(set())) - sums)

    returned = [[Returned(node, readers(int(node.name))) for node in phase.products] for phase in cut]
    for state, of_state in multiplied.items():
        begin = next(
            (k for k, each in enumerate(cut) if (each.level, each.width) == (0, width_of_state(cell, state))), -1
        )
        if begin < 0:
            begin = 0
            cut.insert(0, Phase(0, width_of_state(cell, state)))
            returned.insert(0, [])
        # Added to the graph where nothing else reads it: the initial state's gradient needs it.
        returned[begin].append(Returned(back.add("adjoint", name=state), of_state, state))
    return cut, returned


def _readable_later(back: Graph, cut: list[Phase]) -> set[str]:
    """States whose adjoint nobody reads before a later phase, nor after the phase that stores the next one."""
    found: set[str] = set()
    level_of = {node.index: phase.level for phase in cut for node in (*phase.products, *phase.nodes)}
    for leaf in (node for node in back.nodes if node.op == "adjoint"):
        read = [level_of[n.index] for n in back.nodes if any(a is leaf for a in n.arguments) and n.index in level_of]
        following = back.outputs.get(f"s.{leaf.name}")
        is_output = any(output is leaf for output in back.outputs.values())
        if is_output or following is None or not read:
            continue
        if min(read) > 0 and max(read) <= level_of[following.index]:
            found.add(leaf.name)
    return found
