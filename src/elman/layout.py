"""How weights are laid out: parameter names, their shapes, and the gate orders of other frameworks.

Weights in a wrong order give wrong results without an error. So the orders are stated in this file only, and tested
against the frameworks themselves. `Call`, the record that an engine is given, is here too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import accumulate, pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from elman import cells
from elman.cell import Cell
from elman.graph import NotTraceable, equations
from elman.torch_private import is_tracing, is_wrapped


class Weights(NamedTuple):
    """The parameters of one layer in one direction; None for a parameter that the cell or the layer does not have.

    G is the number of input gates, K of recurrent gates, V of vectors. H is hidden_size, I the width of the input, Y
    the width of the output.
    """

    ih: Tensor | None  # (G*H, I)
    hh: Tensor | None  # (K*H, Y)
    b_ih: Tensor | None  # (G*H,)
    b_hh: Tensor | None  # (K*H,)
    hr: Tensor | None = None  # (proj_size, H)
    ch: Tensor | None = None  # (V, H)


_FIELDS = len(Weights._fields)


class Direction(NamedTuple):
    """One direction of a layer: its weights, and whether it reads the sequence from its end."""

    weights: Weights
    reverse: bool


Hidden = Tensor | tuple[Tensor, ...]  # states as a caller gives and gets them: a tensor for a cell that has one
Results = tuple[Tensor, tuple[Tensor, ...]]  # the output (T, B, D*Y) and the final states, each (D, B, width)


class Call(NamedTuple):
    """Everything that an engine is given to run one layer, in all its directions, over a whole sequence.

    T is the number of steps, B of rows of the batch, D of directions. The width of a state is hidden_size, or proj_size
    if it is projected. No engine reads constants yet, and `misfit` refuses a call that has some.
    """

    cell: Cell
    x: Tensor  # (T, B, I)
    directions: tuple[Direction, ...]
    state: tuple[Tensor, ...]  # the initial states, each (D, B, width)
    streams: tuple[Tensor, ...] = ()  # what a step reads besides x, in the order of `Cell.streams`, each (T, B, H)
    constants: tuple[Tensor, ...] = ()  # what every step would read alike, each (B, width)
    lengths: Tensor | None = None  # (B,) int64: the number of steps of each row
    reset: Tensor | None = None  # (T, B) bool: true where a step does not go on from the step before it
    afresh: tuple[Tensor, ...] = ()  # the states to go on from after a reset, each (D, width); if empty, zeros
    autocast: torch.dtype | None = None  # the dtype of matrix products under autocast; None: that of x
    packed: Any = None  # the weights of a frozen layer, in a form of the engine's own

    @property
    def reverse(self) -> list[bool]:
        return [direction.reverse for direction in self.directions]

    def tensors(self) -> list[Tensor | None]:
        """Every tensor of the call, in a fixed order, with None for one that is missing. `replaced` is the inverse."""
        weights = [weight for direction in self.directions for weight in direction.weights]
        return [self.x, *weights, *self.state, *self.streams, *self.constants, *self.afresh, self.lengths, self.reset]

    def names(self) -> tuple[str, ...]:
        """The name of each entry of `tensors()`: "x", "ih.0" (field ih of `Weights`, direction 0), "initial.h", "u.dt", ..."""
        counts = len(self.streams), len(self.constants), len(self.afresh)
        return _names(self.cell, len(self.directions), *counts)

    def replaced(self, tensors: Sequence[Any]) -> Call:
        """Returns a copy of the call with other values for its tensors, given in the order of `tensors()`."""
        place, directions = 1, []
        for _, reverse in self.directions:
            directions.append(Direction(Weights._make(tensors[place : place + _FIELDS]), reverse))
            place += _FIELDS
        kinds = self.state, self.streams, self.constants, self.afresh
        edges = list(accumulate(map(len, kinds), initial=place))
        state, streams, constants, afresh = [tuple(tensors[first:end]) for first, end in pairwise(edges)]
        lengths, reset = tensors[edges[-1] :]  # ValueError if there are more or fewer
        return Call(
            self.cell,
            tensors[0],
            tuple(directions),
            state,
            streams,
            constants,
            lengths,
            reset,
            afresh,
            self.autocast,
            self.packed,
        )

    def bare(self) -> Call:
        """Returns a copy of the call without its tensors, for `replaced` to fill."""
        counts = len(self.state), len(self.streams), len(self.constants), len(self.afresh)
        return _bare(self.cell, tuple(self.reverse), *counts, self.autocast)


@cache
def _names(cell: Cell, directions: int, streams: int, constants: int, afresh: int) -> tuple[str, ...]:
    weights = [f"{field}.{d}" for d in range(directions) for field in Weights._fields]
    numbered = [*(f"u.{name}" for name in cell.streams[:streams]), *(f"constant.{k}" for k in range(constants))]
    numbered += [f"afresh.{state}" for state in cell.states[:afresh]]
    return "x", *weights, *(f"initial.{state}" for state in cell.states), *numbered, "lengths", "reset"


@cache
def _bare(cell: Cell, reverse: tuple[bool, ...], *counts_and_autocast: Any) -> Any:
    states, streams, constants, afresh, autocast = counts_and_autocast
    nothing: Any = None
    directions = tuple([Direction(Weights._make([nothing] * _FIELDS), back) for back in reverse])
    kinds = (nothing,) * states, (nothing,) * streams, (nothing,) * constants
    return Call(cell, nothing, directions, *kinds, afresh=(nothing,) * afresh, autocast=autocast)


def joined(of_each: Sequence[Results]) -> Results:
    """Joins the results of each direction, with final states (B, width), into those of a layer."""
    outputs, finals = zip(*of_each, strict=True)
    if len(of_each) == 1:
        return outputs[0], tuple([final.unsqueeze(0) for final in finals[0]])
    return torch.cat(outputs, dim=-1), tuple([torch.stack(of) for of in zip(*finals, strict=True)])


def misfit(call: Call) -> str | None:
    """What in a call does not fit its input and state, and what it should be, in words; None if everything fits."""
    cell, x = call.cell, call.x
    if call.constants:
        return f"the cell {cell.name!r} reads no constants, but some are given; leave them out"
    if len(call.state) != len(cell.states):
        return f"the cell {cell.name!r} has {len(cell.states)} states ({', '.join(cell.states)}), but {len(call.state)} were given"
    if x.layout != torch.strided:
        return f"the input has the layout {x.layout} but must be dense; make it so with .to_dense()"
    inputs, (units, proj) = x.shape[-1], sizes(call)
    symbols = isinstance(inputs, torch.SymInt) or isinstance(units, torch.SymInt) or isinstance(proj, torch.SymInt)
    # `cache` hashes its arguments, and symbols cannot be hashed.
    widths, shapes = (_sizes.__wrapped__ if symbols else _sizes)(cell, inputs, units, proj)
    directions, batch = len(call.directions), x.shape[1]
    for name, state, width in zip(cell.states, call.state, widths, strict=True):
        if state.shape != (directions, batch, width):
            shape = directions, batch, width
            return f"the initial {name} is {tuple(state.shape)} but must be {shape} = (directions, rows, width)"
        if state.device != x.device or (state.dtype != x.dtype and call.autocast is None):
            return f"the initial {name} is {state.dtype} on {state.device} but the input is {x.dtype} on {x.device}"
    if len(call.streams) != len(cell.streams):
        return f"the cell {cell.name!r} has {len(cell.streams)} streams ({', '.join(cell.streams)}), but {len(call.streams)} were given"
    for name, stream in zip(cell.streams, call.streams, strict=True):
        shape = x.shape[0], batch, units
        if stream.shape != shape:
            return f"the stream {name} is {tuple(stream.shape)} but must be {tuple(shape)} = (steps, rows, hidden_size)"
        if stream.device != x.device or (stream.dtype != x.dtype and call.autocast is None):
            return f"the stream {name} is {stream.dtype} on {stream.device} but the input is {x.dtype} on {x.device}"
    if call.afresh and (call.reset is None or len(call.afresh) != len(cell.states)):
        return f"the cell {cell.name!r} has {len(cell.states)} states to start afresh from at resets, but {len(call.afresh)} were given"
    for name, state, width in zip(cell.states, call.afresh, widths, strict=False):
        of_type = state.dtype == x.dtype or call.autocast is not None
        if state.shape != (directions, width) or not of_type or state.device != x.device:
            return f"{name} to start afresh from is {tuple(state.shape)} of {state.dtype} but must be {(directions, width)} of {x.dtype}"
    for weights, _ in call.directions:
        for field, weight in zip(Weights._fields, weights, strict=True):
            if weight is None:
                continue
            if weight.device != x.device:
                return (
                    f"Input and parameter tensors are not at the same device, found input tensor at {x.device} and "
                    f"parameter tensor {field_name(field)} at {weight.device}; move one with .to()"
                )
            if weight.layout != torch.strided:
                return (
                    f"{field_name(field)} has the layout {weight.layout} but must be dense; make it so with .to_dense()"
                )
            shape = shapes[field]
            if weight.shape != shape:
                return (
                    f"{field_name(field)} is {tuple(weight.shape)} but the cell {cell.name!r} with input_size={inputs} "
                    f"and hidden_size={units} needs {shape}"
                )
            if weight.dtype != x.dtype and call.autocast is None:
                return f"{field_name(field)} is {weight.dtype} but the input is {x.dtype}; convert one with .to()"
    return misplaced(call.lengths, call.reset, x.shape[0], batch)


def misplaced(lengths: Tensor | None, reset: Tensor | None, steps: int, batch: int) -> str | None:
    """What is wrong with the lengths or the resets of a batch, in words; None if nothing is.

    The values of lengths are checked only where they can be read: see `has_values`.
    """
    if lengths is not None:
        if lengths.shape != (batch,) or lengths.dtype != torch.int64:
            return (
                f"lengths is {tuple(lengths.shape)} of {lengths.dtype} but must be ({batch},) = (rows,) of torch.int64"
            )
        if batch and has_values(lengths):
            low, high = (int(edge) for edge in lengths.aminmax())
            if low < 0 or high > steps:
                wrong = low if low < 0 else high
                return f"lengths holds {wrong}, but the input has {steps} steps; give whole numbers from 0 to {steps}"
    if reset is not None and (reset.shape != (steps, batch) or reset.dtype != torch.bool):
        return f"reset is {tuple(reset.shape)} of {reset.dtype} but must be ({steps}, {batch}) = (steps, rows) of torch.bool"
    return None


def used(weight: Tensor | None) -> Tensor:
    """Returns a weight that the layer has made, since its cell's anatomy says that it is used."""
    assert weight is not None
    return weight


