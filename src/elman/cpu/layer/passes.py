"""Runs a pass over one layer in all its directions: makes the tensors of the results, and runs the script on them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from elman.cell import Cell
from elman.cpu.codegen.formats import FORMATS
from elman.cpu.layer.backward import Wanted, backward_script
from elman.cpu.layer.directions import index_names
from elman.cpu.layer.form import Form
from elman.cpu.layer.forward import forward_script, kept_names
from elman.cpu.layer.inference import infer_script
from elman.cpu.layer.kernel_tasks import Packed
from elman.cpu.layer.readable import readable
from elman.cpu.layer.rows import Rows
from elman.cpu.layer.rows import rows_of as find_rows
from elman.cpu.scripts import threads
from elman.cpu.scripts.memory import empty
from elman.layout import Call, Results, sizes
from elman.leaves import HIDDEN
from elman.own_kernels import dense, handed_on
from elman.plan import kept

Tensors = Sequence[Tensor | None]


class Names(NamedTuple):
    """The names that scripts have for the arrays of a pass, in the order in which this file gives the addresses."""

    call: tuple[str, ...]  # the tensors of the call, as `Call.tensors` lists them
    finals: tuple[str, ...]  # the final states
    forward: tuple[str, ...]  # the call, the output, the final states, the kept arrays
    form: tuple[str, ...]  # the call, the cotangents of the output and the final states
    backward: tuple[str, ...]  # the names in `form`, the output, the kept arrays, the gradients of the call


def names_of(call: Call) -> Names:
    return _names(call.cell, call.names(), len(call.directions), _is_packed(call))


def _is_packed(call: Call) -> bool:
    """Returns whether a call has lengths or resets, so that it runs on packed rows (rows.py)."""
    return call.lengths is not None or call.reset is not None


@cache
def _names(cell: Cell, call: tuple[str, ...], directions: int, packed: bool) -> Names:
    finals = tuple([f"final.{state}" for state in cell.states])
    kept, form = kept_names(cell, directions, packed), (*call, "d_output", *(f"d_{name}" for name in finals))
    gradients = tuple([f"d_{name}" for name in call])
    return Names(call, finals, (*call, "output", *finals, *kept), form, (*form, "output", *kept, *gradients))


def form_of(call: Call, cotangents: Tensors = (), rows: Rows | None = None) -> Form:
    """Returns the form of a call, or for backward of a call and its cotangents.

    rows: the packed rows that the call's lengths and resets give; None if it has neither.
    """
    x, names = call.x, names_of(call)
    steps, batch, inputs = x.shape
    units, proj = sizes(call)
    known = names.form if cotangents else names.call
    strides = tuple([None if t is None else t.stride() for t in (*_without_rows(call), *cotangents)])
    reverse, many = tuple(call.reverse), threads.available()
    form = Form(steps, batch, inputs, units, proj, FORMATS[x.dtype], many, reverse, known, strides)
    if rows is None:
        return form
    edges = rows.edges(max(1, many // len(reverse)))
    return form._replace(
        steps=rows.steps, batch=rows.rows, packed=Packed(rows.total, steps, batch, rows.runs, rows.last, edges)
    )


def rows_of(call: Call) -> Rows | None:
    """Returns the packed rows of a call with lengths or resets; None for any other call."""
    if not _is_packed(call):
        return None
    steps, batch, _ = call.x.shape
    return find_rows(call.lengths, call.reset, steps, batch, tuple(call.reverse))


def _indexed(
    call: Call, rows: Rows | None, names: tuple[str, ...], addresses: list[int | None]
) -> tuple[tuple[str, ...], list[int | None]]:
    """Returns the names and addresses of a pass, with those of the arrays of packed rows added.

    The caller has to hold `rows` while a script runs on these addresses.
    """
    if rows is None:
        return names, addresses
    own, known = index_names(len(call.directions)), rows.addresses
    return (*names, *own), [*addresses, *[known[name] for name in own]]


def _run(
    write: Any, call: Call, form: Form, more: tuple[Any, ...], names: tuple[str, ...], addresses: Sequence[int | None]
) -> None:
    """Runs the script that `write` writes for the form.

    If the team turns out smaller than the script needs, runs the script for a single thread instead.
    """
    known = [address for address in addresses if address is not None]
    script = write(call.cell, form, *more)
    if script.usual is None:  # checked once, since the form alone decides which arrays are missing
        there = [name for name, address in zip(names, addresses, strict=True) if address is not None]
        script.usual = script.taking(tuple(there))
    if not script.usual(known):
        _run(write, call, form._replace(threads=1), more, names, addresses)


def _addresses(tensors: Tensors) -> list[int | None]:
    return [None if t is None else t.data_ptr() for t in tensors]


def infer(call: Call) -> Results:
    """Returns the output (T, B, D*Y) and the final states. Keeps nothing else."""
    call = readable(call)
    if (rows := rows_of(call)) is not None and not rows.total:
        return _nothing_read(call)
    x, (steps, batch, _), (count, _, width), dtype = call.x, call.x.shape, call.state[0].shape, call.x.dtype
    output = empty((steps, batch, count * width), dtype)
    finals = tuple([empty(s.shape, dtype) for s in call.state])
    whole, known = (x, *call.streams, output), names_of(call._replace(streams=()))
    names = *known.call[1:], *known.finals
    names += tuple(
        [f"{name}.{d}" for name in ("x", *map("u.{}".format, call.cell.streams), "output") for d in range(count)]
    )
    begin = 0
    while begin < steps and batch:
        form = form_of(call, (), rows)
        if rows is None:
            form = form._replace(steps=steps - begin)
        length = infer_script(call.cell, form).steps if rows is None else steps
        addresses = _addresses([*_without_rows(call._replace(streams=()))[1:], *finals])
        for array in whole:
            # Each direction runs steps of its own. It is given x, streams and the output from the earliest of these on.
            firsts = [steps - begin - length if reverse else begin for reverse in call.reverse]
            addresses += [array.data_ptr() + first * array.stride(0) * dtype.itemsize for first in firsts]
        _run(infer_script, call, form, (), *_indexed(call, rows, names, addresses))
        begin, call = begin + length, call._replace(state=finals)
    return output, finals


def saves(call: Call) -> list[tuple[Any, torch.dtype]]:
    """Returns the shapes and types of the tensors that `forward` keeps for backward: for each direction, those of `plan.kept`.

    A tensor has no elements where the cell needs none.
    """
    (steps, batch, _), (units, proj) = call.x.shape, sizes(call)
    columns = [each.slots * (units if each.width == HIDDEN else proj) for each in kept(call.cell, _is_packed(call))]
    return [((steps, batch, count), call.x.dtype) for _ in call.directions for count in columns]


def forward(call: Call) -> tuple[Results, list[Tensor]]:
    """Returns the output (T, B, D*Y), the final states, and the tensors that backward needs besides: see `saves`."""
    call = readable(call)
    (steps, batch, _), (count, _, width), dtype = call.x.shape, call.state[0].shape, call.x.dtype
    output = empty((steps, batch, count * width), dtype)
    finals = tuple([empty(s.shape, dtype) for s in call.state])
    saved = [empty(*each) for each in saves(call)]
    if (rows := rows_of(call)) is not None and not rows.total:
        return _nothing_read(call), saved
    if batch:
        addresses = _addresses([*_without_rows(call), output, *finals, *saved])
        names, addresses = _indexed(call, rows, names_of(call).forward, addresses)
        _run(forward_script, call, form_of(call, (), rows), (), names, addresses)
    return (output, finals), saved


def _nothing_read(call: Call) -> Results:
    """Returns the results where no sequence has a step: the output is zero, the final states are the initial states."""
    (steps, batch, _), (count, _, width) = call.x.shape, call.state[0].shape
    output = empty((steps, batch, count * width), call.x.dtype).zero_()
    return output, tuple([empty(s.shape, s.dtype).copy_(s) for s in call.state])


def _without_rows(call: Call) -> Tensors:
    """Returns `Call.tensors` with None for lengths and resets: scripts read the arrays of `Rows` instead."""
    return [*call.tensors()[:-2], None, None]


def backward(
    call: Call,
    output: Tensor,
    saved: Sequence[Tensor],
    cotangents: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """Returns the gradients of the call's tensors, in the order of `Call.tensors`; None for each that is not needed.

    cotangents: the gradients of the output and of the final states.
    """
    call = readable(call)
    results = [
        empty(t.shape, t.dtype) if want and t is not None else None
        for t, want in zip(call.tensors(), needed, strict=True)
    ]
    rows = rows_of(call)
    if not call.x.shape[1] or (rows is not None and not rows.total):
        return handed_on(call, results, cotangents)
    of: Any = call.replaced(needed)  # in the place of each tensor, whether its gradient is needed
    wanted = Wanted(of.x, tuple([tuple(weights) for weights, _ in of.directions]), of.state, of.afresh, of.streams)
    cotangents = [None if d is None else dense(d) for d in cotangents]
    if rows is not None and cotangents[0] is not None:
        cotangents[0] = cotangents[0].contiguous()  # the index counts all T*B rows, evenly spaced
    addresses = _addresses([*_without_rows(call), *cotangents, output, *saved, *results])
    names, addresses = _indexed(call, rows, names_of(call).backward, addresses)
    _run(backward_script, call, form_of(call, cotangents, rows), (wanted,), names, addresses)
    return results
