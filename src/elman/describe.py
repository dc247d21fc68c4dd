"""Which engine runs a layer, and what the layer costs: parameters, operations and memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from elman import gpu, recurrence
from elman.cell import Cell
from elman.engines import Choice
from elman.layout import Call, Hidden
from elman.recurrent import Recurrent


class Description(NamedTuple):
    """What `describe` found out. As a string it is a few lines of text."""

    layer: str
    engines: tuple[Choice, ...]  # that of layer l, direction d is at l * num_directions + d
    parameters: int
    flops: int  # multiplications and additions of all matrix products of one forward pass
    saved_bytes: int  # kept for backward, without input and parameters; 0 where autograd is off

    def __str__(self) -> str:
        lines = [self.layer]
        lines += [f"  engine      {choice.engine}: {choice.why}" for choice in dict.fromkeys(self.engines)]
        lines.append(f"  parameters  {self.parameters:,}")
        lines.append(f"  forward     {self.flops:,} floating-point operations in matrix products")
        lines.append(f"  saved       {self.saved_bytes:,} bytes for backward, beyond input and parameters")
        return "\n".join(lines)


class _Choices:
    def __init__(self) -> None:
        self.made: list[Choice] = []

    def steps_of(self, cell: Cell) -> None:
        return None

    def will_run(self, call: Call, choice: Choice) -> None:
        if choice.engine == "gpu":
            choice = choice._replace(why=f"{choice.why}; {gpu.ENGINE.form(call)}")
        self.made.append(choice)


def describe(
    layer: Recurrent,
    input: Tensor,
    hx: Hidden | None = None,
    *,
    lengths: Tensor | Sequence[int] | None = None,
    reset: Tensor | None = None,
) -> Description:
    """Returns which engine runs this layer on this input and why, its parameters, operations and saved bytes.

    To find out, the layer is run forward once. Shapes and errors are those of `layer.forward`.
    """
    choices = _Choices()
    own = {tensor.untyped_storage().data_ptr() for tensor in (input, *layer.parameters())}
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with recurrence.observe(choices), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output, h_n = layer(input, hx, lengths=lengths, reset=reset)
        del output, h_n
    # Steps of all sequences together: T * B, or the sum of the lengths.
    steps = input.numel() // input.shape[-1] if lengths is None else int(torch.as_tensor(lengths).sum())
    all_weights = layer.each_weights()
    per_step = sum(w.numel() for weights in all_weights for w in (weights.ih, weights.hr) if w is not None)
    # The rows of a gate count once for each operand that the gate multiplies.
    rows = sum(map(len, layer.cell.anatomy.groups)) * layer.hidden_size
    per_step += sum(rows * weights.hh.shape[1] for weights in all_weights if weights.hh is not None)
    return Description(
        f"{type(layer).__name__}({layer.extra_repr()})",
        tuple(choices.made),
        sum(p.numel() for p in layer.parameters()),
        2 * steps * per_step,
        sum(saved.values()) if torch.is_grad_enabled() else 0,
    )
