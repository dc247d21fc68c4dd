"""The form `steps`: for every phase of every step, library products and one kernel. Any cell, any size.

Starting a kernel from Python takes longer than a small step. So a CUDA graph records a number of steps, once for calls
of one form, and is then started as a whole. What it works on has fixed addresses: a few buffers that belong to it, and
a table with the addresses of everything else. Steps beyond the end of a sequence, up to the end of a graph, leave
everything as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from elman.gpu.kernels import ADDRESSES, AFRESH, kernels, operand_of
from elman.gpu.loop import Form, Given, Loop
from elman.gpu.source import module_from
from elman.plan import Product, plan

CHUNKS = (32, 8)  # steps that one graph runs; a multiple of two, since steps use two buffers in turn
BLOCK = 256  # units that one program of a kernel computes


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
    """A product for each direction."""

    of: Product
    operands: tuple[Tensor, Tensor]  # (D, B, K) of even and of odd steps
    rows: Tensor  # the rows of weights that it needs, in a buffer
    matrix: Tensor  # the same as (D, K, N)
    out: Tensor  # (D, B, N)


class Steps(Loop):
    """The loop of library products and kernels."""

    own = "before", "operand", "product", "memory", "carry", "d_p", "d_afresh"

    def __init__(self, form: Form, graphs: bool) -> None:
        made = kernels(form.cell, form.name, form.coded, form.afresh)
        super().__init__(form, made.arrays, form.units)
        module = module_from(made.source, f"{form.cell.name} {form.name}")
        self.kernels = []
        for number, width in enumerate(made.phases):
            units, block = self.length(width), BLOCK
            programs = triton.cdiv(form.batch * units, block)
            if getattr(plan(form.cell), form.name).over_rows(number):  # one program for each row
                programs, block = form.batch, triton.next_power_of_2(units)
            grid = programs, len(form.reverse)
            self.kernels.append(partial(getattr(module, f"{form.name}_{number}")[grid], BLOCK=block))
        self.before: list[list[_Multiplication]] = [[] for _ in made.phases]  # before the kernel of each phase
        self.after: list[_Multiplication] = []  # after a step, for the step that backward does next
        for number, j, product in self.products():
            (self.after if product.state else self.before[number]).append(self.multiplication(number, j, product))
        self.graphs: dict[int, torch.cuda.CUDAGraph] | None = {} if graphs else None
        size = ADDRESSES + len(made.arrays) * len(form.reverse)
        self.table = torch.empty(size, dtype=torch.int64, device=form.device)
        self.words: list[int] = []  # what the table holds; calls that follow each other often have the same addresses

    def fill_table(self, steps: int, given: Given) -> None:
        words = [0, steps, *self.addresses(given)]
        if self.form.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            for place, word in enumerate(words):  # a graph can record numbers, but not a copy from this list
                self.table[place].fill_(word)
        elif words != self.words:
            self.table.copy_(torch.tensor(words), non_blocking=True)
            self.words = words

    def products(self) -> list[tuple[int, int, Product]]:
        """Returns the products of a step, with the numbers of their phases and their numbers there."""
        of_phases = getattr(plan(self.form.cell), self.form.name).products
        return [(number, j, each) for number, products in enumerate(of_phases) for j, each in enumerate(products)]

    def multiplication(self, number: int, j: int, product: Product) -> _Multiplication:
        operand = self.buffers[operand_of(self.form.cell, number, j, product).array]
        out = self.buffers[f"product.{number}.{j}"]
        depth, results = operand.shape[-1], out.shape[-1]
        # A weight has a row for each result forward. Backward the same rows are summed over.
        shape = (depth, results) if product.segments else (results, depth)
        rows = torch.empty((len(out), *shape), dtype=operand.dtype, device=out.device)
        return _Multiplication(
            product, (operand[0], operand[1]), rows, rows if product.segments else rows.transpose(1, 2), out
        )

    def pack(self, given: Given) -> None:
        """Copies the rows of the weights that each product needs."""
        for each in (*self.after, *(each for of_phase in self.before for each in of_phase)):
            runs = [(s.weight, s.width, s.block, s.slots) for s in each.of.segments]
            runs = runs or [(each.of.weight, each.of.width, block, 1) for block in each.of.blocks]
            for d, rows in enumerate(each.rows):
                begin = 0
                for field, width, block, slots in _joined(runs):
                    size = self.length(width)
                    part = of_direction(given[f"weight.{field}"], d)[block * size : (block + slots) * size]
                    rows[begin : begin + len(part)].copy_(part)
                    begin += len(part)

    def run(self, steps: int, given: Given, results: Sequence[str]) -> dict[str, Tensor]:
        self.fill_table(steps, given)
        if self.graphs is not None:
            for chunk in set(_chunks(steps)):  # to record a graph runs steps, which leave something in buffers
                self.graph(chunk)
        self.pack(given)
        self.begin(given)
        self.table[:1].zero_()  # no step is done
        if self.graphs is None:
            for k in range(steps):
                self.step(k)
        else:
            for chunk in _chunks(steps):
                self.graph(chunk).replay()
        return {name: self.result(name, steps) for name in results}

    def begin(self, given: Given) -> None:
        """Fills the buffers with what the first step finds there."""
        for name in self.buffers:
            kind, _, state = name.partition(".")
            for d, own in enumerate(self.first(name)):
                if kind == "before":
                    own.copy_(self.state_at_first(state, d, given))
                elif kind == "carry" and (cotangent := given[f"cotangent.{state}"]) is not None:
                    own.copy_(of_direction(cotangent, d))
                elif kind in ("carry", "d_p", "d_afresh"):
                    own.zero_()
        for number, j, product in self.products():
            name, array = f"operand.{number}.{j}", product.operand.array
            if array.startswith("before.") and name in self.buffers:
                self.first(name).copy_(self.first(array))
        for each in self.after:
            each.out.zero_()  # nothing comes back to the last step

    def state_at_first(self, state: str, d: int, given: Given) -> Tensor:
        """Returns the state (B, width) from which the first step of a direction goes on."""
        initial = of_direction(given[f"initial.{state}"], d)
        if not self.form.coded:
            return initial
        code = of_direction(given["code"], d)[-1 if self.form.reverse[d] else 0].unsqueeze(-1)
        fresh = of_direction(given[f"afresh.{state}"], d) if self.form.afresh else 0.0
        return torch.where(code == AFRESH, fresh, initial)

    def result(self, name: str, steps: int) -> Tensor:
        """Returns a copy of a buffer after all steps, (D, B, columns)."""
        kind, _, state = name.partition(".")
        if kind != "final":
            return self.buffers[name].clone()
        return self.buffers[f"before.{state}"][steps % 2].to(self.form.dtype, copy=True)

    def step(self, k: int) -> None:
        """Runs step k after those that the table counts as done."""
        for products, kernel in zip(self.before, self.kernels, strict=True):
            for each in products:
                multiply(each.operands[k % 2], each.matrix, each.out)
            kernel(self.table, k, self.form.batch, **self.constants, enable_fp_fusion=True)
        for each in self.after:
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


def of_direction(given: Tensor | Sequence[Tensor] | None, d: int) -> Tensor:
    assert given is not None  # only cotangents are left out
    return given[d]


def _chunks(steps: int) -> list[int]:
    """Returns the lengths of the graphs that run so many steps, and at the end a few that do nothing."""
    long, short = CHUNKS
    whole, rest = divmod(steps, long)
    return [long] * whole + [short] * triton.cdiv(rest, short)


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
