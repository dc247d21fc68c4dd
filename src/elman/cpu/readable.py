"""Tensors as the kernels can read them: in memory, numbers of a row side by side."""

from __future__ import annotations

import torch
from torch import Tensor

from elman.layout import Call, Direction, Weights


def readable(call: Call) -> Call:
    """The call on tensors that the kernels can read: as a rule it is the same one."""
    x, directions, state = rows(call.x), call.directions, call.state
    if not all(_weights_are(weights) for weights, _ in directions):
        directions = tuple([Direction(_readable(weights), reverse) for weights, reverse in directions])
    if not all(map(is_dense, state)):
        state = tuple(map(dense, state))
    if x is call.x and directions is call.directions and state is call.state:
        return call
    return call._replace(x=x, directions=directions, state=state)


def _weights_are(weights: Weights) -> bool:
    if weights.ch is not None and not weights.ch.is_contiguous():
        return False
    return all(weight is None or is_dense(weight) for weight in weights)


def _readable(weights: Weights) -> Weights:
    weights = Weights(*[w if w is None else dense(w) for w in weights])
    return weights if weights.ch is None else weights._replace(ch=weights.ch.contiguous())


def is_dense(tensor: Tensor) -> bool:
    """Whether the numbers of a row lie side by side in memory. torch has tensors that are negative, or zero, by a mark only."""
    return tensor.stride(-1) == 1 and not tensor.is_neg() and not tensor._is_zerotensor()


def dense(tensor: Tensor) -> Tensor:
    """The tensor, or a copy that the kernels can read."""
    if is_dense(tensor):
        return tensor
    if tensor._is_zerotensor():
        return torch.zeros(tensor.shape, dtype=tensor.dtype)
    return tensor.resolve_neg().contiguous()


def rows(x: Tensor) -> Tensor:
    """x (T, B, I), whose steps lie one behind the other as the rows of a step do."""
    x = dense(x)
    steps, batch, _ = x.shape
    return x if 1 in (steps, batch) or x.stride(0) == batch * x.stride(1) else x.contiguous()
