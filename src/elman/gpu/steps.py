"""The form `steps`: for every phase of every step, library products and one kernel. Any cell, any size.

Starting a kernel from Python takes longer than a small step. So a CUDA graph records a number of steps, once for calls
of one form, and is then started as a whole. What it works on has fixed addresses: a few buffers that belong to it, and
a table with the addresses of everything else. Steps beyond the end of a sequence, up to the end of a graph, leave
everything as it is.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from elman.cell import Cell
from elman.gpu.kernels import ADDRESSES, Array, kernels, operand_of
from elman.gpu.source import module_from
from elman.layout import Weights
from elman.leaves import HIDDEN
from elman.plan import Product

CHUNKS = (32, 8)  # steps that one graph runs; a multiple of two, since steps use two buffers in turn
BLOCK = 256  # units that one program of a kernel computes
KEPT = 8  # loops whose buffers and graphs are kept

TYPES = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}


def wide(dtype: torch.dtype) -> torch.dtype:
    """Returns the type in which sums and the states after the first are held."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class Form(NamedTuple):
    """What the buffers and graphs of a pass depend on."""

    cell: Cell
    name: str  # of the pass: "infer", "forward" or "backward"
    coded: bool  # whether there are lengths or resets
    afresh: bool  # whether rows start afresh from states that are given
    reverse: tuple[bool, ...]
    batch: int
    units: int
    proj: int
    dtype: torch.dtype
    tf32: bool
    device: torch.device
    stream: int


