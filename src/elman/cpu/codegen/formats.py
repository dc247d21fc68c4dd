"""The formats of numbers: how a number is stored in memory, and in which format it is computed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from llvmlite import ir

from elman.cpu.codegen import llvm


@dataclass(frozen=True, eq=False)
class Arithmetic:
    """A floating-point format that processors compute in, and the constants of the elementary functions for it."""

    scalar: ir.Type
    bytes: int
    mantissa: int  # stored bits of the mantissa
    bias: int  # of the exponent
    # Polynomials for e^r have this many terms after 1 + r. Their error is below a tenth of a unit in the last place.
    terms: int  # for e^r, |r| <= ln(2)/2
    more_terms: int  # for (e^r - 1) / r, 0 <= r <= ln 2
    odd: int  # the highest power of s in the series for artanh(s)
    # ln 2 = high + low. `high` has so few bits that its product with a whole exponent k is exact.
    high: float
    low: float
    tanh_one: float  # tanh(x) rounds to 1 from this x on

    @property
    def sigmoid_zero(self) -> float:
        """The x below which sigmoid(x) is smaller than the smallest normal number."""
        return (1 - self.bias) * math.log(2)


@dataclass(frozen=True, eq=False)
class Format:
    """How numbers are stored in memory. A kernel is made for one format; each array of a script has its own."""

    name: str  # of the dtype in torch
    bytes: int  # of a number in memory
    arithmetic: Arithmetic

    @property
    def lanes(self) -> int:
        """How many numbers a vector holds in the format that they are computed in."""
        return llvm.target().vector_bytes // self.arithmetic.bytes


def _parts(bits: int) -> tuple[float, float]:
    """Splits ln 2 into a number with `bits` bits after the binary point, and the rest."""
    high = math.floor(math.log(2) * 2**bits) / 2**bits
    # What ln 2 = 0x1.62e42fefa39ef35793c7673007e5p-1 has beyond math.log(2), which is rounded to a double.
    beyond = float.fromhex("0x1.abc9e3b39803f2f6af40p-56")
    return high, (math.log(2) - high) + beyond


_SINGLE = Arithmetic(ir.FloatType(), 4, 23, 127, 5, 6, 11, *_parts(14), tanh_one=9.02)
_DOUBLE = Arithmetic(ir.DoubleType(), 8, 52, 1023, 10, 11, 25, *_parts(41), tanh_one=19.1)
FLOAT32 = Format("float32", 4, _SINGLE)
FLOAT64 = Format("float64", 8, _DOUBLE)
FORMATS = {torch.float32: FLOAT32, torch.float64: FLOAT64}
