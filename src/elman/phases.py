"""Cuts a graph into phases at its matrix products, and at its operations over all units of a row.

A product needs every unit of its operand before it can start, and the operations that follow need the product.
So the work of one step falls into phases. Within a phase, units do not depend on each other. The LSTM has
one phase, the GRU that resets before the product has two. Values of another width, such as the projected state,
have phases of their own: values of two widths depend on each other only through products.

Outputs, operands of products and functions are computed as early as possible. Arithmetic is computed as late as
possible, and so are functions of leaves that can be read in any phase. So few values have to be remembered from one
phase to a later one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from elman.graph import Graph, Node
from elman.leaves import HIDDEN


@dataclass
class Phase:
    level: int = 0  # how many phases must be done before it, one after the other
    width: str = HIDDEN  # of all its values
    products: list[Node] = field(default_factory=list)  # and operations over whole rows, done before the nodes
    nodes: list[Node] = field(default_factory=list)  # computed, read once or stored in it; each after its arguments
    remembered: list[Node] = field(default_factory=list)  # the products and nodes that later phases read


def phases(
    graph: Graph,
    product_of: Callable[[Node], tuple[Node, ...] | None],
    once: Callable[[Node], bool] = lambda node: False,
    width: Callable[[Node], str] = lambda node: HIDDEN,
) -> list[Phase]:
    """Returns the phases of a graph, in order. The graph must hold only nodes that its outputs need: `Graph.needed`.

    product_of(node): the computed values that a product has to wait for; None if the node is no product.
    once(node): whether a leaf can be read in the first phase only. Other leaves can be read in any phase.
    width(node): the width of a value, one of those in `elman.leaves`.
    An operation over whole rows waits for its argument, as a product does, and reads it where it was stored.
    """

    def waits_for(node: Node) -> tuple[Node, ...] | None:
        if not node.whole_row:
            return product_of(node)
        return tuple(a for a in node.arguments if a.arguments or once(a) or product_of(a) is not None)

    earliest: dict[int, int] = {}
    fixed = {node.index for node in graph.outputs.values()}
    for node in graph.nodes:
        read = waits_for(node)
        if read is None:
            earliest[node.index] = max((earliest[a.index] for a in node.arguments), default=0)
        else:
            earliest[node.index] = max((earliest[a.index] + 1 for a in read), default=0)
            fixed |= {a.index for a in read}

    def in_any_phase(node: Node) -> bool:
        return not node.arguments and waits_for(node) is None and not once(node)

    level_of: dict[int, int] = {}
    readers: dict[int, list[int]] = {node.index: [] for node in graph.nodes}
    for node in reversed(graph.nodes):
        early = node.index in fixed or not node.arguments or waits_for(node) is not None
        early = early or (node.nonlinear and not all(map(in_any_phase, node.arguments)))
        level_of[node.index] = earliest[node.index] if early else min(readers[node.index])
        if node.whole_row or waits_for(node) is None:
            for argument in node.arguments:
                readers[argument.index].append(level_of[node.index])

    cut: dict[tuple[int, str], Phase] = {}
    for node in graph.nodes:
        level, is_product = level_of[node.index], waits_for(node) is not None
        if not (is_product or node.arguments or node.index in fixed or once(node)):
            continue
        phase = cut.setdefault((level, width(node)), Phase(level, width(node)))
        (phase.products if is_product else phase.nodes).append(node)
        if any(reader > level for reader in readers[node.index]):
            phase.remembered.append(node)
    return [cut[key] for key in sorted(cut)]
