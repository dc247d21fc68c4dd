"""The name of a cell outside this process: what compiled programs and exported ones call it by."""

from __future__ import annotations

from itertools import count

from elman import cells
from elman.cell import Cell
from elman.graph import NotTraceable, fingerprint

_cells: dict[str, Cell] = {}
_numbers = count(1)


def register(cell: Cell) -> str:
    """The name by which `find` knows the cell from now on, also kept as `cell.key`.

    It is made of the cell's graph, and so the same in every process. A cell that is no graph has a name
    for this process only.
    """
    if not cell.key:
        try:
            form = fingerprint(cell)
        except NotTraceable:
            form = f"untraced-{next(_numbers)}"
        name = f"{cell.name}-{form}"
        _cells[name] = cell  # before another thread can be told the name
        object.__setattr__(cell, "key", name)  # a cell is frozen; this is no part of what it is
    return cell.key


def find(key: str) -> Cell:
    """The cell of that name. RuntimeError if it is a user's, and no layer of it was built in this process."""
    if key not in _cells:
        for cell in cells.BUILT_IN.values():
            register(cell)
    if key not in _cells:
        raise RuntimeError(
            f"the cell {key!r} is not known in this process; build a layer of it before using what was exported"
        )
    return _cells[key]
