"""Layers with the weights of Keras 3 and Flax.

Neither has to be installed: what is read are arrays, and the settings of a layer. The returned layers are trained, exported and
run like any other. Their inputs are (B, T, I), as there: batch_first is set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, relu, sigmoid, tanh

from elman import cells
from elman.cell import Cell, State
from elman.errors import InputError
from elman.layout import parameter_name
from elman.recurrent import Recurrent

Array = NDArray[Any]

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "tanh": tanh,
    "sigmoid": sigmoid,
    "relu": relu,
    "linear": lambda v: v,
    "hard_sigmoid": lambda v: torch.clamp(v / 6 + 0.5, 0.0, 1.0),
    "softsign": lambda v: v / (1 + abs(v)),
    "exponential": torch.exp,
}
MERGES = {"concat": "concat", "sum": "sum", "ave": "mean"}  # of Keras's Bidirectional, as elman calls them


@dataclass(frozen=True)
class _Keras:
    """A step of Keras with activations of one's choice: of the candidate and the output, and of the gates."""

    kind: str
    activation: str
    recurrent_activation: str

    def __call__(self, x: Any, R: Any, s: Any) -> State:
        f, g = ACTIVATIONS[self.recurrent_activation], ACTIVATIONS[self.activation]
        if self.kind == "SimpleRNN":
            return State(h=g(x.h + R.h @ s.h))
        if self.kind == "LSTM":
            c = f(x.f + R.f @ s.h) * s.c + f(x.i + R.i @ s.h) * g(x.g + R.g @ s.h)
            return State(h=f(x.o + R.o @ s.h) * g(c), c=c)
        r, z = f(x.r + R.r @ s.h), f(x.z + R.z @ s.h)
        n = g(x.n + (r * (R.n @ s.h) if self.kind == "GRU" else R.n @ (r * s.h)))
        return State(h=(1 - z) * n + z * s.h)


def mgu(x, R, s):  # pyright: ignore[reportMissingParameterType]
    """The minimal gated unit with the gate behind the product, as Flax has it.

    f  = sigmoid(x.f + R.f h)
    n  = tanh(x.n + f * R.n h)
    h' = (1 - f) * n + f * h
    """
    f = sigmoid(x.f + R.f @ s.h)
    n = tanh(x.n + f * (R.n @ s.h))
    return State(h=(1 - f) * n + f * s.h)


USUAL = ("tanh", "sigmoid")  # Keras's activations: of the candidate, and of the gates

# Keras's layers: the order of the gates in their kernels, and the cells that they are with the usual activations.
KERAS = {
    "SimpleRNN": (("h",), cells.rnn),
    "LSTM": (("i", "f", "g", "o"), cells.lstm),
    "GRU": (("z", "r", "n"), cells.gru),
    "GRU before": (("z", "r", "n"), cells.gru_before),  # with reset_after=False
}

# Flax's cells: for each gate the Dense layers of the input and of the state.
FLAX = {
    "SimpleCell": (cells.rnn, {"h": ("i", "h")}),
    "LSTMCell": (cells.lstm, {gate: (f"i{gate}", f"h{gate}") for gate in "ifgo"}),
    "GRUCell": (cells.gru, {gate: (f"i{gate}", f"h{gate}") for gate in "rzn"}),
    "MGUCell": (Cell(mgu, gates=("f", "n"), name="mgu"), {gate: (f"i{gate}", f"h{gate}") for gate in "fn"}),
}


class _Weights(NamedTuple):
    """Of one direction, by gate: W (H, I), R (H, H), and two biases (H,), zeros where there is none."""

    cell: Cell
    W: dict[str, Array]
    R: dict[str, Array]
    b_ih: dict[str, Array]
    b_hh: dict[str, Array]
    bias: bool


