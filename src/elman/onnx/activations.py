"""The activations that a node of ONNX may name, as functions that elman's graphs know."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import relu, sigmoid, tanh


class Problem(Exception):
    """A node that cannot be loaded. The message says what is wrong and, after a semicolon, the remedy."""


def _affine(v: Any, alpha: float, beta: float) -> Any:
    return alpha * v + beta


def _leaky_relu(v: Any, alpha: float, beta: float) -> Any:
    return torch.where(v < 0, alpha * v, v)


def _scaled_tanh(v: Any, alpha: float, beta: float) -> Any:
    return alpha * tanh(beta * v)


def _hard_sigmoid(v: Any, alpha: float, beta: float) -> Any:
    return torch.clamp(alpha * v + beta, 0.0, 1.0)


def _elu(v: Any, alpha: float, beta: float) -> Any:
    # exp(v) - 1 = 2 t / (1 - t) with t = tanh(v / 2), which loses no digits near zero.
    t = tanh(0.5 * torch.where(v < 0, v, 0.0))
    return torch.where(v < 0, alpha * (2 * t / (1 - t)), v)


def _softsign(v: Any, alpha: float, beta: float) -> Any:
    return v / (1 + abs(v))


def _softplus(v: Any, alpha: float, beta: float) -> Any:
    rest = torch.log1p(torch.exp(torch.where(v < 0, v, -v)))  # no exponential overflows
    return torch.where(v < 0, rest, v + rest)


class _Known(NamedTuple):
    function: Callable[[Any, float, float], Any]
    alpha: float | None = None  # the default of the number; None if the function takes none, NaN if it has no default
    beta: float | None = None


_NEEDED = math.nan

KNOWN = {
    "Tanh": _Known(lambda v, alpha, beta: tanh(v)),
    "Relu": _Known(lambda v, alpha, beta: relu(v)),
    "Sigmoid": _Known(lambda v, alpha, beta: sigmoid(v)),
    "Affine": _Known(_affine, _NEEDED, _NEEDED),
    "LeakyRelu": _Known(_leaky_relu, 0.01),
    "ScaledTanh": _Known(_scaled_tanh, _NEEDED, _NEEDED),
    "HardSigmoid": _Known(_hard_sigmoid, 0.2, 0.5),
    "Elu": _Known(_elu, 1.0),
    "Softsign": _Known(_softsign),
    "Softplus": _Known(_softplus),
}
_BY_LOWER_CASE = {name.lower(): name for name in KNOWN}  # ONNX Runtime reads names in any case


class Activation(NamedTuple):
    """An activation with its numbers, which are 0 where the function takes none."""

    name: str
    alpha: float = 0.0
    beta: float = 0.0

    def __call__(self, v: Any) -> Any:
        return KNOWN[self.name].function(v, self.alpha, self.beta)


def activations_of(names: list[str], alphas: list[float], betas: list[float]) -> list[Activation]:
    """The activations of a node, each with its own numbers.

    Only functions that take a number use one up, in the order of the functions. Those for which no number is left have
    ONNX's defaults.
    """
    for name in names:
        if name.lower() not in _BY_LOWER_CASE:
            raise Problem(f"its activation {name!r} is not supported; use one of {', '.join(KNOWN)}")
    known = [_BY_LOWER_CASE[name.lower()] for name in names]
    numbers = {}
    for kind, given in (("alpha", alphas), ("beta", betas)):
        takers = [name for name in known if getattr(KNOWN[name], kind) is not None]
        if takers and len(given) > len(takers):
            raise Problem(
                f"activation_{kind} has {len(given)} numbers, but {len(takers)} of its activations ({', '.join(takers)}) "
                "take one; give one number for each of these, in their order"
            )
        if not all(map(math.isfinite, given)):
            raise Problem(f"activation_{kind} holds {given}; give finite numbers")
        rest = iter(given)
        numbers[kind] = [_number(name, kind, rest) if name in takers else 0.0 for name in known]
    return [Activation(*each) for each in zip(known, numbers["alpha"], numbers["beta"], strict=True)]


def _number(name: str, kind: str, rest: Any) -> float:
    number = next(rest, getattr(KNOWN[name], kind))
    if math.isnan(number):
        raise Problem(f"its activation {name} has no {kind}, and ONNX has no default for it; give activation_{kind}")
    return number
