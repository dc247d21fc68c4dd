"""One layer, all its directions, forward or backward: the tensors of the results, and the script that fills them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from elman.cpu import threads
from elman.cpu.layer_scripts import Form, Wanted, backward_script, forward_script, infer_script
from elman.cpu.memory import empty
from elman.cpu.plan import plan
from elman.cpu.readable import dense, readable
from elman.layout import Call, Results


def operands(call: Call) -> list[Tensor | None]:
    """Weights and states, in the order in which scripts are given them."""
    return [*[weight for weights, _ in call.directions for weight in weights], *call.state]


def form_of(call: Call, given: Sequence[Tensor | None]) -> Form:
    """The form of a call, and of what else is given: `operands`, and for backward more."""
    x = call.x
    steps, batch, inputs = x.shape
    strides = tuple([None if t is None else t.stride() for t in (x, *given)])
    return Form(
        steps, batch, inputs, call.state[0].shape[2], x.dtype, threads.available(), tuple(call.reverse), strides
    )


def _run(write: Any, call: Call, form: Form, more: tuple[Any, ...], addresses: list[int]) -> None:
    """The script for that many threads, or where a team turns out to be smaller, the one for a single thread."""
    if not write(call.cell, form, *more)(addresses):
        write(call.cell, form._replace(threads=1), *more)(addresses)


def infer(call: Call) -> Results:
    """The output (T, B, D*H) and the final states; nothing else is kept."""
    call = readable(call)
    x, (steps, batch, _), (count, _, units), dtype = call.x, call.x.shape, call.state[0].shape, call.x.dtype
    output = empty((steps, batch, count * units), dtype)
    finals = tuple([empty((count, batch, units), dtype) for _ in call.state])
    begin = 0
    while begin < steps and batch:
        given = operands(call)
        form = form_of(call, given)._replace(steps=steps - begin)
        length = infer_script(call.cell, form).steps
        # Each direction has steps of its own, and is given x and the output from there on.
        firsts = [steps - begin - length if reverse else begin for reverse in call.reverse]
        addresses = [t.data_ptr() for t in given if t is not None]
        for array in (x, output):
            step, start = array.stride(0) * dtype.itemsize, array.data_ptr()
            addresses += [start + first * step for first in firsts]
        addresses += [final.data_ptr() for final in finals]
        _run(infer_script, call, form, (), addresses)
        begin, call = begin + length, call._replace(state=finals)
    return output, finals


def saves(call: Call) -> list[tuple[Any, ...]]:
    """The shapes of what `forward` keeps for backward: the states after the first, and for every direction the
    arrays "x", (T, B, G*H), and "extra" of the plan. Without elements where the cell needs none."""
    (steps, batch, _), units = call.x.shape, call.state[0].shape[2]
    widths = [len(call.cell.anatomy.input_gates), plan(call.cell).extra, *(1 for _ in call.state[1:])]
    return [(steps, batch, width * units) for _ in call.directions for width in widths]


def forward(call: Call) -> tuple[Results, list[Tensor]]:
    """The output (T, B, D*H), the final states, and what backward needs besides: see `saves`."""
    call = readable(call)
    (steps, batch, _), (count, _, units), dtype = call.x.shape, call.state[0].shape, call.x.dtype
    output = empty((steps, batch, count * units), dtype)
    finals = tuple([empty((count, batch, units), dtype) for _ in call.state])
    saved = [empty(shape, dtype) for shape in saves(call)]
    if batch:
        given = operands(call)
        addresses = [t.data_ptr() for t in (*given, call.x, output, *finals, *saved) if t is not None]
        _run(forward_script, call, form_of(call, given), (), addresses)
    return (output, finals), saved


def backward(
    call: Call,
    output: Tensor,
    saved: Sequence[Tensor],
    cotangents: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients that are needed, given those of the output and of the final states."""
    call, given = readable(call), [None if d is None else dense(d) for d in cotangents]
    results = [
        empty(t.shape, t.dtype) if want and t is not None else None
        for t, want in zip(call.tensors(), needed, strict=True)
    ]
    asked: Any = call.replaced(needed)
    wanted = Wanted(asked.x, tuple([tuple(weights) for weights, _ in asked.directions]), asked.state)
    if call.x.shape[1]:
        given = [*operands(call), *given]
        addresses = [t.data_ptr() for t in (*given, call.x, output, *saved, *results) if t is not None]
        _run(backward_script, call, form_of(call, given), (wanted,), addresses)
    else:
        for t in results:
            if t is not None:
                t.zero_()
    return results
