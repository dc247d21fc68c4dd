"""Layers that run one step of any cell; the caller writes the loop over time. Constructor, shapes, names and errors are
the same as in torch.nn's RNNCell, LSTMCell and GRUCell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from elman import cells
from elman.cell import Cell
from elman.checks import check_dtype, check_size, check_streams, no_states, no_tensor
from elman.layout import Call, Direction, Hidden, Weights, field_name, parameter_shapes
from elman.names import register
from elman.recurrence import at_once, recur


class RecurrentCell(nn.Module):
    """One step of a recurrent network of any cell.

    cell: the equations (`elman.cells`, or your own `elman.Cell`).
    input_size I, hidden_size H: whole numbers of at least 1. bias: whether the layer has the biases b_ih and b_hh.
    proj_size: width of the projected states; 0 for a cell that projects none.

    The parameters are `weight_ih` (G*H, I), `weight_hh` (K*H, Y), `bias_ih` (G*H,), `bias_hh` (K*H,), as in torch.nn.
    A cell with vectors also has `weight_ch` (V, H); a cell that projects also has `weight_hr` (proj_size, H). G gates
    read the input, K gates read the state, V is the number of vectors, and Y is the width of the first state.

    For a sequence, use `elman.Recurrent`. It runs all steps in one call and is much faster.
    """

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        proj_size: int = 0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(cell, Cell):
            raise TypeError(f"cell should be an elman.Cell, got: {type(cell).__name__}")
        check_size("input_size", input_size)
        check_size("hidden_size", hidden_size)
        check_dtype(dtype)
        if bool(cell.projected) != (0 < proj_size < hidden_size):
            needs = f"needs a proj_size from 1 to {hidden_size - 1}" if cell.projected else "projects no state"
            raise ValueError(f"cell {cell.name!r} {needs}, got proj_size={proj_size}")
        register(cell)
        self.cell = cell
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        self.proj_size = proj_size
        shapes = parameter_shapes(cell, input_size, hidden_size, proj_size, bias)
        for field in Weights._fields:
            if field in shapes:
                weight = nn.Parameter(torch.empty(shapes[field], device=device, dtype=dtype))
                self.register_parameter(field_name(field), weight)
            elif field in ("b_ih", "b_hh"):
                self.register_parameter(field_name(field), None)
        self._fields = [field_name(field) if field in shapes else None for field in Weights._fields]
        self.reset_parameters()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        register(self.cell)  # as `Recurrent` does

    def reset_parameters(self) -> None:
        """Initialises every parameter again, uniformly on (-1/sqrt(H), 1/sqrt(H)), as torch.nn does."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, input: Tensor, hx: Hidden | None = None, *, streams: Mapping[str, Tensor] | None = None) -> Any:
        """Reads one step.

        input: (B, I), or (I,) unbatched.
        hx: the previous state, zero if left out: one tensor (B, width) for a cell with one state, otherwise a tuple of
            them in the order of `cell.states`; (width,) unbatched.
        streams: for a cell that has some, by name, each (B, H) or (B, 1); without B for unbatched input.

        Returns the state after the step in the form of hx. Raises ValueError or RuntimeError, as torch.nn does, if
        shapes do not fit. The message names both sizes.
        """
        if not isinstance(input, Tensor):
            raise no_tensor(self, input)
        name, states = self._get_name(), self.cell.states
        if input.dim() not in (1, 2):
            raise ValueError(f"{name}: Expected input to be 1D or 2D, got {input.dim()}D instead")
        if input.size(-1) != self.input_size:
            raise RuntimeError(
                f"{name}: input has inconsistent input_size: got {input.size(-1)} expected {self.input_size}; "
                f"input is {tuple(input.shape)}"
            )
        batched = input.dim() == 2
        x = input if batched else input.unsqueeze(0)
        widths = self.cell.widths(self.hidden_size, self.proj_size)
        if hx is None:
            state = tuple([x.new_zeros((1, x.size(0), width)) for width in widths])
        else:
            given = (hx,) if isinstance(hx, Tensor) else tuple(hx) if hasattr(hx, "__iter__") else ()
            if len(given) != len(states):
                raise no_states(self, hx, given)
            for k, (state, value, width) in enumerate(zip(states, given, widths, strict=True)):
                if not isinstance(value, Tensor):
                    raise no_states(self, hx, given)
                if value.dim() not in (1, 2):
                    which = "hidden" if len(states) == 1 else f"hx[{k}]"
                    raise ValueError(f"{name}: Expected {which} to be 1D or 2D, got {value.dim()}D instead")
                shape = (x.size(0), width) if batched else (width,)
                must = f"; the state {state} is {tuple(value.shape)} but must be {shape}"
                if value.size(-1) != width:
                    raise RuntimeError(
                        f"{name}: hidden{k} has inconsistent hidden_size: got {value.size(-1)}, expected {width}{must}"
                    )
                if value.dim() == 2 and batched and value.size(0) != x.size(0):
                    raise RuntimeError(
                        f"{name}: Input batch size {x.size(0)} doesn't match hidden{k} batch size {value.size(0)}{must}"
                    )
                if value.dim() != len(shape):
                    raise RuntimeError(
                        f"{name}: a {input.dim()}D input needs hidden{k} to be {input.dim()}D, got {value.dim()}D{must}"
                    )
            state = tuple([value.unsqueeze(0) if batched else value[None, None] for value in given])
        weights = Weights(*[None if field is None else getattr(self, field) for field in self._fields])
        given = check_streams(self, streams, input).values()
        own = tuple([u.unsqueeze(0) if batched else u[None, None] for u in given])  # each (1, B, H)
        call = Call(self.cell.kept, x, (Direction(weights, False),), state, own)
        _, finals = at_once(call) or recur(call._replace(x=x.unsqueeze(0)))
        after = tuple([final[0] if batched else final[0, 0] for final in finals])
        return after[0] if len(states) == 1 else after

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        if not self.bias:
            parts.append(f"bias={self.bias}")
        if self.proj_size:
            parts.append(f"proj_size={self.proj_size}")
        if type(self) is RecurrentCell:
            parts.insert(0, self.cell.name)
        return ", ".join(parts)