def has_values(tensor: Tensor) -> bool:
    """Whether the numbers of a tensor can be read.

    They cannot under a compiler, a tracer or a transform, nor while a CUDA graph records, nor if the tensor is fake or
    on the meta device.
    """
    if torch.compiler.is_compiling() or is_tracing() or type(tensor) is not Tensor or tensor.is_meta:
        return False
    if tensor.is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    return not is_wrapped(tensor)


def sizes(call: Call) -> tuple[int, int]:
    """Returns hidden_size and proj_size, which is 0 if the cell projects no state.

    hidden_size is the width of a state that is not projected. Where all are projected, it is read from the matrix hr.
    """
    projected, states = call.cell.projected, call.cell.states
    if not projected:
        return call.state[0].shape[-1], 0
    hr = call.directions[0].weights.hr
    assert hr is not None  # a cell that projects has this matrix
    proj = call.state[states.index(projected[0])].shape[-1]
    return next(
        (s.shape[-1] for name, s in zip(states, call.state, strict=True) if name not in projected), hr.shape[-1]
    ), proj


NAMES = {  # as in torch.nn, but for `weight_ch`, the peepholes, which torch.nn does not have
    "ih": "weight_ih_l{}{}",
    "hh": "weight_hh_l{}{}",
    "b_ih": "bias_ih_l{}{}",
    "b_hh": "bias_hh_l{}{}",
    "hr": "weight_hr_l{}{}",
    "ch": "weight_ch_l{}{}",
}


