"""The accuracy rule: an engine is right when it is as accurate as PyTorch.

For every output, final state and gradient,

    rms(mine - exact) <= 2 * rms(torch's - exact) + 1e-7 * rms(exact)

exact is the reference engine in float64; torch's is the same equations in eager float32, from torch.nn
where it has the cell and else from the loops below, which share nothing with elman. For a cell that is not
built in it is the reference engine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from cases import as_tuple, hidden, inputs, normal, recurrent
from elman import Cell, cells, use_engine

Parameters = dict[str, Tensor]
States = tuple[Tensor, ...]
Run = Callable[[Parameters, Tensor, States], tuple[Tensor, States]]


class Sizes(NamedTuple):
    steps: int = 7
    batch: int = 4
    input_size: int = 19
    hidden_size: int = 67  # no multiple of any vector length

    def of(self, cell: Cell) -> dict[str, int]:
        """What a layer of the cell needs besides: torch's proj_size is smaller than hidden_size."""
        return {"proj_size": max(1, self.hidden_size // 2)} if cell.projected else {}


ORDINARY = Sizes()


@dataclass
class Errors:
    """Sums of squares of one tensor, over all seeds so far."""

    mine: float = 0.0
    torch: float = 0.0
    exact: float = 0.0
    count: int = 0

    def add(self, mine: Tensor, torchs: Tensor, exact: Tensor) -> None:
        assert mine.shape == torchs.shape == exact.shape, (mine.shape, torchs.shape, exact.shape)
        assert exact.dtype == torch.float64
        self.mine += (mine.double() - exact).square().sum().item()
        self.torch += (torchs.double() - exact).square().sum().item()
        self.exact += exact.square().sum().item()
        self.count += exact.numel()

    @property
    def allowed(self) -> float:
        return 2 * math.sqrt(self.torch / self.count) + 1e-7 * math.sqrt(self.exact / self.count)

    @property
    def within(self) -> bool:
        return math.sqrt(self.mine / self.count) <= self.allowed  # False for NaN


def measure(
    cell: Cell,
    engine: str,
    layers: int = 1,
    bidirectional: bool = False,
    *,
    sizes: Sizes = ORDINARY,
    least: int = 1000,
    mine: Cell | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> dict[str, Errors]:
    """The errors of an engine in `dtype`, by tensor, over as many seeds as every tensor needs to have `least` elements.

    `mine`, where given, is the cell that the engine runs in place of `cell`: one with a bug planted in it.
    """
    errors: dict[str, Errors] = {}
    seed = 0
    while not errors or min(e.count for e in errors.values()) < least:
        seed += 1
        one_seed(errors, cell, engine, layers, bidirectional, sizes, seed, mine or cell, device, dtype)
    return errors


def one_seed(
    errors: dict[str, Errors],
    cell: Cell,
    engine: str,
    layers: int,
    bidirectional: bool,
    sizes: Sizes,
    seed: int,
    mine: Cell,
    device: str,
    dtype: torch.dtype,
) -> None:
    known = expected(cell, layers, bidirectional, sizes, seed, dtype)
    options = {"num_layers": layers, "bidirectional": bidirectional} | sizes.of(cell)
    tested = recurrent(mine, sizes.input_size, sizes.hidden_size, dtype=dtype, **options).to(device)
    with use_engine(engine):
        got = differentiate(calling(tested), known.parameters, known.x, known.states, dtype, device)
    for name, value in known.exact.items():
        errors.setdefault(name, Errors()).add(got[name].cpu(), known.torchs[name], value)


class Expected(NamedTuple):
    """What a layer is given, and what comes of it in PyTorch and in float64."""

    parameters: Parameters
    x: Tensor
    states: States
    torchs: dict[str, Tensor]
    exact: dict[str, Tensor]


@lru_cache(maxsize=8)  # for the next engine, which is tested with the same cell and sizes
def expected(cell: Cell, layers: int, bidirectional: bool, sizes: Sizes, seed: int, dtype: torch.dtype) -> Expected:
    options = {"num_layers": layers, "bidirectional": bidirectional} | sizes.of(cell)
    layer = recurrent(cell, sizes.input_size, sizes.hidden_size, seed=seed, dtype=dtype, **options)
    x, states = inputs(layer, sizes.steps, sizes.batch, seed=seed)
    parameters = {name: value.detach().clone() for name, value in layer.named_parameters()}
    with use_engine("reference"):
        torchs = differentiate(eager(cell, sizes, layers, bidirectional), parameters, x, states, dtype)
        exact = differentiate(calling(layer.double()), parameters, x, states, torch.float64)
    return Expected(parameters, x, states, torchs, exact)


def differentiate(
    run: Run, parameters: Parameters, x: Tensor, states: States, dtype: torch.dtype, device: str = "cpu"
) -> dict[str, Tensor]:
    """Output, final states and the gradients of everything, for random cotangents on output and final states."""

    def leaf(value: Tensor) -> Tensor:
        return value.detach().to(device, dtype, copy=True).requires_grad_()

    leaves = (
        {"x": leaf(x)}
        | {f"state_{k}": leaf(s) for k, s in enumerate(states)}
        | {name: leaf(p) for name, p in parameters.items()}
    )
    initial = tuple(leaves[f"state_{k}"] for k in range(len(states)))
    output, final = run({name: leaves[name] for name in parameters}, leaves["x"], initial)
    results = {"output": output} | {f"final_{k}": s for k, s in enumerate(final)}
    cotangents = [
        normal(*r.shape, seed=50 + k, dtype=torch.float32).to(device, dtype) for k, r in enumerate(results.values())
    ]
    d = torch.autograd.grad(list(results.values()), list(leaves.values()), cotangents)
    return {name: r.detach() for name, r in results.items()} | {
        f"d_{name}": g for name, g in zip(leaves, d, strict=True)
    }


def check(errors: dict[str, Errors], most: float = 1e-3) -> None:
    """AssertionError names every tensor that is out of the rule, or that the rule cannot judge.

    most: the largest relative error that torch may have. float32 is a thousand times better than 1e-3.
    """
    wrong = []
    for name, e in errors.items():
        mine, torchs, exact = (math.sqrt(total / e.count) for total in (e.mine, e.torch, e.exact))
        numbers = f"rms error {mine:.2e}, allowed {e.allowed:.2e}, rms of the value {exact:.2e}"
        if not torchs <= most * exact:  # these are other equations
            wrong.append(f"{name}: PyTorch itself is off by {torchs:.2e}; {numbers}")
        elif not e.within:
            wrong.append(f"{name}: {numbers}")
    assert not wrong, "\n".join(["less accurate than PyTorch:", *wrong])


def calling(module: torch.nn.Module) -> Run:
    def run(parameters: Parameters, x: Tensor, states: States) -> tuple[Tensor, States]:
        output, h_n = functional_call(module, parameters, (x, hidden(states)))
        return output, as_tuple(h_n)

    return run


def eager(cell: Cell, sizes: Sizes, layers: int, bidirectional: bool) -> Run:
    """PyTorch in float32: torch.nn's own layer, or a loop with one product per gate."""
    options: dict[str, Any] = {"num_layers": layers, "bidirectional": bidirectional} | sizes.of(cell)
    known = {"lstm": torch.nn.LSTM, "projected_lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}
    if cell.name in known:
        return calling(known[cell.name](sizes.input_size, sizes.hidden_size, **options))
    if cell.name == "rnn_relu":
        return calling(torch.nn.RNN(sizes.input_size, sizes.hidden_size, nonlinearity="relu", **options))
    if cell.name not in cells.BUILT_IN:
        return calling(recurrent(cell, sizes.input_size, sizes.hidden_size, **options))

    def run(parameters: Parameters, x: Tensor, states: States) -> tuple[Tensor, States]:
        return stacked(cell.name, parameters, x, states, layers, bidirectional)

    return run


class Gate:
    """W_g x + b_ih,g and R_g h + b_hh,g of every gate, each in a product of its own."""

    def __init__(self, parameters: Parameters, suffix: str, gates: str):
        def blocks(name: str) -> dict[str, Tensor]:
            return dict(zip(gates, parameters[f"{name}_{suffix}"].chunk(len(gates)), strict=True))

        self.ih, self.hh = blocks("weight_ih"), blocks("weight_hh")
        self.b_ih, self.b_hh = blocks("bias_ih"), blocks("bias_hh")

    def x(self, gate: str, x: Tensor) -> Tensor:
        return x @ self.ih[gate].t() + self.b_ih[gate]

    def h(self, gate: str, h: Tensor) -> Tensor:
        return h @ self.hh[gate].t() + self.b_hh[gate]

    def __call__(self, gate: str, x: Tensor, h: Tensor) -> Tensor:
        return self.x(gate, x) + self.h(gate, h)


def peephole_step(W: Gate, peepholes: Tensor, x: Tensor, state: States) -> States:
    h, c = state
    forget = torch.sigmoid(W("f", x, h) + peepholes[1] * c)
    write = torch.sigmoid(W("i", x, h) + peepholes[0] * c)
    c = forget * c + write * torch.tanh(W("g", x, h))
    read = torch.sigmoid(W("o", x, h) + peepholes[2] * c)
    return read * torch.tanh(c), c


def coupled_step(W: Gate, peepholes: Tensor | None, x: Tensor, state: States) -> States:
    h, c = state
    forget, read = W("f", x, h), W("o", x, h)
    if peepholes is not None:
        forget = forget + peepholes[0] * c
    forget = torch.sigmoid(forget)
    c = forget * c + (1 - forget) * torch.tanh(W("g", x, h))
    if peepholes is not None:
        read = read + peepholes[1] * c
    return torch.sigmoid(read) * torch.tanh(c), c


def reset_before_step(W: Gate, peepholes: None, x: Tensor, state: States) -> States:
    (h,) = state
    reset, keep = torch.sigmoid(W("r", x, h)), torch.sigmoid(W("z", x, h))
    candidate = torch.tanh(W.x("n", x) + W.h("n", reset * h))
    return ((1 - keep) * candidate + keep * h,)


LOOPS: dict[str, tuple[str, Callable[..., States]]] = {
    "peephole_lstm": ("ifgo", peephole_step),
    "coupled_lstm": ("fgo", coupled_step),
    "coupled_peephole_lstm": ("fgo", coupled_step),
    "gru_before": ("rzn", reset_before_step),
}


def stacked(
    cell: str, parameters: Parameters, x: Tensor, states: States, layers: int, bidirectional: bool
) -> tuple[Tensor, States]:
    gates, step = LOOPS[cell]
    ends: list[States] = []
    for layer in range(layers):
        halves = []
        for suffix in (f"l{layer}", f"l{layer}_reverse") if bidirectional else (f"l{layer}",):
            W, peepholes = Gate(parameters, suffix, gates), parameters.get(f"weight_ch_{suffix}")
            state = tuple(s[len(ends)] for s in states)
            outputs: dict[int, Tensor] = {}
            order = range(x.shape[0])
            for t in reversed(order) if suffix.endswith("reverse") else order:
                state = step(W, peepholes, x[t], state)
                outputs[t] = state[0]
            ends.append(state)
            halves.append(torch.stack([outputs[t] for t in order]))
        x = torch.cat(halves, dim=2)
    return x, tuple(torch.stack(rows) for rows in zip(*ends, strict=True))
