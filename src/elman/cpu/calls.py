"""A kernel's tables, filled for a call: how the work is cut, and where everything lies.

What depends on sizes only is worked out once and remembered (`recipe`); a call adds addresses.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from elman.cell import Cell
from elman.cpu import llvm, product, threads
from elman.cpu.kernels import kernel
from elman.cpu.memory import workspace
from elman.cpu.plan import Pass, Product, plan
from elman.cpu.product import Cut
from elman.layout import Direction


class Sizes(NamedTuple):
    """What a recipe depends on, besides the cell."""

    steps: int
    batch: int
    units: int
    dtype: torch.dtype
    reverse: tuple[bool, ...]  # of each direction
    threads: int


class Packing(NamedTuple):
    """One run of a packing kernel."""

    matrix: str  # "hh" or "b_hh"
    gate: int  # its first block of rows
    buffer: str  # name of what is filled
    size: int
    words: tuple[int, ...]  # of the table from "gates" on, but for "out"


class Recipe(NamedTuple):
    kernel: int
    parts: int
    words: list[int]  # all tables, addresses left out
    positions: list[dict[str, list[int]]]  # for each direction: where the words of a name stand
    packings: list[Packing]
    memory: int  # numbers in the array "memory"


@lru_cache(maxsize=1024)
def recipe(cell: Cell, which: str, sizes: Sizes) -> Recipe:
    """The tables of a kernel: one for every direction and part of the batch's rows."""
    todo: Pass = getattr(plan(cell), which)
    steps, batch, units, dtype, reverse, _ = sizes
    size, lanes = dtype.itemsize, llvm.target().lanes(dtype.itemsize)
    blocks = -(-units // lanes)
    compiled = kernel(cell, which, size, units % lanes != 0)
    known = {"units": units, "padded": blocks * lanes, "steps": steps}
    rows = _rows(cell, sizes)

    packings: list[Packing] = []
    cuts: list[tuple[int, Cut]] = []  # of each phase: most rows in a tile, panels
    for number, products in enumerate(todo.products):
        most = max((len(each.nodes) for each in products), default=1)
        tiling = product.tiling(max(count for _, count in rows), blocks, most)
        panels = product.cut(blocks, tiling.blocks)
        cuts.append((tiling.rows, panels))
        known |= zip((f"{number} panels", f"{number} narrow", f"{number} wider"), panels, strict=True)
        for index, each in enumerate(products):
            packings += _packings(which, f"{number}.{index}", each, units, blocks * lanes, panels)

    words: list[int] = []
    positions: list[dict[str, list[int]]] = [{} for _ in reverse]
    for direction, back in enumerate(reverse):
        if which == "backward":
            back = not back
        mine = known | {"dt": -1 if back else 1, "first time": steps - 1 if back else 0}
        for first, count in rows:
            table = mine | _tiles(todo, cuts, first, count, size)
            for name in compiled.words:
                positions[direction].setdefault(name, []).append(len(words))
                words.append(table.get(name, 0))
    memory = batch * todo.memory * blocks * lanes
    return Recipe(compiled.address, len(rows) * len(reverse), words, positions, packings, memory)


def _rows(cell: Cell, sizes: Sizes) -> list[tuple[int, int]]:
    """The batch's rows cut for the threads there are: first row, number of rows."""
    each = sizes.units**2 * max(1, len(cell.anatomy.recurrent_gates))
    work = sizes.steps * sizes.batch * len(sizes.reverse) * each
    return threads.shares(sizes.batch, work, max(1, sizes.threads // len(sizes.reverse)))


def _packings(which: str, name: str, each: Product, units: int, padded: int, panels: Cut) -> list[Packing]:
    """How the weights of a product, and forward its biases, come into panels."""
    buffer, found = f"{which} {name}", []
    if which == "backward":
        depth, done = units * sum(segment.slots for segment in each.segments), 0
        for segment in each.segments:
            length = segment.slots * units
            words = (1, length, units, depth, done, 1, 0, *panels)
            found.append(Packing("hh", segment.gate, f"{buffer} weights", padded * depth, words))
            done += length
        return found
    place = 0
    while place < len(each.gates):  # gates that follow each other are packed together
        count = 1
        while each.gates[place + count : place + count + 1] == (each.gates[place] + count,):
            count += 1
        gates = len(each.gates)
        words = (count, units, units, units, 0, gates, place, *panels)
        found.append(Packing("hh", each.gates[place], f"{buffer} weights", padded * units * gates, words))
        words = (count, 1, units, 1, 0, gates, place, *panels)
        found.append(Packing("b_hh", each.gates[place], f"{buffer} bias", padded * gates, words))
        place += count
    return found


def _tiles(todo: Pass, cuts: Sequence[tuple[int, Cut]], first: int, rows: int, dtype_bytes: int) -> dict[str, int]:
    """How a range of rows is cut, and the tiles for it."""
    words = {"first row": first}
    for number, (products, (tall, panels)) in enumerate(zip(todo.products, cuts, strict=True)):
        tiles = product.cut(rows, tall)
        words |= zip((f"{number} tiles", f"{number} short", f"{number} taller"), tiles, strict=True)
        for index, each in enumerate(products):
            four = product.four_tiles(tiles, panels, len(each.nodes), dtype_bytes)
            words |= {f"{number}.{index} tile {kind}": address for kind, address in enumerate(four)}
    return words


class Call:
    """One run of a kernel for a layer: place its arrays, then `run`."""

    def __init__(self, cell: Cell, which: str, x: Tensor, directions: Sequence[Direction]) -> None:
        self.cell, self.which, self.directions = cell, which, directions
        (steps, batch, _), units = x.shape, directions[0].state[0].shape[1]
        reverse = tuple(direction.reverse for direction in directions)
        self.empty = batch == 0
        self.sizes = Sizes(steps, max(1, batch), units, x.dtype, reverse, threads.available())
        self.recipe = recipe(cell, which, self.sizes)
        self.words = self.recipe.words.copy()
        zeros = workspace.tensor("zeros", 64 * llvm.target().lanes(x.dtype.itemsize), dtype=x.dtype).zero_().data_ptr()
        for d, direction in enumerate(directions):
            self.put(d, "zeros", zeros)
            if self.recipe.memory:
                memory = workspace.address(f"{d} memory", self.recipe.memory, x.dtype)
                self.put(d, "memory", memory)
                self.put(d, "memory row", self.recipe.memory // self.sizes.batch)
            if direction.weights.ch is not None:
                self.put(d, "p", direction.weights.ch.data_ptr())
            self.start_from(d, direction.state)

    def put(self, direction: int, name: str, value: int) -> None:
        for position in self.recipe.positions[direction].get(name, ()):
            self.words[position] = value

    def place(self, direction: int, name: str, array: Tensor) -> None:
        """An array (T, B, units beside each other)."""
        time, row, _ = array.stride()
        self.put(direction, name, array.data_ptr())
        self.put(direction, f"{name} time", time)
        self.put(direction, f"{name} row", row)

    def start_from(self, direction: int, state: Sequence[Tensor]) -> None:
        for name, value in zip(self.cell.states, state, strict=True):
            self.put(direction, f"s0.{name}", value.data_ptr())
            self.put(direction, f"s0.{name} row", value.stride(0))

    def take(self, steps: int) -> None:
        """Run so many steps instead of all."""
        for d, direction in enumerate(self.directions):
            self.put(d, "steps", steps)
            if direction.reverse != (self.which == "backward"):
                self.put(d, "first time", steps - 1)

    def pack(self) -> None:
        """Bring the weights into panels."""
        dtype, units = self.sizes.dtype, self.sizes.units
        tables: list[int] = []
        for d, direction in enumerate(self.directions):
            for matrix, gate, buffer, size, words in self.recipe.packings:
                out = workspace.address(f"{d} {buffer}", size, dtype)
                self.put(d, buffer.partition(" ")[2], out)
                weight = getattr(direction.weights, matrix)
                if weight is None:  # a layer without biases
                    workspace.tensor(f"{d} {buffer}", size, dtype=dtype).zero_()
                    continue
                row = weight.stride(0)
                source = weight.data_ptr() + gate * units * row * dtype.itemsize
                tables += (source, row, units * row, *words[:3], out, *words[3:])
        if tables:
            count = len(tables) // len(product.PACK)
            threads.run(product.pack(self.which != "backward", dtype.itemsize), count, tables)

    def run(self) -> None:
        if not self.empty:
            threads.run(self.recipe.kernel, self.recipe.parts, self.words)
