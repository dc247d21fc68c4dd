"""When a step computes what, forward and backward: its phases, their products, and the values they keep.

Where these values lie in memory is in plan.py.
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
    """A matrix product of the step that influences the new state."""

    node: Node  # of the product, in the graph of the step
    adjoint: Node  # of the product, in the graph of the derivative
    block: int  # the number of the block of rows of the weight that it multiplies with

    @property
    def matrix(self) -> Matrix:
        return MATRICES[self.node.op]

    @property
    def operand(self) -> Node:
        return self.node.arguments[0]


class Returned(NamedTuple):
    """The adjoint that an operand v receives through its products R_g v: the sum of R_g^T d(R_g v)."""

    node: Node  # in the graph of the derivative: "returned", or the "adjoint" of a state
    products: tuple[Product, ...]
    state: str = ""  # the operand's name if it is a state: the products are then those of the step after


class Schedule(NamedTuple):
    """The phases of a step and of its derivative, in order, with their products and the values they keep."""

    cell: Cell
    graph: Graph  # the step, without nodes that do not influence the new state
    phases: list[Phase]
    kept: frozenset[int]  # indices of the nodes in `graph` whose values backward reads
    operands: frozenset[int]  # indices of the nodes in `graph` that products multiply, except states
    products: tuple[Product, ...]  # the gradients of the weights are sums over these products
    derivative: Graph
    backward: list[Phase]
    returned: list[list[Returned]]  # for each phase of `backward`


@cache
def schedule(cell: Cell) -> Schedule:
    """The schedule of a cell. Raises NotTraceable if its step cannot be traced or mixes widths."""
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
    """The computed values that a product of the step waits for; None for a node that is no product.

    A product with a state waits for nothing: all units of the state are known before the step.
    """
    if node.op not in MATRICES:
        return None
    return () if node.arguments[0].op == "s" else node.arguments


def _zero_where_missing(cell: Cell, graph: Graph, back: Graph) -> None:
    """Adds to the derivative an output of zero for the gradient of each state that the step does not depend on."""
    products = [node for node in graph.nodes if f"{node.op}.{node.index}" in back.outputs and node.op in MATRICES]
    operands = {node.arguments[0].name for node in products if node.arguments[0].op == "s"}
    for state in cell.states:
        if state not in operands:
            back.outputs.setdefault(f"s.{state}", back.add("number", name=width_of_state(cell, state), value=0.0))


def _widths(cell: Cell, graph: Graph, of_leaf: Callable[[Node], str | None]) -> dict[int, str]:
    """The width of every node. Raises NotTraceable where an operation has arguments of two widths.

    of_leaf(node): the width of a leaf; None for one that fits any width, such as a number.
    """
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
    """The phases of the derivative, and for each phase the adjoints that operands receive through products."""

    def readers(operand: int) -> tuple[Product, ...]:
        return tuple(product for product in products if product.operand.index == operand)

    def waits_for(node: Node) -> tuple[Node, ...] | None:
        return tuple(each.adjoint for each in readers(int(node.name))) if node.op == "returned" else None

    def of_leaf(leaf: Node) -> str | None:
        if leaf.op == "number":
            return leaf.name or None
        return width_of_state(cell, leaf.name) if leaf.op == "adjoint" else width[int(leaf.name)]

    def in_phases(anytime: set[str]) -> list[Phase]:
        """The phases, if the adjoints of the states in `anytime` can be read in any phase.

        Other adjoints are read in the first phase only, since the one for the step before is stored in their place.
        """
        once = lambda node: node.op == "adjoint" and node.name not in anytime  # noqa: E731
        return phases(back, waits_for, once, lambda node: widths[node.index])

    widths = _widths(cell, back, of_leaf)
    multiplied = {leaf.name: readers(leaf.index) for leaf in graph.nodes if leaf.op == "s" and readers(leaf.index)}
    # States whose adjoint is a sum, since it includes the gradient of the output or what comes back through products.
    sums = {cell.states[0], *multiplied}
    cut = in_phases(_readable_later(back, in_phases(set())) - sums)

    returned = [
        [Returned(node, readers(int(node.name))) for node in phase.products if node.op == "returned"] for phase in cut
    ]
    for state, of_state in multiplied.items():
        begin = next(
            (k for k, each in enumerate(cut) if (each.level, each.width) == (0, width_of_state(cell, state))), -1
        )
        if begin < 0:
            begin = 0
            cut.insert(0, Phase(0, width_of_state(cell, state)))
            returned.insert(0, [])
        # If nothing else reads the adjoint, it is added to the graph here: the gradient of the initial state needs it.
        returned[begin].append(Returned(back.add("adjoint", name=state), of_state, state))
    return cut, returned


def _readable_later(back: Graph, cut: list[Phase]) -> set[str]:
    """States whose adjoint is not read in the first phase, nor after the phase that stores that of the step before.

    No operation over whole rows may read it: other parts of the row would store over what it has not read yet.
    """
    found: set[str] = set()
    level_of = {node.index: phase.level for phase in cut for node in (*phase.products, *phase.nodes)}
    for leaf in (node for node in back.nodes if node.op == "adjoint"):
        readers = [n for n in back.nodes if any(a is leaf for a in n.arguments) and n.index in level_of]
        read = [level_of[n.index] for n in readers]
        following = back.outputs.get(f"s.{leaf.name}")
        is_output = any(output is leaf for output in back.outputs.values())
        if is_output or following is None or not read or any(n.whole_row for n in readers):
            continue
        if min(read) > 0 and max(read) <= level_of[following.index]:
            found.add(leaf.name)
    return found
