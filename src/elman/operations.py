"""The operations of a graph: for each, how it is computed on tensors, and its derivative.

How an engine of its own computes them stands with the engine (`cpu/codegen/functions.py`), which has to know them all.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn import functional

# d is the adjoint of the result y, a and b are the arguments; y, a and b are called where their values are needed.
Share = Callable[..., Any]


class Operation(NamedTuple):
    """One operation: elementwise, unless it is said to read whole rows."""

    name: str  # also of torch's function, and method, that a step may call
    compute: Callable[..., Any]  # on tensors and plain numbers
    shares: tuple[Share, ...] = ()  # the adjoint of each argument; none for what only derivatives are made of
    also: tuple[Any, ...] = ()  # further functions that are the same in a step
    nonlinear: bool = False  # a function, computed early and kept for backward, and not arithmetic, which is done again
    commutes: bool = False  # whether its arguments may change places
    whole_row: bool = False  # needs its argument of every unit before it starts, as a product does

    def __call__(self, *nodes: Any) -> Any:
        """This operation on nodes of a graph, as a node."""
        return nodes[0].graph.add(self.name, nodes)


# Of derivatives only. What is not passed on is zero even where the adjoint is infinite: these select, they do not
# multiply. A NaN in the condition passes the adjoint on, as torch has it.

sign = Operation("sign", torch.sign)
# d where y > 0, else 0
where_positive = Operation("where_positive", lambda d, y: torch.where(y <= 0, 0.0, d))
# d where a > b, half of it where they are equal, else 0
where_larger = Operation("where_larger", lambda d, a, b: torch.where(a < b, 0.0, torch.where(a == b, d / 2, d)))

_OF_STEPS = (
    Operation(
        "add", operator.add, (lambda d, y, a, b: d, lambda d, y, a, b: d), (torch.Tensor.__add__,), commutes=True
    ),
    Operation("sub", operator.sub, (lambda d, y, a, b: d, lambda d, y, a, b: -d), (torch.Tensor.__sub__,)),
    Operation(
        "mul",
        operator.mul,
        (lambda d, y, a, b: d * b(), lambda d, y, a, b: d * a()),
        (torch.Tensor.__mul__,),
        commutes=True,
    ),
    Operation(
        "div",
        operator.truediv,
        (lambda d, y, a, b: d / b(), lambda d, y, a, b: -(d * y() / b())),
        (torch.Tensor.__truediv__,),
    ),
    Operation("neg", operator.neg, (lambda d, y, a: -d,)),
    Operation(
        "sigmoid", torch.sigmoid, (lambda d, y, a: d * (y() * (1 - y())),), (functional.sigmoid,), nonlinear=True
    ),
    Operation("tanh", torch.tanh, (lambda d, y, a: d * (1 - y() * y()),), (functional.tanh,), nonlinear=True),
    Operation("relu", torch.relu, (lambda d, y, a: where_positive(d, y()),), (functional.relu,), nonlinear=True),
    Operation("exp", torch.exp, (lambda d, y, a: d * y(),), nonlinear=True),
    Operation("log", torch.log, (lambda d, y, a: d / a(),), nonlinear=True),
    Operation("sqrt", torch.sqrt, (lambda d, y, a: d / (2 * y()),), nonlinear=True),
    Operation("abs", torch.abs, (lambda d, y, a: d * sign(a()),), nonlinear=True),
    Operation(
        "maximum",
        torch.maximum,
        (lambda d, y, a, b: where_larger(d, a(), b()), lambda d, y, a, b: where_larger(d, b(), a())),
        commutes=True,
    ),
    Operation(
        "minimum",
        torch.minimum,
        (lambda d, y, a, b: where_larger(d, b(), a()), lambda d, y, a, b: where_larger(d, a(), b())),
        commutes=True,
    ),
)

OF_STEPS = {operation.name: operation for operation in _OF_STEPS}
OPERATIONS = OF_STEPS | {operation.name: operation for operation in (sign, where_positive, where_larger)}

OF_TORCH = {  # by what a step may call
    function: operation
    for operation in _OF_STEPS
    for function in (getattr(torch, operation.name), getattr(torch.Tensor, operation.name), *operation.also)
}
