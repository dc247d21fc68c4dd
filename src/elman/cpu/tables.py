"""The recurrence as tasks of a script: bringing weight_hh into panels, and the kernels for every part of the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from elman.cell import Cell
from elman.cpu import llvm, packing, product, system, threads
from elman.cpu.kernels import kernel
from elman.cpu.plan import Pass, Product, plan
from elman.cpu.product import Cut
from elman.cpu.script import Array, Script, Task

SHORT = 8  # steps and rows, up to which weights are read as they lie
FEW = 4  # rows for each thread, below which they share units instead
MEETING = 1 << 15  # multiplications in a step from which on that is worth meeting after it
PACKING = 8  # multiplications that take as long as packing one number


class Sizes(NamedTuple):
    """Of a layer."""

    steps: int
    batch: int
    inputs: int
    units: int
    dtype: torch.dtype
    directions: int
    threads: int
    frozen: bool = False  # whether weights are brought into panels once for many calls

    @property
    def padded(self) -> int:
        """Units, up to a whole number of vectors."""
        lanes = self.lanes
        return -(-self.units // lanes) * lanes

    @property
    def few(self) -> bool:
        """Whether there is so little to multiply that weights are read as they lie. No matter how many threads there are."""
        return self.steps * self.batch <= SHORT and not self.frozen

    @property
    def lanes(self) -> int:
        return llvm.target().lanes(self.dtype.itemsize)


class Kernels:
    """The kernel "infer", "forward" or "backward" of a cell, for every direction of a layer and part of its work.

    Threads share the rows of the batch; where these are few, the units, and then meet after every phase.
    """

    def __init__(self, cell: Cell, which: str, sizes: Sizes) -> None:
        self.cell, self.which, self.sizes = cell, which, sizes
        self.todo: Pass = getattr(plan(cell), which)
        blocks = sizes.padded // sizes.lanes
        row = sizes.units**2 * max(1, len(cell.anatomy.recurrent_gates))
        step, work = sizes.batch * row, threads.of_rows(sizes.steps * sizes.batch) * sizes.directions * row
        available = max(1, sizes.threads // sizes.directions)
        self.rows, self.blocks = threads.shares(sizes.batch, work, available), [(0, blocks)]
        weights = sum(self.bytes_of(each) for products in self.todo.products for each in products)
        # Weights that no second-level cache holds are divided, so that each thread has to read a part only.
        pays = sizes.batch < FEW * available or weights > llvm.target().caches[1]
        if available > 1 and pays and step >= MEETING:
            self.rows, self.blocks = [(0, sizes.batch)], threads.shares(blocks, work, available)
        self.parties = len(self.blocks)
        most, broad = max(count for _, count in self.rows), max(count for _, count in self.blocks)
        self.cuts: list[tuple[int, list[Cut]]] = []  # of each phase: most rows in a tile, panels of each part
        for products in self.todo.products:
            vectors = max((len(each.nodes) for each in products), default=1)
            depth = sizes.units * max((each.slots for each in products), default=1)
            tiling = product.tiling(most, broad, vectors, depth, sizes.dtype.itemsize)
            self.cuts.append((tiling.rows, [product.cut(count, tiling.blocks) for _, count in self.blocks]))
        self.lying = which != "backward" and sizes.few

    def bytes_of(self, each: Product) -> int:
        """Of the weights of a product."""
        sizes = self.sizes
        return sizes.padded * sizes.units * each.slots * max(1, len(each.gates)) * sizes.dtype.itemsize

    def pack(self, script: Script, weight: Array, bias: Array | None) -> tuple[dict[str, Array], list[Task]]:
        """Rooms for the weights, and forward the biases, of every product in panels, by the kernel's words; tasks that fill them."""
        sizes = self.sizes
        rooms: dict[str, Array] = {"hh": weight}
        tasks: list[Task] = []
        for number, (products, (_, cuts)) in enumerate(zip(self.todo.products, self.cuts, strict=True)):
            for index, each in enumerate(products):
                name, vectors, depth = f"{number}.{index}", max(1, len(each.gates)), sizes.units * each.slots
                rooms[f"{name} weights"] = room = script.kept(0 if self.lying else sizes.padded * vectors * depth)
                if each.gates:
                    rooms[f"{name} bias"] = of_bias = script.kept(sizes.padded * vectors)
                    if bias is None:
                        tasks.append(fill(of_bias, 1, sizes.padded * vectors, sizes))
                for (first, _), panels in zip(self.blocks, cuts, strict=True):
                    at, unit = room.at(column=first * sizes.lanes * vectors * depth), first * sizes.lanes
                    if not each.gates:
                        tasks += self._by_segments(each, weight, unit, at, panels)
                        continue
                    if not self.lying:
                        tasks += self._by_gates(each, weight, unit, at, sizes.units, panels)
                    if bias is not None:
                        here = rooms[f"{name} bias"].at(column=unit * vectors)
                        tasks += self._by_gates(each, bias, unit, here, 1, panels)
        return rooms, tasks

    def _by_segments(self, each: Product, weight: Array, unit: int, room: Array, panels: Cut) -> list[Task]:
        """Units of weight_hh (K*H, H) from one on: the rows of all segments one below the other."""
        kernel, units = packing.rows(self.sizes.dtype.itemsize), self.sizes.units
        tasks: list[Task] = []
        done = 0
        for segment in each.segments:
            length, source = segment.slots * units, weight.at(row=segment.gate * units, column=unit)
            words = (source, weight.row, length, units - unit, room, units * each.slots, done)
            parts = pack_panels(panels, length * units, self.sizes.threads)
            tasks += [Task(kernel, (*words, *part)) for part in parts]
            done += length
        return tasks

    def _by_gates(self, each: Product, weight: Array, unit: int, room: Array, columns: int, panels: Cut) -> list[Task]:
        """The same transposed, or the bias, which is one column: gates side by side in every panel.

        Those that follow each other are packed together.
        """
        kernel, units, vectors = packing.transposed(self.sizes.dtype.itemsize), self.sizes.units, len(each.gates)
        tasks: list[Task] = []
        place = 0
        while place < vectors:
            count, gate = 1, each.gates[place]
            while each.gates[place + count : place + count + 1] == (gate + count,):
                count += 1
            words = (weight.at(row=gate * units + unit), weight.row, units * weight.row, count, columns, units - unit)
            parts = pack_panels(panels, count * units * columns, self.sizes.threads)
            tasks += [Task(kernel, (*words, room, vectors, place, *part)) for part in parts]
            place += count
        return tasks

    def run(self, arrays: Mapping[str, Array], steps: int, reverse: bool, before: int = 0) -> list[Task]:
        """So many steps of one direction, on the arrays of the plan and what `pack` gave; a task for every part.

        before: how many steps were made on the same "meeting", an array that is zero at first.
        """
        units, lanes, size = self.sizes.units, self.sizes.lanes, self.sizes.dtype.itemsize
        compiled = kernel(self.cell, self.which, size, units % lanes != 0)
        back = reverse != (self.which == "backward")
        known = {"units": units, "padded": self.sizes.padded, "steps": steps}
        known |= {"dt": -1 if back else 1, "first time": steps - 1 if back else 0}
        known |= {
            "parties": self.parties,
            "met before": before * len(self.cuts),
            "give way": system.functions().give_way,
        }
        known |= {"lying": int(self.lying), "dots": product.dots(size) if self.lying else 0}
        for name, array in arrays.items():
            known |= {f"{name} time": array.time, f"{name} row": array.row}
        tasks = []
        for first, count in self.rows:
            for part, (block, _) in enumerate(self.blocks):
                table = {**known, **arrays, "first row": first, **self._tiles(count, part, block)}
                tasks.append(Task(compiled.addresses[0], [table[name] for name in compiled.words]))
        return tasks

    def _tiles(self, rows: int, part: int, block: int) -> dict[str, int]:
        """How a range of rows and a part of the units, from a block on, is cut, and the tiles for it."""
        words: dict[str, int] = {}
        size = self.sizes.dtype.itemsize
        for number, (products, (tall, cuts)) in enumerate(zip(self.todo.products, self.cuts, strict=True)):
            tiles, panels = product.cut(rows, tall), cuts[part]
            words[f"{number} first block"] = block
            words |= zip((f"{number} panels", f"{number} narrow", f"{number} wider"), panels, strict=True)
            words |= zip((f"{number} tiles", f"{number} short", f"{number} taller"), tiles, strict=True)
            for index, each in enumerate(products):
                fetch = self.bytes_of(each) > llvm.target().caches[1] // 2 and tiles.number > 2  # ahead of time
                four = product.four_tiles(tiles, panels, len(each.nodes), size, fetch=fetch)
                words |= {f"{number}.{index} tile {kind}": address for kind, address in enumerate(four)}
        return words


def pack_panels(panels: Cut, work: int, available: int) -> Sequence[tuple[int, int, int, int]]:
    """The last words of a packing: its panels divided among threads."""
    shares = threads.shares(panels.number, work * PACKING, available)
    return [(first, first + count, panels.narrow, panels.wider) for first, count in shares]


def fill(out: Array, rows: int, width: int, sizes: Sizes) -> Task:
    """Zeros."""
    return Task(packing.copy(sizes.dtype.itemsize), (out, 0, out, out.row, rows, 0, width))


def copy(source: Array, out: Array, rows: int, units: int, sizes: Sizes, *, padded: int = 0, add: bool = False) -> Task:
    """Rows of so many units to another place, followed by zeros up to `padded`; with `add` added to what is there."""
    kernel = packing.copy(sizes.dtype.itemsize, add)
    return Task(kernel, (source, source.row, out, out.row, rows, units, padded or units))
