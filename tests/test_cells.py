"""The equations against an oracle, the graph against the equations, and what a cell may and may not be."""

from __future__ import annotations

import copy
import functools
import gc
import pickle
import random
import warnings
import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, sigmoid, tanh
from torch.nn import functional
from torch.nn.functional import linear

import elman
import oracle
from cases import CELLS, DEPTH_NAMES, DEPTHS, LAYERS, as_tuple, close, hidden, inputs, layer, normal, recurrent, run
from elman import Cell, Recurrent, SlowCellWarning, State, cells, graph, operations
from elman.cell import cell, factors

STEPS, BATCH, INPUT, HIDDEN = 4, 2, 3, 3


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
@pytest.mark.parametrize(("layers", "bidirectional"), DEPTHS, ids=DEPTH_NAMES)
@pytest.mark.parametrize("name", LAYERS)
def test_reference_is_the_oracle(name: str, layers: int, bidirectional: bool, bias: bool) -> None:
    of = layer(name, INPUT, HIDDEN, num_layers=layers, bidirectional=bidirectional, bias=bias)
    x, states = inputs(of, STEPS, BATCH)
    parameters = {name: p.tolist() for name, p in of.named_parameters()}
    with elman.use_engine("reference"):
        output, h_n = of(x, hidden(states))
    expected, final = oracle.run(
        name, parameters, x.tolist(), [s.tolist() for s in states], layers, 2 if bidirectional else 1
    )
    close(output, torch.tensor(expected, dtype=torch.float64))
    for mine, oracles in zip(as_tuple(h_n), final, strict=True):
        close(mine, torch.tensor(oracles, dtype=torch.float64))


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_runs_its_own_cell(name: str) -> None:
    assert layer(name, INPUT, HIDDEN).cell is cells.by_name(name)


def product(of: Recurrent, kind: str, v: Tensor) -> Tensor:
    """All rows of the first layer's weight_ih or weight_hh with their bias."""
    return linear(v, of.get_parameter(f"weight_{kind}_l0"), of.get_parameter(f"bias_{kind}_l0"))


# A step on its own, without a layer: every name it may read, drawn at random.


def materials(cell: Cell, seed: int = 0) -> dict[str, Any]:
    """x, R, s, p and P for one step of a cell."""
    proj = HIDDEN - 1
    widths = dict(zip(cell.states, cell.widths(HIDDEN, proj), strict=True))
    width = widths[cell.states[0]]
    matrices = {g: normal(HIDDEN, width, seed=seed + 10 + k) for k, g in enumerate(cell.gates)}
    biases = {g: normal(HIDDEN, seed=seed + 20 + k) for k, g in enumerate(cell.gates)}
    narrow = {name: normal(proj, HIDDEN, seed=seed + 30 + k) for k, name in enumerate(cell.projected)}
    return {
        "x": State(**{g: normal(BATCH, HIDDEN, seed=seed + 40 + k) for k, g in enumerate(cell.gates)}),
        "R": factors(cell.gates, lambda gate, v: v @ matrices[gate].t() + biases[gate]),
        "s": State(**{name: normal(BATCH, w, seed=seed + 50 + k) for k, (name, w) in enumerate(widths.items())}),
        "p": State(**{name: normal(HIDDEN, seed=seed + 60 + k) for k, name in enumerate(cell.vectors)}),
        "P": factors(cell.projected, lambda name, v: v @ narrow[name].t()),
    }


def same_as_direct(cell: Cell) -> None:
    for seed in range(0, 300, 100):
        given = materials(cell, seed)
        direct = cell(**given)
        traced = graph.trace(cell)
        values = traced.evaluate(**given)
        assert tuple(traced.outputs) == cell.states
        for name, node in traced.outputs.items():
            assert torch.equal(values[node.index], getattr(direct, name))


@pytest.mark.parametrize("name", LAYERS)
def test_graph_evaluates_to_the_step(name: str) -> None:
    same_as_direct(cells.by_name(name))


def every_operation(x, R, s):
    a = R.a @ s.h + x.a
    b = torch.maximum(a, x.b) - torch.minimum(s.h, 0.5 * a)
    c = torch.exp(-torch.abs(b)) + torch.sqrt(torch.abs(a)) / (2 + torch.log(1 + a * a))
    d = a.sigmoid() - b.tanh() + c.relu() - 3 / (1 + s.h.abs())
    c = c + torch.log1p(a.square()) - torch.erf(b)
    e = torch.add(a, b) * torch.sub(c, d) + torch.mul(d, a) - torch.div(b, 2.0) + torch.neg(c)
    return State(h=tanh(e) - 1)


def test_graph_knows_every_operation_it_lists() -> None:
    cell = Cell(every_operation, gates=("a", "b"))
    used = {node.op for node in graph.trace(cell).nodes}
    assert set(operations.OF_STEPS) <= used
    same_as_direct(cell)


@pytest.mark.parametrize("function", [functional.relu, functional.tanh, functional.sigmoid, torch.special.erf])
def test_functions_of_nn_functional(function: Callable[[Any], Any]) -> None:
    same_as_direct(of_v(lambda v, h: function(v)))


