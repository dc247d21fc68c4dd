"""The recurrence as tasks of a script: bringing weight_hh into panels, and the kernels for every part of the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from elman.cell import Cell
from elman.cpu import llvm, packing, product, threads
from elman.cpu.kernels import kernel
from elman.cpu.plan import Pass, Product, plan
from elman.cpu.product import Cut
from elman.cpu.script import Array, Script, Task


class Sizes(NamedTuple):
    """Of a layer."""

    steps: int
    batch: int
    inputs: int
    units: int
    dtype: torch.dtype
    directions: int
    threads: int

    @property
    def padded(self) -> int:
        """Units, up to a whole number of vectors."""
        lanes = self.lanes
        return -(-self.units // lanes) * lanes

    @property
    def lanes(self) -> int:
        return llvm.target().lanes(self.dtype.itemsize)


class Kernels:
    """The kernel "infer", "forward" or "backward" of a cell, for every direction of a layer and part of its rows."""

    def __init__(self, cell: Cell, which: str, sizes: Sizes) -> None:
        self.cell, self.which, self.sizes = cell, which, sizes
        self.todo: Pass = getattr(plan(cell), which)
        self.blocks = sizes.padded // sizes.lanes
        each = sizes.units**2 * max(1, len(cell.anatomy.recurrent_gates))
        work = sizes.steps * sizes.batch * sizes.directions * each
        self.rows = threads.shares(sizes.batch, work, max(1, sizes.threads // sizes.directions))
        most = max(count for _, count in self.rows)
        self.cuts: list[tuple[int, Cut]] = []  # of each phase: most rows in a tile, panels
        for products in self.todo.products:
            vectors = max((len(each.nodes) for each in products), default=1)
            depth = sizes.units * max((each.slots for each in products), default=1)
            tiling = product.tiling(most, self.blocks, vectors, depth, sizes.dtype.itemsize)
            self.cuts.append((tiling.rows, product.cut(self.blocks, tiling.blocks)))

    def pack(self, script: Script, weight: Array, bias: Array | None) -> tuple[dict[str, Array], list[Task]]:
        """Rooms for the weights, and forward the biases, of every product in panels, by the kernel's words; tasks that fill them."""
        rooms: dict[str, Array] = {}
        tasks: list[Task] = []
        for number, (products, (_, panels)) in enumerate(zip(self.todo.products, self.cuts, strict=True)):
            for index, each in enumerate(products):
                name = f"{number}.{index}"
                if self.which == "backward":
                    depth = self.sizes.units * each.slots
                    rooms[f"{name} weights"] = room = script.room(self.sizes.padded * depth)
                    tasks += self._transposed(each, weight, room, depth, panels)
                else:
                    vectors = self.sizes.padded * len(each.gates)
                    rooms[f"{name} weights"] = room = script.room(vectors * self.sizes.units)
                    rooms[f"{name} bias"] = of_bias = script.room(vectors)
                    if bias is None:
                        tasks.append(fill(of_bias, 1, vectors, self.sizes))
                    tasks += self._by_gates(each, weight, bias, room, of_bias, panels)
        return rooms, tasks

    def _transposed(self, each: Product, weight: Array, room: Array, depth: int, panels: Cut) -> list[Task]:
        """weight_hh as it lies, (K*H, H): the rows of all segments one below the other."""
        kernel, units = packing.pack(False, self.sizes.dtype.itemsize), self.sizes.units
        tasks, done = [], 0
        for segment in each.segments:
            length, source = segment.slots * units, weight.at(row=segment.gate * units)
            for part in pack_panels(panels, length * units, self.sizes.threads):
                words = (source, weight.row, 0, 1, length, units, room, depth, done, 1, 0, *part)
                tasks.append(Task(kernel, words))
            done += length
        return tasks

    def _by_gates(
        self, each: Product, weight: Array, bias: Array | None, room: Array, of_bias: Array, panels: Cut
    ) -> list[Task]:
        """weight_hh transposed, gates side by side in every panel; those that follow each other are packed together."""
        kernel, units, vectors = packing.pack(True, self.sizes.dtype.itemsize), self.sizes.units, len(each.gates)
        tasks, place = [], 0
        while place < vectors:
            count, gate = 1, each.gates[place]
            while each.gates[place + count : place + count + 1] == (gate + count,):
                count += 1
            source = weight.at(row=gate * units)
            for part in pack_panels(panels, count * units * units, self.sizes.threads):
                words = (source, weight.row, units * weight.row, count, units, units)
                tasks.append(Task(kernel, (*words, room, units, 0, vectors, place, *part)))
            if bias is not None:
                words = (bias.at(column=gate * units), 1, units, count, 1, units)
                tasks.append(Task(kernel, (*words, of_bias, 1, 0, vectors, place, 0, *panels)))
            place += count
        return tasks

    def run(self, arrays: Mapping[str, Array], steps: int, reverse: bool) -> list[Task]:
        """So many steps of one direction, on the arrays of the plan and what `pack` gave; a task for every part of the rows."""
        units, lanes, size = self.sizes.units, self.sizes.lanes, self.sizes.dtype.itemsize
        compiled = kernel(self.cell, self.which, size, units % lanes != 0)
        back = reverse != (self.which == "backward")
        known = {"units": units, "padded": self.sizes.padded, "steps": steps}
        known |= {"dt": -1 if back else 1, "first time": steps - 1 if back else 0}
        for number, (_, panels) in enumerate(self.cuts):
            known |= zip((f"{number} panels", f"{number} narrow", f"{number} wider"), panels, strict=True)
        for name, array in arrays.items():
            known |= {f"{name} time": array.time, f"{name} row": array.row}
        tasks = []
        for first, count in self.rows:
            table = {**known, **arrays, **self._tiles(first, count)}
            tasks.append(Task(compiled.address, [table[name] for name in compiled.words]))
        return tasks

    def _tiles(self, first: int, rows: int) -> dict[str, int]:
        """How a range of rows is cut, and the tiles for it."""
        words = {"first row": first}
        for number, (products, (tall, panels)) in enumerate(zip(self.todo.products, self.cuts, strict=True)):
            tiles = product.cut(rows, tall)
            words |= zip((f"{number} tiles", f"{number} short", f"{number} taller"), tiles, strict=True)
            for index, each in enumerate(products):
                size = self.sizes.dtype.itemsize
                matrix = self.sizes.padded * self.sizes.units * each.slots * len(each.nodes) * size
                four = product.four_tiles(
                    tiles, panels, len(each.nodes), size, fetch=matrix > FETCHED and tiles.number > 2
                )
                words |= {f"{number}.{index} tile {kind}": address for kind, address in enumerate(four)}
        return words


def pack_panels(panels: Cut, work: int, available: int) -> Sequence[tuple[int, int, int, int]]:
    """The last words of a packing: its panels divided among threads."""
    shares = threads.shares(panels.number, work * PACKING, available)
    return [(first, first + count, panels.narrow, panels.wider) for first, count in shares]


FETCHED = 3 << 18  # bytes of weights from which on they are asked for ahead of time
PACKING = 8  # multiplications that take as long as packing one number


def fill(out: Array, rows: int, width: int, sizes: Sizes) -> Task:
    """Zeros."""
    return Task(packing.copy(sizes.dtype.itemsize), (out, 0, out, out.row, rows, 0, width))


def copy(source: Array, out: Array, rows: int, units: int, sizes: Sizes, *, padded: int = 0, add: bool = False) -> Task:
    """Rows of so many units to another place, followed by zeros up to `padded`; with `add` added to what is there."""
    kernel = packing.copy(sizes.dtype.itemsize, add)
    return Task(kernel, (source, source.row, out, out.row, rows, units, padded or units))
