"""A model that writes texts as one ONNX graph: what reads a sequence, and a Loop around the step that writes a symbol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from elman.onnx.ports import Port
from elman.onnx.proof import flat
from elman.onnx.scan import Nodes
from elman.tasks.translation import END, OPEN, Memory, TranslationModel

Trace = Callable[..., ir.Model]  # `elman.onnx.exporting.traced`


class _Encoder(nn.Module):
    def __init__(self, model: TranslationModel):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        memory = self.model.encode(x, lengths)
        return (*memory[:-1], *memory.state)


class _Step(nn.Module):
    """Takes how many outputs there are, the last ones (B,), the memory, and all states; returns logits (B, outputs) and all states."""

    def __init__(self, model: TranslationModel):
        super().__init__()
        self.model, self.states = model, len(model.first.cell.states)

    def forward(
        self, done: Tensor, before: Tensor, keys: Tensor, values: Tensor, past: Tensor, *states: Tensor
    ) -> tuple[Tensor, ...]:
        first, second = states[: self.states], states[self.states :]
        as_state = (first[0], second[0]) if self.states == 1 else (first, second)
        memory = Memory(keys, values, past, torch.empty(0), ())
        logits, after, _ = self.model.decode(before[None], memory, as_state, done)
        return logits[0], *flat(after)


def whole(port: Port, trace: Trace, int8: bool) -> ir.Model:
    """Returns the graph of a `TranslationModel`, whose inputs and outputs are those of its port.

    trace: writes a module as a graph, as `elman.onnx.exporting.traced` does.
    """
    model: Any = port.model
    x, lengths, given = next(iter(port.cases([3], [2]))).arguments
    free = torch.export.Dim.DYNAMIC
    read = trace(_Encoder(model), (x, lengths), [*port.inputs][:2], None, ({0: free, 1: free}, {0: free}), int8)
    memory = model.encode(x, lengths)
    later = [torch.zeros(model.second.num_layers, *state.shape[1:]) for state in memory.state]
    states = [*memory.state, *later]
    rows = {0: free}
    shapes = {}, rows, rows | {1: free}, rows | {1: free}, rows | {2: free}, tuple({1: free} for _ in states)
    args = (torch.tensor(1), given[0].clamp(min=END), *memory[:3], *states)
    step = trace(_Step(model), args, None, None, shapes, int8)
    read.opset_imports.update(step.opset_imports)
    _join(read.graph, step.graph, [*port.inputs][2], [*port.outputs], model.most, later)
    return read


def _join(
    graph: ir.Graph, body: ir.Graph, given: str, outputs: Sequence[str], most: int, later: Sequence[Tensor]
) -> None:
    """Puts a Loop around the graph of a step behind the graph that reads a sequence.

    given: what the input is called that says what is written; by default `most` outputs, each the likeliest one. later: the
    states of the layers after the first one, with which these begin, each (L, B, H).
    """
    # What the step needs of the graph around it.
    keys, values, past, limit, *begin = graph.outputs
    for node in body.all_nodes():
        for value in node.outputs:
            value.name = f"step_{value.name}"
    for name, value in list(body.initializers.items()):
        del body.initializers[name]
        value.name = f"step_{name}"
        graph.register_initializer(value)
    number, before, *memory = list(body.inputs)[:5]
    for inner, outer in zip(memory, (keys, values, past), strict=True):
        for user, place in list(inner.uses()):
            user.replace_input_with(place, outer)
    states, (logits, *after) = list(body.inputs)[5:], list(body.outputs)

    outside, inside = Nodes(graph, "loop"), Nodes(body, "step_end")
    chosen = ir.Value(name=given, shape=ir.Shape(["N", "given"]), type=ir.TensorType(ir.DataType.INT64))
    chosen.const_value = ir.tensor(np.full((most, 1), OPEN, np.int64), name=given)
    graph.inputs.append(chosen)
    graph.register_initializer(chosen)
    batch = outside("Shape", keys, start=0, end=1)
    every = outside("Expand", chosen, outside("Concat", outside("Shape", chosen, start=0, end=1), batch, axis=0))

    # A step: what is given, or else the likeliest output, and END after the end.
    goes_on, ended = (
        ir.Value(name=f"step_{name}", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.BOOL))
        for name, shape in (("goes_on", []), ("ended", ["B"]))
    )
    own = inside("Gather", every, number, axis=0)
    likeliest = inside("ArgMax", logits, axis=-1, keepdims=0)
    end = inside.constant(END)
    free = inside("Less", own, inside.constant(0))
    said = inside("Where", ended, end, inside("Where", free, likeliest, own))
    long = inside("GreaterOrEqual", inside("Add", number, inside.constant(1)), limit)
    over = inside("Or", inside("Or", ended, inside("Equal", said, end)), inside("And", free, long))
    going = inside("Cast", inside("Not", over), to=ir.DataType.INT64.value)
    more = inside("Cast", inside("ReduceMax", going, keepdims=0), to=ir.DataType.BOOL.value)
    body.inputs[:] = [number, goes_on, before, ended, *states]
    body.outputs[:] = [more, said, over, *after, inside("Identity", logits), inside("Identity", said)]

    none = outside("Expand", outside.constant(END), batch)
    first = [*begin]
    for state in later:
        count, _, width = state.shape
        size = outside("Concat", outside.constant([count]), batch, outside.constant([width]), axis=0)
        first.append(outside("Expand", outside.constant(np.float32(0)), size))
    steps = outside("Squeeze", outside("Shape", chosen, start=0, end=1))
    begun = outside("Cast", none, to=ir.DataType.BOOL.value)
    carried = [none, begun, *first]
    loop = ir.node(
        "Loop", [steps, outside.constant(np.True_), *carried], attributes={"body": body}, num_outputs=len(carried) + 2
    )
    graph.append(loop)
    for k, value in enumerate(loop.outputs):
        value.name = f"loop_result_{k}"
    found = list(loop.outputs)[-2:]
    for name, value, like in zip(outputs, found, (logits, said), strict=True):
        value.name, value.type = name, ir.TensorType(ir.DataType.INT64 if like is said else ir.DataType.FLOAT)
        value.shape = ir.Shape(["N", "B", *(like.shape or ())[1:]] if like is logits else ["N", "B"])
    graph.outputs[:] = found
