"""The operations of a graph: how each is computed on tensors, and how it is differentiated.

An engine that makes its own kernels has to compute every one of these operations. The engine `cpu` does so in
`cpu/codegen/functions.py`, the engine `gpu` in `gpu/source.py`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

# share(d, y, a, b) is the adjoint of one argument. d is the adjoint of the result y, and a and b are the arguments.
# y, a and b are given as functions: y() is the value of y, to be called only where the value is needed. None stands for
# an argument that has no adjoint, since it only decides.
Share = Callable[..., Any] | None


class Operation(NamedTuple):
    """One operation. It is elementwise, unless `whole_row` is set.

    An operation over whole rows needs all units of its argument before it starts, as a product does. Its result is the
    same for every unit.
    """

    name: str  # also that of torch's function and method, which a step may call
    compute: Callable[..., Any]  # the result, from tensors and plain numbers
    shares: tuple[Share, ...] = ()  # the adjoint of each argument
    also: tuple[Any, ...] = ()  # other functions of torch that a step may call for this operation
    nonlinear: bool = False  # True: computed early, and kept for backward. False: arithmetic, which backward repeats
    commutes: bool = False  # whether its arguments may change places
    whole_row: bool = False  # whether it is over all units of a row

    def __call__(self, *arguments: Any) -> Any:
        """Returns the node that applies this operation to nodes of a graph and plain numbers."""
        graph = next(a.graph for a in arguments if not isinstance(a, Real))
        nodes = [graph.add("number", value=float(a)) if isinstance(a, Real) else a for a in arguments]
        return graph.add(self.name, tuple(nodes))


# Choices between two values, x where the comparison of a and b holds and y elsewhere. They select and do not multiply:
# an adjoint that is not passed on becomes zero even if it is infinite. No comparison with a NaN holds.


def _choice(name: str, holds: Callable[[Any, Any], Any]) -> Operation:
    def compute(a: Any, b: Any, x: Any, y: Any) -> Any:
        if not isinstance(x, Tensor) and not isinstance(y, Tensor):  # torch would choose the type itself
            x = torch.full_like(a if isinstance(a, Tensor) else b, x)
        return torch.where(holds(a, b), x, y)

    def choose(a: Any, b: Any, x: Any, y: Any) -> Any:
        return OPERATIONS[name](a(), b(), x, y)

    return Operation(
        name,
        compute,
        (None, None, lambda d, y, a, b, *_: choose(a, b, d, 0.0), lambda d, y, a, b, *_: choose(a, b, 0.0, d)),
    )


where_less = _choice("where_less", operator.lt)
where_less_equal = _choice("where_less_equal", operator.le)
where_equal = _choice("where_equal", operator.eq)


# Python's comparisons of a and b: the choice, whether a and b change places, and whether x and y do.
COMPARISONS = {
    "lt": (where_less, False, False),
    "le": (where_less_equal, False, False),
    "gt": (where_less, True, False),
    "ge": (where_less_equal, True, False),
    "eq": (where_equal, False, False),
    "ne": (where_equal, False, True),
}


def _sign(a: Any) -> Any:
    return where_less(0.0, a, 1.0, where_less(a, 0.0, -1.0, 0.0))


def _where_larger(d: Any, a: Any, b: Any) -> Any:
    """Returns d where a > b or one is NaN, half of it where they are equal, else 0, as torch has it."""
    return where_less(a, b, 0.0, where_equal(a, b, d / 2, d))


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
    Operation(
        "relu", torch.relu, (lambda d, y, a: where_less_equal(y(), 0.0, 0.0, d),), (functional.relu,), nonlinear=True
    ),
    Operation("exp", torch.exp, (lambda d, y, a: d * y(),), nonlinear=True),
    Operation("log", torch.log, (lambda d, y, a: d / a(),), nonlinear=True),
    Operation("log1p", torch.log1p, (lambda d, y, a: d / (1 + a()),), nonlinear=True),
    Operation(
        "erf",
        torch.erf,
        (lambda d, y, a: d * (2 / math.sqrt(math.pi) * exp(-(a() * a()))),),
        (torch.special.erf,),
        nonlinear=True,
    ),
    Operation("sqrt", torch.sqrt, (lambda d, y, a: d / (2 * y()),), nonlinear=True),
    Operation("abs", torch.abs, (lambda d, y, a: d * _sign(a()),), nonlinear=True),
    Operation(
        "maximum",
        torch.maximum,
        (lambda d, y, a, b: _where_larger(d, a(), b()), lambda d, y, a, b: _where_larger(d, b(), a())),
        commutes=True,
    ),
    Operation(
        "minimum",
        torch.minimum,
        (lambda d, y, a, b: _where_larger(d, b(), a()), lambda d, y, a, b: _where_larger(d, a(), b())),
        commutes=True,
    ),
)


def _over_units(name: str, compute: Callable[[Tensor], Tensor]) -> Operation:
    def adjoint(d: Any, *_: Any) -> Any:
        """Every unit gets the result, so each argument gets what the adjoints of all units come to."""
        if d.op == "neg":  # so that no value is stored a second time with another sign
            return -OPERATIONS[name](d.arguments[0])
        return OPERATIONS[name](d)

    return Operation(name, lambda a: compute(a).expand_as(a), (adjoint,), whole_row=True)


mean = _over_units("mean", lambda a: a.mean(-1, keepdim=True))
total = _over_units("sum", lambda a: a.sum(-1, keepdim=True))

OF_STEPS = {operation.name: operation for operation in _OF_STEPS}
OPERATIONS = OF_STEPS | {each.name: each for each in (where_less, where_less_equal, where_equal, mean, total)}
exp, log1p, erf, sqrt, sigmoid, tanh = (OF_STEPS[name] for name in ("exp", "log1p", "erf", "sqrt", "sigmoid", "tanh"))


# Functions that are made of operations. Arguments and options are torch's. What cannot be made raises TypeError.


def _number(name: str, value: Any) -> Real:
    if not isinstance(value, Real):
        raise TypeError(f"{name} takes plain numbers; write torch.maximum or torch.minimum to bound by a value")
    return value


def _clamp(v: Any, min: Any = None, max: Any = None) -> Any:
    if min is not None:
        v = where_less(v, _number("clamp", min), min, v)
    return v if max is None else where_less(_number("clamp", max), v, max, v)


def _hardtanh(v: Any, min_val: Any = -1.0, max_val: Any = 1.0) -> Any:
    low, high = _number("hardtanh", min_val), _number("hardtanh", max_val)
    return where_less_equal(v, low, low, where_less_equal(high, v, high, v))


def _hardsigmoid(v: Any) -> Any:
    return where_less_equal(v, -3.0, 0.0, where_less_equal(3.0, v, 1.0, (v + 3) / 6))


def _softplus(v: Any, beta: Any = 1, threshold: Any = 20) -> Any:
    # Where v itself is the result, the exponent is zero: an infinity times the adjoint's zero would be NaN.
    scaled = v * beta if beta != 1 else v
    exponent = where_less(threshold, scaled, 0.0, scaled)
    y = log1p(exp(exponent))
    return where_less(threshold, scaled, v, y / beta if beta != 1 else y)


def _logsigmoid(v: Any) -> Any:
    return -_softplus(-v, threshold=50)  # beyond, the logarithm adds nothing even in float64


def _expm1(v: Any) -> Any:
    # Of small v, exp(v) - 1 would lose the digits. Of large v, the derivative of tanh is zero, and exp(v) infinite.
    small = where_less(1.0, v, 0.0, v)
    return where_less(1.0, v, exp(v) - 1, tanh(0.5 * small) * (exp(small) + 1))


def _elu(v: Any, alpha: Any = 1.0) -> Any:
    return where_less(0.0, v, v, _number("elu", alpha) * _expm1(where_less(0.0, v, 0.0, v)))


def _leaky_relu(v: Any, negative_slope: Any = 0.01) -> Any:
    return where_less(0.0, v, v, _number("leaky_relu", negative_slope) * v)


def _lerp(v: Any, end: Any, weight: Any) -> Any:
    near, far = v + weight * (end - v), end - (1 - weight) * (end - v)
    if isinstance(weight, Real):
        return near if abs(float(weight)) < 0.5 else far
    return where_less(abs(weight), 0.5, near, far)


def _silu(v: Any) -> Any:
    return v * sigmoid(v)


def _gelu(v: Any, approximate: str = "none") -> Any:
    if approximate == "none":
        return v * (0.5 * (1 + erf(v * math.sqrt(0.5))))
    return v * (0.5 * (1 + tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * (v * v * v)))))


LARGEST_POWER = 8


def _power(v: Any, exponent: Any) -> Any:
    if not isinstance(exponent, Real) or abs(exponent) not in (0.5, *range(1, LARGEST_POWER + 1)):
        raise TypeError(
            f"a power is a whole number from 1 to {LARGEST_POWER}, 0.5, or minus one of these; for others, of values "
            "above 0, write torch.exp(n * torch.log(v))"
        )
    if abs(exponent) == 0.5:
        return 1 / sqrt(v) if exponent < 0 else sqrt(v)
    if exponent < 0:
        return _power(1 / v, -exponent)
    if exponent == 1:
        return v
    half = _power(v, exponent // 2)
    return half * half * v if exponent % 2 else half * half


def _one_for_a_row(v: Any) -> bool:
    """Whether torch has one number for a row here, which a graph treats as a value of every unit."""
    waiting, seen = [v], set[int]()
    while waiting:
        node = waiting.pop()
        if node.op not in OPERATIONS and node.op != "number":
            return False
        seen.add(node.index)
        waiting += [a for a in node.arguments if not node.whole_row and a.index not in seen]
    return True


def _must_be(written: str, dim: Any, keepdim: Any, others_fit: bool) -> None:
    """Raises TypeError, with what to write, for a call that is not over all units of a row."""
    if dim not in (-1, (-1,), [-1]) or keepdim is not True or not others_fit:
        raise TypeError(f"write v.{written}keepdim=True), over all units of a row")


def _called(operation: Operation) -> Callable[..., Any]:
    def over_units(v: Any, dim: Any = None, keepdim: Any = False, **others: Any) -> Any:
        _must_be(f"{operation.name}(-1, ", dim, keepdim, not others)
        return v if _one_for_a_row(v) else operation(v)

    return over_units


def _mean_square(v: Any) -> Any:
    return mean(v * v)


def _var(v: Any, dim: Any = None, unbiased: Any = None, keepdim: Any = False, *, correction: Any = None) -> Any:
    _must_be("var(-1, correction=0, ", dim, keepdim, unbiased is False or correction == 0)
    return _mean_square(v - mean(v))


def _std(v: Any, dim: Any = None, unbiased: Any = None, keepdim: Any = False, *, correction: Any = None) -> Any:
    _must_be("std(-1, correction=0, ", dim, keepdim, unbiased is False or correction == 0)
    var = _mean_square(v - mean(v))
    # Where all units are the same, the derivative is torch's, which is zero.
    return where_equal(var, 0.0, 0.0, sqrt(where_equal(var, 0.0, 1.0, var)))


ALL_UNITS = torch.Size([-1])  # what a graph knows of v.shape[-1:]; torch's own functions take it for a shape


def _scaled(v: Any, normalized_shape: Any, eps: Any, weight: Any, bias: Any) -> Any:
    """v divided by the root of its mean square, times the weight, plus the bias."""
    if normalized_shape is not ALL_UNITS or not isinstance(eps, Real):
        raise TypeError("write v.shape[-1:] for the shape, and a plain number for eps, such as eps=1e-5")
    v = v / sqrt(_mean_square(v) + eps)
    v = v if weight is None else v * weight
    return v if bias is None else v + bias


def _layer_norm(v: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: Any = 1e-5) -> Any:
    return _scaled(v - mean(v), normalized_shape, eps, weight, bias)


def _rms_norm(v: Any, normalized_shape: Any, weight: Any = None, eps: Any = None) -> Any:
    return _scaled(v, normalized_shape, eps, weight, None)


def _where(condition: Any, *values: Any) -> Any:
    return condition.choose(*values)


def _holds(v: Any) -> Any:
    """The condition that a value of a logical function stands for."""
    return v if hasattr(type(v), "choose") else v != 0


def _both(name: str) -> tuple[Any, ...]:
    """torch's function and method of this name."""
    return getattr(torch, name), getattr(Tensor, name)


