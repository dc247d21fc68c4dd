"""Kernels for GPUs at the edges: memory, types, sizes and numbers that are rare. They run in Triton's interpreter."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import sigmoid, tanh

import elman
import test_rows
from cases import as_tuple, close, gradients, hidden, inputs, layer, normal, recurrent, run, weighted
from elman import Cell, State, cells
from elman.cell import cell as define
from elman.gpu import choice, passes
from test_cpu import neg_view, zero_tensor
from test_cpu_cells import agree
from test_functions import FUNCTIONS
from test_gpu import multiplied_memory, three_phases

# The interpreter computes with numpy, also where a kernel stores nothing.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning")

BOTH_FORMS = pytest.mark.parametrize("form", ["steps", "resident"], indirect=True)


@BOTH_FORMS
def test_cotangents_in_another_order(form: None) -> None:
    """Kernels read cotangents by their addresses. Here one is transposed, and the others are one number for all."""
    of = layer("lstm", 3, 17)
    x, states = inputs(of, 3, 2)
    one = torch.ones((), dtype=torch.float64)
    views = [normal(17, 2, 3, seed=1).transpose(0, 2), normal(17, 2, 1, seed=2).transpose(0, 2), one.expand(1, 2, 17)]
    found = []
    for engine in ("gpu", "reference"):
        with elman.use_engine(engine):
            leaves = [t.detach().clone().requires_grad_() for t in (x, *states)]
            results = run(of, leaves[0], tuple(leaves[1:]))
            found.append(torch.autograd.grad(results, [*leaves, *of.parameters()], views))
    close(*found)


@BOTH_FORMS
def test_tensors_that_are_not_what_their_memory_says(form: None) -> None:
    """torch only marks them as negated, or as zero."""
    of = layer("peephole_lstm", 3, 17)
    x, states = inputs(of, 3, 2)
    d, last, zero = normal(3, 2, 17, seed=1), normal(1, 2, 17, seed=2), zero_tensor((1, 2, 17), dtype=torch.float64)
    with elman.use_engine("gpu"):
        mine = run(of, neg_view(-x), tuple([neg_view(-s) for s in states]))
        found = torch.autograd.grad(mine, list(of.parameters()), [neg_view(-d), neg_view(-last), zero])
    with elman.use_engine("reference"):
        exact = run(of, x, states)
        close((mine, found), (exact, torch.autograd.grad(exact[:2], list(of.parameters()), [d, last])))


@BOTH_FORMS
def test_results_stay_when_a_loop_is_used_again(form: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results and gradients are not the buffers of the loop, which the next call overwrites."""
    monkeypatch.setattr(choice, "make", functools.cache(choice.make))
    of = layer("lstm", 3, 17)
    every = [inputs(of, 2, 2, seed=seed) for seed in range(2)]
    found = []
    for engine in ("gpu", "reference"):
        with elman.use_engine(engine):
            inferred = [run(of, x, states) for x, states in every]
            found.append((inferred, [gradients(of, x, states) for x, states in every]))
    close(*found)


def test_calls_that_differ_in_their_number_of_steps() -> None:
    """All arrays have the same addresses as in the call before, and only the number of steps is another one."""
    of = layer("gru", 3, 7, bidirectional=True)  # the other direction begins with the last step
    x, states = inputs(of, 4, 3)
    call = passes._narrowed(of.call(0, x, states))
    loop = choice.make(passes._form(call, "infer", False, False), graphs=False)
    share, output = torch.zeros(2, 4, 3, 21, dtype=torch.float64), torch.empty(4, 3, 14, dtype=torch.float64)
    with torch.no_grad():
        passes._share(call, share)
        for steps in (4, 2, 4):
            given = {"x": share, **passes._parameters(call), "output": passes._beside(call, output.fill_(torch.nan))}
            final = loop.run(steps, given, ["final.h"])["final.h"]
            with elman.use_engine("reference"):
                close((output[:steps], final), run(of, x[:steps], states))
            assert output[steps:].isnan().all()


