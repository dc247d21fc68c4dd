"""Engine `cpu` on cells that nobody wrote: random steps over everything a graph may hold, against the reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import elman
from cases import hidden, inputs, normal, recurrent
from elman import Cell
from steps import cell_of, cells


def everything(of: elman.Recurrent, x: Tensor, states: tuple[Tensor, ...], engine: str) -> dict[str, Tensor]:
    """Results of inference and of training, and all gradients of a random combination of them."""
    streams = [normal(*x.shape[:2], of.hidden_size, seed=70 + k, dtype=x.dtype) for k in range(len(of.cell.streams))]
    leaves = {"x": x, **{f"s{k}": s for k, s in enumerate(states)}}
    leaves |= {f"u.{name}": stream for name, stream in zip(of.cell.streams, streams, strict=True)}
    with elman.use_engine(engine):
        with torch.no_grad():
            inferred = results_of(of, leaves, len(states))
        leaves = {name: t.detach().clone().requires_grad_() for name, t in leaves.items()}
        results = results_of(of, leaves, len(states))
        sources = leaves | dict(of.named_parameters())
        generator = torch.Generator().manual_seed(3)
        total = torch.stack(
            [(r * torch.randn(r.shape, generator=generator, dtype=r.dtype)).sum() for r in results.values()]
        ).sum()
        if total.requires_grad:
            found = torch.autograd.grad(total, list(sources.values()), allow_unused=True, materialize_grads=True)
        else:
            found = tuple(torch.zeros_like(t) for t in sources.values())
    return (
        {f"inferred {name}": r for name, r in inferred.items()}
        | {name: r.detach() for name, r in results.items()}
        | {f"d {name}": d for name, d in zip(sources, found, strict=True)}
    )


def results_of(of: elman.Recurrent, given: dict[str, Tensor], states: int) -> dict[str, Tensor]:
    streams = {name: given[f"u.{name}"] for name in of.cell.streams} or None
    output, h_n = of(given["x"], hidden(tuple(given[f"s{k}"] for k in range(states))), streams=streams)
    finals = (h_n,) if isinstance(h_n, Tensor) else h_n
    return {"output": output} | {f"final {k}": f for k, f in enumerate(finals)}


def agree(
    cell: Cell,
    seed: int = 0,
    steps: int = 4,
    batch: int = 3,
    hidden_size: int = 11,
    engine: str = "cpu",
    **options: Any,
) -> None:
    of = recurrent(cell, 3, hidden_size, seed=seed, **options)
    x, states = inputs(of, steps, batch, seed=seed)
    mine, exact = everything(of, x, states, engine), everything(of, x, states, "reference")
    wrong = []
    for name, value in exact.items():
        error = (mine[name] - value).abs().max() / (1e-3 + value.abs().max())
        if not error <= 1e-11:
            wrong.append(f"{name}: off by {error:.1e}")
    assert not wrong, "\n".join(["differs from the reference:", *wrong])


@settings(max_examples=16)  # most of the time goes into compiling kernels, a dozen for every example
@given(cell=cells(), seed=st.integers(0, 9), hidden_size=st.sampled_from((3, 8, 11)), one_way=st.booleans())
def test_random_cells(cell: Cell, seed: int, hidden_size: int, one_way: bool) -> None:
    options: dict[str, Any] = {"proj_size": 1 + seed % (hidden_size - 1)} if cell.projected else {}
    agree(cell, seed, hidden_size=hidden_size, bidirectional=not one_way, bias=seed % 4 != 1, **options)


SHARES = {
    "a share of the input that is a state and multiplied": ["return State(a=x.g, b=tanh(R.h @ x.g + s.b))"],
    "the same share as two states": ["return State(a=x.g, b=x.g + R.h @ s.b)"],
    "a state passed on and multiplied": ["return State(a=s.b, b=tanh(R.h @ s.b + x.g) + R.h @ s.a)"],
    "a product that is a state and multiplied": ["v = R.h @ s.a", "return State(a=v, b=tanh(R.g @ v + s.b))"],
    "a computed value that is a state and multiplied": [
        "v = tanh(x.g)",
        "return State(a=v, b=R.h @ v + R.g @ (v * s.b))",
    ],
    "a share of the input that is read late": [
        "v = sigmoid(R.h @ s.a)",
        "return State(a=tanh(x.g + R.g @ (v * s.b)), b=v * s.a)",
    ],
    "a state that is made of another state, and multiplied": [
        "v = R.h @ tanh(x.g) + tanh(s.a)",
        "return State(a=tanh(R.h @ v), b=v)",
    ],
    "a share of the input that is multiplied, then read": ["v = R.h @ x.g", "return State(a=v * x.g, b=tanh(v) - s.b)"],
}


@pytest.mark.parametrize("lines", SHARES.values(), ids=SHARES)
def test_values_that_are_several_things(lines: list[str]) -> None:
    agree(cell_of(lines, "gh", "ab"))


ROUNDED = [
    "-sigmoid(x.a) + R.a @ s.h",
    "s.h / -sigmoid(x.a) + R.a @ s.h",
    "exp(-sigmoid(x.a)) + R.a @ s.h",
]


@pytest.mark.parametrize("h", ROUNDED)
def test_inference_of_a_quotient_is_training_to_the_bit(h: str) -> None:
    of = recurrent(cell_of([f"return State(h={h})"], "a", "h"), 3, 64, dtype=torch.float32)
    x, states = inputs(of, 16, 16)
    found = everything(of, x, states, "cpu")
    assert torch.equal(found["inferred output"], found["output"])


def test_a_gate_without_effect_has_the_gradient_zero() -> None:
    """Whatever x and its weights hold; the reference engine has NaN there, zero times NaN."""
    lines = ["x.b * (R.b @ s.h) * (R.d @ s.h)", "return State(h=tanh(x.a + R.a @ s.h + x.c))"]
    of = recurrent(cell_of(lines, "abcd", "h"), 3, 5)
    of_input, of_products = slice(5, 10), slice(5, 15)  # gates b of abc, b and d of abd
    idle = {"weight_ih_l0": of_input, "bias_ih_l0": of_input, "weight_hh_l0": of_products, "bias_hh_l0": of_products}
    x, states = inputs(of, 4, 3)
    with torch.no_grad():
        next(of.parameters())[5:10] = torch.nan
    found = everything(of, x, states, "cpu")
    assert found["output"].isfinite().all()
    assert found["d x"].isfinite().all()
    x[1, 2] = torch.nan
    found = everything(of, x, states, "cpu")
    for name, rows in idle.items():
        assert (found[f"d {name}"][rows] == 0).all()
        assert found[f"d {name}"].isnan().any()


def test_an_input_without_effect_has_the_gradient_zero() -> None:
    of = recurrent(cell_of(["x.b", "return State(h=tanh(R.a @ s.h))"], "ab", "h"), 3, 5)
    x, states = inputs(of, 4, 3)
    x[1, 2] = torch.inf
    mine, exact = (everything(of, x, states, engine) for engine in ("cpu", "reference"))
    torch.testing.assert_close(mine, exact)
    assert (mine["d weight_ih_l0"] == 0).all()
    assert (mine["d x"] == 0).all()
