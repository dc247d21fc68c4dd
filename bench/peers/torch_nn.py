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
        stacked = tuple(state.unsqueeze(0) for state in states)
        output, h_n = layer(x, stacked[0] if len(stacked) == 1 else stacked)
        return output, (h_n[0],) if len(states) == 1 else tuple(final[0] for final in h_n)

    return prepared(run, parameters, arrays, training)
