"""One layer, all steps: what the caller has asked for, and who is watching. No maths here."""

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


class _Asked(threading.local):
    """The engine asked for, where the compiler reads it and guards it: it does not know context variables."""

    def __init__(self) -> None:  # set here, not in the class, where a guard would not see it change
        self.engine = "auto"


_asked = _Asked()
_forced: ContextVar[str] = ContextVar("engine", default="auto")
_observer: ContextVar[Observer | None] = ContextVar("observer", default=None)


class Observer(Protocol):
    """Sees every recurrence that runs while it watches, in order: layer by layer, forward then reverse."""

    def steps_of(self, cell: Cell) -> reference.Step | None:
        """What to run instead of the cell, to watch every step; None to let the chosen engine run."""
        ...

    def will_run(self, cell: Cell, choice: Choice) -> None: ...


def recur(call: Call) -> Results:
    """Run one layer in all its directions: output (T, B, D*Y) and final states, (D, B, width) each.

    RuntimeError for a weight of another shape, type or device.
    """
    if torch.compiler.is_compiling():
        call = _under_autocast(call)
        return operators.run(choose(call, _asked.engine).engine, call)
    if torch._C._is_any_autocast_enabled():
        call = _under_autocast(call)
    choice, observer = choose(call, _forced.get()), _observer.get()
    if observer is not None:
        steps = []
        for _ in call.directions:
            observer.will_run(call.cell, choice)
            steps.append(observer.steps_of(call.cell))
        if any(step is not None for step in steps):
            if problem := misfit(call):
                raise RuntimeError(problem)
            return reference.run(call, steps)
    return operators.run(choice.engine, call)


def at_once(call: Call) -> Results | None:
    """As `recur`, where the engine remembers calls of this form; None, and nothing was done, otherwise.

    x may also be one step, (B, I), and the output is then (B, D*Y).
    """
    if torch.compiler.is_compiling() or _observer.get() is not None or operators.records(call):
        return None
    if torch._C._is_any_autocast_enabled():
        return None
    return ENGINES[choose(call, _forced.get()).engine].at_once(call)


def _under_autocast(call: Call) -> Call:
    """The call with the type that autocast asks for. It leaves float64 alone."""
    kind, x = call.x.device.type, call.x
    if torch.is_autocast_enabled(kind) and x.is_floating_point() and x.dtype != torch.float64:
        return call._replace(autocast=torch.get_autocast_dtype(kind))
    return call


@contextmanager
def use_engine(name: str) -> Iterator[None]:
    """Run every layer inside the block with one engine: "reference", "native", "cpu", or "auto" for the default.

    A forced engine that cannot run a case raises RuntimeError. The setting holds for the current
    thread or task only; what was compiled with torch.compile asks for the thread's. ValueError for a
    name that is no engine.
    """
    if name != "auto" and name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}: known engines are auto, {', '.join(ENGINES)}")
    token, before = _forced.set(name), _asked.engine
    _asked.engine = name
    try:
        yield
    finally:
        _asked.engine = before
        _forced.reset(token)


@contextmanager
def observe(observer: Observer) -> Iterator[None]:
    """Let an observer see every recurrence that runs inside the block."""
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)
