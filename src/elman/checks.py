"""What a layer checks of its arguments and of its input: torch.nn's conditions, types of error and words.

Each message says more than torch.nn's: both values, and the remedy.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from elman.cell import Cell
from elman.layout import Hidden, misplaced
from elman.torch_private import any_autocast


def check_size(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} should be of type int, got: {type(value).__name__}")
    if value <= 0:
        raise ValueError(f"{name} must be greater than zero, got {value}")


def check_dtype(dtype: Any) -> None:
    if isinstance(dtype, torch.dtype) and not (dtype.is_floating_point or dtype.is_complex):
        raise RuntimeError(
            "Only Tensors of floating point and complex dtype can require gradients, and a layer's weights do, "
            f"got dtype={dtype}; write dtype=torch.float32 and convert the input"
        )


def check_arguments(
    cell: Any,
    input_size: Any,
    hidden_size: Any,
    num_layers: Any,
    bias: Any,
    batch_first: Any,
    dropout: Any,
    bidirectional: Any,
    proj_size: Any,
    learn_initial_state: Any,
    dtype: Any,
    recurrent_dropout: Any,
    weight_dropout: Any,
) -> None:
    """Checks the arguments of a layer's constructor, under the conditions and with the error types of torch.nn."""
    if not isinstance(cell, Cell):
        raise TypeError(f"cell should be an elman.Cell, got: {type(cell).__name__}")
    of_state = {"recurrent_dropout": recurrent_dropout, "weight_dropout": weight_dropout}
    for name, share in {"dropout": dropout, **of_state}.items():
        if not isinstance(share, (Real, str)):
            raise TypeError(f"{name} should be a number, got: {type(share).__name__}")
        if isinstance(share, (str, bool)) or not 0 <= float(share) <= 1:
            raise ValueError(
                f"{name} should be a number in range [0, 1] representing the probability of an element being zeroed, "
                f"got {share!r}"
            )
    for name, share in of_state.items():
        if share and not cell.anatomy.recurrent_gates:
            raise ValueError(
                f"{name} needs a cell with recurrent products, and {cell.name!r} has none: got {share}; leave it out"
            )
    if recurrent_dropout and cell.states[0] in cell.projected:
        raise ValueError(
            f"recurrent_dropout needs a cell whose output is as wide as its gates, and {cell.name!r} projects it: "
            f"got {recurrent_dropout}; use weight_dropout instead"
        )
    for name, value in (
        ("bias", bias),
        ("batch_first", batch_first),
        ("bidirectional", bidirectional),
        ("learn_initial_state", learn_initial_state),
    ):
        if not isinstance(value, bool):
            raise TypeError(f"{name} should be of type bool, got: {type(value).__name__}")
    for name, value in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
        check_size(name, value)
    check_dtype(dtype)
    if proj_size < 0:
        raise ValueError(f"proj_size should be a positive integer or zero to disable projections, got {proj_size}")
    if proj_size >= hidden_size:
        raise ValueError(
            f"proj_size has to be smaller than hidden_size: got proj_size={proj_size}, hidden_size={hidden_size}"
        )
    if bool(cell.projected) != (proj_size > 0):
        needs = "needs a proj_size greater than zero" if cell.projected else "projects no state, so proj_size must be 0"
        raise ValueError(f"cell {cell.name!r} {needs}, got {proj_size}")
    if float(dropout) > 0 and num_layers == 1:
        warnings.warn(
            "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects "
            f"num_layers greater than 1, but got dropout={dropout} and num_layers={num_layers}",
            stacklevel=4,
        )


def check_input(layer: Any, input: Tensor) -> tuple[Tensor, bool]:
    """Checks the input; returns it as (T, B, I), and whether it had a batch dimension."""
    name = layer._get_name()
    try:
        dimensions = input.dim()
    except AttributeError:
        raise no_tensor(layer, input) from None
    if dimensions not in (2, 3):
        raise ValueError(f"{name}: Expected input to be 2D or 3D, got {dimensions}D tensor instead")
    for weight in layer._parameters.values() or layer.weights(0):  # the latter if all are parametrized
        if weight is not None:
            break
    else:
        weight = input
    if input.dtype != weight.dtype and not any_autocast():
        floating = input.is_floating_point() or input.is_complex()
        otherwise = (
            f"convert model: model.to({input.dtype})" if floating else "give token numbers to an nn.Embedding first"
        )
        raise ValueError(
            f"{name}: RNN input dtype ({input.dtype}) does not match weight dtype ({weight.dtype}). "
            f"Convert input: input.to({weight.dtype}), or {otherwise}"
        )
    check_width(layer, input)
    batched = dimensions == 3
    x = (input.transpose(0, 1) if layer.batch_first else input) if batched else input.unsqueeze(1)
    if x.size(0) == 0:
        raise RuntimeError(
            f"{name}: Expected sequence length to be larger than 0 in RNN, got 0: input is {tuple(input.shape)}"
        )
    return x, batched