@pytest.mark.parametrize("cell", [cells.peephole_lstm, multiplied_memory], ids=lambda cell: cell.name)
@pytest.mark.parametrize(
    ("form", "given"), [("steps", "plain"), ("steps", "learned"), ("resident", "learned")], indirect=["form"]
)
def test_half_types(form: None, cell: Cell, given: str) -> None:
    """With lengths, resets and learned states, too. A tensor that is read in a wrong type is off by much more."""
    of = recurrent(cell, 3, 17, dtype=torch.float16, bidirectional=True, learn_initial_state=given == "learned")
    with torch.no_grad():
        for p in of.parameters():
            p.mul_(0.5)
    exact = recurrent(cell, 3, 17, bidirectional=True, learn_initial_state=given == "learned")
    exact.load_state_dict(of.state_dict())
    case = test_rows.Case(4, 3, 3)
    rows = {} if given == "plain" else {"lengths": case.lengths, "reset": case.reset}
    x, states = inputs(of, 3, 3)
    found = []
    for module, engine, dtype in ((of, "gpu", torch.float16), (exact, "reference", torch.float64)):
        leaves = [t.to(dtype, copy=True).requires_grad_() for t in (x, *states)]
        with elman.use_engine(engine):
            output, h_n = module(leaves[0], hidden(tuple(leaves[1:])), **rows)
            results = output, *as_tuple(h_n)
            d = torch.autograd.grad(weighted(tuple(r.double() for r in results)), [*leaves, *module.parameters()])
        found.append([t.detach().double() for t in (*results, *d)])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0.02, atol=0.02 * theirs.abs().max().item() + 1e-3)


