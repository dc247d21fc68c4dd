"""What engines with kernels of their own share: what they refuse whatever the cell, and gradients where nothing runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from elman import names
from elman.cell import Cell
from elman.layout import Call, Weights
from elman.torch_private import constant_to_the_compiler, functorch_active, in_forward_mode, is_tracing

WHY = "kernels made from the cell's equations"  # the reason for choosing such an engine


def by_name(problem: Callable[[Cell], str | None]) -> Callable[[str], str | None]:
    """Returns a function that says of the cell with a name what `problem` says of the cell.

    For torch's compiler the result is a constant: it calls the function once and does not trace what happens inside.
    """

    @constant_to_the_compiler
    def of_name(key: str) -> str | None:
        return problem(names.find(key))

    return of_name


def refusal(call: Call, problem: Callable[[Cell], str | None], problem_of: Callable[[str], str | None]) -> str | None:
    """Returns why no kernel can run a call here, or None if one can.

    problem: why no kernel can be made from a cell, or None. problem_of: the same by the cell's name, from `by_name`.
    """
    if functorch_active() or in_forward_mode():
        return "forward-mode and functorch's transforms need operations they can see into"
    if torch.compiler.is_compiling():
        return problem_of(call.cell.key)
    if is_tracing():
        return "torch.jit.trace follows torch's own operations only"
    return problem(call.cell)


def handed_on(call: Call, results: list[Tensor | None], cotangents: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Fills and returns the gradients where no step was run.

    The gradients of the initial states are those of the final states, or zero without them. All others are zero.
    """
    first = 1 + len(Weights._fields) * len(call.directions)  # the place of the first initial state
    for number, result in enumerate(results):
        if result is not None:
            d_final = cotangents[1 + number - first] if first <= number < first + len(call.state) else None
            result.zero_() if d_final is None else result.copy_(d_final)
    return results
