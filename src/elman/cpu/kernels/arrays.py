"""The arrays that kernels work on, by name: what each holds, how, and who has it.

Arrays hold T steps or the present one, B rows, and one or more slots of a width: H units, or of a projected
state proj_size.

    x         the input's share of every gate; forward writes what it keeps over what it has read
    extra     what else forward keeps: values that backward reads, computed operands of products
    s.NAME    a state after every step; before.NAME the same one step earlier
    p         per-unit weights
    d_x       adjoints of the input's shares           d_extra  of products, where those differ
    d_out     cotangent of the output                  d_p      of per-unit weights, for every row
    carry.NAME   adjoint of a state, from step to step
    memory    what a later phase of the same step reads

Of extra, d_extra and memory there is one more for what is projected: extra.projected.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from elman.cell import Cell
from elman.leaves import HIDDEN, width_of_state

Width = Callable[[Cell, str], str]
_by_name: Width = lambda cell, name: name or HIDDEN  # noqa: E731


class Kind(NamedTuple):
    """What is known of an array by its name, up to a dot. `width` of a slot: by the cell and what follows the dot."""

    steps: bool  # whether it holds every step, or the present one
    width: Width = lambda cell, name: HIDDEN
    padded: bool = False  # whether its slots are whole vectors apart
    given: bool = False  # whether training gets it from its caller, or finds room for it


ARRAYS = {
    "x": Kind(steps=True, given=True),
    "extra": Kind(steps=True, width=_by_name, given=True),
    "s": Kind(steps=True, width=width_of_state, given=True),
    "before": Kind(steps=True, width=width_of_state, given=True),
    "p": Kind(steps=False, given=True),
    "d_x": Kind(steps=True),
    "d_extra": Kind(steps=True, width=_by_name),
    "d_out": Kind(steps=True, width=lambda cell, name: width_of_state(cell, cell.states[0]), given=True),
    "d_p": Kind(steps=False, padded=True),
    "carry": Kind(steps=False, width=width_of_state, padded=True),
    "memory": Kind(steps=False, width=_by_name, padded=True),
}


def kind_of(array: str) -> Kind:
    return ARRAYS[array.partition(".")[0]]


def width_of(cell: Cell, array: str) -> str:
    """The width of an array's slots."""
    kind, _, name = array.partition(".")
    return ARRAYS[kind].width(cell, name)


class Place(NamedTuple):
    """A slot of an array."""

    array: str
    slot: int = 0
