"""Engine `reference`: the loop over time in plain PyTorch, so that autograd is backpropagation through time.

Every other engine is judged against this one, in float64. It is written to be read, and does only two
things for speed: one product makes the input's share for all steps, and the gates that multiply the same
operand share one product per step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from elman.cell import Cell, Factor, State, factors
from elman.layout import Call, Results, Weights, joined, used
from elman.masks import MISSING, masks
from elman.mistakes import Mistake, failed_at

Step = Callable[..., State]


def unsupported(call: Call) -> str | None:
    """Why this engine cannot run a call: always None, since it can run every call."""
    return None


def run(call: Call, steps: Sequence[Step | None] | None = None) -> Results:
    """Runs one layer in all its directions.

    steps: for each direction, a step to run instead of the cell's, or None. Such a step computes what the cell
    computes, and watches (`elman.trace`).
    """
    watching = [None] * len(call.directions) if steps is None else steps
    with _Numbers(call.x.dtype) if call.cell.anatomy.untyped else nullcontext():
        return joined([_run(call, d, step or call.cell) for d, step in enumerate(watching)])


class _Numbers(TorchFunctionMode):
    """Gives values of numbers and conditions the dtype of the layer where torch would choose another.

    These are such as `torch.where(v > 0, 0.1, 0.2)` and `torch.sigmoid(v > 0)`.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if not tensors or any(tensor.is_floating_point() for tensor in tensors):
            return function(*args, **kwargs)
        args, kwargs = [self.typed(value) for value in args], {name: self.typed(v) for name, v in kwargs.items()}
        result = function(*args, **kwargs)
        if isinstance(result, Tensor) and result.is_floating_point() and result.dtype != self.dtype:
            args = [value.to(self.dtype) if isinstance(value, Tensor) else value for value in args]
            result = function(*args, **kwargs)
        return result

    def typed(self, value: Any) -> Any:
        return torch.tensor(value, dtype=self.dtype, device="cpu") if isinstance(value, float) else value


