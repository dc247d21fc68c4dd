"""A graph cut into phases at its matrix products.

A product needs its whole operand, of every unit, before it can start; what follows needs the product.
So the work of one step falls into phases: within one, units do not depend on each other. The LSTM has
one phase, the GRU that resets before the product two.

Functions, and what a product reads, are computed as early as they can be; arithmetic as late as it can
be, so that little has to be remembered from phase to phase.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from elman.graph import NONLINEAR, Graph, Node


@dataclass
class Phase:
    products: list[Node] = field(default_factory=list)  # known when the phase begins
    nodes: list[Node] = field(default_factory=list)  # computed, read once or stored in it, arguments before results
    remembered: list[Node] = field(default_factory=list)  # of either, what later phases read


def phases(
    graph: Graph,
    product_of: Callable[[Node], tuple[Node, ...] | None],
    once: Callable[[Node], bool] = lambda node: False,
) -> list[Phase]:
    """The phases of a graph, in order. It holds only what its outputs need: `Graph.needed`.

    product_of(node): the computed values that a product has to wait for; None if the node is no product.
    once(node): whether a leaf can be read in the first phase only; others can be read in any.
    """
    earliest: dict[int, int] = {}
    fixed = {node.index for node in graph.outputs.values()}
    for node in graph.nodes:
        read = product_of(node)
        if read is None:
            earliest[node.index] = max((earliest[a.index] for a in node.arguments), default=0)
        else:
            earliest[node.index] = max((earliest[a.index] + 1 for a in read), default=0)
            fixed |= {a.index for a in read}

    phase_of: dict[int, int] = {}
    readers: dict[int, list[int]] = {node.index: [] for node in graph.nodes}
    for node in reversed(graph.nodes):
        early = node.op in NONLINEAR or node.index in fixed or not node.arguments or product_of(node) is not None
        phase_of[node.index] = earliest[node.index] if early else min(readers[node.index])
        if product_of(node) is None:
            for argument in node.arguments:
                readers[argument.index].append(phase_of[node.index])

    cut = [Phase() for _ in range(1 + max(phase_of.values(), default=0))]
    for node in graph.nodes:
        phase = cut[phase_of[node.index]]
        if product_of(node) is not None:
            phase.products.append(node)
        elif node.arguments or node.index in fixed or once(node):
            phase.nodes.append(node)
        else:
            continue
        if any(reader > phase_of[node.index] for reader in readers[node.index]):
            phase.remembered.append(node)
    return cut
