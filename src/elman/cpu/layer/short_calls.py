"""Short calls: ordinary inference, which looks at each tensor only once before the script runs.

The shapes, strides and types of the tensors make a key. What follows from a key is found out once and remembered.
Addresses and values of tensors are not remembered: a call reads the weights where they are, as they are. Only a layer
made by `Frozen` keeps its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from elman.cpu import ENGINE
from elman.cpu.layer import passes
from elman.cpu.layer.form import Form
from elman.cpu.layer.inference import infer_script
from elman.cpu.layer.readable import readable
from elman.cpu.scripts import threads
from elman.cpu.scripts.memory import empty, empty_like
from elman.cpu.scripts.script import Script
from elman.layout import Call, Results, misfit
from elman.torch_private import is_zero_tensor

MOST = 512  # keys remembered at a time
PLAIN = (Tensor, torch.nn.Parameter)

Key = list[Any]


class Known(NamedTuple):
    """What to do for all calls of one key."""

    run: Callable[
        [list[int]], bool
    ]  # on addresses: the call's tensors without x; x of each direction; output of each; final states; panels
    kept: list[int]  # addresses of the panels of a frozen layer
    streams: list[int]  # where the addresses of the streams are; each direction is given them
    directions: int
    output: tuple[int, ...] | None  # its shape; None if it is that of the first state

    def __call__(self, addresses: list[int], call: Call) -> Results | None:
        """Runs the script. Returns the results, or None if there are fewer threads than the script needs.

        addresses: of x and the call's other tensors; the list is changed.
        """
        run, kept, streams, directions, shape = self
        output = empty_like(call.state[0]) if shape is None else empty(shape, call.x.dtype)
        x = addresses.pop(0)
        if directions == 2:
            addresses += [addresses[place] for place in streams]
        addresses += [x, output.data_ptr()] if directions == 1 else [x, x, output.data_ptr(), output.data_ptr()]
        finals = []
        for state in call.state:
            finals.append(final := empty_like(state))
            addresses.append(final.data_ptr())
        addresses += kept
        return (output, tuple(finals)) if run(addresses) else None


class Calls:
    """Remembers what to do for calls, by key. For a call that is not ordinary, it remembers None."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Known | None] = {}

    def infer(self, call: Call) -> Results | None:
        """Returns the results, as `passes.infer` does, or None if the call is not ordinary.

        It also returns None if there are too few threads. With None, nothing was done. x may also be one step (B, I);
        then the output is one step, too: (B, D*Y).
        """
        key: Key = [call.cell, threads.available()]
        for direction in call.directions:
            key.append(direction.reverse)
        addresses: list[int] = []
        return self._infer(call, key, addresses) if _look(call.tensors(), key, addresses) else None

    def _infer(self, call: Call, key: Key, addresses: list[int]) -> Results | None:
        """Returns the results of a call or None, as `infer` does, given its finished key and its addresses."""
        found = tuple(key)
        try:
            known = self._known[found]
        except KeyError:
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[found] = known = self.know(call)
        return None if known is None else known(addresses, call)

    def know(self, call: Call) -> Known | None:
        """Returns what to do for calls of this form, or None if they are not ordinary."""
        form = _form(call)
        return None if form is None else _known(call, infer_script(call.cell, form), form, {})


_calls = Calls()


def infer(call: Call) -> Results | None:
    """Returns the results or None, as `Calls.infer` does.

    The weights are read as they are now. A frozen layer uses its panels, which hold the weights as they were.
    """
    return (call.packed or _calls).infer(call)


def _look(tensors: Sequence[Tensor | None], key: Key, addresses: list[int]) -> bool:
    """Adds what the tensors are to the key, and where they are to the addresses.

    Returns False if a tensor is of another class, not on the CPU, or its memory does not hold its numbers.
    """
    for tensor in tensors:
        if tensor is None:
            key.append(None)
            continue
        if type(tensor) not in PLAIN or not tensor.is_cpu or tensor.layout is not torch.strided:
            return False
        if tensor.is_neg() or is_zero_tensor(tensor):
            return False
        key += (tensor.shape, tensor.stride(), tensor.dtype)
        addresses.append(tensor.data_ptr())
    return True


def _form(call: Call) -> Form | None:
    """Returns the form of a call whose tensors kernels can read as they lie, or None for any other call."""
    x = call.x.unsqueeze(0) if call.x.dim() == 2 else call.x
    if x.dim() != 3 or len(call.state) != len(call.cell.states) or not x.numel():
        return None
    call = call._replace(x=x)
    if misfit(call) or ENGINE.unsupported(call) or not all(s.is_contiguous() for s in call.state):
        return None
    return None if readable(call) is not call else passes.form_of(call)


def _known(call: Call, script: Script, form: Form, panels: dict[str, Tensor]) -> Known | None:
    """Returns what to do for calls of this form, or None if one script has too few steps for them."""
    if script.steps < form.steps:
        return None
    count = len(form.reverse)
    _, _, width = of_state = call.state[0].shape
    shape = (*call.x.shape[:-1], count * width)
    names = list(form.given())[1:]
    streams = [place for place, name in enumerate(names) if name.startswith("u.")]
    names = [f"{name}.0" if place in streams else name for place, name in enumerate(names)]
    names += [f"u.{name}.{d}" for d in range(1, count) for name in call.cell.streams]
    names += [*(f"x.{d}" for d in range(count)), *(f"output.{d}" for d in range(count))]
    names += [*(f"final.{state}" for state in call.cell.states), *panels]
    kept = [array.data_ptr() for array in panels.values()]
    return Known(script.taking(tuple(names)), kept, streams, count, None if shape == of_state else shape)


class Packed(Calls):
    """Calls of a frozen layer, with its weights in panels, as they were when inference of a form was first asked for.

    The panels do not change after that, and the weights are not looked at again. Forms with the same panels share them.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self._addresses = [w.data_ptr() for w in weights]
        self._panels: dict[Any, dict[str, Tensor]] = {}

    def infer(self, call: Call) -> Results | None:
        key: Key = [threads.available()]
        addresses: list[int] = []
        if not _look((call.x, *call.state, *call.streams, *call.constants, call.lengths, call.reset), key, addresses):
            return None
        addresses[1:1] = self._addresses
        return self._infer(call, key, addresses)

    def know(self, call: Call) -> Known | None:
        form = _form(call)
        if form is None:
            return None
        first, rest = (infer_script(call.cell, form, part) for part in ("first", "rest"))
        panels = self._panels.get(first.contents)
        if panels is None:
            panels = {name: empty((size,), torch.uint8) for name, size in first.keeps.items()}
            arrays = dict(zip(call.names(), call.tensors(), strict=True)) | panels
            first({name: arrays[name].data_ptr() for name in first.names})  # pyright: ignore[reportOptionalMemberAccess]
            self._panels[first.contents] = panels
        return _known(call, rest, form, panels)