def parameter_name(field: str, layer: int, reverse: bool) -> str:
    """torch's name of a weight: `weight_ih_l0`, `bias_hh_l1_reverse`."""
    return NAMES[field].format(layer, "_reverse" if reverse else "")


def initial_name(state: str) -> str:
    """The name of the parameter that is a learned initial state, (L*D, width): `h_0`, `c_0`."""
    return f"{state}_0"


def field_name(field: str) -> str:
    """A weight's name without layer and direction: "weight_ih" for the field "ih"."""
    return NAMES[field].partition("_l{}")[0]


@cache
def _sizes(cell: Cell, inputs: int, units: int, proj: int) -> tuple[tuple[int, ...], dict[str, tuple[int, ...]]]:
    """The widths of the states, and the shapes of the weights."""
    return cell.widths(units, proj), parameter_shapes(cell, inputs, units, proj)


def parameter_shapes(
    cell: Cell, input_size: int, hidden_size: int, proj_size: int = 0, bias: bool = True
) -> dict[str, tuple[int, ...]]:
    """The shape of each weight that the cell has, by field of `Weights`, in torch's order."""
    rows_x = len(cell.anatomy.input_gates) * hidden_size
    rows_r = len(cell.anatomy.recurrent_gates) * hidden_size
    width = cell.widths(hidden_size, proj_size)[0]
    shapes = {
        "ih": (rows_x, input_size),
        "hh": (rows_r, width),
        "b_ih": (rows_x,) if bias else (0,),
        "b_hh": (rows_r,) if bias else (0,),
        "hr": (proj_size, hidden_size) if cell.projected else (0,),
        "ch": (len(cell.vectors), hidden_size),
    }
    return {field: shape for field, shape in shapes.items() if shape[0] > 0}


