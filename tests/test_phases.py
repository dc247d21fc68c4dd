"""A graph cut where units come to depend on each other."""

from __future__ import annotations

import torch

from elman import Cell, State
from elman.graph import Node, trace
from elman.phases import Phase, phases


def product_of(node: Node) -> tuple[Node, ...] | None:
    if node.op not in ("R", "P"):
        return None
    return () if node.arguments[0].op == "s" else node.arguments


def held(phase: Phase) -> tuple[list[str], list[str]]:
    return [node.op for node in phase.products], [node.op for node in phase.nodes]


def test_an_operation_over_whole_rows_cuts_as_a_product_does() -> None:
    """What a mean is made of is there before it begins, and what reads it comes in the phase after."""

    def step(x, R, s):
        v = x.a + R.a @ s.h
        return State(h=torch.tanh(v.mean(-1, keepdim=True) * 2 + v))

    first, second = phases(trace(Cell(step, gates=("a",))).needed(), product_of)
    assert held(first) == (["R"], ["add"])
    assert held(second) == (["mean"], ["mul", "add", "tanh"])
    assert [node.op for node in first.remembered] == ["add"]


def test_a_mean_of_what_is_known_before_the_step_waits_for_nothing() -> None:
    def step(x, R, s):
        return State(h=torch.tanh(x.a + R.a @ s.h) * s.h.mean(-1, keepdim=True) + x.a.sum(-1, keepdim=True))

    (only,) = phases(trace(Cell(step, gates=("a",))).needed(), product_of)
    assert sorted(node.op for node in only.products) == ["R", "mean", "sum"]
