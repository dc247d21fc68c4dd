"""The formats of numbers: how one lies in memory, and what is computed with it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from llvmlite import ir

from elman.cpu.codegen import llvm


@dataclass(frozen=True, eq=False)
class Arithmetic:
    """A floating-point format that processors compute in, and what the elementary functions depend on."""

    scalar: ir.Type
    bytes: int
    mantissa: int  # bits stored
    bias: int  # of the exponent
    terms: int  # of the polynomial for e^r, |r| <= ln(2)/2, beside 1 + r: its error is below a tenth of a unit
    more_terms: int  # the same for (e^r - 1) / r, 0 <= r <= ln 2
    odd: int  # the last power of s in the series of artanh
    high: float  # ln 2 in two parts; the first has so few bits that k times it is exact
    low: float
    tanh_one: float  # from here up tanh rounds to 1

    @property
    def sigmoid_zero(self) -> float:
        """From here down sigmoid is below the smallest normal number."""
        return (1 - self.bias) * math.log(2)


@dataclass(frozen=True, eq=False)
class Format:
    """Numbers in memory. Kernels are made for one; an array of a script carries its own."""

    name: str  # torch's
    bytes: int  # of a number in memory
    arithmetic: Arithmetic

    @property
    def lanes(self) -> int:
        """Numbers in a vector, by the format that they are computed in."""
        return llvm.target().vector_bytes // self.arithmetic.bytes


def _parts(bits: int) -> tuple[float, float]:
    """ln 2 = a number of so few bits + the rest."""
    high = math.floor(math.log(2) * 2**bits) / 2**bits
    # The rest to double precision: ln 2 itself is 0x1.62e42fefa39ef35793c7673007e5p-1.
    beyond = float.fromhex("0x1.abc9e3b39803f2f6af40p-56")
    return high, (math.log(2) - high) + beyond


_SINGLE = Arithmetic(ir.FloatType(), 4, 23, 127, 5, 6, 11, *_parts(14), tanh_one=9.02)
_DOUBLE = Arithmetic(ir.DoubleType(), 8, 52, 1023, 10, 11, 25, *_parts(41), tanh_one=19.1)
FLOAT32 = Format("float32", 4, _SINGLE)
FLOAT64 = Format("float64", 8, _DOUBLE)
FORMATS = {torch.float32: FLOAT32, torch.float64: FLOAT64}
