"""Layers and inputs to test with. Nothing is zero, constant or too small to leave the linear region."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import elman
from elman import Cell, Recurrent

# The public layer of every built-in cell; that of the projected LSTM is told its proj_size by `layer`.
LAYERS: dict[str, Callable[..., Recurrent]] = {
    "rnn": elman.RNN,
    "rnn_relu": partial(elman.RNN, nonlinearity="relu"),
    "lstm": elman.LSTM,
    "peephole_lstm": elman.PeepholeLSTM,
    "coupled_lstm": elman.CoupledLSTM,
    "coupled_peephole_lstm": elman.CoupledPeepholeLSTM,
    "gru": elman.GRU,
    "gru_before": partial(elman.GRU, reset_after=False),
    "projected_lstm": elman.LSTM,
}
CELLS = tuple(LAYERS)
DEPTHS = ((1, False), (1, True), (2, False), (2, True))  # layers, bidirectional
DEPTH_NAMES = ("1-uni", "1-bi", "2-uni", "2-bi")
# Every cell in the form that goes through all of the code, and in one of the others; each of these with three cells.
CELLS_AND_DEPTHS = {
    f"{name}-{DEPTH_NAMES[form]}": (name, *DEPTHS[form]) for k, name in enumerate(CELLS) for form in ((k + 1) % 3, 3)
}


def layer(
    name: str, input_size: int, hidden_size: int, *, seed: int = 0, dtype: torch.dtype = torch.float64, **options: Any
) -> Recurrent:
    """The public layer of a built-in cell, its parameters drawn from the seed."""
    if name == "projected_lstm":
        options.setdefault("proj_size", hidden_size - 1)
    return draw(LAYERS[name](input_size, hidden_size, dtype=dtype, **options), seed)


def recurrent(
    cell: Cell, input_size: int, hidden_size: int, *, seed: int = 0, dtype: torch.dtype = torch.float64, **options: Any
) -> Recurrent:
    """A layer of any cell, its parameters drawn from the seed."""
    if cell.projected:
        options.setdefault("proj_size", hidden_size - 1)
    return draw(Recurrent(cell, input_size, hidden_size, dtype=dtype, **options), seed)


def draw(of: Recurrent, seed: int) -> Recurrent:
    """Normal parameters, such that pre-activations have a standard deviation of 1 to 2; torch's default gives 0.3."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in of.named_parameters():
            matrix = name.startswith(("weight_ih", "weight_hh", "weight_hr"))
            p.normal_(0, p.shape[1] ** -0.5 if matrix else 0.7, generator=generator)
    return of


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def inputs(of: Recurrent, steps: int, batch: int, *, seed: int = 0) -> tuple[Tensor, tuple[Tensor, ...]]:
    """A time-major input and initial states, all standard normal, in the dtype of the layer."""
    dtype = next(of.parameters()).dtype
    rows = of.num_layers * of.num_directions
    x = normal(steps, batch, of.input_size, seed=1000 * seed + 1, dtype=dtype)
    widths = of.cell.widths(of.hidden_size, of.proj_size)
    states = tuple(normal(rows, batch, width, seed=1000 * seed + 2 + k, dtype=dtype) for k, width in enumerate(widths))
    return x, states


def hidden(states: tuple[Tensor, ...]) -> Any:
    """States in the form of `hx`."""
    return states[0] if len(states) == 1 else states


def as_tuple(h_n: Any) -> tuple[Tensor, ...]:
    return (h_n,) if isinstance(h_n, Tensor) else tuple(h_n)


def run(of: Any, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Output and final states in one tuple."""
    output, h_n = of(x, hidden(states))
    return (output, *as_tuple(h_n))


def weighted(results: tuple[Tensor, ...], seed: int = 7) -> Tensor:
    """A scalar whose gradient is a random cotangent on every one of the results."""
    total = torch.zeros((), dtype=results[0].dtype)
    for k, result in enumerate(results):
        total = total + (result * normal(*result.shape, seed=seed + k, dtype=result.dtype)).sum()
    return total


def gradients(of: Any, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Gradients of `weighted` of output and final states: input, initial states, parameters in their order."""
    leaves = [value.detach().clone().requires_grad_() for value in (x, *states)]
    results = run(of, leaves[0], tuple(leaves[1:]))
    return torch.autograd.grad(weighted(results), [*leaves, *of.parameters()])


def close(mine: Any, exact: Any) -> None:
    """Equal but for the order of summation in float64."""
    torch.testing.assert_close(mine, exact, rtol=1e-12, atol=1e-13)
