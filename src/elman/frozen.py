"""A layer for serving: its weights stay in the form in which the kernels read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from elman import cpu
from elman.layers import Recurrent
from elman.layout import Call, Direction, Weights

if TYPE_CHECKING:
    from elman.cpu.layer.short_calls import Packed

_SHAPE = ("cell", "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
_SHAPE += ("proj_size", "merge", "learn_initial_state", "_widths", "_names")  # what a layer is, besides its weights


class Frozen(Recurrent):
    """A copy of a layer for inference on the CPU, with its weights as they were when it was made; see `freeze`."""

    _packed: list[Packed]

    def __init__(self, layer: Recurrent) -> None:
        nn.Module.__init__(self)  # no parameters: what moves, casts or loads them would not reach the panels
        self._of = f"{layer._get_name()}({layer.extra_repr()})"
        for name in _SHAPE:
            setattr(self, name, getattr(layer, name))
        self._runs = [
            tuple([Direction(Weights(*map(_as_it_is, layer.weights(n, d))), d) for d in layer._directions])
            for n in range(layer.num_layers)
        ]
        self._initial = tuple([state.detach().clone() for state in layer.initial_states()])
        self.eval()
        problem = cpu.ENGINE.unsupported(layer.call(0, next(layer.parameters()).detach(), ()))
        if problem:
            raise RuntimeError(f"{layer._get_name()} cannot be frozen for the engine 'cpu': {problem}")
        self._pack()

    def _pack(self) -> None:
        from elman.cpu.layer.short_calls import Packed

        weights = [[w for of, _ in directions for w in of if w is not None] for directions in self._runs]
        self._packed = [Packed(of_layer) for of_layer in weights]

    def initial_states(self) -> tuple[Tensor, ...]:
        """As they were when the layer was frozen."""
        return self._initial

    def weights(self, layer: int, reverse: bool = False) -> Weights:
        """As they were when the layer was frozen."""
        return self._runs[layer][reverse].weights

    def call(
        self,
        layer: int,
        x: Tensor,
        state: tuple[Tensor, ...],
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        afresh: tuple[Tensor, ...] = (),
    ) -> Call:
        """As the layer's, with the weights in panels. RuntimeError where a gradient would be recorded."""
        if torch.is_grad_enabled() and any(t.requires_grad for t in (x, *state)):
            raise RuntimeError(
                "a frozen layer gives no gradients, but its input or state requires one; call the layer itself"
            )
        return Call(self.cell, x, self._runs[layer], state, (), (), lengths, reset, afresh, None, self._packed[layer])

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_packed"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._pack()

    def extra_repr(self) -> str:
        return f"{self._of}, weights as they were when it was frozen"


def _as_it_is(weight: Tensor | None) -> Tensor | None:
    return None if weight is None else weight.detach().clone(memory_format=torch.contiguous_format)


def freeze(layer: Recurrent) -> Frozen:
    """A copy of a layer for serving on the CPU: inference as the layer does it, without bringing weights into panels.

    The copy holds the weights as they are now, beside panels made of them on the first call of every kind of
    length and batch; what happens to the layer afterwards does not reach it. It has no parameters: nothing
    moves, casts, saves or trains it, though it can be pickled. `forward` and `step` are the layer's.

    Results are the layer's; up to eight steps and rows together differ in the last bits, since the layer itself
    adds such short calls up in another order.

    RuntimeError where the engine `cpu` cannot run the layer, with the reason.
    """
    return Frozen(layer)
