"""Runs a pass over one layer in all its directions: the tensors of the results, the large products, the gradients.

What belongs to each direction by itself has the shape (D, ...). The output is (T, B, D*Y).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor

from elman.arrays import Place, width_of
from elman.cell import Cell
from elman.gpu.choice import choose, loop_for
from elman.gpu.kernels import ABSENT, AFRESH, ORDINARY
from elman.gpu.loop import Form, wide
from elman.gpu.steps import multiply
from elman.layout import Call, Direction, Results, Weights, sizes, used
from elman.leaves import HIDDEN, PROJECTED
from elman.masks import masks
from elman.native import typed, types
from elman.own_kernels import dense, handed_on
from elman.plan import Run, joined_products, kept, plan

Tensors = Sequence[Tensor | None]


def infer(call: Call) -> Results:
    """Returns the output (T, B, D*Y) and the final states. Keeps nothing else."""
    return _forward(call, "infer")[0]


def forward(call: Call) -> tuple[Results, list[Tensor]]:
    """Returns the output (T, B, D*Y), the final states, and the tensors that backward needs besides: see `saves`."""
    results, arrays = _forward(call, "forward")
    return results, list(arrays.values())


def saves(call: Call) -> list[tuple[Any, torch.dtype]]:
    """Returns the shapes (D, T, B, columns) and the types of the tensors that `forward` keeps for backward."""
    (steps, batch, _), dtype, columns = call.x.shape, call.autocast or call.x.dtype, _columns(call)
    return [
        (
            (len(call.directions), steps, batch, each.slots * columns[each.width]),
            wide(dtype) if each.array.startswith("s.") else dtype,
        )
        for each in kept(call.cell, False)
    ]


def _columns(call: Call) -> dict[str, int]:
    units, proj = sizes(call)
    return {HIDDEN: units, PROJECTED: proj}


def _narrowed(call: Call) -> Call:
    """Returns the call with every tensor in the type of its products, and in order.

    The vectors `ch` and the states after the first are used elementwise, and have the type of sums.
    """
    dtype = call.autocast or call.x.dtype
    of_sums = wide(dtype)
    directions = []
    for weights, reverse in call.directions:
        low = [w if w is None else _as(w, dtype) for w in weights[:-1]]
        ch = weights.ch if weights.ch is None else _as(weights.ch, of_sums)
        directions.append(Direction(Weights(*low, ch=ch), reverse))
    kinds = [dtype, *[of_sums] * (len(call.state) - 1)]
    state, afresh = [
        tuple([_as(s, kind) for s, kind in zip(states, kinds, strict=False)]) for states in (call.state, call.afresh)
    ]
    x, streams = _as(call.x, dtype), tuple([_as(u, dtype) for u in call.streams])
    return call._replace(x=x, directions=tuple(directions), state=state, streams=streams, afresh=afresh, autocast=None)


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns the tensor in this type and in order. Short sequences take less time than operations that do nothing."""
    return dense(tensor) if tensor.dtype == dtype and tensor.is_contiguous() else tensor.to(dtype).contiguous()


@contextmanager
def _products_as_recurrent_layers(call: Call) -> Iterator[bool]:
    """Lets products of float32 use TF32 where torch's switch for recurrent layers does. Gives whether they do."""
    if call.x.dtype != torch.float32 or not call.x.is_cuda:
        yield False
        return
    # Torch's older switch, `allow_tf32`, sets the same; it cannot be read after the newer one was set.
    matmul, rnn = torch.backends.cuda.matmul, cast("Any", torch.backends.cudnn.rnn)
    before, wanted = matmul.fp32_precision, rnn.fp32_precision == "tf32"
    if (before == "tf32") is wanted:
        yield wanted
        return
    matmul.fp32_precision = "tf32" if wanted else "ieee"
    try:
        yield wanted
    finally:
        matmul.fp32_precision = before


def _codes(call: Call) -> Tensor | None:
    """Returns the code of each step and row in each direction, (D, T, B); None without lengths and resets."""
    if call.lengths is None and call.reset is None:
        return None
    codes = []
    for reverse in call.reverse:
        present, goes_on = masks(call, reverse)
        code = torch.full(call.x.shape[:2], ORDINARY, dtype=torch.uint8, device=call.x.device)
        if goes_on is not None:
            code.masked_fill_(~goes_on.squeeze(-1), AFRESH)
        if present is not None:
            code.masked_fill_(~present.squeeze(-1), ABSENT)
        codes.append(code)
    return torch.stack(codes)


