"""The cells a second time, scalar by scalar, in Python floats: what the reference engine is judged against.

Written from the published equations and torch.nn's documentation; shares nothing with elman, and uses
no array library, so that a mistake would have to be made twice, in different words, to go unseen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

Vector = list[float]
Sequence = list[Vector]  # [time][unit]

GATES = {  # in the order of the row blocks
    "rnn": "h",
    "rnn_relu": "h",
    "lstm": "ifgo",
    "peephole_lstm": "ifgo",
    "coupled_lstm": "fgo",
    "coupled_peephole_lstm": "fgo",
    "gru": "rzn",
    "gru_before": "rzn",
    "projected_lstm": "ifgo",
}
PEEPHOLES = {"peephole_lstm": "ifo", "coupled_peephole_lstm": "fo"}


def sigmoid(a: float) -> float:
    return 1.0 / (1.0 + math.exp(-a))


class Weights:
    """The parameters of one layer and direction, as nested lists."""

    def __init__(self, cell: str, parameters: dict[str, Any], suffix: str):
        self.gates = GATES[cell]
        self.units = len(parameters[f"weight_ih_{suffix}"]) // len(self.gates)
        self.ih = parameters[f"weight_ih_{suffix}"]
        self.hh = parameters[f"weight_hh_{suffix}"]
        none = [0.0] * len(self.ih)
        self.b_ih = parameters.get(f"bias_ih_{suffix}", none)
        self.b_hh = parameters.get(f"bias_hh_{suffix}", none)
        self.hr = parameters.get(f"weight_hr_{suffix}", [])
        self.ch = dict(zip(PEEPHOLES.get(cell, ""), parameters.get(f"weight_ch_{suffix}", []), strict=True))

    def x(self, gate: str, unit: int, x: Vector) -> float:
        """W x + b_ih, one scalar of it."""
        row = self.gates.index(gate) * self.units + unit
        return self.b_ih[row] + sum(self.ih[row][j] * x[j] for j in range(len(x)))

    def h(self, gate: str, unit: int, h: Vector) -> float:
        """R h + b_hh, one scalar of it."""
        row = self.gates.index(gate) * self.units + unit
        return self.b_hh[row] + sum(self.hh[row][j] * h[j] for j in range(len(h)))


State = tuple[Vector, ...]


def rnn(W: Weights, x: Vector, state: State) -> State:
    """Elman (1990)."""
    (h,) = state
    return ([math.tanh(W.x("h", u, x) + W.h("h", u, h)) for u in range(W.units)],)


def rnn_relu(W: Weights, x: Vector, state: State) -> State:
    """Le, Jaitly & Hinton (2015)."""
    (h,) = state
    return ([max(0.0, W.x("h", u, x) + W.h("h", u, h)) for u in range(W.units)],)


def lstm(W: Weights, x: Vector, state: State) -> State:
    """Gers, Schmidhuber & Cummins (2000)."""
    h, c = state
    new_h, new_c = [], []
    for u in range(W.units):
        forget = sigmoid(W.x("f", u, x) + W.h("f", u, h))
        write = sigmoid(W.x("i", u, x) + W.h("i", u, h))
        read = sigmoid(W.x("o", u, x) + W.h("o", u, h))
        candidate = math.tanh(W.x("g", u, x) + W.h("g", u, h))
        new_c.append(c[u] * forget + write * candidate)
        new_h.append(math.tanh(new_c[u]) * read)
    return new_h, new_c


def peephole_lstm(W: Weights, x: Vector, state: State) -> State:
    """Gers, Schraudolph & Schmidhuber (2002): input and forget gate see c before the step, the output gate after."""
    h, c = state
    new_h, new_c = [], []
    for u in range(W.units):
        forget = sigmoid(W.x("f", u, x) + W.h("f", u, h) + W.ch["f"][u] * c[u])
        write = sigmoid(W.x("i", u, x) + W.h("i", u, h) + W.ch["i"][u] * c[u])
        candidate = math.tanh(W.x("g", u, x) + W.h("g", u, h))
        new_c.append(c[u] * forget + write * candidate)
        read = sigmoid(W.x("o", u, x) + W.h("o", u, h) + W.ch["o"][u] * new_c[u])
        new_h.append(math.tanh(new_c[u]) * read)
    return new_h, new_c


def coupled_lstm(W: Weights, x: Vector, state: State) -> State:
    """Greff et al. (2017), CIFG: the input gate is what the forget gate leaves."""
    h, c = state
    new_h, new_c = [], []
    for u in range(W.units):
        forget = sigmoid(W.x("f", u, x) + W.h("f", u, h))
        candidate = math.tanh(W.x("g", u, x) + W.h("g", u, h))
        read = sigmoid(W.x("o", u, x) + W.h("o", u, h))
        new_c.append(c[u] * forget + (1.0 - forget) * candidate)
        new_h.append(math.tanh(new_c[u]) * read)
    return new_h, new_c


def coupled_peephole_lstm(W: Weights, x: Vector, state: State) -> State:
    """Both of the above."""
    h, c = state
    new_h, new_c = [], []
    for u in range(W.units):
        forget = sigmoid(W.x("f", u, x) + W.h("f", u, h) + W.ch["f"][u] * c[u])
        candidate = math.tanh(W.x("g", u, x) + W.h("g", u, h))
        new_c.append(c[u] * forget + (1.0 - forget) * candidate)
        read = sigmoid(W.x("o", u, x) + W.h("o", u, h) + W.ch["o"][u] * new_c[u])
        new_h.append(math.tanh(new_c[u]) * read)
    return new_h, new_c


def gru(W: Weights, x: Vector, state: State) -> State:
    """torch.nn.GRU's documentation: the reset gate multiplies R_n h + b_hn."""
    (h,) = state
    new = []
    for u in range(W.units):
        reset = sigmoid(W.x("r", u, x) + W.h("r", u, h))
        keep = sigmoid(W.x("z", u, x) + W.h("z", u, h))
        candidate = math.tanh(W.x("n", u, x) + reset * W.h("n", u, h))
        new.append(keep * h[u] + (1.0 - keep) * candidate)
    return (new,)