def check_width(layer: Any, input: Tensor) -> None:
    if input.size(-1) != layer.input_size:
        raise RuntimeError(
            f"{layer._get_name()}: input.size(-1) must be equal to input_size. Expected {layer.input_size}, "
            f"got {input.size(-1)}: input is {tuple(input.shape)}"
        )


def no_tensor(layer: Any, input: Any) -> TypeError:
    """The error for an input that is no tensor."""
    remedy = ""
    if isinstance(input, PackedSequence):
        remedy = "; it holds whole sequences, which a layer reads in one call: layer(packed)"
    elif isinstance(input, tuple):
        remedy = "; if it comes from another layer, write output, h_n = layer(x) and give output"
    elif isinstance(input, (list, Real)) or hasattr(input, "__array__"):
        dtype = next((p.dtype for p in layer.parameters()), torch.get_default_dtype())
        remedy = f"; convert it: torch.as_tensor(input, dtype={dtype})"
    return TypeError(f"{layer._get_name()}: input must be a tensor, got {type(input).__name__}{remedy}")


def no_states(layer: Any, hx: Any, given: tuple[Any, ...]) -> Exception:
    """The error for an hx that is not one tensor for each state. given: what it holds."""
    states = layer.cell.states
    form, write = "one tensor", f"hx={states[0]}"
    if len(states) > 1:
        form, write = f"a tuple of {len(states)} tensors ({', '.join(states)})", f"hx=({', '.join(states)})"
    tensors = isinstance(hx, (Tensor, tuple, list)) and all(isinstance(value, Tensor) for value in given)
    got = type(hx).__name__
    if isinstance(hx, Tensor):
        got = "one tensor"
    elif isinstance(hx, (tuple, list)):
        got = f"{len(given)} tensors" if tensors else f"({', '.join(type(value).__name__ for value in given)})"
    message = f"{layer._get_name()}: hx must be {form}, got {got}; give {write}, or leave it out"
    return RuntimeError(message) if tensors else TypeError(message)


def check_state(layer: Any, hx: Hidden | None, x: Tensor, batched: bool) -> tuple[Tensor, ...]:
    """Checks hx; returns the initial states, each (L*D, B, width). Without hx: zeros, or the learned states."""
    states, widths = layer.cell.states, layer._widths
    rows, batch = layer.num_layers * layer.num_directions, x.shape[1]
    if hx is None:
        if layer.learn_initial_state:
            return tuple([s.unsqueeze(1).expand(-1, batch, -1) for s in layer.initial_states()])
        return tuple([x.new_zeros((rows, batch, width)) for width in widths])
    name = layer._get_name()
    given = (hx,) if isinstance(hx, Tensor) else tuple(hx) if hasattr(hx, "__iter__") else ()
    if len(given) != len(states):
        raise no_states(layer, hx, given)
    for k, (state, value, width) in enumerate(zip(states, given, widths, strict=True)):
        if not isinstance(value, Tensor):
            raise no_states(layer, hx, given)
        shape = (rows, batch, width) if batched else (rows, width)
        if value.dim() != len(shape):
            form, which = ("batched 3-D", 3) if batched else ("unbatched 2-D", 2)
            raise RuntimeError(
                f"{name}: For {form} input, hx should also be {which}-D but got {value.dim()}-D tensor: "
                f"{state} is {tuple(value.shape)} but must be {shape}"
            )
        if value.shape != shape:
            raise RuntimeError(
                f"{name}: Expected hidden{f'[{k}]' if len(states) > 1 else ''} size {shape}, got {list(value.shape)}: "
                f"{state} must be ({layer.num_layers} layers x {layer.num_directions} directions, "
                f"{f'{batch} sequences, ' if batched else ''}{width})"
            )
        if value.device != x.device:
            raise RuntimeError(
                f"{name}: Input and hidden tensors are not at the same device, found input tensor at {x.device} "
                f"and hidden tensor at {value.device}; move it: {state}.to({str(x.device)!r})"
            )
        if value.dtype != x.dtype and not any_autocast():
            raise RuntimeError(
                f"{name}: the initial {state} is {value.dtype} but the input is {x.dtype}; convert it: {state}.to({x.dtype})"
            )
    return given if batched else tuple(value.unsqueeze(1) for value in given)


