"""Cells that nobody wrote: hypothesis writes the step, line by line, from everything a graph may hold.

Values neither overflow nor lose their digits, so that two engines may be compared closely: what is divided by, or
has a logarithm or a root, is kept away from zero; one factor of every product, and every exponent, is bounded; and
a function with a corner is taken off it by a constant, since rounding decides on which side of it zero falls.
"""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch.nn import functional

from elman import Cell, State

FUNCTIONS = ("sigmoid", "tanh", "relu", "exp", "log", "sqrt", "abs", "maximum", "minimum")
FUNCTIONS += ("log1p", "erf", "where", "clamp", "square", "softplus", "silu", "gelu", "hardtanh", "layer_norm")
BOUNDED = ("sigmoid({0})", "tanh({0})", "{0} / (1 + abs({0}))", "exp(-abs({0} - 0.17))", "relu(tanh({0}) - 0.09)")
BOUNDED += ("layer_norm({0}, {0}.shape[-1:], eps=0.3)", "tanh({0}).mean(-1, keepdim=True) + tanh({0})")
BOUNDED += ("erf({0})", "clamp({0}, -0.43, 0.91)", "hardtanh({0} + 0.08)", "tanh({0}) ** 3")
ANY = ("relu({0} - 0.11)", "abs({0} + 0.13)", "log(1.5 + abs({0} - 0.19))", "sqrt(0.5 + {0} * {0})", "-{0}", "1 - {0}")
ANY += ("{0} / 3", "0.7 * {0} + 0.1", "softplus({0})", "silu({0})", "gelu({0})", "gelu({0}, approximate='tanh')")
ANY += ("{0} - 0.2 * {0}.sum(-1, keepdim=True)", "{0} / sqrt(0.5 + {0}.square().mean(-1, keepdim=True))")
ANY += ("log1p({0}.square())", "where(({0} > 0.27) | ({0} <= -0.64), {0}, 0.3 * {0})", "{0} * ({0} >= -0.31)")
OF_TWO = ("{0} + {1}", "{0} - {1}", "maximum({0}, {1} + 0.07)", "minimum({0} - 0.05, {1})", "{0} / (1.5 + abs({1}))")
OF_TWO += ("where({0} < {1} - 0.03, {0}, 0.5 * {1})", "where({1} != 0.5, {0}, {1})")
OF_BOUNDED = (
    "{0} * {1}",
    "{0} / (2.5 + {1})",
    "{0} * exp({1})",
    "{0} / exp({1})",
    "{0} - {1} * {1}",
    "{0} / sigmoid({1})",
)


KINDS = (
    "input",
    "product",
    "product",
    "projection",
    "bounded",
    "any",
    "two",
    "two bounded",
    "two bounded",
    "vector",
    "stream",
)