COMPOSED: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {  # name -> function of nodes, and torch's functions
    "where": (_where, (torch.where,)),
    "clamp": (_clamp, (*_both("clamp"), *_both("clip"))),
    "pow": (_power, _both("pow")),
    "square": (lambda v: v * v, _both("square")),
    "rsqrt": (lambda v: 1 / sqrt(v), _both("rsqrt")),
    "expm1": (_expm1, (*_both("expm1"), torch.special.expm1)),
    "sign": (_sign, _both("sign")),
    "positive": (lambda v: v, _both("positive")),
    "lerp": (_lerp, _both("lerp")),
    "softplus": (_softplus, (functional.softplus,)),
    "silu": (_silu, (functional.silu,)),
    "gelu": (_gelu, (functional.gelu,)),
    "elu": (_elu, (functional.elu,)),
    "leaky_relu": (_leaky_relu, (functional.leaky_relu,)),
    "logsigmoid": (_logsigmoid, (functional.logsigmoid,)),
    "hardsigmoid": (_hardsigmoid, (functional.hardsigmoid,)),
    "hardtanh": (_hardtanh, (functional.hardtanh,)),
    "mean": (_called(mean), _both("mean")),
    "sum": (_called(total), _both("sum")),
    "var": (_var, _both("var")),
    "std": (_std, _both("std")),
    "layer_norm": (_layer_norm, (functional.layer_norm, torch.layer_norm)),
    "rms_norm": (_rms_norm, (functional.rms_norm, torch.rms_norm)),
    "lt": (operator.lt, (*_both("lt"), *_both("less"))),
    "le": (operator.le, (*_both("le"), *_both("less_equal"))),
    "gt": (operator.gt, (*_both("gt"), *_both("greater"))),
    "ge": (operator.ge, (*_both("ge"), *_both("greater_equal"))),
    "eq": (operator.eq, _both("eq")),
    "ne": (operator.ne, (*_both("ne"), *_both("not_equal"))),
    "logical_and": (lambda v, w: _holds(v) & _holds(w), _both("logical_and")),
    "logical_or": (lambda v, w: _holds(v) | _holds(w), _both("logical_or")),
    "logical_xor": (lambda v, w: _holds(v) ^ _holds(w), _both("logical_xor")),
    "logical_not": (lambda v: ~_holds(v), _both("logical_not")),
}
# To other functions than these, a condition is a number.
OF_CONDITIONS = {COMPOSED[name][0] for name in ("where", "logical_and", "logical_or", "logical_xor", "logical_not")}
KNOWN = (*OF_STEPS, *COMPOSED)

OF_TORCH: dict[Any, Callable[..., Any]] = {  # what to call for each function and method of torch that a step may call
    function: operation
    for operation in _OF_STEPS
    for function in (getattr(torch, operation.name), getattr(Tensor, operation.name), *operation.also)
} | {function: of_nodes for of_nodes, functions in COMPOSED.values() for function in functions}
