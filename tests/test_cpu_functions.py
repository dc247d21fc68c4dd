"""The elementary functions on vectors: error in units in the last place, over the whole range."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from elman import operations
from elman.cpu.codegen import functions, llvm
from elman.cpu.codegen.formats import FLOAT32, FLOAT64
from elman.cpu.codegen.program import INT, POINTER, Program
from elman.gpu import source

Numbers = NDArray[Any]
FORMATS = {"float32": np.float32, "float64": np.float64}
OF_NAME = {each.name: each for each in (FLOAT32, FLOAT64)}
formats = pytest.mark.parametrize("form", FORMATS)


@cache
def compiled(name: str, arguments: int, form: str) -> Callable[..., None]:
    """out[i] = function(a[i], b[i]) for i < n, a whole number of vectors."""
    lanes = OF_NAME[form].lanes
    sources = [f"in{k}" for k in range(arguments)]
    given: dict[str, Any] = {**dict.fromkeys(sources, POINTER), "out": POINTER, "n": INT}
    p = Program(llvm.new_module(name), name, given, OF_NAME[form])
    with p.loop(0, p.given["n"], lanes) as k:
        values = [p.load(p.given[source], k) for source in sources]
        p.store(functions.OPERATIONS[name](p, *values), p.given["out"], k)
    p.done()
    kinds = [ctypes.c_int64 if kind == INT else ctypes.c_void_p for kind in given.values()]
    return ctypes.CFUNCTYPE(None, *kinds)(llvm.load(llvm.machine_code(p.module), [name])[0])


def apply(name: str, *arguments: Numbers) -> Numbers:
    form = arguments[0].dtype
    lanes = OF_NAME[form.name].lanes
    count = arguments[0].size
    padded = [np.resize(a, -(-count // lanes) * lanes) for a in arguments]
    out = np.full_like(padded[0], np.nan)
    compiled(name, len(arguments), form.name)(*(a.ctypes.data for a in [*padded, out]), padded[0].size)
    return out[:count]


def spread(form: str, seed: int = 0, count: int = 200_000) -> Numbers:
    """Every exponent of both signs, denormals among them: random bit patterns without infinities and NaN."""
    bits = {"float32": np.uint32, "float64": np.uint64}[form]
    words = np.random.default_rng(seed).integers(0, np.iinfo(bits).max, count, dtype=bits, endpoint=True)
    numbers = words.view(form)
    return numbers[np.isfinite(numbers)]


def ordinary(form: str, low: float, high: float, seed: int = 1, count: int = 200_000) -> Numbers:
    return np.random.default_rng(seed).uniform(low, high, count).astype(form)


def in_units(found: Numbers, exact: NDArray[np.longdouble]) -> float:
    """The largest error in units in the last place of the exact value; infinity where only one is finite."""
    form = found.dtype
    info = np.finfo(form)
    with np.errstate(over="ignore"):
        rounded = exact.astype(form)
    alike = (rounded == found) | (np.isnan(rounded) & np.isnan(found))
    size = np.maximum(np.abs(exact), np.longdouble(info.tiny))
    unit = np.ldexp(np.longdouble(1), np.frexp(size)[1] - 1 - info.nmant)
    # What would round to infinity is half a unit beyond the largest number, and so an error like any other.
    value = np.where(np.isinf(found), np.copysign(np.ldexp(np.longdouble(1), info.maxexp), found), found)
    with np.errstate(invalid="ignore"):
        error = np.where(alike, 0, np.abs(value.astype(np.longdouble) - exact) / unit)
    return float(np.where(np.isnan(error), np.inf, error).max())


def exact_sigmoid(x: NDArray[np.longdouble]) -> NDArray[np.longdouble]:
    with np.errstate(over="ignore", under="ignore"):
        return 1 / (1 + np.exp(-x))  # pyright: ignore[reportReturnType]


def exact_erf(x: NDArray[np.longdouble]) -> NDArray[np.longdouble]:
    """The Taylor series up to 3/2, whose terms there lose one digit in twenty; beyond, Laplace's continued fraction."""
    size = np.minimum(np.abs(x), np.longdouble(7))
    square, near, term = size * size, np.zeros_like(size), np.minimum(size, np.longdouble(1.5))
    for n in range(40):
        near = near + term / (2 * n + 1)
        term = -term * np.minimum(square, np.longdouble(2.25)) / (n + 1)
    below = size
    for n in range(120, 0, -1):
        below = size + np.longdouble(n) / 2 / np.maximum(below, np.longdouble(1))
    root = np.sqrt(np.longdouble(np.arccos(np.longdouble(-1))))
    y = np.where(size < 1.5, near * 2 / root, 1 - np.exp(-square) / np.maximum(below, np.longdouble(1)) / root)
    return np.copysign(y, x)  # pyright: ignore[reportReturnType]


# Function: exactly, on extended precision; the bound in units.
BOUNDS: dict[str, tuple[Callable[..., Any], float]] = {
    "exp": (np.exp, 1.1),
    "sigmoid": (exact_sigmoid, 2.3),
    "tanh": (np.tanh, 2.4),
    "log": (np.log, 2.1),
    "log1p": (np.log1p, 2.6),
    "erf": (exact_erf, 2.5),
    "sqrt": (np.sqrt, 0.51),
}


def arguments(name: str, form: str) -> Numbers:
    """Bit patterns, and as many numbers again where the function does something."""
    large = 1.2 * math.log(float(np.finfo(form).max))
    x = np.concatenate([spread(form), ordinary(form, -1, 1), ordinary(form, -20, 20), ordinary(form, -large, large)])
    x = x[::10] if name == "erf" else x  # of which the exact value takes long
    return np.abs(x) if name in ("log", "log1p", "sqrt") else x


