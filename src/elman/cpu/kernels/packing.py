"""Kernels that move numbers: a matrix into panels (product.py), rows to other places; and that add rows up.

Each is a function of a table, whose words are named before it. Panels are `depth` deep.
"""

from __future__ import annotations

from elman.cpu.codegen import code_cache
from elman.cpu.codegen.formats import Format
from elman.cpu.codegen.program import INT, Program, Value, of_table
from elman.cpu.kernels.product import BLOCK, panels, turned

# Panels of a transposed matrix W[unit, k]. W has rows W_row apart and blocks of rows (gates) W_gate apart, `gates`
# of them. Every k of a panel has `vectors` vectors for each block of units; gate q fills number place + q. Panels
# from `first` up to `panels`, `narrow` and `wider` as `Cut` has them.
TRANSPOSED = ("W", "W_row", "W_gate", "gates", "count", "units", "out", "vectors", "place")
TRANSPOSED += ("first", "panels", "narrow", "wider")


@code_cache.function
def transposed(form: Format) -> Program:
    """The address of the kernel of `TRANSPOSED`; `count` steps of k. Units beyond the last are zero."""
    p, word = of_table("transposed", TRANSPOSED, ("W", "out"), form)
    lanes = p.lanes
    row, count, vectors = (word[name] for name in ("W_row", "count", "vectors"))
    for first, width in panels(p, word["panels"], word["narrow"], word["wider"], word["first"]):
        with p.loop(0, width) as block, p.loop(0, word["gates"]) as gate:
            unit = (first + block) * lanes
            inside = word["units"] - unit  # fewer than a vector in the last block
            step = width * vectors * lanes
            begin = first * count * vectors + block * vectors + word["place"] + gate
            target, source = p.at(word["out"], begin * lanes), p.at(word["W"], gate * word["W_gate"])
            with p.loop(0, count, lanes) as k:
                mask = p.first_lanes(count - k)
                at = [unit + p.minimum(p.int(lane), inside - 1) for lane in range(lanes)]
                square = [p.load(source, unit * row + k, mask) for unit in at]
                square = [p.select(p.int(lane) < inside, v, 0.0) for lane, v in enumerate(square)]
                for lane, column in enumerate(turned(p, square)):
                    with p.when(k + lane < count):
                        p.store(column, target, (k + lane) * step)
    return p


# Panels of a matrix W[k, unit], rows W_row apart: `count` of its rows, to k from from_k on. If `index` is an address, row
# k is W[index[k]], or where the index is negative other[k] (rows.py).
ROWS = ("W", "W_row", "count", "units", "out", "depth", "from_k", "first", "panels", "narrow", "wider")
ROWS += ("index", "other", "other_row")


@code_cache.function
def rows(form: Format) -> Program:
    """The address of the kernel of `ROWS`. Units beyond the last are zero."""
    p, word = of_table("rows", ROWS, ("W", "out", "other"), form)
    indexed, one = word["index"] > 0, p.scratch_words(1)  # something that can be read where there is no index
    for first, width in panels(p, word["panels"], word["narrow"], word["wider"], word["first"]):
        target = p.at(word["out"], (first * word["depth"] + word["from_k"] * width) * p.lanes)
        with p.loop(0, word["count"]) as k:
            number = p.load_word(p.select(indexed, p.address(word["index"]), p.at_word(one, -1 * k)), k, INT)
            number = p.select(indexed, number, k)
            source = p.at(word["W"], number * word["W_row"])
            source = p.select(number < 0, p.at(word["other"], k * word["other_row"]), source)
            with p.loop(0, width) as block:
                unit = (first + block) * p.lanes
                values = p.load(source, unit, p.first_lanes(word["units"] - unit))
                p.store(values, target, (k * width + block) * p.lanes)
    return p


# The same in panels of one vector, blocks from `first` up to `blocks`; and sums[unit] [+]= sum over k, added if `add` is 1.
COLUMNS = ("W", "W_row", "count", "units", "out", "depth", "from_k", "first", "blocks", "sums", "add")
AT_ONCE = 4  # blocks, so that rows are read in pieces of that


