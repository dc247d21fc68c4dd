"""Engine `cpu` on cells that nobody wrote: random steps over everything a graph may hold, against the reference."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor, maximum, minimum, relu, sigmoid, tanh

import elman
from cases import hidden, inputs, recurrent
from elman import Cell, State


def random_cell(seed: int) -> Cell:
    """A cell of 1 to 3 gates, 1 to 3 states and 0 to 2 vectors, with products of whatever the step has so far."""
    draw = random.Random(seed)
    gates, states, vectors = "abc"[: draw.randint(1, 3)], "hcm"[: draw.randint(1, 3)], "vw"[: draw.randint(0, 2)]
    # Every gate is read from the input, from a product, or from both; a cell may lack either kind altogether.
    kinds = draw.choice([("x",), ("R",), ("x", "R"), ("x", "R", "both"), ("both",), ("both",)])
    kind_of = {gate: draw.choice(kinds) for gate in gates}
    multiplied = [gate for gate in gates if kind_of[gate] != "x"]
    multiplied += [draw.choice(multiplied) for _ in range(draw.randint(0, 2)) if multiplied]
    todo: list[tuple[str, Any]] = [("product", gate) for gate in multiplied]
    todo += [("function", draw.randrange(8)) for _ in range(3)] + [("arithmetic", draw.randrange(10)) for _ in range(3)]
    draw.shuffle(todo)
    late = draw.choice([1, 2, 3])  # how much what was made last is preferred
    program = draw.getrandbits(32)

    def step(x: Any, R: Any, s: Any, p: Any) -> State:
        choose = random.Random(program)
        known = [getattr(s, state) for state in states] + [getattr(x, gate) for gate in gates if kind_of[gate] != "R"]

        def one() -> Any:
            return known[max(choose.randrange(len(known)) for _ in range(late))]

        for kind, which in todo:
            if kind == "product":
                product = getattr(R, which) @ (choose.choice([*vars(p).values()]) if vectors and late == 1 else one())
                known.append(product + one() if choose.random() < 0.5 else product)
            elif kind == "function":
                known.append(function(which, one()))
            else:
                weigh = bool(vectors) and choose.random() < 0.4
                known.append(arithmetic(which, one(), choose.choice([*vars(p).values()]) if weigh else one()))
        new = {"h": bounded(choose, one())}
        for state in states[1:]:  # it may be an earlier one delayed, or never be read
            new[state] = choose.choice([s.h, one(), bounded(choose, one()), bounded(choose, known[-1])])
        # What depends on vectors only has no batch in the reference engine.
        return State(**{state: value + 0 * s.h for state, value in new.items()})

    return Cell(step, gates=tuple(gates), states=tuple(states), vectors=tuple(vectors), name=f"random_{seed}")


def function(number: int, v: Any) -> Any:
    return [
        lambda: sigmoid(v),
        lambda: tanh(v),
        lambda: relu(v),
        lambda: torch.exp(-torch.abs(v)),
        lambda: torch.log(1.5 + torch.abs(v)),
        lambda: torch.sqrt(0.5 + v * v),
        lambda: torch.abs(v),
        lambda: -v,
    ][number]()


def arithmetic(number: int, a: Any, b: Any) -> Any:
    return [
        lambda: a + b,
        lambda: a - b,
        lambda: tanh(a) * b,
        lambda: a / (1.5 + b * b),
        lambda: maximum(a, b + 0 * a),
        lambda: minimum(a + 0 * b, b + 0 * a),
        lambda: 1 - a,
        lambda: a * 0.5 + b / 3,
        lambda: 2 / (1.5 + torch.abs(a)) - b,
        lambda: a * b * 0.3,
    ][number]()


def bounded(choose: random.Random, v: Any) -> Any:
    return choose.choice([tanh(v), sigmoid(v), v / (1 + torch.abs(v)), 0.7 * tanh(v) + 0.1])


def everything(of: elman.Recurrent, x: Tensor, states: tuple[Tensor, ...], engine: str) -> dict[str, Tensor]:
    """Results of inference and of training, and all gradients of a random combination of them."""
    with elman.use_engine(engine):
        with torch.no_grad():
            inferred = results_of(of, x, states)
        leaves = {"x": x, **{f"s{k}": s for k, s in enumerate(states)}}
        leaves = {name: t.detach().clone().requires_grad_() for name, t in leaves.items()}
        results = results_of(of, leaves["x"], tuple(leaves[f"s{k}"] for k in range(len(states))))
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


def results_of(of: elman.Recurrent, x: Tensor, states: tuple[Tensor, ...]) -> dict[str, Tensor]:
    output, h_n = of(x, hidden(states))
    finals = (h_n,) if isinstance(h_n, Tensor) else h_n
    return {"output": output} | {f"final {k}": f for k, f in enumerate(finals)}


def agree(cell: Cell, seed: int = 0, steps: int = 4, batch: int = 3, hidden_size: int = 11, **options: Any) -> None:
    of = recurrent(cell, 3, hidden_size, seed=seed, **options)
    x, states = inputs(of, steps, batch, seed=seed)
    mine, exact = everything(of, x, states, "cpu"), everything(of, x, states, "reference")
    wrong = []
    for name, value in exact.items():
        error = (mine[name] - value).abs().max() / (1e-3 + value.abs().max())
        if not error <= 1e-11:
            wrong.append(f"{name}: off by {error:.1e}")
    assert not wrong, "\n".join(["differs from the reference:", *wrong])


@pytest.mark.parametrize("seed", range(40))
def test_random_cells(seed: int) -> None:
    agree(random_cell(seed), seed, bidirectional=seed % 3 == 0, bias=seed % 4 != 1)
