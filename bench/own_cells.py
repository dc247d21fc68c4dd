"""Times two cells of one's own on the CPU: elman's kernels, next to loops in PyTorch and to elman's LSTM.

    python bench/own_cells.py                 # about four minutes

One is an LSTM with layer normalisation, the other an LSTM with dropout of its recurrent state and zoneout (a stream each).
Prints medians in milliseconds, for training (forward and backward) and inference. `by hand` is a loop with one product for
all gates in a step, and `scripted` the same loop in TorchScript.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from lengths import measured
from torch import Tensor, nn, sigmoid, tanh
from torch.nn.functional import layer_norm, linear

import elman
from elman import Cell, State

CASES = [(100, 1, 64), (100, 16, 128), (100, 64, 256), (50, 32, 512)]  # T, B, I = H


def normalised(x: Any, R: Any, s: Any, p: Any) -> State:
    def norm(v: Any) -> Any:
        return layer_norm(v, v.shape[-1:])

    i = sigmoid(norm(x.i + R.i @ s.h))
    f = sigmoid(norm(x.f + R.f @ s.h) + 1)
    g = tanh(norm(x.g + R.g @ s.h))
    o = sigmoid(norm(x.o + R.o @ s.h))
    c = f * s.c + i * g
    return State(h=o * tanh(layer_norm(c, c.shape[-1:], 1 + p.c, p.d)), c=c)


def dropped(x: Any, R: Any, s: Any, u: Any) -> State:
    h = s.h * u.mask
    i, f, o = sigmoid(x.i + R.i @ h), sigmoid(x.f + R.f @ h), sigmoid(x.o + R.o @ h)
    c = torch.where(u.keep > 0, s.c, f * s.c + i * tanh(x.g + R.g @ h))
    return State(h=o * tanh(c), c=c)


GATES, STATES = ("i", "f", "g", "o"), ("h", "c")
NORMALISED = Cell(normalised, GATES, STATES, vectors=("c", "d"))
DROPPED = Cell(dropped, GATES, STATES, streams=("mask", "keep"))


class _Loop(nn.Module):
    """What both loops have: the weights of a layer of elman."""

    if TYPE_CHECKING:  # TorchScript would take these for attributes
        weight_ih: Tensor
        weight_hh: Tensor
        weight_ch: Tensor
        bias_ih: Tensor
        bias_hh: Tensor

    def __init__(self, of: elman.Recurrent) -> None:
        super().__init__()
        self.units = of.hidden_size
        for name, parameter in of.named_parameters():
            self.register_parameter(name.removesuffix("_l0"), nn.Parameter(parameter.detach()))


class Normalised(_Loop):
    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.shape[1], self.units)
        c = torch.zeros(x.shape[1], self.units)
        outputs: list[Tensor] = []
        for share in linear(x, self.weight_ih, self.bias_ih).unbind():
            gates = (share + linear(h, self.weight_hh, self.bias_hh)).unflatten(-1, (4, self.units))
            i, f, g, o = layer_norm(gates, [self.units]).unbind(-2)
            c = sigmoid(f + 1) * c + sigmoid(i) * tanh(g)
            h = sigmoid(o) * tanh(layer_norm(c, [self.units], 1 + self.weight_ch[0], self.weight_ch[1]))
            outputs.append(h)
        return torch.stack(outputs)


class Dropped(_Loop):
    def forward(self, x: Tensor, mask: Tensor, keep: Tensor) -> Tensor:
        h = torch.zeros(x.shape[1], self.units)
        c = torch.zeros(x.shape[1], self.units)
        outputs: list[Tensor] = []
        for t, share in enumerate(linear(x, self.weight_ih, self.bias_ih).unbind()):
            i, f, g, o = (share + linear(h * mask[0], self.weight_hh, self.bias_hh)).chunk(4, -1)
            c = torch.where(keep[t] > 0, c, sigmoid(f) * c + sigmoid(i) * tanh(g))
            h = sigmoid(o) * tanh(c)
            outputs.append(h)
        return torch.stack(outputs)


def main() -> None:
    torch.set_num_threads(2)
    warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript, by torch
    names = ("elman", "by hand", "scripted", "LSTM")
    print(f"{'cell':12}{'(T, B, H)':17}{'':10}" + "".join(f"{name:>10}" for name in names) + "   (ms)")
    for cell, loop in ((NORMALISED, Normalised), (DROPPED, Dropped)):
        for steps, batch, units in CASES:
            ours, plain = elman.Recurrent(cell, units, units), elman.LSTM(units, units)
            hand = loop(ours)
            scripted: Any = torch.jit.script(hand)
            x, cotangent = torch.randn(steps, batch, units), torch.randn(steps, batch, units)
            streams: dict[str, Tensor] = {}
            if cell.streams:
                mask, keep = (torch.rand(1, batch, units) > 0.3) / 0.7, torch.rand(steps, batch, units) < 0.1
                streams = {"mask": mask.expand(steps, batch, units), "keep": keep.float()}
            torch.testing.assert_close(
                hand(x, *streams.values()), ours(x, streams=streams or None)[0], rtol=1e-3, atol=1e-4
            )
            runs = {
                "elman": lambda x=x, of=ours, streams=streams: of(x, streams=streams or None)[0],
                "by hand": lambda x=x, of=hand, streams=streams: of(x, *streams.values()),
                "scripted": lambda x=x, of=scripted, streams=streams: of(x, *streams.values()),
                "LSTM": lambda x=x, of=plain: of(x)[0],
            }
            for what, found in measured(runs, cotangent).items():
                times = "".join(f"{found[name]:10.2f}" for name in names)
                print(f"{cell.name:12}{(steps, batch, units)!s:17}{what:10}{times}", flush=True)


if __name__ == "__main__":
    main()