@formats
@pytest.mark.parametrize("name", BOUNDS)
def test_error_in_units_in_the_last_place(name: str, form: str) -> None:
    exactly, bound = BOUNDS[name]
    x = arguments(name, form)
    with np.errstate(over="ignore", under="ignore", divide="ignore"):
        exact = exactly(x.astype(np.longdouble))
    found = apply(name, x)
    if name == "sigmoid":  # below the smallest normal number it may be zero
        flushed = (found == 0) & (exact < np.finfo(form).tiny)
        found, exact = found[~flushed], exact[~flushed]
    assert in_units(found, exact) <= bound


@formats
@pytest.mark.parametrize("name", ["exp", "sigmoid", "tanh"])
def test_never_leaves_its_range_nor_turns_back(name: str, form: str) -> None:
    x = np.sort(arguments(name, form))
    y = apply(name, x)
    low, high = {"exp": (0, np.inf), "sigmoid": (0, 1), "tanh": (-1, 1)}[name]
    assert y.min() == low
    assert y.max() == high
    y = y[np.isfinite(y)]
    back = np.maximum.accumulate(y) - y  # by its error, no further
    assert (back <= 6 * np.spacing(np.maximum(np.abs(y), np.finfo(form).tiny))).all()


@formats
def test_tanh_is_odd_to_the_bit(form: str) -> None:
    x = arguments("tanh", form)
    assert np.array_equal(apply("tanh", -x), -apply("tanh", x))


def special(form: str) -> Numbers:
    info = np.finfo(form)
    tiny = [info.tiny, info.smallest_subnormal]
    return np.array([0, np.inf, info.max, *tiny, 1, np.nan, -0.0, -np.inf, info.min, *(-t for t in tiny), -1], form)


def identical(found: Numbers, wanted: Any) -> None:
    """Equal, NaN where NaN, and the same sign of zero."""
    wanted = np.asarray(wanted, found.dtype)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(np.signbit(found[found == 0]), np.signbit(wanted[found == 0]))


@formats
def test_special_values(form: str) -> None:
    x = special(form)
    info = np.finfo(form)
    with np.errstate(all="ignore"):
        identical(apply("exp", x)[[0, 1, 2, 3, 6, 7, 8, 9]], [1, np.inf, np.inf, 1, np.nan, 1, 0, 0])
        identical(apply("tanh", x)[[0, 1, 2, 3, 4, 6]], [0, 1, 1, info.tiny, info.smallest_subnormal, np.nan])
        identical(apply("tanh", x)[7:], -apply("tanh", x)[[0, 1, 2, 3, 4, 5]])
        identical(apply("sigmoid", x)[[0, 1, 2, 3, 6, 7, 8, 9]], [0.5, 1, 1, 0.5, np.nan, 0.5, 0, 0])
        identical(apply("log", x)[[0, 1, 5, 6, 7, 8, 12]], [-np.inf, np.inf, 0, np.nan, -np.inf, np.nan, np.nan])
        identical(apply("sqrt", x), np.sqrt(x))
        identical(apply("relu", x), np.where(np.isnan(x), x, np.where(x > 0, x, 0)))
        identical(apply("abs", x), np.abs(x))
        identical(apply("neg", x), -x)
        identical(apply("erf", x)[[0, 1, 2, 6, 7, 8, 9]], [0, 1, 1, np.nan, -0.0, -1, -1])
        identical(apply("log1p", x)[[0, 1, 3, 6, 8, 9, 12]], [0, np.inf, info.tiny, np.nan, np.nan, np.nan, -np.inf])
        below = np.linspace(-0.9, 0, 1000).astype(form)
        assert in_units(apply("log1p", below), np.log1p(below.astype(np.longdouble))) <= 2.6


@formats
def test_pairs(form: str) -> None:
    """Arithmetic is that of the processor; the larger and the smaller number pass a NaN on."""
    a, b = spread(form, 2), spread(form, 3)
    count = min(a.size, b.size)
    edge = np.array(np.meshgrid(special(form), special(form))).reshape(2, -1)
    a, b = np.concatenate([a[:count], edge[0]]), np.concatenate([b[:count], edge[1]])
    with np.errstate(all="ignore"):
        identical(apply("add", a, b), a + b)
        identical(apply("sub", a, b), a - b)
        identical(apply("mul", a, b), a * b)
        identical(apply("div", a, b), a / b)
        np.testing.assert_array_equal(apply("maximum", a, b), np.maximum(a, b))
        np.testing.assert_array_equal(apply("minimum", a, b), np.minimum(a, b))
        x, y = np.full_like(a, 3), np.full_like(a, np.inf)
        identical(apply("where_less", a, b, x, y), np.where(a < b, x, y))
        identical(apply("where_less_equal", a, b, x, y), np.where(a <= b, x, y))
        identical(apply("where_equal", a, b, x, y), np.where(a == b, x, y))


@formats
def test_a_number_does_not_depend_on_its_neighbours(form: str) -> None:
    x = ordinary(form, -20, 20, count=64)
    for name in ("exp", "sigmoid", "tanh"):
        alone = np.array([apply(name, np.array([value, np.nan, -value], form))[0] for value in x])
        assert np.array_equal(apply(name, x), alone)


def test_every_operation_of_a_graph_is_there() -> None:
    elementwise = {name for name, operation in operations.OPERATIONS.items() if not operation.whole_row}
    assert set(functions.OPERATIONS) == set(source.OPERATIONS) == elementwise