def spelled_out(x, R, s):
    return State(h=sigmoid(x.g + R.g @ s.h) * tanh(sigmoid(x.g + R.g @ s.h)) + (1 - sigmoid(x.g + R.g @ s.h)) * s.h)


def named_once(x, R, s):
    g = sigmoid(x.g + R.g @ s.h)
    return State(h=g * tanh(g) + (1 - g) * s.h)


def nodes(cell: Cell) -> list[tuple[Any, ...]]:
    return [(n.op, n.name, n.value, tuple(a.index for a in n.arguments)) for n in graph.trace(cell).nodes]


def test_equal_expressions_are_one_node() -> None:
    once, thrice = Cell(named_once, gates=("g",)), Cell(spelled_out, gates=("g",))
    assert nodes(once) == nodes(thrice)
    assert len(set(nodes(once))) == len(nodes(once))
    same_as_direct(thrice)


def test_different_numbers_and_orders_stay_apart() -> None:
    def step(x, R, s):
        v = x.g + R.g @ s.h
        return State(h=(v - s.h) + (s.h - v) * 3 + v * 2)

    cell = Cell(step, gates=("g",))
    assert sum(node.op == "sub" for node in graph.trace(cell).nodes) == 2
    same_as_direct(cell)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("rnn", {"R": 1, "x": 1, "s": 1, "tanh": 1}),
        ("rnn_relu", {"R": 1, "x": 1, "s": 1, "relu": 1}),
        ("lstm", {"R": 4, "x": 4, "s": 2, "sigmoid": 3, "tanh": 2}),
        ("peephole_lstm", {"R": 4, "x": 4, "s": 2, "p": 3, "sigmoid": 3, "tanh": 2}),
        ("coupled_lstm", {"R": 3, "x": 3, "s": 2, "sigmoid": 2, "tanh": 2, "number": 1}),
        ("coupled_peephole_lstm", {"R": 3, "x": 3, "s": 2, "p": 2, "sigmoid": 2, "tanh": 2, "number": 1}),
        ("gru", {"R": 3, "x": 3, "s": 1, "sigmoid": 2, "tanh": 1, "number": 1}),
        ("gru_before", {"R": 3, "x": 3, "s": 1, "sigmoid": 2, "tanh": 1, "number": 1}),
        ("projected_lstm", {"R": 4, "x": 4, "s": 2, "P": 1, "sigmoid": 3, "tanh": 2}),
    ],
)
def test_what_a_graph_holds(name: str, counts: dict[str, int]) -> None:
    seen = Counter(node.op for node in graph.trace(cells.by_name(name)).nodes)
    arithmetic = ("add", "sub", "mul")
    assert {op: n for op, n in seen.items() if op not in arithmetic} == counts


SIGMOIDS = {"i", "f", "o", "r", "z"}


@pytest.mark.parametrize("name", CELLS)
def test_gate_is_the_first_function_of_its_sum(name: str) -> None:
    """Where products and peepholes are zero, a gate is its function of x.g alone."""
    cell = cells.by_name(name)
    traced = graph.trace(cell)
    given = materials(cell)
    given["R"] = factors(cell.gates, lambda gate, v: torch.zeros(BATCH, HIDDEN, dtype=torch.float64))
    given["p"] = State(**{v: torch.zeros(HIDDEN, dtype=torch.float64) for v in cell.vectors})
    values = traced.evaluate(**given)
    for gate in cell.gates:
        node = traced.gate(gate)
        function = sigmoid if gate in SIGMOIDS else torch.relu if name == "rnn_relu" else tanh
        assert node.op == function.__name__
        assert torch.equal(values[node.index], function(getattr(given["x"], gate)))
        below = ancestors(node)
        assert any(n.op == "R" and n.name == gate for n in below)
        assert {n.name for n in below if n.op == "p"} <= {gate, "i", "f"}
        assert any(n.op == "p" and n.name == gate for n in below) == (gate in cell.vectors)


def ancestors(node: graph.Node) -> list[graph.Node]:
    found = list(node.arguments)
    for n in found:
        found += [a for a in n.arguments if all(a is not known for known in found)]
    return found


def test_gate_of_another_name() -> None:
    with pytest.raises(KeyError, match="q"):
        graph.trace(cells.lstm).gate("q")


def test_a_gate_that_several_values_read_is_its_share() -> None:
    traced = graph.trace(Cell(lambda x, R, s: State(h=tanh(x.a) * sigmoid(x.a) + R.a @ s.h), gates=("a",)))
    assert traced.gate("a").op == "x"


# What a graph refuses. Every refusal is a NotTraceable: whoever asks for a graph need catch nothing else.


def of_v(function: Callable[[Any, Any], Any]) -> Cell:
    def step(x, R, s):
        return State(h=function(x.g + R.g @ s.h, s.h))

    return Cell(step, gates=("g",), name="step")


