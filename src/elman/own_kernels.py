"""What engines with kernels of their own share: what they refuse whatever the cell, and gradients where nothing runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from elman import names
from elman.cell import Cell
from elman.errors import SlowCellWarning
from elman.graph import NotTraceable
from elman.layout import Call
from elman.torch_private import constant_to_the_compiler, functorch_active, in_forward_mode, is_tracing, is_zero_tensor

WHY = "kernels made from the cell's equations"  # the reason for choosing such an engine


@cache
def untraceable(cell: Cell) -> str | None:
    """Returns why a cell's step cannot be made into kernels, whatever the engine, or None if it can."""
    from elman.plan import plan

    try:
        plan(cell)
    except NotTraceable as error:
        return str(error)
    return None


_slow: set[str] = set()  # keys of the cells that were warned of


def warn_if_slow(call: Call, why: str) -> None:
    """Warns, once for each cell, if `why`, for which no kernels run a call, is that its cell cannot be traced."""
    if torch.compiler.is_compiling():
        _warn_if_slow(call.cell.key, why)
    elif why == untraceable(call.cell):
        _warn_if_slow(names.register(call.cell), why)


@constant_to_the_compiler
def _warn_if_slow(key: str, why: str) -> None:
    cell = names.find(key)
    if key not in _slow and why == untraceable(cell):
        _slow.add(key)
        message = f"cell {cell.name!r} runs in plain PyTorch, many times slower than as kernels: {why}"
        warnings.warn(message, SlowCellWarning, stacklevel=2)


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
        if torch.onnx.is_in_onnx_export():
            raise RuntimeError(
                "torch.onnx.export(dynamo=False) would write every step by itself, for one length only; "
                "leave dynamo=False out, and import elman.onnx first"
            )
        return "torch.jit.trace follows torch's own operations only"
    return problem(call.cell)


def is_dense(tensor: Tensor) -> bool:
    """Returns whether memory holds a tensor's numbers, those of a row side by side.

    torch only marks some tensors as negated or as zero; memory then does not hold their numbers.
    """
    return tensor.stride(-1) == 1 and not tensor.is_neg() and not is_zero_tensor(tensor)


def dense(tensor: Tensor) -> Tensor:
    """Returns the tensor, or a copy that kernels can read."""
    if is_dense(tensor):
        return tensor
    if is_zero_tensor(tensor):
        return torch.zeros(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    return tensor.resolve_neg().contiguous()


def handed_on(call: Call, results: list[Tensor | None], cotangents: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Fills and returns the gradients where no step was run.

    The gradients of the initial states are those of the final states, or zero without them. All others are zero.
    """
    for result in results:
        if result is not None:
            result.zero_()
    for result, d_final in zip(call.replaced(results).state, cotangents[1:], strict=True):
        if result is not None and d_final is not None:
            result.copy_(d_final)
    return results
