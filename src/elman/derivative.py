"""The reverse-mode derivative of a cell's graph, as a graph in the same operations.

For one step: given the adjoints of the new state, it yields the adjoint of every input share, of every
product, of the previous state and of the per-unit weights. What an operation does is in its record
(`elman.operations`).
"""

from __future__ import annotations

from functools import partial

from elman.graph import Graph, Node
from elman.leaves import LEAVES, MATRICES
from elman.operations import OPERATIONS

# The derivative graph has leaves of its own besides "number":
#   kept      a value of the forward graph, by its index there
#   adjoint   that of a state after the step, by the state's name
#   returned  sum over gates of R_g^T d(R_g v): what the products of an operand give back to it, by its index
# and outputs by these names:
#   x.g       adjoint of the input share of gate g            R.k   of the product that is node k
#   s.h       elementwise part of the adjoint of a state       p.g   of a per-unit weight, per row of the batch


def derivative(graph: Graph) -> Graph:
    """The derivative of one step. Which forward values it needs are its "kept" leaves: see `is_kept`."""
    backward = Graph()
    adjoints: dict[int, Node] = {}
    multiplied = {node.arguments[0].index for node in graph.nodes if node.op in MATRICES}

    def add(node: Node, adjoint: Node) -> None:
        known = adjoints.get(node.index)
        adjoints[node.index] = adjoint if known is None else known + adjoint

    def value(node: Node) -> Node:
        """A forward value in the backward graph: kept, or computed again from what is kept."""
        if node.op == "number":
            return backward.add("number", value=node.value)
        if is_kept(graph, node):
            return backward.add("kept", name=str(node.index))
        return backward.add(node.op, tuple(value(argument) for argument in node.arguments))

    for name, node in graph.outputs.items():
        add(node, backward.add("adjoint", name=name))
    for node in reversed(graph.nodes):
        if node.index in multiplied and node.op != "s":  # a state's share comes with the step before
            add(node, backward.add("returned", name=str(node.index)))
        adjoint = adjoints.get(node.index)
        if adjoint is None or node.op == "number":
            continue
        if node.op in LEAVES:
            backward.outputs[f"{node.op}.{node.name}"] = adjoint
        elif node.op in MATRICES:
            backward.outputs[f"{node.op}.{node.index}"] = adjoint
        else:
            of_result_and_arguments = [partial(value, each) for each in (node, *node.arguments)]
            for argument, share in zip(node.arguments, OPERATIONS[node.op].shares, strict=True):
                if argument.op != "number":
                    add(argument, share(adjoint, *of_result_and_arguments))
    return backward


def is_kept(graph: Graph, node: Node) -> bool:
    """Whether forward keeps this value if backward needs it; everything else is computed again.

    Kept are leaves, the new state, products, and functions other than arithmetic, unless what they are
    a function of is itself the new state, as in tanh(c).
    """
    state = {output.index for output in graph.outputs.values()}
    if node.op in LEAVES or node.op in MATRICES or node.index in state:
        return True
    return node.nonlinear and node.arguments[0].index not in state
