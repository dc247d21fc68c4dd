"""Engine `gpu` without a GPU: kernels run in Triton's interpreter on tensors on the CPU, and are compiled for GPUs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import sigmoid, tanh

import elman
import quick_triton  # noqa: F401
import test_rows
from accuracy import Sizes, check, measure
from cases import close, gradients, inputs, layer, recurrent, run
from elman import Cell, State, cells
from elman.cell import cell as define
from elman.gpu import choice
from elman.gpu.resident import Resident
from forks import Child, Forks
from steps import cells as random_cells
from test_cpu_cells import agree

# The interpreter computes with numpy, also where a kernel stores nothing.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]


@define(gates=("a", "b"), states=("h", "m"))
def three_phases(x: Any, R: Any, s: Any) -> State:
    u = tanh(x.a + R.a @ s.h)
    v = sigmoid(x.b + R.b @ u)
    w = torch.maximum(R.a @ v, torch.minimum(u, v))
    m = 0.9 * s.m + 0.1 * w / (1.5 + abs(w))
    return State(h=tanh(u) + m * v, m=m)


@define(gates=("r", "z", "n"), vectors=("q",))
def two_operands(x: Any, R: Any, s: Any, p: Any) -> State:
    r = sigmoid(x.r + R.r @ s.h + p.q * s.h)
    z = sigmoid(x.z + R.z @ s.h)
    n = tanh(x.n + R.n @ (r * s.h) + R.r @ (z * s.h))
    return State(h=(1 - z) * n + z * s.h)


@define(gates=("h",), states=("h", "c"))
def multiplied_memory(x: Any, R: Any, s: Any) -> State:
    """Its second state gets nothing from the input, and is an operand."""
    c = 0.5 * s.c + R.h @ s.h
    return State(h=tanh(c + x.h + R.h @ s.c), c=c)


USERS = (three_phases, two_operands, multiplied_memory)
EVERY = [*cells.BUILT_IN.values(), *USERS]


@pytest.mark.parametrize("cell", EVERY, ids=lambda cell: cell.name)
def test_every_cell(cell: Cell) -> None:
    options = {"proj_size": 3} if cell.projected else {}
    agree(cell, hidden_size=7, engine="gpu", bidirectional=True, **options)
    agree(cell, hidden_size=5, engine="gpu", steps=1, batch=1, bias=False, **options)


@settings(max_examples=12)
@given(cell=random_cells(), seed=st.integers(0, 9), one_way=st.booleans())
def test_random_cells(cell: Cell, seed: int, one_way: bool) -> None:
    agree(cell, seed, hidden_size=7, engine="gpu", bidirectional=not one_way)


def test_the_messages_of_a_conditional_random_field() -> None:
    crf, random = elman.CRF(5, dtype=torch.float64), torch.Generator().manual_seed(0)
    for parameter in crf.parameters():
        torch.nn.init.normal_(parameter, generator=random)
    scores = torch.randn(4, 3, 5, dtype=torch.float64, generator=random).requires_grad_()
    tags, lengths = torch.randint(-1, 5, (4, 3), generator=random), torch.tensor([4, 1, 3])

    def results(engine: str) -> list[torch.Tensor]:
        with elman.use_engine(engine):
            told, likely = crf(scores, lengths), crf.log_likelihood(scores, tags, lengths)
            parameters = [scores, *crf.parameters()]
            return [told, likely, *torch.autograd.grad(told.square().sum() + likely.sum(), parameters)]

    for mine, other in zip(results("gpu"), results("reference"), strict=True):
        close(mine, other)


@pytest.mark.parametrize("name", ["peephole_lstm", "gru_before", "projected_lstm"])
def test_lengths_and_resets(name: str) -> None:
    test_rows.test_every_cell(name, 1, True, "gpu")


@pytest.mark.parametrize("cell", USERS, ids=lambda cell: cell.name)
def test_lengths_and_resets_of_users_cells(cell: Cell) -> None:
    of, case = recurrent(cell, 3, 5, bidirectional=True), test_rows.Case(1, 6, 4)
    with elman.use_engine("gpu"):
        test_rows.compare(of, case, *inputs(of, 6, 4), torch.tensor(case.lengths), case.reset)


def test_initial_states_that_are_learned() -> None:
    test_rows.test_initial_states_that_are_learned("projected_lstm", 1, True, "gpu")


def test_what_is_not_finite_beyond_the_end() -> None:
    test_rows.test_what_is_not_finite_beyond_the_end("gpu")


JUDGED = [cells.rnn_relu, cells.gru, cells.coupled_peephole_lstm, cells.projected_lstm, three_phases]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("cell", JUDGED, ids=lambda cell: cell.name)
def test_accuracy(cell: Cell, dtype: torch.dtype) -> None:
    """Triton's interpreter truncates to bfloat16; so float16 stands for both half types."""
    sizes = Sizes(steps=5, batch=4, input_size=7, hidden_size=19)
    check(measure(cell, "gpu", sizes=sizes, least=150, dtype=dtype), most=1e-3 if dtype == torch.float32 else 0.05)


