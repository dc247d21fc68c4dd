"""What both forms of the time loop have in common: buffers, and the addresses that kernels are given."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from elman.cell import Cell
from elman.gpu.kernels import Array
from elman.leaves import HIDDEN

TYPES = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}

# What a pass is given for a name: a tensor for each direction, or one for all, (D, ...); or None, for zeros.
Given = Mapping[str, Tensor | Sequence[Tensor] | None]


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
    """The time loop of one pass, for calls of one form, and its buffers. One thread at a time may `run` it."""

    own: tuple[str, ...]  # the kinds of arrays that are buffers of the loop; all others are given

    def __init__(self, form: Form, arrays: Mapping[str, Array], padded: int) -> None:
        """padded: to how many units a slot is padded in the arrays that are."""
        self.form, self.arrays, self.padded, self.lock = form, arrays, padded, threading.RLock()
        self.buffers = {name: self.empty(array) for name, array in arrays.items() if name.partition(".")[0] in self.own}
        self.fixed = {name: [t.data_ptr() for t in self.first(name)] for name in self.buffers}
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
        """Returns a buffer for an array: (D, rows, columns), or (buffers, D, B, columns)."""
        form = self.form
        columns = sum(
            slots * (self.padded if array.padded and width == HIDDEN else self.length(width))
            for slots, width in array.columns
        )
        shape = (len(form.reverse), form.batch if array.rows else 1, columns)
        if array.buffers > 1:
            shape = (array.buffers, *shape)
        make = torch.zeros if array.padded else torch.empty
        return make(shape, dtype=wide(form.dtype) if array.wide else form.dtype, device=form.device)

    def run(self, steps: int, given: Given, results: Sequence[str]) -> dict[str, Tensor]:
        """Runs all steps, and returns these results.

        given: every array that is no buffer and no result. results: names of "final.NAME" after a pass forward, and of
        "carry.NAME", "d_afresh.NAME" and "d_p" after one backward; each is (D, B, columns).
        """
        raise NotImplementedError

    def first(self, name: str) -> Tensor:
        """Returns a buffer, the first one if there are some for steps in turn."""
        own = self.buffers[name]
        return own[0] if own.dim() == 4 else own

    def addresses(self, given: Given) -> list[int]:
        """Returns the addresses of all arrays, one for each direction; zeros for an array that is left out."""
        found: list[int] = []
        for name in self.arrays:
            if name in self.fixed:
                found += self.fixed[name]
                continue
            of, directions = given[name], len(self.form.reverse)
            if of is None:
                found += [0] * directions
            elif isinstance(of, Tensor):
                size = of.stride(0) * of.itemsize
                found += [of.data_ptr() + d * size for d in range(directions)]
            else:
                found += [t.data_ptr() for t in of]
        return found
