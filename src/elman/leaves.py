"""What a step is given: the kinds of leaves its graph has, and the matrices it multiplies with.

A leaf, or a matrix, is a kind and a name: `x.i` is the leaf "x" named "i". In the derivative's graph the
adjoint of a leaf is the output of the same name, "x.i". A kind more is a line more in these tables.
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
    array: str  # that holds them; with {}, an array for each name, otherwise a slot for each, in order
    d_array: str  # the same for their adjoints
    rows: bool = True  # (B, width); False for (width,), the same in every row


LEAVES: dict[str, Leaf] = {
    "x": Leaf(lambda cell: cell.anatomy.input_gates, lambda cell, name: HIDDEN, "x", "d_x"),
    "s": Leaf(lambda cell: cell.states, width_of_state, "before.{}", "carry.{}"),
    "p": Leaf(lambda cell: cell.vectors, lambda cell, name: HIDDEN, "p", "d_p", rows=False),
}


class Matrix(NamedTuple):
    """A kind of matrices that a step multiplies with: `R.i @ v`."""

    names: Callable[[Cell], tuple[str, ...]]
    block: Callable[[Cell, str], int]  # which block of rows of the weight is the one of this name
    operand: Callable[[Cell], str]  # width of what is multiplied
    result: str  # width
    weight: str  # field of `layout.Weights`
    bias: str | None


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
