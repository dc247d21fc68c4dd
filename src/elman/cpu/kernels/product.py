"""A product of matrices, in parts: how it is cut, and the kernel of one part, a tile of rows times a panel.

A panel is a part of the matrix (K, units), `vectors` vectors of units wide. It holds its numbers in the order in which
a tile reads them: for every k, vector after vector. Lanes beyond the matrix are zero, so a tile needs no masks.

Every element of a product is summed in the same order in every tile. The result is therefore the same to the bit,
however rows are cut into tiles or shared among threads. An element is summed in blocks of k, because the error of a
single chain of additions grows with its length.
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

ACCUMULATORS = 32  # the most vectors of sums in a tile, unless one row of a single block of units has more
BLOCK = 128  # steps of k in one partial sum, which starts from zero; a power of two
UNROLL = 4  # steps of k in one round of a tile's loop


class Cut(NamedTuple):
    """Things divided into the fewest heaps. The first `wider` heaps have `narrow` + 1 things, the others `narrow`."""

    number: int  # of heaps
    narrow: int  # things in a heap that is not wider
    wider: int  # how many heaps have one thing more

    def heaps(self) -> list[tuple[int, int]]:
        """Returns the two sizes of heaps, each with the number of heaps that have this size."""
        return [(self.narrow + 1, self.wider), (self.narrow, self.number - self.wider)]


def cut(count: int, most: int) -> Cut:
    """Returns the cut of `count` things into the fewest heaps of at most `most` things, as equal as possible."""
    number = -(-count // most)
    return Cut(number, count // number, count % number) if number else Cut(0, 0, 0)


class Tiling(NamedTuple):
    """How a product is cut. A block is one vector of units; a panel has `vectors_per_block` vectors for each block."""

    rows: int  # the most rows of a tile
    blocks: int  # the most blocks of units of a panel


# Cycles to load a vector of weights from the first-level cache, from the second-level cache, and from beyond.
FIRST_CYCLES, SECOND_CYCLES, FAR_CYCLES = 0.5, 1.6, 5.0


def _cycles_again(read: int) -> float:
    """Returns the cycles to load a vector of `read` bytes of weights that are read over and over in the same order."""
    first, second = llvm.target().caches
    return FIRST_CYCLES if read <= first else SECOND_CYCLES if read <= second else FAR_CYCLES


def _cycles_to_and_fro(read: int, panel: int) -> float:
    """Returns the mean cycles to load a vector of a matrix that was last read panel by panel in the opposite order.

    The matrix has `read` bytes, and one panel of it `panel` bytes. A cache still holds what was read last, as much as
    fits into it. A cache that is smaller than a panel is of no use.
    """
    held = [min(1.0, size / read) if panel <= size else 0.0 for size in llvm.target().caches]
    first, second = held[0], max(held)
    return FIRST_CYCLES * first + SECOND_CYCLES * (second - first) + FAR_CYCLES * (1.0 - second)


TALLEST, BROADEST = 12, 24  # the most rows and the most blocks of units of the tiles that `tiling` tries
MANY = 600  # more rows get the tiling of this many, so that sequences of a new length need no new tiling


def tiling(rows: int, blocks: int, vectors_per_block: int, depth: int) -> Tiling:
    """Returns the tiling of a product of `rows` rows and `blocks` blocks of units that takes the fewest cycles.

    `_cycles` counts them.
    """
    return decided(lambda rows: _tiling(min(rows, MANY), blocks, vectors_per_block, depth), rows)


def weights_stay(rows: int, vectors: int) -> bool:
    """Whether a tile keeps its vectors of weights for a step of k in registers, and not the numbers of its rows.

    Of 16 registers it keeps whichever are fewer. With 32 a number is an operand in memory.
    """
    return vectors < rows and llvm.target().registers < 32


def registers_of(rows: int, vectors: int) -> int:
    """Returns how many registers a tile takes: its sums, what stays for a step of k, and one of the others.

    Where weights stay, one more is left free: a tile of 4 x 3, which would take all of 16, was slower than 6 x 2.
    """
    return rows * vectors + (vectors + 1 if weights_stay(rows, vectors) else rows) + 1


@cache
def _tiling(rows: int, blocks: int, vectors_per_block: int, depth: int) -> Tiling:
    registers = llvm.target().registers
    best, fewest = Tiling(1, 1), float("inf")
    cuts = [cut(rows, r) for r in range(1, TALLEST + 1)]
    for n, (of_tiles, of_panels) in enumerate(_cycles(blocks, vectors_per_block, depth), start=1):
        v = n * vectors_per_block
        for r, (number, narrow, wider) in enumerate(cuts, start=1):
            if registers_of(r, v) > registers and (r, n) != (1, 1):
                break
            cycles = (number - wider) * of_tiles[narrow] + of_panels[narrow]
            if wider:
                cycles += wider * of_tiles[narrow + 1]
            if cycles < fewest or (cycles == fewest and (r, n) < best):
                best, fewest = Tiling(r, n), cycles
    return best


@cache
def _cycles(blocks: int, vectors_per_block: int, depth: int) -> list[tuple[list[float], list[float]]]:
    """Returns two lists for each number of blocks in a panel, n = 1, 2, ...; both are indexed by r, the rows of a tile.

    The first list has the cycles that one tile of r rows takes in all panels together. The second has the cycles that
    the first tile of every panel takes in addition. All cycles are for one step of k. They do not depend on the number
    of rows of the product.

    For every k, a tile of r rows and v vectors takes the longest of:
    - r v multiply-adds, two in a cycle;
    - four cycles, because each multiply-add waits for the one before it in the same sum;
    - r + v loads, two in a cycle;
    - the loads of v vectors of weights from a cache or from memory. For the first tile of a panel, the whole matrix has
      been read since these weights were last read; for the other tiles, only the panel has.

    What `registers_of` counts has to stay in registers.
    """
    target = llvm.target()
    of_block = depth * vectors_per_block * target.vector_bytes
    found: list[tuple[list[float], list[float]]] = []
    for n in range(1, BROADEST + 1):
        v = n * vectors_per_block
        most = next((r for r in range(TALLEST, 0, -1) if registers_of(r, v) <= target.registers), 1)
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


# The arguments of a tile, which computes out[r][v] = start[r][v] + sum over k of A[r, k] B[k][v] for `rows` rows and
# `vectors` vectors of units. Distances are in numbers. "Aligned to a number": the address must be a multiple of the
# bytes of one number, but not of a vector: vectors are loaded and stored unaligned. Arrays that a tile only reads may
# overlap each other.
#   A          (rows, K), address of row 0; read, one number at a time; must not overlap out; aligned to a number
#   A_row      numbers from one row of A to the next
#   A_k        numbers from one step of k to the next in a row of A. In an indexed tile, whose steps of k are adjacent:
#              the address of an index, (rows,) 64-bit whole numbers, and row r of the tile is row index[r] of A; read;
#              must not overlap out; aligned to 8 bytes
#   K          steps of k; if 0, out becomes a copy of start
#   B          (K, vectors, lanes), a panel; read; must not overlap out; aligned to a number
#   start      (rows, vectors, lanes); read; may be out itself if start_row is out_row, must not overlap out otherwise;
#              aligned to a number
#   start_row  numbers from one row of start to the next; 0 if all rows start from the same numbers
#   out        (rows, vectors, lanes); written, and read again if K is at least BLOCK; must not overlap A, the index or
#              B, and start only as said there; aligned to a number
#   out_row    numbers from one row of out to the next
#   ahead      any address; a tile made with `fetch` prefetches memory from here on, 1/UNROLL as many bytes as B has;
#              other tiles ignore it
TILE = {"A": POINTER, "A_row": INT, "A_k": INT, "K": INT, "B": POINTER}
TILE |= {"start": POINTER, "start_row": INT, "out": POINTER, "out_row": INT, "ahead": POINTER}


@code_cache.function
def tile(rows: int, vectors: int, form: Format, fetch: bool = False, indexed: bool = False) -> Program:
    """Returns the address of the tile of `rows` rows and `vectors` vectors. `TILE` describes its arguments.

    It computes out[r][v] = start[r][v] + sum over k of A[r, k] B[k][v], with A[index[r], k] if it is indexed. With
    `fetch` it also prefetches the memory at `ahead`.
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
        """Returns the sums, one for each row and vector, with A[r, k] B[k][v] added for k from begin to end."""
        loop = p.loop_carrying(begin, end, at_once, *sums)
        sums = list(loop.carried)
        if fetch and at_once == UNROLL:
            for v in range(vectors):
                p.prefetch(
                    p.given["ahead"], p.quotient(loop.index * (vectors * lanes), p.int(UNROLL)) + v * lanes, near=False
                )
        ahead = p.at(b, loop.index * (vectors * lanes))
        for k in range(at_once):
            if weights_stay(rows, vectors):
                weights = [p.load(ahead, (k * vectors + v) * lanes) for v in range(vectors)]
                for r, row in enumerate(row_of):
                    number = p.broadcast(row, (loop.index + k) * a_k)
                    for v in range(vectors):
                        sums[r * vectors + v] = p.fma(number, weights[v], sums[r * vectors + v])
                continue
            numbers = [p.broadcast(row, (loop.index + k) * a_k) for row in row_of]
            for v in range(vectors):
                weight = p.load(ahead, (k * vectors + v) * lanes)
                for r in range(rows):
                    sums[r * vectors + v] = p.fma(numbers[r], weight, sums[r * vectors + v])
        return loop.end(sums)

    def add_to(before: Value, before_row: Value, sums: list[Value]) -> None:
        """Stores before + sums in out."""
        for position, total in enumerate(sums):
            r, v = divmod(position, vectors)
            p.store(total + p.load(before, before_row * r + v * lanes), out, out_row * r + v * lanes)

    # The last steps of k, which do not fill a block, come first and are added to `start`. The sums of a product shorter
    # than a block are then stored once and not loaded again.
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
    """Returns the addresses of the four tiles that a product of `rows` rows needs; `chosen` picks one of them.

    The rows are cut into heaps of at most `most`, the blocks of units as in `blocks`. An address is 0 for a tile that
    does not occur.
    """

    def find(rows: int) -> Sequence[int]:
        _, narrow, wider = cut(rows, most)
        return _four_tiles(narrow, wider > 0, blocks, vectors_per_block, form, indexed)

    return several(find, rows, 4)


