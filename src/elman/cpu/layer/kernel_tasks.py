"""Makes the tasks of a script that bring weights into panels, and those that run the recurrence on parts of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from elman.cell import Cell
from elman.cpu import system
from elman.cpu.codegen import llvm
from elman.cpu.codegen.formats import Format
from elman.cpu.kernels import packing, product
from elman.cpu.kernels.over_row import over_row
from elman.cpu.kernels.product import Cut
from elman.cpu.kernels.recurrence import RUN, kernel
from elman.cpu.scripts import threads
from elman.cpu.scripts.script import Array, Script, Task
from elman.leaves import HIDDEN, PROJECTED
from elman.plan import Pass, Product, plan

MOST_IN_PLACE = 8  # rows of all steps; up to this number, kernels read the weights unpacked
LEAST_ROWS = 4  # rows of the batch for each thread; with fewer, threads share units instead
MEETING = 1 << 15  # multiplications in a step; from this number on, sharing units is worth the threads' meetings
PACKING = 8  # multiplications that take as long as packing one number


class Packed(NamedTuple):
    """The numbers of `rows.Rows` that a script depends on, for a batch (T, B)."""

    total: int  # rows of all steps together
    steps: int  # T
    batch: int  # B
    runs: int  # runs of steps with equally many rows
    last: int  # rows of the last step
    edges: tuple[int, ...]  # the first row of the part of each thread of a direction, and the number of rows


class Sizes(NamedTuple):
    """The sizes of a layer and its batch, and what else decides how the work is divided."""

    steps: int
    batch: int
    inputs: int
    units: int
    proj: int  # 0 where no state is projected
    format: Format
    directions: int
    threads: int
    frozen: bool = False  # whether many calls use the same panels of weights
    packed: Packed | None = None  # where rows have different lengths; `steps` is then that of the longest

    @property
    def total(self) -> int:
        """The number of rows of all steps together."""
        return self.steps * self.batch if self.packed is None else self.packed.total

    @property
    def places(self) -> int:
        """The number of rows of the input: T*B."""
        return self.steps * self.batch if self.packed is None else self.packed.steps * self.packed.batch

    @property
    def sequences(self) -> int:
        """The number of sequences: B, also where resets cut sequences into several rows."""
        return self.batch if self.packed is None else self.packed.batch

    def time(self, row: int) -> int:
        """Returns the distance from step to step in an array whose rows are `row` apart.

        For packed rows, times are numbers of rows: the time of a step is the number of its first row.
        """
        return self.batch * row if self.packed is None else row

    def of(self, width: str) -> int:
        """Returns how many units a value of this width has."""
        return self.units if width == HIDDEN else self.proj

    def padded(self, width: str) -> int:
        """Returns how many units a value of this width has, rounded up to whole vectors."""
        return -(-self.of(width) // self.lanes) * self.lanes

    @property
    def in_place(self) -> bool:
        """Whether there are so few rows that kernels read the weights unpacked.

        The number of threads must not matter, since products of unpacked weights sum in another order.
        """
        return self.total <= MOST_IN_PLACE and not self.frozen

    @property
    def lanes(self) -> int:
        return self.format.lanes


def multiplications(cell: Cell, units: int, proj: int) -> int:
    """Returns the number of multiplications in the recurrence for one row and one step."""
    depth = proj if cell.states[0] in cell.projected else units
    return units * depth * len(cell.anatomy.recurrent_gates) + units * proj


class Parts(NamedTuple):
    """How the units of a phase are divided among threads, and how each part is cut into panels."""

    blocks: list[tuple[int, int]]  # for each part, its first block of units and its number of blocks
    tall: int  # rows in a tile, at most
    panels: list[Cut]  # for each part


class Kernels:
    """Makes the tasks of a cell's kernel "infer", "forward" or "backward", for each direction and part of the work.

    Threads share the rows of the batch. Where rows are few, or no second-level cache holds the weights, threads share
    the units instead; then they meet after every phase.
    """

    def __init__(self, cell: Cell, which: str, sizes: Sizes) -> None:
        self.cell, self.which, self.sizes = cell, which, sizes
        self.planned: Pass = getattr(plan(cell), which)
        row = max(sizes.units**2, multiplications(cell, sizes.units, sizes.proj))
        step, work = sizes.batch * row, threads.effective_rows(sizes.total) * sizes.directions * row
        available = max(1, sizes.threads // sizes.directions)
        self.rows, self.parties = threads.shares(sizes.batch, work, available), 1
        # Parts of packed rows have about as many steps each, not as many rows.
        if sizes.packed is not None and len(self.rows) == len(sizes.packed.edges) - 1 > 1:
            self.rows = [(first, end - first) for first, end in pairwise(sizes.packed.edges)]
        weights = sum(self.bytes_of(each) for products in self.planned.products for each in products)
        # Threads that share units read only a part of the weights each: this pays if no second-level cache holds all.
        pays = sizes.batch < LEAST_ROWS * available or weights > llvm.target().caches[1]
        if available > 1 and pays and step >= MEETING:
            self.rows = [(0, sizes.batch)]
            self.parties = len(threads.shares(sizes.padded(HIDDEN) // sizes.lanes, work, available))
        most = -(-sizes.batch // len(self.rows))
        self.parts: list[Parts] = []
        for phase, products in zip(self.planned.phases, self.planned.products, strict=True):
            blocks = threads.parts(sizes.padded(phase.width) // sizes.lanes, self.parties)
            vectors = max((len(each.nodes) for each in products), default=1)
            depth = max((self.depth(each) for each in products), default=sizes.of(phase.width))
            tiling = product.tiling(most, max(count for _, count in blocks), vectors, depth)
            self.parts.append(Parts(blocks, tiling.rows, [product.cut(count, tiling.blocks) for _, count in blocks]))
        self.in_place = which != "backward" and sizes.in_place

    def depth(self, each: Product) -> int:
        """Returns the depth of a product: how many numbers it multiplies for one result."""
        return sum(self.sizes.of(width) * slots for width, slots in each.depths.items())

    def bytes_of(self, each: Product) -> int:
        """Returns how many bytes the packed weights of a product take."""
        numbers = self.sizes.padded(each.width) * self.depth(each) * max(1, len(each.blocks))
        return numbers * self.sizes.format.bytes

    def pack(self, script: Script, weights: Mapping[str, Array]) -> tuple[dict[str, Array], list[Task]]:
        """Returns the arrays of weights and biases by the kernel's words, and the tasks that fill them.

        Every product has weights in panels, unless they are read unpacked. Only products of the step have biases.
        """
        sizes = self.sizes
        rooms: dict[str, Array] = {field: weights[field] for field in ("hh", "hr") if field in weights}
        tasks: list[Task] = []
        for number, (products, parts) in enumerate(zip(self.planned.products, self.parts, strict=True)):
            for index, each in enumerate(products):
                name, vectors, depth = f"{number}.{index}", max(1, len(each.blocks)), self.depth(each)
                padded, bias = sizes.padded(each.width), weights.get(each.bias or "")
                rooms[f"{name} weights"] = room = script.kept(0 if self.in_place else padded * vectors * depth)
                if each.blocks:
                    rooms[f"{name} bias"] = of_bias = script.kept(padded * vectors)
                    if bias is None:
                        tasks.append(fill(of_bias, 1, padded * vectors))
                for (first, count), panels in zip(parts.blocks, parts.panels, strict=True):
                    at, unit = room.at(column=first * sizes.lanes * vectors * depth), first * sizes.lanes
                    if not count:
                        continue
                    if not each.blocks:
                        tasks += self._by_segments(each, weights, unit, at, panels)
                        continue
                    if not self.in_place:
                        tasks += self._by_blocks(each, weights[each.weight], unit, at, depth, panels)
                    if bias is not None:
                        here = rooms[f"{name} bias"].at(column=unit * vectors)
                        tasks += self._by_blocks(each, bias, unit, here, 1, panels)
        return rooms, tasks

    def _by_segments(
        self, each: Product, weights: Mapping[str, Array], unit: int, room: Array, panels: Cut
    ) -> list[Task]:
        """Returns the tasks that pack the weights of a backward product, from `unit` on.

        A weight is (K*H, H). The rows of all segments come one below the other.
        """
        kernel, units = packing.rows(self.sizes.format), self.sizes.of(each.width)
        tasks: list[Task] = []
        done = 0
        for segment in each.segments:
            rows, weight = self.sizes.of(segment.width), weights[segment.weight]
            length, source = segment.slots * rows, weight.at(row=segment.block * rows, column=unit)
            words = (source, weight.row, length, units - unit, room, self.depth(each), done)
            parts = pack_panels(panels, length * units, self.sizes.threads)
            tasks += [Task(kernel, (*words, *part, 0, source, 0)) for part in parts]
            done += length
        return tasks

    def _by_blocks(self, each: Product, weight: Array, unit: int, room: Array, columns: int, panels: Cut) -> list[Task]:
        """Returns the tasks that pack the weights of a product of the step, transposed, from `unit` on.

        A bias is packed like a weight of one column. In every panel the product's blocks of rows lie side by side.
        One packing takes all blocks that follow each other in the weight.
        """
        kernel, vectors = packing.transposed(self.sizes.format), len(each.blocks)
        units = self.sizes.of(each.width)
        tasks: list[Task] = []
        place = 0
        while place < vectors:
            count, block = 1, each.blocks[place]
            while each.blocks[place + count : place + count + 1] == (block + count,):
                count += 1
            words = (weight.at(row=block * units + unit), weight.row, units * weight.row, count, columns, units - unit)
            parts = pack_panels(panels, count * units * columns, self.sizes.threads)
            tasks += [Task(kernel, (*words, room, vectors, place, *part)) for part in parts]
            place += count
        return tasks

    def run(self, arrays: Mapping[str, Array], steps: int, reverse: bool, before: int = 0) -> list[Task]:
        """Returns the tasks that run a number of steps of one direction, one for each part of the rows or units.

        arrays: those of the plan, and those that `pack` returned. before: how many steps were already run with the same
        array "meeting", which is zero at first.
        """
        sizes, form = self.sizes, self.sizes.format
        ragged = tuple([width for width in (HIDDEN, PROJECTED) if sizes.of(width) % sizes.lanes])
        compiled = kernel(self.cell, self.which, form, ragged)
        back = reverse != (self.which == "backward")
        known = {width: sizes.of(width) for width in (HIDDEN, PROJECTED)} | {"steps": steps}
        known |= {f"{width} padded": sizes.padded(width) for width in (HIDDEN, PROJECTED)}
        advance, first, last = (-1, steps - 1, 0) if back else (1, 0, steps - 1)
        known |= {"number of runs": 1, "runs at": 0}
        if (packed := sizes.packed) is not None:
            first, last = (packed.total - packed.last, 0) if back else (0, packed.total - packed.last)
            known |= {"number of runs": packed.runs, "runs at": arrays["runs back" if back else "runs"]}
        known |= {"first time": first, "last time": last}
        known |= zip([f"run {name}" for name in RUN], (steps, sizes.batch, 0, advance, 0), strict=True)
        known |= {
            "parties": self.parties,
            "met before": before * len(self.parts),
            "give way": system.functions().give_way,
        }
        known |= {"in place": int(self.in_place), "dots": product.dots(form) if self.in_place else 0}
        ops = {each.node.op for number in range(len(self.parts)) for each in self.planned.over_rows(number)}
        known |= {f"over row {op}": over_row(form, op) for op in ops}
        for name, array in arrays.items():
            known |= {f"{name} time": array.time, f"{name} row": array.row}
        tasks = []
        for first, count in self.rows:
            for part in range(self.parties):
                table = {**known, **arrays, "first row": first, "rows": count, **self._tiles(count, part)}
                tasks.append(Task(compiled.addresses[0], [table[name] for name in compiled.words]))
        return tasks

    def _tiles(self, rows: int, part: int) -> dict[str, Any]:
        """Returns the words that say how a range of rows and a part of the units are cut, and which tiles do them."""
        words: dict[str, Any] = {}
        for number, (products, parts) in enumerate(zip(self.planned.products, self.parts, strict=True)):
            tiles, panels = product.cut(rows, parts.tall), parts.panels[part]
            words[f"{number} first block"] = parts.blocks[part][0]
            words |= zip((f"{number} panels", f"{number} narrow", f"{number} wider"), panels, strict=True)
            words[f"{number} tall"] = parts.tall
            for index, each in enumerate(products):
                # Tiles of a large matrix ask for the next panel while they multiply the present one.
                fetch = self.bytes_of(each) > llvm.target().caches[1] // 2 and tiles.number > 2
                form, vectors = self.sizes.format, len(each.nodes)
                every = None if self.sizes.packed is not None else rows
                words[f"{number}.{index} tiles"] = product.tile_table(every, parts.tall, panels, vectors, form, fetch)
        return words


def pack_panels(panels: Cut, work: int, available: int) -> Sequence[tuple[int, int, int, int]]:
    """Returns the last words of each packing task: the panels, divided among threads."""
    shares = threads.shares(panels.number, work * PACKING, available)
    return [(first, first + count, panels.narrow, panels.wider) for first, count in shares]


def fill(out: Array, rows: int, width: int) -> Task:
    """Returns the task that fills rows of `out` with zeros."""
    return Task(packing.copy(out.format), (out, 0, out, out.row, rows, 0, width))


def gather(
    sizes: Sizes,
    index: Array,
    source: Array,
    out: Array,
    rows: int,
    units: int,
    *,
    other: Array | None = None,
    padded: int = 0,
    add: bool = False,
) -> list[Task]:
    """Returns the tasks that copy rows of `source` to `out`, in the order that an index gives (rows.py).

    A row has `units` numbers, followed by zeros up to `padded`. Where the index is OWN, the row comes from `other`, or
    is zero if there is no `other`. Where the index is NOTHING, the row is zero. With `add`, rows are added to `out`.
    """
    kernel = packing.gather(out.format, add)
    handed_on, other = int(other is not None), other or out
    words = (source, source.row, other, other.row, handed_on, out, out.row, units, padded or units)
    shares = threads.shares(rows, rows * units * PACKING, sizes.threads)
    return [Task(kernel, (index, first, first + count, *words)) for first, count in shares]


def copy(source: Array, out: Array, rows: int, units: int, *, padded: int = 0, add: bool = False) -> Task:
    """Returns the task that copies rows of `units` numbers to `out`, each followed by zeros up to `padded`.

    With `add`, rows are added to what `out` holds.
    """
    kernel = packing.copy(out.format, add)
    return Task(kernel, (source, source.row, out, out.row, rows, units, padded or units))
