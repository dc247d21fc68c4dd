"""Tracing a layer: every gate and state over time, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from elman import graph, recurrence
from elman.cell import Cell, State
from elman.engines import Choice
from elman.layout import Call, Hidden
from elman.recurrent import Recurrent, check_layer


class Recurrence(NamedTuple):
    """The gates and states of one direction of one layer, in the order of the input's steps."""

    gates: dict[str, Tensor]  # each (T, B, H): the gate's activations
    states: dict[str, Tensor]  # each (T, B, width): the state after every step
    steps: list[dict[str, Tensor]]  # for each step its states, each (B, width), as nodes of the output's autograd graph


class Trace(NamedTuple):
    """The output and final state of `layer`, and the gates and states of every direction of its layers."""

    output: Any
    h_n: Any
    recurrences: list[Recurrence]  # direction d of layer l is number l * num_directions + d


def _packed_as(like: PackedSequence, padded: Tensor, lengths: Tensor, batch_first: bool) -> PackedSequence:
    """Packs sequences in the order of another PackedSequence."""
    if like.sorted_indices is not None:
        padded = padded.index_select(0 if batch_first else 1, like.sorted_indices)
        lengths = lengths[like.sorted_indices.cpu()]
    packed = pack_padded_sequence(padded, lengths, batch_first)
    return PackedSequence(packed.data, packed.batch_sizes, like.sorted_indices, like.unsorted_indices)


class _Recorder:
    """An observer that runs every step through the cell's graph and keeps the step's gates and states."""

    def __init__(self) -> None:
        self.gates: list[list[dict[str, Tensor]]] = []
        self.states: list[list[dict[str, Tensor]]] = []

    def will_run(self, call: Call, choice: Choice) -> None:
        """Does nothing: all that is recorded comes from the steps."""

    def steps_of(self, cell: Cell) -> Any:
        traced = graph.trace(cell)
        watched = {name: traced.gate(name).index for name in cell.gates}
        gates: list[dict[str, Tensor]] = []
        states: list[dict[str, Tensor]] = []
        self.gates.append(gates)
        self.states.append(states)

        def step(**given: Any) -> State:
            values = traced.evaluate(**given)
            gates.append({name: values[index] for name, index in watched.items()})
            states.append({name: values[node.index] for name, node in traced.outputs.items()})
            return State(**states[-1])

        return step


def trace(
    layer: Recurrent,
    input: Tensor | PackedSequence,
    hx: Hidden | None = None,
    *,
    lengths: Tensor | Sequence[int] | None = None,
    reset: Tensor | None = None,
    streams: Mapping[str, Tensor] | None = None,
) -> Trace:
    """Runs a layer and records every gate and state: `trace(lstm, x).recurrences[0].gates["f"]` is (T, B, H).

    The value of a gate is its activation: the result of the first function applied to the sum with the gate's input share.
    The input is that of `layer.forward`; sequences of a `PackedSequence` come in the caller's order. Gates and states are always time first, (T, B, ...). The cell's
    equations run step by step, whichever engine would run the layer, and gradients flow as usual. Past the end of a
    sequence, gates and states are zero; the values of `steps` have no meaning there.
    Raises `elman.graph.NotTraceable` if the cell's step cannot be traced, and TypeError if `layer` is not an elman layer.
    """
    check_layer("trace", layer)
    if isinstance(input, PackedSequence):
        if lengths is not None or reset is not None or streams is not None:
            layer(input, hx, lengths=lengths, reset=reset, streams=streams)  # raises
        x, lengths = pad_packed_sequence(input, layer.batch_first)
        found = trace(layer, x, hx, lengths=lengths)
        return found._replace(output=_packed_as(input, found.output, lengths, layer.batch_first))
    recorder = _Recorder()
    with recurrence.observe(recorder):
        output, h_n = layer(input, hx, lengths=lengths, reset=reset, streams=streams)
    inside: Any = None  # (T, B, 1): whether a step is inside the sequence
    if lengths is not None:
        count = len(recorder.gates[0])
        inside = (torch.arange(count)[:, None] < torch.as_tensor(lengths).cpu().reshape(1, -1))[..., None].to(
            input.device
        )

    def stacked(values: list[Tensor]) -> Tensor:
        stack = torch.stack(values)
        return stack if inside is None else torch.where(inside, stack, 0)

    recurrences = []
    for number, (gates, states) in enumerate(zip(recorder.gates, recorder.states, strict=True)):
        if layer._directions[number % layer.num_directions]:  # it ran from the last step to the first
            gates.reverse()
            states.reverse()
        recurrences.append(
            Recurrence(
                {name: stacked([g[name] for g in gates]) for name in gates[0]},
                {name: stacked([s[name] for s in states]) for name in states[0]},
                states,
            )
        )
    return Trace(output, h_n, recurrences)
