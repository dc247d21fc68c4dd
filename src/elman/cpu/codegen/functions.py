"""The elementwise functions on vectors, accurate to a few units in the last place, and those of their derivatives.

exp(x) = 2^k e^r with k = round(x / ln 2), so that |r| <= ln(2)/2; a polynomial gives e^r.
sigmoid reduces x in the same way, and tanh with k rounded down. A NaN stays a NaN, and infinities give the limits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache

from llvmlite import ir

from elman.cpu.codegen.program import Program, Value


def _reduced(p: Program, x: Value, times: int, down: bool = False) -> tuple[Value, Value]:
    """Splits x so that times * x = k ln 2 + times * s. Returns k + bias, in the low bits of integers, and s.

    k is rounded to nearest: |times * s| <= ln(2)/2. With `down`, which needs times * x >= 0, k is rounded down:
    0 <= times * s <= ln 2, up to an error of ln(2)/1000.
    """
    f = p.arithmetic
    # A sum with a number this large is rounded to a whole number, which the low bits of the sum's mantissa then hold.
    shift = 1.5 * 2**f.mantissa + f.bias
    # -0.499 instead of -0.5: for x near 0 the sum would be a tie, and could round to k = -1.
    per_ln2 = p.splat(times / math.log(2))
    rounded = p.fma(x, per_ln2, -0.499) + shift if down else p.fma(x, per_ln2, shift)
    k = rounded - shift
    s = p.fma(k, p.splat(-f.low / times), p.fma(k, p.splat(-f.high / times), x))
    return Value(p, p.builder.bitcast(rounded.ir, p.bit_vector)), s


def _power_of_two(p: Program, biased: Value) -> Value:
    """Returns 2^k, given k + bias in the low bits: they become the exponent of a floating-point number."""
    places = ir.Constant(p.bit_vector, [p.arithmetic.mantissa] * p.width)
    return Value(p, p.builder.bitcast(p.builder.shl(biased.ir, places), p.vector))


@cache
def _polynomial(terms: int, low: float, high: float) -> list[float]:
    """Returns the coefficients a_2, a_3, ... of e^r = 1 + r + r^2 (a_2 + a_3 r + ...) for r between low and high.

    This is Chebyshev economization, in exact arithmetic. It begins with the Taylor series. The highest power is
    replaced by lower ones, with the coefficients of the Chebyshev polynomial of that degree, until `terms` are left.
    """
    a = [Fraction(1, math.factorial(n)) for n in range(2, 20)]
    slope = 2 / (Fraction(high) - Fraction(low))
    t = [-1 - slope * Fraction(low), slope]  # maps r to [-1, 1]; coefficients of powers of r, as all polynomials here
    chebyshev = [[Fraction(1)], t]
    while len(chebyshev) < len(a):
        before, last = chebyshev[-2:]
        raised = [2 * (t[0] * c + t[1] * d) for c, d in zip([*last, Fraction(0)], [Fraction(0), *last], strict=True)]
        chebyshev.append([c - d for c, d in zip(raised, [*before, 0, 0], strict=True)])
    while len(a) > terms:
        near = chebyshev[len(a) - 1]
        a = [c - a[-1] / near[-1] * d for c, d in zip(a, near, strict=True)][:-1]
    return [float(c) for c in a]


def _beyond_one(p: Program, s: Value, times: int, down: bool = False) -> Value:
    """Returns (e^(times * s) - 1) / |times| = +-s + s^2 (...), for an s that `_reduced` returns."""
    f, half = p.arithmetic, math.log(2) / 2
    a = _polynomial(f.more_terms, 0.0, 2 * half) if down else _polynomial(f.terms, -half, half)
    scaled = [value * times**n / abs(times) for n, value in enumerate(a, start=2)]
    series = p.splat(scaled[-1])
    for value in reversed(scaled[:-1]):
        series = p.fma(series, s, value)
    return p.fma(series, s * s, s if times > 0 else -s)


def exp(p: Program, x: Value) -> Value:
    f = p.arithmetic
    largest = (f.bias + 1) * math.log(2)  # infinity from here up
    # 2^k is applied as two factors: a single one would overflow before exp(x) does, and could not be denormal.
    k, r = _reduced(p, clamp(p, x, -1.3 * largest, 1.1 * largest), 1)
    whole = ir.Constant(p.bit_vector, [f.bias] * p.width)
    mask = ir.Constant(p.bit_vector, [(1 << f.mantissa) - 1 >> 1] * p.width)
    b = p.builder
    exponent = b.sub(b.and_(k.ir, mask), whole)
    first = b.ashr(exponent, ir.Constant(p.bit_vector, [1] * p.width))
    second = b.sub(exponent, first)
    scale = [_power_of_two(p, Value(p, b.add(part, whole))) for part in (first, second)]
    return (_beyond_one(p, r, 1) + 1) * scale[0] * scale[1]


def sigmoid(p: Program, x: Value) -> Value:
    """Returns 1 / (1 + e^-x)."""
    zero = p.arithmetic.sigmoid_zero
    k, s = _reduced(p, clamp(p, x, zero, -zero), -1)
    y = p.splat(1.0).over(p.fma(_beyond_one(p, s, -1) + 1, _power_of_two(p, k), 1))
    return p.select(x < zero, 0.0, y)


def tanh(p: Program, x: Value) -> Value:
    """Returns sign(x) F / (F + 1), with F = (e^|2x| - 1) / 2 = 2^k (e^r - 1) / 2 + (2^k - 1) / 2.

    k is rounded down, so that r is not below -ln(2)/1000, and the two terms do not cancel.
    """
    f = p.arithmetic
    size = p.elementwise("fabs", x)
    k, s = _reduced(p, p.select(size > f.tanh_one, f.tanh_one, size), 2, down=True)
    scale = _power_of_two(p, k)
    half = p.fma(_beyond_one(p, s, 2, down=True), scale, p.fma(scale, p.splat(0.5), -0.5))
    return p.elementwise("copysign", half.over(half + 1), x)


def log(p: Program, x: Value) -> Value:
    """Returns log(x) = e ln 2 + 2 artanh(s), where x = 2^e m with m in [3/4, 3/2), and s = (m - 1)/(m + 1)."""
    f, b = p.arithmetic, p.builder

    def bits(value: int) -> ir.Constant:
        return ir.Constant(p.bit_vector, [value] * p.width)

    small = x < 2.0 ** (1 - f.bias)  # x is denormal; 2^(mantissa + 1) x is normal
    normal = p.select(small, x * 2.0 ** (f.mantissa + 1), x)
    word = b.bitcast(normal.ir, p.bit_vector)
    root = (f.bias << f.mantissa) - (1 << f.mantissa >> 1)  # the bits of 3/4, near sqrt(1/2)
    e = b.ashr(b.sub(word, bits(root)), bits(f.mantissa))
    m = Value(p, b.bitcast(b.sub(word, b.shl(e, bits(f.mantissa))), p.vector))
    count = Value(p, b.sitofp(e, p.vector)) - p.select(small, f.mantissa + 1.0, p.splat(0.0))
    s = (m - 1) / (m + 1)
    square = s * s
    series = p.splat(2 / f.odd)
    for n in range(f.odd - 2, 1, -2):
        series = p.fma(series, square, 2 / n)
    y = p.fma(count, p.splat(f.high), p.fma(count, p.splat(f.low), p.fma(series * square, s, s + s)))
    y = p.select(x.equals(0.0), -math.inf, y)
    y = p.select(x.equals(math.inf), math.inf, y)
    return p.select(x < 0.0, math.nan, p.select(x.equals(x), y, x))


def log1p(p: Program, x: Value) -> Value:
    """Returns log(1 + x). What rounding took from w = 1 + x is x - (w - 1), exactly, and is added to the logarithm."""
    w = x + 1
    y = log(p, w)
    inside = p.select(w > 0.0, w, math.inf)  # beyond it, the logarithm is infinite or NaN
    return p.select(inside < math.inf, y + (x - (w - 1)) / w, y)


def _series(p: Program, x: Value, coefficients: Sequence[float]) -> Value:
    """Returns c_0 + c_1 x + c_2 x^2 + ..."""
    y = p.splat(coefficients[-1])
    for c in reversed(coefficients[:-1]):
        y = p.fma(y, x, c)
    return y


def erf(p: Program, x: Value) -> Value:
    """Returns the Taylor series where |x| < 1, else sign(x) (1 - e^(-x^2) t q(t)), with t = 1 / (1 + 0.3 |x|)."""
    f = p.arithmetic
    size = p.elementwise("fabs", x)
    size = p.select(size > f.erf_one, f.erf_one, size)
    square = size * size
    terms = [(-1) ** n * 2 / math.sqrt(math.pi) / (math.factorial(n) * (2 * n + 1)) for n in range(f.erf_terms)]
    t = p.splat(1.0).over(p.fma(size, p.splat(0.3), 1.0))
    far = 1 - exp(p, -square) * (t * _series(p, t, f.erf_q))
    return p.elementwise("copysign", p.select(size < 1.0, size * _series(p, square, terms), far), x)


def relu(p: Program, x: Value) -> Value:
    return p.select(x <= 0.0, 0.0, x)


def clamp(p: Program, x: Value, low: float, high: float) -> Value:
    x = p.select(x < low, low, x)  # a NaN is not below `low`, and stays
    return p.select(x > high, high, x)


Emit = Callable[..., Value]

# How each operation in `elman.operations` is computed on vectors: name -> function that writes it into a program.
OPERATIONS: dict[str, Emit] = {
    "add": lambda p, a, b: a + b,
    "sub": lambda p, a, b: a - b,
    "mul": lambda p, a, b: a * b,
    "div": lambda p, a, b: a / b,
    "neg": lambda p, a: -a,
    "sigmoid": sigmoid,
    "tanh": tanh,
    "relu": relu,
    "exp": exp,
    "log": log,
    "log1p": log1p,
    "erf": erf,
    "sqrt": lambda p, a: p.elementwise("sqrt", a),
    "abs": lambda p, a: p.elementwise("fabs", a),
    "maximum": lambda p, a, b: p.elementwise("maximum", a, b),
    "minimum": lambda p, a, b: p.elementwise("minimum", a, b),
    "where_less": lambda p, a, b, x, y: p.select(a < b, x, y),
    "where_less_equal": lambda p, a, b, x, y: p.select(a <= b, x, y),
    "where_equal": lambda p, a, b, x, y: p.select(a.equals(b), x, y),
}
