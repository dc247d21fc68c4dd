"""Dropout inside a recurrence, in training: of what recurrent products read, and of the weights they multiply with.

Both draw a mask once for all steps. A new mask for each step would wear a memory away.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from elman.cell import Cell
from elman.layout import Call, Direction, Results, used
from elman.recurrence import recur


def dropout(values: Tensor, p: float) -> Tensor:
    """As torch's dropout: each value is 0 with probability p and else divided by 1 - p.

    On the CPU, torch's draws each element by itself, which for weights takes up to a fifth of a training step. To draw
    uniform numbers takes half of that.
    """
    if not values.is_cpu:
        return functional.dropout(values, p)
    kept = torch.rand_like(values, dtype=torch.float32) < 1 - p
    return values * kept.to(values.dtype).div_(1 - p or 1.0)


def without_weights(call: Call, p: float) -> Call:
    """Returns the call with recurrent weights of which each is 0 with probability p and else divided by 1 - p.

    One mask (K*H, Y) holds for all rows, and each direction has its own.

    Source: L. Wan et al., Regularization of neural networks using DropConnect (2013); S. Merity, N. S. Keskar & R.
    Socher, Regularizing and optimizing LSTM language models (2018).
    """
    directions = [Direction(w._replace(hh=dropout(used(w.hh), p)), reverse) for w, reverse in call.directions]
    return call._replace(directions=tuple(directions))


def recur_without_units(call: Call, cell: Cell, p: float) -> Results:
    """Runs a layer whose recurrent products read R.i @ (m v) instead of R.i @ v.

    An element of m is 0 with probability p and else 1 / (1 - p). Each row and direction has a mask (H,) of its own, for
    all gates. cell: the `masked` form of the call's cell.

    Source: Y. Gal & Z. Ghahramani, A theoretically grounded application of dropout in recurrent neural networks (2016).
    """
    steps, batch, _ = call.x.shape
    done: list[Results] = []
    for d in range(len(call.directions)):
        # As wide as the state, and not as the weights, whose shape is checked later.
        mask = dropout(call.x.new_ones(1, batch, call.state[0].shape[-1]), p).expand(steps, -1, -1)
        alone = call._replace(
            cell=cell.kept,
            directions=call.directions[d : d + 1],
            state=tuple([state[d : d + 1] for state in call.state]),
            streams=(*call.streams, mask),
            afresh=tuple([state[d : d + 1] for state in call.afresh]),
        )
        done.append(recur(alone))
    if len(done) == 1:
        return done[0]
    outputs, finals = zip(*done, strict=True)
    return torch.cat(outputs, dim=-1), tuple([torch.cat(of) for of in zip(*finals, strict=True)])
