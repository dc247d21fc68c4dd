"""Engine `cpu` reads and writes its own memory only: buffers between guard pages, filled with NaN beforehand.

A vector read or written across the end of a buffer is a fault of the processor, so the cases run in a
process of their own, which says what it is at. Smaller trespasses are found by what lies around the buffer.
"""

from __future__ import annotations

import ctypes
import mmap
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, relu, sigmoid, tanh
from torch.func import functional_call

import elman
from cases import as_tuple, hidden, inputs, normal, recurrent
from elman import Cell, Recurrent, State, cells
from elman.cpu.scripts import memory
from forks import RUN, Child, Forks

Allocate = Callable[..., Tensor]


@contextmanager
def allocating(allocate: Allocate) -> Iterator[None]:
    """`allocate` instead of `memory.empty` and `empty_like`, wherever the engine has it by name; workspaces are made anew."""
    instead = {memory.empty: allocate, memory.empty_like: lambda tensor: allocate(tensor.shape, tensor.dtype)}
    holders = [
        (module, name, original)
        for path, module in sys.modules.items()
        if path.startswith("elman.")
        for name, original in vars(module).items()
        if original in (memory.empty, memory.empty_like)
    ]
    assert any(module is memory for module, _, _ in holders)
    memory.of_thread.workspace.clear()
    try:
        for module, name, original in holders:
            setattr(module, name, instead[original])
        yield
    finally:
        for module, name, original in holders:
            setattr(module, name, original)
        memory.of_thread.workspace.clear()


# Fences.

PAGE = mmap.PAGESIZE
NO_ACCESS = 0  # PROT_NONE
MARK = 0xA5


