"""Engine `cpu`: kernels made from a cell's equations, compiled by LLVM for the processor at hand.

../schedule.py   the step and its derivative as graphs, cut at their matrix products
codegen/         turns programs over vectors, written in Python, into machine code
scripts/         which kernels run on which arrays, in which order, on which threads
kernels/         the programs that are made from a schedule
layer/           runs a layer forward and backward as scripts, from the tensors of a call to its results
system.py        what differs between operating systems
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from elman import native, own_kernels
from elman.cell import Cell
from elman.cpu import system
from elman.layout import Call, Results
from elman.torch_private import count_dispatch_modes

DTYPES = (torch.float32, torch.float64)  # those of kernels
HALF = (torch.float16, torch.bfloat16)  # computed in float32


@cache
def _problem(cell: Cell) -> str | None:
    """Returns why no kernel can be made from a cell, or None if one can."""
    if refused := system.refuses_code():
        return refused
    try:
        import elman.cpu.codegen.llvm  # noqa: F401
    except ImportError as error:
        return f"llvmlite cannot be loaded: {error}"
    return own_kernels.untraceable(cell)


_problem_of = own_kernels.by_name(_problem)


class Cpu:
    """The engine for the CPU; implements `elman.engines.Engine`. It imports its parts when it first needs them."""

    why = own_kernels.WHY

    def unsupported(self, call: Call) -> str | None:
        """Returns why this engine cannot run a call, or None if it can."""
        x = call.x
        if not x.is_cpu:
            return f"it is for the CPU, and the input is on {x.device.type}"
        if x.dtype not in DTYPES + HALF:
            return f"it has float16, bfloat16, float32 and float64, and the input is {x.dtype}"
        return own_kernels.refusal(call, _problem, _problem_of)

    def at_once(self, call: Call) -> Results | None:
        if call.lengths is not None or call.reset is not None or _is_half(call) or count_dispatch_modes():
            return None
        return _quick().infer(call)

    def infer(self, call: Call) -> Results:
        return _as_asked(call, _passes().infer(_widened(call)))

    def forward(self, call: Call) -> tuple[Results, list[Tensor]]:
        results, saved = _passes().forward(_widened(call))
        return _as_asked(call, results), saved

    def saves(self, call: Call) -> list[tuple[Any, torch.dtype]]:
        return _passes().saves(_widened(call))

    def backward(
        self,
        call: Call,
        output: Tensor,
        saved: Sequence[Tensor],
        cotangents: Sequence[Tensor | None],
        needed: Sequence[bool],
    ) -> list[Tensor | None]:
        if not _is_half(call):
            return _passes().backward(call, output, saved, cotangents, needed)
        wide = [d if d is None else d.float() for d in cotangents]
        found = _passes().backward(_widened(call), output.float(), saved, wide, needed)
        return [d if d is None or t is None else d.to(t.dtype) for d, t in zip(found, call.tensors(), strict=True)]


ENGINE = Cpu()


# Half types. Only the tensors of a call are in a half type: kernels compute in float32.


def _is_half(call: Call) -> bool:
    return call.autocast is not None or call.x.dtype in HALF


def _widened(call: Call) -> Call:
    """Returns the call in float32 if it is of a half type, else the call itself."""
    if not _is_half(call):
        return call
    wide = [t.float() if t is not None and t.is_floating_point() else t for t in call.tensors()]
    return call.replaced(wide)._replace(autocast=None)


def _as_asked(call: Call, results: Results) -> Results:
    """Returns the results of the widened call in the types of the call's own results."""
    return native.typed(results, native.types(call)) if _is_half(call) else results


@cache
def _quick() -> Any:
    from elman.cpu.layer import short_calls

    return short_calls


@cache
def _passes() -> Any:
    from elman.cpu.layer import passes

    return passes
