"""The arrays that kernels work on, by name: what each array holds and how it is laid out.

An array holds all T steps or the present step only, for B rows of the batch. A row has one slot or several slots
beside each other. The width of a slot is H units, or proj_size for a projected value.

    x              the input's share of every gate, a slot for each; forward overwrites shares it has read with
                   values it keeps
    extra          the other values that forward keeps: what backward reads, and computed operands of products
    s.NAME         the state NAME after every step
    before.NAME    the state NAME before every step
    u.NAME         the stream NAME in every step
    p              the per-unit weights, a slot for each
    d_x            the adjoints of the input's shares
    d_u.NAME       the adjoints of the stream NAME
    d_extra        the adjoints of products that differ from the adjoint of every input share
    d_out          the cotangent of the output
    d_p            the adjoints of the per-unit weights for every row, added up over the steps
    carry.NAME     the adjoint of the state NAME, handed from step to step
    memory         values that a later phase of the same step reads

The slots of extra, d_extra and memory are H units wide. Projected values lie in arrays of their own, whose slots are
proj_size wide: extra.projected, d_extra.projected and memory.projected.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from elman.cell import Cell
from elman.leaves import HIDDEN, width_of_state

Width = Callable[[Cell, str], str]
_by_name: Width = lambda cell, name: name or HIDDEN  # noqa: E731


class Kind(NamedTuple):
    """The layout of the arrays whose names begin alike: the kind of "s.h" is ARRAYS["s"]."""

    steps: bool  # True: the array holds every step; False: the present step only
    width: Width = lambda cell, name: HIDDEN  # the width of a slot, by the cell and the part of the name after the dot
    padded: bool = False  # whether each slot is padded to whole vectors


ARRAYS = {
    "x": Kind(steps=True),
    "extra": Kind(steps=True, width=_by_name),
    "s": Kind(steps=True, width=width_of_state),
    "before": Kind(steps=True, width=width_of_state),
    "u": Kind(steps=True),
    "p": Kind(steps=False),
    "d_x": Kind(steps=True),
    "d_u": Kind(steps=True),
    "d_extra": Kind(steps=True, width=_by_name),
    "d_out": Kind(steps=True, width=lambda cell, name: width_of_state(cell, cell.states[0])),
    "d_p": Kind(steps=False, padded=True),
    "carry": Kind(steps=False, width=width_of_state, padded=True),
    "memory": Kind(steps=False, width=_by_name, padded=True),
}


def kind_of(array: str) -> Kind:
    return ARRAYS[array.partition(".")[0]]


def width_of(cell: Cell, array: str) -> str:
    """Returns the width of an array's slots, HIDDEN or PROJECTED."""
    kind, _, name = array.partition(".")
    return ARRAYS[kind].width(cell, name)


class Place(NamedTuple):
    """A slot of an array."""

    array: str  # name of the array
    slot: int = 0
