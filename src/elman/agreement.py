"""Whether a cell's graph computes what its step computes: both run on the same random tensors.

A graph is made by running the step once, on symbols. A step may ask a value for its type, count its calls or draw
random numbers. Then its graph is another function, and kernels made from it would be wrong without a word.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from elman.cell import Cell, State, factors
from elman.leaves import HIDDEN, LEAVES, MATRICES
from elman.mistakes import OTHERWISE, REPEATED, WIDE

ROWS, WIDTHS = 4, (3, 2)  # rows of the batch; hidden_size and proj_size


def disagreement(cell: Cell, evaluate: Callable[..., dict[str, Any]]) -> str | None:
    """Returns what a step computes otherwise than its graph, or None.

    evaluate: returns the new state by the graph, from the arguments of the step by name.
    """
    found: list[str | None] = []

    def compare() -> None:
        try:
            found.append(_compare(cell, evaluate))
        except Exception as error:  # of the step, about tensors
            found.append(f"the step fails on tensors, {type(error).__name__}: {error}")

    # A layer may be used first inside vmap, a compiler or autocast. A new thread has none of these.
    thread = threading.Thread(target=compare)
    thread.start()
    thread.join()
    return found[0]


def _compare(cell: Cell, evaluate: Callable[..., dict[str, Any]]) -> str | None:
    given = _arguments(cell)
    with torch.no_grad():
        first, second = cell(**given), cell(**given)
        try:
            graph = evaluate(**given)
        except RuntimeError as error:
            return f"its graph fails on tensors, RuntimeError: {error}; {WIDE}"
    for state in cell.states:
        values = [_as_tensor(value) for value in (getattr(first, state), getattr(second, state), graph[state])]
        if not torch.equal(values[0].nan_to_num(0.5), values[1].nan_to_num(0.5)):
            return f"the step returns another {state} when it runs again; {REPEATED}"
        alike = values[0].shape == values[2].shape
        if not alike or not torch.allclose(values[0], values[2], rtol=1e-5, atol=1e-7, equal_nan=True):
            return f"the step returns another {state} for tensors than for the symbols of a graph; {OTHERWISE}"
    return None


def _arguments(cell: Cell) -> dict[str, State]:
    """Random x, R, s, p and P for a step of the cell, in float64."""
    random = torch.Generator().manual_seed(0)
    hidden, projected = WIDTHS

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64, device="cpu")

    def width(of: str) -> int:
        return hidden if of == HIDDEN else projected

    given = dict[str, State]()
    for kind, leaf in LEAVES.items():
        rows = (ROWS,) if leaf.rows else ()
        given[kind] = State(**{name: normal(*rows, width(leaf.width(cell, name))) for name in leaf.names(cell)})
    for kind, matrix in MATRICES.items():
        shape = width(matrix.result), width(matrix.operand(cell))
        weights = {name: normal(*shape) for name in matrix.names(cell)}
        given[kind] = factors(matrix.names(cell), lambda name, v, of=weights: v @ of[name].T, kind)
    return given


def _as_tensor(value: Any) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64, device="cpu")
