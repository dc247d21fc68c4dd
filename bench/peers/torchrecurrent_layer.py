"""torchrecurrent's layers. Of elman's cells it has one: PeepholeLSTM, with the same equations and rows.

Its OriginalLSTM has no forget gate, and none of its other cells has coupled gates or is a GRU.
"""

from __future__ import annotations

from importlib.metadata import version

from torch import Tensor
from torchrecurrent import PeepholeLSTM  # pyright: ignore[reportMissingImports]

from peers import Arrays, Prepared
from peers.torch_run import fill, prepared

VERSION = version("torchrecurrent")


def prepare(cell: str, arrays: Arrays, training: bool) -> Prepared | None:
    if cell != "peephole_lstm":
        return None
    layer = PeepholeLSTM(arrays["x"].shape[2], arrays["h_0"].shape[1])
    parameters: dict[str, Tensor] = dict(layer.cells[0].named_parameters())
    parameters["weight_ch"] = parameters.pop("weight_ph")  # (3*H,), rows i, f, o
    fill(parameters, arrays)

    return prepared(lambda x, states: layer(x, states), parameters, arrays, training, stacked=True)