@pytest.fixture
def poisoned() -> Iterator[None]:
    """New memory is full of NaN: torch fills it when it has to be deterministic."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("cell", [cells.gru_before, multiplied_memory], ids=lambda cell: cell.name)
@BOTH_FORMS
def test_learned_states(form: None, cell: Cell) -> None:
    """With states that are given, the learned ones are those after resets only."""
    of, case = recurrent(cell, 3, 17, bidirectional=True, learn_initial_state=True), test_rows.Case(4, 4, 3)
    x, states = inputs(of, 4, 3)
    found = []
    for engine in ("gpu", "reference"):
        with elman.use_engine(engine):
            output, h_n = of(case.spoilt(x), hidden(states), lengths=case.lengths, reset=case.reset)
            results = output, *as_tuple(h_n)
            found.append((results, torch.autograd.grad(weighted(results), list(of.parameters()))))
    close(*found)


@pytest.mark.usefixtures("poisoned")
@BOTH_FORMS
def test_one_cotangent_only(form: None) -> None:
    """That of the last state."""
    of = layer("peephole_lstm", 3, 17, bidirectional=True, learn_initial_state=True)
    x, found = inputs(of, 3, 2)[0], []
    for engine in ("gpu", "reference"):
        with elman.use_engine(engine):
            _, h_n = of(x)
            found.append(torch.autograd.grad(weighted((as_tuple(h_n)[-1],)), list(of.parameters())))
    close(*found)


@BOTH_FORMS
def test_sums_of_half_types_are_not_rounded(form: None) -> None:
    """Large adjoints cancel, over time and over rows. A sum in float16 would lose the small one among them."""
    of = recurrent(cells.peephole_lstm, 3, 17, dtype=torch.float16, learn_initial_state=True)
    exact = recurrent(cells.peephole_lstm, 3, 17, learn_initial_state=True)
    exact.load_state_dict(of.state_dict())
    x, reset = normal(1, 1, 3, seed=1).expand(4, 3, 3), torch.ones(4, 3, dtype=torch.bool)
    # Every step of every row computes the same, since it starts afresh. Powers of two leave the same digits to round.
    cotangents = torch.tensor([[1024.0, 1024, -1024], [0.25, 512, 0], [-1024, 0, 0], [-512, 0, 0]])
    found = []
    for module, engine, dtype in ((of, "gpu", torch.float16), (exact, "reference", torch.float64)):
        with elman.use_engine(engine):
            output, _ = module(x.to(dtype), reset=reset)
            of_rows = cotangents.unsqueeze(-1).expand_as(output).to(output.dtype)
            found.append([d.double() for d in torch.autograd.grad(output, list(module.parameters()), of_rows)])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0.02 * theirs.abs().max().item())


@define(gates=("a",), states=("h", "c", "m"))
def three_states(x: Any, R: Any, s: Any) -> State:
    """Backward reads the new value of each."""
    c = tanh(0.7 * s.c + x.a)
    m = sigmoid(s.m * c)
    return State(h=tanh(R.a @ s.h + c * m), c=c, m=m)


@BOTH_FORMS
def test_three_states(form: None) -> None:
    agree(three_states, steps=3, hidden_size=17, engine="gpu", bidirectional=True)


@define(gates=("a",), states=("h", "h_at"))
def a_state_that_is_called_like_an_address(x: Any, R: Any, s: Any) -> State:
    return State(h=tanh(x.a + R.a @ s.h + s.h_at), h_at=0.5 * s.h_at + s.h)


@pytest.mark.usefixtures("resident")
def test_names_of_kernels_are_not_those_of_users() -> None:
    agree(a_state_that_is_called_like_an_address, steps=2, hidden_size=17, engine="gpu")


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_an_empty_batch_under_autocast(name: str) -> None:
    """It has the types of a batch that is not. On the CPU those of a GRU are wider."""
    of = layer(name, 3, 5, dtype=torch.float32)
    with elman.use_engine("gpu"), torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        every = [of(torch.ones(2, rows, 3)) for rows in (0, 2)]
    empty, full = [[t.dtype for t in (output, *as_tuple(h_n))] for output, h_n in every]
    assert empty == full


OPERATIONS = {
    "maximum": lambda v, h: torch.maximum(v, h + 0.5),
    "minimum": lambda v, h: torch.minimum(v, h - 0.5),
    "relu": lambda v, h: torch.relu(v),
    "sigmoid": lambda v, h: sigmoid(v),
    "tanh": lambda v, h: tanh(v),
    "exp": lambda v, h: torch.exp(v),
    "log1p": lambda v, h: torch.log1p(v),
    "log": lambda v, h: torch.log(v),
    "sqrt": lambda v, h: torch.sqrt(v),
    "abs": lambda v, h: abs(v),
    "less": lambda v, h: torch.where(v < 100.0, v + 3, 7.0),
    "less or equal": lambda v, h: torch.where(v <= 100.0, v + 3, 7.0),
    "equal": lambda v, h: torch.where(v == 100.0, v + 3, 7.0),
    "unequal": lambda v, h: torch.where(v != 100.0, v + 3, 7.0),
}


def elementwise(name: str) -> Cell:
    """A cell whose only state is a function of the input."""
    function = (OPERATIONS | FUNCTIONS)[name]

    def step(x: Any, R: Any, s: Any) -> State:
        return State(h=function(x.g, s.h) + 0 * (R.g @ s.h))

    return Cell(step, gates=("g",), name=name.replace(" ", "_"))


def functions_of(name: str, x: torch.Tensor, engine: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the function of each number of x, and its derivative."""
    of = recurrent(elementwise(name), 1, 1, dtype=x.dtype, bias=False)
    with torch.no_grad():
        for parameter, value in zip(of.parameters(), (1.0, 0.0), strict=True):
            parameter.fill_(value)
    leaf = x.reshape(1, -1, 1).requires_grad_()
    with elman.use_engine(engine):
        output = of(leaf, torch.zeros(1, len(x), 1, dtype=x.dtype))[0]
    return output.detach().flatten(), torch.autograd.grad(output.sum(), leaf)[0].flatten()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [*OPERATIONS, *FUNCTIONS])
def test_what_is_not_finite_or_on_an_edge(name: str, dtype: torch.dtype) -> None:
    """NaN, infinities and numbers that overflow go where they go in torch; a comparison with an equal number, too."""
    x = torch.tensor(
        [torch.nan, torch.inf, -torch.inf, 1e30, -1e30, 1e3, -1e3, 100.0, -100.0, 0.0, 0.2, 0.5], dtype=dtype
    )
    if name == "gelu":
        x[1] = 1e30  # torch's gelu of infinity is infinity, but NaN on processors with AVX-512
    if name == "layer_norm":
        x[3:5] /= 1e15  # torch's has NaN where the square overflows, instead of the zero that a single unit gets
    (mine, d_mine), (theirs, d_theirs) = (functions_of(name, x.clone(), engine) for engine in ("gpu", "reference"))
    torch.testing.assert_close(mine, theirs, equal_nan=True)
    torch.testing.assert_close(d_mine[3:], d_theirs[3:], equal_nan=True)


