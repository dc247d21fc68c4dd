"""Runs one layer over all steps, on the engine that the caller asked for, and lets observers watch. No mathematics."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import torch

from elman import operators, reference
from elman.cell import Cell
from elman.engines import ENGINES, Choice, choose
from elman.layout import Call, Results, misfit
from elman.torch_private import any_autocast


class _Asked(threading.local):
    """A second copy of the setting for torch.compile, which can read and guard it, but not a context variable."""

    def __init__(self) -> None:  # sets an instance attribute: a guard would not see a class attribute change
        self.engine = "auto"


_asked = _Asked()
_forced: ContextVar[str] = ContextVar("engine", default="auto")
_observer: ContextVar[Observer | None] = ContextVar("observer", default=None)


class Observer(Protocol):
    """Is told of every recurrence that runs while it observes: layer by layer, forward direction before reverse."""

    def steps_of(self, cell: Cell) -> reference.Step | None:
        """Returns a step to run instead of the cell's, which can watch; or None, to let the chosen engine run."""
        ...

    def will_run(self, call: Call, choice: Choice) -> None: ...


def recur(call: Call) -> Results:
    """Runs one layer in all its directions: returns the output (T, B, D*Y) and the final states, each (D, B, width).

    Raises RuntimeError for a weight or a state whose shape, dtype or device does not fit.
    """
    if torch.compiler.is_compiling():
        call = _under_autocast(call)
        return operators.run(choose(call, _asked.engine).engine, call)
    if any_autocast():
        call = _under_autocast(call)
    choice, observer = choose(call, _forced.get()), _observer.get()
    if observer is not None:
        steps = []
        for _ in call.directions:
            observer.will_run(call, choice)
            steps.append(observer.steps_of(call.cell))
        if any(step is not None for step in steps):
            if problem := misfit(call):
                raise RuntimeError(problem)
            return reference.run(call, steps)
    return operators.run(choice.engine, call)


def at_once(call: Call) -> Results | None:
    """Runs a layer as `recur` does, if the engine remembers calls of this form; else does nothing and returns None.

    x may be a single step, (B, I); the output is then (B, D*Y).
    """
    if torch.compiler.is_compiling() or _observer.get() is not None or operators.records(call):
        return None
    if any_autocast():
        return None
    return ENGINES[choose(call, _forced.get()).engine].at_once(call)


def _under_autocast(call: Call) -> Call:
    """Returns the call with the dtype that autocast asks for. Autocast does not change a call of float64."""
    kind, x = call.x.device.type, call.x
    if torch.is_autocast_enabled(kind) and x.is_floating_point() and x.dtype != torch.float64:
        return call._replace(autocast=torch.get_autocast_dtype(kind))
    return call


@contextmanager
def use_engine(name: str) -> Iterator[None]:
    """Runs every layer inside the block with one engine: "reference", "native", "cpu", "gpu", or "auto" for the default.

    A forced engine that cannot run a case raises RuntimeError. The setting holds for the current
    thread or task only; functions compiled with torch.compile use that of the thread. Raises ValueError
    for a name that is no engine.
    """
    if name != "auto" and name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}: known engines are auto, {', '.join(ENGINES)}")
    token = _forced.set(name)
    _asked.engine = name
    try:
        yield
    finally:
        _forced.reset(token)
        _asked.engine = _forced.get()  # and not what it was: another task may have set and left it meanwhile


@contextmanager
def observe(observer: Observer) -> Iterator[None]:
    """Lets an observer see every recurrence that runs inside the block."""
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)
