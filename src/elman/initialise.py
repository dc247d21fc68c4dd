"""Initial values of parameters other than torch's defaults."""

from __future__ import annotations

import torch
from torch import Tensor

from elman.recurrent import Recurrent


@torch.no_grad()
def gate_bias(layer: Recurrent, **values: float | Tensor) -> None:
    """Sets the input bias of gates in every layer and direction, and sets their recurrent bias to zero.

    Example: `gate_bias(lstm, f=1.0)`. values: for each gate, a number or a tensor (H,) with one number per unit.

    A forget gate that starts open lets gradients through from the first update. A bias of 1 opens it (R. Jozefowicz et
    al., An empirical exploration of recurrent network architectures, ICML 2015). For memories of up to T steps, set its
    bias to log(u), with u uniform on (1, T-1), and the bias of the input gate to -log(u) (C. Tallec & Y. Ollivier, Can
    recurrent neural networks warp time?, ICLR 2018).

    Raises ValueError for a gate that the cell does not have, or a layer without biases or with parametrized ones, or a
    frozen layer.
    """
    if next(layer.parameters(), None) is None:
        raise ValueError(
            "gate_bias: a frozen layer keeps its weights; set the biases of the layer that it was made from, and freeze it again"
        )
    anatomy = layer.cell.anatomy
    unknown = [gate for gate in values if gate not in layer.cell.gates]
    if unknown or not layer.bias:
        problem = (
            f"{layer.cell.name} has gates {', '.join(layer.cell.gates)}, not {', '.join(unknown)}"
            if unknown
            else "this layer has no biases (bias=False)"
        )
        raise ValueError(f"gate_bias: {problem}")
    parametrized = [name for name in layer.state_dict() if name.startswith("parametrizations.bias_")]
    if parametrized:
        raise ValueError(
            f"gate_bias: {parametrized[0].split('.')[1]} is computed by a parametrization, so it cannot be set; "
            "set the biases before you register it"
        )
    for weights in layer.each_weights():
        for gate, value in values.items():
            for bias, gates, new in (
                (weights.b_hh, anatomy.recurrent_gates, 0.0),
                (weights.b_ih, anatomy.input_gates, value),
            ):
                if bias is not None and gate in gates:
                    bias.unflatten(0, (len(gates), -1))[gates.index(gate)] = new
