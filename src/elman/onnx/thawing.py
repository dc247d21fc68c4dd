"""Frozen layers as ordinary ones again: a file has its own form of weights, and the proof needs them in float64."""

from __future__ import annotations

from torch import nn

from elman.frozen import Frozen
from elman.layout import initial_name, parameter_name
from elman.onnx.node import Reverse
from elman.recurrent import Recurrent


def thaw(module: nn.Module) -> nn.Module:
    """Replaces every frozen layer within a module by an ordinary one that computes the same. Returns the module."""
    known: dict[Frozen, Recurrent] = {}
    for path, child in list(module.named_modules(remove_duplicate=False)):
        if isinstance(child, Frozen):
            parent, _, name = path.rpartition(".")
            known[child] = known.get(child) or thawed(child)
            setattr(module.get_submodule(parent), name, known[child])
    return module


def thawed(frozen: Frozen) -> Recurrent:
    """Returns an ordinary layer, in evaluation mode, with the weights that a frozen one has."""
    runs = frozen._runs
    kind = Reverse if len(runs[0]) == 1 and runs[0][0].reverse else Recurrent
    parameters = {
        parameter_name(field, n, reverse): weight
        for n, directions in enumerate(runs)
        for weights, reverse in directions
        for field, weight in weights._asdict().items()
        if weight is not None
    }
    parameters |= {
        initial_name(state): value for state, value in zip(frozen.cell.states, frozen.initial_states(), strict=False)
    }
    layer = kind(
        frozen.cell,
        frozen.input_size,
        frozen.hidden_size,
        frozen.num_layers,
        frozen.bias,
        frozen.batch_first,
        frozen.dropout,
        frozen.bidirectional,
        frozen.proj_size,
        device="meta",  # on which nothing is drawn
        dtype=next(iter(parameters.values())).dtype,
        merge=frozen.merge,
        learn_initial_state=frozen.learn_initial_state,
    )
    layer.load_state_dict(parameters, assign=True)
    return layer.eval()
