"""How parameters start, where torch's default is not what is wanted."""

from __future__ import annotations

import torch
from torch import Tensor

from elman.layers import Recurrent


@torch.no_grad()
def gate_bias(layer: Recurrent, **values: float | Tensor) -> None:
    """Set the input bias of gates, in every layer and direction: `gate_bias(lstm, f=1.0)`.

    values: for each gate a number, or one per unit (H,). A forget gate that starts open lets gradients
    through from the first update: a bias of 1 (R. Jozefowicz et al., An empirical exploration of
    recurrent network architectures, ICML 2015), or log(u) with u uniform on (1, T-1) and the input
    gate's bias minus that for memories over T steps (C. Tallec & Y. Ollivier, Can recurrent neural
    networks warp time?, ICLR 2018). The recurrent bias of these gates is set to zero.

    ValueError for a gate that the cell does not have, or a layer without biases.
    """
    anatomy = layer.cell.anatomy
    unknown = [gate for gate in values if gate not in layer.cell.gates]
    if unknown or not layer.bias:
        problem = (
            f"{layer.cell.name} has gates {', '.join(layer.cell.gates)}, not {', '.join(unknown)}"
            if unknown
            else "this layer has no biases (bias=False)"
        )
        raise ValueError(f"gate_bias: {problem}")
    for weights in layer.each_weights():
        for gate, value in values.items():
            for bias, gates, new in (
                (weights.b_hh, anatomy.recurrent_gates, 0.0),
                (weights.b_ih, anatomy.input_gates, value),
            ):
                if bias is not None and gate in gates:
                    bias.unflatten(0, (len(gates), -1))[gates.index(gate)] = new
