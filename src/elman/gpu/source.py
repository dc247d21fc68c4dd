"""Triton's source for the operations of a graph, and modules made from source at run time.

Triton reads the text of a kernel and not its bytecode. So the text of a module is put where `inspect` finds it. Equal
text gets an equal name in every process, so that Triton finds on disk what it compiled before.
"""

from __future__ import annotations

import hashlib
import linecache
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

from elman.graph import Node, Value, walk

# The series of tanh(x) / x in powers of x^2. Eleven terms are exact to 3e-18 for |x| below 1/4, six terms to 3e-10.
_TANH = (1, -1 / 3, 2 / 15, -17 / 315, 62 / 2835, -1382 / 155925, 21844 / 6081075, -929569 / 638512875)
_TANH += (6404582 / 10854718875, -443861162 / 1856156927625, 18888466084 / 194896477400625)


def _series(terms: int) -> list[str]:
    """Returns the lines that compute `p`, the first terms of the series, from s = x^2. Numbers have the type of x."""
    first, *others = reversed(_TANH[:terms])
    return [f"p = tl.full((), {first!r}, x.dtype)", *(f"p = p * s + tl.full((), {c!r}, x.dtype)" for c in others)]


_NEAR = "\n        ".join(_series(6)), "\n        ".join(_series(11))

# What every module of kernels begins with. x has the type in which kernels compute: float32, or float64.
HEADER = f"""\
import triton
import triton.language as tl


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def tanh(x):
    a = tl.abs(x)
    s = a * a
    if x.dtype == tl.float32:
        {_NEAR[0]}
    else:
        {_NEAR[1]}
    far = 1.0 - 2.0 / (tl.exp(2.0 * a) + 1.0)  # near zero it would lose its digits
    y = tl.where(a < 0.25, a * p, far)
    return tl.where(x < 0, -y, y)


@triton.jit
def log1p(x):
    w = 1.0 + x
    lost = (x - (w - 1.0)) / w  # what rounding took from w
    return tl.where((w > 0) & (w < float("inf")), tl.log(w) + lost, tl.log(w))
"""

OPERATIONS = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "neg": "-{0}",
    "sigmoid": "sigmoid({0})",
    "tanh": "tanh({0})",
    "relu": "tl.where({0} <= 0, 0.0, {0})",  # so that NaN stays NaN
    "exp": "tl.exp({0})",
    "log": "tl.log({0})",
    "log1p": "log1p({0})",
    "erf": "tl.erf({0})",
    "sqrt": "tl.sqrt({0})",
    "abs": "tl.abs({0})",
    "maximum": "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "minimum": "tl.minimum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "where_less": "tl.where({0} < {1}, {2}, {3})",
    "where_less_equal": "tl.where({0} <= {1}, {2}, {3})",
    "where_equal": "tl.where({0} == {1}, {2}, {3})",
}


def value_lines(nodes: Sequence[Node], read: Callable[[Node], str], put: Callable[[str], None]) -> Value:
    """Returns a function that gives the name of a node's value, after `put` has added the lines that compute it.

    nodes: those that this kernel computes. read(node): the expression for any other node.
    """

    def named(node: Node, expression: str) -> str:
        if expression != f"v{node.index}":
            put(f"v{node.index} = {expression}")
        return f"v{node.index}"

    def compute(node: Node, value: Value) -> str:
        return named(node, OPERATIONS[node.op].format(*map(value, node.arguments)))

    def constant_or_read(node: Node) -> str:
        # A bare number would be a float32, also among float64.
        return named(node, f'tl.full((), float("{node.value!r}"), WIDE)' if node.op == "number" else read(node))

    return walk(nodes, compute, constant_or_read)


_modules: dict[str, ModuleType] = {}


def module_from(source: str, about: str) -> ModuleType:
    """Returns the module with this source. about: a few words that name it in error messages."""
    if source not in _modules:
        digest = hashlib.sha256(source.encode()).hexdigest()[:16]
        file = f"<elman {about} {digest}>"
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        module = ModuleType(f"elman_gpu_{digest}")
        module.__file__ = file
        sys.modules[module.__name__] = module
        exec(compile(source, file, "exec"), module.__dict__)
        _modules[source] = module
    return _modules[source]