def _run(call: Call, d: int, step: Step) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Runs all steps of one direction: returns the output (T, B, Y) and the final states, each (B, width).

    A reverse direction runs from the last step to the first; output[t] still belongs to x[t].
    """
    cell, (weights, reverse) = call.cell, call.directions[d]
    R = Products(cell, weights)
    P = factors(cell.projected, lambda _, v: linear(v, used(weights.hr)))
    p = State(**dict(zip(cell.vectors, weights.ch.unbind() if weights.ch is not None else (), strict=True)))
    s = initial = State(**{name: state[d] for name, state in zip(cell.states, call.state, strict=True)})
    afresh = State(**{name: state[d] for name, state in zip(cell.states, call.afresh, strict=bool(call.afresh))})
    present, goes_on = masks(call, reverse)
    x = call.x if present is None else torch.where(present, call.x, 0)
    shares = input_shares(cell, x, weights)
    streams = [u if present is None else torch.where(present, u, MISSING) for u in call.streams]
    outputs: list[Tensor] = []
    for t in reversed(range(len(shares))) if reverse else range(len(shares)):
        u = State(**{name: stream[t] for name, stream in zip(cell.streams, streams, strict=True)})
        before = s if goes_on is None else _select(goes_on[t], s, afresh if call.afresh else None)
        try:
            after = step(x=shares[t], R=R.next_step(), s=before, p=p, P=P, u=u)
        except (Mistake, RuntimeError, TypeError, ValueError, LookupError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise RuntimeError(f"cell {cell.name!r}: {failed_at(before, error)}") from error
        if not outputs:
            for name, value in vars(after).items():
                if value.shape != getattr(s, name).shape:
                    raise RuntimeError(
                        f"cell {cell.name!r}: state {name} came out as {tuple(value.shape)} instead of "
                        f"{tuple(getattr(s, name).shape)}; a step computes each sequence by itself"
                    )
        if call.autocast is None and any(value.dtype != x.dtype for value in after):
            after = State(**{name: value.to(x.dtype) for name, value in vars(after).items()})
        s = after if present is None else _select(present[t], after, s)
        outputs.append(next(iter(after)))
    if reverse:
        outputs.reverse()
    output = torch.stack(outputs)
    return output if present is None else torch.where(present, output, 0), _own(s, [*initial, *afresh])


def _own(states: Iterable[Tensor], others: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """Returns states of which none is another one, or one of these others: a caller may change each in place."""
    known, found = {id(other) for other in others}, []
    for state in states:
        found.append(state.clone() if id(state) in known or state._is_view() else state)
        known.add(id(state))
    return tuple(found)


def _select(mask: Tensor, s: State, otherwise: State | None) -> State:
    """Returns s where the mask (B, 1) is true, and elsewhere the state `otherwise`, or zero if that is None.

    It does not multiply by the mask, since zero times NaN is NaN.
    """
    others = [0.0] * len(tuple(s)) if otherwise is None else [o.to(v.dtype) for v, o in zip(s, otherwise, strict=True)]
    chosen = [torch.where(mask, value, other) for value, other in zip(s, others, strict=True)]
    return State(**dict(zip(s.__dict__, chosen, strict=True)))


def input_shares(cell: Cell, x: Tensor, weights: Weights) -> list[State]:
    """W_g x_t + b_ih,g for every gate g and step t, in one product: one State per step, each of its values (B, H)."""
    gates = cell.anatomy.input_gates
    if not gates:
        return [State() for _ in range(x.shape[0])]
    share = linear(x, used(weights.ih), weights.b_ih)  # (T, B, G*H)
    return [State(**dict(zip(gates, row.chunk(len(gates), dim=-1), strict=True))) for row in share.unbind()]


class Products:
    """`R` in a step: `R.i @ v` is R_i v + b_hh,i, taken from one product for all gates that multiply v.

    Which gates multiply the same operand is known beforehand, from `cell.anatomy`.
    """

    def __init__(self, cell: Cell, weights: Weights):
        self._groups = cell.anatomy.groups
        self._factors = {gate: Factor(gate, self._multiply) for gate in cell.anatomy.recurrent_gates}
        if self._groups:
            gates, matrix, bias = cell.anatomy.recurrent_gates, used(weights.hh), weights.b_hh
            self._matrices = [_rows(matrix, gates, group) for group in self._groups]
            self._biases = [None if bias is None else _rows(bias, gates, group) for group in self._groups]
        self.next_step()

    def next_step(self) -> Products:
        # By the id of the operand. The operand is held, so that no other tensor gets its id.
        self._shares: dict[int, tuple[Tensor, dict[str, Tensor]]] = {}
        return self

    def __getattr__(self, gate: str) -> Factor:
        try:
            return self.__dict__["_factors"][gate]
        except KeyError:
            raise AttributeError(gate) from None

    def _multiply(self, gate: str, operand: Tensor) -> Tensor:
        _, shares = self._shares.setdefault(id(operand), (operand, {}))
        if gate not in shares:
            # A gate that multiplies several operands is in several groups, in the order of the products in the step.
            candidates = [number for number, group in enumerate(self._groups) if gate in group]
            number = next((n for n in candidates if n == len(self._shares) - 1), candidates[0])
            share = linear(operand, self._matrices[number], self._biases[number])  # (B, gates*H)
            group = self._groups[number]
            shares |= zip(group, share.chunk(len(group), dim=-1), strict=True)
        return shares[gate]


def _rows(tensor: Tensor, gates: tuple[str, ...], group: tuple[str, ...]) -> Tensor:
    """The rows of a group of gates; the tensor itself if the group is all gates."""
    if group == gates:
        return tensor
    blocks = tensor.unflatten(0, (len(gates), -1))
    return torch.cat([blocks[gates.index(gate)] for gate in group])
