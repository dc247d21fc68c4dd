"""Tensors as the kernels can read them: in memory, numbers of a row side by side."""

from __future__ import annotations

import torch
from torch import Tensor

from elman.layout import Call, Direction, Weights


def readable(call: Call) -> Call:
    """The call on tensors that the kernels can read: as a rule it is the same one."""
    for tensor in call.tensors():
        if tensor is not None and (tensor.stride(-1) != 1 or tensor.is_neg() or tensor._is_zerotensor()):
            call = call.replaced([t if t is None else dense(t) for t in call.tensors()])
            break
    if any(weights.ch is not None and not weights.ch.is_contiguous() for weights, _ in call.directions):
        call = call._replace(directions=tuple([Direction(_whole(weights), back) for weights, back in call.directions]))
    x = rows(call.x)
    return call if x is call.x else call._replace(x=x)


def _whole(weights: Weights) -> Weights:
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
    """A dense x (T, B, I), whose steps lie one behind the other as the rows of a step do."""
    steps, batch, _ = x.shape
    return x if 1 in (steps, batch) or x.stride(0) == batch * x.stride(1) else x.contiguous()
