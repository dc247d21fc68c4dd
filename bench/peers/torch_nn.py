"""torch.nn's own layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from peers import Arrays, Prepared
from peers.torch_run import States, fill, prepared

VERSION = torch.__version__
LAYERS: dict[str, Callable[[int, int], nn.Module]] = {
    "rnn": nn.RNN,
    "rnn_relu": lambda input_size, hidden_size: nn.RNN(input_size, hidden_size, nonlinearity="relu"),
    "lstm": nn.LSTM,
    "gru": nn.GRU,
}


def prepare(cell: str, arrays: Arrays, training: bool) -> Prepared | None:
    if cell not in LAYERS:
        return None
    layer = LAYERS[cell](arrays["x"].shape[2], arrays["h_0"].shape[1])
    parameters: dict[str, Tensor] = {
        name.removesuffix("_l0"): parameter for name, parameter in layer.named_parameters()
    }
    fill(parameters, arrays)

    def run(x: Tensor, states: States) -> tuple[Tensor, States]:
        output, h_n = layer(x, states[0] if len(states) == 1 else states)
        return output, (h_n,) if len(states) == 1 else h_n

    return prepared(run, parameters, arrays, training, stacked=True)
