"""Names of cells. Compiled and exported programs refer to a cell by its name, in this process and in others."""

from __future__ import annotations

from secrets import token_hex

from elman import cells
from elman.cell import Cell
from elman.graph import NotTraceable, fingerprint

_cells: dict[str, Cell] = {}


def register(cell: Cell) -> str:
    """Registers a cell, so that `find` knows it, and returns its name, which is also stored as `cell.key`.

    The name contains a hash of the cell's graph, and so is the same in every process. A cell that cannot be traced gets
    a name that holds in this process only.
    """
    if not cell.key:
        try:
            form = fingerprint(cell)
        except NotTraceable:
            form = f"untraced-{token_hex(8)}"
        name = f"{cell.name}-{form}"
        _cells[name] = cell  # before `key` tells another thread the name
        object.__setattr__(cell, "key", name)  # a Cell is a frozen dataclass, and `key` is not a field of it
    return cell.key


def find(key: str) -> Cell:
    """The cell of that name. Raises RuntimeError for a user's cell if this process has built no layer of it."""
    if key not in _cells:
        for cell in cells.BUILT_IN.values():
            register(cell)
    if key not in _cells and "-untraced-" in key:
        raise RuntimeError(
            f"the cell {key!r} cannot be traced, so what was exported runs only in the process that exported it; "
            "write the step with the operations that docs/cells.md lists"
        )
    if key not in _cells:
        raise RuntimeError(
            f"the cell {key!r} is not known in this process; build a layer of it before using what was exported"
        )
    return _cells[key]
