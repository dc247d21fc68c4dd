"""What both forms of the time loop have in common: buffers, and the table of addresses."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from elman.cell import Cell
from elman.gpu.kernels import ADDRESSES, Array
from elman.leaves import HIDDEN
from elman.plan import Product, plan

TYPES = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}

# The kinds of arrays that belong to a loop. All others are given.
BUFFERS = ("before", "operand", "product", "memory", "carry", "d_p", "d_afresh")


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


class Loop:
    """The time loop of one pass, for calls of one form: its buffers and its table. One thread at a time may `run` it."""

    def __init__(self, form: Form, arrays: Mapping[str, Array], padded: int) -> None:
        """padded: to how many units a slot is padded in the arrays that are."""
        self.form, self.arrays, self.padded, self.lock = form, arrays, padded, threading.RLock()
        words = ADDRESSES + len(arrays) * len(form.reverse)
        self.table = torch.empty(words, dtype=torch.int64, device=form.device)
        self.words: list[int] = []  # what the table holds; calls that follow each other often have the same addresses
        self.buffers = {name: self.empty(array) for name, array in arrays.items() if name.partition(".")[0] in BUFFERS}
        self.constants = {
            "H": form.units,
            "HP": padded,
            "P": form.proj,
            "D": len(form.reverse),
            "REVERSE": sum(back << d for d, back in enumerate(form.reverse)),
            "LOW": TYPES[form.dtype],
            "WIDE": TYPES[wide(form.dtype)],
        }

    def length(self, width: str) -> int:
        return self.form.units if width == HIDDEN else self.form.proj

    def empty(self, array: Array) -> Tensor:
        """Returns a buffer for an array: (D, rows, columns), or (2, D, B, columns)."""
        form = self.form
        columns = sum(
            slots * (self.padded if array.padded and width == HIDDEN else self.length(width))
            for slots, width in array.columns
        )
        shape = (len(form.reverse), form.batch if array.rows else 1, columns)
        if array.buffers == 2:
            shape = (2, *shape)
        make = torch.zeros if array.padded else torch.empty
        return make(shape, dtype=wide(form.dtype) if array.wide else form.dtype, device=form.device)

    def products(self) -> list[tuple[int, int, Product]]:
        """Returns the products of a step, with the numbers of their phases and their numbers there."""
        of_phases = getattr(plan(self.form.cell), self.form.name).products
        return [(number, j, each) for number, products in enumerate(of_phases) for j, each in enumerate(products)]

    def run(self, steps: int, given: Mapping[str, Sequence[Tensor]], begin: Mapping[str, Tensor | None]) -> None:
        """Runs all steps.

        given: every array that is not a buffer, a tensor for each direction. begin: what buffers hold at first, None for
        zeros. Of two buffers for steps in turn this is the first one.
        """
        self.fill_table(steps, given)
        self.prepare(steps)
        for name, value in begin.items():
            own = self.first(name)
            if value is None:
                own.zero_()
            else:
                (own if own.shape == value.shape else own[..., : value.shape[-1]]).copy_(value)
        self.start(steps, given)

    def prepare(self, steps: int) -> None:
        """Does what has to be done before buffers are filled."""

    def start(self, steps: int, given: Mapping[str, Sequence[Tensor]]) -> None:
        """Starts all steps, once the table and the buffers are filled."""
        raise NotImplementedError

    def first(self, name: str) -> Tensor:
        """Returns a buffer, the first one if there are two for steps in turn."""
        own = self.buffers[name]
        return own[0] if own.dim() == 4 else own

    def fill_table(self, steps: int, given: Mapping[str, Sequence[Tensor]]) -> None:
        words = [0, steps]
        for name in self.arrays:
            words += [t.data_ptr() for t in (self.first(name) if name in self.buffers else given[name])]
        if self.form.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            for place, word in enumerate(words):  # a graph can record numbers, but not a copy from this list
                self.table[place].fill_(word)
        elif words != self.words:
            self.table.copy_(torch.tensor(words), non_blocking=True)
            self.words = words

    def final(self, array: str, steps: int) -> Tensor:
        """Returns the buffer of a state or an adjoint after all steps, (D, B, width)."""
        own, width = self.buffers[array], self.arrays[array].columns[0][1]
        return (own[steps % 2] if own.dim() == 4 else own)[..., : self.length(width)]
