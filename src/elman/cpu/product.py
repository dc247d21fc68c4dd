"""The recurrent product: packing a weight matrix into panels, and a tile of rows times a panel.

A panel is `vectors` vectors wide and holds its part of the matrix in the order in which a tile reads it:
for every k, vector after vector. Lanes beyond the matrix are zero, so that a tile needs no masks.
Every element is summed in the same order, whatever the tile: how rows are cut into tiles, or threads, does
not change a bit. It is summed in blocks of k, since the error of a single chain grows with its length.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from elman.cpu import llvm
from elman.cpu.program import INT, POINTER, Program, Value

ACCUMULATORS = 32  # vectors that a tile has, at most; more only where a single block of units has more
BLOCK = 128  # steps of k that are summed from zero, a power of two
UNROLL = 4  # steps of k in one round of a tile's loop


class Cut(NamedTuple):
    """Things in as few heaps as possible: `number` of them, the first `wider` with one more than `narrow`."""

    number: int
    narrow: int
    wider: int

    def heaps(self) -> list[tuple[int, int]]:
        """The two sizes, and how many heaps have each."""
        return [(self.narrow + 1, self.wider), (self.narrow, self.number - self.wider)]


def cut(count: int, most: int) -> Cut:
    """`count` things in heaps of at most `most`, as equal as can be."""
    number = -(-count // most)
    return Cut(number, count // number, count % number)


class Tiling(NamedTuple):
    """How a product of `rows` rows and `blocks` blocks of units is cut."""

    rows: int  # at most so many rows in a tile
    blocks: int  # at most so many blocks of units in a panel


@cache
def tiling(rows: int, blocks: int, vectors_per_block: int) -> Tiling:
    """The cut that takes the fewest cycles by a simple count.

    A tile of r rows and v vectors needs, for every k, r v multiply-adds, two in a cycle; no fewer than
    four cycles, since each waits for the one before; and time to bring v vectors from the second-level
    cache. Its accumulators, the r broadcast numbers and one vector of weights have to stay in registers.
    """
    registers = llvm.target().registers
    best, fewest = Tiling(1, 1), float("inf")
    for r in range(1, 13):
        for n in range(1, 25):
            v = n * vectors_per_block
            if r * v + r + 1 > registers and (r, n) != (1, 1):
                continue
            cycles = 0.0
            for tall, many in cut(rows, r).heaps():
                for wide, times in cut(blocks, n).heaps():
                    v = wide * vectors_per_block
                    cycles += many * times * (max(tall * v / 2, 4, 2 * v) + 0.05 * (tall + v))
            if cycles < fewest:
                best, fewest = Tiling(r, n), cycles
    return best


TILE = {"A": POINTER, "A_row": INT, "A_k": INT, "K": INT, "B": POINTER}
TILE |= {"start": POINTER, "start_row": INT, "out": POINTER, "out_row": INT}


@cache
def tile(rows: int, vectors: int, dtype_bytes: int) -> int:
    """The address of: out[r][v] = start[r][v] + sum over k of A[r, k] B[k][v].

    A has rows A_row apart and steps of k A_k apart; `start` and `out`, vectors beside each other, rows
    start_row and out_row apart.
    """
    lanes = llvm.target().lanes(dtype_bytes)
    module = llvm.new_module(f"tile {rows} x {vectors}")
    p = Program(module, "tile", TILE, dtype_bytes, lanes)
    a, b, start, out = (p.given[name] for name in ("A", "B", "start", "out"))
    a_k, out_row = p.given["A_k"], p.given["out_row"]
    row_of = [p.at(a, p.given["A_row"] * r) for r in range(rows)]

    def add_up(begin: Value, end: Value, at_once: int, sums: list[Value]) -> list[Value]:
        """sums, r v of them, and A[r, k] B[k][v] from begin to end."""
        loop = p.loop_carrying(begin, end, at_once, *sums)
        sums = list(loop.carried)
        ahead = p.at(b, loop.index * (vectors * lanes))
        for k in range(at_once):
            numbers = [p.broadcast(row, (loop.index + k) * a_k) for row in row_of]
            for v in range(vectors):
                weights = p.load(ahead, (k * vectors + v) * lanes)
                for r in range(rows):
                    sums[r * vectors + v] = p.fma(numbers[r], weights, sums[r * vectors + v])
        return loop.end(sums)

    def add_to(before: Value, before_row: Value, sums: list[Value]) -> None:
        for position, total in enumerate(sums):
            r, v = divmod(position, vectors)
            p.store(total + p.load(before, before_row * r + v * lanes), out, out_row * r + v * lanes)

    # What does not fill a block comes first, with `start`: a short product then passes through memory once.
    zero, depth = [p.splat(0.0)] * (rows * vectors), p.given["K"]
    blocks = p.whole(depth, BLOCK)
    unrolled = p.whole(depth, UNROLL)
    rest = add_up(unrolled, depth, 1, add_up(blocks, unrolled, UNROLL, zero))
    add_to(start, p.given["start_row"], rest)
    with p.loop(0, blocks, BLOCK) as begin:
        add_to(out, out_row, add_up(begin, begin + BLOCK, UNROLL, zero))
    p.done()
    return llvm.addresses(module, ["tile"])[0]


def four_tiles(rows: Cut, blocks: Cut, vectors_per_block: int, dtype_bytes: int) -> list[int]:
    """The tiles that rows and blocks so cut need: `chosen` picks one. Zero for a shape that does not occur."""
    shapes = [
        (rows.narrow + tall, blocks.narrow + wide, tall <= rows.wider and wide <= blocks.wider)
        for tall in (0, 1)
        for wide in (0, 1)
    ]
    return [tile(r, n * vectors_per_block, dtype_bytes) if occurs else 0 for r, n, occurs in shapes]


def chosen(p: Program, four: list[Value], taller: Value, wider: Value) -> Value:
    """The one of `four_tiles` with or without one more row, with or without one more block."""
    return p.select(taller, p.select(wider, four[3], four[2]), p.select(wider, four[1], four[0]))


def panels(p: Program, number: Value, narrow: Value, wider: Value) -> Iterator[tuple[Value, Value]]:
    """A loop over `number` panels: the first block of each and how many it has, `narrow`, or in the first `wider` one more."""
    with p.loop(0, number) as panel:
        extra = p.select(panel < wider, 1, p.int(0))
        yield panel * narrow + p.minimum(panel, wider), narrow + extra


# What a packing kernel is told. W has rows W_row apart and blocks of rows (gates) W_gate apart, `gates` of
# them. Every k of a panel has `vectors` vectors for each block of units; gate q fills number place + q.
# Panels are `depth` deep; k from from_k on are filled, `count` of them.
PACK = ("W", "W_row", "W_gate", "gates", "count", "units", "out", "depth", "from_k", "vectors", "place")
PACK += ("panels", "narrow", "wider")


@cache
def pack(transposed: bool, dtype_bytes: int) -> int:
    """The address of a kernel that fills panels from a matrix: W[k, unit], or transposed W[unit, k].

    Units beyond the last are zero.
    """
    lanes = llvm.target().lanes(dtype_bytes)
    module = llvm.new_module("pack")
    p = Program(module, "pack", {"table": POINTER}, dtype_bytes, lanes)
    word = {
        name: p.load_word(p.given["table"], k, POINTER if name in ("W", "out") else INT) for k, name in enumerate(PACK)
    }
    row, count, vectors, depth = (word[name] for name in ("W_row", "count", "vectors", "depth"))
    for first, width in panels(p, word["panels"], word["narrow"], word["wider"]):
        with p.loop(0, width) as block, p.loop(0, word["gates"]) as gate:
            unit = (first + block) * lanes
            inside = word["units"] - unit  # fewer than a vector in the last block
            step = width * vectors * lanes
            begin = first * depth * vectors + block * vectors + word["place"] + gate
            target = p.at(word["out"], begin * lanes + word["from_k"] * step)
            source = p.at(word["W"], gate * word["W_gate"])
            if not transposed:
                mask = p.first_lanes(inside)
                with p.loop(0, count) as k:
                    p.store(p.load(source, k * row + unit, mask), target, k * step)
                continue
            with p.loop(0, count, lanes) as k:
                mask = p.first_lanes(count - k)
                last = inside - 1
                square = [
                    p.load(source, (unit + p.minimum(p.int(lane), last)) * row + k, mask) for lane in range(lanes)
                ]
                square = [p.select(p.int(lane) < inside, v, 0.0) for lane, v in enumerate(square)]
                for lane, column in enumerate(_turned(p, square)):
                    with p.when(k + lane < count):
                        p.store(column, target, (k + lane) * step)
    p.done()
    return llvm.addresses(module, ["pack"])[0]


def _turned(p: Program, rows: list[Value]) -> list[Value]:
    """The transpose of a square of vectors: halves exchanged between rows, then halves of halves."""
    half = len(rows) // 2
    while half:
        for top in range(len(rows)):
            if not top & half:
                a, b = rows[top], rows[top + half]
                low = [lane if not lane & half else lane - half + p.lanes for lane in range(p.lanes)]
                high = [lane + half if not lane & half else lane + p.lanes for lane in range(p.lanes)]
                rows[top], rows[top + half] = p.shuffle(a, b, low), p.shuffle(a, b, high)
        half //= 2
    return rows


OUTER_ROWS = 6  # at most, in a tile of `outer`


# out[m, n] = bias[n] + sum over k of A[m, k] B[k, n], B and bias in panels; rows of A and out `A_row` and `out_row`
# apart, from `first row` on.
LINEAR = ("A", "A_row", "K", "B", "bias", "out", "out_row", "units", "panels", "narrow", "wider")
LINEAR += ("first row", "tiles", "short", "taller", "tile 0", "tile 1", "tile 2", "tile 3")


@cache
def linear(dtype_bytes: int, add: bool) -> int:
    """The address of the kernel of `LINEAR`; with `add` it adds to what `out` holds."""
    lanes = llvm.target().lanes(dtype_bytes)
    module = llvm.new_module("linear")
    p = Program(module, "linear", {"table": POINTER}, dtype_bytes, lanes)
    addresses = ("A", "B", "bias", "out")
    word = {n: p.load_word(p.given["table"], k, POINTER if n in addresses else INT) for k, n in enumerate(LINEAR)}
    scratch = p.scratch(ACCUMULATORS)
    for first, width in panels(p, word["panels"], word["narrow"], word["wider"]):
        b, start = p.at(word["B"], first * word["K"] * lanes), p.at(word["bias"], first * lanes)
        for begin, count in panels(p, word["tiles"], word["short"], word["taller"]):
            row = begin + word["first row"]
            four = [word[f"tile {kind}"] for kind in range(4)]
            tile_of = chosen(p, four, count > word["short"], width > word["narrow"])
            a = p.at(word["A"], row * word["A_row"])
            p.call(tile_of, a, word["A_row"], p.int(1), word["K"], b, start, p.int(0), scratch, width * lanes)
            with p.loop(0, width) as j:
                mask = p.first_lanes(word["units"] - (first + j) * lanes)
                with p.loop(0, count) as r:
                    target = p.at(word["out"], (row + r) * word["out_row"] + (first + j) * lanes)
                    value = p.load(scratch, (r * width + j) * lanes)
                    p.store(value + p.load(target, 0, mask) if add else value, target, 0, mask)
    p.done()
    return llvm.addresses(module, ["linear"])[0]


# sums[m, n] += sum over k of left[k, m] right[k, n], both in panels: left in blocks of one vector, right as
# `panels`, `narrow` and `wider` say. Rows of sums are `padded` apart; blocks of m from `first` on, `count` of them.
OUTER = ("left", "right", "sums", "padded", "K", "first", "count", "panels", "narrow", "wider")
OUTER += tuple(f"tile {kind}" for kind in range(4))  # as `four_tiles` gives them


@cache
def outer(dtype_bytes: int) -> int:
    """The address of the kernel of `OUTER`, which adds up the gradient of a weight."""
    lanes = llvm.target().lanes(dtype_bytes)
    module = llvm.new_module("outer")
    p = Program(module, "outer", {"table": POINTER}, dtype_bytes, lanes)
    addresses = ("left", "right", "sums")
    word = {
        name: p.load_word(p.given["table"], k, POINTER if name in addresses else INT) for k, name in enumerate(OUTER)
    }
    depth, padded, narrow = word["K"], word["padded"], word["narrow"]
    rows = cut(lanes, OUTER_ROWS)
    for first, width in panels(p, word["panels"], narrow, word["wider"]):
        b = p.at(word["right"], first * depth * lanes)
        with p.loop(0, word["count"]) as ahead:
            block = word["first"] + ahead
            for number in range(rows.number):  # of the tiles of the block
                row = number * rows.narrow + min(number, rows.wider)
                a = p.at(word["left"], block * depth * lanes + row)
                sums = p.at(word["sums"], (block * lanes + row) * padded + first * lanes)
                kind = 2 * (number < rows.wider)
                tile_of = p.select(width > narrow, word[f"tile {kind + 1}"], word[f"tile {kind}"])
                p.call(tile_of, a, p.int(1), p.int(lanes), depth, b, sums, padded, sums, padded)
    p.done()
    return llvm.addresses(module, ["outer"])[0]