def check_streams(layer: Any, streams: Any, input: Tensor) -> dict[str, Tensor]:
    """Checks streams, which are laid out as the input is; returns them in the cell's order, all H units wide."""
    name, cell, units = layer._get_name(), layer.cell, layer.hidden_size
    if streams is None and not cell.streams:
        return {}
    has = f"the cell {cell.name!r} has the streams ({', '.join(cell.streams)})" if cell.streams else "it has no streams"
    write = ", ".join(f"{stream!r}: v" for stream in cell.streams)
    remedy = f"give streams={{{write}}}" if cell.streams else "leave streams out"
    if not isinstance(streams, Mapping):
        got = "none were given" if streams is None else f"got {type(streams).__name__}"
        raise TypeError(f"{name}: {has}, but {got}; {remedy}")
    if set(streams) != set(cell.streams):
        raise ValueError(f"{name}: {has}, but ({', '.join(map(str, streams))}) were given; {remedy}")
    found: dict[str, Tensor] = {}
    for stream in cell.streams:
        value, rows = streams[stream], tuple(input.shape[:-1])
        if not isinstance(value, Tensor):
            remedy = f"; convert it: torch.as_tensor(v, dtype={input.dtype})" if hasattr(value, "__array__") else ""
            raise TypeError(f"{name}: the stream {stream} must be a tensor, got {type(value).__name__}{remedy}")
        if value.layout != torch.strided:
            raise RuntimeError(
                f"{name}: the stream {stream} has the layout {value.layout} but must be dense; make it so with .to_dense()"
            )
        # Not with `in`, by which the compiler takes a length it knows and one that it leaves open for different ones.
        if value.shape != (*rows, units) and value.shape != (*rows, 1):
            raise RuntimeError(
                f"{name}: the stream {stream} is {tuple(value.shape)} but must be {(*rows, units)} or {(*rows, 1)}, "
                "laid out as the input is"
            )
        if value.device != input.device:
            raise RuntimeError(
                f"{name}: the stream {stream} is on {value.device} but the input is on {input.device}; move it with .to()"
            )
        if value.dtype != input.dtype and not any_autocast():
            raise RuntimeError(
                f"{name}: the stream {stream} is {value.dtype} but the input is {input.dtype}; convert it with .to()"
            )
        found[stream] = value.expand(*rows, units)
    return found


def as_rows(layer: Any, what: str, given: Any, dtype: torch.dtype) -> Tensor:
    """lengths or reset as a tensor. dtype: that of an empty list, which has no value to tell by."""
    if isinstance(given, Tensor):
        return given
    try:
        rows = torch.as_tensor(given, device="cpu")  # wherever torch makes tensors by default
    except (TypeError, ValueError, RuntimeError) as error:
        kind = "truth values" if dtype == torch.bool else "whole numbers"
        raise TypeError(
            f"{layer._get_name()}: {what} must be {kind} in a tensor or a list, got {given!r:.60}"
        ) from error
    return rows if rows.numel() else rows.to(dtype)


def _of_mask(layer: Any, lengths: Tensor, batched: bool) -> str:
    """The remedy for lengths that have a dimension too many, which may be time; else an empty string."""
    if lengths.dim() != (2 if batched else 1):
        return ""
    whole = ".long()" if lengths.is_floating_point() else ""
    return f"; if it is a mask, give its sum over time: mask.sum({1 if batched and layer.batch_first else 0}){whole}"


def check_rows(
    layer: Any, lengths: Tensor | Sequence[int] | None, reset: Any, x: Tensor, batched: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Checks lengths and reset; returns them as (B,) of int64 and as (T, B), on the device of x."""
    name, (steps, batch) = layer._get_name(), x.shape[:2]
    if lengths is not None:
        lengths = as_rows(layer, "lengths", lengths, torch.int64)
        if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
            remedy = _of_mask(layer, lengths, batched) or "; convert it: torch.as_tensor(lengths).long()"
            raise TypeError(f"{name}: lengths is of {lengths.dtype} but must be whole numbers{remedy}")
        shape = (batch,) if batched else ()
        if lengths.shape != shape:
            form = f"({batch},) = (sequences,)" if batched else "() for unbatched input"
            raise RuntimeError(
                f"{name}: lengths is {tuple(lengths.shape)} but must be {form}{_of_mask(layer, lengths, batched)}"
            )
        lengths = lengths.to(x.device, torch.int64).reshape(batch)
    if reset is not None:
        reset = as_rows(layer, "reset", reset, torch.bool)
        shape = (steps, batch) if batched else (steps,)
        if batched and layer.batch_first:
            shape = batch, steps
        if reset.dtype != torch.bool:
            raise TypeError(
                f"{name}: reset is of {reset.dtype} but must be truth values; convert it: torch.as_tensor(reset).bool()"
            )
        if reset.shape != shape:
            raise RuntimeError(f"{name}: reset is {tuple(reset.shape)} but must be {shape}, laid out as the input is")
        reset = reset.to(x.device)
        reset = (reset.transpose(0, 1) if layer.batch_first else reset) if batched else reset.unsqueeze(1)
    if problem := misplaced(lengths, reset, steps, batch):
        raise RuntimeError(f"{name}: {problem}")
    return lengths, reset