def remembered(name: str, engine: str, dtype: torch.dtype) -> list[torch.Tensor]:
    """Returns the last state after many small steps of a memory that forgets nothing, and the gradient of the first one."""
    of = layer(name, 1, 2, dtype=dtype)
    open_gates = {"lstm": [-7.0, -7, 20, 20, 0.5, 0.5, 9, 9], "gru": [0.0, 0, 20, 20, 0.5, 0.5]}[name]
    with torch.no_grad():
        for p in of.parameters():
            p.zero_()
        dict(of.named_parameters())["bias_ih_l0"].copy_(torch.tensor(open_gates))
    states = [torch.ones(1, 1, 2, dtype=dtype, requires_grad=True) for _ in of.cell.states]
    with elman.use_engine(engine):
        results = run(of, torch.zeros(40, 1, 1, dtype=dtype), tuple(states))
    cotangents = [torch.full_like(results[0], 4e-4), *map(torch.ones_like, results[1:])]
    d = torch.autograd.grad(results, states[-1], cotangents)[0]
    return [t.detach().double() for t in (results[-1], d)]


def test_the_second_state_of_half_types_is_not_rounded() -> None:
    """In half the width, what each step adds would be lost. So it would be among the adjoints of any state."""
    for name in ("lstm", "gru"):
        found, exact = remembered(name, "gpu", torch.float16), remembered(name, "reference", torch.float64)
        for mine, theirs in zip(found, exact, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-3)
        assert (exact[1] - 1 > 5e-3).all()


@pytest.mark.parametrize("name", ["lstm", "gru", "peephole_lstm"])
def test_autocast_gives_the_types_of_torch(name: str) -> None:
    of = layer(name, 3, 5, dtype=torch.float32)
    x, states = inputs(of, 4, 2)
    results = {}
    for engine in ("reference", "gpu"):
        with elman.use_engine(engine), torch.autocast("cpu", torch.bfloat16):
            results[engine] = run(of, x, states), gradients(of, x, states)
    for mine, theirs in zip(results["gpu"][0], results["reference"][0], strict=True):
        assert mine.dtype == theirs.dtype
        torch.testing.assert_close(mine, theirs, rtol=0.05, atol=0.05)
    for mine, theirs in zip(results["gpu"][1], results["reference"][1], strict=True):
        assert mine.dtype == theirs.dtype
        torch.testing.assert_close(mine, theirs, rtol=0.1, atol=0.15)


