"""The derivative of a step, as a graph, against torch's autograd on the step itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, maximum, minimum, relu, sigmoid, tanh
from torch.nn import functional

from elman import cells, graph
from elman.cell import Cell, State, factors
from elman.derivative import derivative, kept_nodes
from elman.graph import on_tensors, walk
from elman.leaves import MATRICES

B, H, Y = 3, 4, 2


def everything(x, R, s, p):
    """Every operation, an operand made of an operand, one gate on two operands, a state nothing reads."""
    a = sigmoid(x.a + R.a @ s.h) * 2 - 1
    b = tanh(R.b @ (a * s.h) + R.a @ s.c)
    d = relu(x.d) - minimum(b, s.c) / (1.5 + b * b)
    d = d + functional.softplus(d) * torch.erf(b) - torch.where(x.d > s.c, functional.gelu(e := x.d * b), e * e)
    e = torch.exp(-torch.abs(x.a)) + torch.log(2 + torch.sqrt(1 + s.c * s.c)) * p.v
    return State(h=maximum(d, -e) + b, c=e - 0.5 * s.c, spare=x.d * 1.0)


def two_projections(x, R, s, P):
    """Every state is projected, and one matrix reads three operands: a state, a value, one that R reads as well."""
    v = tanh(x.a + R.a @ s.h + R.a @ s.m)
    return State(h=tanh(P.h @ v) * s.m, m=P.m @ (v * v) + P.h @ x.a)


def a_narrow_memory(x, R, s, P):
    """The output is as wide as the units; R and P read the same operand."""
    v = tanh(x.a + R.a @ s.h)
    return State(h=R.b @ v * s.h, m=sigmoid(P.m @ v + s.m) - P.m @ s.h)


def decided(x, R, s, p):
    """What only decides has no gradient: a gate, a product, a vector, a state."""
    h = torch.where((x.a + R.a @ s.h > 0) & (s.c < p.v), x.b, R.b @ (0.3 * s.h))
    return State(h=h, c=torch.where(R.a @ x.b <= s.c, h, x.b))


CELLS = [
    Cell(decided, gates=("a", "b"), states=("h", "c"), vectors=("v",)),
    *cells.BUILT_IN.values(),
    Cell(everything, gates=("a", "b", "d"), states=("h", "c", "spare"), vectors=("v",)),
    Cell(two_projections, gates=("a",), states=("h", "m"), projected=("h", "m")),
    Cell(a_narrow_memory, gates=("a", "b"), states=("h", "m"), projected=("m",)),
]


Leaf = Callable[[graph.Node, Callable[[graph.Node], Any]], Any]


def evaluate(backward: graph.Graph, leaf: Leaf) -> dict[str, Tensor]:
    def read(node: graph.Node) -> Any:
        return node.value if node.op == "number" else leaf(node, value)

    value = walk(backward.nodes, on_tensors, read)
    return {name: value(node) for name, node in backward.outputs.items()}


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_equals_autograd(cell: Cell) -> None:
    torch.manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64, requires_grad=True)  # noqa: E731
    widths = cell.widths(H, Y)
    x = {gate: draw(B, H) for gate in cell.anatomy.input_gates}
    s = {name: draw(B, width) for name, width in zip(cell.states, widths, strict=True)}
    p = {name: draw(H) for name in cell.vectors}
    weight = {("R", gate): draw(H, widths[0]) for gate in cell.anatomy.recurrent_gates}
    weight |= {("P", name): draw(Y, H) for name in cell.projected}
    given = {"x": State(**x), "s": State(**s), "p": State(**p)}
    for kind, matrix in MATRICES.items():
        given[kind] = factors(matrix.names(cell), lambda name, v, kind=kind: v @ weight[kind, name].T + 0.3)
    new = cell(**given)
    cotangents = {name: torch.randn_like(value) for name, value in vars(new).items()}
    total = sum((value * cotangents[name]).sum() for name, value in vars(new).items())
    assert isinstance(total, Tensor)
    leaves = [*x.values(), *s.values(), *p.values(), *weight.values()]
    exact = iter(torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True))

    forward = graph.trace(cell)
    kept = [value.detach() if isinstance(value, Tensor) else value for value in forward.evaluate(**given)]
    backward = derivative(forward)
    products = {node.index: node for node in forward.nodes if node.op in MATRICES}

    def leaf(node: graph.Node, value: Callable[[graph.Node], Any]) -> Tensor:
        if node.op == "kept":
            assert int(node.name) in kept_nodes(forward)
            return kept[int(node.name)]
        if node.op == "adjoint":
            return cotangents[node.name]
        assert node.op == "returned"
        return returned(int(node.name), lambda name: value(backward.outputs[name]))

    def returned(operand: int, output: Callable[[str], Tensor]) -> Tensor:
        total = torch.zeros_like(kept[operand])
        for k, node in products.items():
            if node.arguments[0].index == operand and f"{node.op}.{k}" in backward.outputs:
                total = total + output(f"{node.op}.{k}") @ weight[node.op, node.name].detach()
        return total

    found = evaluate(backward, leaf)
    for gate in x:
        torch.testing.assert_close(
            found.get(f"x.{gate}", torch.zeros(B, H)), next(exact), rtol=1e-12, atol=1e-13, check_dtype=False
        )
    for name in s:
        node = next(n for n in forward.nodes if n.op == "s" and n.name == name)
        d_s = found.get(f"s.{name}", 0.0) + returned(node.index, found.__getitem__)
        torch.testing.assert_close(d_s, next(exact), rtol=1e-12, atol=1e-13)
    for name in p:
        d_p = found.get(f"p.{name}", torch.zeros(B, H)).sum(0)
        torch.testing.assert_close(d_p, next(exact), rtol=1e-12, atol=1e-13, check_dtype=False)
    for of in weight:
        those = [(k, node) for k, node in products.items() if (node.op, node.name) == of]
        those = [(k, node) for k, node in those if f"{of[0]}.{k}" in found]
        gradient = sum(found[f"{of[0]}.{k}"].T @ kept[node.arguments[0].index] for k, node in those)
        torch.testing.assert_close(gradient + torch.zeros_like(weight[of]), next(exact), rtol=1e-12, atol=1e-13)


def test_what_an_lstm_keeps() -> None:
    """Gates and states; tanh(c) is computed again from c, and pre-activations are not needed."""
    forward = graph.trace(cells.lstm)
    kept = [forward.nodes[int(node.name)] for node in derivative(forward).nodes if node.op == "kept"]
    gates = {forward.gate(name).index for name in "ifgo"}
    assert {node.index for node in kept} == gates | {forward.outputs["c"].index} | {
        n.index for n in kept if n.op == "s"
    }
    assert [node.name for node in kept if node.op == "s"] == ["c"]


def of_x(function: Callable[[Any], Any]) -> Callable[..., State]:
    return lambda x, R, s: State(h=function(x.a))


CORNERS = {
    "where": of_x(lambda v: torch.where(v < 2, v * v, 5 * v) + torch.where(v <= 2, v, 3 * v)),
    "equal": of_x(lambda v: torch.where(v == 0, 2 * v, 7 * v) - torch.where(v != 2, v, 9 * v)),
    "where joined": of_x(lambda v: torch.where((v >= 0) & ~(v > 1) | (v < -1.2), 3 * v, v)),
    "mask": of_x(lambda v: v * (v >= 0) - v * v * (v < 2)),
    "clamp": of_x(lambda v: v.clamp(-1.5, 0) + torch.clamp(v, min=2) - v.clip(max=2)),
    "clamp turned round": of_x(lambda v: v.clamp(2, 0)),
    "hardtanh": of_x(lambda v: functional.hardtanh(v, -1.5, 0) + functional.hardtanh(v, 0, 2)),
    "hardsigmoid": of_x(lambda v: functional.hardsigmoid(v - 3) + functional.hardsigmoid(2 * v) * 6),
    "softplus": of_x(lambda v: functional.softplus(v, threshold=2) + functional.softplus(1000 * v)),
    "elu": of_x(lambda v: functional.elu(v, 0.3) + functional.elu(v - 2)),
    "leaky_relu": of_x(lambda v: functional.leaky_relu(v) + functional.leaky_relu(v - 2, 0.2)),
    "logsigmoid": of_x(lambda v: functional.logsigmoid(v) - functional.logsigmoid(25 * v)),
    "expm1": of_x(lambda v: torch.expm1(v) + torch.expm1(0.5 * v)),
    "sign": of_x(lambda v: v * torch.sign(v) + v.sign()),
    "lerp": of_x(lambda v: torch.lerp(v, 3 * v, 0.5) + torch.lerp(v * v, v, 0.25 * v)),
    "negative powers": of_x(lambda v: v**-1 + (v + 1.5) ** -2 + (v + 1.5) ** -0.5 + (v + 3) ** -5),
    "powers": of_x(lambda v: v**2 + v**3 - v**7 + (2 + v) ** 0.5),
    "std": of_x(lambda v: v.std(-1, correction=0, keepdim=True) + v * v.std(-1, correction=0, keepdim=True)),
    "relu": lambda x, R, s: State(h=relu(x.a)),
    "maximum": lambda x, R, s: State(h=maximum(x.a, x.a * 1)),
    "minimum": lambda x, R, s: State(h=minimum(x.a, 0 * x.a)),
    "abs": lambda x, R, s: State(h=torch.abs(x.a)),
}


@pytest.mark.parametrize("a", [-1.5, 0.0, 2.0])
@pytest.mark.parametrize("name", CORNERS)
def test_derivatives_at_corners_are_torchs(name: str, a: float) -> None:
    cell = Cell(CORNERS[name], gates=("a",), name=name)
    value = torch.full((1, 1), a, dtype=torch.float64, requires_grad=True)
    (exact,) = torch.autograd.grad(cell(x=State(a=value), R=None, s=None).h.sum(), value)
    forward = graph.trace(cell)
    kept = forward.evaluate(x=State(a=value.detach()), R=None, s=State(h=value), p=None, P=None)
    one = torch.ones(1, 1, dtype=torch.float64)
    found = evaluate(derivative(forward), lambda node, _: kept[int(node.name)] if node.op == "kept" else one)
    within = 1e-6 if name == "hardsigmoid" else 1e-12  # torch's 1/6 there is of float32
    torch.testing.assert_close(found["x.a"], exact, rtol=within, atol=within)
