"""A graph cut into phases at its matrix products.

A product needs its whole operand, of every unit, before it can start; what follows needs the product.
So the work of one step falls into phases: within one, units do not depend on each other. The LSTM has
one phase, the GRU that resets before the product two. What is of another width, as the projected state is,
has phases of its own: values of two widths depend on each other through products only.

Functions, and what a product reads, are computed as early as they can be; arithmetic, and functions of what
can be read in any phase, as late as they can be. So little has to be remembered from phase to phase.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from elman.graph import Graph, Node
from elman.leaves import HIDDEN
from elman.operations import OPERATIONS


@dataclass
class Phase:
    level: int = 0  # how many products one after the other come before it
    width: str = HIDDEN  # of all that is in it
    products: list[Node] = field(default_factory=list)  # known when the phase begins
    nodes: list[Node] = field(default_factory=list)  # computed, read once or stored in it, arguments before results
    remembered: list[Node] = field(default_factory=list)  # of either, what later phases read


def phases(
    graph: Graph,
    product_of: Callable[[Node], tuple[Node, ...] | None],
    once: Callable[[Node], bool] = lambda node: False,
    width: Callable[[Node], str] = lambda node: HIDDEN,
) -> list[Phase]:
    """The phases of a graph, in order. It holds only what its outputs need: `Graph.needed`.

    product_of(node): the computed values that a product has to wait for; None if the node is no product.
    once(node): whether a leaf can be read in the first phase only; others can be read in any.
    An operation over whole rows waits for its arguments as a product does.
    """

    def waits_for(node: Node) -> tuple[Node, ...] | None:
        whole_row = node.op in OPERATIONS and OPERATIONS[node.op].whole_row
        return node.arguments if whole_row else product_of(node)

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
        if waits_for(node) is None:
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
