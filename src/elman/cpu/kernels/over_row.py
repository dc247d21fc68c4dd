"""The kernels of operations over all units of a row: the sum and the mean."""

from __future__ import annotations

from elman.cpu.codegen import code_cache, llvm
from elman.cpu.codegen.formats import Format
from elman.cpu.codegen.program import INT, POINTER, Program, Value

AT_ONCE = 4  # vectors that are added side by side, so that one addition does not wait for the one before it

# The arguments of a kernel, which computes out[r][v][lane] = sum over units of A[r, unit], or the mean, for every v and
# lane. Distances are in numbers. "Aligned to a number" is as for `TILE` (product.py).
#   A        (rows, units), address of row 0; read; must not overlap out; any alignment
#   A_row    numbers from one row of A to the next
#   rows     number of rows
#   units    numbers in a row, at least 1
#   out      (rows, vectors, lanes); written; must not overlap A; aligned to a number
#   vectors  vectors to write for each row
OVER_ROW = {"A": POINTER, "A_row": INT, "rows": INT, "units": INT, "out": POINTER, "vectors": INT}


@code_cache.function
def over_row(form: Format, op: str) -> Program:
    """Returns the address of the kernel of an operation over rows, "sum" or "mean". `OVER_ROW` describes its arguments.

    A row is summed in the same order wherever it lies, so that every tile of the row has the same result to the bit.
    """
    p = Program(llvm.new_module(op), op, OVER_ROW, form)
    given, lanes = p.given, p.lanes
    units, vectors = given["units"], given["vectors"]
    with p.loop(0, given["rows"]) as r:
        row = p.at(given["A"], r * given["A_row"])
        whole = p.whole(units, AT_ONCE * lanes)
        four = p.loop_carrying(0, whole, AT_ONCE * lanes, *[p.splat(0.0)] * AT_ONCE)
        a, b, c, d = four.end([each + p.load(row, four.index + k * lanes) for k, each in enumerate(four.carried)])
        rest = p.loop_carrying(whole, units, lanes, (a + b) + (c + d))
        (total,) = rest.end([rest.carried[0] + p.load(row, rest.index, p.first_lanes(units - rest.index))])
        result = _in_every_lane(p, total)
        if op == "mean":
            result = result / p.number(units)
        with p.loop(0, vectors) as v:
            p.store(result, given["out"], (r * vectors + v) * lanes)
    return p


def _in_every_lane(p: Program, vector: Value) -> Value:
    """Returns a vector that has in every lane the sum of all lanes of this one."""
    distance = p.lanes // 2
    while distance:
        vector = vector + p.shuffle(vector, vector, [lane ^ distance for lane in range(p.lanes)])
        distance //= 2
    return vector
