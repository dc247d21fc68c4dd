"""The recurrent product: packing a weight matrix into panels, and a tile of rows times a panel.

A panel is `vectors` vectors wide and holds its part of the matrix in the order in which a tile reads it:
for every k, vector after vector. Lanes beyond the matrix are zero, so that a tile needs no masks.
Every element is one chain of fused multiply-adds over k, whatever the tile: how rows are cut into
tiles, or threads, does not change a bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from elman.cpu import llvm
from elman.cpu.program import INT, POINTER, Program, Value

UNROLL = 4  # steps of k in one round of a tile's loop


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
            for tall, many in balanced(rows, r):
                for wide, times in balanced(blocks, n):
                    v = wide * vectors_per_block
                    cycles += many * times * (max(tall * v / 2, 4, 2 * v) + 0.05 * (tall + v))
            if cycles < fewest:
                best, fewest = Tiling(r, n), cycles
    return best


def balanced(count: int, most: int) -> list[tuple[int, int]]:
    """`count` things in as few equal heaps as hold at most `most`: sizes, which differ by one, and how many of each."""
    heaps = -(-count // most)
    return [(count // heaps + 1, count % heaps), (count // heaps, heaps - count % heaps)]


TILE = {"A": POINTER, "A_row": INT, "K": INT, "B": POINTER, "start": POINTER, "start_row": INT, "out": POINTER}


@cache
def tile(rows: int, vectors: int, dtype_bytes: int) -> int:
    """The address of: out[r][v] = start[r][v] + sum over k of A[r, k] B[k][v].

    A has rows A_row apart, `start` (vectors beside each other) rows start_row apart; out has none between.
    """
    lanes = llvm.target().lanes(dtype_bytes)
    module = llvm.new_module(f"tile {rows} x {vectors}")
    p = Program(module, "tile", TILE, dtype_bytes, lanes)
    a, b, start, out = (p.given[name] for name in ("A", "B", "start", "out"))
    row_of = [p.at(a, p.given["A_row"] * r) for r in range(rows)]
    sums = [
        p.load(start, p.given["start_row"] * r + v * lanes)  # r v accumulators
        for r in range(rows)
        for v in range(vectors)
    ]
    unrolled = p.whole(p.given["K"], UNROLL)
    for begin, end, at_once in ((0, unrolled, UNROLL), (unrolled, p.given["K"], 1)):
        loop = p.loop_carrying(begin, end, at_once, *sums)
        sums = list(loop.carried)
        ahead = p.at(b, loop.index * (vectors * lanes))
        for k in range(at_once):
            numbers = [p.broadcast(p.at(row, loop.index), k) for row in row_of]
            for v in range(vectors):
                weights = p.load(ahead, (k * vectors + v) * lanes)
                for r in range(rows):
                    sums[r * vectors + v] = p.fma(numbers[r], weights, sums[r * vectors + v])
        sums = loop.end(sums)
    for position, total in enumerate(sums):
        p.store(total, out, position * lanes)
    p.done()
    return llvm.addresses(module, ["tile"])[0]


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
