"""Cells from the literature that the library does not have: a few lines each, on the kernels, gradients checked."""

from __future__ import annotations

import pytest
import torch
from torch import relu, sigmoid, tanh

import elman
from cases import close, gradients, inputs, recurrent, run
from elman import Cell, State, cells


def minimal_gated_unit(x, R, s):
    """G.-B. Zhou et al., Minimal gated unit for recurrent neural networks (2016)."""
    f = sigmoid(x.f + R.f @ s.h)
    n = tanh(x.n + R.n @ (f * s.h))
    return State(h=(1 - f) * s.h + f * n)


def update_gate_rnn(x, R, s):
    """J. Collins, J. Sohl-Dickstein & D. Sussillo, Capacity and trainability in recurrent neural networks (2017)."""
    g = sigmoid(x.g + R.g @ s.h)
    n = tanh(x.n + R.n @ s.h)
    return State(h=g * s.h + (1 - g) * n)


def light_gru(x, R, s):
    """M. Ravanelli et al., Light gated recurrent units for speech recognition (2018), without batch normalisation."""
    z = sigmoid(x.z + R.z @ s.h)
    n = relu(x.n + R.n @ s.h)
    return State(h=z * s.h + (1 - z) * n)


CELLS = [
    Cell(minimal_gated_unit, gates=("f", "n")),
    Cell(update_gate_rnn, gates=("g", "n")),
    Cell(light_gru, gates=("z", "n")),
]
each = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)


@each
def test_runs_on_the_kernels(cell: Cell) -> None:
    of = recurrent(cell, 5, 19, num_layers=2, bidirectional=True)
    x, states = inputs(of, 6, 7)
    assert {choice.engine for choice in elman.describe(of, x).engines} == {"cpu"}
    mine = run(of, x, states), gradients(of, x, states)
    with elman.use_engine("reference"):
        exact = run(of, x, states), gradients(of, x, states)
    close(mine[0], exact[0])
    close(mine[1], exact[1])


@each
def test_gradients(cell: Cell) -> None:
    of = recurrent(cell, 3, 4)
    x, states = inputs(of, 3, 2)
    with elman.use_engine("cpu"):
        leaves = [value.requires_grad_() for value in (x, *states)]
        assert torch.autograd.gradcheck(lambda x, *states: run(of, x, states), leaves)


@pytest.mark.parametrize("cell", [cells.peephole_lstm, cells.gru, cells.gru_before], ids=lambda cell: cell.name)
def test_built_in_cells_too(cell: Cell) -> None:
    """The smallest case that meets every part of the kernels; the planted bugs are looked for here."""
    for batch, steps in ((7, 5), (1, 1)):
        check_equal(recurrent(cell, 5, 19, bidirectional=True), steps, batch)
    check_equal(recurrent(cell, 5, 16, bias=False), 4, 3)


def check_equal(of: elman.Recurrent, steps: int, batch: int) -> None:
    x, states = inputs(of, steps, batch)
    with elman.use_engine("cpu"):
        with torch.no_grad():
            inferred = run(of, x, states)
        mine = run(of, x, states), gradients(of, x, states)
    with elman.use_engine("reference"):
        exact = run(of, x, states), gradients(of, x, states)
    close(inferred, exact[0])
    close(mine[0], exact[0])
    close(mine[1], exact[1])