def test_sin_is_refused_by_name_and_still_runs() -> None:
    cell = of_v(lambda v, h: torch.sin(v))
    with pytest.raises(graph.NotTraceable, match="calls sin") as caught:
        graph.trace(cell)
    for known in operations.KNOWN:
        assert known in str(caught.value)

    of = recurrent(cell, INPUT, HIDDEN)
    x, (h_0,) = inputs(of, STEPS, BATCH)
    with pytest.warns(elman.SlowCellWarning, match="^cell 'step' runs in plain PyTorch, .*calls sin"):
        output, h_n = of(x, h_0)
    with warnings.catch_warnings():  # a second time would be an error: it is said once
        warnings.simplefilter("error")
        of(x, h_0)
        Recurrent(cell, INPUT, HIDDEN)(x.float())
    h = h_0[0]
    for t in range(STEPS):
        h = torch.sin(product(of, "ih", x[t]) + product(of, "hh", h))
        close(output[t], h)
    close(h_n[0], h)
    with pytest.raises(graph.NotTraceable, match="sin"):
        elman.trace(of, x)


class Clock:
    def __init__(self) -> None:
        self.calls = 0

    def step(self, x, R, s):
        self.calls += 1
        return State(h=tanh(x.a + R.a @ s.h) if self.calls % 2 else s.h * 1.0)


def by_type(v):
    return 2 * v if isinstance(v, torch.Tensor) else v


def by_type_a_little(v):
    return 1.0002 * v if isinstance(v, torch.Tensor) else v


def by_trial(v):
    try:
        return v.cos()
    except TypeError:
        return v


ANOTHER = "the step returns another h for tensors than for the symbols of a graph; a step treats all that"
AGAIN = "the step returns another h when it runs again; a step depends on nothing but what it is given"


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (lambda x, R, s: State(h=tanh(by_type(x.a) + R.a @ s.h)), ANOTHER),
        (lambda x, R, s: State(h=tanh(by_type_a_little(x.a) + R.a @ s.h)), ANOTHER),
        (lambda x, R, s: State(h=tanh(by_trial(x.a) + R.a @ s.h)), ANOTHER),
        (lambda x, R, s: State(h=tanh(x.a + R.a @ s.h) if type(s.h) is torch.Tensor else s.h * 1.0), ANOTHER),
        (Clock().step, AGAIN),
        (lambda x, R, s: State(h=tanh(x.a + R.a @ s.h) + random.gauss(0, 1)), AGAIN),
    ],
    ids=["type", "type, a little", "trial", "type of one", "count", "chance"],
)
def test_a_step_that_is_not_its_graph_runs_as_it_is(step: Any, why: str) -> None:
    of = recurrent(Cell(step, gates=("a",), name="other"), 3, 4)
    x = normal(5, 2, 3, seed=0)
    with pytest.warns(SlowCellWarning, match=why):
        output = of(x)[0]
    with elman.use_engine("cpu"), pytest.raises(RuntimeError, match=why):
        of(x)
    if why == ANOTHER:
        with elman.use_engine("reference"):
            close(output, of(x)[0])


def test_a_state_beside_the_output_is_compared_with_the_graph_too() -> None:
    def counting(x, R, s):
        return State(h=tanh(x.a + R.a @ s.h), c=s.c + by_type(x.a))

    of = recurrent(Cell(counting, gates=("a",), states=("h", "c")), 3, 4)
    with pytest.warns(SlowCellWarning, match="the step returns another c for tensors"):
        of(normal(5, 2, 3, seed=0))


def test_a_step_may_give_nan_for_random_numbers() -> None:
    of = recurrent(Cell(lambda x, R, s: State(h=torch.log(x.a) + R.a @ s.h), gates=("a",)), 3, 4)
    assert elman.describe(of, normal(5, 2, 3, seed=0)).engines[0].engine == "cpu"


def test_equations_are_the_same_in_another_order_only() -> None:
    """By them, a cell in an ONNX file is found to be a built-in one."""

    def of(step: Any, **names: Any) -> str:
        return graph.equations(Cell(step, **{"gates": ("a", "b"), "states": ("h", "c"), **names}))

    def first(x, R, s):
        return State(h=tanh(x.a + R.a @ s.h) - 0.5 * s.c, c=sigmoid(x.b))

    def reordered(x, R, s):
        b = sigmoid(x.b)
        return State(h=tanh(R.a @ s.h + x.a) - s.c * 0.5, c=b)

    others = [
        lambda x, R, s: State(h=tanh(x.a + R.a @ s.h) - 0.25 * s.c, c=sigmoid(x.b)),  # another number
        lambda x, R, s: State(h=0.5 * s.c - tanh(x.a + R.a @ s.h), c=sigmoid(x.b)),  # another side of a minus
        lambda x, R, s: State(h=tanh(x.a + R.b @ s.h) - 0.5 * s.c, c=sigmoid(x.b)),  # another matrix
        lambda x, R, s: State(h=sigmoid(x.b), c=tanh(x.a + R.a @ s.h) - 0.5 * s.c),  # states that change places
        lambda x, R, s: State(h=tanh(x.a + R.a @ s.h) - 0.5 * s.c, c=tanh(x.b)),  # another function
    ]
    assert of(first) == of(reordered) == of(first, gates=("b", "a"))
    assert len({of(first), *map(of, others)}) == 1 + len(others)


