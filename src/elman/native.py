"""Engine `native`: torch's own kernels (cuDNN, MPS), for the cells they know.

Used by itself on devices that elman has no kernels for, so that nobody is slower for having switched
from torch.nn; on request (`use_engine("native")`) everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from elman import cells
from elman.cell import Cell
from elman.layout import Direction, Weights

# torch._VF is where torch.nn's own layers find these; torch.lstm and so on lack type declarations.
_KERNELS: dict[Cell, Callable[..., Any]] = {
    cells.rnn: torch.rnn_tanh,
    cells.rnn_relu: torch.rnn_relu,
    cells.lstm: torch.lstm,
    cells.gru: torch.gru,
    cells.projected_lstm: torch.lstm,
}


def unsupported(cell: Cell, x: Tensor, directions: Sequence[Direction]) -> str | None:
    """Why this engine cannot run the case, or None."""
    if cell not in _KERNELS:
        return f"torch has no kernel for {cell.name}"
    if cell is cells.projected_lstm and x.device.type != "cuda":
        return None if x.device.type == "cpu" else f"torch has no projected LSTM on {x.device.type}"
    return None


def run(
    cell: Cell,
    x: Tensor,  # (T, B, I)
    weights: Weights,
    state: tuple[Tensor, ...],  # each (B, width)
    *,
    reverse: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One layer in one direction, all steps: the output (T, B, Y) and the final states, each (B, width)."""
    flat = [w for w in (weights.ih, weights.hh, weights.b_ih, weights.b_hh, weights.hr) if w is not None]
    h_0 = tuple(s.unsqueeze(0).contiguous() for s in state)
    output, *h_n = _KERNELS[cell](
        x.flip(0) if reverse else x,
        h_0[0] if len(cell.states) == 1 else h_0,
        flat,
        weights.b_ih is not None,  # has_biases
        1,  # num_layers
        0.0,  # dropout
        torch.is_grad_enabled(),  # train: cuDNN keeps what backward needs
        False,  # bidirectional
        False,  # batch_first
    )
    return output.flip(0) if reverse else output, tuple(h.squeeze(0) for h in h_n)
