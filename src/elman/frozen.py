"""A layer for serving: its weights stay in the form in which the kernels read them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from elman import cpu
from elman.cell import Cell
from elman.layers import Hidden, Recurrent
from elman.layout import Direction, Weights
from elman.recurrence import States, may_be_quick, recur

if TYPE_CHECKING:
    from elman.cpu.quick import Packed


class Frozen(nn.Module):
    """A copy of a layer for inference on the CPU, with its weights as they were when it was made; see `freeze`."""

    _layer: Recurrent
    _packed: list[Packed]

    def __init__(self, layer: Recurrent) -> None:
        super().__init__()
        weight = next(layer.parameters())
        problem = cpu.unsupported(layer.cell, weight.detach(), ())
        if problem:
            raise RuntimeError(f"{type(layer).__name__} cannot be frozen for the engine 'cpu': {problem}")
        # Not a submodule: what moves, casts or loads parameters would not reach the panels.
        self.__dict__["_layer"] = copy.deepcopy(layer).eval().requires_grad_(False)
        self._layers = [
            [Direction(Weights(*map(_as_it_is, weights)), reverse) for weights, reverse in layer.directions(number)]
            for number in range(layer.num_layers)
        ]
        self._pack()

    def _pack(self) -> None:
        from elman.cpu.quick import Packed

        self._packed = [Packed(self._layer.cell, directions) for directions in self._layers]

    def forward(self, input: Tensor, hx: Hidden | None = None) -> tuple[Tensor, Any]:
        """As the layer's. RuntimeError where a gradient would be recorded."""
        if torch.is_grad_enabled():
            given = (input, *((hx,) if isinstance(hx, Tensor) else hx or ()))
            if any(tensor.requires_grad for tensor in given):
                raise RuntimeError(
                    "a frozen layer gives no gradients, but its input or state requires one; call the layer itself"
                )
            with torch.no_grad():
                return self.forward(input, hx)
        return self._layer._read(input, hx, self._layers, self._recur)

    def step(self, input: Tensor, state: Hidden | None = None) -> tuple[Tensor, Any]:
        """As the layer's: one step (B, I) or (I,), and the state to give to the next one."""
        return self._layer._step(input, state, self._quickly, self.forward)

    def _quickly(self, x: Tensor, state: States) -> tuple[Tensor, States] | None:
        return self._packed[0].infer(x, state) if may_be_quick(x) else None

    def _recur(
        self, layer: int, cell: Cell, x: Tensor, directions: Sequence[Direction], state: States
    ) -> tuple[Tensor, States]:
        done = self._packed[layer].infer(x, state) if may_be_quick(x) else None
        return recur(cell, x, directions, state) if done is None else done

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_packed"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._pack()

    def extra_repr(self) -> str:
        return f"{self._layer}, weights as they were when it was frozen"


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