class Onnx(NamedTuple):
    """The ONNX operator for a cell, and the order of gates and peepholes in its weights."""

    operator: str
    rows: tuple[str, ...]  # elman's gates in ONNX's order; "-f" stands for minus the rows of f, "" for zeros
    peepholes: tuple[str, ...] = ()  # elman's vectors in ONNX's order, written in the same way
    attributes: Mapping[str, object] = MappingProxyType({})


# The ONNX form of each built-in cell. `onnx_form` also finds it for other cells with the same equations, whatever the
# order of their gates and peepholes.
# Coupled cells: ONNX has weights for the input gate (f = 1 - i), elman for the forget gate (i = 1 - f). Since
# sigmoid(-a) = 1 - sigmoid(a), the rows of ONNX's i are minus the rows of elman's f. ONNX ignores its rows of f.
ONNX = {
    cells.rnn: Onnx("RNN", ("h",), attributes={"activations": ["Tanh"]}),
    cells.rnn_relu: Onnx("RNN", ("h",), attributes={"activations": ["Relu"]}),
    cells.lstm: Onnx("LSTM", ("i", "o", "f", "g")),
    cells.peephole_lstm: Onnx("LSTM", ("i", "o", "f", "g"), ("i", "o", "f")),
    cells.coupled_lstm: Onnx("LSTM", ("-f", "o", "", "g"), attributes={"input_forget": 1}),
    cells.coupled_peephole_lstm: Onnx("LSTM", ("-f", "o", "", "g"), ("-f", "o", ""), attributes={"input_forget": 1}),
    cells.gru: Onnx("GRU", ("z", "r", "n"), attributes={"linear_before_reset": 1}),
    cells.gru_before: Onnx("GRU", ("z", "r", "n"), attributes={"linear_before_reset": 0}),
}


def onnx_form(cell: Cell) -> Onnx | None:
    """The ONNX form of a cell, found by its equations and not by its name; None if ONNX has no operator for it."""
    try:
        return _by_equations().get(equations(cell))
    except NotTraceable:
        return None


@cache
def _by_equations() -> dict[str, Onnx]:
    return {equations(cell): form for cell, form in ONNX.items()}
