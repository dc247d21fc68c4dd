"""One layer, all its directions, forward or backward: the recurrence, and large products before and after it.

What does not depend on the step before is done for all steps at once (matrices.py): the input's share of
every gate, its gradient, the weights' gradients. The kernels run the recurrence between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from elman.cell import Cell
from elman.cpu import llvm
from elman.cpu.calls import Call
from elman.cpu.matrices import Linear, add_products
from elman.cpu.memory import empty, workspace
from elman.cpu.plan import Place, Plan, plan
from elman.layout import Direction, Weights

SHARE_BYTES = 1 << 23  # in inference the input's share is made for so many bytes of steps at a time

Finals = list[tuple[Tensor, ...]]  # each direction's final states, each (B, H)


class Saved(NamedTuple):
    """What forward keeps for backward, beside its output; without elements where the cell needs none."""

    share: Tensor  # (T, B, G*H), the array "x" of the plan
    extra: Tensor  # (T, B, E*H)
    states: tuple[Tensor, ...]  # each (T, B, H): the states after the first


class Wanted(NamedTuple):
    """Which gradients of a direction are asked for."""

    weights: Sequence[bool]  # by field of `Weights`
    state: Sequence[bool]


class Gradients(NamedTuple):
    """None where nobody asked."""

    x: Tensor | None
    directions: list[tuple[Weights, tuple[Tensor | None, ...]]]  # of the weights, of the initial states


def infer(cell: Cell, x: Tensor, directions: Sequence[Direction]) -> tuple[Tensor, Finals]:
    """The output (T, B, D*H) and the final states; nothing else is kept."""
    (steps, batch, _), units = x.shape, _units(directions)
    gates = len(cell.anatomy.input_gates)
    output = empty(steps, batch, len(directions) * units, dtype=x.dtype)
    turns = [
        [workspace.tensor(f"{d} turns {state}", 2, batch, units, dtype=x.dtype) for state in cell.states[1:]]
        for d in range(len(directions))
    ]
    # An even number of steps: every chunk then finds the states in the second of their two places.
    chunk = max(2, SHARE_BYTES // max(1, batch * gates * units * x.dtype.itemsize) // 2 * 2)
    call = Call(cell, "infer", x, directions)
    call.pack()
    rows = min(chunk, steps) * batch
    shares = [_input_share(d, direction.weights, rows) for d, direction in enumerate(directions) if gates]
    present: Finals = [direction.state for direction in directions]
    for begin in range(0, steps, chunk):
        count = min(chunk, steps - begin)
        call.take(count)
        for d, direction in enumerate(directions):
            start = steps - begin - count if direction.reverse else begin
            part = output[start : start + count, :, d * units : (d + 1) * units]
            if gates:
                share = workspace.tensor(f"{d} share", count * batch, gates * units, dtype=x.dtype)
                shares[d](x[start : start + count].flatten(0, 1), share)
                call.place(d, "x", share.view(count, batch, gates * units))
            call.place(d, f"s.{cell.states[0]}", part)
            for state, values in zip(cell.states[1:], turns[d], strict=True):
                call.place(d, f"s.{state}", values)
            call.start_from(d, present[d])
            present[d] = (part[0 if direction.reverse else -1], *(values[(count - 1) & 1] for values in turns[d]))
        call.run()
    finals = [tuple(state.clone() for state in states) for states in present]
    workspace.trim()
    return output, finals


def forward(cell: Cell, x: Tensor, directions: Sequence[Direction]) -> tuple[Tensor, Finals, list[Saved]]:
    """The output (T, B, D*H), the final states, and what backward needs of it."""
    (steps, batch, _), units = x.shape, _units(directions)
    output = empty(steps, batch, len(directions) * units, dtype=x.dtype)
    call = Call(cell, "forward", x, directions)
    call.pack()
    saved: list[Saved] = []
    flat_x = x.flatten(0, 1)
    for d, direction in enumerate(directions):
        share = empty(steps, batch, len(cell.anatomy.input_gates) * units, dtype=x.dtype)
        if direction.weights.ih is not None:
            _input_share(d, direction.weights, steps * batch)(flat_x, share.flatten(0, 1))
        extra = empty(steps, batch, plan(cell).extra * units, dtype=x.dtype)
        states = tuple(empty(steps, batch, units, dtype=x.dtype) for _ in cell.states[1:])
        saved.append(Saved(share, extra, states))
    finals: Finals = []
    for d, (direction, kept) in enumerate(zip(directions, saved, strict=True)):
        sequences = _place_kept(call, d, cell, output, kept)
        finals.append(tuple(sequence[0 if direction.reverse else -1] for sequence in sequences))
    call.run()
    workspace.trim()
    return output, [tuple(state.clone() for state in states) for states in finals], saved


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
    (steps, batch, _), units, dtype = x.shape, _units(directions), x.dtype
    lanes = llvm.target().lanes(dtype.itemsize)
    padded = -(-units // lanes) * lanes
    if d_output is None:
        d_output = x.new_zeros(units * len(directions)).expand(steps, batch, -1)

    call = Call(cell, "backward", x, directions)
    call.pack()
    adjoints: list[Adjoints] = []
    for d in range(len(directions)):
        made = Adjoints(
            workspace.tensor(f"{d} d_x", steps, batch, len(cell.anatomy.input_gates) * units, dtype=dtype),
            workspace.tensor(f"{d} d_extra", steps, batch, plan(cell).d_extra * units, dtype=dtype),
            workspace.tensor(f"{d} d_p", batch, len(cell.vectors), padded, dtype=dtype).zero_(),
            workspace.tensor(f"{d} carry", len(cell.states), batch, padded, dtype=dtype).zero_(),
        )
        for state, carry, d_final in zip(cell.states, made.carry, d_finals[d], strict=True):
            if d_final is not None:
                carry[:, :units] = d_final
            call.put(d, f"carry.{state}", carry.data_ptr())
            call.put(d, f"carry.{state} row", padded)
        call.place(d, "d_out", d_output[:, :, d * units : (d + 1) * units])
        call.place(d, "d_x", made.share)
        call.place(d, "d_extra", made.extra)
        call.place(d, "d_p", made.p)
        call.put(d, "d_p row", len(cell.vectors) * padded)
        _place_kept(call, d, cell, output, saved[d])
        adjoints.append(made)
    call.run()

    d_x: Tensor | None = None
    gradients: list[tuple[Weights, tuple[Tensor | None, ...]]] = []
    for d, (direction, wants) in enumerate(zip(directions, wanted, strict=True)):
        if wants_x and direction.weights.ih is not None:
            back = Linear(f"{d} input back", direction.weights.ih, None, steps * batch, transposed=False)
            new = d_x is None
            d_x = empty(steps, batch, x.shape[2], dtype=dtype) if d_x is None else d_x
            back(adjoints[d].share.flatten(0, 1), d_x.flatten(0, 1), add=not new)
        sequences = (output[:, :, d * units : (d + 1) * units], *saved[d].states)
        d_weights = _of_weights(plan(cell), x, direction, sequences, saved[d], adjoints[d], wants, units)
        of_state = (
            carry[:, :units].clone() if want else None
            for carry, want in zip(adjoints[d].carry, wants.state, strict=True)
        )
        gradients.append((d_weights, tuple(of_state)))
    if wants_x and d_x is None:
        d_x = torch.zeros_like(x)
    workspace.trim()
    return Gradients(d_x, gradients)


class Adjoints(NamedTuple):
    """What the backward kernel leaves."""

    share: Tensor  # (T, B, G*H), the array "d_x"
    extra: Tensor  # (T, B, E*H)
    p: Tensor  # (B, V, H padded)
    carry: Tensor  # (states, B, H padded): of the initial states


def _of_weights(
    made: Plan,
    x: Tensor,
    direction: Direction,
    sequences: Sequence[Tensor],
    saved: Saved,
    d: Adjoints,
    wants: Wanted,
    units: int,
) -> Weights:
    """The gradients of a direction's weights: sums over all steps and rows, as few large products."""
    of, want = direction.weights, dict(zip(Weights._fields, wants.weights, strict=True))
    flat = d.share.flatten(0, 1)
    d_ih = None
    if want["ih"] and of.ih is not None:
        d_ih = torch.empty_like(of.ih, memory_format=torch.contiguous_format)
        add_products([(d.share.view(1, *flat.shape), x.flatten(0, 1).unsqueeze(0))], d_ih, add=False)
    d_b_ih = flat.sum(0) if want["b_ih"] else None
    d_ch = d.p[:, :, :units].sum(0) if want["ch"] else None
    d_hh = torch.empty_like(of.hh, memory_format=torch.contiguous_format) if want["hh"] and of.hh is not None else None
    d_b_hh = torch.empty_like(of.b_hh) if want["b_hh"] and of.b_hh is not None else None

    written: set[int] = set()
    for operand, place, gate, count in _runs(made):
        rows, new = slice(gate * units, (gate + count) * units), gate not in written
        written |= set(range(gate, gate + count))
        columns = slice(place.slot * units, (place.slot + count) * units)
        adjoint = (d.share if place.array == "d_x" else d.extra)[:, :, columns]
        if d_b_hh is not None:
            total = d_b_ih[columns] if d_b_ih is not None and place.array == "d_x" else adjoint.sum((0, 1))
            d_b_hh[rows] = total if new else d_b_hh[rows] + total
        if d_hh is not None:
            factors = _factors(made, operand, adjoint, direction, sequences, saved, units)
            add_products(list(factors), d_hh[rows], add=not new)
    for gate in set(range(len(made.cell.anatomy.recurrent_gates))) - written:  # used, but without effect
        for gradient in (d_hh, d_b_hh):
            if gradient is not None:
                gradient[gate * units : (gate + 1) * units] = 0
    return Weights(d_ih, d_hh, d_b_ih, d_b_hh, None, d_ch)


