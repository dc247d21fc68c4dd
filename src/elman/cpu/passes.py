"""One layer, all its directions, forward or backward: the tensors of the results, and the script that fills them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from elman.cell import Cell
from elman.cpu import threads
from elman.cpu.layer_scripts import Form, Wanted, backward_script, forward_script, infer_script
from elman.cpu.memory import empty
from elman.cpu.plan import plan
from elman.layout import Direction, Weights

States = tuple[Tensor, ...]  # each (D, B, H)


class Saved(NamedTuple):
    """What forward keeps for backward, beside its output; without elements where the cell needs none."""

    share: Tensor  # (T, B, G*H), the array "x" of the plan
    extra: Tensor  # (T, B, E*H)
    states: tuple[Tensor, ...]  # each (T, B, H): the states after the first


class Gradients(NamedTuple):
    """None where nobody asked."""

    x: Tensor | None
    weights: list[Weights]  # of each direction
    state: tuple[Tensor | None, ...]  # of the initial states


def operands(directions: Sequence[Direction], state: States) -> list[Tensor | None]:
    """Weights and states, in the order in which scripts are given them."""
    return [*[weight for weights, _ in directions for weight in weights], *state]


def form_of(x: Tensor, directions: Sequence[Direction], state: States, given: Sequence[Tensor | None]) -> Form:
    """The form of a call on x, `operands` and what else is given."""
    steps, batch, inputs = x.shape
    strides = tuple([None if t is None else t.stride() for t in (x, *given)])
    reverse = tuple([direction.reverse for direction in directions])
    return Form(steps, batch, inputs, state[0].shape[2], x.dtype, threads.available(), reverse, strides)


def _run(write: Any, cell: Cell, form: Form, more: tuple[Any, ...], addresses: list[int]) -> None:
    """The script for that many threads, or where a team turns out to be smaller, the one for a single thread."""
    if not write(cell, form, *more)(addresses):
        write(cell, form._replace(threads=1), *more)(addresses)


def infer(cell: Cell, x: Tensor, directions: Sequence[Direction], state: States) -> tuple[Tensor, States]:
    """The output (T, B, D*H) and the final states; nothing else is kept."""
    (steps, batch, _), (count, _, units), dtype = x.shape, state[0].shape, x.dtype
    output = empty((steps, batch, count * units), dtype)
    finals = tuple([empty((count, batch, units), dtype) for _ in state])
    begin = 0
    while begin < steps and batch:
        given = operands(directions, state)
        form = form_of(x, directions, state, given)._replace(steps=steps - begin)
        length = infer_script(cell, form).steps
        # Each direction has steps of its own, and is given x and the output from there on.
        firsts = [steps - begin - length if reverse else begin for _, reverse in directions]
        addresses = [t.data_ptr() for t in given if t is not None]
        for array in (x, output):
            step, start = array.stride(0) * dtype.itemsize, array.data_ptr()
            addresses += [start + first * step for first in firsts]
        addresses += [final.data_ptr() for final in finals]
        _run(infer_script, cell, form, (), addresses)
        begin, state = begin + length, finals
    return output, finals


def forward(
    cell: Cell, x: Tensor, directions: Sequence[Direction], state: States
) -> tuple[Tensor, States, list[Saved]]:
    """The output (T, B, D*H), the final states, and what backward needs of it."""
    (steps, batch, _), (count, _, units), dtype = x.shape, state[0].shape, x.dtype
    widths = len(cell.anatomy.input_gates) * units, plan(cell).extra * units
    output = empty((steps, batch, count * units), dtype)
    finals = tuple([empty((count, batch, units), dtype) for _ in state])
    saved = [
        Saved(
            empty((steps, batch, widths[0]), dtype),
            empty((steps, batch, widths[1]), dtype),
            tuple([empty((steps, batch, units), dtype) for _ in state[1:]]),
        )
        for _ in directions
    ]
    if batch:
        given = operands(directions, state)
        kept = [t for of in saved for t in (of.share, of.extra, *of.states)]
        addresses = [t.data_ptr() for t in (*given, x, output, *finals, *kept) if t is not None]
        _run(forward_script, cell, form_of(x, directions, state, given), (), addresses)
    return output, finals, saved


def backward(
    cell: Cell,
    x: Tensor,
    directions: Sequence[Direction],
    state: States,
    output: Tensor,
    saved: Sequence[Saved],
    d_output: Tensor | None,
    d_finals: Sequence[Tensor | None],
    wanted: Wanted,
) -> Gradients:
    """The gradients that are wanted, given those of the output and of the final states."""
    d_x = _like(x, wanted.x)
    d_weights = [Weights(*map(_like, d.weights, wants)) for d, wants in zip(directions, wanted.weights, strict=True)]
    d_state = tuple(map(_like, state, wanted.state))
    results = [d_x, *[t for weights in d_weights for t in weights], *d_state]
    if x.shape[1]:
        given = [*operands(directions, state), d_output, *d_finals]
        kept = [output, *[t for of in saved for t in (of.share, of.extra, *of.states)]]
        addresses = [t.data_ptr() for t in (*given, x, *kept, *results) if t is not None]
        _run(backward_script, cell, form_of(x, directions, state, given), (wanted,), addresses)
    else:
        for t in results:
            if t is not None:
                t.zero_()
    return Gradients(d_x, d_weights, d_state)


def _like(tensor: Tensor | None, wanted: bool) -> Tensor | None:
    return empty(tensor.shape, tensor.dtype) if wanted and tensor is not None else None
