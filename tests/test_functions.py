"""Functions that a step may call, each in a cell of its own: against torch, on every engine that makes kernels."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch
from torch import sigmoid, tanh
from torch.autograd import gradgradcheck
from torch.nn import functional

import elman
import quick_triton  # noqa: F401
from accuracy import Sizes, check, measure
from cases import CELLS, close, gradients, hidden, inputs, recurrent, run
from elman import Cell, State, cells
from elman.graph import trace
from elman.mathematics import Term, equations, terms
from test_cells import OWN, every_operation, materials
from test_cpu_cells import agree

FUNCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "where": lambda v, h: torch.where(v > h, v, 0.3 * h) + torch.where(v <= 0.2, 1.0, 0.5) * v,
    "conditions": lambda v, h: torch.where((v > 0.2) & (h < 0.5) | ~(v != h), v, h) + v * (h >= 0.1),
    "clamp": lambda v, h: v.clamp(-0.3, 0.9) + torch.clamp(v, min=0.1) * h.clamp(max=0.2),
    "powers": lambda v, h: (0.3 * v) ** 2 + (0.1 * v) ** 4 + torch.sigmoid(h) ** 5 + (1 + h.square()) ** 0.5,
    "negative powers": lambda v, h: (1 + v * v) ** -1 + (1 + h.square()) ** -3 + (2 + torch.tanh(v)) ** -0.5,
    "softplus": lambda v, h: functional.softplus(v) + functional.softplus(9 * h, beta=2, threshold=3),
    "log1p": lambda v, h: torch.log1p(abs(v)),
    "erf": lambda v, h: torch.erf(v),
    "silu": lambda v, h: functional.silu(v),
    "gelu": lambda v, h: functional.gelu(v),
    "gelu tanh": lambda v, h: functional.gelu(v, approximate="tanh"),
    "rsqrt": lambda v, h: torch.rsqrt(1 + v * v) + (2 + torch.tanh(h)).rsqrt(),
    "expm1": lambda v, h: torch.expm1(0.5 * v) - torch.expm1(0.01 * h),
    "sign": lambda v, h: torch.sign(v) * h + v * h.sign(),
    "positive": lambda v, h: +v + torch.positive(h),
    "lerp": lambda v, h: torch.lerp(v, h, 0.3) + h.lerp(v, 0.8) + torch.lerp(v, torch.tanh(h), torch.sigmoid(v)),
    "elu": lambda v, h: functional.elu(v) + functional.elu(h, alpha=0.3),
    "leaky_relu": lambda v, h: functional.leaky_relu(v) + functional.leaky_relu(h, 0.2),
    "logsigmoid": lambda v, h: functional.logsigmoid(v) - functional.logsigmoid(9 * h),
    "comparing": lambda v, h: (
        torch.where(torch.gt(v, h), v, 0.3 * h) + v.le(0.2) * h + torch.where(h.ne(0.1).logical_not(), v, h)
    ),
    "logical": lambda v, h: torch.where(
        torch.logical_or(torch.logical_and(v > 0.2, h.less(0.5)), torch.logical_xor(h, v > 1)), v, (v < h) ^ (h > 0.1)
    ),
    "mean": lambda v, h: v - v.mean(-1, keepdim=True) + torch.mean(h * h, dim=-1, keepdim=True),
    "sum": lambda v, h: v / (2 + abs(v).sum(-1, keepdim=True)) + torch.sum((h > 0.1) * v, dim=(-1,), keepdim=True),
    "sum of a mean": lambda v, h: v * (2 * h.mean(-1, keepdim=True) + 1).sum(-1, keepdim=True).mean(-1, keepdim=True),
    "var": lambda v, h: v * v.var(-1, correction=0, keepdim=True) + torch.var(h, -1, unbiased=False, keepdim=True),
    "std": lambda v, h: v * h.std(-1, correction=0, keepdim=True) + torch.std(v, -1, unbiased=False, keepdim=True),
    "layer_norm": lambda v, h: functional.layer_norm(v, v.shape[-1:]) + torch.layer_norm(h, h.shape[-1:], eps=0.1),
    "rms_norm": lambda v, h: functional.rms_norm(v, v.shape[-1:], eps=1e-5) * h,
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


@pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning")  # where a kernel stores nothing
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
    x = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e30, -1e30, 100.0, -100.0, 0.0, 0.2])
    if name == "gelu":
        x[1] = 1e30  # torch's gelu of infinity is infinity, but NaN on processors with AVX-512
    if name == "layer_norm":
        x[3:5] /= 1e15  # torch's has NaN where the square overflows, instead of the zero that a single unit gets
    x = x.reshape(1, -1, 1)
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


def normalised(x, R, s, p):
    r = sigmoid(functional.layer_norm(x.r + R.r @ s.h, s.h.shape[-1:]))
    h = functional.rms_norm(s.h, s.h.shape[-1:], eps=1e-5) - s.h.mean(dim=-1, keepdim=True)
    v = torch.var(h, -1, correction=0, keepdim=True)
    return State(h=functional.layer_norm(r * h + v, h.shape[-1:], 1 + p.scale, bias=p.shift, eps=0.1))


def test_functions_of_all_units_as_mathematics() -> None:
    """What only says that they are over all units of a row is left out."""
    cell = Cell(normalised, gates=("r",), vectors=("scale", "shift"))
    assert equations(cell) == [
        "r_t = σ(LayerNorm(W_r x_t + b_r + R_r h_{t-1} + b'_r))",
        "h'_t = RMSNorm(h_{t-1}) - mean(h_{t-1})",
        "v_t = var(h'_t)",
        "h_t = LayerNorm(r_t ⊙ h'_t + v_t, 1 + p_scale, bias=p_shift)",
    ]
    assert terms(cell)[0][3] == Term("LayerNorm(", trace(cell).gate("r").arguments[0].index)


# The pieces of the equations, and the values that they stand for.


def half_of(v):
    return 0.5 * v


def of_everything() -> Cell:
    slope = 0.25

    def step(x, R, s, p, P):
        a = -((x.a - (s.c - p.w)) / (2 - (R.a @ (s.h * slope)))) * (p.w + 1)
        b = torch.clamp(a, min=-0.5, max=slope) ** 2 - half_of(x.b).tanh()
        d = torch.where((a > b) & ~(b != 0.5), R.b @ s.h, -(a * slope))
        narrow = P.h @ sigmoid(R.b @ tanh(s.h))
        e = R.b @ narrow
        return State(h=P.h @ d + narrow, c=a - e / b)

    return Cell(step, gates=("a", "b"), states=("h", "c"), vectors=("w",), projected=("h",))


def with_statements() -> Cell:
    deep = True

    def step(x, R, s):
        """With lines that are not equations."""
        v = x.g
        if deep:
            v = torch.relu(v + R.g @ s.h)
        v += s.h
        for _ in range(2):
            v = v.tanh()
        w = half_of(v) + v
        return State(h=w)

    return Cell(step, gates=("g",))


def candidate(x, R, s):
    f = sigmoid(x.f + R.f @ s.h)
    c = tanh(x.c + R.c @ s.h)
    return State(h=f * tanh(c), c=f * s.c + (1 - f) * c)


def again(x, R, s):
    h: Any = tanh(x.f + R.f @ s.h)
    h = 0.5 * h
    h -= +x.c
    return State(h=h, c=h)


def with_a_lambda(x, R, s):
    squash = lambda v: tanh(v) * 2  # noqa: E731
    h, c = s
    return State(h=squash(x.f + R.f @ h), c=c * torch.where(x.c > 0, torch.where(x.c < 1, c, -1.5), h))


def with_a_long_loop(x, R, s):
    h = x.f + R.c @ s.h
    for _ in range(300):
        h = tanh(h)
    return State(h=h, c=s.c)


def with_names_of_arguments(x, R, s):
    total: Any = sum(getattr(R, gate) @ s.h for gate in "fc")
    return State(h=tanh(total), c=s.c)


WRITTEN = {name: cells.by_name(name) for name in CELLS} | OWN
WRITTEN |= {"everything": of_everything(), "statements": with_statements(), "written": Cell(written, gates=("g",))}
WRITTEN |= {
    step.__name__: Cell(step, gates=("f", "c"), states=("h", "c")) for step in (candidate, again, with_a_lambda)
}
WRITTEN |= {"operations": Cell(every_operation, gates=("a", "b"))}
OF_STEPS = {
    "slope": 0.25,
    "deep": True,
    "half_of": half_of,
    "range": range,
}  # what these steps read besides their arguments


def test_the_pieces_of_a_line() -> None:
    node = {(n.op, n.name): n.index for n in trace(cells.gru_before).nodes if n.name}
    n = next(n for n in trace(cells.gru_before).nodes if n.op == "tanh").index
    assert terms(cells.gru_before)[2] == [
        Term("n_t", n),
        Term(" = ", None),
        Term("tanh(", n),
        Term("W_n x_t + b_n", node["x", "n"]),
        Term(" + ", None),
        Term("R_n ", node["R", "n"]),
        Term("(", None),
        Term("r_t", trace(cells.gru_before).gate("r").index),
        Term(" ⊙ ", None),
        Term("h_{t-1}", node["s", "h"]),
        Term(")", None),
        Term(" + b'_n", None),
        Term(")", None),
    ]
    assert terms(cells.lstm)[0][3:6] == [Term("W_i x_t + b_i", 0), Term(" + ", None), Term("R_i h_{t-1} + b'_i", 6)]
    p = next(n.index for n in trace(cells.peephole_lstm).nodes if (n.op, n.name) == ("p", "i"))
    assert Term("p_i", p) in terms(cells.peephole_lstm)[0]


def test_everything_as_mathematics() -> None:
    assert equations(WRITTEN["everything"]) == [
        "a_t = -((W_a x_t + b_a - (c_{t-1} - p_w)) / (2 - (R_a (h_{t-1} ⊙ slope_t) + b'_a))) ⊙ (p_w + 1)",
        "b_t = clamp(a_t, min=-0.5, max=slope_t)^2 - tanh(half_of(W_b x_t + b_b))",
        "d_t = R_b h_{t-1} + b'_b if a_t > b_t and not (b_t ≠ 0.5) else -(a_t ⊙ slope_t)",
        "narrow_t = P_h σ(R_b tanh(h_{t-1}) + b'_b)",
        "e_t = R_b narrow_t + b'_b",
        "h_t = P_h d_t + narrow_t",
        "c_t = a_t - e_t / b_t",
    ]
    assert equations(WRITTEN["statements"]) == [
        "g_t = ReLU(W_g x_t + b_g + R_g h_{t-1} + b'_g)",
        "v1_t = tanh(tanh(g_t + h_{t-1}))",
        "h_t = 0.5 ⊙ v1_t + v1_t",
    ]


@pytest.mark.parametrize(
    ("step", "written"),
    [
        (
            candidate,
            [
                "f_t = σ(W_f x_t + b_f + R_f h_{t-1} + b'_f)",
                "c'_t = tanh(W_c x_t + b_c + R_c h_{t-1} + b'_c)",
                "h_t = f_t ⊙ tanh(c'_t)",
                "c_t = f_t ⊙ c_{t-1} + (1 - f_t) ⊙ c'_t",
            ],
        ),
        (
            again,
            [
                "h''_t = tanh(W_f x_t + b_f + R_f h_{t-1} + b'_f)",
                "h'_t = 0.5 ⊙ h''_t",
                "h_t = h'_t - (W_c x_t + b_c)",
                "c_t = h_t",
            ],
        ),
        (
            with_a_lambda,
            [
                "f_t = tanh(W_f x_t + b_f + R_f h_{t-1} + b'_f)",
                "h_t = f_t ⊙ 2",
                "c_t = c_{t-1} ⊙ ((c_{t-1} if W_c x_t + b_c < 1 else -1.5) if 0 < W_c x_t + b_c else h_{t-1})",
            ],
        ),
        (
            with_names_of_arguments,
            ["h_t = tanh(0 + R_f h_{t-1} + b'_f + R_c h_{t-1} + b'_c)", "c_t = c_{t-1}"],
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_symbol_has_one_value(step: Any, written: list[str]) -> None:
    """A name that gets another value later has a prime, and what is no equation is written as what it does."""
    assert equations(Cell(step, gates=("f", "c"), states=("h", "c"))) == written


def test_a_long_loop_is_written_in_pieces() -> None:
    lines = equations(Cell(with_a_long_loop, gates=("f", "c"), states=("h", "c")))
    assert sum(line.count("tanh(") for line in lines) == 300
    assert max(map(len, lines)) < 150


@pytest.mark.parametrize("name", WRITTEN)
def test_pieces_have_the_values_that_they_stand_for(name: str) -> None:
    """Every piece with a value is read as Python, and so is every line, for the lines after it."""
    cell = WRITTEN[name]
    given = materials(cell)
    values = trace(cell).evaluate(**given)
    final = variables(cell, given)
    room: dict[str, Any] = vars(functional) | vars(torch) | given | OF_STEPS
    lines = terms(cell)
    assert ["".join(term.text for term in line) for line in lines] == equations(cell)
    for line in lines:
        if len(line) == 1:
            assert line[0].node is None
            exec(line[0].text, room)
            continue
        (left, node), sign, *rest = line
        right = "".join(term.text for term in rest)
        variable = left.removesuffix("_t").replace("'", "_before")
        assert sign == Term(" = ", None)
        assert node is not None
        for number, term in enumerate(rest):
            if term.node is not None:
                same(values[term.node], read(piece(rest, number), room))
        room[variable] = final[variable] if " if " in right else read(right, room)
        same(values[node], room[variable])
    for variable in (*cell.gates, *cell.states):
        if variable in room and variable in final:  # in some cells a gate is no variable of its own
            same(room[variable], final[variable])


@pytest.mark.parametrize("name", WRITTEN)
def test_which_pieces_have_values(name: str) -> None:
    """All but signs, parentheses, constants, and what is shown as source."""
    known = re.compile(r"\w+'*_t|W_\w+ x_t \+ b_\w+|\w+_\{t-1\}|p_\w+|[RP]_\w+ (\S+( \+ b'_\w+)?)?|[\wσ]+\(")
    for line in terms(WRITTEN[name]):
        if len(line) > 1:
            for term in line:
                assert (term.node is not None) == bool(known.fullmatch(term.text) and term.text != "slope_t"), term


def variables(cell: Cell, given: dict[str, Any]) -> dict[str, Any]:
    """All names in a step at its end, and the new states, as Python itself computes them."""
    found: dict[str, Any] = {}

    def watch(frame: FrameType, event: str, result: Any) -> None:
        if event == "return" and frame.f_code is cell.step.__code__:
            found.update(frame.f_locals | vars(result))

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        cell(**given)
    finally:
        sys.setprofile(before)
    return found


def piece(line: list[Term], number: int) -> str:
    """The text that a piece stands for: the name on the left, a call to its end, a product with its operand."""
    text, *rest = (term.text for term in line[number:])
    if text.endswith(" "):  # a matrix
        return text + piece(line, number + 1)
    if text.endswith("("):
        while text.count("(") > text.count(")"):
            text += rest.pop(0)
    return text


def read(text: str, room: dict[str, Any]) -> Any:
    """The value of a piece, from its text alone."""
    for pattern, python in (
        (r"W_(\w+) x_t \+ b_\1", r"(x.\1)"),
        (r" \+ b'_\w+", ""),
        (r"\b([RP])_(\w+) ", r"\1.\2 @ "),
        (r"\bp_(\w+)", r"p.\1"),
        (r"(\w+)_\{t-1\}", r"s.\1"),
        (r"(\w)''_t\b", r"\1_before_before"),
        (r"(\w)'_t\b", r"\1_before"),
        (r"(\w+)_t\b", r"\1"),
        (r"\bnot ", "~"),
        ("approximate=tanh", "approximate='tanh'"),
    ):
        text = re.sub(pattern, python, text)
    for sign, python in {"σ": "sigmoid", "ReLU": "relu", "GELU": "gelu", "SiLU": "silu", "⊙": "*", "^": "**"}.items():
        text = text.replace(sign, python)
    return eval(text, room)


def same(mine: Any, expected: Any) -> None:
    close(*torch.broadcast_tensors(*(torch.as_tensor(value, dtype=torch.float64) for value in (mine, expected))))


def slow(x, R, s):
    a = torch.sin(x.g + R.g @ s.h)
    return State(h=a * s.h)


def unruly(x, R, s):
    return State(h=x.g + s.q)


def doubled(step: Callable[..., State]) -> Callable[..., State]:
    @functools.wraps(step)
    def twice(x, R, s):
        return State(h=step(x, R, s).h * 2)

    return twice


@doubled
def decorated(x, R, s):
    return State(h=tanh(x.g + R.g @ s.h))


@pytest.mark.parametrize(
    ("step", "written"),
    [
        (slow, ["a_t = sin(W_g x_t + b_g + R_g h_{t-1} + b'_g)", "h_t = a_t ⊙ h_{t-1}"]),
        (unruly, ["h_t = W_g x_t + b_g + q_{t-1}"]),
    ],
    ids=["not traceable", "wrong"],
)
def test_without_values_the_equations_are_the_same(step: Any, written: list[str]) -> None:
    """Of a step that cannot be traced, and one that fails."""
    cell = Cell(step, gates=("g",))
    assert equations(cell) == written
    assert all(term.node is None for line in terms(cell) for term in line)


def test_a_step_that_computes_more_than_its_source_says() -> None:
    cell = Cell(decorated, gates=("g",))
    assert equations(cell) == ["g_t = tanh(W_g x_t + b_g + R_g h_{t-1} + b'_g)", "h_t = g_t ⊙ 2"]
    assert terms(cell)[1][0] == Term("h_t", trace(cell).outputs["h"].index)


def test_the_source_of_a_step_is_needed() -> None:
    with pytest.raises(ValueError, match="not written as a function with def"):
        terms(Cell(lambda x, R, s: State(h=x.g + s.h), gates=("g",), name="short"))
    room: dict[str, Any] = {"State": State}
    exec("def step(x, R, s):\n    return State(h=x.g + s.h)", room)
    with pytest.raises(ValueError, match="define its step in a file"):
        terms(Cell(room["step"], gates=("g",)))
