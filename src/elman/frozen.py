"""A layer for serving that stores its weights in the layout that the kernels read."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from elman import cpu
from elman.layout import Call, Direction, Weights
from elman.recurrent import Recurrent, check_layer

if TYPE_CHECKING:
    from elman.cpu.layer.short_calls import Packed

# The attributes of a layer, without its weights.
_SHAPE = ("cell", "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
_SHAPE += ("proj_size", "merge", "learn_initial_state", "_widths", "_names")


class Frozen(Recurrent):
    """A copy of a layer for inference on the CPU, with the weights that the layer had when copied; see `freeze`."""

    _packed: list[Packed]

    def __init__(self, layer: Recurrent) -> None:
        nn.Module.__init__(self)  # no parameters: moving, casting or loading them would not change the panels
        self._of = f"{layer._get_name()}({layer.extra_repr()})"
        for name in _SHAPE:
            setattr(self, name, getattr(layer, name))
        self._runs = [
            tuple([Direction(Weights(*map(_as_it_is, layer.weights(n, d))), d) for d in layer._directions])
            for n in range(layer.num_layers)
        ]
        self._initial = tuple([state.detach().clone() for state in layer.initial_states()])
        self.eval()
        weight = next(layer.parameters(), torch.empty(0)).detach()  # a cell of streams alone has none
        problem = cpu.ENGINE.unsupported(layer.call(0, weight, ()))
        if weight.dtype not in cpu.DTYPES:
            problem = (
                f"its kernels read float32 and float64, and the weights are {weight.dtype}; convert them with .float()"
            )
        if problem:
            raise RuntimeError(f"{layer._get_name()} cannot be frozen for the engine 'cpu': {problem}")
        self._pack()

    def _pack(self) -> None:
        from elman.cpu.layer.short_calls import Packed

        weights = [[w for of, _ in directions for w in of if w is not None] for directions in self._runs]
        self._packed = [Packed(of_layer) for of_layer in weights]

    @property
    def _directions(self) -> tuple[bool, ...]:
        return tuple([back for _, back in self._runs[0]])

    def initial_states(self) -> tuple[Tensor, ...]:
        """The learned initial states as they were when the layer was frozen, or an empty tuple."""
        return self._initial

    def weights(self, layer: int, reverse: bool = False) -> Weights:
        """The weights of one layer in one direction, as they were when the layer was frozen."""
        return self._runs[layer][-1 if reverse else 0].weights  # a layer may have the reverse direction only

    def call(
        self,
        layer: int,
        x: Tensor,
        state: tuple[Tensor, ...],
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        afresh: tuple[Tensor, ...] = (),
        streams: tuple[Tensor, ...] = (),
    ) -> Call:
        """Returns the call that an engine receives for one layer: as `Recurrent.call`, with the weights in panels.

        Raises RuntimeError if a gradient would be recorded.
        """
        if torch.is_grad_enabled() and any(t.requires_grad for t in (x, *state, *streams)):
            raise RuntimeError(
                "a frozen layer gives no gradients, but its input, state or stream requires one; call the layer itself"
            )
        return Call(
            self.cell.kept, x, self._runs[layer], state, streams, (), lengths, reset, afresh, None, self._packed[layer]
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_packed"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._pack()

    def state_dict(self, *args: Any, **options: Any) -> Any:
        """An empty state, with a warning that says so."""
        warnings.warn(
            f"{self._of} is frozen and has no parameters, so its state_dict is empty; "
            "keep the layer that it was made from, and save that one's",
            stacklevel=2,
        )
        return super().state_dict(*args, **options)

    def extra_repr(self) -> str:
        return f"{self._of}, weights as they were when it was frozen"


def _as_it_is(weight: Tensor | None) -> Tensor | None:
    return None if weight is None else weight.detach().clone(memory_format=torch.contiguous_format)


def freeze(layer: Recurrent) -> Frozen:
    """Returns a copy of a layer for inference on the CPU that does not pack the weights into panels on every call.

    The copy has the current weights of the layer; later changes to the layer do not affect it. It packs the weights
    into panels on the first call for each kind of length and batch size, and keeps the panels. It has no parameters:
    `to`, `state_dict`, `load_state_dict` and optimizers do not affect its weights. It can be pickled. Call `forward`
    and `step` as on the layer.

    Results equal those of the layer bit for bit, unless T * B is at most 8. In such short calls the last bits may
    differ, because the layer itself sums in a different order.

    A frozen layer is returned unchanged. Raises RuntimeError, with the reason, if the engine `cpu` cannot run the
    layer, and TypeError if the argument is not an elman layer.
    """
    check_layer("freeze", layer)
    return layer if isinstance(layer, Frozen) else Frozen(layer)