def from_keras(layer: Any) -> Recurrent:
    """Returns a layer that computes what a layer of Keras 3 computes in inference: SimpleRNN, LSTM, GRU, or Bidirectional of one.

    layer: built, so that it has weights. It is asked for get_config() and get_weights(), and changed in nothing.

    A GRU with reset_after=True is `elman.cells.gru`, with reset_after=False `gru_before`. Other activations than Keras's usual
    ones give a cell of its own: relu, linear, hard_sigmoid, softsign, exponential, tanh and sigmoid are known. merge_mode concat,
    sum and ave become merge concat, sum and mean. The layer always returns the whole sequence, (B, T, Y), and the final states;
    `return_sequences` chooses from these. Dropout, `stateful` and `unroll` have no part in what is computed.
    Raises InputError for what it does not know, such as another layer, activation or merge_mode, or weights that do not fit.
    Source: the documentation of keras.layers; K. Cho et al. (2014) for both kinds of GRU.
    """
    if hasattr(layer, "forward_layer"):
        merge = layer.get_config().get("merge_mode", "concat")
        if merge not in MERGES:
            raise InputError(
                f"{_name(layer)} has merge_mode {merge!r}, but {', '.join(MERGES)} are known; join the two outputs yourself"
            )
        if layer.forward_layer.get_config().get("go_backwards"):
            raise InputError(f"{_name(layer)} has a forward layer with go_backwards=True; make it without")
        both = [
            _of_keras(one, f"the {which} of {_name(layer)}")
            for which, one in (("forward layer", layer.forward_layer), ("backward layer", layer.backward_layer))
        ]
        return _layer(both, MERGES[merge], _name(layer))
    if layer.get_config().get("go_backwards"):
        raise InputError(
            f"{_name(layer)} has go_backwards=True; make it without, and give it the sequence from its end: x.flip(1)"
        )
    return _layer([_of_keras(layer, _name(layer))], "concat", _name(layer))


def from_flax(params: Mapping[str, Any], kind: str, backward: Mapping[str, Any] | None = None) -> Recurrent:
    """Returns a layer that computes what flax.linen.RNN computes with a cell.

    params: the parameters of the cell: {"ii": {"kernel": ...}, "hi": {"kernel": ..., "bias": ...}, ...}, arrays of any library.
    kind: "LSTMCell" (also for OptimizedLSTMCell), "GRUCell", "SimpleCell" or "MGUCell".
    backward: the parameters of the cell that reads from the end, of flax.linen.Bidirectional with its usual merge_fn, which
        concatenates.

    Only cells with the usual activations are meant; a SimpleCell with residual=True is another cell.
    Raises InputError if a name is missing or the arrays do not fit each other.
    Source: the documentation of flax.linen.
    """
    if kind not in FLAX:
        raise InputError(f"kind is {kind!r}, but {', '.join(FLAX)} are known; choose one of these")
    every = [params] if backward is None else [params, backward]
    return _layer([_of_flax(each, kind) for each in every], "concat", f"the {kind}")


def _name(layer: Any) -> str:
    return f"{type(layer).__name__} {getattr(layer, 'name', '')!r}"


def _of_keras(layer: Any, name: str) -> _Weights:
    kind, config = type(layer).__name__, layer.get_config()
    if kind not in KERAS:
        raise InputError(
            f"{name} is a {kind}, but SimpleRNN, LSTM, GRU and Bidirectional are known; convert its parts one by one"
        )
    after = bool(config.get("reset_after", False))
    form = "GRU before" if kind == "GRU" and not after else kind
    order, cell = KERAS[form]
    used = _activation(config, "activation", "tanh", name), _activation(config, "recurrent_activation", "sigmoid", name)
    if used != USUAL:
        cell = Cell(_Keras(form, *used), gates=cell.gates, states=cell.states, name=f"keras_{kind.lower()}")
    weights = [np.asarray(each) for each in layer.get_weights()]
    if len(weights) != 2 + bool(config.get("use_bias", True)):
        raise InputError(
            f"{name} has {len(weights)} arrays of weights, but {2 + bool(config.get('use_bias', True))} are expected; call it once, so that it is built"
        )
    kernel, recurrent, *bias = weights
    gates, hidden = len(order), recurrent.shape[0]
    want = (kernel.shape[0], gates * hidden), (hidden, gates * hidden)
    if (kernel.shape, recurrent.shape) != want:
        raise InputError(
            f"{name} has kernels of the shapes {kernel.shape} and {recurrent.shape}, but {want[0]} and {want[1]} fit each other; check its weights"
        )

    def split(array: Array) -> dict[str, Array]:
        return dict(zip(order, np.split(array, gates), strict=True))

    zero = np.zeros(gates * hidden, kernel.dtype)
    both = bias[0] if bias else zero
    shape = (2, gates * hidden) if kind == "GRU" and after else (gates * hidden,)
    if bias and both.shape != shape:
        raise InputError(
            f"{name} has a bias of the shape {both.shape}, but {shape} fits its kernels; check its weights"
        )
    b_ih, b_hh = (both[0], both[1]) if both.ndim == 2 else (both, zero)
    return _Weights(cell, split(kernel.T), split(recurrent.T), split(b_ih), split(b_hh), bool(bias))


