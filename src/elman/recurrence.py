"""One layer, one direction, all steps: which engine runs it. No maths here.

An engine is a module with `unsupported(cell, x, weights)`, which says why it cannot run a case (or
None), and `run(cell, x, weights, state, reverse=...)`, which returns the output and the final states,
differentiable with respect to everything that is a tensor. Adding an engine is adding its name to
`ENGINES` and its place to `choose`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import NamedTuple, Protocol

from torch import Tensor

from elman import native, reference
from elman.cell import Cell
from elman.layout import Weights

ENGINES: dict[str, ModuleType] = {"reference": reference, "native": native}

_forced: ContextVar[str] = ContextVar("engine", default="auto")
_observer: ContextVar[Observer | None] = ContextVar("observer", default=None)


class Observer(Protocol):
    """Sees every recurrence that runs while it watches, in order: layer by layer, forward then reverse."""

    def steps_of(self, cell: Cell) -> reference.Step | None:
        """What to run instead of the cell, to watch every step; None to let the chosen engine run."""
        ...

    def ran(self, cell: Cell, choice: Choice) -> None: ...


class Choice(NamedTuple):
    """An engine and the reason it was taken."""

    engine: str
    why: str


def choose(cell: Cell, x: Tensor, weights: Weights) -> Choice:
    """The engine for a case: the forced one, else the fastest that supports it.

    RuntimeError if an engine was forced that cannot run the case: it never falls back in silence.
    """
    forced = _forced.get()
    if forced != "auto":
        problem = ENGINES[forced].unsupported(cell, x, weights)
        if problem:
            raise RuntimeError(
                f'the engine {forced!r} was asked for but cannot run this: {problem}; use_engine("auto") would choose one that can'
            )
        return Choice(forced, "asked for with use_engine")
    if x.device.type == "cpu":
        return Choice("reference", "the only engine made for the CPU so far")
    problem = native.unsupported(cell, x, weights)
    if problem:
        return Choice("reference", problem)
    return Choice("native", f"torch's kernel for {cell.name} on {x.device.type}")


def recur(
    cell: Cell,
    x: Tensor,  # (T, B, I)
    weights: Weights,
    state: tuple[Tensor, ...],  # each (B, width)
    *,
    reverse: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run one layer in one direction: output (T, B, Y) and final states, each (B, width)."""
    observer = _observer.get()
    choice = choose(cell, x, weights)
    if observer is not None:
        observer.ran(cell, choice)
        step = observer.steps_of(cell)
        if step is not None:
            return reference.run(cell, x, weights, state, reverse=reverse, step=step)
    return ENGINES[choice.engine].run(cell, x, weights, state, reverse=reverse)


@contextmanager
def use_engine(name: str) -> Iterator[None]:
    """Run every layer inside the block with one engine: "reference", "native", or "auto" for the default.

    A forced engine that cannot run a case raises RuntimeError. The setting holds for the current
    thread or task only. ValueError for a name that is no engine.
    """
    if name != "auto" and name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}: known engines are auto, {', '.join(ENGINES)}")
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


@contextmanager
def observe(observer: Observer) -> Iterator[None]:
    """Let an observer see every recurrence that runs inside the block."""
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)