def gru_before(W: Weights, x: Vector, state: State) -> State:
    """Cho et al. (2014), equations 5 to 8: the reset gate multiplies h before the product."""
    (h,) = state
    reset = [sigmoid(W.x("r", u, x) + W.h("r", u, h)) * h[u] for u in range(W.units)]
    new = []
    for u in range(W.units):
        keep = sigmoid(W.x("z", u, x) + W.h("z", u, h))
        candidate = math.tanh(W.x("n", u, x) + W.h("n", u, reset))
        new.append(keep * h[u] + (1.0 - keep) * candidate)
    return (new,)


def projected_lstm(W: Weights, x: Vector, state: State) -> State:
    """Sak, Senior & Beaufays (2014): the output is W_hr times the LSTM's."""
    wide, c = lstm(W, x, state)
    return [sum(row[u] * wide[u] for u in range(W.units)) for row in W.hr], c


STEPS: dict[str, Callable[[Weights, Vector, State], State]] = {
    "rnn": rnn,
    "rnn_relu": rnn_relu,
    "lstm": lstm,
    "peephole_lstm": peephole_lstm,
    "coupled_lstm": coupled_lstm,
    "coupled_peephole_lstm": coupled_peephole_lstm,
    "gru": gru,
    "gru_before": gru_before,
    "projected_lstm": projected_lstm,
}


def one_sequence(
    cell: str, parameters: dict[str, Any], x: Sequence, initial: list[list[Vector]], layers: int, directions: int
) -> tuple[Sequence, list[list[Vector]]]:
    """x [time][input] and initial [state][layer and direction][unit] -> output [time][unit] and final states."""
    final: list[list[Vector]] = [[] for _ in initial]
    for layer in range(layers):
        joined: Sequence = [[] for _ in x]
        for direction in range(directions):
            W = Weights(cell, parameters, f"l{layer}" + ("_reverse" if direction else ""))
            state = tuple(rows[layer * directions + direction] for rows in initial)
            produced: dict[int, Vector] = {}
            for t in range(len(x) - 1, -1, -1) if direction else range(len(x)):
                state = STEPS[cell](W, x[t], state)
                produced[t] = state[0]
            for t in range(len(x)):
                joined[t] = joined[t] + produced[t]
            for rows, value in zip(final, state, strict=True):
                rows.append(value)
        x = joined
    return x, final


def run(
    cell: str, parameters: dict[str, Any], x: Any, initial: list[Any], layers: int = 1, directions: int = 1
) -> tuple[list[list[Vector]], list[list[list[Vector]]]]:
    """A batch. All nested lists: x [time][batch][input]; initial and final states [state][layer*direction][batch][unit].

    parameters: torch's names, each a nested list. Returns the output, [time][batch][direction * unit], and final states.
    """
    sequences = []
    for b in range(len(x[0])):
        start = [[row[b] for row in state] for state in initial]
        sequences.append(one_sequence(cell, parameters, [step[b] for step in x], start, layers, directions))
    output = [[sequence[0][t] for sequence in sequences] for t in range(len(x))]
    final = [
        [[sequence[1][k][row] for sequence in sequences] for row in range(layers * directions)]
        for k in range(len(initial))
    ]
    return output, final
