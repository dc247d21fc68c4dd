"""The same cells as loops in PyTorch, written as someone would who wants them fast.

The input's share of all steps is one product before the loop, and a step has one product
(GRU with the reset before it: two).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, addmm, sigmoid, tanh
from torch.nn.functional import linear

from peers import Arrays, Prepared
from peers.torch_run import States, prepared

VERSION = torch.__version__
Parameters = dict[str, Tensor]
Step = Callable[[Tensor, States], States]  # the input's share (B, G*H), the state -> the state


def rnn(p: Parameters) -> Step:
    R = p["weight_hh"].t()
    return lambda x, state: (tanh(addmm(x, state[0], R)),)


def rnn_relu(p: Parameters) -> Step:
    R = p["weight_hh"].t()
    return lambda x, state: (torch.relu(addmm(x, state[0], R)),)


def lstm(p: Parameters) -> Step:
    R = p["weight_hh"].t()

    def step(x: Tensor, state: States) -> States:
        h, c = state
        i, f, g, o = addmm(x, h, R).chunk(4, dim=1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(c), c

    return step


def peephole_lstm(p: Parameters) -> Step:
    R, (p_i, p_f, p_o) = p["weight_hh"].t(), p["weight_ch"].unbind()

    def step(x: Tensor, state: States) -> States:
        h, c = state
        i, f, g, o = addmm(x, h, R).chunk(4, dim=1)
        c = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * tanh(g)
        return sigmoid(o + p_o * c) * tanh(c), c

    return step


def coupled_lstm(p: Parameters) -> Step:
    R = p["weight_hh"].t()

    def step(x: Tensor, state: States) -> States:
        h, c = state
        f, g, o = addmm(x, h, R).chunk(3, dim=1)
        c = torch.lerp(tanh(g), c, sigmoid(f))
        return sigmoid(o) * tanh(c), c

    return step


def coupled_peephole_lstm(p: Parameters) -> Step:
    R, (p_f, p_o) = p["weight_hh"].t(), p["weight_ch"].unbind()

    def step(x: Tensor, state: States) -> States:
        h, c = state
        f, g, o = addmm(x, h, R).chunk(3, dim=1)
        c = torch.lerp(tanh(g), c, sigmoid(f + p_f * c))
        return sigmoid(o + p_o * c) * tanh(c), c

    return step


def gru(p: Parameters) -> Step:
    R, bias = p["weight_hh"].t(), p["bias_hh"]

    def step(x: Tensor, state: States) -> States:
        (h,) = state
        x_r, x_z, x_n = x.chunk(3, dim=1)
        r, z, n = addmm(bias, h, R).chunk(3, dim=1)
        return (torch.lerp(tanh(x_n + sigmoid(x_r + r) * n), h, sigmoid(x_z + z)),)

    return step


def gru_before(p: Parameters) -> Step:
    R = p["weight_hh"].t()
    size = R.shape[0]
    R_rz, R_n = R[:, : 2 * size], R[:, 2 * size :]

    def step(x: Tensor, state: States) -> States:
        (h,) = state
        r, z = sigmoid(addmm(x[:, : 2 * size], h, R_rz)).chunk(2, dim=1)
        n = tanh(addmm(x[:, 2 * size :], r * h, R_n))
        return (torch.lerp(n, h, z),)

    return step


STEPS: dict[str, Callable[[Parameters], Step]] = {
    step.__name__: step
    for step in (rnn, rnn_relu, lstm, peephole_lstm, coupled_lstm, coupled_peephole_lstm, gru, gru_before)
}


def prepare(cell: str, arrays: Arrays, training: bool) -> Prepared:
    parameters = {
        name: torch.from_numpy(array).requires_grad_()
        for name, array in arrays.items()
        if name.startswith(("weight", "bias"))
    }

    def run(x: Tensor, state: States) -> tuple[Tensor, States]:
        # The reset gate of `gru` multiplies the recurrent bias too, so there it stays inside the loop.
        bias = parameters["bias_ih"] + (0 if cell == "gru" else parameters["bias_hh"])
        step = STEPS[cell](parameters)
        outputs = []
        for projected in linear(x, parameters["weight_ih"], bias).unbind():
            state = step(projected, state)
            outputs.append(state[0])
        return torch.stack(outputs), state

    return prepared(run, parameters, arrays, training)