@cache
def _four_tiles(
    narrow: int, wider: bool, blocks: Cut, vectors_per_block: int, form: Format, indexed: bool
) -> tuple[int, ...]:
    """Returns the addresses of the tiles of `narrow` rows, then of the tiles of one row more, which occur if `wider`.

    Of each height, the tile of `blocks.narrow` blocks comes first, then the tile of one block more. An address is 0 for
    a tile that does not occur.
    """
    shapes = [
        (narrow + tall, blocks.narrow + wide, tall <= wider and wide <= blocks.wider)
        for tall in (0, 1)
        for wide in (0, 1)
    ]
    return tuple(
        [tile(r, n * vectors_per_block, form, indexed=indexed) if occurs and n else 0 for r, n, occurs in shapes]
    )


_tables: list[array[int]] = []  # scripts hold the addresses of these tables, so they must not be freed


def tile_table(
    rows: int | None, most: int, blocks: Cut, vectors_per_block: int, form: Format, fetch: bool = False
) -> int:
    """Returns the address of a table of tiles, for rows in heaps of at most `most` and units cut as in `blocks`.

    Word 2 r is the address of the tile of r rows and `blocks.narrow` blocks, word 2 r + 1 that of r rows and one block
    more. A word is 0 if its tile does not occur. rows=None: every number of rows up to `most` may occur.
    """

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
    """Returns the table of tiles for heaps of these sizes.

    `_tables` keeps it until the process ends, as the code of the tiles is kept. `cache` alone would not keep it: if
    threads race to make a table for the same arguments, `cache` forgets all of their tables but one.
    """
    table = array("q", [0] * (2 * most + 2))
    _tables.append(table)
    for r in heaps:
        for wide in (0, 1):
            if r and blocks.narrow and wide <= blocks.wider:
                table[2 * r + wide] = tile(r, (blocks.narrow + wide) * vectors_per_block, form, fetch)
    return table