class Writer:
    """A step, line by line. Values are known by their names, apart by their widths: "hidden" and "projected"."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.lines: list[str] = []
        self.gates: set[str] = set()
        self.states, self.vectors = "hcm"[: draw(st.integers(1, 3))], "vw"[: draw(st.integers(0, 2))]
        self.streams = "yz"[: draw(st.integers(0, 2))]
        narrow = draw(st.sampled_from(("", "", "", "h", "c", "hc", "hcm")))
        self.width = {state: "projected" if state in narrow else "hidden" for state in self.states}
        self.values: dict[str, list[str]] = {"hidden": [], "projected": []}
        self.bounded: dict[str, list[str]] = {"hidden": [], "projected": []}
        self.multiplied: dict[str, list[str]] = {"hidden": [], "projected": []}
        for state, width in self.width.items():
            self.values[width].append(f"s.{state}")
        if not self.values["hidden"]:
            self.input()

    def one_of(self, choices: Any) -> str:
        return self.draw(st.sampled_from(choices))

    def known(self, width: str) -> str:
        return self.one_of(self.values[width][::-1])  # examples become simpler towards the first: what was made last

    def add(self, expression: str, width: str) -> str:
        name = f"v{len(self.lines)}"
        self.lines.append(f"{name} = {expression}")
        self.values[width].append(name)
        return name

    def gate(self) -> str:
        gate = self.one_of("abde")
        self.gates.add(gate)
        return gate

    def input(self) -> None:
        self.add(f"x.{self.gate()}", "hidden")

    def product(self) -> None:
        width = self.width["h"]
        operand = self.known(width)
        if width == "hidden" and self.vectors and self.draw(st.booleans()):
            self.add(f"R.{self.gate()} @ p.{self.vectors[0]} + {operand}", "hidden")  # it has no batch alone
        else:
            self.add(f"R.{self.gate()} @ {operand}", "hidden")
            self.multiplied[width].append(operand)

    def projection(self) -> None:
        operand = self.known("hidden")
        self.add(f"P.{self.one_of(self.projected)} @ {operand}", "projected")
        self.multiplied["hidden"].append(operand)

    @property
    def projected(self) -> list[str]:
        return [state for state, width in self.width.items() if width == "projected"]

    def line(self) -> None:
        """One more, if it can be written."""
        kind = self.one_of(KINDS)
        width = self.one_of([width for width in self.values if self.values[width]])
        if kind == "input":
            self.input()
        elif kind == "product":
            self.product()
        elif kind == "projection" and self.projected:
            self.projection()
        elif kind == "bounded":
            self.bounded[width].append(self.add(self.one_of(BOUNDED).format(self.known(width)), width))
        elif kind == "any":
            self.add(self.one_of(ANY).format(self.known(width)), width)
        elif kind == "two":
            self.add(self.one_of(OF_TWO).format(self.known(width), self.known(width)), width)
        elif kind == "two bounded" and self.bounded[width]:
            self.add(self.one_of(OF_BOUNDED).format(self.known(width), self.one_of(self.bounded[width])), width)
        elif kind == "vector" and self.vectors:
            form = self.one_of(("{0} * {1}", "{0} + {1}", "{0} - {1}"))
            self.add(form.format(self.known("hidden"), f"p.{self.vectors[-1]}"), "hidden")

        elif kind == "stream" and self.streams:
            self.add(f"u.{self.one_of(self.streams)}", "hidden")

    def result(self, width: str) -> str:
        """Often what a product has read, or a state before."""
        if self.multiplied[width] and self.draw(st.integers(0, 2)) == 0:
            return self.one_of(self.multiplied[width])
        return self.one_of(("{0}", "tanh({0})")).format(self.known(width))


@st.composite
def cells(draw: Any) -> Cell:
    """1 to 3 states, some of them projected, up to 4 gates, 2 vectors and 2 streams; products of whatever the step has so far."""
    writer = Writer(draw)
    for _ in range(draw(st.integers(3, 12))):
        writer.line()
    if not writer.gates:
        writer.input()
    new = ", ".join(f"{state}={writer.result(width)}" for state, width in writer.width.items())
    lines = [*writer.lines, f"return State({new})"]
    vectors = "".join(v for v in writer.vectors if any(f"p.{v}" in line for line in lines))
    streams = "".join(y for y in writer.streams if any(f"u.{y}" in line for line in lines))
    return cell_of(lines, sorted(writer.gates), writer.states, vectors, writer.projected, streams)


def cell_of(
    lines: list[str], gates: Any, states: str, vectors: str = "", projected: Any = (), streams: str = ""
) -> Cell:
    """The cell whose step has these lines; it prints itself."""
    source = "\n    ".join(["def step(x, R, s, p, P, u):", *lines])
    room: dict[str, Any] = {"State": State} | {
        name: getattr(torch, name, None) or getattr(functional, name) for name in FUNCTIONS
    }
    exec(source, room)
    names = tuple(gates), tuple(states), tuple(vectors), tuple(projected)
    return Printed(room["step"], *names, reference=source, streams=tuple(streams))


class Printed(Cell):
    def __repr__(self) -> str:
        return f"\n{self.reference}\n"