class RNNCell(RecurrentCell):
    """One step of the Elman network: h' = f(W x + b_ih + R h + b_hh), f is tanh or ReLU. See `elman.cells.rnn`.

    Replaces torch.nn.RNNCell. Shapes and errors: `RecurrentCell`. Source: Elman (1990).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity {nonlinearity!r}. Select from 'tanh' or 'relu'.")
        cell = cells.rnn if nonlinearity == "tanh" else cells.rnn_relu
        super().__init__(cell, input_size, hidden_size, bias, 0, device, dtype)
        self.nonlinearity = nonlinearity

    def extra_repr(self) -> str:
        more = "" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity}"
        return super().extra_repr() + more


class _OfOneCell(RecurrentCell):
    """A layer of one step whose class fixes its cell. The constructor takes torch.nn's arguments, and no cell."""

    equations: Cell

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(self.equations, input_size, hidden_size, bias, 0, device, dtype)


class LSTMCell(_OfOneCell):
    """One step of the LSTM: (h, c) -> (h', c'). Replaces torch.nn.LSTMCell. See `elman.cells.lstm`."""

    equations = cells.lstm


class GRUCell(RecurrentCell):
    """One step of the GRU. Replaces torch.nn.GRUCell. See `elman.cells.gru`, and `gru_before` for reset_after=False."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        reset_after: bool = True,
    ) -> None:
        cell = cells.gru if reset_after else cells.gru_before
        super().__init__(cell, input_size, hidden_size, bias, 0, device, dtype)

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.cell is cells.gru else ", reset_after=False")


class PeepholeLSTMCell(_OfOneCell):
    """One step of the LSTM with peepholes; `weight_ch` is (3, H): rows i, f, o. See `elman.cells.peephole_lstm`."""

    equations = cells.peephole_lstm


class CoupledLSTMCell(_OfOneCell):
    """One step of the LSTM with i = 1 - f. See `elman.cells.coupled_lstm`."""

    equations = cells.coupled_lstm


class CoupledPeepholeLSTMCell(_OfOneCell):
    """One step of the LSTM with i = 1 - f and peepholes. See `elman.cells.coupled_peephole_lstm`."""

    equations = cells.coupled_peephole_lstm
