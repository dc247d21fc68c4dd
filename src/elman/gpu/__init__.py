"""Engine `gpu`: kernels made from a cell's equations, compiled by Triton for NVIDIA GPUs.

source.py            Triton's source for the operations of a graph; modules made from source
kernels.py           what a phase of a step does, written from a cell's plan (../plan.py); a kernel for each phase
resident_source.py   how programs of one kernel meet, and read each other's operands
resident_kernel.py   one kernel for all steps
loop.py              the time loop: its buffers, and the addresses that kernels are given
steps.py             the loop of library products and kernels, recorded in CUDA graphs
resident.py          the loop in one kernel
choice.py            which of the two runs a pass
passes.py            a layer forward and backward: tensors, large products, gradients

With TRITON_INTERPRET=1 in the environment the kernels run in Triton's interpreter, on tensors on the CPU. That is slow;
it is for tests.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache
from typing import Any

import torch
from torch import Tensor

from elman import own_kernels
from elman.cell import Cell
from elman.layout import Call, Results
from elman.torch_private import constant_to_the_compiler

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
OLDEST = 8, 0  # compute capability


@cache
def _problem(cell: Cell) -> str | None:
    """Returns why no kernel can be made from a cell, or None if one can."""
    try:
        import triton  # noqa: F401
    except ImportError as error:
        return f"Triton cannot be loaded ({error}); install it with: pip install triton"
    return own_kernels.untraceable(cell)


_problem_of = own_kernels.by_name(_problem)


@cache
def _of_device(device: torch.device) -> str | None:
    """Returns why no kernel can run on a device, or None if one can."""
    if torch.version.hip is not None:
        return "it is for NVIDIA GPUs, and this torch is made for AMD's"
    found = torch.cuda.get_device_capability(device)
    if found < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        return f"it needs a GPU of compute capability {wanted}, and {device} has {'.'.join(map(str, found))}"
    return None


@constant_to_the_compiler
def _problem_of_device(device: torch.device) -> str | None:
    """The same, as a constant for torch's compiler, which would warn of the cache."""
    return _of_device(device)


def interpreted() -> bool:
    """Whether Triton interprets kernels, on tensors on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


class Gpu:
    """The engine for NVIDIA GPUs; implements `elman.engines.Engine`. It imports its parts when it first needs them."""

    why = own_kernels.WHY

    def unsupported(self, call: Call) -> str | None:
        """Returns why this engine cannot run a call, or None if it can."""
        x = call.x
        if x.device.type != "cuda" and not (x.is_cpu and interpreted()):
            return f"it is for NVIDIA GPUs, and the input is on {x.device.type}"
        if x.dtype not in DTYPES:
            return f"it has float16, bfloat16, float32 and float64, and the input is {x.dtype}"
        if x.is_cuda and (problem := _problem_of_device(x.device)):
            return problem
        return own_kernels.refusal(call, _problem, _problem_of)

    def at_once(self, call: Call) -> Results | None:
        return None

    def infer(self, call: Call) -> Results:
        with torch.no_grad(), _on(call):
            return _passes().infer(call)

    def forward(self, call: Call) -> tuple[Results, list[Tensor]]:
        with torch.no_grad(), _on(call):
            return _passes().forward(call)

    def saves(self, call: Call) -> list[tuple[Any, torch.dtype]]:
        return _passes().saves(call)

    def backward(
        self,
        call: Call,
        output: Tensor,
        saved: Sequence[Tensor],
        cotangents: Sequence[Tensor | None],
        needed: Sequence[bool],
    ) -> list[Tensor | None]:
        with torch.no_grad(), _on(call):
            return _passes().backward(call, output, saved, cotangents, needed)

    def form(self, call: Call) -> str:
        """Returns which form of the time loop runs a call, and why. A pass backward may have another one."""
        recorded = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in call.tensors())
        with torch.no_grad(), _on(call):
            return _passes().form(call, *(("forward", "backward") if recorded else ("infer",)))


def cudnn_is_faster(call: Call) -> bool:
    """Whether torch's own kernel is faster where it has one for the cell, as measured in docs/decisions/0014.

    With float16 cuDNN, too, keeps the recurrent weights of some cells on the chip. Its LSTM is faster where a program has much
    to read for few rows. Its RNN is faster in short sequences of many rows, since a call starts fewer operations.
    """
    (weights, _), *others = call.directions
    if others or weights.hh is None or (call.autocast or call.x.dtype) != torch.float16:
        return False
    (steps, rows, _), units, gates = call.x.shape, weights.hh.shape[1], len(call.cell.gates)
    if units % 128 or units > 1024:
        return False
    return (gates == 4 and units >= 768 and 16 <= rows <= 32) or (gates == 1 and rows >= 64 and steps <= 128)


ENGINE = Gpu()


def _on(call: Call) -> Any:
    """Returns a context in which kernels run on the call's device, with autocast off: types are chosen here."""
    stack, device = ExitStack(), call.x.device
    if torch.is_autocast_enabled(device.type):
        stack.enter_context(torch.autocast(device.type, enabled=False))
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        stack.enter_context(torch.cuda.device(device))
    return stack


@cache
def _passes() -> Any:
    from elman.gpu import passes

    return passes
