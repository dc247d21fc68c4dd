"""The reverse-mode derivative of a cell's graph, as another graph of the same operations.

The adjoint of a value is the gradient of the loss with respect to it. From the adjoints of the new state, the
derivative of a step computes the adjoint of every input share, of every product, of the previous state and of the
per-unit weights. How an operation is differentiated is in its record (`elman.operations`).
"""

from __future__ import annotations

from functools import partial

from elman.graph import Graph, Node
from elman.leaves import LEAVES, MATRICES
from elman.operations import OPERATIONS

# The derivative graph has three kinds of leaves besides "number":
#   kept      a value of the forward graph; the leaf is named after the index of its node there
#   adjoint   the adjoint of a state after the step; the leaf is named after the state
#   returned  sum over gates of R_g^T d(R_g v): the adjoint that an operand v receives through its products; the leaf is
#             named after the index of v
# Its outputs are:
#   x.g       the adjoint of the input share of gate g
#   R.k, P.k  the adjoint of the product that is node k of the forward graph
#   s.h       the elementwise part of the adjoint of a state before the step
#   p.g       the adjoint of a per-unit weight, separately for each row of the batch


def derivative(graph: Graph) -> Graph:
    """The derivative of one step. Its "kept" leaves are the forward values that it needs: see `kept_nodes`."""
    backward, kept = Graph(), kept_nodes(graph)
    adjoints: dict[int, Node] = {}
    multiplied: set[int] = set()  # operands of products that have an adjoint

    def add(node: Node, adjoint: Node) -> None:
        known = adjoints.get(node.index)
        adjoints[node.index] = adjoint if known is None else known + adjoint

    def value(node: Node) -> Node:
        """The node for a forward value in the backward graph: a kept leaf, or its operation again on kept values."""
        if node.op == "number":
            return backward.add("number", value=node.value)
        if node.index in kept:
            return backward.add("kept", name=str(node.index))
        return backward.add(node.op, tuple(value(argument) for argument in node.arguments))

    for name, node in graph.outputs.items():
        add(node, backward.add("adjoint", name=name))
    for node in reversed(graph.nodes):
        # For a state, backward adds this part of the adjoint when it does the step before.
        if node.index in multiplied and node.op != "s":
            add(node, backward.add("returned", name=str(node.index)))
        adjoint = adjoints.get(node.index)
        if adjoint is None or node.op == "number":
            continue
        if node.op in LEAVES:
            backward.outputs[f"{node.op}.{node.name}"] = adjoint
        elif node.op in MATRICES:
            backward.outputs[f"{node.op}.{node.index}"] = adjoint
            multiplied.add(node.arguments[0].index)
        else:
            of_result_and_arguments = [partial(value, each) for each in (node, *node.arguments)]
            for argument, share in zip(node.arguments, OPERATIONS[node.op].shares, strict=True):
                if share is not None and argument.op != "number":
                    add(argument, share(adjoint, *of_result_and_arguments))
    return backward


def kept_nodes(graph: Graph) -> set[int]:
    """The indices of the nodes whose values forward keeps where backward needs them. Backward computes all others again.

    Leaves, the new state, products, and functions other than arithmetic are kept. A function of a new state, such as
    tanh(c), is computed again. Operations over whole rows are kept, and so are their arguments.
    """
    states = {output.index for output in graph.outputs.values()}
    kept = states | {node.arguments[0].index for node in graph.nodes if node.whole_row}
    for node in graph.nodes:
        function = node.nonlinear and node.arguments[0].index not in states
        if node.op in LEAVES or node.op in MATRICES or node.whole_row or function:
            kept.add(node.index)
    return kept