def _form(call: Call, name: str, coded: bool, tf32: bool) -> Form:
    units, proj = sizes(call)
    x, reverse = call.x, tuple(call.reverse)
    stream = torch.cuda.current_stream(x.device).cuda_stream if x.is_cuda else 0
    return Form(
        call.cell, name, coded, bool(call.afresh), reverse, x.shape[1], units, proj, x.dtype, tf32, x.device, stream
    )


def form(call: Call, *names: str) -> str:
    """Returns which form of the time loop runs these passes of a call, and why."""
    call = _narrowed(call)
    coded = call.lengths is not None or call.reset is not None
    with _products_as_recurrent_layers(call) as tf32:
        whys = {name: choose(_form(call, name, coded, tf32)._replace(stream=0)).why for name in names}
    return whys[names[0]] if len({*whys.values()}) == 1 else "; ".join(f"{name}: {why}" for name, why in whys.items())


def _starts(call: Call, codes: Tensor | None) -> Tensor | None:
    """Returns the code (D, B, 1) of the step that each direction does first; None without codes."""
    if codes is None:
        return None
    return torch.stack([code[-1 if back else 0] for code, back in zip(codes, call.reverse, strict=True)]).unsqueeze(-1)


def _parameters(call: Call) -> dict[str, Any]:
    """Returns the weights, states and streams that kernels read, for each direction. Biases that a layer lacks are zero."""
    of = [weights for weights, _ in call.directions]
    zeros = call.x.new_zeros(len(call.cell.gates) * _columns(call)[HIDDEN]) if of[0].b_hh is None else None
    found: dict[str, Any] = {f"weight.{field}": [getattr(w, field) for w in of] for field in ("hh", "hr")}
    found["p"] = [weights.ch for weights in of]
    found |= {f"u.{name}": [u] * len(of) for name, u in zip(call.cell.streams, call.streams, strict=True)}
    found["bias.b_hh"] = [zeros if weights.b_hh is None else weights.b_hh for weights in of]
    for kind, states in (("initial", call.state), ("afresh", call.afresh)):
        found |= {f"{kind}.{name}": of for name, of in zip(call.cell.states, states, strict=False)}
    return found


def _beside(call: Call, output: Tensor) -> list[Tensor]:
    """Returns the part (T, B, Y) of each direction of an output (T, B, D*Y)."""
    return [output] if len(call.directions) == 1 else list(output.chunk(len(call.directions), dim=-1))


def _share(call: Call, out: Tensor) -> None:
    """Writes the input's share of every gate, W x + b, into out (D, T, B, G*H)."""
    x = call.x.flatten(0, 1)
    for (weights, _), share in zip(call.directions, out, strict=True):
        if weights.ih is None:
            continue
        if weights.b_ih is None:
            torch.mm(x, weights.ih.t(), out=share.flatten(0, 1))
        else:
            torch.addmm(weights.b_ih, x, weights.ih.t(), out=share.flatten(0, 1))


def _forward(call: Call, name: str) -> tuple[Results, dict[str, Tensor]]:
    kinds, shapes = types(call), saves(call)
    call = _narrowed(call)
    (steps, batch, _), (count, _, width) = call.x.shape, call.state[0].shape
    output = call.x.new_empty((steps, batch, count * width))
    arrays = {
        each.array: call.x.new_empty(shape, dtype=dtype)
        for each, (shape, dtype) in zip(kept(call.cell, False), shapes, strict=True)
    }
    if not steps * batch:
        finals = tuple([s.to(kind, copy=True) for s, kind in zip(call.state, kinds, strict=True)])
        return (output.to(kinds[0]), finals), arrays
    codes = _codes(call)
    with _products_as_recurrent_layers(call) as tf32, loop_for(_form(call, name, codes is not None, tf32)) as loop:
        _share(call, arrays["x"])
        given = arrays | _parameters(call) | {"output": _beside(call, output), "code": codes}
        found = loop.run(steps, given, [f"final.{state}" for state in call.cell.states])
    return typed((output, tuple(found.values())), kinds), arrays