def _activation(config: Mapping[str, Any], key: str, usual: str, name: str) -> str:
    value = config.get(key, usual)
    if not isinstance(value, str) or value not in ACTIVATIONS:
        raise InputError(
            f"{name} has {key} {value!r}, but {', '.join(ACTIVATIONS)} are known; write it as an elman.Cell"
        )
    return value


def _of_flax(params: Mapping[str, Any], kind: str) -> _Weights:
    cell, names = FLAX[kind]
    found: list[dict[str, Array]] = [{}, {}, {}, {}]
    bias = False
    for gate, pair in names.items():
        for k, name in enumerate(pair):
            dense = params.get(name)
            if not isinstance(dense, Mapping) or "kernel" not in dense:
                raise InputError(
                    f"the parameters of the {kind} have no {name}.kernel, but only {', '.join(map(str, params)) or 'nothing'}; give those of the cell itself"
                )
            kernel = np.asarray(dense["kernel"])
            if kernel.ndim != 2:
                raise InputError(
                    f"{name}.kernel has the shape {kernel.shape}, but a matrix is expected; check the parameters"
                )
            found[k][gate] = kernel.T
            own = np.asarray(dense["bias"]) if "bias" in dense else np.zeros(kernel.shape[1], kernel.dtype)
            found[2 + k][gate], bias = own, bias or "bias" in dense
    W, R, b_ih, b_hh = found
    return _Weights(cell, W, R, b_ih, b_hh, bias)


def _layer(directions: Sequence[_Weights], merge: str, name: str) -> Recurrent:
    first = directions[0]
    cell = first.cell
    if any((each.cell.name, each.cell.step) != (cell.name, cell.step) for each in directions):
        raise InputError(
            f"{name} has two directions of different kinds, {cell.name} and {directions[-1].cell.name}; convert each by itself"
        )
    hidden, size = first.W[cell.gates[0]].shape
    bias = any(each.bias for each in directions)
    weights: dict[str, Tensor] = {}
    for reverse, each in enumerate(directions):
        for field, parts in (("ih", each.W), ("hh", each.R), ("b_ih", each.b_ih), ("b_hh", each.b_hh)):
            shape = {"ih": (hidden, size), "hh": (hidden, hidden)}.get(field, (hidden,))
            for gate, part in parts.items():
                if part.shape != shape:
                    raise InputError(
                        f"{name}: the weights {field} of gate {gate} have the shape {part.shape}, but {shape} fits the others; check them"
                    )
            if bias or not field.startswith("b"):
                stacked = np.concatenate([parts[gate] for gate in cell.gates])
                weights[parameter_name(field, 0, bool(reverse))] = as_tensor(stacked)
    # On the meta device, no parameter is drawn, and torch's random state stays as it was.
    layer = Recurrent(
        cell, size, hidden, bias=bias, batch_first=True, bidirectional=len(directions) == 2, merge=merge, device="meta",
        dtype=next(iter(weights.values())).dtype,
    )  # fmt: skip
    layer.load_state_dict(weights, assign=True)
    return layer


def as_tensor(array: Array) -> Tensor:
    """A tensor of the same type and numbers."""
    if array.dtype.name == "bfloat16":  # which numpy does not know itself
        return torch.from_numpy(array.view("int16").copy()).view(torch.bfloat16)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=True))
