"""Layers of one step: torch.nn's where it has them, and the layer of whole sequences for every cell."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import elman
from cases import as_tuple, close, hidden, normal, weighted
from elman import cells
from elman.recurrent import Recurrent

TORCH: dict[str, tuple[str, dict[str, Any]]] = {
    "RNNCell": ("RNNCell", {}),
    "RNNCell-relu": ("RNNCell", {"nonlinearity": "relu"}),
    "LSTMCell": ("LSTMCell", {}),
    "GRUCell": ("GRUCell", {}),
}
kinds = pytest.mark.parametrize("kind", TORCH)
libraries = pytest.mark.parametrize("library", [nn, elman], ids=["torch", "elman"])
engines = pytest.mark.parametrize("engine", ["auto", "reference"])
OF_EVERY_CELL = {
    "rnn": elman.RNNCell,
    "lstm": elman.LSTMCell,
    "gru": elman.GRUCell,
    "peephole_lstm": elman.PeepholeLSTMCell,
    "coupled_lstm": elman.CoupledLSTMCell,
    "coupled_peephole_lstm": elman.CoupledPeepholeLSTMCell,
}


def make(library: Any, kind: str, *args: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    name, own = TORCH[kind]
    return getattr(library, name)(*(args or (5, 4)), **own, **{"dtype": torch.float64} | options)


def read(of: Any, steps: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    state = hidden(states)
    for x in steps:
        state = of(x, state)
    return as_tuple(state)


@engines
@kinds
def test_torchs_numbers_and_gradients(kind: str, engine: str) -> None:
    theirs, ours = make(nn, kind), make(elman, kind)
    assert_close(dict(theirs.state_dict()), dict(ours.state_dict()), rtol=0, atol=0)  # drawn in the same order
    count = 2 if "LSTM" in kind else 1
    for shape in ((3,), ()):
        found = []
        for of in (theirs, ours):
            x = normal(6, *shape, 5, seed=1).requires_grad_()
            states = tuple(normal(*shape, 4, seed=2 + k).requires_grad_() for k in range(count))
            with elman.use_engine(engine):
                after = read(of, x, states)
                found.append((after, torch.autograd.grad(weighted(after), [x, *states, *of.parameters()])))
                with torch.no_grad():
                    found[-1] += (read(of, x, states), as_tuple(of(x[0])))
        close(*found)


@engines
@pytest.mark.parametrize("name", [*cells.BUILT_IN])
def test_steps_are_those_of_the_layer(name: str, engine: str) -> None:
    cell = cells.BUILT_IN[name]
    proj = 3 if cell.projected else 0
    of = elman.RecurrentCell(cell, 5, 4, proj_size=proj, dtype=torch.float64)
    layer = Recurrent(cell, 5, 4, proj_size=proj, dtype=torch.float64)
    layer.load_state_dict({f"{name}_l0": value for name, value in of.state_dict().items()})
    x = normal(6, 3, 5, seed=1)
    states = tuple(normal(3, width, seed=2 + k) for k, width in enumerate(cell.widths(4, proj)))
    with elman.use_engine(engine):
        _, h_n = layer(x, hidden(tuple(s.unsqueeze(0) for s in states)))
        close(read(of, x, states), tuple(h[0] for h in as_tuple(h_n)))
        with torch.no_grad():
            close(read(of, x, states), tuple(h[0] for h in as_tuple(h_n)))


@pytest.mark.parametrize("name", OF_EVERY_CELL)
def test_every_cell_has_a_class(name: str) -> None:
    of: Any = OF_EVERY_CELL[name](5, 4)
    assert of.cell is cells.BUILT_IN[name]
    assert repr(of) == f"{type(of).__name__}(5, 4)"
    assert repr(elman.GRUCell(5, 4, reset_after=False)) == "GRUCell(5, 4, reset_after=False)"
    assert elman.GRUCell(5, 4, reset_after=False).cell is cells.gru_before
    assert repr(elman.RecurrentCell(cells.lstm, 5, 4)) == "RecurrentCell(lstm, 5, 4)"


@kinds
@libraries
def test_a_module(library: Any, kind: str) -> None:
    of = make(library, kind)
    x = normal(3, 5, seed=1)
    for other in (copy.deepcopy(of), pickle.loads(pickle.dumps(of))):
        assert_close(other(x), of(x), rtol=0, atol=0)
    assert [name for name, _ in of.named_parameters()] == ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    bare = make(library, kind, bias=False)
    assert bare.bias_ih is None
    assert list(bare.state_dict()) == ["weight_ih", "weight_hh"]
    assert repr(bare) == repr(make(nn, kind, bias=False))
    assert {p.device.type for p in make(library, kind, device="meta").parameters()} == {"meta"}
    assert of.float()(x.float())[0].dtype == torch.float32


@kinds
@libraries
def test_what_does_not_fit(library: Any, kind: str) -> None:
    of = make(library, kind)
    state = [normal(3, 4, seed=2)] * (2 if "LSTM" in kind else 1)
    x = normal(3, 5, seed=1)
    with pytest.raises(ValueError, match="Expected input to be 1D or 2D, got 3D instead"):
        of(x.unsqueeze(0))
    with pytest.raises(ValueError, match="to be 1D or 2D, got 3D instead"):
        of(x, hidden(tuple(s.unsqueeze(0) for s in state)))
    with pytest.raises(RuntimeError):
        of(x[:, 1:], hidden(tuple(state)))
    with pytest.raises(RuntimeError):
        of(x, hidden(tuple(s[:, 1:] for s in state)))
    with pytest.raises(RuntimeError):
        of(x, hidden(tuple(s[1:] for s in state)))


def test_messages_carry_both_sizes() -> None:
    of = elman.LSTMCell(5, 4)
    x = torch.randn(3, 5)
    with pytest.raises(
        RuntimeError, match=r"LSTMCell: input has inconsistent input_size: got 4 expected 5; input is \(3, 4\)"
    ):
        of(x[:, 1:])
    with pytest.raises(
        RuntimeError,
        match=r"hidden1 has inconsistent hidden_size: got 3, expected 4; the state c is \(3, 3\) but must be \(3, 4\)",
    ):
        of(x, (torch.zeros(3, 4), torch.zeros(3, 3)))
    with pytest.raises(RuntimeError, match=r"hx must be a tuple of 2 tensors \(h, c\), got one tensor"):
        of(x, torch.zeros(3, 4))
    for wrong in ((torch.zeros(3, 4), None), {"h": torch.zeros(3, 4)}, 0.0):
        with pytest.raises(TypeError, match=r"LSTMCell: hx must be a tuple of 2 tensors \(h, c\), got "):
            of(x, wrong)
    with pytest.raises(TypeError, match="LSTMCell: input must be a tensor, got list; convert it"):
        of(x.tolist())
    with pytest.raises(TypeError, match="hidden_size should be of type int, got: float"):
        elman.LSTMCell(5, 4.0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="Unknown nonlinearity 'sin'"):
        elman.RNNCell(5, 4, nonlinearity="sin")
    with pytest.raises(TypeError, match=r"cell should be an elman\.Cell, got: str"):
        elman.RecurrentCell("lstm", 5, 4)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="'projected_lstm' needs a proj_size from 1 to 3, got proj_size=4"):
        elman.RecurrentCell(cells.projected_lstm, 5, 4, proj_size=4)


@kinds
def test_compiled_and_transformed(kind: str) -> None:
    torch._dynamo.reset()
    of = make(elman, kind)
    x = normal(3, 5, seed=1)
    compiled = torch.compile(of, fullgraph=True, backend="aot_eager")
    close(as_tuple(compiled(x)), as_tuple(of(x)))
    close(as_tuple(torch.func.vmap(of)(x)), as_tuple(of(x)))
    value, tangent, *_ = torch.func.jvp(lambda x: as_tuple(of(x))[0], (x,), (torch.ones_like(x),))
    step = 1e-6
    apart = (as_tuple(of(x + step))[0] - as_tuple(of(x - step))[0]) / (2 * step)
    assert_close(tangent, apart, rtol=1e-6, atol=1e-8)
    close(value, as_tuple(of(x))[0])