def _factors(
    made: Plan,
    operand: Place,
    adjoint: Tensor,
    direction: Direction,
    sequences: Sequence[Tensor],
    saved: Saved,
    units: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Adjoint and operand of a product over all steps; the state before the first step is in no sequence."""
    kind, _, state = operand.array.partition(".")
    if kind == "extra":
        yield adjoint, saved.extra[:, :, operand.slot * units : (operand.slot + 1) * units]
        return
    number = made.cell.states.index(state)
    if kind == "s":
        yield adjoint, sequences[number]
    elif direction.reverse:
        yield adjoint[:-1], sequences[number][1:]
        yield adjoint[-1:], direction.state[number].unsqueeze(0)
    else:
        yield adjoint[1:], sequences[number][:-1]
        yield adjoint[:1], direction.state[number].unsqueeze(0)


def _runs(made: Plan) -> list[tuple[Place, Place, int, int]]:
    """Products as few as possible: operand, place of the first adjoint, first gate, number of gates."""
    runs: list[tuple[Place, Place, int, int]] = []
    for gate, operand, d in made.multiplied:
        last = runs[-1] if runs else None
        if last is not None and (last[0], last[1].array, last[1].slot + last[3], last[2] + last[3]) == (
            operand,
            d.array,
            d.slot,
            gate,
        ):
            runs[-1] = (*last[:3], last[3] + 1)
        else:
            runs.append((operand, d, gate, 1))
    return runs


def _units(directions: Sequence[Direction]) -> int:
    return directions[0].state[0].shape[1]


def _input_share(d: int, weights: Weights, rows: int) -> Linear:
    """W x_t + b_ih for steps and rows, (T*B, I) -> (T*B, G*H)."""
    assert weights.ih is not None
    return Linear(f"{d} input", weights.ih, weights.b_ih, rows)


def _place_kept(call: Call, d: int, cell: Cell, output: Tensor, saved: Saved) -> tuple[Tensor, ...]:
    """Where forward writes, and backward reads. Returns the sequence of every state."""
    units = call.sizes.units
    sequences = (output[:, :, d * units : (d + 1) * units], *saved.states)
    for name, sequence in zip(cell.states, sequences, strict=True):
        call.place(d, f"s.{name}", sequence)
    call.place(d, "x", saved.share)
    call.place(d, "extra", saved.extra)
    return sequences
