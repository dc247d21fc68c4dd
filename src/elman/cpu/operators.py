"""What PyTorch sees of the engine: three operators.

    elman::infer     (cell, x, weights, fields, state, reverse) -> output, final states
    elman::forward   the same, and then what backward needs
    elman::backward  (..., output, saved, cotangents, needed) -> gradients of x, weights, state

Shapes: x (T, B, I). weights: for each direction those fields of `Weights` whose numbers `fields` lists;
state: the initial states, (D, B, H) each; reverse: one bool for each direction; output (T, B, D*H).
A cell is known by a name made of its graph. Which gradients are needed, and whether anything is saved,
is said by the caller, so that the shapes of all results are known beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from elman.cell import Cell
from elman.cpu import passes
from elman.cpu.passes import Saved, Wanted
from elman.cpu.plan import fingerprint, plan
from elman.layout import Direction, Weights
from elman.recurrence import ENGINES, States

_cells: dict[str, Cell] = {}
_names: dict[Cell, str] = {}

_INPUTS = "str cell, Tensor x, Tensor[] weights, int[] fields, Tensor[] state, bool[] reverse"
library = torch.library.Library("elman", "DEF")
library.define(f"infer({_INPUTS}) -> Tensor[]")
library.define(f"forward({_INPUTS}) -> Tensor[]")
library.define(f"backward({_INPUTS}, Tensor output, Tensor[] saved, Tensor?[] cotangents, bool[] needed) -> Tensor[]")


def run(cell: Cell, x: Tensor, directions: Sequence[Direction], state: States) -> tuple[Tensor, States]:
    """One layer in all its directions: the output (T, B, D*H) and the final states, each (D, B, H) as `state`.

    Tensors with values go straight to the passes; the dispatcher, which would cost as much as a short
    sequence, is asked where something else than the values is wanted: a compiler's or exporter's trace.
    """
    given = passes.operands(directions, state)
    training = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *given))
    if torch.compiler.is_compiling() or type(x) is not Tensor or is_in_torch_dispatch_mode():
        fields = [number for number, weight in enumerate(directions[0].weights) if weight is not None]
        weights = [w for direction in directions for w in direction.weights if w is not None]
        reverse = [direction.reverse for direction in directions]
        operator = torch.ops.elman.forward if training else torch.ops.elman.infer
        output, *rest = operator(name_of(cell), x, weights, fields, state, reverse)
    elif training and not torch.is_inference_mode_enabled():  # which `enable_grad` inside it does not end
        reverse = [direction.reverse for direction in directions]
        output, *rest = _Layer.apply(cell, reverse, x, *given)
    else:
        return passes.infer(cell, rows(x), readable(directions), _dense_all(state))
    return output, tuple(rest[: len(state)])


def name_of(cell: Cell) -> str:
    """The name under which the operators know a cell from now on: the same in every process."""
    if cell not in _names:
        name = f"{cell.name}-{fingerprint(cell)}"
        _cells[name] = cell  # before another thread can be told the name
        _names[cell] = name
    return _names[cell]


def _cell(name: str) -> Cell:
    if name not in _cells:
        raise RuntimeError(
            f"the cell {name!r} is not known in this process; make a layer of it, or run one, before what was exported"
        )
    return _cells[name]


Inputs = tuple[str, Tensor, Sequence[Tensor], Sequence[int], Sequence[Tensor], Sequence[bool]]


def _directions(inputs: Inputs) -> Sequence[Direction]:
    _, _, weights, fields, _, reverse = inputs
    found = []
    for d, back in enumerate(reverse):
        own = dict(zip(fields, _share_of(weights, d, reverse), strict=True))
        found.append(Direction(Weights(*[own.get(field) for field in range(len(Weights._fields))]), back))
    return readable(found)


def readable(directions: Sequence[Direction]) -> Sequence[Direction]:
    """The directions with weights that the kernels can read: as a rule these themselves."""
    for weights, _ in directions:
        for weight in weights:
            if weight is not None and not _is_dense(weight):
                return [_madereadable(direction) for direction in directions]
        if weights.ch is not None and not weights.ch.is_contiguous():
            return [_madereadable(direction) for direction in directions]
    return directions


def _madereadable(direction: Direction) -> Direction:
    weights = Weights(*[w if w is None else _dense(w) for w in direction.weights])
    if weights.ch is not None:
        weights = weights._replace(ch=weights.ch.contiguous())
    return Direction(weights, direction.reverse)


def _is_dense(tensor: Tensor) -> bool:
    """Whether the tensor is in memory, what is in a row side by side. torch has some that are negative, or zero, by a mark only."""
    return tensor.stride(-1) == 1 and not tensor.is_neg() and not tensor._is_zerotensor()


def _dense(tensor: Tensor) -> Tensor:
    """The tensor, or a copy that the kernels can read."""
    if _is_dense(tensor):
        return tensor
    return (
        torch.zeros(tensor.shape, dtype=tensor.dtype) if tensor._is_zerotensor() else tensor.resolve_neg().contiguous()
    )


def _dense_all(state: Sequence[Tensor]) -> States:
    return tuple([_dense(s) for s in state])


def rows(x: Tensor) -> Tensor:
    """x (T, B, I), whose steps lie one behind the other as the rows of a step do."""
    x = _dense(x)
    steps, batch, _ = x.shape
    return x if 1 in (steps, batch) or x.stride(0) == batch * x.stride(1) else x.contiguous()


def _share_of(all_of_them: Sequence[Any], direction: int, directions: Sequence[Any]) -> Sequence[Any]:
    """The part of a list that belongs to one of the directions."""
    count = len(all_of_them) // len(directions)
    return all_of_them[direction * count : (direction + 1) * count]


def _infer(*inputs: Any) -> list[Tensor]:
    output, finals = passes.infer(_cell(inputs[0]), rows(inputs[1]), _directions(inputs), _dense_all(inputs[4]))
    return [output, *finals]


def _forward(*inputs: Any) -> list[Tensor]:
    output, finals, saved = passes.forward(
        _cell(inputs[0]), rows(inputs[1]), _directions(inputs), _dense_all(inputs[4])
    )
    return [output, *finals, *(tensor for of in saved for tensor in (of.share, of.extra, *of.states))]


def _backward(*arguments: Any) -> list[Tensor]:
    """`cotangents` of the output and the final states; `needed` of x, the weights and the states, as the results are."""
    inputs, (output, saved, cotangents, needed) = arguments[:-4], arguments[-4:]
    cell, x, weights, fields, state, reverse = inputs
    of_weights: list[tuple[bool, ...]] = []
    for d in range(len(reverse)):
        own = dict(zip(fields, _share_of(needed[1 : 1 + len(weights)], d, reverse), strict=True))
        of_weights.append(tuple([own.get(field, False) for field in range(len(Weights._fields))]))
    wanted = Wanted(needed[0], tuple(of_weights), tuple(needed[1 + len(weights) :]))
    got = _gradients(_cell(cell), x, _directions(inputs), state, output, saved, cotangents, wanted)
    flat = [got.x, *(of[field] for of in got.weights for field in fields), *got.state]
    return [x.new_empty(0) if tensor is None else tensor for tensor in flat]


def _gradients(
    cell: Cell,
    x: Tensor,
    directions: Sequence[Direction],
    state: Sequence[Tensor],
    output: Tensor,
    kept: Sequence[Tensor],
    cotangents: Sequence[Tensor | None],
    wanted: Wanted,
) -> passes.Gradients:
    """`kept`: for each direction the tensors of `Saved`; cotangents of the output and of the final states."""
    parts = [_share_of(kept, d, directions) for d in range(len(directions))]
    saved = [Saved(of[0], of[1], tuple(of[2:])) for of in parts]
    d_output, *d_finals = [None if d is None else _dense(d) for d in cotangents]
    return passes.backward(cell, rows(x), directions, _dense_all(state), output, saved, d_output, d_finals, wanted)


library.impl("infer", _infer, "CPU")
library.impl("forward", _forward, "CPU")
library.impl("backward", _backward, "CPU")


# Shapes without values.


def _shapes(x: Tensor, state: Sequence[Tensor], reverse: Sequence[bool]) -> list[Tensor]:
    output = x.new_empty(x.shape[0], x.shape[1], len(reverse) * state[0].shape[2])
    return [output, *(torch.empty_like(s, memory_format=torch.contiguous_format) for s in state)]


@torch.library.register_fake("elman::infer", lib=library)
def _(cell: str, x: Tensor, weights: Any, fields: Any, state: Any, reverse: Any) -> list[Tensor]:
    return _shapes(x, state, reverse)


@torch.library.register_fake("elman::forward", lib=library)
def _(cell: str, x: Tensor, weights: Any, fields: Any, state: Any, reverse: Any) -> list[Tensor]:
    known, (steps, batch, _), units = _cell(cell), x.shape, state[0].shape[2]
    widths = [len(known.anatomy.input_gates), plan(known).extra, *(1 for _ in known.states[1:])]
    return [*_shapes(x, state, reverse), *(x.new_empty(steps, batch, w * units) for _ in reverse for w in widths)]


@torch.library.register_fake("elman::backward", lib=library)
def _(
    cell: Any,
    x: Tensor,
    weights: Any,
    fields: Any,
    state: Any,
    reverse: Any,
    output: Any,
    saved: Any,
    cotangents: Any,
    needed: Any,
) -> list[Tensor]:
    return [
        torch.empty_like(tensor, memory_format=torch.contiguous_format) if wanted else x.new_empty(0)
        for tensor, wanted in zip((x, *weights, *state), needed, strict=True)
    ]


# Autograd.


def _keep(ctx: Any, inputs: Inputs, output: Sequence[Tensor]) -> None:
    ctx.cell, x, weights, ctx.fields, state, ctx.reverse = inputs
    ctx.counts = len(weights), len(state)
    ctx.needed = [tensor.requires_grad for tensor in (x, *weights, *state)]
    ctx.save_for_backward(x, *weights, *state, output[0], *output[1 + len(state) :])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, cotangents: Sequence[Tensor | None]) -> tuple[Any, ...]:
    x, *rest = ctx.saved_tensors
    weight_count, state_count = ctx.counts
    weights, state = rest[:weight_count], rest[weight_count : weight_count + state_count]
    output, *saved = rest[weight_count + state_count :]
    inputs, needed = (ctx.cell, x, weights, ctx.fields, state, ctx.reverse), ctx.needed
    cotangents = list(cotangents[: 1 + state_count])
    if torch.is_grad_enabled():  # the gradient is to be differentiated again
        tensors = (x, *weights, *state)
        got = _by_reference(_cell(ctx.cell), x, _directions(inputs), state, tensors, cotangents, needed)
    else:
        found = torch.ops.elman.backward(*inputs, output, saved, cotangents, needed)
        got = [tensor if wanted else None for tensor, wanted in zip(found, needed, strict=True)]
    return None, got[0], got[1 : 1 + weight_count], None, got[1 + weight_count :], None


class _Layer(torch.autograd.Function):
    """The same as the operator, without the dispatcher; `given` as `passes.operands` has it."""

    @staticmethod
    def forward(ctx: Any, cell: Cell, reverse: Sequence[bool], x: Tensor, *given: Tensor | None) -> tuple[Tensor, ...]:
        directions, state = _from_operands(given, reverse)
        output, finals, saved = passes.forward(cell, rows(x), directions, _dense_all(state))
        ctx.cell, ctx.reverse, ctx.count = cell, reverse, len(given)
        ctx.save_for_backward(x, *given, output, *[t for of in saved for t in (of.share, of.extra, *of.states)])
        ctx.set_materialize_grads(False)
        return output, *finals

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
        (x, *rest), count, needed = ctx.saved_tensors, ctx.count, ctx.needs_input_grad[2:]
        given, output, saved = rest[:count], rest[count], rest[count + 1 :]
        directions, state = _from_operands(given, ctx.reverse)
        if torch.is_grad_enabled():
            return None, None, *_by_reference(ctx.cell, x, directions, state, (x, *given), cotangents, needed)
        fields, ends = len(Weights._fields), 1 + count - len(state)
        of_weights = tuple([needed[begin : begin + fields] for begin in range(1, ends, fields)])
        wanted = Wanted(needed[0], of_weights, needed[ends:])
        got = _gradients(ctx.cell, x, directions, state, output, saved, cotangents, wanted)
        return None, None, got.x, *[t for weights in got.weights for t in weights], *got.state


def _from_operands(given: Sequence[Any], reverse: Sequence[bool]) -> tuple[Sequence[Direction], States]:
    """The opposite of `passes.operands`."""
    fields = len(Weights._fields)
    parts = [Direction(Weights(*given[d * fields : (d + 1) * fields]), back) for d, back in enumerate(reverse)]
    return readable(parts), tuple(given[fields * len(reverse) :])


def _by_reference(
    cell: Cell,
    x: Tensor,
    directions: Sequence[Direction],
    state: Sequence[Tensor],
    tensors: Sequence[Tensor | None],
    cotangents: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients of these tensors by the reference engine, with a graph of their own."""
    output, finals = ENGINES["reference"].run(cell, x, directions, tuple(state))
    results = [output, *finals]
    pairs = [(r, c) for r, c in zip(results, cotangents, strict=True) if c is not None and r.requires_grad]
    if not pairs:  # nothing that was asked for has an effect
        return [None] * len(needed)
    sources = [t for t, wanted in zip(tensors, needed, strict=True) if wanted and t is not None]
    values, d_values = zip(*pairs, strict=True)
    found = iter(torch.autograd.grad(values, sources, d_values, create_graph=True, allow_unused=True))
    return [next(found) if wanted else None for wanted in needed]


torch.library.register_autograd("elman::forward", _differentiate, setup_context=_keep, lib=library)