FIRST: dict[str, Callable[[Recurrent, torch.Tensor], Any]] = {
    "vmap": lambda of, x: torch.vmap(lambda x: of(x)[0])(x[None]),
    "jvp": lambda of, x: torch.func.jvp(lambda x: of(x)[0], (x,), (x,)),
    "export": lambda of, x: torch.export.export(of, (x,)),
    "inference mode": lambda of, x: torch.inference_mode()(of)(x),
    "autocast": lambda of, x: torch.autocast("cpu")(of)(x),
    "default device": lambda of, x: of(x),
}


@pytest.mark.parametrize("name", FIRST)
def test_a_cell_may_first_be_used_anywhere(name: str) -> None:
    """Its graph is compared with its step then, by numbers."""
    of = recurrent(Cell(lambda x, R, s: State(h=tanh(x.a + R.a @ s.h) * (x.a > 0)), gates=("a",)), 3, 4)
    x = normal(5, 2, 3, seed=0)
    with torch.device("meta") if name == "default device" else nullcontext():
        FIRST[name](of, x)
    assert {choice.engine for choice in elman.describe(of, x).engines} == {"cpu"}


@pytest.mark.parametrize(
    "change",
    [lambda v: functional.relu(v, inplace=True), lambda v: tanh(v, out=v), lambda v: v.detach().mul_(2)],
    ids=["option", "out", "part"],
)
@pytest.mark.parametrize("inference", [False, True])
def test_what_a_step_is_given_stays_as_it_is(change: Any, inference: bool) -> None:
    with (
        torch.inference_mode(inference),
        pytest.raises(TypeError, match=r"the step changes s\.h in place|a step changes no value in place"),
    ):
        recurrent(Cell(lambda x, R, s: State(h=change(s.h) * 1.0 + x.a + R.a @ s.h), gates=("a",)), 3, 4)


def test_nothing_is_said_of_a_slow_cell_where_no_kernels_would_run_it() -> None:
    cell = of_v(lambda v, h: torch.cos(v))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with elman.use_engine("reference"):
            Recurrent(cell, INPUT, HIDDEN)(torch.randn(2, 3, INPUT))
        of = Recurrent(cell, INPUT, HIDDEN, dtype=torch.complex64)
        of(torch.randn(2, 3, INPUT, dtype=torch.complex64))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda v, h: v.digamma(), r"\.digamma"),
        (lambda v, h: v.clamp(min=h), r"clamp .*plain numbers"),
        (lambda v, h: v if v.sum() > 0 else h, r"\.sum"),
        (
            lambda v, h: v**2.5,
            "pow .*whole number from 1 to 8, 0.5, or minus one of these; for others, of values above 0",
        ),
        (lambda v, h: v**0, "pow .*whole number from 1 to 8"),
        (
            lambda v, h: ((v > 0) & 1) * h,
            r"joins a comparison with a value of type int; write \(v > 0\) &",
        ),
        (lambda v, h: 2**v, r"applies \*\*"),
        (lambda v, h: torch.add(v, h, alpha=2), "add with alpha"),
        (lambda v, h: torch.reciprocal(v), "reciprocal"),
        (lambda v, h: v * torch.full((1,), 0.5), "Tensor"),
        (lambda v, h: torch.full((1, 2), 0.5), "depends on nothing"),
        (lambda v, h: v if (v > 0).all() else h, "."),
        (lambda v, h: functional.silu(v, inplace=True), "silu"),
    ],
    ids=[
        "method",
        "method-with-option",
        "sum",
        "power",
        "power-zero",
        "number-and-condition",
        "power-of-a-number",
        "option",
        "function",
        "tensor",
        "constant",
        "if",
        "inplace",
    ],
)
def test_refused(function: Callable[[Any, Any], Any], message: str) -> None:
    with pytest.raises(graph.NotTraceable, match=message):
        graph.trace(of_v(function))


def test_a_decision_on_a_symbol_is_refused() -> None:
    """Only a symbol gets here: an `if` on a tensor of more than one number is torch's own error."""

    def decide(v: Any, h: Any) -> Any:
        return v if isinstance(v, Tensor) or v else h

    def compare(v: Any, h: Any) -> Any:
        return v if isinstance(v, Tensor) or v > h else h

    for function in (decide, compare):
        with pytest.raises(graph.NotTraceable, match=r"decides on a value .*where"):
            graph.trace(of_v(function))


def test_numbers_of_numpy_are_numbers() -> None:
    half: Any = np.float32(0.5)
    two: Any = np.int64(2)
    same_as_direct(of_v(lambda v, h: half * v - h * half + (two - v).clamp(min=-half) / two))
    same_as_direct(of_v(lambda v, h: torch.where(half < v, v, half) * (h > half) + half * (v > h)))


def test_abs_is_an_operator_too() -> None:
    same_as_direct(of_v(lambda v, h: abs(v)))


# The record and the step must agree.


def plain(x, R, s):
    return State(h=tanh(x.g + R.g @ s.h))


