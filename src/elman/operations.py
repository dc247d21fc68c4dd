"""The operations of a graph: how each is computed on tensors, and how it is differentiated.

An engine that makes its own kernels has to compute every one of these operations. The engine `cpu` does so in
`cpu/codegen/functions.py`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn import functional

# share(d, y, a, b) is the adjoint of one argument. d is the adjoint of the result y, and a and b are the arguments.
# y, a and b are given as functions: y() is the value of y, to be called only where the value is needed.
Share = Callable[..., Any]


class Operation(NamedTuple):
    """One operation. It is elementwise, unless `whole_row` is set."""

    name: str  # also that of torch's function and method, which a step may call
    compute: Callable[..., Any]  # the result, from tensors and plain numbers
    shares: tuple[Share, ...] = ()  # the adjoint of each argument; empty if only derivatives use the operation
    also: tuple[Any, ...] = ()  # other functions of torch that a step may call for this operation
    nonlinear: bool = False  # True: computed early, and kept for backward. False: arithmetic, which backward repeats
    commutes: bool = False  # whether its arguments may change places
    whole_row: bool = False  # whether it needs all units of its arguments before it starts, as a product does

    def __call__(self, *nodes: Any) -> Any:
        """Returns the node that applies this operation to nodes of a graph."""
        return nodes[0].graph.add(self.name, nodes)


# Operations that only derivatives use. where_positive and where_larger select and do not multiply, so that an adjoint
# that is not passed on becomes zero even if it is infinite. A NaN in the condition passes the adjoint on, as in torch.

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

OF_TORCH = {  # the operation for each function and method of torch that a step may call
    function: operation
    for operation in _OF_STEPS
    for function in (getattr(torch, operation.name), getattr(torch.Tensor, operation.name), *operation.also)
}