@code_cache.function
def columns(form: Format) -> Program:
    """The address of the kernel of `COLUMNS`."""
    p, word = of_table("columns", COLUMNS, ("W", "out", "sums"), form)
    with p.loop(word["first"], word["blocks"], AT_ONCE) as first:
        blocks = [first + b for b in range(AT_ONCE)]
        end = word["blocks"] * p.lanes
        there = [p.first_lanes(end - block * p.lanes) for block in blocks]
        inside = [p.first_lanes(p.minimum(end, word["units"]) - block * p.lanes) for block in blocks]
        targets = [p.at(word["out"], (block * word["depth"] + word["from_k"]) * p.lanes) for block in blocks]
        sums = [p.load(word["sums"], block * p.lanes, mask) for block, mask in zip(blocks, inside, strict=True)]
        total = p.loop_carrying(0, word["count"], BLOCK, *(p.select(word["add"] > 0, s, 0.0) for s in sums))
        end = p.minimum(total.index + BLOCK, word["count"])
        part = p.loop_carrying(total.index, end, 1, *[p.splat(0.0)] * AT_ONCE)
        added = []
        for b, block in enumerate(blocks):
            values = p.load(word["W"], part.index * word["W_row"] + block * p.lanes, inside[b])
            p.store(values, targets[b], part.index * p.lanes, there[b])
            added.append(part.carried[b] + values)
        sums = total.end([a + b for a, b in zip(total.carried, part.end(added), strict=True)])
        for block, value, mask in zip(blocks, sums, inside, strict=True):
            p.store(value, word["sums"], block * p.lanes, mask)
    return p


# out[r, n] [+]= source[r, n] for `units` of n; zero from there up to `padded`.
COPY = ("source", "source_row", "out", "out_row", "rows", "units", "padded")


@code_cache.function
def copy(form: Format, add: bool = False) -> Program:
    """The address of the kernel of `COPY`; with `add` it adds to what `out` holds."""
    p, word = of_table("copy", COPY, ("source", "out"), form)
    with p.loop(0, word["rows"]) as r, p.loop(0, word["padded"], p.lanes) as n:
        inside, wanted = p.first_lanes(word["units"] - n), p.first_lanes(word["padded"] - n)
        value, target = p.load(word["source"], r * word["source_row"] + n, inside), r * word["out_row"] + n
        p.store(value + p.load(word["out"], target, wanted) if add else value, word["out"], target, wanted)
    return p


# out[n] = sum over rows of source[r, n].
TOTAL = ("source", "row", "out", "rows", "units")


@code_cache.function
def total(form: Format) -> Program:
    """The address of the kernel of `TOTAL`."""
    p, word = of_table("total", TOTAL, ("source", "out"), form)
    with p.loop(0, word["units"], p.lanes) as n:
        mask = p.first_lanes(word["units"] - n)
        loop = p.loop_carrying(0, word["rows"], 1, p.splat(0.0))
        value = p.load(word["source"], loop.index * word["row"] + n, mask)
        (sums,) = loop.end([loop.carried[0] + value])
        p.store(sums, word["out"], n, mask)
    return p


# out[i, n] [+]= source[index[i], n] for `units` of n, zero from there up to `padded`; rows from `first` up to `end`. Where
# the index is -1 it is zero, and below that other[i, n], or zero if `handed on` is 0 (rows.py).
GATHER = ("index", "first", "end", "source", "source_row", "other", "other_row", "handed on", "out", "out_row")
GATHER += ("units", "padded")
AHEAD, LINE = 4, 64  # rows, for which memory is asked before they are read; bytes that come at a time


@code_cache.function
def gather(form: Format, add: bool = False) -> Program:
    """The address of the kernel of `GATHER`; with `add` it adds to what `out` holds."""
    p, word = of_table("gather", GATHER, ("index", "source", "other", "out"), form)
    last = word["end"] - 1

    def row_of(which: Value) -> Value:
        return p.at(word["source"], p.maximum(which, p.int(0)) * word["source_row"])

    with p.loop(word["first"], word["end"]) as i:
        which = p.load_word(word["index"], i, INT)
        here, own = which > -1, which < -1
        start = p.select(here, row_of(which), p.at(word["other"], i * word["other_row"]))
        units = p.select(here, word["units"], p.select(own, word["units"] * word["handed on"], 0))
        soon = row_of(p.load_word(word["index"], p.minimum(i + AHEAD, last), INT))  # no processor foresees it
        with p.loop(0, word["units"], LINE // form.bytes) as n:
            p.prefetch(soon, n)
        out, whole = p.at(word["out"], i * word["out_row"]), p.whole(units, 4 * p.lanes)

        def put(n: Value, value: Value, mask: Value | None) -> None:
            p.store(value + p.load(out, n, mask) if add else value, out, n, mask)

        with p.loop(0, whole, 4 * p.lanes) as n:
            four = [n + k * p.lanes for k in range(4)]
            for at, value in [(at, p.load(start, at)) for at in four]:
                put(at, value, None)
        with p.loop(whole, word["padded"], p.lanes) as n:
            put(n, p.load(start, n, p.first_lanes(units - n)), p.first_lanes(word["padded"] - n))
    return p
