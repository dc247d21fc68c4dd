"""Engine `native`: torch's own kernels (cuDNN, MPS), for the cells that torch has kernels for.

On devices for which elman has no kernels it is the first choice, so that nobody loses speed by switching from
torch.nn. On request (`use_engine("native")`) it runs on every device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from elman import cells
from elman.cell import Cell
from elman.layout import Call, Results, Weights, joined
from elman.torch_private import in_one_piece

# The functions that torch.nn's own layers call, and torch's names of the same in cuDNN.
_KERNELS: dict[Cell, tuple[Callable[..., Any], str]] = {
    cells.rnn: (torch.rnn_tanh, "RNN_TANH"),
    cells.rnn_relu: (torch.rnn_relu, "RNN_RELU"),
    cells.lstm: (torch.lstm, "LSTM"),
    cells.gru: (torch.gru, "GRU"),
    cells.projected_lstm: (torch.lstm, "LSTM"),
}

# Cells whose states keep their own dtype under autocast on the CPU, where torch has no fused kernel for them.
_WIDE = (cells.gru, cells.gru_before, cells.projected_lstm, cells.gru.masked, cells.gru_before.masked)


def types(call: Call) -> tuple[torch.dtype, ...]:
    """The dtype of every final state, under autocast as in torch.nn. The first is the dtype of the output, too."""
    low, x = call.autocast, call.x
    if low is None:
        return (x.dtype,) * len(call.state)
    wide = x.device.type == "cpu" and call.cell.holder in _WIDE
    of_states = zip(call.cell.states, call.state, strict=True)
    return tuple(
        [
            torch.promote_types(s.dtype, low) if wide and name not in call.cell.projected else low
            for name, s in of_states
        ]
    )


def typed(results: Results, kinds: Sequence[torch.dtype]) -> Results:
    """Returns the results in the types that `types` gives for their call."""
    output, finals = results
    return output.to(kinds[0]), tuple([final.to(kind) for final, kind in zip(finals, kinds, strict=True)])


def unsupported(call: Call) -> str | None:
    """Why this engine cannot run a call; None if it can."""
    cell, device = call.cell, call.x.device.type
    if call.lengths is not None or call.reset is not None:
        return "torch's kernels know neither lengths nor resets"
    if cell not in _KERNELS:
        return f"torch has no kernel for {cell.name}"
    if cell is cells.projected_lstm and device not in ("cpu", "cuda"):
        return f"torch has no projected LSTM on {device}"
    return None


def run(call: Call) -> Results:
    """Runs one layer in all its directions."""
    return joined([_run(call, d) for d in range(len(call.directions))])


def _run(call: Call, d: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Runs all steps of one direction: returns the output (T, B, Y) and the final states, each (B, width)."""
    x, (weights, reverse) = call.x, call.directions[d]
    flat = [w for w in (weights.ih, weights.hh, weights.b_ih, weights.b_hh, weights.hr) if w is not None]
    h_0 = tuple(s[d : d + 1].contiguous() for s in call.state)
    kernel, _ = _KERNELS[call.cell]
    output, *h_n = kernel(
        x.flip(0) if reverse else x,
        h_0[0] if len(call.state) == 1 else h_0,
        flat,
        weights.b_ih is not None,  # has_biases
        1,  # num_layers
        0.0,  # dropout
        torch.is_grad_enabled(),  # train: cuDNN keeps what backward needs
        False,  # bidirectional
        False,  # batch_first
    )
    return output.flip(0) if reverse else output, tuple(h.squeeze(0) for h in h_n)


def lay_out(cell: Cell, weights: Weights) -> None:
    """Moves the weights of one direction into one piece of memory, in the order in which cuDNN reads them.

    Otherwise cuDNN copies them at every call. Nothing is moved that cuDNN does not run: other cells, devices and types,
    weights that share memory, and weights that are no plain parameters.
    """
    given = [w for w in (weights.ih, weights.hh, weights.b_ih, weights.b_hh, weights.hr) if w is not None]
    if cell not in _KERNELS or not all(type(w) is nn.Parameter and w.is_cuda for w in given):
        return
    if not all(w.dtype == given[0].dtype and torch.backends.cudnn.is_acceptable(w.data) for w in given):
        return
    if len({w.untyped_storage().data_ptr() for w in given}) < len(given):  # they lie so already, or are shared
        return
    assert weights.ih is not None
    assert weights.hh is not None
    hidden, proj = weights.hh.shape[0] // len(cell.gates), 0 if weights.hr is None else weights.hr.shape[0]
    mode: int = torch.backends.cudnn.rnn.get_cudnn_mode(_KERNELS[cell][1])
    with torch.no_grad(), torch.cuda.device(given[0].device):
        in_one_piece(given, len(given), weights.ih.shape[1], mode, hidden, proj, 1, False, False)
