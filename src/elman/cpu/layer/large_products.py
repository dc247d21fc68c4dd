"""The large products outside the recurrence: the input's share of every gate, the gradients of x and of the weights.

A library's products are about as fast, but sum in an order that depends on the number of threads. Here the order of
every sum is fixed. Threads share rows or panels of the result, never the terms of one sum. The gradient of a weight
sums over all steps and rows; these are cut into fixed chunks, which are added one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from elman.cpu.codegen import code_cache
from elman.cpu.codegen.formats import Format
from elman.cpu.codegen.program import INT, Program, Value, of_table
from elman.cpu.kernels import packing, product
from elman.cpu.kernels.product import ACCUMULATORS, Cut, chosen, cut, panels
from elman.cpu.layer.kernel_tasks import LEAST_ROWS, Sizes, copy, fill, pack_panels
from elman.cpu.scripts import threads
from elman.cpu.scripts.script import Array, Script, Task

CHUNK = 512  # rows of a gradient's factors in a chunk; a multiple of it if there would be more than CHUNKS chunks
CHUNKS = 64  # chunks of a gradient, at most


class Linear:
    """The product x weight^T + bias; with transposed=False, x weight + bias.

    weight: (N, K), or (K, N) with transposed=False. bias: (N,), or None for zero. index: for each row of the product,
    the row of x that it multiplies; None if these are the same. The tasks in `packing` have to run before those that a
    call of this object returns.
    """

    def __init__(
        self,
        script: Script,
        sizes: Sizes,
        weight: Array,
        bias: Array | None,
        shape: tuple[int, int],
        rows: int,
        *,
        transposed: bool = True,
        index: Array | None = None,
    ) -> None:
        self.sizes, form = sizes, sizes.format
        self.units, self.depth = shape if transposed else (shape[1], shape[0])
        blocks = -(-self.units // sizes.lanes)
        tiling = product.tiling(max(rows, 1), blocks, 1, self.depth)
        self.tall, self.panels = tiling.rows, cut(blocks, tiling.blocks)
        self.in_place, self.weight = transposed and sizes.in_place and index is None, weight
        self.packed = script.kept(0 if self.in_place else blocks * sizes.lanes * self.depth)
        self.bias = script.kept(blocks * sizes.lanes)
        self.index_of_rows = index
        if self.in_place:
            kernel, words = 0, ()
        elif transposed:
            kernel = packing.transposed(form)
            words = (weight, weight.row, 0, 1, self.depth, self.units, self.packed, 1, 0)
        else:
            kernel = packing.rows(form)
            words = (weight, weight.row, self.depth, self.units, self.packed, self.depth, 0)
        more = () if transposed else (0, weight, 0)  # `ROWS` without an index
        parts = pack_panels(self.panels, self.depth * self.units, sizes.threads)
        self.packing = [Task(kernel, (*words, *part, *more)) for part in parts] if kernel else []
        if bias is None:
            self.packing.append(fill(self.bias, 1, blocks * sizes.lanes))
        else:
            self.packing.append(copy(bias, self.bias, 1, self.units, padded=blocks * sizes.lanes))

    def __call__(self, x: Array, out: Array, rows: int, *, add: bool = False) -> list[Task]:
        """Returns the tasks that write the product of x (M, K) to out (M, N). With `add`, they add it to out."""
        form, tasks = self.sizes.format, []
        kernel = linear(form, add)
        work, available = threads.effective_rows(rows) * self.units * self.depth, self.sizes.threads
        parts = [(*part, 0, self.panels.number) for part in threads.shares(rows, work, available)]
        if rows < LEAST_ROWS * available:  # few rows: threads share panels instead
            parts = [(0, rows, k, k + n) for k, n in threads.shares(self.panels.number, work, available)]
        for first, count, *some in parts:
            tiles = cut(count, self.tall)
            words = (x, x.row, self.depth, self.packed, self.bias, out, out.row, self.units, *some, *self.panels[1:])
            words += (self.weight, self.weight.row, product.dots(form) if self.in_place else 0, first)
            four = product.four_tiles(count, self.tall, self.panels, 1, form, self.index_of_rows is not None)
            tasks.append(Task(kernel, (*words, *tiles, *four, self.index_of_rows or 0, rows)))
        return tasks


class Factor(NamedTuple):
    """A factor of a weight's gradient: a matrix (T*B, width), or (N, width) for N packed rows.

    It may lie in several pieces, one below the other. A left factor has one piece.
    """

    pieces: tuple[tuple[Array, int], ...]  # each array, and its number of rows
    width: int
    where: Array | None = None  # the index that finds its rows; None if they lie in order
    other: Array | None = None  # holds the rows of the first step, whose index is negative


class Gradient(NamedTuple):
    """Two results: out (M, N) = left^T right, and sums (M,) = the sum of left over all rows.

    Either may be missing. With `add`, they are added to what `out` and `sums` hold.
    """

    left: Factor
    right: Factor | None
    out: Array | None
    sums: Array | None
    add: bool


def gradients(script: Script, sizes: Sizes, products: Sequence[Gradient]) -> None:
    """Writes the stages that compute all gradients. A factor that several products share is packed once."""
    lanes, form = sizes.lanes, sizes.format
    depth = sizes.total
    chunk = min(depth, max(CHUNK, -(-depth // (CHUNKS * CHUNK)) * CHUNK))
    chunks = [(n * chunk, chunk) for n in range(-(-depth // chunk))]
    if chunks:
        begin, _ = chunks[-1]
        chunks[-1] = begin, depth - begin
    zeros = script.room(product.ACCUMULATORS * lanes)
    script.stage([fill(zeros, 1, product.ACCUMULATORS * lanes)])

    lefts: list[_Packed] = []
    rights: list[_Packed] = []

    def packed(factor: Factor, left: bool) -> _Packed:
        known = lefts if left else rights
        for each in known:
            if each.factor == factor:
                return each
        known.append(_Packed(script, sizes, factor, chunk, left))
        return known[-1]

    sums_up: list[tuple[_Packed, _Packed, Array, bool]] = []  # left, right, out, whether it adds to out
    after: list[tuple[bool, Task]] = []
    for left_factor, right_factor, out, sums, add in products:
        left = packed(left_factor, left=True)
        if out is not None and right_factor is not None:
            right, adds = packed(right_factor, left=False), add
            height, width = left_factor.width, right_factor.width
            if height % lanes or width % lanes:  # the kernel writes whole vectors: into a padded room
                room = script.room(left.padded * right.padded, row=right.padded)
                after.append((add, copy(room, out, height, width, add=add)))
                out, adds = room, False
            sums_up.append((left, right, out, adds))
        if sums is not None:
            after.append((add, copy(left.sums, sums, 1, left_factor.width, add=add)))

    kernel, factors = outer(form), (*lefts, *rights)
    for number, (begin, count) in enumerate(chunks):
        script.stage([task for factor in factors for task in factor.pack(begin, count)])
        now: list[tuple[bool, Task]] = []
        for left, right, out, adds in sums_up:
            words = (left.room, right.room, out, zeros, int(number == 0 and not adds), out.row, count)
            work = count * left.factor.width * right.factor.width
            parts = threads.shares(left.panels.number, work, sizes.threads)
            tiles = _outer_tiles(right.panels, lanes, form)
            now += [(adds, Task(kernel, (*words, *part, *tiles))) for part in parts]
        _in_turn(script, now)
    _in_turn(script, after)


@cache
def _outer_tiles(panels: Cut, lanes: int, form: Format) -> tuple[int, ...]:
    """Returns the last words of `OUTER`: the panels of the right factor, and the tiles."""
    return *panels, *product.four_tiles(lanes, OUTER_ROWS, panels, 1, form)


def _in_turn(script: Script, tasks: list[tuple[bool, Task]]) -> None:
    """Writes a stage of all tasks that add to nothing, then one stage for each of the other tasks.

    A task that adds comes after the one that wrote what it adds to.
    """
    script.stage([task for adds, task in tasks if not adds])
    for adds, task in tasks:
        if adds:
            script.stage([task])


class _Packed:
    """A factor packed into panels, one chunk of its rows at a time.

    The panels of a left factor are one vector wide. Its rows are added up in `sums` while they are packed.
    """

    def __init__(self, script: Script, sizes: Sizes, factor: Factor, chunk: int, left: bool) -> None:
        self.sizes, self.factor, self.left = sizes, factor, left
        blocks = -(-factor.width // sizes.lanes)
        tall = -(-sizes.lanes // cut(sizes.lanes, OUTER_ROWS).number)  # rows of the tallest tile
        self.panels = cut(blocks, 1 if left else product.tiling(tall, blocks, 1, CHUNK).blocks)
        self.padded = blocks * sizes.lanes
        self.room, self.sums = script.room(chunk * self.padded), script.room(self.padded)
        self.kernel = (packing.columns if left else packing.rows)(sizes.format)

    def pack(self, begin: int, count: int) -> list[Task]:
        """Returns the tasks that pack `count` rows of the factor, from row `begin` on."""
        tasks, first, width = [], 0, self.factor.width
        parts = pack_panels(self.panels, count * width, self.sizes.threads)
        for array, rows in self.factor.pieces:
            low, high = max(begin, first), min(begin + count, first + rows)
            if low < high:
                start = array.at(row=low - first) if self.factor.where is None else array
                words = (start, array.row, high - low, width, self.room, count, low - begin)
                for part in parts:
                    rest = (*part[:2], self.sums, int(low > 0)) if self.left else (*part, *self._elsewhere(low))
                    tasks.append(Task(self.kernel, (*words, *rest)))
            first += rows
        return tasks

    def _elsewhere(self, low: int) -> tuple[int | Array, ...]:
        """Returns the last words of `ROWS` for the rows from `low` on: the index, and where negative entries read."""
        _, _, index, other = self.factor
        if index is None:
            return 0, self.room, 0
        other = other or self.factor.pieces[0][0]
        return index.at(column=low), other.at(row=low), other.row


OUTER_ROWS = 6  # rows in a tile of `outer`, at most


# The words of `linear`. It computes out[m, n] = bias[n] + sum over k of A[m, k] B[k, n]; with `add`, it adds this to
# out. M, K, N are the sizes of m, k, n. A block is one vector of `lanes` units n, a panel some blocks. A task does some
# rows m and some panels. The kernel reads every word once, when it begins, from a table that is aligned to 8 bytes.
# It never writes to the table. A word is the address of an array (of its first row, panel or block, whatever the task
# does) only if its line names overlap and alignment. Distances count numbers, not bytes. "One number" is 4 bytes in
# float32 and 8 bytes in float64: `Program.load`, `broadcast` and `store` promise LLVM only this; with a mask they
# promise nothing. `Program.load_word` states no alignment; LLVM then assumes that of the type, at most 8 bytes.
#
# A          (M, K), or (T*B, K) with `index`; read; may overlap all but out; aligned to one number
# A_row      distance from row to row of A; read
# K          depth of the sums; read
# B          panels, K * lanes numbers a block; read if `dots` is 0; may overlap all but out; aligned to one number
# bias       (N,), filled up to whole blocks; read; may overlap all but out; aligned to one number
# out        (M, N); written, with `add` also read; may overlap no other array; needs no alignment (masks)
# out_row    distance from row to row of out, at least N; read
# units      N; read
# first      number of the first panel of the task; read
# panels     number of the panel after the last one of the task; read
# narrow     blocks in a narrow panel; read
# wider      how many panels, the first ones of all, have one block more than a narrow one; read
# W          (N, K), not packed; read if `dots` is not 0; may overlap all but out; needs no alignment (masks)
# W_row      distance from row to row of W; read
# dots       address of `product.dots` to multiply by W, or 0 to multiply by B; 0 if there is an index; read
# first row  number of the first row m of the task; read
# tiles      number of tiles that the rows of the task are cut into; read
# short      rows in a short tile; read
# taller     how many tiles, the first ones, have one row more than a short one; read
# tile 0     address of the code for a short tile of a narrow panel, or 0 if the task has none; read
# tile 1     address of the code for a short tile of a panel with one block more, or 0; read
# tile 2     address of the code for a tile with one row more, of a narrow panel, or 0; read
# tile 3     address of the code for a tile with one row more, of a panel with one block more, or 0; read
# index      (M,) words, rows of A, none negative; or 0: no index; read; may overlap all but out; aligned to 8 bytes
# end        M: the index is read no further when rows are prefetched; read
LINEAR = ("A", "A_row", "K", "B", "bias", "out", "out_row", "units", "first", "panels", "narrow", "wider")
LINEAR += ("W", "W_row", "dots", "first row", "tiles", "short", "taller", "tile 0", "tile 1", "tile 2", "tile 3")
LINEAR += ("index", "end")


@code_cache.function
def linear(form: Format, add: bool) -> Program:
    """Returns the address of the kernel that reads the words `LINEAR`. With `add`, it adds to what `out` holds."""
    p, word = of_table("linear", LINEAR, ("A", "B", "bias", "out", "W"), form)
    lanes, scratch = p.lanes, p.scratch(ACCUMULATORS)
    for first, width in panels(p, word["panels"], word["narrow"], word["wider"], word["first"]):
        b, start = p.at(word["B"], first * word["K"] * lanes), p.at(word["bias"], first * lanes)
        for begin, count in panels(p, word["tiles"], word["short"], word["taller"]):
            row = begin + word["first row"]
            a, a_row, out_row = p.at(word["A"], row * word["A_row"]), word["A_row"], width * lanes
            with p.when(word["dots"].equals(0)):
                four = [word[f"tile {kind}"] for kind in range(4)]
                tile_of = chosen(p, four, count > word["short"], width > word["narrow"])
                indexed = word["index"] > 0
                with p.when(indexed), p.when(first.equals(word["first"])):
                    ask_for_rows(p, word, row + count, count)
                a_k = p.select(indexed, word["index"] + row * 8, p.int(1))
                of_tile = p.select(indexed, word["A"], a), a_row, a_k, word["K"]
                p.call(tile_of, *of_tile, b, start, p.int(0), scratch, out_row, b)
            with p.when(word["dots"] > 0), p.loop(0, width) as j:
                unit = (first + j) * lanes
                of_block = p.at(word["W"], unit * word["W_row"]), word["W_row"], word["units"] - unit
                here = p.at(start, j * lanes), p.at(scratch, j * lanes), out_row
                p.call(word["dots"], a, a_row, count, word["K"], *of_block, *here)
            with p.loop(0, width) as j:
                mask = p.first_lanes(word["units"] - (first + j) * lanes)
                with p.loop(0, count) as r:
                    target = p.at(word["out"], (row + r) * word["out_row"] + (first + j) * lanes)
                    value = p.load(scratch, (r * width + j) * lanes)
                    p.store(value + p.load(target, 0, mask) if add else value, target, 0, mask)
    return p


def ask_for_rows(p: Program, word: dict[str, Value], row: Value, count: Value) -> None:
    """Prefetches the rows of A that the next tile reads by the index. They lie anywhere: no processor foresees them."""
    index, end = p.address(word["index"]), word["end"] - 1
    with p.loop(0, count) as r:
        soon = p.load_word(index, p.minimum(row + r, end), INT)
        with p.loop(0, word["K"], 64 // p.format.bytes) as k:
            p.prefetch(word["A"], soon * word["A_row"] + k)


# The words of `outer`. It computes sums[m, n] = sum over k of left[k, m] right[k, n], or adds this to sums. M, K, N are
# the sizes of m, k, n. A block is one vector of `lanes` columns of a factor, the last one filled up with zeros. A task
# does some blocks of m and all of n. It cuts a block of m into tiles of at most OUTER_ROWS rows: the first ones may
# have one row more than the others, the short ones. The kernel reads every word once, when it begins, from a table that
# is aligned to 8 bytes. It never writes to the table. A word is the address of an array (of its first row, panel or
# block, whatever the task does) only if its line names overlap and alignment. Distances count numbers, not bytes. "One
# number" is 4 bytes in float32 and 8 in float64: `Program.load`, `broadcast` and `store` promise LLVM this and no more.
#
# left       panels of one block, each (K, lanes); read; may overlap all but sums; aligned to one number
# right      panels, K * lanes numbers a block; read; may overlap all but sums; aligned to one number
# sums       (M, N) up to whole blocks; written and read; may overlap no other array; aligned to one number
# zeros      (lanes * blocks of the widest panel); read if `fresh`; may overlap all but sums; aligned to one number
# fresh      1 to begin at zero, whatever sums holds; 0 to add to what sums holds; read
# padded     distance from row to row of sums, at least N up to whole blocks; read
# K          depth of the sums: rows of both factors in a chunk; read
# first      number of the first block of m of the task; read
# count      number of blocks of m of the task; read
# panels     number of panels of right; read
# narrow     blocks in a narrow panel of right; read
# wider      how many panels of right, the first ones, have one block more than a narrow one; read
# tile 0     address of the code for a short tile of a narrow panel, or 0 if there is none; read
# tile 1     address of the code for a short tile of a panel with one block more, or 0; read
# tile 2     address of the code for a tile with one row more, of a narrow panel, or 0; read
# tile 3     address of the code for a tile with one row more, of a panel with one block more, or 0; read
OUTER = ("left", "right", "sums", "zeros", "fresh", "padded", "K", "first", "count", "panels", "narrow", "wider")
OUTER += tuple(f"tile {kind}" for kind in range(4))  # as `four_tiles` gives them


@code_cache.function
def outer(form: Format) -> Program:
    """Returns the address of the kernel that reads the words `OUTER`, and adds up the gradient of a weight."""
    p, word = of_table("outer", OUTER, ("left", "right", "sums", "zeros"), form)
    lanes = p.lanes
    depth, padded, narrow, fresh = word["K"], word["padded"], word["narrow"], word["fresh"] > 0
    rows = cut(lanes, OUTER_ROWS)
    for first, width in panels(p, word["panels"], narrow, word["wider"]):
        b = p.at(word["right"], first * depth * lanes)
        with p.loop(0, word["count"]) as ahead:
            block = word["first"] + ahead
            for number in range(rows.number):  # tiles of the block
                row = number * rows.narrow + min(number, rows.wider)
                a = p.at(word["left"], block * depth * lanes + row)
                sums = p.at(word["sums"], (block * lanes + row) * padded + first * lanes)
                start, start_row = p.select(fresh, word["zeros"], sums), p.select(fresh, 0, padded)
                kind = 2 * (number < rows.wider)
                tile_of = p.select(width > narrow, word[f"tile {kind + 1}"], word[f"tile {kind}"])
                p.call(tile_of, a, p.int(1), p.int(lanes), depth, b, start, start_row, sums, padded, b)
    return p
