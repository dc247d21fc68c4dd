"""Which engine runs a layer, and what the layer costs: parameters, operations and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from elman import gpu, recurrence
from elman.cell import Cell
from elman.engines import Choice
from elman.layout import Call, Hidden
from elman.recurrent import Recurrent, check_layer


class Description(NamedTuple):
    """The result of `describe` for a layer. As a string, it is a few lines of text."""

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


class ModelDescription(NamedTuple):
    """The result of `describe` for a model. As a string, it has a section for each layer."""

    layers: dict[str, Description | None]  # by name in the model; None for a layer that the model did not call

    def __str__(self) -> str:
        return "\n\n".join(f"{name}: {each or 'was not called'}" for name, each in self.layers.items())


@overload
def describe(
    model: Recurrent,
    input: Tensor | PackedSequence,
    hx: Hidden | None = None,
    *,
    lengths: Tensor | Sequence[int] | None = None,
    reset: Tensor | None = None,
    streams: Mapping[str, Tensor] | None = None,
) -> Description: ...


@overload
def describe(model: nn.Module, *inputs: Any, **named: Any) -> ModelDescription: ...


def describe(model: nn.Module, *inputs: Any, **named: Any) -> Description | ModelDescription:
    """Returns which engine runs a layer on this input and why, and its parameters, operations and saved bytes.

    This runs the layer forward once. Shapes and errors are those of `layer.forward`. A model that contains elman
    layers is run forward once on its own inputs; then each layer is described on the arguments of its first call.
    Raises TypeError if the model is not an elman layer and contains none.
    """
    if isinstance(model, Recurrent):
        return _of_layer(model, *inputs, **named)
    modules = model.named_modules() if isinstance(model, nn.Module) else ()
    layers = {name: module for name, module in modules if isinstance(module, Recurrent)}
    if not layers:
        check_layer("describe", model)
    calls: dict[Recurrent, tuple[Any, Any]] = {}

    def note(layer: Any, inputs: Any, named: Any) -> None:
        calls.setdefault(layer, (inputs, named))

    hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in layers.values()]
    try:
        model(*inputs, **named)
    finally:
        for hook in hooks:
            hook.remove()
    found = {name: calls.get(layer) for name, layer in layers.items()}
    return ModelDescription({n: call and _of_layer(layers[n], *call[0], **call[1]) for n, call in found.items()})


def _of_layer(
    layer: Recurrent,
    input: Tensor | PackedSequence,
    hx: Hidden | None = None,
    *,
    lengths: Tensor | Sequence[int] | None = None,
    reset: Tensor | None = None,
    streams: Mapping[str, Tensor] | None = None,
) -> Description:
    values = input.data if isinstance(input, PackedSequence) else input
    choices = _Choices()
    own = {tensor.untyped_storage().data_ptr() for tensor in (values, *layer.parameters())}
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with recurrence.observe(choices), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output, h_n = layer(input, hx, lengths=lengths, reset=reset, streams=streams)
        del output, h_n
    # Steps of all sequences together: T * B, or the sum of the lengths.
    steps = values.numel() // values.shape[-1] if lengths is None else int(torch.as_tensor(lengths).sum())
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
