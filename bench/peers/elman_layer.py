"""elman itself."""

from __future__ import annotations

import os
from contextlib import nullcontext
from importlib.metadata import version

import torch
from torch import Tensor

import elman
from elman.layout import NAMES
from peers import Arrays, Prepared
from peers.torch_run import States, fill, prepared

VERSION = version("elman")
FORCED = os.environ.get("BENCH_ENGINE", "auto")

if FORCED != "auto":
    # For the whole process: entered here and never left.
    elman.use_engine(FORCED).__enter__()


def prepare(cell: str, arrays: Arrays, training: bool) -> Prepared:
    layer = elman.Recurrent(elman.cells.by_name(cell), arrays["x"].shape[2], arrays["h_0"].shape[1])
    names = {NAMES[field].format(0, ""): NAMES[field].format(0, "").removesuffix("_l0") for field in NAMES}
    parameters: dict[str, Tensor] = {names[name]: parameter for name, parameter in layer.named_parameters()}
    fill(parameters, arrays)

    def run(x: Tensor, states: States) -> tuple[Tensor, States]:
        output, h_n = layer(x, states[0] if len(states) == 1 else states)
        return output, (h_n,) if len(states) == 1 else h_n

    with nullcontext() if training else torch.inference_mode():
        engine = elman.describe(layer, torch.from_numpy(arrays["x"])).engines[0].engine
    return prepared(run, parameters, arrays, training, engine, stacked=True)
