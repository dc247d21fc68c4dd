"""Functions that a step may call, each in a cell of its own: against torch, on every engine that makes kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.autograd import gradgradcheck
from torch.nn import functional

import elman
from accuracy import Sizes, check, measure
from cases import gradients, hidden, inputs, recurrent, run
from elman import Cell, State
from elman.mathematics import equations
from test_cpu_cells import agree

FUNCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "where": lambda v, h: torch.where(v > h, v, 0.3 * h) + torch.where(v <= 0.2, 1.0, 0.5) * v,
    "conditions": lambda v, h: torch.where((v > 0.2) & (h < 0.5) | ~(v != h), v, h) + v * (h >= 0.1),
    "clamp": lambda v, h: v.clamp(-0.3, 0.9) + torch.clamp(v, min=0.1) * h.clamp(max=0.2),
    "powers": lambda v, h: (0.3 * v) ** 2 + (0.1 * v) ** 4 + torch.sigmoid(h) ** 5 + (1 + h.square()) ** 0.5,
    "softplus": lambda v, h: functional.softplus(v) + functional.softplus(9 * h, beta=2, threshold=3),
    "log1p": lambda v, h: torch.log1p(abs(v)),
    "erf": lambda v, h: torch.erf(v),
    "silu": lambda v, h: functional.silu(v),
    "gelu": lambda v, h: functional.gelu(v),
    "gelu tanh": lambda v, h: functional.gelu(v, approximate="tanh"),
    "hardsigmoid": lambda v, h: functional.hardsigmoid(2 * v),
    "hardtanh": lambda v, h: functional.hardtanh(v) + functional.hardtanh(h, -0.2, 0.4),
}


def cell_of(name: str) -> Cell:
    def step(x, R, s):
        return State(h=FUNCTIONS[name](x.g + R.g @ s.h, s.h))

    return Cell(step, gates=("g",), name=name.replace(" ", "_"))


def all_of_them(x, R, s):
    v, h = x.g + R.g @ s.h, s.h
    for name, function in FUNCTIONS.items():
        if name != "hardsigmoid":  # its derivative in torch has a 1/6 of float32
            h = torch.tanh(function(v, h))
    return State(h=h)


@pytest.mark.parametrize("engine", ["cpu", "gpu"])
def test_all_in_float64(engine: str) -> None:
    agree(Cell(all_of_them, gates=("g",)), engine=engine, hidden_size=7)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_as_accurate_as_torch(name: str) -> None:
    check(measure(cell_of(name), "cpu", sizes=Sizes(3, 8, 5, 35), least=500))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_not_finite(name: str) -> None:
    """NaN, infinities and numbers that overflow go where they go in torch, forward and backward."""
    of = recurrent(cell_of(name), 1, 1, dtype=torch.float32, bias=False)
    with torch.no_grad():
        for parameter, value in zip(of.parameters(), (1.0, 0.0), strict=True):
            parameter.fill_(value)
    x = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e30, -1e30, 100.0, -100.0, 0.0, 0.2]).reshape(1, -1, 1)
    states = (torch.zeros(1, x.shape[1], 1),)
    found = {}
    for engine in ("cpu", "reference"):
        with elman.use_engine(engine):
            leaf = x.clone().requires_grad_()
            output = of(leaf, hidden(states))[0]
            found[engine] = output.detach(), torch.autograd.grad(output.sum(), leaf)[0][:, 3:]
    torch.testing.assert_close(found["cpu"], found["reference"], equal_nan=True)


def test_second_derivatives() -> None:
    of = recurrent(Cell(all_of_them, gates=("g",)), 2, 2)
    x, states = inputs(of, 2, 2)
    assert gradgradcheck(lambda x: run(of, x, states), x.requires_grad_())


def test_a_gate_that_only_decides() -> None:
    """Its weights have the gradient zero, as in torch, whatever they multiply."""

    def step(x, R, s, p):
        chosen = torch.where((x.a + R.a @ s.h > 0) & (s.h < p.v), x.b, R.b @ (0.3 * s.h))
        return State(h=chosen, c=torch.where(R.a @ x.b <= s.c, s.h, 0.1))

    cell = Cell(step, gates=("a", "b"), states=("h", "c"), vectors=("v",))
    for engine in ("cpu", "gpu"):
        agree(cell, engine=engine, hidden_size=5, bidirectional=True)
    of = recurrent(cell, 3, 5)
    d = dict(zip(dict(of.named_parameters()), gradients(of, *inputs(of, 4, 3))[3:], strict=True))
    assert not d["weight_ih_l0"][:5].any()
    assert d["weight_ih_l0"][5:].any()


def written(x, R, s):
    a = torch.where((x.g + R.g @ s.h > 0) & (s.h <= 1), x.g, 0.1 * s.h) * 2
    b = functional.gelu(a, approximate="tanh") + a.clamp(min=0) ** 2 - functional.silu(s.h.relu())
    return State(h=torch.where(a != b, a, b))


def test_as_mathematics() -> None:
    assert equations(Cell(written, gates=("g",))) == [
        "a_t = (W_g x_t + b_g if W_g x_t + b_g + R_g h_{t-1} + b'_g > 0 and h_{t-1} ≤ 1 else 0.1 ⊙ h_{t-1}) ⊙ 2",
        "b_t = GELU(a_t, approximate=tanh) + clamp(a_t, min=0)^2 - SiLU(ReLU(h_{t-1}))",
        "h_t = a_t if a_t ≠ b_t else b_t",
    ]