@pytest.mark.parametrize("name", ["tanh", "log1p"])
def test_small_numbers_keep_their_digits(name: str) -> None:
    for dtype, digits in ((torch.float32, 5e-7), (torch.float64, 1e-15)):
        x = torch.cat([torch.logspace(-30, -0.4, 60, dtype=dtype), -torch.logspace(-30, -0.4, 60, dtype=dtype)])
        (mine, _), (exact, _) = functions_of(name, x.clone(), "gpu"), functions_of(name, x.double(), "reference")
        torch.testing.assert_close(mine.double(), exact, rtol=digits, atol=0)


@BOTH_FORMS
def test_weights_with_nothing_behind_them(form: None) -> None:
    """What lies behind a weight in memory must not meet the zeros at the end of an operand."""
    of = recurrent(three_phases, 3, 17)
    x, states = inputs(of, 2, 2)
    expected = run(of, x, states), gradients(of, x, states)
    for name, p in list(of.named_parameters()):
        around = torch.full((p.numel() + 2000,), torch.nan, dtype=p.dtype)
        inside = around[1000:-1000].view(p.shape)
        setattr(of, name, torch.nn.Parameter(inside.copy_(p.detach())))
    with elman.use_engine("gpu"):
        close((run(of, x, states), gradients(of, x, states)), expected)


@pytest.mark.usefixtures("poisoned")
def test_a_gate_that_only_decides() -> None:
    """Its weights have no effect, and the gradient zero."""

    @define(gates=("a", "b"))
    def deciding(x: Any, R: Any, s: Any) -> State:
        return State(h=torch.where(x.a + R.a @ s.h > 0, x.b, 0.3 * s.h))

    @define(gates=("a",), vectors=("v",))
    def forgetful(x: Any, R: Any, s: Any, p: Any) -> State:
        return State(h=torch.where(x.a + R.a @ s.h > p.v, 0.9 * s.h, 0.3 * s.h))

    for cell in (deciding, forgetful):
        of, found = recurrent(cell, 3, 17), []
        x, states = inputs(of, 3, 3)
        for engine in ("gpu", "reference"):
            leaves = [t.clone().requires_grad_() for t in (x, *states)]
            with elman.use_engine(engine):
                results = weighted(run(of, leaves[0], tuple(leaves[1:])))
            every = [*leaves, *of.parameters()]
            of_torch = engine == "reference"  # which knows of no gradient there
            found.append(torch.autograd.grad(results, every, allow_unused=of_torch, materialize_grads=of_torch))
        close(*found)


def test_an_infinite_constant() -> None:
    @define(gates=("a",))
    def infinite(x: Any, R: Any, s: Any) -> State:
        return State(h=torch.clamp(tanh(x.a + R.a @ s.h), -torch.inf, 0.5))

    agree(infinite, engine="gpu", hidden_size=5)


@pytest.mark.usefixtures("resident")
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_nan_that_looks_like_what_is_missing(dtype: torch.dtype) -> None:
    """All of its bits are set. It is in the initial state of one row, and in the cotangent of another."""
    of = layer("lstm", 3, 17, dtype=dtype)
    x, found = torch.randn(5, 3, 3).to(dtype), []
    all_set = torch.tensor(-1, dtype=torch.int16 if dtype == torch.float16 else torch.int32).view(dtype)
    for engine in ("gpu", "reference"):
        state = tuple(torch.zeros(1, 3, 17, dtype=dtype) for _ in range(2))
        state[0][0, 1] = all_set
        with elman.use_engine(engine):
            own = x.clone().requires_grad_()
            output, _ = of(own, state)
            cotangent = torch.ones_like(output)
            cotangent[4, 2] = all_set
            (d_x,) = torch.autograd.grad(output, own, cotangent)
        found.append((output.isnan(), d_x.isnan()))
    assert found[0][0][:, 1].all()
    assert found[0][1][:, 2].all()
    for own, theirs in zip(*found, strict=True):
        assert own.equal(theirs)