class Fences:
    """Buffers that end where memory ends, or begin where it begins; the rest of their pages is marked."""

    def __init__(self, at_end: bool):
        self.at_end = at_end
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.mmap.restype = ctypes.c_void_p
        self.libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        self.libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self.marked: list[tuple[int, int]] = []  # address and length of what nobody may write to
        self.count = 0

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        size = torch.Size(shape).numel() * dtype.itemsize
        room = -(-size // PAGE) * PAGE
        start = self.libc.mmap(None, room + 2 * PAGE, NO_ACCESS, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        assert start not in (None, ctypes.c_void_p(-1).value), "no more memory to map"
        self.count += 1
        if not size:
            return torch.empty(shape, dtype=dtype)
        inside = start + PAGE
        assert self.libc.mprotect(inside, room, mmap.PROT_READ | mmap.PROT_WRITE) == 0
        address = inside + (room - size if self.at_end else 0)
        ctypes.memset(inside, MARK, room)
        self.marked.append((inside, address - inside) if self.at_end else (address + size, room - size))
        ctypes.memset(address, 0xFF, size)  # NaN in every format
        return torch.frombuffer((ctypes.c_char * size).from_address(address), dtype=dtype).view(shape)

    def copy(self, tensor: Tensor) -> Tensor:
        return self.empty(tensor.shape, tensor.dtype).copy_(tensor.detach())

    def check(self) -> None:
        """AssertionError if what lies around a buffer was written to."""
        for address, length in self.marked:
            around = ctypes.string_at(address, length)
            assert around.count(MARK) == length, f"{length - around.count(MARK)} bytes written outside of a buffer"


def everything(
    of: Recurrent, x: Tensor, states: tuple[Tensor, ...], copy: Callable[[Tensor], Tensor], rows: dict[str, Any]
) -> list[Tensor]:
    """Results of inference, then of training, then gradients; whatever goes in was copied by `copy`.

    rows: lengths and resets, or nothing.
    """
    names = [name for name, _ in of.named_parameters()]
    leaves = [copy(value).requires_grad_() for value in (x, *states, *of.parameters())]
    given = dict(zip(names, leaves[1 + len(states) :], strict=True))

    def results() -> list[Tensor]:
        memory.of_thread.workspace.clear()  # so that every buffer is as large as it has to be
        output, h_n = functional_call(of, given, (leaves[0], hidden(tuple(leaves[1 : 1 + len(states)]))), rows)
        return [output, *as_tuple(h_n)]

    with torch.no_grad():
        inferred = results()
    trained = results()
    cotangents = [copy(normal(*r.shape, seed=5 + k, dtype=r.dtype)) for k, r in enumerate(trained)]
    memory.of_thread.workspace.clear()
    d = torch.autograd.grad(trained, leaves, cotangents, allow_unused=True, materialize_grads=True)
    return [*inferred, *(r.detach() for r in trained), *d]


def three_phases(x, R, s, p):
    a = sigmoid(x.a + R.a @ s.h)
    b = tanh(x.b + R.b @ (a * s.h) + R.a @ s.c)
    c = relu(R.b @ (b - s.c)) * p.v + 0.5 * s.c
    return State(h=torch.maximum(a * b, tanh(c)), c=tanh(c), spare=s.h)


def no_product(x, s):
    return State(h=sigmoid(x.a) * s.h + tanh(x.b))


def products_apart(x, R, s):
    """Gates a and b with the second operand: only the gradient of a is added to another."""
    return State(h=tanh(x.a + R.a @ s.h), c=sigmoid(R.a @ s.c) + tanh(R.b @ s.c))


def narrow_states(x, R, s, P):
    """Two projected states; one matrix with three operands, one of which the other reads as well."""
    v = tanh(x.a + R.a @ s.h + R.a @ s.m)
    return State(h=tanh(P.h @ v) * s.m, m=P.m @ (v * v) + P.h @ x.a)


def narrow_memory(x, R, s, P):
    """The output is as wide as the units, and both matrices multiply it."""
    v = tanh(x.a + R.a @ s.h)
    return State(h=R.b @ v * s.h, m=sigmoid(P.m @ v + s.m) - P.m @ s.h)


OWN = [
    Cell(narrow_states, gates=("a",), states=("h", "m"), projected=("h", "m")),
    Cell(narrow_memory, gates=("a", "b"), states=("h", "m"), projected=("m",)),
    Cell(products_apart, gates=("a", "b"), states=("h", "c")),
    Cell(three_phases, gates=("a", "b"), states=("h", "c", "spare"), vectors=("v",)),
    Cell(no_product, gates=("a", "b")),
]
# Of the cells in float64: with several phases, two widths and vectors. Its kernels differ in the number of lanes only.
DOUBLE = {cells.gru_before, cells.projected_lstm, cells.peephole_lstm, *OWN[1::2]}
SIZES = [  # T, B, I, H: below, at and above a vector of 16, 8, 4
    (1, 1, 1, 1),
    (3, 2, 3, 3),
    (2, 5, 1, 15),
    (3, 7, 3, 16),
    (4, 6, 2, 17),
    (2, 13, 5, 9),
    (2, 1, 3, 67),
    (2, 3, 16, 32),
]


def main(dtype_name: str) -> None:
    """What the process does. Every line printed is what comes next."""
    torch.set_num_threads(1)
    dtype = getattr(torch, dtype_name)
    tolerance = {torch.float32: 2e-4, torch.float64: 1e-11}[dtype]
    every = (*cells.BUILT_IN.values(), *OWN)
    for place, cell in enumerate(cell for cell in every if dtype == torch.float32 or cell in DOUBLE):
        for number, (steps, batch, size, units) in enumerate(SIZES):
            if (place + number) % 2:  # half of the sizes, others for each cell
                continue
            options = {"dtype": dtype, "bidirectional": number % 3 == 1, "bias": number % 4 != 2}
            units = max(units, 1 + bool(cell.projected))  # a projected state is narrower
            of = recurrent(cell, size, units, **options)
            x, states = inputs(of, steps, batch)
            rows: dict[str, Any] = {}
            if number % 2:
                draw = random.Random(number)
                rows["lengths"] = [draw.randint(0, steps) for _ in range(batch)]
                rows["reset"] = torch.tensor([[draw.random() < 0.3 for _ in range(batch)] for _ in range(steps)])
            with elman.use_engine("reference"):
                double = recurrent(cell, size, units, **options | {"dtype": torch.float64})  # pyright: ignore[reportArgumentType]
                double.load_state_dict(of.state_dict())
                exact = everything(double, x.double(), tuple(s.double() for s in states), torch.clone, rows)
            for at_end in (True, False):
                side = "end" if at_end else "begin"
                print(f"{of.cell.name} T={steps} B={batch} I={size} H={units}, buffers {side} at a fence", flush=True)
                fences = Fences(at_end)
                with elman.use_engine("cpu"), allocating(fences.empty):
                    mine = everything(of, x, states, fences.copy, rows)
                    fences.check()
                assert fences.count > 3 + len(states)
                for m, e in zip(mine, exact, strict=True):
                    error = ((m - e).abs().max() / (1 + e.abs().max())).item()
                    assert error <= tolerance, f"off by {error}"  # not for a NaN either
    print("done", flush=True)


@pytest.mark.skipif(sys.platform != "linux", reason="needs mmap and mprotect as Linux has them")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nothing_beyond_a_buffer_is_read_or_written(dtype: str, forks: Forks) -> None:
    (done,) = forks.run(Child(RUN, (__file__, dtype)))
    last = done.stdout.splitlines()[-1] if done.stdout else ""
    assert (done.returncode, last) == (0, "done"), f"at {last}: exit {done.returncode}\n{done.stderr[-2000:]}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
