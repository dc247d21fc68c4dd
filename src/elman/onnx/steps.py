"""The cells of nodes: a built-in cell where its equations are those of the node, else a cell made for the node."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from elman import cells
from elman.cell import Cell, State
from elman.layout import ONNX, Onnx
from elman.onnx.activations import Activation

STANDARD = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
_WHOLE = {"RNN": ONNX[cells.rnn], "GRU": ONNX[cells.gru], "LSTM": ONNX[cells.peephole_lstm]}  # all rows and peepholes


@dataclass(frozen=True)
class Step:
    """One step of a node of ONNX in one direction, in the notation of ONNX.

    clip: the bound of the input of an activation, None without. ONNX Runtime does not clip the cell state c before its
        activation h, and this step does neither.
    """

    operator: str
    activations: tuple[Activation, ...]  # f; f and g; f, g and h
    clip: float | None = None
    linear_before_reset: bool = False  # of a GRU
    input_forget: bool = False  # of an LSTM
    peepholes: bool = False  # of an LSTM

    def __call__(self, x: Any, R: Any, s: Any, p: Any) -> State:
        return getattr(self, f"_{self.operator.lower()}")(x, R, s, p)

    def _clipped(self, v: Any) -> Any:
        return v if self.clip is None else torch.clamp(v, -self.clip, self.clip)

    def _rnn(self, x: Any, R: Any, s: Any, p: Any) -> State:
        (f,) = self.activations
        return State(h=f(self._clipped(x.h + R.h @ s.h)))

    def _gru(self, x: Any, R: Any, s: Any, p: Any) -> State:
        f, g = self.activations
        z = f(self._clipped(x.z + R.z @ s.h))
        r = f(self._clipped(x.r + R.r @ s.h))
        n = g(self._clipped(x.n + (r * (R.n @ s.h) if self.linear_before_reset else R.n @ (r * s.h))))
        return State(h=(1 - z) * n + z * s.h)

    def _lstm(self, x: Any, R: Any, s: Any, p: Any) -> State:
        f, g, h = self.activations

        def gate(name: str, c: Any) -> Any:
            pre = getattr(x, name) + getattr(R, name) @ s.h
            return f(self._clipped(pre + getattr(p, name) * c if self.peepholes else pre))

        i = gate("i", s.c)
        forget = 1 - i if self.input_forget else gate("f", s.c)
        c = forget * s.c + i * g(self._clipped(x.g + R.g @ s.h))
        return State(h=gate("o", c) * h(c), c=c)


@cache
def cell_of(step: Step) -> tuple[Cell, Onnx]:
    """The cell with the equations of a step, and where ONNX has its rows."""
    return next((pair for pair in ONNX.items() if _is(step, pair[1])), None) or _made(step)


def _is(step: Step, form: Onnx) -> bool:
    """Whether a step computes what the form of a built-in cell computes."""
    has = form.attributes
    return step == Step(
        form.operator,
        tuple([Activation(name) for name in has.get("activations", STANDARD[form.operator])]),  # pyright: ignore[reportGeneralTypeIssues]
        None,
        bool(has.get("linear_before_reset")),
        bool(has.get("input_forget")),
        bool(form.peepholes),
    )


def _made(step: Step) -> tuple[Cell, Onnx]:
    form = _WHOLE[step.operator]
    peepholes = form.peepholes if step.peepholes else ()
    if step.input_forget:  # the input gate has the weights, as in ONNX, since not every function f has f(-a) = 1 - f(a)
        form = form._replace(rows=_without_f(form.rows))
        peepholes = _without_f(peepholes)
    form = form._replace(peepholes=peepholes, attributes={})
    cell = Cell(
        step,
        gates=tuple(filter(None, form.rows)),
        states=("h", "c") if step.operator == "LSTM" else ("h",),
        vectors=tuple(filter(None, peepholes)),
        reference=f"the operator {step.operator} of ONNX",
        name=f"onnx_{step.operator.lower()}",
    )
    return cell, form


def _without_f(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(["" if name == "f" else name for name in names])
