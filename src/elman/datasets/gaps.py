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
    found = np.take_along_axis(values, _source(there, causal), 0)
    return np.where(causal & (_last(there) < 0), np.nan, found)


def ages(values: NDArray[Any], times: NDArray[np.float64] | None, causal: bool) -> NDArray[np.float64]:
    """Returns how far away the number was measured that `filled` has at each step, (T, channels); MEASURED if at this step.

    Where there is none, it is the time since the sequence began. times: (T,), of the steps; None for the numbers of the
    steps.
    """
    t = np.arange(len(values), dtype=np.float64) if times is None else times
    there = ~np.isnan(values)
    return np.where(there, MEASURED, np.abs(t[:, None] - t[_source(there, causal)]))


def _source(there: NDArray[np.bool_], causal: bool) -> NDArray[np.int64]:
    """Returns at which step the number stands that is taken at each step, (T, channels); the first step if there is none."""
    last = _last(there)
    return np.where(last < 0, 0 if causal else there.argmax(0), last)


def _last(there: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Returns the latest step, not after each one, whose number is there, (T, channels); -1 if there is none."""
    return np.maximum.accumulate(np.where(there, np.arange(len(there))[:, None], -1))
