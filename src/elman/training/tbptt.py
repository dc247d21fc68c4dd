"""Truncated backpropagation through time, for any training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import torch
from torch import Tensor


def detach(state: Any) -> Any:
    """Returns the state with all its tensors detached. They may be nested in tuples, lists and dicts."""
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
    """Steps `start` to `stop` of a stream. Earlier windows have trained on the steps before `fresh`."""

    start: int
    fresh: int
    stop: int
    data: tuple[Any, ...]  # steps `start` to `stop` of each part of the stream
    state: Any  # the state before step `start`
    _next_start: int
    _next_state: Any = None
    _ran: bool = False

    def run(self, model: Callable[..., tuple[Tensor, Any]]) -> tuple[Any, ...]:
        """Runs the model over the window. Returns its outputs at the fresh steps, then the other parts at the same steps.

        `model(x, state)` returns (output, new state), time first. If the next window starts inside this one, the
        model runs in two pieces, because the next window needs the state between them.
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
        """The state where the next window starts, detached unless that is the very first step. Known after `run`."""
        if not self._ran:
            raise RuntimeError(
                f"the window of steps {self.start} to {self.stop} has not been run, so its state is not known; call window.run(model)"
            )
        return self._next_state


def tbptt(stream: Any, k1: int, k2: int | None = None, state: Any = None) -> Iterator[Window]:
    """Yields the windows of a stream for truncated BPTT(k2; k1): an update every k1 steps, gradients over k2 steps.

        for window in elman.tbptt((x, y), k1=16, k2=64):
            output, target = window.run(model)          # model(x, state) -> (output, state)
            loss_function(output, target).backward()
            optimizer.step(); optimizer.zero_grad()

    stream: a tensor (T, B, ...) or anything else that can be sliced along time, or a tuple of such parts, all of
        the same length. The model reads the first part.
    k1: steps from one update to the next.
    k2: steps that the gradient reaches back from the end of a window; at least k1, which is also the default.
    state: the state before the first step.

    A window has outputs for its k1 newest steps; the last window has outputs for the remaining steps. So the model
    trains on every step once.
    The state is carried from window to window. The gradient is not: it stops exactly k2 steps before the window's
    end. If k2 > k1, windows overlap. The shared steps are computed again with the new parameters, from the known
    state before them. The initial state is not detached, so gradients reach it from every window that starts at
    the first step.

    Raises ValueError for k1 < 1, k2 < k1, an empty stream, or parts of different lengths.
    Source: R. J. Williams & J. Peng, An efficient gradient-based algorithm for on-line training of
    recurrent network trajectories, Neural Computation 2 (1990): BPTT(h; h') with h = k2, h' = k1.
    """
    k2 = k1 if k2 is None else k2
    try:
        k1, k2 = index(k1), index(k2)
    except TypeError:
        raise TypeError(
            f"tbptt takes whole numbers of steps, got k1={k1!r} and k2={k2!r}; convert them with int()"
        ) from None
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
