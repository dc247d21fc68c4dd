"""The reverse-mode derivative of a cell's graph, as a graph in the same operations.

For one step: given the adjoints of the new state, it yields the adjoint of every input share, of every
recurrent product, of the previous state and of the per-unit weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from elman.graph import NONLINEAR, Graph, Node, NotTraceable

# The derivative graph has leaves of its own besides "number":
#   kept      a value of the forward graph, by its index there
#   adjoint   that of a state after the step, by the state's name
#   returned  sum over gates of R_g^T d(R_g v): what the products of an operand give back to it, by its index
# and outputs by these names:
#   x.g       adjoint of the input share of gate g            R.k   of the product that is node k
#   s.h       elementwise part of the adjoint of a state       p.g   of a per-unit weight, per row of the batch


# What appears in derivatives only: how to compute it.
OPERATIONS: dict[str, Callable[..., Any]] = {
    "sign": torch.sign,
    "where_positive": lambda d, y: torch.where(y <= 0, 0.0, d),
    "where_larger": lambda d, a, b: torch.where(a < b, 0.0, torch.where(a == b, d / 2, d)),
}


def derivative(graph: Graph) -> Graph:
    """The derivative of one step. Which forward values it needs are its "kept" leaves: see `is_kept`.

    NotTraceable for a step that projects a state.
    """
    backward = Graph()
    adjoints: dict[int, Node] = {}
    multiplied = {node.arguments[0].index for node in graph.nodes if node.op == "R"}

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
        if node.op in ("x", "s", "p"):
            backward.outputs[f"{node.op}.{node.name}"] = adjoint
        elif node.op == "P":
            raise NotTraceable("the derivative of a projected state is not known here yet; the reference engine has it")
        elif node.op == "R":
            backward.outputs[f"R.{node.index}"] = adjoint
        else:
            for argument, share in zip(node.arguments, _RULES[node.op](node, adjoint, value), strict=True):
                if argument.op != "number":
                    add(argument, share())
    return backward


def is_kept(graph: Graph, node: Node) -> bool:
    """Whether forward keeps this value if backward needs it; everything else is computed again.

    Kept are leaves, the new state, products, and functions other than arithmetic, unless what they are
    a function of is itself the new state, as in tanh(c).
    """
    state = {output.index for output in graph.outputs.values()}
    if node.op in ("x", "s", "p", "R") or node.index in state:
        return True
    return node.op in NONLINEAR and node.arguments[0].index not in state


Share = Callable[[], Node]
Rule = Callable[[Node, Node, Callable[[Node], Node]], tuple[Share, ...]]


# For each operation: node, its adjoint d, and a way to get forward values -> the adjoint of each argument.
_RULES: dict[str, Rule] = {
    "add": lambda n, d, v: (lambda: d, lambda: d),
    "sub": lambda n, d, v: (lambda: d, lambda: -d),
    "mul": lambda n, d, v: (lambda: d * v(n.arguments[1]), lambda: d * v(n.arguments[0])),
    "div": lambda n, d, v: (lambda: d / v(n.arguments[1]), lambda: -(d * v(n) / v(n.arguments[1]))),
    "neg": lambda n, d, v: (lambda: -d,),
    "sigmoid": lambda n, d, v: (lambda: d * (v(n) * (1 - v(n))),),
    "tanh": lambda n, d, v: (lambda: d * (1 - v(n) * v(n)),),
    "relu": lambda n, d, v: (lambda: _where_positive(d, v(n)),),
    "exp": lambda n, d, v: (lambda: d * v(n),),
    "log": lambda n, d, v: (lambda: d / v(n.arguments[0]),),
    "sqrt": lambda n, d, v: (lambda: d / (2 * v(n)),),
    "abs": lambda n, d, v: (lambda: d * _sign(v(n.arguments[0])),),
    "maximum": lambda n, d, v: (
        lambda: _where_larger(d, *map(v, n.arguments)),
        lambda: _where_larger(d, *map(v, n.arguments[::-1])),
    ),
    "minimum": lambda n, d, v: (
        lambda: _where_larger(d, *map(v, n.arguments[::-1])),
        lambda: _where_larger(d, *map(v, n.arguments)),
    ),
}


# What is not passed on is zero even where the adjoint is infinite, so these select and do not multiply.


def _where_positive(d: Node, y: Node) -> Node:
    return y.graph.add("where_positive", (d, y))  # d where y > 0, else 0: torch's derivative of relu


def _where_larger(d: Node, a: Node, b: Node) -> Node:
    return a.graph.add("where_larger", (d, a, b))  # d where a > b, half of it where equal, else 0: torch's of maximum


def _sign(x: Node) -> Node:
    return x.graph.add("sign", (x,))
