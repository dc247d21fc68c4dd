"""Truncated backpropagation through time, for anyone's loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def detach(state: Any) -> Any:
    """The same state cut from its history: tensors detached, in tuples, lists and dicts of any depth."""
    if isinstance(state, Tensor):
        return state.detach()
    if isinstance(state, dict):
        return {key: detach(value) for key, value in state.items()}
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        return type(state)(*(detach(value) for value in state))
    if isinstance(state, (list, tuple)):
        return type(state)(detach(value) for value in state)
    return state


@dataclass
class Window:
    """Steps start to stop of a stream; the steps from `fresh` on have not been learned from yet."""

    start: int
    fresh: int
    stop: int
    data: tuple[Any, ...]  # the stream's parts, steps start to stop
    state: Any  # at `start`
    _next_start: int
    _next_state: Any = None
    _ran: bool = False

    def run(self, model: Callable[..., tuple[Tensor, Any]]) -> tuple[Any, ...]:
        """Read the window: the outputs at its fresh steps, then the stream's other parts at those steps.

        `model(x, state)` returns (output, new state), time first. The window is read in two pieces
        where the next one begins inside it, because the state there has to be known.
        """
        x, *others = self.data
        cut, skip = self._next_start - self.start, self.fresh - self.start
        state, outputs = self.state, []
        for begin, end in ((0, cut), (cut, self.stop - self.start)):
            if begin < end:
                output, state = model(x[begin:end], state)
                outputs.append(output)
            if end == cut:
                self._next_state = detach(state) if cut or self.start else state
        self._ran = True
        output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return (output[skip:], *(other[skip:] for other in others))

    @property
    def carried(self) -> Any:
        """The state where the next window starts, cut from its history. Known once `run` was called."""
        if not self._ran:
            raise RuntimeError(
                f"the window of steps {self.start} to {self.stop} has not been run, so its state is not known; call window.run(model)"
            )
        return self._next_state


def tbptt(stream: Any, k1: int, k2: int | None = None, state: Any = None) -> Iterator[Window]:
    """Walk along a stream, learning every k1 steps and reaching back k2: truncated BPTT(k2; k1).

        for window in elman.tbptt((x, y), k1=16, k2=64):
            output, target = window.run(model)          # model(x, state) -> (output, state)
            loss_function(output, target).backward()
            optimizer.step(); optimizer.zero_grad()

    stream: a tensor, or anything else that can be sliced along time, or a tuple of such things of one
        length, time first: (T, B, ...). The first is what the model reads.
    k1: steps from one update to the next. k2: steps that the gradient reaches back from the last of
        them, k1 if left out, never less. state: the state before the first step.

    Each window's outputs are those of its k1 newest steps (the last window's: of what is left), so that
    every step is learned from once.
    The state is carried from window to window, the gradient is not: it stops exactly k2 steps before
    the window's end. Where k2 > k1 windows overlap, and the shared steps are computed again with the
    new parameters, from the state that was known there. Only at the very start is the state used as
    given: gradients reach it as long as a window does.

    ValueError for k1 < 1, k2 < k1, an empty stream, or parts of different lengths.
    Source: R. J. Williams & J. Peng, An efficient gradient-based algorithm for on-line training of
    recurrent network trajectories, Neural Computation 2 (1990): BPTT(h; h') with h = k2, h' = k1.
    """
    k2 = k1 if k2 is None else k2
    if k1 < 1 or k2 < k1:
        raise ValueError(
            f"tbptt needs k1 >= 1 and k2 >= k1, got k1={k1} and k2={k2}: an update every k1 steps that reaches back k2"
        )
    parts: Sequence[Any] = stream if isinstance(stream, tuple) else (stream,)
    lengths = [len(part) for part in parts]
    if len(set(lengths)) != 1 or not lengths[0]:
        raise ValueError(
            f"tbptt needs a stream of at least one step, all of its parts equally long, got lengths {lengths}"
        )
    return _windows(parts, lengths[0], k1, k2, state)


def _windows(parts: Sequence[Any], length: int, k1: int, k2: int, state: Any) -> Iterator[Window]:
    for fresh in range(0, length, k1):
        stop = min(fresh + k1, length)
        start = max(0, stop - k2)
        following = max(0, min(stop + k1, length) - k2) if stop < length else length
        window = Window(start, fresh, stop, tuple(part[start:stop] for part in parts), state, following)
        yield window
        state = window.carried
