"""Engine `cpu`: kernels made from a cell's equations, compiled by LLVM for the processor at hand.

graph.py, derivative.py   the step as an expression graph, and its derivative
phases.py                 either of them cut at its matrix products
plan.py                   where every value lies
kernels.py                the plan as programs over vectors (program.py, functions.py, product.py)
quick.py                  inference again and again, with little around it
llvm.py, compiled.py      compiled, and kept on disk
system.py                 what differs between operating systems
script.py, tables.py      kernels on tables of addresses
team.py, threads.py       what threads do with them
matrices.py, packing.py   the large products around the recurrence
layer_scripts.py          a layer forward and backward, written down
passes.py                 and run
operators.py              what PyTorch sees of it
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack

from elman.cell import Cell
from elman.cpu import system
from elman.graph import NotTraceable
from elman.layout import Direction

DTYPES = (torch.float32, torch.float64)


@cache
def _problem(cell: Cell) -> str | None:
    """Why no kernel can be made of a cell, or None."""
    if cell.projected:
        return "a projected state is not made into kernels yet"
    if refused := system.refuses_code():
        return refused
    try:
        import elman.cpu.llvm  # noqa: F401
        from elman.cpu.plan import plan

        plan(cell)
    except NotTraceable as error:
        return str(error)
    except ImportError as error:
        return f"llvmlite cannot be loaded: {error}"
    return None


def unsupported(cell: Cell, x: Tensor, directions: Sequence[Direction]) -> str | None:
    """Why this engine cannot run the case, or None."""
    if x.device.type != "cpu":
        return f"it is for the CPU, and the input is on {x.device.type}"
    if x.dtype not in DTYPES:
        return f"it has float32 and float64, and the input is {x.dtype}"
    if torch.is_autocast_enabled("cpu"):
        return "under autocast the dtypes are chosen operation by operation"
    if torch._C._get_tracing_state() is not None:
        return "torch.jit.trace follows torch's own operations only"
    if _transformed(x):
        return "forward-mode and functorch's transforms need operations they can see into"
    return _problem(cell)


def _transformed(x: Tensor) -> bool:
    """Whether vmap, grad, jvp or forward-mode differentiation is going on."""
    return peek_interpreter_stack() is not None or torch.autograd.forward_ad._current_level >= 0


def run_quickly(
    cell: Cell, x: Tensor, directions: Sequence[Direction], state: tuple[Tensor, ...]
) -> tuple[Tensor, tuple[Tensor, ...]] | None:
    """As `run`, for inference of `ordinary` tensors as they lie as a rule; None, and nothing was done, for others."""
    return _quick().infer(cell, x, directions, state)


@cache
def _quick() -> Any:
    from elman.cpu import quick

    return quick


def ordinary(x: Tensor) -> bool:
    """Whether an operation on x would just be done: nobody records, transforms or redirects it."""
    return not (
        torch.is_grad_enabled()
        or not x.is_cpu
        or torch._C._len_torch_dispatch_stack()
        or torch.compiler.is_compiling()
        or torch.is_autocast_enabled("cpu")
        or torch._C._get_tracing_state() is not None
        or _transformed(x)
    )


def run(
    cell: Cell, x: Tensor, directions: Sequence[Direction], state: tuple[Tensor, ...]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One layer in all its directions: the output (T, B, D*H) and the final states, each (D, B, H) as `state`."""
    from elman.cpu import operators

    return operators.run(cell, x, directions, state)
