"""The learning-rate range test: which learning rate a task can bear, found in a hundred steps."""

from __future__ import annotations

import math
from typing import NamedTuple

from elman.errors import InputError
from elman.training.loop import optimizer_of, threads, update
from elman.training.task import Task

LEAST, MOST, STEPS = 1e-5, 1.0, 120
SMOOTH = 0.85  # of the losses, a moving mean keeps this share of the past
DIVERGED = 2.0  # times the lowest loss


class RangeTest(NamedTuple):
    rates: list[float]
    losses: list[float]  # smoothed, before the step with that rate
    suggested: float


def range_test(task: Task) -> RangeTest:
    """Trains with a learning rate that rises from 1e-5 to 1, until the loss diverges. The task's model is used up.

    The suggestion is a fifth of the rate at which the smoothed loss was lowest: beyond it steps begin to undo each other.
    Source: L. N. Smith, Cyclical learning rates for training neural networks (2017), section 3.3.
    """
    with threads(task.options):
        rates, losses = _trained(task)
    if not rates:
        raise InputError("the loss of the first batch is not a number; look at the data")
    lowest = min(range(len(losses)), key=losses.__getitem__)
    return RangeTest(rates, losses, rates[lowest] / 5)


def _trained(task: Task) -> tuple[list[float], list[float]]:
    """Returns the rates that were tried and the smoothed losses."""
    optimizer = optimizer_of(task)
    task.model.train()
    rates, losses, mean, epoch = [], [], 0.0, 0
    batches = task.batches(0, 0)
    for step in range(STEPS):
        batch = next(batches, None)
        if batch is None:
            epoch += 1
            batches = task.batches(epoch, 0)
            batch = next(batches, None)
            if batch is None:
                raise InputError(f"the task has no batch in epoch {epoch}; give more {task.data}")
        rate = LEAST * (MOST / LEAST) ** (step / (STEPS - 1))
        value, _ = update(batch, optimizer, rate, task.options.clip)
        if not math.isfinite(value):
            break
        mean = SMOOTH * mean + (1 - SMOOTH) * value
        rates.append(rate)
        losses.append(mean / (1 - SMOOTH ** (step + 1)))
        if losses[-1] > DIVERGED * min(losses):
            break
    return rates, losses
