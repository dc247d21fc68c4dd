"""Watching a network while it trains: says in words when it explodes, vanishes or saturates."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from elman.recurrent import Recurrent

RECENT = 50  # steps whose gradients are remembered
EXPLODED = 100.0  # times the usual norm
VANISHED = 1e-6
SATURATED = 0.98  # an output of at least this size hardly answers to its input any more
MANY = 0.5  # of the outputs


class Watch:
    """Remembers the norms of gradients and the outputs of recurrent layers, and remarks on what is wrong.

    Each kind of remark is made once.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self.saturated = 0.0  # the share of outputs that were saturated when the model was last judged
        self._norms: deque[float] = deque(maxlen=RECENT)
        self._made: set[str] = set()

    def gradient(self, norm: float, clip: float) -> str | None:
        """Takes the norm of a step's gradient, before clipping. Returns a remark, or None."""
        usual = median(self._norms) if len(self._norms) == RECENT else None
        self._norms.append(norm)
        if usual is None:
            return None
        if norm > EXPLODED * usual and norm > clip:
            return self._once(
                "exploded",
                f"the gradient exploded: its norm is {norm:.3g} after {usual:.3g} in the steps before; it was clipped to {clip:g}. "
                "If this happens often, lower --clip or --learning-rate",
            )
        if max(self._norms) < VANISHED:
            return self._once(
                "vanished",
                f"the gradient vanished: its norm stayed below {VANISHED:g} for {RECENT} steps, so the network learns nothing. "
                "Try a cell with gates, such as lstm or gru, or a higher --learning-rate",
            )
        return None

    @contextlib.contextmanager
    def outputs(self) -> Iterator[None]:
        """Measures, while the model is judged, which share of the recurrent layers' outputs is saturated."""
        counts = [0, 0]

        def look(module: nn.Module, given: Any, result: Any) -> None:
            output = result[0]
            if isinstance(output, Tensor):  # not a packed sequence
                counts[0] += int((output.detach().abs() >= SATURATED).sum())
                counts[1] += output.numel()

        handles = [part.register_forward_hook(look) for part in self.model.modules() if isinstance(part, Recurrent)]
        try:
            with torch.no_grad():
                yield
        finally:
            for handle in handles:
                handle.remove()
        self.saturated = counts[0] / max(1, counts[1])

    def saturation(self) -> str | None:
        """Returns a remark if most outputs were saturated when the model was last judged."""
        if self.saturated <= MANY:
            return None
        return self._once(
            "saturated",
            f"the network is saturated: {self.saturated:.0%} of its outputs are {SATURATED} or more in size, where gradients are near zero. "
            "Lower --learning-rate, or raise --weight-decay",
        )

    def _once(self, kind: str, remark: str) -> str | None:
        if kind in self._made:
            return None
        self._made.add(kind)
        return remark
