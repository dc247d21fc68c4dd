"""What PyTorch's exporter writes for a layer: one node of ONNX's RNN, LSTM or GRU, or a Scan of the cell's equations.

And for a CRF's likeliest tags: two Scans, one in each direction.

`translations` is the table that `torch.onnx.export(..., custom_translation_table=elman.onnx.translations)` takes. It is also
registered, so that plain `torch.onnx.export` works once `elman.onnx` is imported.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from elman import operators
from elman.layout import Onnx, onnx_form
from elman.masks import MISSING
from elman.onnx.scan import Unwritable, constant, joined, op, present_steps, scan, step
from elman.onnx.viterbi import viterbi


# Without types: onnxscript would take them for those of ONNX.
def infer(
    cell, engine, autocast, reverse, x,
    ih, hh, b_ih, b_hh, hr, ch,
    state, streams, constants, lengths, reset, afresh,
):  # fmt: skip
    """Writes the nodes of the operator `elman::infer`. Returns the output (T, B, D*Y), and the final states (D, B, width)."""
    weights = ih, hh, b_ih, b_hh, hr, ch
    return _written((cell, engine, autocast, reverse, x, *weights, state, streams, constants, lengths, reset, afresh))


def infer_int8(
    cell, engine, autocast, reverse, x,
    ih, hh, b_ih, b_hh, hr, ch,
    state, streams, constants, lengths, reset, afresh,
):  # fmt: skip
    """Writes what `infer` writes, with nodes that ONNX Runtime can compute in integers: of RNN, LSTM and GRU only LSTM."""
    weights = ih, hh, b_ih, b_hh, hr, ch
    given = cell, engine, autocast, reverse, x, *weights, state, streams, constants, lengths, reset, afresh
    return _written(given, int8=True)


def _written(arguments: Any, int8: bool = False) -> Sequence[Any]:
    """arguments: those of the operator."""
    _, call = operators.together(*arguments)
    if int8 and call.lengths is not None:
        # One scale serves all rows of an operand, so what is past the ends must not count.
        present = present_steps(call)
        streams = tuple([_masked(present, each, MISSING) for each in call.streams])
        call = call._replace(x=_masked(present, call.x, 0.0), streams=streams)
    autocast = arguments[2]
    if autocast is not None:
        raise Unwritable(
            f"cell {call.cell.name!r} was exported under autocast to {autocast}, for which there are no ONNX nodes; "
            "export outside of autocast, and convert the model with .half() for half precision"
        )
    form = _node_of(call)
    if form is not None and (not int8 or form.operator == "LSTM"):
        return _node(call, form)
    alone = call.x.shape[0] == 1 and call.lengths is None and call.reset is None
    return step(call) if alone else scan(call)


def _masked(present: Any, value: Any, otherwise: float) -> Any:
    """Writes a value (T, B, width) with a number in the place of the steps that are not there."""
    number = op.Constant(value=ir.tensor(np.array(otherwise, np.float32)))
    masked = op.Where(present, value, op.CastLike(number, value))
    masked.type, masked.shape = value.type, value.shape
    return masked


def _node_of(call: Any) -> Onnx | None:
    """Returns the form of the one node that computes the call; None where a Scan has to."""
    form, first = onnx_form(call.cell), call.directions[0].weights
    plain = call.reset is None and call.x.dtype == ir.DataType.FLOAT
    whole = first.ih is not None and first.hh is not None and (first.b_ih is None) == (first.b_hh is None)
    return form if plain and whole else None


def _node(call: Any, form: Onnx) -> Sequence[Any]:
    cell, count, hidden = call.cell, len(call.directions), int(call.state[0].shape[2])
    weights = [_packed(weights, cell.gates, cell.vectors, form, hidden) for weights, _ in call.directions]
    W, R, B, P = (None if each[0] is None else joined(each, 0) for each in zip(*weights, strict=True))
    lengths = None if call.lengths is None else op.Cast(call.lengths, to=ir.DataType.INT32.value)
    direction = "bidirectional" if count == 2 else "reverse" if call.reverse[0] else "forward"
    attributes: dict[str, Any] = dict(form.attributes) | {"hidden_size": hidden, "direction": direction}
    if "activations" in attributes:
        attributes["activations"] = attributes["activations"] * count
    inputs = [call.x, W, R, B, lengths, *call.state]
    if form.operator == "LSTM":
        y, *finals = op.LSTM(*inputs, P, **attributes)
    else:
        y, *finals = getattr(op, form.operator)(*inputs, **attributes)
    if call.lengths is not None:  # ONNX Runtime forgets the initial state of a sequence without steps
        some = op.Unsqueeze(op.Greater(call.lengths, constant(0)), constant([0, 2]))  # (1, B, 1)
        finals = [op.Where(some, final, initial) for final, initial in zip(finals, call.state, strict=True)]
    if count == 1:
        return [op.Squeeze(y, constant([1])), *finals]
    return [
        op.Reshape(op.Transpose(y, perm=[0, 2, 1, 3]), constant([0, 0, -1])),
        *finals,
    ]  # (T, D, B, H) to (T, B, D*H)


def _packed(weights: Any, gates: Sequence[str], vectors: Sequence[str], form: Onnx, hidden: int) -> list[Any]:
    """Returns W (1, n*H, I), R (1, n*H, H), B (1, 2*n*H) and P (1, 3*H) of one direction; None where it has none."""

    def rows(weight: Any, matrix: bool = False) -> Any:
        return _rows(weight, gates, form.rows, hidden, matrix)

    bias = None if weights.b_ih is None else op.Concat(rows(weights.b_ih), rows(weights.b_hh), axis=0)
    peepholes = None
    if weights.ch is not None:
        flat = op.Reshape(weights.ch, constant([-1]))  # (V, H) to (V*H,)
        peepholes = _rows(flat, vectors, form.peepholes, hidden)
    parts = rows(weights.ih, True), rows(weights.hh, True), bias, peepholes
    return [None if part is None else op.Unsqueeze(part, constant([0])) for part in parts]


def _rows(weight: Any, have: Sequence[str], want: Sequence[str], hidden: int, matrix: bool = False) -> Any:
    """Puts blocks of rows into ONNX's order. "-f" stands for minus the block f, "" for zeros.

    It takes one Gather, and one Mul if there are such signs. An exporter folds both where the weights are constant.
    """
    places = [have.index(name.lstrip("-")) if name else 0 for name in want]
    signs = [0.0 if not name else -1.0 if name[0] == "-" else 1.0 for name in want]
    if places != list(range(len(have))):
        order = np.concatenate([np.arange(place * hidden, (place + 1) * hidden) for place in places])
        weight = op.Gather(weight, constant(order), axis=0)
    if signs != [1.0] * len(want):
        by_row = np.repeat(np.array(signs, np.float32), hidden)
        weight = op.Mul(weight, op.Constant(value=ir.tensor(by_row[:, None] if matrix else by_row)))
    return weight


translations: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.elman.infer.default: infer,
    torch.ops.elman.viterbi.default: viterbi,
}
of_int8 = translations | {torch.ops.elman.infer.default: infer_int8}


def register() -> None:
    """Makes plain `torch.onnx.export` know the operators, where onnxscript's list of functions can be added to.

    That list is no public part of onnxscript. If it has changed, this warns and names the table.
    """
    try:
        from onnxscript.function_libs.torch_lib.registration import torch_op

        torch_op("elman::infer", trace_only=True)(infer)
        torch_op("elman::viterbi", trace_only=True)(viterbi)
    except Exception as error:  # of any kind, since it is not public
        warnings.warn(
            f"this version of onnxscript cannot be told of elman's layers ({error}); "
            "give torch.onnx.export custom_translation_table=elman.onnx.translations",
            stacklevel=3,
        )
