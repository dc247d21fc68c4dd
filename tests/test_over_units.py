"""Means and sums over all units of a row in a step: layer normalisation, on every engine that makes kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import sigmoid, tanh
from torch.nn.functional import layer_norm, rms_norm

import elman
import quick_triton  # noqa: F401
import test_rows
from accuracy import check, measure
from cases import close, inputs, recurrent, run
from elman import Cell, State, graph
from elman.cell import cell as define
from elman.gpu import resident
from elman.gpu.loop import Form
from settings import shared_units, two_threads
from test_cpu import by, everything, inferred_as_trained
from test_cpu_cells import agree

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning")  # of numpy, where nothing is stored


@define(
    gates=("i", "f", "g", "o"),
    states=("h", "c"),
    vectors=("f", "c", "d"),
    reference="Ba, Kiros & Hinton (2016), with a mean and a variance for each gate",
)
def layer_norm_lstm(x: Any, R: Any, s: Any, p: Any) -> State:
    def norm(v: Any) -> Any:
        return layer_norm(v, v.shape[-1:])

    i = sigmoid(norm(x.i + R.i @ s.h))
    f = sigmoid(norm(x.f + R.f @ s.h) * (1 + p.f) + 1)
    g = tanh(norm(x.g + R.g @ s.h))
    o = sigmoid(norm(x.o + R.o @ s.h))
    c = f * s.c + i * g
    return State(h=o * tanh(layer_norm(c, c.shape[-1:], 1 + p.c, p.d)), c=c)


@define(gates=("r", "z", "n"))
def rms_gru(x: Any, R: Any, s: Any) -> State:
    """It normalises the state before the step."""
    h = rms_norm(s.h, s.h.shape[-1:], eps=1e-5)
    r = sigmoid(x.r + R.r @ h)
    z = sigmoid(x.z + R.z @ h)
    return State(h=(1 - z) * tanh(x.n + R.n @ (r * h)) + z * s.h)


@define(gates=("a", "b"), states=("h", "c"), vectors=("v",))
def in_place(x: Any, R: Any, s: Any, p: Any) -> State:
    """Means of what lies where something else is stored: a share of the input, states and their adjoints, weights."""
    h = tanh(
        0.1 * (x.a - x.a.mean(-1, keepdim=True)) + R.a @ s.h + x.b.sum(-1, keepdim=True) * p.v.mean(-1, keepdim=True)
    )
    memory = 0.9 * s.c + sigmoid(x.a)
    return State(h=h, c=memory - memory.mean(-1, keepdim=True))


@define(gates=("a",), states=("h", "c"), projected=("h",))
def projected(x: Any, R: Any, s: Any, P: Any) -> State:
    """Means of both widths."""
    h = s.h - s.h.mean(-1, keepdim=True)
    c = tanh(layer_norm(x.a + R.a @ h, s.c.shape[-1:]))
    y = P.h @ c
    return State(h=y / torch.sqrt(0.1 + y.var(-1, correction=0, keepdim=True)), c=c + 0.5 * s.c)


CELLS = (layer_norm_lstm, rms_gru, in_place, projected)
EACH = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)


def options(cell: Cell) -> dict[str, Any]:
    return {"proj_size": 3} if cell.projected else {}


@EACH
@pytest.mark.parametrize("engine", ["cpu", "gpu"])
def test_values_and_gradients(cell: Cell, engine: str) -> None:
    agree(cell, hidden_size=7, engine=engine, bidirectional=True, **options(cell))
    agree(cell, hidden_size=5, engine=engine, steps=1, batch=1, bias=False, **options(cell))
    agree(cell, hidden_size=40, engine=engine, batch=3, **options(cell))


@pytest.mark.parametrize("units", [1, 63, 64, 65, 600])
def test_widths_around_those_of_vectors(units: int) -> None:
    """With 600 units, several parts of a row each compute the mean of the whole, and each stores its part."""
    agree(in_place, hidden_size=units, batch=7)


@pytest.mark.parametrize(
    ("engine", "cell"),
    [(engine, cell) for engine in ("cpu", "gpu") for k, cell in enumerate(CELLS) if engine == "cpu" or k % 2 == 0],
    ids=lambda each: each if isinstance(each, str) else each.name,
)
def test_lengths_and_resets(cell: Cell, engine: str) -> None:
    of, case = recurrent(cell, 3, 5, bidirectional=True, **options(cell)), test_rows.Case(1, 6, 4)
    with elman.use_engine(engine):
        test_rows.compare(of, case, *inputs(of, 6, 4), torch.tensor(case.lengths), case.reset)


@EACH
@pytest.mark.parametrize("engine", ["cpu", "gpu"])
def test_as_accurate_as_torch(cell: Cell, engine: str) -> None:
    check(measure(cell, engine, least=100))


def test_half_types() -> None:
    check(measure(layer_norm_lstm, "cpu", dtype=torch.bfloat16, least=100), most=0.2)


@EACH
def test_threads_that_share_units_or_rows_do_not_change_a_bit(cell: Cell) -> None:
    for steps, batch, units in ((9, 2, 131), (5, 40, 33)):
        of = recurrent(cell, 3, units, dtype=torch.float32, bidirectional=True, **options(cell))
        x, states = inputs(of, steps, batch)
        alone = by("cpu", lambda of=of, x=x, states=states: everything(of, x, states))
        with two_threads(), shared_units():
            together = by("cpu", lambda of=of, x=x, states=states: everything(of, x, states))
        assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True)), (steps, batch, units)


@EACH
def test_inference_is_training_to_the_bit(cell: Cell) -> None:
    inferred_as_trained(recurrent(cell, 5, 33, dtype=torch.float32, **options(cell)))


def test_an_adjoint_that_a_mean_reads_first_and_a_later_phase_once_more() -> None:
    """The phases between them store the adjoint of the step before, for which two means wait for each other."""

    def step(x: Any, R: Any, s: Any) -> State:
        late = sigmoid(x.d)
        v = s.c * sigmoid(x.a)
        v = (v - v.mean(-1, keepdim=True)) * x.b
        return State(h=tanh(R.b @ tanh(R.a @ late)), c=v - v.mean(-1, keepdim=True) + 0.5 * late)

    cell = Cell(step, gates=("a", "b", "d"), states=("h", "c"))
    for engine in ("cpu", "gpu"):
        agree(cell, hidden_size=7, engine=engine)


def test_a_row_knows_nothing_of_other_rows() -> None:
    of = recurrent(layer_norm_lstm, 3, 20)
    x, states = inputs(of, 4, 3)
    x[:, 1] = torch.nan
    for engine in ("cpu", "gpu"):
        with elman.use_engine(engine), torch.no_grad():
            every, alone = run(of, x, states), run(of, x[:, ::2], tuple(s[:, ::2] for s in states))
        close([value[:, ::2] for value in every], list(alone))


def test_the_value_of_a_gate_that_is_normalised() -> None:
    traced = graph.trace(layer_norm_lstm)
    assert [traced.gate(gate).op for gate in "ifgo"] == ["sigmoid", "sigmoid", "tanh", "sigmoid"]
    assert [traced.gate(gate).arguments[0].op for gate in "if"] == ["div", "add"]
    assert graph.trace(in_place).gate("a").op == "x"  # two values read it, and one is no mean of it

    def multiplied(x: Any, R: Any, s: Any, p: Any) -> State:
        v = rms_norm(x.a + R.a @ s.h, s.h.shape[-1:], eps=1.0)
        return State(h=tanh(v * (s.h * p.v)))

    assert graph.trace(Cell(multiplied, gates=("a",), vectors=("v",))).gate("a").op == "div"


def test_a_gpu_runs_them_step_by_step() -> None:
    form = Form(
        layer_norm_lstm, "infer", False, False, (False,), 16, 64, 0, torch.float32, False, torch.device("cuda"), 0
    )
    assert resident.refusal(form) == "layer_norm_lstm sums over all units of a row"
