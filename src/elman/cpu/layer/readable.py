"""Makes tensors that the kernels can read: memory holds their numbers, those of a row side by side."""

from __future__ import annotations

from torch import Tensor

from elman.layout import Call, Direction, Weights
from elman.own_kernels import dense, is_dense


def readable(call: Call) -> Call:
    """Returns the call with tensors that the kernels can read. As a rule, this is the call itself."""
    for tensor in call.tensors():
        if tensor is not None and not is_dense(tensor):
            call = call.replaced([t if t is None else dense(t) for t in call.tensors()])
            break
    if any(weights.ch is not None and not weights.ch.is_contiguous() for weights, _ in call.directions):
        call = call._replace(directions=tuple([Direction(_whole(weights), back) for weights, back in call.directions]))
    x = rows(call.x)
    if call.streams and (call.lengths is not None or call.reset is not None):
        call = call._replace(streams=tuple(map(rows, call.streams)))
    return call if x is call.x else call._replace(x=x)


def _whole(weights: Weights) -> Weights:
    return weights if weights.ch is None else weights._replace(ch=weights.ch.contiguous())


def rows(x: Tensor) -> Tensor:
    """Returns a dense x (T, B, I), or a copy of it, in which all T*B rows are evenly spaced."""
    steps, batch, _ = x.shape
    return x if 1 in (steps, batch) or x.stride(0) == batch * x.stride(1) else x.contiguous()
