"""The layers of the built-in cells: `elman.recurrent` with a fixed cell and the arguments of torch.nn's layers."""

from __future__ import annotations

from typing import Any

import torch

from elman import cells
from elman.cell import Cell
from elman.recurrent import Recurrent


def _no_projection(proj_size: int | None) -> None:
    if proj_size is not None:
        raise ValueError(
            f"proj_size argument is only supported for LSTM, not RNN or GRU: got {proj_size}; leave it out"
        )


class RNN(Recurrent):
    """The Elman network: h_t = f(W x_t + b_ih + R h_{t-1} + b_hh), f is tanh or ReLU. See `elman.cells.rnn`.

    Replaces torch.nn.RNN: same arguments in the same order, same parameters, same results.
    Shapes and errors: `Recurrent`. Source: Elman (1990).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        merge: str = "concat",
        learn_initial_state: bool = False,
        recurrent_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        proj_size: int | None = None,
    ) -> None:
        _no_projection(proj_size)
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity {nonlinearity!r}. Select from 'tanh' or 'relu'.")
        cell = cells.rnn if nonlinearity == "tanh" else cells.rnn_relu
        super().__init__(
            cell,
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            0,
            device,
            dtype,
            merge=merge,
            learn_initial_state=learn_initial_state,
            recurrent_dropout=recurrent_dropout,
            weight_dropout=weight_dropout,
        )
        self.nonlinearity = nonlinearity
        self.mode = f"RNN_{nonlinearity.upper()}"  # as torch.nn calls it


class _OfOneCell(Recurrent):
    """A layer whose class fixes its cell. The constructor takes torch.nn's arguments, and no cell."""

    equations: Cell

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        merge: str = "concat",
        learn_initial_state: bool = False,
        recurrent_dropout: float = 0.0,
        weight_dropout: float = 0.0,
    ) -> None:
        super().__init__(
            self.equations,
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            0,
            device,
            dtype,
            merge=merge,
            learn_initial_state=learn_initial_state,
            recurrent_dropout=recurrent_dropout,
            weight_dropout=weight_dropout,
        )


class LSTM(Recurrent):
    """Long short-term memory: c_t = f c_{t-1} + i g, h_t = o tanh(c_t). See `elman.cells.lstm`.

    Replaces torch.nn.LSTM: same arguments in the same order, same parameters, same results. With
    proj_size > 0 the output is projected before it is fed back (`elman.cells.projected_lstm`).
    Shapes and errors: `Recurrent`. Source: Hochreiter & Schmidhuber (1997), Gers et al. (2000).
    """

    mode = "LSTM"  # as torch.nn calls it

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        merge: str = "concat",
        learn_initial_state: bool = False,
        recurrent_dropout: float = 0.0,
        weight_dropout: float = 0.0,
    ) -> None:
        cell = cells.projected_lstm if proj_size else cells.lstm
        super().__init__(
            cell,
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            device,
            dtype,
            merge=merge,
            learn_initial_state=learn_initial_state,
            recurrent_dropout=recurrent_dropout,
            weight_dropout=weight_dropout,
        )


class GRU(Recurrent):
    """Gated recurrent unit: h_t = (1 - z) n + z h_{t-1}. See `elman.cells.gru` and `gru_before`.

    Replaces torch.nn.GRU: same arguments in the same order, same parameters, same results.
    `reset_after=False` applies the reset gate before the recurrent product, as first published.
    Shapes and errors: `Recurrent`. Source: Cho et al. (2014), Chung et al. (2014).
    """

    mode = "GRU"  # as torch.nn calls it

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        reset_after: bool = True,
        merge: str = "concat",
        learn_initial_state: bool = False,
        recurrent_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        proj_size: int | None = None,
    ) -> None:
        _no_projection(proj_size)
        cell = cells.gru if reset_after else cells.gru_before
        super().__init__(
            cell,
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            0,
            device,
            dtype,
            merge=merge,
            learn_initial_state=learn_initial_state,
            recurrent_dropout=recurrent_dropout,
            weight_dropout=weight_dropout,
        )

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.cell is cells.gru else ", reset_after=False")


class PeepholeLSTM(_OfOneCell):
    """LSTM whose gates see the cell state through one weight per unit. See `elman.cells.peephole_lstm`.

    `weight_ch_l0` is (3, H): rows i, f, o. Shapes and errors: `Recurrent`. Source: Gers et al. (2002).
    """

    equations = cells.peephole_lstm


class CoupledLSTM(_OfOneCell):
    """LSTM with i = 1 - f. See `elman.cells.coupled_lstm`.

    Gates f, g, o. Shapes and errors: `Recurrent`. Source: Greff et al. (2017).
    """

    equations = cells.coupled_lstm


class CoupledPeepholeLSTM(_OfOneCell):
    """LSTM with i = 1 - f and peepholes. See `elman.cells.coupled_peephole_lstm`.

    Gates f, g, o; `weight_ch_l0` is (2, H): rows f, o. Shapes and errors: `Recurrent`.
    Source: Gers et al. (2002), Greff et al. (2017).
    """

    equations = cells.coupled_peephole_lstm