def multiply(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Writes a b into out, for each direction: (D, B, K) times (D, K, N). Sums of half types are float32."""
    a, b, out = (a[0], b[0], out[0]) if len(a) == 1 else (a, b, out)
    product: Any = torch.mm if a.dim() == 2 else torch.bmm
    if out.dtype == a.dtype:
        product(a, b, out=out)
    elif a.is_cuda:
        product(a, b, out.dtype, out=out)
    else:
        product(a.to(out.dtype), b.to(out.dtype), out=out)


class _Multiplication(NamedTuple):
    """A product, the operands of even and odd steps, the matrix (D, K, N) and where the result goes."""

    of: Product
    operands: tuple[Tensor, Tensor]
    matrix: Tensor
    out: Tensor


class Loop:
    """The buffers, kernels and graphs of a pass, for calls of one form. `run` may be called by one thread at a time."""

    def __init__(self, form: Form, graphs: bool) -> None:
        self.form, self.lock = form, threading.RLock()
        made = kernels(form.cell, form.name, form.coded, form.afresh)
        module = module_from(made.source, f"{form.cell.name} {form.name}")
        self.arrays = made.arrays
        directions = len(form.reverse)
        self.table = torch.empty(ADDRESSES + len(made.arrays) * directions, dtype=torch.int64, device=form.device)
        self.buffers = {
            name: self.empty(array)
            for name, array in made.arrays.items()
            if name.partition(".")[0] in ("before", "operand", "product", "memory", "carry", "d_p", "d_afresh")
        }
        self.constants = {
            "H": form.units,
            "P": form.proj,
            "D": directions,
            "REVERSE": sum(back << d for d, back in enumerate(form.reverse)),
            "LOW": TYPES[form.dtype],
            "WIDE": TYPES[wide(form.dtype)],
            "BLOCK": BLOCK,
        }
        self.phases = []
        for number, width in enumerate(made.phases):
            grid = triton.cdiv(form.batch * self.length(width), BLOCK), directions
            self.phases.append(getattr(module, f"{form.name}_{number}")[grid])
        self.products = [
            [self.multiplication(number, j, product) for j, product in enumerate(products)]
            for number, products in enumerate(made.products)
        ]
        self.graphs: dict[int, torch.cuda.CUDAGraph] | None = {} if graphs else None

    def length(self, width: str) -> int:
        return self.form.units if width == HIDDEN else self.form.proj

    def columns(self, array: Array) -> int:
        return sum(slots * self.length(width) for slots, width in array.columns)

    def empty(self, array: Array, steps: int = 1) -> Tensor:
        """Returns a tensor for an array: (D, rows, columns), (D, T, B, columns) or (2, D, B, columns)."""
        form, count = self.form, len(self.form.reverse)
        shape = (count, form.batch if array.rows else 1, self.columns(array))
        if array.steps:
            shape = (count, steps, *shape[1:])
        if array.buffers == 2:
            shape = (2, *shape)
        return torch.empty(shape, dtype=wide(form.dtype) if array.wide else form.dtype, device=form.device)

    def multiplication(self, number: int, j: int, product: Product) -> _Multiplication:
        operand = self.buffers[operand_of(self.form.cell, number, j, product).array]
        out = self.buffers[f"product.{number}.{j}"]
        shape = (len(out), out.shape[-1], operand.shape[-1])
        # A weight has a row for each result forward. Backward the same rows are summed over.
        matrix = torch.empty(
            shape if not product.segments else (shape[0], shape[2], shape[1]), dtype=operand.dtype, device=out.device
        )
        both = (operand[0], operand[1]) if operand.dim() == 4 else (operand, operand)
        return _Multiplication(product, both, matrix if product.segments else matrix.transpose(1, 2), out)

    def pack(self, weights: Sequence[Weights]) -> None:
        """Copies the rows of the weights that each product needs into its matrix."""
        for each in (each for of_phase in self.products for each in of_phase):
            runs = [(s.weight, s.width, s.block, s.slots) for s in each.of.segments]
            runs = runs or [(each.of.weight, each.of.width, block, 1) for block in each.of.blocks]
            for d, own in enumerate(weights):
                begin, matrix = 0, each.matrix[d] if each.of.segments else each.matrix[d].t()
                for field, width, block, slots in _joined(runs):
                    size, rows = self.length(width), getattr(own, field)
                    part = rows[block * size : (block + slots) * size]
                    matrix[begin : begin + len(part)].copy_(part)
                    begin += len(part)

    def run(
        self,
        steps: int,
        weights: Sequence[Weights],
        given: Mapping[str, Sequence[Tensor]],
        begin: Mapping[str, Tensor],
    ) -> None:
        """Runs all steps.

        given: every array that is not a buffer, a tensor for each direction. begin: what buffers hold at first. Of two
        buffers for steps in turn this is the first one.
        """
        addresses = []
        for name in self.arrays:
            if name in self.buffers:
                own = self.buffers[name]
                addresses += [t.data_ptr() for t in (own[0] if own.dim() == 4 else own)]
            else:
                addresses += [t.data_ptr() for t in given[name]]
        self.fill([0, steps, *addresses])
        long, short = CHUNKS
        whole, rest = divmod(steps, long)
        graphs = (
            [self.graph(chunk) for chunk in [long] * whole + [short] * triton.cdiv(rest, short)]
            if self.graphs is not None
            else []
        )
        self.pack(weights)
        for name, value in begin.items():
            own = self.buffers[name]
            (own[0] if own.dim() == 4 else own).copy_(value)
        for each in self.returned():
            each.out.zero_()  # nothing comes back to the last step
        for graph in graphs:
            graph.replay()
        if self.graphs is None:
            for k in range(steps):
                self.step(k)

    def final(self, array: str, steps: int) -> Tensor:
        """Returns the buffer of a state or an adjoint after all steps, (D, B, width)."""
        own = self.buffers[array]
        return own[steps % 2] if own.dim() == 4 else own

    def own_operands(self) -> list[tuple[str, Product]]:
        """Returns the buffers that hold nothing but the operand of one product, and the products."""
        places = [(n, j, each.of) for n, of_phase in enumerate(self.products) for j, each in enumerate(of_phase)]
        return [(f"operand.{n}.{j}", each) for n, j, each in places if f"operand.{n}.{j}" in self.buffers]

    def returned(self) -> list[_Multiplication]:
        """Returns the products that a step makes for the step that backward does next."""
        return [each for of_phase in self.products for each in of_phase if each.of.state]

    def fill(self, words: list[int]) -> None:
        if self.form.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            for place, word in enumerate(words):  # a graph can record numbers, but not a copy from this list
                self.table[place].fill_(word)
        else:
            self.table.copy_(torch.tensor(words), non_blocking=True)

    def step(self, k: int) -> None:
        """Runs step k after those that the table counts as done."""
        for products, kernel in zip(self.products, self.phases, strict=True):
            for each in products:
                if not each.of.state:
                    multiply(each.operands[k % 2], each.matrix, each.out)
            kernel(self.table, k, self.form.batch, **self.constants, enable_fp_fusion=True)
        for each in self.returned():
            multiply(each.operands[(k + 1) % 2], each.matrix, each.out)

    def graph(self, chunk: int) -> torch.cuda.CUDAGraph:
        """Returns the graph of this many steps."""
        assert self.graphs is not None
        if chunk not in self.graphs:
            # Kernels and the library have to be loaded before they are recorded: a step beyond the end does nothing.
            self.table[:1].copy_(self.table[1:2])
            self.step(0)
            self.step(1)
            self.table[:1].zero_()
            graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(self.form.device)
            stream.wait_stream(torch.cuda.current_stream(self.form.device))
            with torch.cuda.stream(stream):
                graph.capture_begin(capture_error_mode="thread_local")
                try:
                    for k in range(chunk):
                        self.step(k)
                    self.table[:1].add_(chunk)
                finally:
                    graph.capture_end()
            torch.cuda.current_stream(self.form.device).wait_stream(stream)
            self.graphs[chunk] = graph
        return self.graphs[chunk]


def _joined(runs: list[tuple[str, str, int, int]]) -> Iterator[tuple[str, str, int, int]]:
    """Joins runs of blocks (field, width, first block, blocks) that follow each other."""
    last: tuple[str, str, int, int] | None = None
    for run in runs:
        if last is not None and last[:2] == run[:2] and last[2] + last[3] == run[2]:
            last = *last[:3], last[3] + run[3]
            continue
        if last is not None:
            yield last
        last = run
    if last is not None:
        yield last


_loops: OrderedDict[Form, Loop] = OrderedDict()
_lock = threading.Lock()


@contextmanager
def loop_for(form: Form) -> Iterator[Loop]:
    """Gives the loop for calls of this form, to one thread at a time.

    While the caller records a graph of its own, the loop is a new one: the caller's graph will run at any time.
    """
    if form.device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        yield Loop(form, graphs=False)
        return
    with _lock:
        loop = _loops.pop(form, None) or Loop(form, graphs=True)
        _loops[form] = loop
        while len(_loops) > KEPT:
            _loops.popitem(last=False)
    with loop.lock:
        yield loop