def chosen(p: Program, four: list[Value], taller: Value, wider: Value) -> Value:
    """Returns the one of `four_tiles` that has one row more if `taller`, and one block more if `wider`."""
    return p.select(taller, p.select(wider, four[3], four[2]), p.select(wider, four[1], four[0]))


def panels(
    p: Program, number: Value, narrow: Value, wider: Value, first: Value | int = 0, backwards: Value | None = None
) -> Iterator[tuple[Value, Value]]:
    """Loops over the panels from `first` up to `number`, and yields the first block and the number of blocks of each.

    A panel has `narrow` blocks, and each of the first `wider` panels has one more. If `backwards` is true, the last
    panel comes first, and `first` has to be 0.
    """
    with p.loop(first, number) as panel:
        if backwards is not None:
            panel = p.select(backwards, number - 1 - panel, panel)
        extra = p.select(panel < wider, 1, p.int(0))
        yield panel * narrow + p.minimum(panel, wider), narrow + extra


# The arguments of `dots`, which computes out[r][unit] = start[unit] + sum over k of A[r, k] W[unit, k] for one vector
# of units. Distances are in numbers. "Aligned to a number" is as for `TILE`. "Any alignment": every load has a mask,
# and masked loads assume no alignment. Arrays that the kernel only reads may overlap each other.
#   A        (rows, K), address of row 0, steps of k adjacent; read; must not overlap out; any alignment
#   A_row    numbers from one row of A to the next
#   rows     number of rows
#   K        steps of k
#   W        (units, K), address of the row of the vector's first unit, steps of k adjacent; read; must not overlap out;
#            any alignment
#   W_row    numbers from one row of W to the next
#   units    rows of W from there on, at least 1; no more than `lanes` of them are read
#   start    (lanes,); read again for every row; must not overlap out; aligned to a number
#   out      (rows, lanes); written, whole vectors; must not overlap A, W or start; aligned to a number
#   out_row  numbers from one row of out to the next
DOTS = {"A": POINTER, "A_row": INT, "rows": INT, "K": INT, "W": POINTER, "W_row": INT, "units": INT}
DOTS |= {"start": POINTER, "out": POINTER, "out_row": INT}


@code_cache.function
def dots(form: Format) -> Program:
    """Returns the address of the kernel that multiplies rows with weights that are not in panels: see `DOTS`.

    It serves products of a few rows, where packing the weights into panels would take longer than multiplying them. It
    adds up in another order than `tile`. If there are fewer units than lanes, the other lanes repeat the last unit.
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
    """Returns the transpose of a square of vectors, as many as a vector has lanes.

    It exchanges halves of vectors between rows, then quarters, and so on down to single lanes.
    """
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