@pytest.mark.parametrize("steps", [1, 6])
def test_chunks_of_steps(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that runs 8 steps for every call must leave everything as it is after the last step. Here: by hand."""
    from elman.gpu.steps import Steps

    plain = Steps.step

    def step(self: Steps, k: int) -> None:
        plain(self, k)
        if k == steps - 1:
            for beyond in range(steps, steps + 7):
                plain(self, beyond)

    of = layer("gru_before", 3, 5, bidirectional=True)
    x, states = inputs(of, steps, 2)
    exact = run(of, x, states), gradients(of, x, states)
    monkeypatch.setattr(Steps, "step", step)
    with elman.use_engine("gpu"):
        close((run(of, x, states), gradients(of, x, states)), exact)


@pytest.mark.parametrize("form", ["steps", "resident"])
def test_a_loop_that_is_used_again(form: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Its table has the addresses of the call before, and its buffers what that left."""
    if form == "resident":
        request.getfixturevalue("resident")
    monkeypatch.setattr(choice, "make", functools.cache(choice.make))
    of = layer("peephole_lstm", 3, 17)
    every = [inputs(of, steps, 4, seed=seed) for seed, steps in enumerate((6, 5))]
    for x, states in every:
        expected = run(of, x, states), gradients(of, x, states)
        with elman.use_engine("gpu"):
            close((run(of, x, states), gradients(of, x, states)), expected)


def test_gradients_of_a_part_only() -> None:
    of = layer("peephole_lstm", 3, 5, bidirectional=True)
    x, states = inputs(of, 4, 2)
    for wanted in ("weight_ch_l0", "bias_hh_l0_reverse", "weight_hh_l0"):
        parameter = dict(of.named_parameters())[wanted]
        d = []
        for engine in ("reference", "gpu"):
            with elman.use_engine(engine):
                d.append(torch.autograd.grad(run(of, x, states)[1].square().sum(), parameter)[0])
        close(*d)


def test_views_empty_batches_and_strides() -> None:
    of = layer("lstm", 3, 5)
    x, states = inputs(of, 4, 2)
    with elman.use_engine("gpu"):
        expected = run(of, x, states)
        strided = x.transpose(0, 2).contiguous().transpose(0, 2)
        close(run(of, strided, tuple(s.flip(-1).flip(-1) for s in states)), expected)
        output, (h_n, _) = of(x[:, :0], tuple(s[:, :0] for s in states))
        assert output.shape == (4, 0, 5)
        assert h_n.shape == (1, 0, 5)
        empty = x[:, :0].requires_grad_()
        of(empty)[0].sum().backward()
        assert all((p.grad == 0).all() for p in of.parameters())


@pytest.mark.parametrize(
    ("resident", "cell"),
    [
        ("in order, lazy", cells.lstm),
        ("backwards, registers", cells.lstm),
        ("backwards, lazy", cells.gru_before),
        ("in order, registers", three_phases),
        ("backwards, lazy", three_phases),
        ("in order, lazy", two_operands),
        ("backwards", multiplied_memory),
    ],
    indirect=["resident"],
    ids=lambda value: getattr(value, "name", value),
)
def test_programs_that_meet(resident: None, cell: Cell, request: pytest.FixtureRequest) -> None:
    agree(cell, steps=6, hidden_size=19, engine="gpu", bidirectional="registers-lstm" in request.node.name)


@pytest.mark.usefixtures("resident")
def test_a_program_that_has_all_units() -> None:
    agree(three_phases, steps=6, hidden_size=13, engine="gpu", bidirectional=True)


@pytest.mark.usefixtures("resident")
def test_lengths_and_resets_of_programs_that_meet() -> None:
    of, case = recurrent(three_phases, 3, 17, bidirectional=True), test_rows.Case(4, 4, 3)
    with elman.use_engine("gpu"):
        test_rows.compare(of, case, *inputs(of, 4, 3), torch.tensor(case.lengths), case.reset)


@pytest.mark.usefixtures("resident")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_accuracy_of_programs_that_meet(dtype: torch.dtype) -> None:
    sizes = Sizes(steps=4, batch=3, input_size=7, hidden_size=19)
    errors = measure(cells.gru_before, "gpu", sizes=sizes, least=100, dtype=dtype)
    check(errors, most=1e-3 if dtype == torch.float32 else 0.05)


# What makes tensors, or looks at them in another way, and starts nothing on a GPU itself.
VIEWS = "alias as_strided detach empty empty_like empty_strided flatten new_empty new_zeros select slice t to transpose unbind view"
NOTHING = {f"aten::{name}" for name in VIEWS.split()}


def started(run: Callable[[], object]) -> list[str]:
    """Returns the names of torch's operations in a run that would start something on a GPU."""
    run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    found = []
    for event in profile.events() or ():
        around, names = event, []
        while around is not None:
            names += [around.name] if around.name.startswith("aten::") and around.name not in NOTHING else []
            around = around.cpu_parent
        found += names if names == [event.name] else []
    return [name.removeprefix("aten::") for name in found]


@pytest.mark.usefixtures("resident")
def test_a_call_starts_few_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of the time of a short sequence is the time in which Python starts things."""
    monkeypatch.setattr(choice, "make", functools.cache(choice.make))
    of = layer("lstm", 3, 17, dtype=torch.float32)
    x = torch.randn(5, 4, 3, requires_grad=True)
    leaves, kernels = [x, *of.parameters()], []

    def train() -> None:
        output, _ = of(x)
        torch.autograd.grad(output, leaves, output.detach())

    monkeypatch.setattr(Resident, "start", lambda loop, *numbers: kernels.append(loop.form.name))
    with elman.use_engine("gpu"):
        initial_states = ["zero_", "zero_"]
        assert started(torch.no_grad()(lambda: of(x))) == [*initial_states, "addmm"]
        of_weights = ["mm", "sum", "addmm_", "addmm_", "sum"]  # of the recurrent ones, the first step is by itself
        assert started(train) == [*initial_states, "addmm", *of_weights, "addmm_"]
    # Each run is done twice, and a new loop is tried out.
    assert kernels == ["infer"] * 3 + ["forward"] * 2 + ["backward"] * 2 + ["forward", "backward"]


def test_it_is_imported_when_first_used(forks: Forks) -> None:
    code = "import sys, elman; elman.LSTM(2, 3)(elman.recurrent.torch.ones(1, 1, 2)); print(*sys.modules)"
    (done,) = forks.run(Child(code))
    printed = done.stdout.split()
    assert "elman.gpu" in printed
    assert "elman.gpu.steps" not in printed
