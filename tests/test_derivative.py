"""The derivative of a step, as a graph, against torch's autograd on the step itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, maximum, minimum, relu, sigmoid, tanh

from elman import cells, graph
from elman.cell import Cell, State, factors
from elman.derivative import OPERATIONS, derivative, is_kept

B, H = 3, 4


def everything(x, R, s, p):
    """Every operation, an operand made of an operand, one gate on two operands, a state nothing reads."""
    a = sigmoid(x.a + R.a @ s.h) * 2 - 1
    b = tanh(R.b @ (a * s.h) + R.a @ s.c)
    d = relu(x.d) - minimum(b, s.c) / (1.5 + b * b)
    e = torch.exp(-torch.abs(x.a)) + torch.log(2 + torch.sqrt(1 + s.c * s.c)) * p.v
    return State(h=maximum(d, -e) + b, c=e - 0.5 * s.c, spare=x.d * 1.0)


CELLS = [cell for cell in cells.BUILT_IN.values() if not cell.projected]
CELLS.append(Cell(everything, gates=("a", "b", "d"), states=("h", "c", "spare"), vectors=("v",)))


def evaluate(backward: graph.Graph, leaf: Any) -> dict[str, Tensor]:
    operations = graph.OPERATIONS | OPERATIONS
    values: list[Any] = []
    for node in backward.nodes:
        arguments = [values[argument.index] for argument in node.arguments]
        values.append(
            node.value if node.op == "number" else operations[node.op](*arguments) if arguments else leaf(node, values)
        )
    return {name: values[node.index] for name, node in backward.outputs.items()}


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_equals_autograd(cell: Cell) -> None:
    torch.manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64, requires_grad=True)  # noqa: E731
    x = {gate: draw(B, H) for gate in cell.anatomy.input_gates}
    s = {name: draw(B, H) for name in cell.states}
    p = {name: draw(H) for name in cell.vectors}
    weight = {gate: draw(H, H) for gate in cell.anatomy.recurrent_gates}
    given = {
        "x": State(**x),
        "s": State(**s),
        "p": State(**p),
        "R": factors(cell.anatomy.recurrent_gates, lambda gate, v: v @ weight[gate].T + 0.3),
        "P": State(),
    }
    new = cell(**given)
    cotangents = {name: torch.randn(B, H, dtype=torch.float64) for name in cell.states}
    total = sum((value * cotangents[name]).sum() for name, value in vars(new).items())
    assert isinstance(total, Tensor)
    leaves = [*x.values(), *s.values(), *p.values(), *weight.values()]
    exact = iter(torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True))

    forward = graph.trace(cell)
    kept = [value.detach() if isinstance(value, Tensor) else value for value in forward.evaluate(**given)]
    backward = derivative(forward)
    product_of = {node.index: node for node in forward.nodes if node.op == "R"}

    def leaf(node: graph.Node, values: list[Any]) -> Tensor:
        if node.op == "kept":
            assert is_kept(forward, forward.nodes[int(node.name)])
            return kept[int(node.name)]
        if node.op == "adjoint":
            return cotangents[node.name]
        assert node.op == "returned"
        return returned(
            int(node.name), {name: values[n.index] for name, n in backward.outputs.items() if n.index < len(values)}
        )

    def returned(operand: int, outputs: dict[str, Tensor]) -> Tensor:
        reads = [k for k, product in product_of.items() if product.arguments[0].index == operand]
        shares = [outputs[f"R.{k}"] @ weight[product_of[k].name].detach() for k in reads if f"R.{k}" in outputs]
        return sum(shares, torch.zeros(B, H, dtype=torch.float64))

    found = evaluate(backward, leaf)
    zero = torch.zeros(B, H, dtype=torch.float64)
    for gate in x:
        torch.testing.assert_close(found[f"x.{gate}"], next(exact), rtol=1e-12, atol=1e-13)
    for name in s:
        node = next((n for n in forward.nodes if n.op == "s" and n.name == name), None)
        through_products = zero if node is None else returned(node.index, found)
        torch.testing.assert_close(found.get(f"s.{name}", zero) + through_products, next(exact), rtol=1e-12, atol=1e-13)
    for name in p:
        torch.testing.assert_close(found[f"p.{name}"].sum(0), next(exact), rtol=1e-12, atol=1e-13)
    for gate in weight:
        products = [(k, product) for k, product in product_of.items() if product.name == gate]
        gradient = sum(found[f"R.{k}"].T @ kept[product.arguments[0].index] for k, product in products)
        torch.testing.assert_close(gradient, next(exact), rtol=1e-12, atol=1e-13)


def test_a_projection_is_refused() -> None:
    with pytest.raises(graph.NotTraceable, match="projected state"):
        derivative(graph.trace(cells.projected_lstm))


def test_what_an_lstm_keeps() -> None:
    """Gates and states; tanh(c) is computed again from c, and pre-activations are not needed."""
    forward = graph.trace(cells.lstm)
    kept = [forward.nodes[int(node.name)] for node in derivative(forward).nodes if node.op == "kept"]
    gates = {forward.gate(name).index for name in "ifgo"}
    assert {node.index for node in kept} == gates | {forward.outputs["c"].index} | {
        n.index for n in kept if n.op == "s"
    }
    assert [node.name for node in kept if node.op == "s"] == ["c"]


CORNERS = {
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
    torch.testing.assert_close(found["x.a"], exact)
