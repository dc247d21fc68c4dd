"""One layer, all its directions, forward or backward: the tensors of the results, and the script that fills them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from elman.cell import Cell
from elman.cpu import layer_scripts, threads
from elman.cpu.layer_scripts import Form, Wanted, backward_script, forward_script, infer_script
from elman.cpu.memory import empty
from elman.cpu.plan import plan
from elman.cpu.tables import Sizes
from elman.layout import Direction, Weights

Finals = list[tuple[Tensor, ...]]  # each direction's final states, each (B, H)


class Saved(NamedTuple):
    """What forward keeps for backward, beside its output; without elements where the cell needs none."""

    share: Tensor  # (T, B, G*H), the array "x" of the plan
    extra: Tensor  # (T, B, E*H)
    states: tuple[Tensor, ...]  # each (T, B, H): the states after the first


class Gradients(NamedTuple):
    """None where nobody asked."""

    x: Tensor | None
    directions: list[tuple[Weights, tuple[Tensor | None, ...]]]  # of the weights, of the initial states


def form_of(x: Tensor, directions: Sequence[Direction], given: Sequence[Tensor | None], steps: int = 0) -> Form:
    """The form of a call; with `steps` for so many of them only."""
    (length, batch, inputs), units = x.shape, directions[0].state[0].shape[1]
    sizes = Sizes(steps or length, batch, inputs, units, x.dtype, len(directions), threads.available())
    strides = tuple([None if t is None else t.stride() for t in given])
    return Form(sizes, tuple([d.reverse for d in directions]), strides)


def _run(write: Any, cell: Cell, form: Form, more: tuple[Any, ...], addresses: list[int]) -> None:
    """The script for that many threads, or where a team turns out to be smaller, the one for a single thread."""
    if not write(cell, form, *more)(addresses):
        write(cell, form._replace(sizes=form.sizes._replace(threads=1)), *more)(addresses)


def operands(directions: Sequence[Direction]) -> list[Tensor | None]:
    """Weights and states, in the order in which scripts are given them."""
    return [t for d in directions for t in (*d.weights, *d.state)]


def infer(cell: Cell, x: Tensor, directions: Sequence[Direction]) -> tuple[Tensor, Finals]:
    """The output (T, B, D*H) and the final states; nothing else is kept."""
    (steps, batch, _), units = x.shape, directions[0].state[0].shape[1]
    output = empty(steps, batch, len(directions) * units, dtype=x.dtype)
    finals: Finals = [tuple([empty(batch, units, dtype=x.dtype) for _ in cell.states]) for _ in directions]
    span = layer_scripts.CHUNKS * layer_scripts.chunk_of(len(cell.anatomy.input_gates), batch, units, x.dtype)
    results = [t.data_ptr() for of in finals for t in of]
    for begin in range(0, steps if batch else 0, span):
        count = min(span, steps - begin)
        if begin:
            directions = [d._replace(state=of) for d, of in zip(directions, finals, strict=True)]
        given = operands(directions)
        # Each direction has steps of its own, and is given x and the output from there on.
        firsts = [steps - begin - count if direction.reverse else begin for direction in directions]
        addresses = [t.data_ptr() for t in given if t is not None]
        for array in (x, output):
            step, start = array.stride(0) * x.itemsize, array.data_ptr()
            addresses += [start + first * step for first in firsts]
        given.append(x)
        _run(infer_script, cell, form_of(x, directions, given, count), (), [*addresses, *results])
    return output, finals


def forward(cell: Cell, x: Tensor, directions: Sequence[Direction]) -> tuple[Tensor, Finals, list[Saved]]:
    """The output (T, B, D*H), the final states, and what backward needs of it."""
    (steps, batch, _), units, dtype = x.shape, directions[0].state[0].shape[1], x.dtype
    widths = len(cell.anatomy.input_gates) * units, plan(cell).extra * units
    output = empty(steps, batch, len(directions) * units, dtype=dtype)
    finals: Finals = [tuple([empty(batch, units, dtype=dtype) for _ in cell.states]) for _ in directions]
    saved = [
        Saved(
            empty(steps, batch, widths[0], dtype=dtype),
            empty(steps, batch, widths[1], dtype=dtype),
            tuple([empty(steps, batch, units, dtype=dtype) for _ in cell.states[1:]]),
        )
        for _ in directions
    ]
    if batch:
        given = [*operands(directions), x]
        kept = [t for of in saved for t in (of.share, of.extra, *of.states)]
        made = [output, *(t for of in finals for t in of), *kept]
        addresses = [t.data_ptr() for t in (*given, *made) if t is not None]
        _run(forward_script, cell, form_of(x, directions, given), (), addresses)
    return output, finals, saved


def backward(
    cell: Cell,
    x: Tensor,
    directions: Sequence[Direction],
    output: Tensor,
    saved: Sequence[Saved],
    d_output: Tensor | None,
    d_finals: Sequence[Sequence[Tensor | None]],
    wants_x: bool,
    wanted: Sequence[Wanted],
) -> Gradients:
    """The gradients that are wanted, given those of the output and of each direction's final states."""
    d_x = empty(*x.shape, dtype=x.dtype) if wants_x else None
    made = [
        (Weights(*map(_like, d.weights, wants.weights)), tuple(map(_like, d.state, wants.state)))
        for d, wants in zip(directions, wanted, strict=True)
    ]
    results = [d_x, *(t for weights, state in made for t in (*weights, *state))]
    if x.shape[1]:
        given = [*operands(directions), x, d_output, *(t for of in d_finals for t in of)]
        kept = [output, *(t for of in saved for t in (of.share, of.extra, *of.states))]
        addresses = [t.data_ptr() for t in (*given, *kept, *results) if t is not None]
        _run(backward_script, cell, form_of(x, directions, given), (wants_x, tuple(wanted)), addresses)
    else:
        for t in results:
            if t is not None:
                t.zero_()
    return Gradients(d_x, made)


def _like(tensor: Tensor | None, wanted: bool) -> Tensor | None:
    return empty(*tensor.shape, dtype=tensor.dtype) if wanted and tensor is not None else None
