"""One layer, all steps: which engine runs it. No maths here.

An engine has `unsupported(cell, x, directions)`, which says why it cannot run a case (or None), and
`run`, which returns the output and the final states, differentiable with respect to everything that
is a tensor. Adding an engine is adding its name to `ENGINES` and its place to `choose`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from elman import cpu, native, reference
from elman.cell import Cell
from elman.layout import Direction, misfit

States = tuple[Tensor, ...]  # each (D, B, width)


def _one_by_one(run: Callable[..., tuple[Tensor, tuple[Tensor, ...]]]) -> Callable[..., tuple[Tensor, States]]:
    """A layer by an engine that runs one direction at a time."""

    def run_layer(cell: Cell, x: Tensor, directions: Sequence[Direction], state: States) -> tuple[Tensor, States]:
        of_each = [
            run(cell, x, weights, tuple([s[d] for s in state]), reverse=reverse)
            for d, (weights, reverse) in enumerate(directions)
        ]
        outputs, finals = zip(*of_each, strict=True)
        if len(directions) == 1:
            return outputs[0], tuple([final.unsqueeze(0) for final in finals[0]])
        return torch.cat(outputs, dim=-1), tuple([torch.stack(of) for of in zip(*finals, strict=True)])

    return run_layer


class Engine(NamedTuple):
    unsupported: Callable[[Cell, Tensor, Sequence[Direction]], str | None]
    run: Callable[[Cell, Tensor, Sequence[Direction], States], tuple[Tensor, States]]


ENGINES = {
    "reference": Engine(reference.unsupported, _one_by_one(reference.run)),
    "native": Engine(native.unsupported, _one_by_one(native.run)),
    "cpu": Engine(cpu.unsupported, cpu.run),
}

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


def choose(cell: Cell, x: Tensor, directions: Sequence[Direction]) -> Choice:
    """The engine for a case: the forced one, else the fastest that supports it.

    RuntimeError if an engine was forced that cannot run the case: it never falls back in silence.
    """
    forced = _forced.get()
    if forced != "auto":
        problem = ENGINES[forced].unsupported(cell, x, directions)
        if problem:
            raise RuntimeError(
                f'the engine {forced!r} was asked for but cannot run this: {problem}; use_engine("auto") would choose one that can'
            )
        return Choice(forced, "asked for with use_engine")
    if x.device.type == "cpu":
        problem = cpu.unsupported(cell, x, directions)
        return Choice("reference", problem) if problem else Choice("cpu", "kernels made from the cell's equations")
    problem = native.unsupported(cell, x, directions)
    if problem:
        return Choice("reference", problem)
    return Choice("native", f"torch's kernel for {cell.name} on {x.device.type}")


def recur(cell: Cell, x: Tensor, directions: Sequence[Direction], state: States) -> tuple[Tensor, States]:
    """Run one layer in all its directions: output (T, B, D*Y) and final states, (D, B, width) each.

    RuntimeError for a weight of another shape, type or device.
    """
    done = recur_quickly(cell, x, directions, state)
    if done is not None:
        return done
    observer = _observer.get()
    problem = misfit(cell, x, directions, state)
    if problem:
        raise RuntimeError(problem)
    choice = choose(cell, x, directions)
    if observer is not None:
        steps = []
        for _ in directions:
            observer.ran(cell, choice)
            steps.append(observer.steps_of(cell))
        if any(step is not None for step in steps):
            watched = iter(steps)
            run = _one_by_one(lambda *case, reverse: reference.run(*case, reverse=reverse, step=next(watched)))
            return run(cell, x, directions, state)
    return ENGINES[choice.engine].run(cell, x, directions, state)


def recur_quickly(
    cell: Cell, x: Tensor, directions: Sequence[Direction], state: States
) -> tuple[Tensor, States] | None:
    """As `recur`, for inference on the CPU where nothing is out of the ordinary; None, and nothing was done, otherwise.

    x may also be one step, (B, I), and the output is then (B, D*Y).
    """
    return cpu.run_quickly(cell, x, directions, state) if may_be_quick(x) else None


def may_be_quick(x: Tensor) -> bool:
    """Whether nobody watches, asks for another engine, or records, transforms or redirects operations on x."""
    return _observer.get() is None and _forced.get() in ("auto", "cpu") and cpu.ordinary(x)


@contextmanager
def use_engine(name: str) -> Iterator[None]:
    """Run every layer inside the block with one engine: "reference", "native", "cpu", or "auto" for the default.

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
