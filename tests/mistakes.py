"""What people write by mistake in a cell of their own, and the sentence that each of them gets.

`docs/make_mistakes.py` makes a page of this list, and `test_mistakes.py` makes every mistake.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import elman

GOOD = {  # the minimal gated unit, line by line; a mistake replaces one of them
    "step": "def mine(x, R, s):",
    "f": "f = torch.sigmoid(x.f + R.f @ s.h)",
    "n": "n = torch.tanh(x.n + R.n @ (f * s.h))",
    "return": "return elman.State(h=(1 - f) * s.h + f * n)",
    "cell": 'elman.Cell(mine, gates=("f", "n"))',
}


class Slip(NamedTuple):
    """One mistake in a cell."""

    place: str  # the line of GOOD that it replaces
    line: str
    sentence: str
    before: str = ""  # a line outside the step, before it

    def cell(self) -> elman.Cell:
        """The cell with the mistake."""
        lines = GOOD | {self.place: self.line}
        body = [f"    {lines[name]}" for name in ("f", "n", "return") if lines[name]]
        room: dict[str, Any] = {
            "elman": elman,
            "functional": functional,
            "math": math,
            "nn": nn,
            "np": np,
            "torch": torch,
        }
        exec("\n".join([self.before, lines["step"], *body, f"cell = {lines['cell']}"]), room)
        return room["cell"]

    def said(self) -> str:
        """What is said to somebody who makes the mistake: an error, or a warning in the first call of a layer."""
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                of = elman.Recurrent(self.cell(), 3, 4)
                of(torch.ones(2, 5, 3))
            except (TypeError, ValueError, RuntimeError) as error:
                return f"{type(error).__name__}: {error}"
        return "\n".join(f"{each.category.__name__}: {each.message}" for each in warned) or "nothing"


SLOW = "SlowCellWarning: cell 'mine' runs in plain PyTorch, many times slower than as kernels: the step "

SLIPS = [
    Slip(
        "n",
        "n = torch.tanh(x.n + R.n * s.h)",
        "TypeError: cell 'mine': R.n is a matrix, and stands on the left of @; write R.n @ v, such as R.n @ s.h",
    ),
    Slip(
        "n",
        "n = torch.tanh(x.n + s.h @ R.n)",
        "TypeError: cell 'mine': R.n is a matrix, and stands on the left of @; write R.n @ v, such as R.n @ s.h",
    ),
    Slip(
        "n",
        "n = torch.tanh(x.n + R.n)",
        "TypeError: cell 'mine': R.n is a matrix, and stands on the left of @; write R.n @ v, such as R.n @ s.h",
    ),
    Slip(
        "n",
        "n = torch.tanh(x.n + R @ s.h)",
        "TypeError: cell 'mine': R alone is no value: it holds the gates by name; write R.f @ v",
    ),
    Slip(
        "n",
        "n = torch.tanh(x + R.n @ s.h)",
        "TypeError: cell 'mine': x alone is no value: it holds the gates by name; write x.f",
    ),
    Slip(
        "n",
        "n = torch.tanh(x.n + R.n @ s)",
        "TypeError: cell 'mine': s alone is no value: it holds the states by name; write s.h",
    ),
    Slip(
        "n",
        "n = torch.tanh(x.n + R.n @ R.f @ s.h)",
        "TypeError: cell 'mine': R.f is a matrix, and stands on the left of @; write R.f @ v, such as R.f @ s.h",
    ),
    Slip(
        "n",
        "n = torch.tanh(x.n + R.n @ 0.5)",
        "TypeError: cell 'mine': R.n multiplies a float; write R.n @ v, such as R.n @ s.h",
    ),
    Slip(
        "n",
        "n = torch.tanh(x.m + R.n @ s.h)",
        "ValueError: cell 'mine': the step reads x.m, which the cell does not declare; add 'm' to gates, or read one of f, n",
    ),
    Slip(
        "n",
        "n = torch.tanh(x.n + R.n @ s.c)",
        "ValueError: cell 'mine': the step reads s.c, which the cell does not declare; add 'c' to states, or read one of h",
    ),
    Slip(
        "n",
        "n = torch.tanh(x['n'] + R.n @ s.h)",
        "TypeError: cell 'mine': x alone is no value: it holds the gates by name; write x.f",
    ),
    Slip(
        "step",
        "def mine(x, R, state):",
        "TypeError: cell 'mine' asks for ['state']; a step takes arguments named x, R, s, p, P, u",
    ),
    Slip(
        "cell",
        'elman.Cell(mine, gates="fn")',
        "TypeError: cell 'mine': gates must be a tuple of names, got 'fn': write gates=('fn',) for one",
    ),
    Slip(
        "cell",
        'elman.Cell(mine, gates=("f", "n", "o"))',
        "ValueError: cell 'mine' declares the gates ['o'] but its step uses neither x.g nor R.g of them; leave them out of gates",
    ),
    Slip(
        "cell",
        'elman.Cell("mine", gates=("f", "n"))',
        "TypeError: the step of a cell is a function of x, R and s, got 'mine'; give the function itself",
    ),
    Slip(
        "cell",
        'elman.Cell(mine, gates=("f", "n"), states=("h", "c"))',
        "ValueError: cell 'mine' declares the states ('h', 'c') but its step returns ('h',); end it with return State(h=..., c=...)",
    ),
    Slip(
        "return",
        "return (1 - f) * s.h + f * n",
        "ValueError: cell 'mine' declares the states ('h',) but its step returns a Tensor; end it with return State(h=...)",
    ),
    Slip(
        "return",
        "return n, f",
        "ValueError: cell 'mine' declares the states ('h',) but its step returns a tuple; end it with return State(h=...)",
    ),
    Slip(
        "return",
        "return {'h': n}",
        "ValueError: cell 'mine' declares the states ('h',) but its step returns a dict; end it with return State(h=...)",
    ),
    Slip(
        "return",
        "h = (1 - f) * s.h + f * n",
        "ValueError: cell 'mine' declares the states ('h',) but its step returns nothing; end it with return State(h=...)",
    ),
    Slip(
        "return",
        "return elman.State((1 - f) * s.h + f * n)",
        "TypeError: cell 'mine': a State has names; write State(h=v), with the name of each state",
    ),
    Slip(
        "return",
        "return elman.State(c=n)",
        "ValueError: cell 'mine' declares the states ('h',) but its step returns ('c',); end it with return State(h=...)",
    ),
    Slip(
        "return",
        "return elman.State(h=0.5)",
        "TypeError: cell 'mine': the step returns a float as the state h; a new state is made of what the step is given",
    ),
    Slip(
        "n",
        "n = torch.tanh(x.n) if x.n > 0 else x.n",
        "TypeError: cell 'mine': the step decides on a value (if, while, and, or); write torch.where(condition, v, w)",
    ),
    Slip(
        "n",
        "n = torch.tanh(x.n + w * s.h)",
        "TypeError: cell 'mine': the step uses a learned tensor from outside; declare vectors=('v',) and read p.v, which has one weight for a unit",
        "w = nn.Parameter(torch.ones(4))",
    ),
    Slip(
        "n",
        "n = torch.tanh(x.n + w * s.h)",
        "TypeError: cell 'mine': the step uses a tensor of shape (4,) from outside; write it as a plain number, or declare vectors=('v',) and read p.v",
        "w = torch.ones(4)",
    ),
    Slip(
        "n",
        "n = torch.tanh(x.n + w * s.h)",
        "RuntimeError: cell 'mine': the step works on one sequence of two units, but fails on the state h (5, 4): The size of tensor a (2) must match the size of tensor b (4) at non-singleton dimension 1; what it takes from outside must fit any number of sequences and units, as vectors and p do; means and sums over units keep their dimension (keepdim=True)",
        "w = torch.ones(2)",
    ),
    Slip(
        "n",
        "n = torch.tanh(x.n + w * s.h)",
        SLOW + "uses a Tensor from outside; write it as a plain number, or declare vectors=('v',) and read p.v",
        "w = torch.tensor(0.5)",
    ),
    Slip(
        "n",
        "n = torch.tanh(linear(s.h))",
        "TypeError: cell 'mine': the step calls linear; a product is written R.n @ v, with a gate for its matrix",
        "linear = nn.Linear(4, 4)",
    ),
    Slip(
        "n",
        "n = math.tanh(x.n)",
        "TypeError: cell 'mine': the step calls float(); a step works on whole tensors: write torch's function of the value, such as torch.tanh(v)",
    ),
    Slip(
        "n",
        "n = np.tanh(x.n)",
        "TypeError: cell 'mine': the step calls a function of numpy; a step works on whole tensors: write torch's function of the value, such as torch.tanh(v)",
    ),
    Slip(
        "n",
        "n = torch.tanh(x.n * s.h.mean().item())",
        "TypeError: cell 'mine': the step calls item; a step works on whole tensors: write torch's function of the value, such as torch.tanh(v)",
    ),
    Slip("n", "n = s.h; n += x.n", "TypeError: cell 'mine': the step changes s.h in place; write v = s.h + w"),
    Slip(
        "n",
        "s.h = torch.tanh(x.n); n = s.h",
        "TypeError: cell 'mine': the step writes to s.h; give the new value a name, and return it in State(h=...)",
    ),
    Slip("n", "n = x.n.add_(R.n @ s.h)", "TypeError: cell 'mine': the step changes x.n in place; write v = x.n + w"),
    Slip(
        "n",
        "n = torch.tanh(x.n, out=x.n)",
        "TypeError: cell 'mine': the step calls tanh with out=; a step changes no value in place: write v = v + w, or a new name",
    ),
    Slip(
        "n",
        "n = torch.tanh(x.n).add_(s.h)",
        SLOW
        + "asks a value for .add_, which a graph does not know; a step changes no value in place: write v = v + w, or a new name",
    ),
    Slip(
        "n",
        "n = torch.tanh(R.n @ torch.cat([x.n, s.h], -1))",
        "TypeError: cell 'mine': R.n multiplies a value of another width, (1, 4) for two units; values are not put side by side: give each its own gate, and add R.f @ v and R.n @ w",
    ),
    Slip(
        "n",
        "i, f, n, o = (x.n + R.n @ s.h).chunk(4, -1)",
        "TypeError: cell 'mine': the step fails on one sequence of two units: ValueError: not enough values to unpack (expected 4, got 2); gates are not cut out of larger values: declare a gate for each, and write x.f and x.n",
    ),
    Slip(
        "n",
        "n = torch.matmul(x.n, s.h)",
        "TypeError: cell 'mine': the step calls matmul; a product is written R.n @ v, with a gate for its matrix",
    ),
    Slip(
        "n",
        "n = torch.softmax(x.n + R.n @ s.h, -1)",
        SLOW
        + "calls softmax, which a graph does not know; write torch.exp(v) / torch.exp(v).sum(-1, keepdim=True), over all units of a row",
    ),
    Slip(
        "n",
        "n = x.n - x.n.mean()",
        SLOW
        + "calls mean in a way that a graph does not know: write v.mean(-1, keepdim=True), over all units of a row",
    ),
    Slip(
        "n",
        "n = torch.tanh(x.n - x.n.amax(-1, keepdim=True))",
        SLOW
        + "asks a value for .amax, which a graph does not know; a step works unit by unit, and only products, means and sums read other units",
    ),
    Slip(
        "n",
        "n = functional.normalize(x.n + R.n @ s.h, dim=-1)",
        SLOW
        + "calls normalize with p, dim, eps, which a graph does not know; write v / torch.sqrt(v.square().sum(-1, keepdim=True) + 1e-12), over all units of a row",
    ),
    Slip(
        "n",
        "n = x.n - x.n.mean(axis=-1, keepdims=True)",
        SLOW
        + "calls mean in a way that a graph does not know: write v.mean(-1, keepdim=True), over all units of a row",
    ),
    Slip(
        "n",
        "n = torch.tanh(x.n + R.n @ s.h.mean(-1, keepdim=True))",
        "TypeError: cell 'mine': R.n multiplies a value of another width, (1, 1) for two units; a mean or sum alone has no units, so add 0 * v of a value v that has them",
    ),
    Slip(
        "n",
        "n = functional.layer_norm(x.n, x.n.shape[-1:], s.h)",
        "TypeError: cell 'mine': the step calls layer_norm; write layer_norm(v, v.shape[-1:]), over all units of a row, with weights for each unit, such as p.v",
    ),
    Slip(
        "n",
        "n = torch.nn.functional.layer_norm(x.n, [x.n.shape[-1]])",
        SLOW
        + "asks for the shape of a value, which a graph does not know; write v.mean(-1, keepdim=True), or layer_norm(v, v.shape[-1:])",
    ),
    Slip(
        "n",
        "n = x.n[:, :1] + s.h",
        SLOW
        + "applies [] to a value, which a graph does not know; gates are not cut out of larger values: declare a gate for each, and write x.f and x.n",
    ),
    Slip(
        "n",
        "n = functional.dropout(torch.tanh(x.n), 0.1)",
        "TypeError: cell 'mine': the step calls dropout; a step has no randomness, since backward runs it again: take dropout= or recurrent_dropout= of the layer, or give random values as a stream",
    ),
    Slip(
        "n",
        "n = x.n + 0.1 * torch.randn_like(s.h)",
        "TypeError: cell 'mine': the step calls randn_like; a step has no randomness, since backward runs it again: take dropout= or recurrent_dropout= of the layer, or give random values as a stream",
    ),
    Slip(
        "n",
        "n = torch.tanh(x.n + R.n @ s.h.detach())",
        SLOW
        + "asks a value for .detach, which a graph does not know; a step is differentiated as it is written: cut gradients between calls, with elman.detach",
    ),
    Slip(
        "n",
        "n = torch.maximum(x.n, 0.5)",
        "TypeError: cell 'mine': the step fails on one sequence of two units: TypeError: maximum(): argument 'other' (position 2) must be Tensor, not float; to bound a value by a number, write torch.clamp(v, min=0.5)",
    ),
    Slip(
        "n",
        "n = torch.clamp(x.n, -1e300, 1e300)",
        "TypeError: cell 'mine': the step calls clamp with -1e+300, but float32 ends at 3.4e+38; write -math.inf",
    ),
    Slip(
        "n",
        "n = torch.where(x.f > 0, x.n, 1e39)",
        "TypeError: cell 'mine': the step calls where with 1e+39, but float32 ends at 3.4e+38; write math.inf",
    ),
    Slip(
        "n",
        "n = torch.where(x.n, x.n, s.h)",
        "TypeError: cell 'mine': the step calls where; write torch.where(v > 0, v, w), with a comparison first",
    ),
    Slip(
        "n",
        "n = x.n ** 2.5",
        SLOW
        + "calls pow in a way that a graph does not know: a power is a whole number from 1 to 8, 0.5, or minus one of these; for others, of values above 0, write torch.exp(n * torch.log(v))",
    ),
    Slip(
        "n",
        "n = torch.sin(x.n)",
        SLOW
        + "calls sin, which a graph does not know; it knows add, sub, mul, div, neg, sigmoid, tanh, relu, exp, log, log1p, erf, sqrt, abs, maximum, minimum, where, clamp, pow, square, rsqrt, expm1, sign, positive, lerp, softplus, silu, gelu, elu, leaky_relu, logsigmoid, hardsigmoid, hardtanh, mean, sum, var, std, layer_norm, rms_norm, lt, le, gt, ge, eq, ne, logical_and, logical_or, logical_xor, logical_not",
    ),
    Slip(
        "n",
        "n = torch.tanh(x.n).clamp(min=s.h)",
        SLOW
        + "calls clamp in a way that a graph does not know: clamp takes plain numbers; write torch.maximum or torch.minimum to bound by a value",
    ),
    Slip(
        "n",
        "print(f'{x.n:.2f}'); n = x.n",
        "TypeError: cell 'mine': the step calls format(); elman.trace shows values by name",
    ),
    Slip(
        "n",
        "n = torch.tanh(x.n + R.n @ s.h).shpae",
        "TypeError: cell 'mine': the step fails on one sequence of two units: AttributeError: 'Tensor' object has no attribute 'shpae'",
    ),
]
