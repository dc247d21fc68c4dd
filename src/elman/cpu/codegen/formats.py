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
    erf_one: float  # erf(x) rounds to 1 from this x on
    erf_terms: int  # of the Taylor series of erf(x) / x in powers of x^2, for |x| < 1
    erf_q: tuple[
        float, ...
    ]  # of q(t), which takes the values of e^(x^2) erfc(x) / t at Chebyshev's points for 1 < x < erf_one

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


_Q7 = (0.16727949251255728, 0.18968208168635822, 0.07734036392683302, 0.31540401357857034)
_Q7 += (-0.01640460767851136, 0.061043830577808676, 0.20585348543071175)
_Q15 = (0.16925804951241022, 0.1692232488477464, 0.16208656551453562, 0.14276827541883103, 0.14495795513455553)
_Q15 += (0.015401422875501544, 0.3223698697337643, -0.5398616396912166, 1.0514246063318033, -1.3692946330259055)
_Q15 += (1.3560462260632002, -0.956793553872245, 0.4291459043434818, -0.10855881469499888, 0.011826509708038658)
_SINGLE = Arithmetic(ir.FloatType(), 4, 23, 127, 5, 6, 11, *_parts(14), 9.02, 3.93, 11, _Q7)
_DOUBLE = Arithmetic(ir.DoubleType(), 8, 52, 1023, 10, 11, 25, *_parts(41), 19.1, 5.93, 18, _Q15)
FLOAT32 = Format("float32", 4, _SINGLE)
FLOAT64 = Format("float64", 8, _DOUBLE)
FORMATS = {torch.float32: FLOAT32, torch.float64: FLOAT64}
