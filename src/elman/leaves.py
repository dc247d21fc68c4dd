"""What a step is given: the kinds of leaves in its graph, and the kinds of matrices that it multiplies with.

A leaf, or a matrix, has a kind and a name: `x.i` is the leaf of kind "x" with the name "i". The adjoint of this leaf is
the output "x.i" of the derivative's graph. To add a kind, add a line to these tables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from elman.cell import Cell

HIDDEN, PROJECTED = "hidden", "projected"  # the widths a value may have: hidden_size and proj_size


def width_of_state(cell: Cell, state: str) -> str:
    return PROJECTED if state in cell.projected else HIDDEN


class Leaf(NamedTuple):
    """A kind of values that a step is given."""

    names: Callable[[Cell], tuple[str, ...]]
    width: Callable[[Cell, str], str]
    array: str  # the array that holds them: one for each name if it contains {}, else one with a slot for each name
    d_array: str  # the array that holds their adjoints, named in the same way
    rows: bool = True  # True: (B, width). False: (width,), shared by the rows of the batch


LEAVES: dict[str, Leaf] = {
    "x": Leaf(lambda cell: cell.anatomy.input_gates, lambda cell, name: HIDDEN, "x", "d_x"),
    "s": Leaf(lambda cell: cell.states, width_of_state, "before.{}", "carry.{}"),
    "u": Leaf(lambda cell: cell.streams, lambda cell, name: HIDDEN, "u.{}", "d_u.{}"),
    "p": Leaf(lambda cell: cell.vectors, lambda cell, name: HIDDEN, "p", "d_p", rows=False),
}


class Matrix(NamedTuple):
    """A kind of matrices that a step multiplies with: `R.i @ v`."""

    names: Callable[[Cell], tuple[str, ...]]
    block: Callable[[Cell, str], int]  # the number of the block of rows that belongs to a name
    operand: Callable[[Cell], str]  # the width of the operand
    result: str  # the width of the product
    weight: str  # a field of `layout.Weights`
    bias: str | None  # a field of `layout.Weights`, or None


MATRICES: dict[str, Matrix] = {
    "R": Matrix(
        lambda cell: cell.gates,
        lambda cell, name: cell.anatomy.recurrent_gates.index(name),
        operand=lambda cell: width_of_state(cell, cell.states[0]),
        result=HIDDEN,
        weight="hh",
        bias="b_hh",
    ),
    "P": Matrix(
        lambda cell: cell.projected,
        lambda cell, name: 0,  # all projected states share the matrix
        operand=lambda cell: HIDDEN,
        result=PROJECTED,
        weight="hr",
        bias=None,
    ),
}
