"""A graph cut where units come to depend on each other."""

from __future__ import annotations

import pytest

from elman import Cell, State, operations
from elman.graph import Node, trace
from elman.operations import Operation
from elman.phases import Phase, phases


def product_of(node: Node) -> tuple[Node, ...] | None:
    if node.op not in ("R", "P"):
        return None
    return () if node.arguments[0].op == "s" else node.arguments


def held(phase: Phase) -> tuple[list[str], list[str]]:
    return [node.op for node in phase.products], [node.op for node in phase.nodes]


def test_an_operation_over_whole_rows_cuts_as_a_product_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """A norm: what it is made of is there before it begins, and what reads it comes in the phase after."""
    norm = Operation("norm", lambda a: a / a.norm(dim=-1, keepdim=True), whole_row=True)
    monkeypatch.setitem(operations.OPERATIONS, "norm", norm)

    graph = trace(Cell(lambda x, R, s: State(h=x.a + R.a @ s.h), gates=("a",), name="sum"))
    scaled = norm(graph.outputs["h"]) * 2 + graph.outputs["h"]
    graph.outputs["h"] = graph.add("tanh", (scaled,))
    first, second = phases(graph, product_of)
    assert held(first) == (["R"], ["add"])
    assert held(second) == (["norm"], ["mul", "add", "tanh"])
    assert [node.op for node in first.remembered] == ["add"]
