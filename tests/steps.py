"""Cells that nobody wrote: hypothesis writes the step, line by line, from everything a graph may hold.

Values neither overflow nor lose their digits, so that two engines may be compared closely: what is divided by, or
has a logarithm or a root, is kept away from zero; one factor of every product, and every exponent, is bounded; and
a function with a corner is taken off it by a constant, since rounding decides on which side of it zero falls.
"""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from elman import Cell, State

FUNCTIONS = ("sigmoid", "tanh", "relu", "exp", "log", "sqrt", "abs", "maximum", "minimum")
BOUNDED = ("sigmoid({0})", "tanh({0})", "{0} / (1 + abs({0}))", "exp(-abs({0} - 0.17))", "relu(tanh({0}) - 0.09)")
ANY = ("relu({0} - 0.11)", "abs({0} + 0.13)", "log(1.5 + abs({0} - 0.19))", "sqrt(0.5 + {0} * {0})", "-{0}", "1 - {0}")
ANY += ("{0} / 3", "0.7 * {0} + 0.1")
OF_TWO = ("{0} + {1}", "{0} - {1}", "maximum({0}, {1} + 0.07)", "minimum({0} - 0.05, {1})", "{0} / (1.5 + abs({1}))")
OF_BOUNDED = (
    "{0} * {1}",
    "{0} / (2.5 + {1})",
    "{0} * exp({1})",
    "{0} / exp({1})",
    "{0} - {1} * {1}",
    "{0} / sigmoid({1})",
)


@st.composite
def cells(draw: Any) -> Cell:
    """1 to 3 states, up to 4 gates and 2 vectors; products of states, shares of the input, vectors and computed values."""
    states, vectors = "hcm"[: draw(st.integers(1, 3))], "vw"[: draw(st.integers(0, 2))]
    values = [f"s.{state}" for state in states]  # (B, H)
    bounded: list[str] = []
    multiplied: list[str] = []
    gates: set[str] = set()
    lines: list[str] = []

    def known() -> str:
        """A value, one of the last as a rule."""
        return values[-1 - draw(st.integers(0, len(values) - 1))]

    def add(expression: str, kind: list[str] | None = None) -> None:
        lines.append(f"v{len(lines)} = {expression}")
        for names in (values, kind):
            if names is not None:
                names.append(f"v{len(lines) - 1}")

    kinds = ("input", "product", "product", "bounded", "any", "two", "two bounded", "two bounded", "vector")
    for _ in range(draw(st.integers(3, 12))):
        kind = draw(st.sampled_from(kinds))
        gate = draw(st.sampled_from("abde"))
        if kind == "input":
            gates.add(gate)
            add(f"x.{gate}")
        elif kind == "product":
            gates.add(gate)
            of_vector = [f"p.{v} + {known()}" for v in vectors]  # which has no batch
            operand = draw(st.sampled_from([known(), *of_vector]))
            add(f"R.{gate} @ {operand}")
            if operand not in of_vector:
                multiplied.append(operand)
        elif kind == "bounded":
            add(draw(st.sampled_from(BOUNDED)).format(known()), bounded)
        elif kind == "any":
            add(draw(st.sampled_from(ANY)).format(known()))
        elif kind == "two":
            add(draw(st.sampled_from(OF_TWO)).format(known(), known()))
        elif kind == "vector" and vectors:
            add(draw(st.sampled_from(("{0} * {1}", "{0} + {1}", "{0} - {1}"))).format(known(), f"p.{vectors[-1]}"))
        elif bounded:
            add(draw(st.sampled_from(OF_BOUNDED)).format(known(), draw(st.sampled_from(bounded))))
    if not gates:
        gates.add("a")
        add("tanh(x.a + R.a @ s.h)", bounded)

    def result() -> str:
        """Often what a product has read, or a state before."""
        if multiplied and draw(st.integers(0, 2)) == 0:
            return draw(st.sampled_from(multiplied))
        return draw(st.sampled_from(("{0}", "tanh({0})"))).format(known())

    new = [f"{state}={result()}" for state in states]
    return cell_of([*lines, f"return State({', '.join(new)})"], sorted(gates), states, vectors)


def cell_of(lines: list[str], gates: Any, states: str, vectors: str = "") -> Cell:
    """The cell whose step has these lines; it prints itself."""
    source = "\n    ".join(["def step(x, R, s, p):", *lines])
    room: dict[str, Any] = {"State": State} | {name: getattr(torch, name) for name in FUNCTIONS}
    exec(source, room)
    return Printed(room["step"], tuple(gates), tuple(states), tuple(vectors), reference=source)


class Printed(Cell):
    def __repr__(self) -> str:
        return f"\n{self.reference}\n"
