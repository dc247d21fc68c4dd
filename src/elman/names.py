"""Names of cells. Compiled and exported programs refer to a cell by its name, in this process and in others."""

from __future__ import annotations

from secrets import token_hex
from weakref import WeakSet

from elman import cells
from elman.cell import Cell
from elman.graph import NotTraceable, fingerprint
from elman.torch_private import constant_to_the_compiler

_cells: dict[str, WeakSet[Cell]] = {}  # the cells of each name; they have the same graph
_held: dict[str, Cell] = {}  # those that an operator has run, as exported programs do when no layer is left


def register(cell: Cell) -> str:
    """Registers a cell, so that `find` knows it, and returns its name, which is also stored as `cell.key`.

    The name contains a hash of the cell's graph, and so is the same in every process. A cell that cannot be traced gets
    a name that holds in this process only.
    """
    if not cell.key:
        try:
            form = fingerprint(cell.kept)
        except NotTraceable:
            form = f"untraced-{token_hex(8)}"
        name = f"{cell.name}-{form}"
        _cells.setdefault(name, WeakSet()).add(cell)  # before `key` tells another thread the name
        for each in (cell, cell.kept):
            object.__setattr__(each, "key", name)  # a Cell is a frozen dataclass, and `key` is not a field of it
    return cell.key


def find(key: str) -> Cell:
    """The cell of that name, as engines keep it. Raises RuntimeError for a user's cell of which there is no layer."""
    if key not in _cells:
        for cell in (*cells.BUILT_IN.values(), cells.forward_backward):
            register(cell)
            if not cell.projected:
                register(cell.masked)  # which a program exported in training may run
    for cell in _cells.get(key, ()):
        return cell.kept
    if "-untraced-" in key:
        raise RuntimeError(
            f"the cell {key!r} cannot be traced, so what was exported runs only in the process that exported it; "
            "write the step with the operations that docs/cells.md lists"
        )
    raise RuntimeError(
        f"the cell {key!r} is not known in this process; build a layer of it before using what was exported"
    )


@constant_to_the_compiler
def hold(key: str) -> str:
    """Keeps a cell of that name until the process ends, and returns the name."""
    if key not in _held:
        find(key)
        _held[key] = next(iter(_cells[key]))
    return key
