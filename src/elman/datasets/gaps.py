"""Missing numbers: which others stand in their places, and how long ago these were measured."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MEASURED = -1.0  # in place of an age


def filled(values: NDArray[Any], causal: bool = False) -> NDArray[Any]:
    """Returns values (T, channels) in which one that is missing, NaN, is the last one before it in its channel.

    At the beginning it is the first one after it, or if causal stays missing. A channel that has none at all stays as it is.
    """
    there = ~np.isnan(values)
    if values.ndim != 2 or there.all() or not values.size:
        return values
    source = _source(there, causal)
    return np.where(source < 0, np.nan, np.take_along_axis(values, source.clip(0), 0))


def ages(values: NDArray[Any], times: NDArray[np.float64] | None, causal: bool) -> NDArray[np.float64]:
    """Returns how far away the number was measured that `filled` has at each step, (T, channels); MEASURED if at this step.

    Where there is none, it is the time since the sequence began. times: (T,), of the steps; None for the numbers of the
    steps.
    """
    t = np.arange(len(values), dtype=np.float64) if times is None else times
    there = ~np.isnan(values)
    return np.where(there, MEASURED, np.abs(t[:, None] - t[_source(there, causal).clip(0)]))


def _source(there: NDArray[np.bool_], causal: bool) -> NDArray[np.int64]:
    """Returns at which step the number stands that is taken at each step, (T, channels); -1 if causal and there is none yet."""
    last = np.maximum.accumulate(np.where(there, np.arange(len(there))[:, None], -1))
    return last if causal else np.where(last < 0, there.argmax(0), last)
