"""Engine `reference`: the loop over time in plain PyTorch, so that autograd is backpropagation through time.

Every other engine is judged against this one, in float64. It is written to be read, and does only two
things for speed: the input's product is one for all steps, and the gates that read the same operand
share one product per step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from elman.cell import Cell, Factor, State, factors
from elman.layout import Call, Results, Weights, joined

Step = Callable[..., State]


def unsupported(call: Call) -> str | None:
    """Why this engine cannot run the case: it always can."""
    return None


def run(call: Call, steps: Sequence[Step | None] | None = None) -> Results:
    """One layer in all its directions.

    steps: for each direction something to run instead of the cell, which computes the same and watches
    (`elman.trace`), or None.
    """
    watching = [None] * len(call.directions) if steps is None else steps
    return joined([_run(call, d, step or call.cell) for d, step in enumerate(watching)])


def _run(call: Call, d: int, step: Step) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One direction, all steps: the output (T, B, Y) and the final states, each (B, width).

    A reverse direction runs from the last step to the first; output[t] still belongs to x[t].
    """
    cell, (weights, reverse) = call.cell, call.directions[d]
    R = Products(cell, weights)
    P = factors(cell.projected, lambda _, v: linear(v, _given(weights.hr)))
    p = State(**dict(zip(cell.vectors, weights.ch.unbind() if weights.ch is not None else (), strict=True)))
    s = State(**{name: state[d] for name, state in zip(cell.states, call.state, strict=True)})

    afresh = State(**{name: state[d] for name, state in zip(cell.states, call.afresh, strict=bool(call.afresh))})
    present, goes_on = _masks(call, reverse)
    x = call.x if present is None else torch.where(present, call.x, 0)
    shares = input_shares(cell, x, weights)
    outputs: list[Tensor] = []
    for t in reversed(range(len(shares))) if reverse else range(len(shares)):
        before = s if goes_on is None else _select(goes_on[t], s, afresh if call.afresh else None)
        after = step(x=shares[t], R=R.next_step(), s=before, p=p, P=P)
        s = after if present is None else _select(present[t], after, s)
        outputs.append(next(iter(after)))
    if reverse:
        outputs.reverse()
    output = torch.stack(outputs)
    return output if present is None else torch.where(present, output, 0), tuple(s)


def _masks(call: Call, reverse: bool) -> tuple[Tensor | None, Tensor | None]:
    """Which steps each row has, and which of them go on from the state of the step done before; (T, B, 1), None for all.

    A step that a row does not have does not go on either, so that nothing of the row takes part in it.
    """
    if call.lengths is None and call.reset is None:
        return None, None
    steps, batch, _ = call.x.shape
    present = goes_on = torch.ones(steps, batch, 1, dtype=torch.bool, device=call.x.device)
    if call.lengths is not None:
        numbers = torch.arange(steps, device=call.x.device).reshape(steps, 1, 1)
        present = goes_on = numbers < call.lengths.unsqueeze(-1)
    if call.reset is not None:
        cuts = call.reset.unsqueeze(-1) & present  # before a step that the row has
        if reverse:
            cuts = torch.cat([cuts[1:], torch.zeros_like(cuts[:1])])
        goes_on = present & ~cuts
    return None if call.lengths is None else present, goes_on


def _select(mask: Tensor, s: State, otherwise: State | None) -> State:
    """s where the mask (B, 1) says so, elsewhere another state, or zero. Never by multiplying: zero times NaN is NaN."""
    others = [0.0] * len(tuple(s)) if otherwise is None else [o.to(v.dtype) for v, o in zip(s, otherwise, strict=True)]
    chosen = [torch.where(mask, value, other) for value, other in zip(s, others, strict=True)]
    return State(**dict(zip(s.__dict__, chosen, strict=True)))


def input_shares(cell: Cell, x: Tensor, weights: Weights) -> list[State]:
    """W_g x_t + b_ih,g for every gate g and step t, in one product: a State per step, each value (B, H)."""
    gates = cell.anatomy.input_gates
    if not gates:
        return [State() for _ in range(x.shape[0])]
    share = linear(x, _given(weights.ih), weights.b_ih)  # (T, B, G*H)
    return [State(**dict(zip(gates, row.chunk(len(gates), dim=-1), strict=True))) for row in share.unbind()]


class Products:
    """`R` in a step: `R.i @ v` is R_i v + b_hh,i, taken from the one product of all gates that read v.

    Which gates read the same operand is known beforehand (`cell.anatomy`).
    """

    def __init__(self, cell: Cell, weights: Weights):
        self._groups = cell.anatomy.groups
        self._factors = {gate: Factor(gate, self._multiply) for gate in cell.anatomy.recurrent_gates}
        if self._groups:
            gates, matrix, bias = cell.anatomy.recurrent_gates, _given(weights.hh), weights.b_hh
            self._matrices = [_rows(matrix, gates, group) for group in self._groups]
            self._biases = [None if bias is None else _rows(bias, gates, group) for group in self._groups]
        self.next_step()

    def next_step(self) -> Products:
        self._shares: dict[int, tuple[Tensor, dict[str, Tensor]]] = {}  # by operand, which is held so that its id stays
        return self

    def __getattr__(self, gate: str) -> Factor:
        try:
            return self.__dict__["_factors"][gate]
        except KeyError:
            raise AttributeError(gate) from None

    def _multiply(self, gate: str, operand: Tensor) -> Tensor:
        _, shares = self._shares.setdefault(id(operand), (operand, {}))
        if gate not in shares:
            # A gate that reads several operands is in several groups, in the order in which they are asked for.
            candidates = [number for number, group in enumerate(self._groups) if gate in group]
            number = next((n for n in candidates if n == len(self._shares) - 1), candidates[0])
            share = linear(operand, self._matrices[number], self._biases[number])  # (B, gates*H)
            group = self._groups[number]
            shares |= zip(group, share.chunk(len(group), dim=-1), strict=True)
        return shares[gate]


def _rows(tensor: Tensor, gates: tuple[str, ...], group: tuple[str, ...]) -> Tensor:
    """The rows of these gates: the tensor itself where they are all."""
    if group == gates:
        return tensor
    blocks = tensor.unflatten(0, (len(gates), -1))
    return torch.cat([blocks[gates.index(gate)] for gate in group])


def _given(weight: Any) -> Tensor:
    assert weight is not None  # the layer made it: the cell's anatomy says it is used
    return weight