def backward(
    call: Call, output: Tensor, saved: Sequence[Tensor], cotangents: Tensors, needed: Sequence[bool]
) -> list[Tensor | None]:
    """Returns the gradients of the call's tensors, in the order of `Call.tensors`; None for each that is not needed.

    cotangents: the gradients of the output and of the final states.
    """
    original, call = call, _narrowed(call)
    steps, batch, _ = call.x.shape
    output = output.to(call.x.dtype)
    cell, count = call.cell, len(call.directions)
    if not steps * batch:
        results = [
            None if t is None or not want else torch.empty_like(t)
            for t, want in zip(original.tensors(), needed, strict=True)
        ]
        return handed_on(original, results, cotangents)
    d_output = torch.zeros_like(output) if cotangents[0] is None else _as(cotangents[0], output.dtype)
    codes = _codes(call)
    kept_arrays = {each.array: array for each, array in zip(kept(cell, False), saved, strict=True)}
    adjoints = _adjoints(call)
    with (
        _products_as_recurrent_layers(call) as tf32,
        loop_for(_form(call, "backward", codes is not None, tf32)) as loop,
    ):
        given = kept_arrays | adjoints | _parameters(call)
        given |= {"output": _beside(call, output), "d_output": _beside(call, d_output), "code": codes}
        for state, d in zip(cell.states, cotangents[1:], strict=True):
            given[f"cotangent.{state}"] = None if d is None else _as(d, call.x.dtype)
        wanted = [name for name in loop.arrays if name.partition(".")[0] in ("carry", "d_p", "d_afresh")]
        ends = loop.run(steps, given, wanted)
        of: Any = call.replaced(needed)  # in the place of each tensor, whether its gradient is needed
        d_state: list[Tensor | None] = [None] * len(call.state)
        d_fresh: list[Tensor | None] = [None] * len(call.afresh)
        if any((*of.state, *of.afresh)):
            d_state, d_fresh = _of_states(call, ends, adjoints, _starts(call, codes))
        d_p = ends["d_p"].sum(1) if "d_p" in ends else None  # (D, V*H)
        found = _Gradients(call, output, kept_arrays, adjoints, codes)
        d_weights: list[Tensor | None] = []
        for d in range(count):
            d_weights += found.of_weights(d, of.directions[d].weights)[:-1]
            d_weights.append(None if d_p is None else d_p[d])
        d_x = found.of_x() if needed[0] else None
    d_streams = [adjoints[f"d_u.{name}"].sum(0) if f"d_u.{name}" in loop.arrays else None for name in cell.streams]
    gradients = [d_x, *d_weights, *d_state, *d_streams, *[None] * len(call.constants), *d_fresh, None, None]
    results: list[Tensor | None] = []
    for d, t, want in zip(gradients, original.tensors(), needed, strict=True):
        if t is None or not want:
            results.append(None)
        else:  # a weight without an effect has the gradient zero
            results.append(torch.zeros_like(t) if d is None else _as(d.view(t.shape), t.dtype))
    return results


def _adjoints(call: Call) -> dict[str, Tensor]:
    """Returns new arrays for the adjoints of the input's shares, of streams and of products, (D, T, B, columns)."""
    cell, columns, shape = call.cell, _columns(call), (len(call.directions), *call.x.shape[:2])
    arrays = {"d_x": call.x.new_empty((*shape, len(cell.anatomy.input_gates) * columns[HIDDEN]))}
    arrays |= {f"d_u.{name}": call.x.new_empty((*shape, columns[HIDDEN])) for name in cell.streams}
    for name, slots in plan(cell).backward.arrays("d_extra").items():
        arrays[name] = call.x.new_empty((*shape, slots * columns[width_of(cell, name)]))
    return arrays