@pytest.mark.parametrize(
    ("step", "record", "error", "message"),
    [
        (lambda x, R, s: State(h=x.q), {}, ValueError, r"reads [xR]\.q, which the cell does not declare"),
        (lambda x, R, s: State(h=x.g + R.q @ s.h), {}, ValueError, r"reads [xR]\.q, which the cell does not declare"),
        (lambda x, R, s: State(h=x.g + s.c), {}, ValueError, r"reads s\.c, which the cell does not declare"),
        (lambda x, R, s, p: State(h=x.g + p.g * s.h), {}, ValueError, r"reads p\.g, which .*; add 'g' to vectors$"),
        (lambda x, R, s, P: State(h=P.h @ x.g), {}, ValueError, r"reads P\.h, which .*; add 'h' to projected$"),
        (
            lambda x, R, s: State(h=x.g + s.h, c=x.g),
            {},
            ValueError,
            r"declares the states \('h',\).*returns \('h', 'c'\)",
        ),
        (lambda x, R, s: State(h=x.g + s.h), {"states": ("h", "c")}, ValueError, r"declares.*'c'.*returns \('h',\)"),
        (lambda x, R, s: State(c=x.g, h=x.g), {"states": ("h", "c")}, ValueError, r"returns \('c', 'h'\)"),
        (lambda x, R, s: x.g + R.g @ s.h, {}, ValueError, "returns a Tensor"),
        (plain, {"gates": ("g", "k")}, ValueError, r"declares the gates \['k'\]"),
        (
            plain,
            {"vectors": ("k", "m")},
            ValueError,
            r"declares the vectors \['k', 'm'\] but its step does not use p.v",
        ),
        (plain, {"gates": ("g", "g")}, ValueError, "gates has a name twice"),
        (plain, {"states": ("h", "h")}, ValueError, "states has a name twice"),
        (plain, {"gates": "g"}, TypeError, "gates must be a tuple of names, got 'g'"),
        (plain, {"states": "h"}, TypeError, "states must be a tuple"),
        (plain, {"vectors": "g"}, TypeError, "vectors must be a tuple"),
        (plain, {"projected": "h"}, TypeError, "projected must be a tuple"),
        (plain, {"gates": (1,)}, TypeError, "gates must be a tuple of names"),
        (plain, {"gates": ("not a name",)}, TypeError, "gates must be a tuple of names"),
        (plain, {"gates": ("_i",)}, ValueError, "gates has '_i'; let no name begin with an underscore"),
        (functools.partial(plain), {"name": ""}, TypeError, r"has no name; give the cell one: Cell\(step, ..., name="),
        (plain, {"states": ()}, ValueError, "at least one state"),
        (
            plain,
            {"projected": ("h",)},
            ValueError,
            r"two units, projected to one, the state h came out as \(1, 2\) instead of \(1, 1\)",
        ),
        (
            lambda x, R, s: State(h=(x.g + R.g @ s.h)[:, :1]),
            {},
            ValueError,
            r"came out as \(1, 1\) instead of \(1, 2\)",
        ),
        (
            lambda x, R, s: State(h=(x.g + R.g @ s.h).mean(-1, keepdim=True)),
            {},
            ValueError,
            r"came out as \(1, 1\) instead of \(1, 2\); a mean or sum alone has no units, so add 0 \* s.h$",
        ),
        (
            lambda x, R, s, p: State(h=sigmoid(x.g + R.g @ s.h), c=sigmoid(p.v)),
            {"states": ("h", "c"), "vectors": ("v",)},
            ValueError,
            r"for one sequence of two units, the state c came out as \(2,\) instead of \(1, 2\); .*, so add 0 \* s.c$",
        ),
        (lambda x, R, s, q: State(h=x.g), {}, TypeError, r"asks for \['q'\].*x, R, s, p, P"),
        (lambda x, S: State(h=x.g), {}, TypeError, r"asks for \['S'\]"),
    ],
)
def test_errors_of_a_cell(step: Any, record: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Recurrent(
            Cell(step, **{"gates": ("g",), "name": "mine", **record}),
            INPUT,
            HIDDEN,
            proj_size=2 if "projected" in record else 0,
        )


def test_errors_name_the_cell() -> None:
    with pytest.raises(TypeError, match="'plain'"):
        Cell(plain, gates="g")  # pyright: ignore[reportArgumentType]


# Cells that the library does not have.


def minimal_gated_unit(x, R, s):
    """Zhou et al. (2016): one gate forgets and resets."""
    f = sigmoid(x.f + R.f @ s.h)
    n = tanh(x.n + R.n @ (f * s.h))
    return State(h=(1 - f) * s.h + f * n)


def update_gate_rnn(x, R, s):
    """UGRNN, Collins et al. (2016)."""
    g = sigmoid(x.g + R.g @ s.h + 1)
    n = tanh(x.n + R.n @ s.h)
    return State(h=g * s.h + (1 - g) * n)


def one_gate_two_operands(x, R, s):
    a = tanh(x.g + R.g @ s.h)
    return State(h=a * sigmoid(R.g @ (a * s.c)), c=a + R.g @ s.h)


def leaky(x, R, s, p):
    """A gate that the state does not reach, and one that the input does not."""
    write = tanh(x.write)
    keep = sigmoid(R.keep @ s.h + p.leak * s.h)
    return State(h=keep * s.h + write)


MGU = Cell(minimal_gated_unit, gates=("f", "n"))
UGRNN = Cell(update_gate_rnn, gates=("g", "n"))
TWO_OPERANDS = Cell(one_gate_two_operands, gates=("g",), states=("h", "c"))
LEAKY = Cell(leaky, gates=("write", "keep"), vectors=("leak",))
OWN = {"mgu": MGU, "ugrnn": UGRNN, "two_operands": TWO_OPERANDS, "leaky": LEAKY}


def by_hand(name: str, of: Recurrent, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """One layer, one direction, every product written out: output and final states."""

    def share(kind: str, gate: int, v: Tensor) -> Tensor:
        rows = slice(gate * HIDDEN, (gate + 1) * HIDDEN)
        return linear(v, of.get_parameter(f"weight_{kind}_l0")[rows], of.get_parameter(f"bias_{kind}_l0")[rows])

    state: tuple[Tensor, ...] = tuple(s[0] for s in states)
    outputs = []
    for x_t in x:
        h, *c = state
        if name == "mgu":
            f = sigmoid(share("ih", 0, x_t) + share("hh", 0, h))
            state = ((1 - f) * h + f * tanh(share("ih", 1, x_t) + share("hh", 1, f * h)),)
        elif name == "ugrnn":
            g = sigmoid(share("ih", 0, x_t) + share("hh", 0, h) + 1)
            state = (g * h + (1 - g) * tanh(share("ih", 1, x_t) + share("hh", 1, h)),)
        elif name == "two_operands":
            a = tanh(share("ih", 0, x_t) + share("hh", 0, h))
            state = (a * sigmoid(share("hh", 0, a * c[0])), a + share("hh", 0, h))
        else:
            state = (
                sigmoid(share("hh", 0, h) + of.get_parameter("weight_ch_l0")[0] * h) * h + tanh(share("ih", 0, x_t)),
            )
        outputs.append(state[0])
    return (torch.stack(outputs), *(s[None] for s in state))


@pytest.mark.parametrize("name", OWN)
def test_own_cell(name: str) -> None:
    of = recurrent(OWN[name], INPUT, HIDDEN)
    x, states = inputs(of, STEPS, BATCH)
    for mine, hand in zip(run(of, x, states), by_hand(name, of, x, states), strict=True):
        close(mine, hand)


@pytest.mark.parametrize("name", OWN)
def test_own_cell_deep_and_bidirectional(name: str) -> None:
    """Against the same cell one layer and direction at a time."""
    of = recurrent(OWN[name], INPUT, HIDDEN, num_layers=2, bidirectional=True)
    x, states = inputs(of, STEPS, BATCH)
    results = run(of, x, states)
    finals = []
    halves = []
    for row, suffix in enumerate(("l0", "l0_reverse", "l1", "l1_reverse")):
        single = Recurrent(OWN[name], x.shape[2], HIDDEN, dtype=torch.float64)
        single.load_state_dict({k.replace(suffix, "l0"): v for k, v in of.state_dict().items() if k.endswith(suffix)})
        reverse = row % 2 == 1
        output, *final = by_hand(name, single, x.flip(0) if reverse else x, tuple(s[row : row + 1] for s in states))
        halves.append(output.flip(0) if reverse else output)
        finals.append(final)
        if reverse:
            x = torch.cat(halves, dim=2)
            halves = []
    close(results[0], x)
    for k, state in enumerate(results[1:]):
        close(state, torch.cat([final[k] for final in finals]))


@pytest.mark.parametrize("name", OWN)
def test_own_cell_gradcheck(name: str) -> None:
    of = recurrent(OWN[name], 2, 2)
    x, states = inputs(of, 3, 2)
    names, parameters = zip(*of.named_parameters(), strict=True)

    def call(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(names, rest[len(states) :], strict=True))
        output, h_n = torch.func.functional_call(of, given, (x, hidden(rest[: len(states)])))
        return (output, *as_tuple(h_n))

    leaves = [v.detach().clone().requires_grad_() for v in (x, *states, *parameters)]
    assert torch.autograd.gradcheck(call, leaves)


@pytest.mark.parametrize("name", OWN)
def test_own_cell_is_traced(name: str) -> None:
    same_as_direct(OWN[name])


def test_rows_of_own_cells() -> None:
    def shapes(cell: Cell) -> dict[str, tuple[int, ...]]:
        return {name: tuple(p.shape) for name, p in Recurrent(cell, 5, 4).named_parameters()}

    assert shapes(MGU) == {"weight_ih_l0": (8, 5), "weight_hh_l0": (8, 4), "bias_ih_l0": (8,), "bias_hh_l0": (8,)}
    assert shapes(TWO_OPERANDS) == {
        "weight_ih_l0": (4, 5),
        "weight_hh_l0": (4, 4),
        "bias_ih_l0": (4,),
        "bias_hh_l0": (4,),
    }
    assert shapes(LEAKY) == {
        "weight_ih_l0": (4, 5),
        "weight_hh_l0": (4, 4),
        "bias_ih_l0": (4,),
        "bias_hh_l0": (4,),
        "weight_ch_l0": (1, 4),
    }


def test_gates_are_found_in_own_cells() -> None:
    traced = graph.trace(LEAKY)
    assert traced.gate("write").op == "tanh"
    assert traced.gate("keep").op == "sigmoid"
    assert graph.trace(UGRNN).gate("g").op == "sigmoid"  # through two sums


def no_input(x, R, s):
    return State(h=tanh(R.g @ s.h))


def no_recurrence(x, R, s):
    return State(h=tanh(x.g))


def test_cells_without_input_or_recurrence() -> None:
    free = recurrent(Cell(no_input, gates=("g",)), INPUT, HIDDEN)
    x, (h_0,) = inputs(free, STEPS, BATCH)
    assert set(dict(free.named_parameters())) == {"weight_hh_l0", "bias_hh_l0"}
    h = h_0[0]
    for y in free(x, h_0)[0]:
        h = tanh(product(free, "hh", h))
        close(y, h)

    feed = recurrent(Cell(no_recurrence, gates=("g",)), INPUT, HIDDEN)
    assert set(dict(feed.named_parameters())) == {"weight_ih_l0", "bias_ih_l0"}
    close(feed(x, h_0)[0], tanh(product(feed, "ih", x)))


# A cell is a constant.


@pytest.mark.parametrize("name", LAYERS)
def test_copies_share_the_cell(name: str) -> None:
    of = layer(name, INPUT, HIDDEN)
    x, states = inputs(of, STEPS, BATCH)
    for twin in (copy.deepcopy(of), pickle.loads(pickle.dumps(of)), copy.copy(of)):
        assert twin.cell is of.cell is cells.by_name(name)
        assert all(torch.equal(a, b) for a, b in zip(run(twin, x, states), run(of, x, states), strict=True))


@cell(gates=("g",))
def decorated(x, R, s):
    return State(h=tanh(x.g - R.g @ s.h))


def test_own_cells_are_pickled() -> None:
    assert pickle.loads(pickle.dumps(decorated)) is decorated
    assert copy.deepcopy(MGU) is MGU
    twin = pickle.loads(pickle.dumps(MGU))  # its name is its step's, so it comes back as an equal record
    assert (twin.step, twin.gates, twin.states, twin.name) == (MGU.step, MGU.gates, MGU.states, MGU.name)
    same_as_direct(twin)


def test_a_step_that_is_no_function_is_pickled_with_its_cell() -> None:
    twin = pickle.loads(pickle.dumps(Cell(functools.partial(plain), gates=("g",), name="partial")))
    same_as_direct(Cell(twin.step, gates=twin.gates, name=twin.name))


# Cells that hold more than equations.


class Scaled(torch.nn.Module):
    """A model whose method is a step."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.factor, self.function = 0.5, function
        self.layer = Recurrent(Cell(self.step, gates=("a",)), 3, 4, dtype=torch.float64)

    def step(self, x: Any, R: Any, s: Any) -> State:
        return State(h=self.factor * self.function(x.a + R.a @ s.h))


@pytest.mark.filterwarnings("ignore:cell 'step' runs in plain PyTorch")
@pytest.mark.parametrize("function", [tanh, torch.sin], ids=["kernels", "no kernels"])
def test_a_model_whose_method_is_a_step_goes(function: Callable[[Any], Any]) -> None:
    """Engines keep kernels and plans of a cell, and not what its step holds. What is under way still runs."""
    x = normal(5, 2, 3, seed=1)
    model = Scaled(function)
    with torch.no_grad():
        expected = model.layer(x)[0]
    output = model.layer(x)[0]
    parameters, gone = list(model.parameters()), weakref.ref(model)
    exact = torch.autograd.grad(output.square().sum(), parameters, retain_graph=True)
    del model
    gc.collect()
    close(torch.autograd.grad(output.square().sum(), parameters, create_graph=True), exact)
    del output
    gc.collect()
    assert gone() is None
    program = torch.export.export(Scaled(function).layer, (x,)).module()
    with torch.no_grad():
        for p, value in zip(program.parameters(), parameters, strict=True):
            p.copy_(value)
    gc.collect()
    close(program(x)[0].detach(), expected)


# Values that are made of comparisons and plain numbers.

OF_NUMBERS = {
    "a choice": lambda x, R, s: State(h=torch.where(x.a + R.a @ s.h > 0, 0.1, 0.7)),
    "a choice beside a state": lambda x, R, s: State(h=torch.where(x.a > 0, 1.1, 0.7) * s.h + R.a @ s.h),
    "whole numbers": lambda x, R, s: State(h=torch.where(x.a + R.a @ s.h > 0, 1, 0)),
    "times a number": lambda x, R, s: State(h=(x.a > 0) * 0.7 + (R.a @ s.h <= 0) / 0.3 + 0.1 * (s.h > x.a)),
    "plus a number": lambda x, R, s: State(h=0.1 * ((x.a > 0) + 0.7) - s.h * (1 + (R.a @ s.h > 0))),
    "of two conditions": lambda x, R, s: State(h=s.h * (x.a > 0) * (s.h > 0) + R.a @ ((x.a > 0) * (s.h > 0.5) + s.h)),
    "an equal condition": lambda x, R, s: State(h=(R.a @ s.h) * ((s.h > 0) == (x.a > 0)) + 0.1),
    "another condition": lambda x, R, s: State(h=s.h * ((s.h > 0) == 0) + (R.a @ s.h) * ((x.a > 0) != True) + 0.1),  # noqa: E712
    "a condition and a limit": lambda x, R, s: State(h=s.h * ((s.h > 0) < 0.5) + R.a @ s.h + 0.1 * ((x.a > 0) <= 0.7)),
    "functions of conditions": lambda x, R, s: State(
        h=torch.sigmoid(x.a > 0) * s.h + torch.exp((R.a @ s.h > 0) * (s.h > 0)) + torch.clamp(s.h > 0, 0.1, 0.7)
    ),
    "powers of conditions": lambda x, R, s: State(h=((x.a > 0) ** 2) * (R.a @ s.h) + (s.h > x.a).sigmoid()),
    "a condition and truth": lambda x, R, s: State(
        h=((x.a > 0) & True | False) * (R.a @ s.h) + 0.1 * (True & (s.h > 0))
    ),
    "one or the other": lambda x, R, s: State(h=((x.a > 0) + (x.a < 1)) * 0.7 + R.a @ s.h),
}


@pytest.mark.parametrize("name", OF_NUMBERS)
def test_values_made_of_comparisons_and_numbers(name: str) -> None:
    """They have the type of the layer, on every engine and whatever torch's default is."""
    of = recurrent(Cell(OF_NUMBERS[name], gates=("a",), name="numbers"), 3, 4)
    x, states = inputs(of, 5, 2)
    with elman.use_engine("cpu"):
        expected = run(of, x, states)
    with elman.use_engine("reference"):
        close(run(of, x, states), expected)
        close(torch.vmap(lambda x: of(x, hidden(states))[0])(x.unsqueeze(0))[0], expected[0])
    for dtype in (torch.float32, torch.bfloat16):
        single = of.to(dtype)
        with elman.use_engine("reference"):
            torch.set_default_dtype(torch.float64)
            try:
                results = run(single, x.to(dtype), tuple(s.to(dtype) for s in states))
            finally:
                torch.set_default_dtype(torch.float32)
        assert {result.dtype for result in results} == {dtype}


def test_a_compiled_layer_has_the_type_of_its_step() -> None:
    """A compiler is told the type beforehand, and would read memory as that whatever it is."""
    of = recurrent(
        Cell(OF_NUMBERS["a choice beside a state"], gates=("a",), name="numbers"), 3, 4, dtype=torch.bfloat16
    )
    x = normal(5, 2, 3, seed=0).bfloat16()
    outputs: Any = torch.export.export(of, (x,)).graph_module.graph.output_node().args[0]
    assert outputs[0].meta["val"].dtype == of(x)[0].dtype == torch.bfloat16


@pytest.mark.parametrize("engine", ["cpu", "reference"])
def test_a_final_state_may_be_changed_in_place(engine: str) -> None:
    """It is neither the caller's initial state, nor another final state, nor a part of one."""

    def step(x: Any, R: Any, s: Any) -> State:
        v = tanh(x.a + R.a @ s.h)
        return State(h=v, kept=s.kept, twin=v, of_x=x.a)

    states = ("h", "kept", "twin", "of_x")
    of = recurrent(Cell(step, gates=("a",), states=states), 3, 4, learn_initial_state=True)
    x, given = inputs(of, 3, 2)
    for lengths in (None, [0, 3]):
        before = [state.clone() for state in given]
        with elman.use_engine(engine), torch.no_grad():
            expected = [state.clone() for state in of(x, given, lengths=lengths)[1]]
            for k in range(4):
                finals = of(x, given, lengths=lengths)[1]
                finals[k].add_(1)
                for j, (final, exact) in enumerate(zip(finals, expected, strict=True)):
                    close(final, exact + (j == k))
            for final in of(x, lengths=lengths)[1]:
                final.add_(1)
        close(list(given), before)


def test_a_step_that_mixes_sequences_is_refused() -> None:
    def step(x: Any, R: Any, s: Any) -> State:
        return State(h=torch.sin(s.h.mean(0, keepdim=True) + R.a @ s.h[:1]))

    of = recurrent(Cell(step, gates=("a",)), 3, 4)
    message = r"state h came out as \(1, 4\) instead of \(3, 4\); a step computes each"
    with elman.use_engine("reference"), pytest.raises(RuntimeError, match=message):
        of(normal(5, 3, 3, seed=0))


def test_by_name() -> None:
    assert cells.by_name("LSTM") is cells.lstm
    assert cells.by_name("peephole-LSTM") is cells.peephole_lstm
    with pytest.raises(ValueError, match="unknown cell 'lsmt'; did you mean 'lstm'"):
        cells.by_name("lsmt")
    with pytest.raises(ValueError, match=r"did you mean 'coupled_lstm'"):
        cells.by_name("coupled_lst")
    with pytest.raises(ValueError, match="unknown cell 'transformer'") as caught:
        cells.by_name("transformer")
    assert "did you mean" not in str(caught.value)
    for name in LAYERS:
        assert name in str(caught.value)


@pytest.mark.parametrize("name", LAYERS)
def test_every_cell_names_its_source(name: str) -> None:
    cell = cells.by_name(name)
    assert cell.reference
    assert cell.__doc__
    assert "Source" in cell.__doc__
