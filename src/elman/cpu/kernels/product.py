"""A product of matrices, in parts: how it is cut, and a tile of rows times a panel.

A panel is `vectors` vectors wide and holds its part of the matrix in the order in which a tile reads it:
for every k, vector after vector. Lanes beyond the matrix are zero, so that a tile needs no masks.
Every element is summed in the same order, whatever the tile: how rows are cut into tiles, or threads, does
not change a bit. It is summed in blocks of k, since the error of a single chain grows with its length.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

from elman.cpu.codegen import code_cache, llvm
from elman.cpu.codegen.formats import Format
from elman.cpu.codegen.program import INT, POINTER, Program, Value
from elman.cpu.scripts.tape import decided, several

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
    return Cut(number, count // number, count % number) if number else Cut(0, 0, 0)


class Tiling(NamedTuple):
    """How a product of `rows` rows and `blocks` blocks of units is cut."""

    rows: int  # at most so many rows in a tile
    blocks: int  # at most so many blocks of units in a panel


# Cycles until a vector of weights is there, from the first-level cache, the second, and beyond.
FIRST_CYCLES, SECOND_CYCLES, FAR_CYCLES = 0.5, 1.6, 5.0


def _cycles_again(read: int) -> float:
    """When it comes from the last so many bytes that were read, in the same order."""
    first, second = llvm.target().caches
    return FIRST_CYCLES if read <= first else SECOND_CYCLES if read <= second else FAR_CYCLES


def _cycles_to_and_fro(read: int, panel: int) -> float:
    """When all was read once since, panel by panel in the opposite order: what a cache holds of it was read last."""
    held = [min(1.0, size / read) if panel <= size else 0.0 for size in llvm.target().caches]
    first, second = held[0], max(held)
    return FIRST_CYCLES * first + SECOND_CYCLES * (second - first) + FAR_CYCLES * (1.0 - second)


TALLEST, BROADEST = 12, 24  # rows and blocks of units that a tile is tried with
MANY = 600  # rows from which on more of them change nothing, so that a new length asks for nothing new


def tiling(rows: int, blocks: int, vectors_per_block: int, depth: int, form: Format) -> Tiling:
    """The cut that takes the fewest cycles by a simple count: see `_cycles`."""
    return decided(lambda rows: _tiling(min(rows, MANY), blocks, vectors_per_block, depth, form), rows)


@cache
def _tiling(rows: int, blocks: int, vectors_per_block: int, depth: int, form: Format) -> Tiling:
    registers = llvm.target().registers
    best, fewest = Tiling(1, 1), float("inf")
    cuts = [cut(rows, r) for r in range(1, TALLEST + 1)]
    for n, (of_tiles, of_panels) in enumerate(_cycles(blocks, vectors_per_block, depth, form), start=1):
        v = n * vectors_per_block
        for r, (number, narrow, wider) in enumerate(cuts, start=1):
            if r * v + r + 1 > registers and (r, n) != (1, 1):
                break
            cycles = (number - wider) * of_tiles[narrow] + of_panels[narrow]
            if wider:
                cycles += wider * of_tiles[narrow + 1]
            if cycles < fewest or (cycles == fewest and (r, n) < best):
                best, fewest = Tiling(r, n), cycles
    return best


@cache
def _cycles(blocks: int, vectors_per_block: int, depth: int, form: Format) -> list[tuple[list[float], list[float]]]:
    """For panels of n = 1, 2, ... blocks: the cycles of a tile of r rows in every panel, and of reaching the panels
    for the first tile of r rows, both by r. They do not depend on how many rows there are.

    A tile of r rows and v vectors needs, for every k, r v multiply-adds, two in a cycle; no fewer than four cycles,
    since each waits for the one before; r + v loads, two in a cycle; and time to bring v vectors from where they
    are: for the first tile of a panel the whole matrix was read since, for the others the panel. Accumulators, the r
    broadcast numbers and one vector of weights have to stay in registers.
    """
    target = llvm.target()
    of_block = depth * vectors_per_block * target.vector_bytes
    found: list[tuple[list[float], list[float]]] = []
    for n in range(1, BROADEST + 1):
        most = (target.registers - 1) // (n * vectors_per_block + 1)  # rows
        of_tiles, of_panels = [0.0] * (TALLEST + 1), [0.0] * (TALLEST + 1)
        for wide, times in cut(blocks, n).heaps():
            v, panel = wide * vectors_per_block, wide * of_block
            far, near = _cycles_to_and_fro(blocks * of_block, panel), _cycles_again(panel)
            for r in range(1, min(TALLEST, max(most, 1)) + 1) if times else ():
                at_least = max(r * v / 2, 4, (r + v) / 2)
                of_tiles[r] += times * (max(at_least, near * v) + 0.05 * (r + v))
                of_panels[r] += times * max(0.0, far * v - max(r * v / 2, 4, near * v))
        found.append((of_tiles, of_panels))
    return found


TILE = {"A": POINTER, "A_row": INT, "A_k": INT, "K": INT, "B": POINTER}
TILE |= {"start": POINTER, "start_row": INT, "out": POINTER, "out_row": INT, "ahead": POINTER}


@code_cache.function
def tile(rows: int, vectors: int, form: Format, fetch: bool = False, indexed: bool = False) -> Program:
    """The address of: out[r][v] = start[r][v] + sum over k of A[r, k] B[k][v].

    A has rows A_row apart and steps of k A_k apart; `start` and `out`, vectors beside each other, rows
    start_row and out_row apart. `indexed`: A[index[r], k] instead, its steps of k side by side; A_k is the address of
    the index. With `fetch` it asks for memory from `ahead` on, one in UNROLL of what B has.
    """
    lanes, module = form.lanes, llvm.new_module(f"tile {rows} x {vectors}")
    p = Program(module, "tile", TILE, form)
    a, b, start, out = (p.given[name] for name in ("A", "B", "start", "out"))
    a_k, out_row = p.given["A_k"], p.given["out_row"]
    numbers: list[Any] = list(range(rows))
    if indexed:
        index, a_k = p.address(a_k), p.int(1)
        numbers = [p.load_word(index, r, INT) for r in numbers]
    row_of = [p.at(a, p.given["A_row"] * number) for number in numbers]

    def add_up(begin: Value, end: Value, at_once: int, sums: list[Value]) -> list[Value]:
        """sums, r v of them, and A[r, k] B[k][v] from begin to end."""
        loop = p.loop_carrying(begin, end, at_once, *sums)
        sums = list(loop.carried)
        if fetch and at_once == UNROLL:
            for v in range(vectors):
                p.prefetch(
                    p.given["ahead"], p.quotient(loop.index * (vectors * lanes), p.int(UNROLL)) + v * lanes, near=False
                )
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
    return p


def four_tiles(
    rows: int, most: int, blocks: Cut, vectors_per_block: int, form: Format, indexed: bool = False
) -> Sequence[int]:
    """The tiles that rows, cut into heaps of at most so many, and blocks so cut need: `chosen` picks one."""

    def find(rows: int) -> Sequence[int]:
        _, narrow, wider = cut(rows, most)
        return _four_tiles(narrow, wider > 0, blocks, vectors_per_block, form, indexed)

    return several(find, rows, 4)


@cache
def _four_tiles(
    narrow: int, wider: bool, blocks: Cut, vectors_per_block: int, form: Format, indexed: bool
) -> tuple[int, ...]:
    """For tiles of `narrow` rows, and where there are `wider` ones of one more. Zero for a shape that does not occur."""
    shapes = [
        (narrow + tall, blocks.narrow + wide, tall <= wider and wide <= blocks.wider)
        for tall in (0, 1)
        for wide in (0, 1)
    ]
    return tuple(
        [tile(r, n * vectors_per_block, form, indexed=indexed) if occurs and n else 0 for r, n, occurs in shapes]
    )


_tables: list[array[int]] = []  # whose addresses scripts hold


def tile_table(
    rows: int | None, most: int, blocks: Cut, vectors_per_block: int, form: Format, fetch: bool = False
) -> int:
    """The address of the tiles for rows in heaps of at most so many, and blocks so cut: that of r rows is number 2 r,
    and of one block more 2 r + 1. Zero for those that do not occur; all of them may, if the rows are None."""

    def find(rows: int) -> Sequence[int]:
        _, narrow, wider = cut(rows, most)
        heaps = (narrow, narrow + 1) if wider else (narrow,)
        return (_tile_table(heaps, most, blocks, vectors_per_block, form, fetch).buffer_info()[0],)

    if rows is None:
        every = tuple(range(1, most + 1))
        return _tile_table(every, most, blocks, vectors_per_block, form, fetch).buffer_info()[0]
    return several(find, rows, 1)[0]


@cache
def _tile_table(
    heaps: tuple[int, ...], most: int, blocks: Cut, vectors_per_block: int, form: Format, fetch: bool
) -> array[int]:
    """Kept until the process ends, as the tiles are: where threads race, the cache forgets all but one of theirs."""
    table = array("q", [0] * (2 * most + 2))
    _tables.append(table)
    for r in heaps:
        for wide in (0, 1):
            if r and blocks.narrow and wide <= blocks.wider:
                table[2 * r + wide] = tile(r, (blocks.narrow + wide) * vectors_per_block, form, fetch)
    return table


def chosen(p: Program, four: list[Value], taller: Value, wider: Value) -> Value:
    """The one of `four_tiles` with or without one more row, with or without one more block."""
    return p.select(taller, p.select(wider, four[3], four[2]), p.select(wider, four[1], four[0]))


def panels(
    p: Program, number: Value, narrow: Value, wider: Value, first: Value | int = 0, backwards: Value | None = None
) -> Iterator[tuple[Value, Value]]:
    """A loop over panels from `first` up to `number`: the first block of each and how many it has, `narrow`, or in
    the first `wider` one more. With `backwards` true, the last panel comes first."""
    with p.loop(first, number) as panel:
        if backwards is not None:
            panel = p.select(backwards, number - 1 - panel, panel)
        extra = p.select(panel < wider, 1, p.int(0))
        yield panel * narrow + p.minimum(panel, wider), narrow + extra


DOTS = {"A": POINTER, "A_row": INT, "rows": INT, "K": INT, "W": POINTER, "W_row": INT, "units": INT}
DOTS |= {"start": POINTER, "out": POINTER, "out_row": INT}


@code_cache.function
def dots(form: Format) -> Program:
    """The address of: out[r][unit] = start[unit] + sum over k of A[r, k] W[unit, k], for one vector of units.

    For a few rows, where bringing the weights into panels would take longer than multiplying them. It adds up in
    another order than `tile`. Where there are fewer units than lanes, the last one stands for the missing ones.
    """
    p = Program(llvm.new_module("dots"), "dots", DOTS, form)
    lanes, given = p.lanes, p.given
    weights = [p.at(given["W"], p.minimum(p.int(lane), given["units"] - 1) * given["W_row"]) for lane in range(lanes)]
    with p.loop(0, given["rows"]) as r:
        row = p.at(given["A"], r * given["A_row"])
        loop = p.loop_carrying(0, given["K"], lanes, *[p.splat(0.0)] * lanes)
        mask = p.first_lanes(given["K"] - loop.index)
        numbers = p.load(row, loop.index, mask)
        sums = [p.fma(numbers, p.load(w, loop.index, mask), s) for w, s in zip(weights, loop.carried, strict=True)]
        parts = turned(p, loop.end(sums))
        while len(parts) > 1:
            parts = [a + b for a, b in zip(parts[::2], parts[1::2], strict=True)]
        p.store(parts[0] + p.load(given["start"]), given["out"], r * given["out_row"])
    return p


def turned(p: Program, rows: list[Value]) -> list[Value]:
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