def _of_states(
    call: Call, ends: dict[str, Tensor], adjoints: dict[str, Tensor], starts: Tensor | None
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Returns the gradients of the initial states, (D, B, width), and of the states to start afresh from, (D, width)."""
    d_state: list[Tensor | None] = []
    d_fresh: list[Tensor | None] = []
    for state in call.cell.states:
        d = ends[f"carry.{state}"]
        _add_returned(call, state, adjoints, d)
        if starts is not None:
            if call.afresh:
                d_fresh.append((torch.where(starts == AFRESH, d, 0) + ends[f"d_afresh.{state}"]).sum(1))
            d = torch.where(starts == AFRESH, 0, d)
        d_state.append(d)
    return d_state, d_fresh


def _add_returned(call: Call, state: str, adjoints: dict[str, Tensor], d_state: Tensor) -> None:
    """Adds what comes back to the initial state through products: no kernel has added what the first step gives."""
    columns = _columns(call)
    for product in (each for of_phase in plan(call.cell).backward.products for each in of_phase if each.state == state):
        for segment in product.segments:
            size, (array, slot) = columns[segment.width], segment.place
            for (weights, back), of_steps, d in zip(call.directions, adjoints[array], d_state, strict=True):
                first = of_steps[-1 if back else 0][:, slot * size : (slot + segment.slots) * size]
                rows = getattr(weights, segment.weight)[segment.block * size :][: segment.slots * size]
                returned = torch.empty_like(d)
                multiply(first.unsqueeze(0), rows.unsqueeze(0), returned.unsqueeze(0))
                d += returned


class _Gradients:
    """The gradients of x and of the weights: large products with the adjoints of all steps."""

    def __init__(
        self,
        call: Call,
        output: Tensor,
        kept: dict[str, Tensor],
        adjoints: dict[str, Tensor],
        codes: Tensor | None,
    ) -> None:
        self.call, self.kept, self.adjoints, self.codes = call, kept, adjoints, codes
        self.histories: dict[str, Sequence[Tensor]] = {call.cell.states[0]: _beside(call, output)}
        self.columns = _columns(call)
        self.before: dict[tuple[str, int], Tensor] = {}

    def history(self, state: str) -> Sequence[Tensor]:
        """Returns a state after every step, (T, B, width) for each direction, in the type of products."""
        if state not in self.histories:  # few cells multiply a state after the first
            self.histories[state] = self.kept[f"s.{state}"].to(self.call.x.dtype).unbind()
        return self.histories[state]

    def of_x(self) -> Tensor:
        d_x = torch.empty_like(self.call.x) if self.live() else torch.zeros_like(self.call.x)
        flat, add = d_x.flatten(0, 1), False
        for (weights, _), d in zip(self.call.directions, self.adjoints["d_x"].unbind(), strict=True):
            for rows in self.live():
                flat.addmm_(d.flatten(0, 1)[:, rows], used(weights.ih)[rows], beta=int(add))
                add = True
        return d_x

    def live(self) -> list[slice]:
        """Returns the rows of the input's shares that have an effect. Whatever is in the others must not be read."""
        units = self.columns[HIDDEN]
        return [slice(gate * units, (gate + gates) * units) for gate, gates in plan(self.call.cell).shares]

    def of_weights(self, d: int, wanted: Any) -> list[Tensor | None]:
        """Returns the gradients of a direction's weights, in the order of `Weights`; that of `ch` is left out as None."""
        weights, d_x = self.call.directions[d].weights, self.adjoints["d_x"][d].flatten(0, 1)
        found: dict[str, Tensor] = {}
        if wanted.ih and weights.ih is not None:
            found["ih"] = self.made(weights.ih, self.live())
            for rows in self.live():
                torch.mm(d_x[:, rows].t(), self.x(d), out=found["ih"][rows])
        if wanted.b_ih and weights.b_ih is not None:
            found["b_ih"] = self.made(weights.b_ih, self.live())
            for rows in self.live():
                torch.sum(d_x[:, rows], 0, out=found["b_ih"][rows])
        for field in ("hh", "hr"):
            weight = getattr(weights, field)
            if weight is not None and getattr(wanted, field):
                found[field] = self.of_matrix(d, field, weight)
        if wanted.b_hh and weights.b_hh is not None:
            found["b_hh"] = self.of_bias(d, weights.b_hh)
        return [found.get(field) for field in Weights._fields]

    @staticmethod
    def made(weight: Tensor, written: list[slice]) -> Tensor:
        """Returns a tensor for the gradient of a weight. It is zero where nothing is written: rows without an effect."""
        whole = sum(rows.stop - rows.start for rows in written) == len(weight)
        return torch.empty_like(weight) if whole else torch.zeros_like(weight)

    def x(self, d: int) -> Tensor:
        """Returns x (T*B, I), with zeros at steps that rows do not have: whatever is there must not meet an adjoint."""
        x = self.call.x
        if self.call.lengths is not None and self.codes is not None:
            x = torch.where((self.codes[d] == ABSENT).unsqueeze(-1), 0, x)
        return x.flatten(0, 1)

    def of_matrix(self, d: int, field: str, weight: Tensor) -> Tensor:
        runs = [run for run in _runs(self.call.cell) if run.weight == field]
        d_weight = self.made(weight, [self.rows(run) for run in runs if not run.add])
        for run in runs:
            self.add(d_weight[self.rows(run)], d, run)
        return d_weight

    def of_bias(self, d: int, bias: Tensor) -> Tensor:
        runs = [run for run in _runs(self.call.cell) if run.bias is not None]
        d_bias = self.made(bias, [self.rows(run) for run in runs if not run.add])
        for run in runs:
            adjoint, rows = self.adjoint(d, run), d_bias[self.rows(run)]
            if run.add:
                rows.add_(adjoint.sum((0, 1)))
            else:
                torch.sum(adjoint, (0, 1), out=rows)
        return d_bias

    def rows(self, run: Run) -> slice:
        """Returns the rows of a weight that a run multiplies."""
        size = self.columns[width_of(self.call.cell, run.d.array)]
        return slice(run.block * size, (run.block + run.blocks) * size)

    def adjoint(self, d: int, run: Run) -> Tensor:
        """Returns the adjoints of the products, (T, B, columns)."""
        size = self.columns[width_of(self.call.cell, run.d.array)]
        return self.adjoints[run.d.array][d][..., run.d.slot * size : (run.d.slot + run.blocks) * size]

    def add(self, part: Tensor, d: int, run: Run) -> None:
        """Writes or adds to a part of the gradient: the sum over all steps and rows of adjoint times operand."""
        adjoint, (kind, _, state) = self.adjoint(d, run), run.operand.array.partition(".")
        if kind != "before":
            operand = self.history(state)[d] if kind == "s" else self.slot(d, run.operand)
            part.addmm_(adjoint.flatten(0, 1).t(), operand.flatten(0, 1), beta=int(run.add))
        elif self.codes is not None:
            part.addmm_(adjoint.flatten(0, 1).t(), self.coded_before(state, d).flatten(0, 1), beta=int(run.add))
        else:
            back, history = self.call.directions[d].reverse, self.history(state)[d]
            first = self.call.state[self.call.cell.states.index(state)][d].to(adjoint.dtype)
            later, before = (adjoint[:-1], history[1:]) if back else (adjoint[1:], history[:-1])
            part.addmm_(adjoint[-1 if back else 0].t(), first, beta=int(run.add))
            part.addmm_(later.flatten(0, 1).t(), before.flatten(0, 1))

    def slot(self, d: int, place: Place) -> Tensor:
        size = self.columns[width_of(self.call.cell, place.array)]
        return self.kept[place.array][d][..., place.slot * size : (place.slot + 1) * size]

    def coded_before(self, state: str, d: int) -> Tensor:
        """Returns the state before each step, (T, B, width), with zeros at steps that rows do not have."""
        if (state, d) not in self.before:
            assert self.codes is not None
            call, code = self.call, self.codes[d].unsqueeze(-1)
            k, history = call.cell.states.index(state), self.history(state)[d]
            first, absent = call.state[k][d].to(history.dtype).expand(1, -1, -1), torch.full_like(code[:1], ABSENT)
            back = call.directions[d].reverse
            before = torch.cat([history[1:], first] if back else [first, history[:-1]])
            code_before = torch.cat([code[1:], absent] if back else [absent, code[:-1]])
            fresh = call.afresh[k][d].to(history.dtype) if call.afresh else 0
            before = torch.where(code_before == ABSENT, first, before)
            before = torch.where(code == AFRESH, fresh, before)
            self.before[state, d] = torch.where(code == ABSENT, 0, before)
        return self.before[state, d]


@cache
def _runs(cell: Cell) -> list[Run]:
    return joined_products(plan(cell))
