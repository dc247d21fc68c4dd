"""Kernels that move numbers: a matrix into panels (product.py), rows to other places; and that add rows up."""

from __future__ import annotations

from functools import cache

from elman.cpu import llvm
from elman.cpu.product import BLOCK, panels
from elman.cpu.program import INT, POINTER, Program, Value

# What a packing kernel is told. W has rows W_row apart and blocks of rows (gates) W_gate apart, `gates` of
# them. Every k of a panel has `vectors` vectors for each block of units; gate q fills number place + q.
# Panels are `depth` deep; k from from_k on are filled, `count` of them, in panels from `first` up to `panels`.
PACK = ("W", "W_row", "W_gate", "gates", "count", "units", "out", "depth", "from_k", "vectors", "place")
PACK += ("first", "panels", "narrow", "wider")
SUMMED = (*PACK, "sums", "add")  # sums[unit] [+]= sum over k, added if `add` is 1


@cache
def pack(transposed: bool, dtype_bytes: int, summed: bool = False) -> int:
    """The address of a kernel that fills panels from a matrix: W[k, unit], or transposed W[unit, k].

    Units beyond the last are zero. `summed`, for W[k, unit] of one gate: what is packed is also added up.
    """
    lanes = llvm.target().lanes(dtype_bytes)
    module = llvm.new_module("pack")
    p = Program(module, "pack", {"table": POINTER}, dtype_bytes, lanes)
    addresses = ("W", "out", "sums")
    names = SUMMED if summed else PACK
    word = {n: p.load_word(p.given["table"], k, POINTER if n in addresses else INT) for k, n in enumerate(names)}
    row, count, vectors, depth = (word[name] for name in ("W_row", "count", "vectors", "depth"))
    for first, width in panels(p, word["panels"], word["narrow"], word["wider"], word["first"]):
        with p.loop(0, width) as block, p.loop(0, word["gates"]) as gate:
            unit = (first + block) * lanes
            inside = word["units"] - unit  # fewer than a vector in the last block
            step = width * vectors * lanes
            begin = first * depth * vectors + block * vectors + word["place"] + gate
            target = p.at(word["out"], begin * lanes + word["from_k"] * step)
            source = p.at(word["W"], gate * word["W_gate"])
            mask = p.first_lanes(inside)
            if summed:
                before = p.select(word["add"] > 0, p.load(word["sums"], unit, mask), p.splat(0.0))
                total = p.loop_carrying(0, count, BLOCK, before)
                part = p.loop_carrying(total.index, p.minimum(total.index + BLOCK, count), 1, p.splat(0.0))
                values = p.load(source, part.index * row + unit, mask)
                p.store(values, target, part.index * step)
                (added,) = part.end([part.carried[0] + values])
                (sums,) = total.end([total.carried[0] + added])
                p.store(sums, word["sums"], unit, mask)
            elif transposed:
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
            else:
                with p.loop(0, count) as k:
                    p.store(p.load(source, k * row + unit, mask), target, k * step)
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


# out[r, n] [+]= source[r, n] for `units` of n; zero from there up to `padded`.
COPY = ("source", "source_row", "out", "out_row", "rows", "units", "padded")


@cache
def copy(dtype_bytes: int, add: bool = False) -> int:
    """The address of the kernel of `COPY`; with `add` it adds to what `out` holds."""
    lanes = llvm.target().lanes(dtype_bytes)
    module = llvm.new_module("copy")
    p = Program(module, "copy", {"table": POINTER}, dtype_bytes, lanes)
    addresses = ("source", "out")
    word = {n: p.load_word(p.given["table"], k, POINTER if n in addresses else INT) for k, n in enumerate(COPY)}
    with p.loop(0, word["rows"]) as r, p.loop(0, word["padded"], lanes) as n:
        inside, wanted = p.first_lanes(word["units"] - n), p.first_lanes(word["padded"] - n)
        value, target = p.load(word["source"], r * word["source_row"] + n, inside), r * word["out_row"] + n
        p.store(value + p.load(word["out"], target, wanted) if add else value, word["out"], target, wanted)
    p.done()
    return llvm.addresses(module, ["copy"])[0]


# out[n] = sum over rows of source[r, n].
TOTAL = ("source", "row", "out", "rows", "units")


@cache
def total(dtype_bytes: int) -> int:
    """The address of the kernel of `TOTAL`."""
    lanes = llvm.target().lanes(dtype_bytes)
    module = llvm.new_module("total")
    p = Program(module, "total", {"table": POINTER}, dtype_bytes, lanes)
    addresses = ("source", "out")
    word = {n: p.load_word(p.given["table"], k, POINTER if n in addresses else INT) for k, n in enumerate(TOTAL)}
    with p.loop(0, word["units"], lanes) as n:
        mask = p.first_lanes(word["units"] - n)
        loop = p.loop_carrying(0, word["rows"], 1, p.splat(0.0))
        value = p.load(word["source"], loop.index * word["row"] + n, mask)
        (sums,) = loop.end([loop.carried[0] + value])
        p.store(sums, word["out"], n, mask)
    p.done()
    return llvm.addresses(module, ["total"])[0]
