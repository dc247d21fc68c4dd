"""Short calls: inference where nothing is out of the ordinary, after one look at each tensor.

Shapes, strides and types make a key; what follows from a key is found out once and remembered. Nothing of a
tensor is: weights are where they are at the call, and hold what they hold then. `Frozen` keeps them on request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from elman.cell import Cell
from elman.cpu import operators, passes, threads, unsupported
from elman.cpu.layer_scripts import Form, infer_script
from elman.cpu.memory import empty, empty_like
from elman.cpu.passes import States
from elman.cpu.script import Script
from elman.layout import Direction, misfit

MOST = 512  # keys remembered at a time
PLAIN = (Tensor, torch.nn.Parameter)

Key = list[Any]


class Call(NamedTuple):
    script: Script
    kept: list[int]  # addresses of arrays that the script is given after all others
    directions: int
    output: tuple[int, ...] | None  # its shape; None if that is the state's

    def __call__(self, addresses: list[int], x: Tensor, state: States) -> tuple[Tensor, States] | None:
        """addresses: of weights and states. None where there are fewer threads than the script needs."""
        output = empty_like(state[0]) if self.output is None else empty(self.output, x.dtype)
        finals = tuple([empty_like(s) for s in state])
        addresses += [x.data_ptr()] * self.directions + [output.data_ptr()] * self.directions
        addresses += [final.data_ptr() for final in finals]
        return (output, finals) if self.script(addresses + self.kept) else None


class Calls:
    """What was found out about keys. None: a case that is not ordinary."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Call | None] = {}

    def find(self, key: Key, make: Callable[[], Call | None]) -> Call | None:
        found = tuple(key)
        try:
            return self._known[found]
        except KeyError:
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[found] = call = make()
            return call


_calls = Calls()


def infer(cell: Cell, x: Tensor, directions: Sequence[Direction], state: States) -> tuple[Tensor, States] | None:
    """As `passes.infer`; None, and nothing was done, if the case is not an ordinary one.

    x may also be one step, (B, I), and the output is then.
    """
    key: Key = [cell, threads.available()]
    addresses: list[int] = []
    for weights, reverse in directions:
        key.append(reverse)
        for weight in weights:
            if weight is None:
                key.append(None)
            elif not _look(weight, key, addresses):
                return None
    for s in state:
        if not _look(s, key, addresses):
            return None
    if not _look(x, key, []):
        return None
    call = _calls.find(key, lambda: _ordinary(cell, x, directions, state))
    return None if call is None else call(addresses, x, state)


def _look(tensor: Tensor, key: Key, addresses: list[int]) -> bool:
    """Add to a key, and to addresses. False for a tensor whose memory is not its numbers."""
    if type(tensor) not in PLAIN or not tensor.is_cpu or tensor.layout is not torch.strided:
        return False
    if tensor.is_neg() or tensor._is_zerotensor():
        return False
    key += (tensor.shape, tensor.stride(), tensor.dtype)
    addresses.append(tensor.data_ptr())
    return True


def _form(cell: Cell, x: Tensor, directions: Sequence[Direction], state: States) -> Form | None:
    """The form of a case that one script can do as the tensors lie, or None."""
    if x.dim() == 2:
        x = x.unsqueeze(0)
    if x.dim() != 3 or len(state) != len(cell.states) or not x.numel() or unsupported(cell, x, directions):
        return None
    shape = len(directions), x.shape[1], state[0].shape[-1]
    if not all(s.shape == shape and s.is_contiguous() and s.dtype == x.dtype for s in state):
        return None
    if operators.rows(x) is not x or operators.readable(directions) is not directions:
        return None
    if misfit(cell, x, directions, state):
        return None
    return passes.form_of(x, directions, state, passes.operands(directions, state))


def _ordinary(cell: Cell, x: Tensor, directions: Sequence[Direction], state: States) -> Call | None:
    form = _form(cell, x, directions, state)
    return None if form is None else _call(infer_script(cell, form), [], form, x)


def _call(script: Script, kept: list[int], form: Form, x: Tensor) -> Call | None:
    if script.steps < form.steps:
        return None
    count = len(form.reverse)
    shape = (*x.shape[:-1], count * form.units)
    return Call(script, kept, count, None if shape == (count, form.batch, form.units) else shape)


class Packed:
    """The weights of a layer in panels, as they were when inference of a form was first asked for.

    Forms whose panels are the same share them.
    """

    def __init__(self, cell: Cell, directions: Sequence[Direction]) -> None:
        self.cell, self.directions = cell, directions
        self._addresses = [w.data_ptr() for weights, _ in directions for w in weights if w is not None]
        self._calls = Calls()
        self._panels: dict[Any, list[Tensor]] = {}

    def infer(self, x: Tensor, state: States) -> tuple[Tensor, States] | None:
        """As `infer`."""
        key: Key = [threads.available()]
        addresses = self._addresses.copy()
        for s in state:
            if not _look(s, key, addresses):
                return None
        if not _look(x, key, []):
            return None
        call = self._calls.find(key, lambda: self._call(x, state, addresses))
        return None if call is None else call(addresses, x, state)

    def _call(self, x: Tensor, state: States, addresses: list[int]) -> Call | None:
        form = _form(self.cell, x, self.directions, state)
        if form is None:
            return None
        first, rest = (infer_script(self.cell, form, part) for part in ("first", "rest"))
        panels = self._panels.get(first.contents)
        if panels is None:
            panels = [empty((size,), x.dtype) for size in first.keeps]
            others = [0] * (first.given_count - len(addresses) - len(panels))  # not read by this part
            first([*addresses, *others, *[array.data_ptr() for array in panels]])
            self._panels[first.contents] = panels
        return _call(rest, [array.data_ptr() for array in panels], form, x)
