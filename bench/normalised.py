"""Times an LSTM with layer normalisation on the CPU: elman's kernels, next to loops in PyTorch and to elman's LSTM.

    python bench/normalised.py                 # about three minutes

Prints medians in milliseconds, for training (forward and backward) and inference. `by hand` is a loop with one product for
all gates in a step, and `scripted` the same loop in TorchScript.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from lengths import measured
from torch import Tensor, nn, sigmoid, tanh
from torch.nn.functional import layer_norm, linear

import elman
from elman import Cell, State

CASES = [(100, 1, 64), (100, 16, 128), (100, 64, 256), (50, 32, 512)]  # T, B, I = H


def step(x: Any, R: Any, s: Any, p: Any) -> State:
    def norm(v: Any) -> Any:
        return layer_norm(v, v.shape[-1:])

    i = sigmoid(norm(x.i + R.i @ s.h))
    f = sigmoid(norm(x.f + R.f @ s.h) + 1)
    g = tanh(norm(x.g + R.g @ s.h))
    o = sigmoid(norm(x.o + R.o @ s.h))
    c = f * s.c + i * g
    return State(h=o * tanh(layer_norm(c, c.shape[-1:], 1 + p.c, p.d)), c=c)


NORMALISED = Cell(step, gates=("i", "f", "g", "o"), states=("h", "c"), vectors=("c", "d"), name="layer_norm_lstm")


class ByHand(nn.Module):
    """The same equations as a loop, with the weights of a layer of elman."""

    weight_ih: nn.Parameter
    weight_hh: nn.Parameter
    weight_ch: nn.Parameter
    bias_ih: nn.Parameter
    bias_hh: nn.Parameter

    def __init__(self, of: elman.Recurrent) -> None:
        super().__init__()
        self.units = of.hidden_size
        for name, parameter in of.named_parameters():
            self.register_parameter(name.removesuffix("_l0"), parameter)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.shape[1], self.units)
        c = torch.zeros(x.shape[1], self.units)
        outputs: list[Tensor] = []
        for share in linear(x, self.weight_ih, self.bias_ih).unbind():
            i, f, g, o = layer_norm(
                (share + linear(h, self.weight_hh, self.bias_hh)).unflatten(-1, (4, self.units)), [self.units]
            ).unbind(-2)
            c = sigmoid(f + 1) * c + sigmoid(i) * tanh(g)
            h = sigmoid(o) * tanh(layer_norm(c, [self.units], 1 + self.weight_ch[0], self.weight_ch[1]))
            outputs.append(h)
        return torch.stack(outputs)


def main() -> None:
    torch.set_num_threads(2)
    warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript, by torch
    names = ("elman", "by hand", "scripted", "LSTM")
    print(f"{'(T, B, H)':17}{'':10}" + "".join(f"{name:>10}" for name in names) + "   (ms)")
    for steps, batch, units in CASES:
        ours = elman.Recurrent(NORMALISED, units, units)
        hand = ByHand(ours)
        scripted: Any = torch.jit.script(hand)
        plain = elman.LSTM(units, units)
        x, cotangent = torch.randn(steps, batch, units), torch.randn(steps, batch, units)
        torch.testing.assert_close(hand(x), ours(x)[0], rtol=1e-3, atol=1e-4)
        runs = {
            "elman": lambda x=x, of=ours: of(x)[0],
            "by hand": lambda x=x, of=hand: of(x),
            "scripted": lambda x=x, of=scripted: of(x),
            "LSTM": lambda x=x, of=plain: of(x)[0],
        }
        for what, found in measured(runs, cotangent).items():
            times = "".join(f"{found[name]:10.2f}" for name in names)
            print(f"{(steps, batch, units)!s:17}{what:10}{times}", flush=True)


if __name__ == "__main__":
    main()
