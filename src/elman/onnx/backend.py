"""A backend of ONNX for models of one recurrent node, so that ONNX's own tests can judge the layers that `load` makes.

Weights may be inputs of the model here, which they are in those tests. Constants are computed as in `load`; any other
node is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, helper
from onnx.backend import base
from torch import Tensor

from elman.convert import as_tensor
from elman.errors import InputError
from elman.onnx.activations import Problem
from elman.onnx.constants import Array, Constants
from elman.onnx.external import External
from elman.onnx.loading import recurrent_nodes
from elman.onnx.node import layers_of

_STATES = {"RNN": (5,), "GRU": (5,), "LSTM": (5, 6)}  # the places of the initial states among a node's inputs


class Prepared(base.BackendRep):
    """A model of one recurrent node, ready to run."""

    def __init__(self, model: ModelProto) -> None:
        nodes = list(recurrent_nodes(model))
        if len(nodes) != 1:
            raise InputError(f"the backend runs models of one recurrent node, and this has {len(nodes)}; give one")
        self.node, self.scope = nodes[0]
        self.model = model
        inside = {tensor.name for tensor in model.graph.initializer}
        self.inputs = [value.name for value in model.graph.input if value.name not in inside]
        self.outputs = [value.name for value in model.graph.output]
        if missing := [name for name in self.outputs if name not in self.node.output]:
            raise InputError(f"the backend gives what the recurrent node makes, and not {missing}; take it out")

    def run(self, inputs: Sequence[Any] | Mapping[str, Any], **options: Any) -> tuple[Array, ...]:
        """The outputs of the model. inputs: a value for each of its inputs, in their order or by name."""
        given = dict(inputs) if isinstance(inputs, Mapping) else dict(zip(self.inputs, inputs, strict=False))
        constants = Constants(External(None))
        self.scope.makers |= {name: np.asarray(value) for name, value in given.items()}
        try:
            made = run(self.node, lambda name: as_tensor(constants.value(name, self.scope)))
        except Problem as problem:
            raise InputError(f"the node {self.node.name!r} ({self.node.op_type}) cannot be run: {problem}") from problem
        results = dict(zip(self.node.output, made, strict=False))
        named: Any = base.namedtupledict("Outputs", self.outputs)
        return named(*[results[name] for name in self.outputs])


def run(node: NodeProto, value: Any) -> tuple[Array, ...]:
    """Computes Y, Y_h and, for an LSTM, Y_c of a recurrent node; value(name) gives its inputs as tensors."""
    layers = list(layers_of(node, value).values())
    batch_first, inputs = layers[0].batch_first, [*node.input, *[""] * 8]
    x, lengths = value(inputs[0]), value(inputs[4]).long() if inputs[4] else None
    batch = x.shape[0 if batch_first else 1]
    directions = sum(layer.num_directions for layer in layers)
    states = []
    for k in _STATES[node.op_type]:
        if inputs[k]:
            state = value(inputs[k])
            states.append(state.transpose(0, 1) if batch_first else state)
        else:
            states.append(x.new_zeros((directions, batch, layers[0].hidden_size)))
    outputs: list[Tensor] = []
    finals: list[list[Tensor]] = [[] for _ in states]
    first = 0
    for layer in layers:
        rows = slice(first, first + layer.num_directions)
        own = tuple([state[rows].contiguous() for state in states])
        with torch.no_grad():
            output, final = layer(x, own if len(states) > 1 else own[0], lengths=lengths)
        outputs.append(output)
        ends = (final,) if isinstance(final, Tensor) else final
        for of, state in zip(finals, ends, strict=True):
            of.append(state)
        first += layer.num_directions
    y = torch.cat(outputs, -1).unflatten(-1, (directions, -1))  # (T, B, D, H)
    ends = [torch.cat(of) for of in finals]  # each (D, B, H)
    results = [y, *[end.transpose(0, 1) for end in ends]] if batch_first else [y.transpose(1, 2), *ends]
    return tuple([result.contiguous().numpy() for result in results])


class Backend(base.Backend):
    """Runs models of one RNN, LSTM or GRU node on the CPU."""

    @classmethod
    def is_compatible(cls, model: ModelProto, device: str = "CPU", **options: Any) -> bool:
        try:
            Prepared(model)
        except InputError:
            return False
        return cls.supports_device(device)

    @classmethod
    def prepare(cls, model: ModelProto, device: str = "CPU", **options: Any) -> Prepared:
        super().prepare(model, device, **options)  # checks the model
        return Prepared(model)

    @classmethod
    def run_node(
        cls, node: NodeProto, inputs: Any, device: str = "CPU", outputs_info: Any = None, **options: Any
    ) -> tuple[Array, ...]:
        super().run_node(node, inputs, device, outputs_info, **options)  # checks the node
        given = [np.asarray(value) for value in inputs]
        names = [name for name in node.input if name]
        infos = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in zip(names, given, strict=True)
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        return Prepared(helper.make_model(helper.make_graph([node], "node", infos, outputs))).run(given)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return base.Device(device).type == base.DeviceType.CPU


is_compatible = Backend.is_compatible
prepare = Backend.prepare
run_model = Backend.run_model
run_node = Backend.run_node
supports_device = Backend.supports_device
