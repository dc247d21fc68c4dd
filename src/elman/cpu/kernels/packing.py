"""Kernels that copy a matrix into panels (product.py), copy rows to other places, and sum rows.

Each kernel is a function of one table of 64-bit words, aligned to 8 bytes. It reads every word on entry and writes
none. The tuple before a kernel names the words in order, and the comment before the tuple has a line for each:

- Words that count, and distances, are in numbers (of the kernel's format), rows, vectors or steps of k; never in bytes.
- A word that is an address says whether the kernel reads or writes the array, and which arrays it must not overlap.
  Arrays that the kernel only reads may overlap each other.
- "aligned to a number": the address must be a multiple of the bytes of one number. Vectors are loaded and stored
  unaligned, so it need not be a multiple of the bytes of a vector. "any alignment": every access has a mask, and
  masked loads and stores assume no alignment.
- The numbers of a row are adjacent. A kernel reads nothing beyond the last number of a row.

A vector has `lanes` numbers, and a block of units is one vector of them. `narrow` and `wider` are as in `Cut`: a panel
has `narrow` blocks, and each of the first `wider` panels has one more.
"""

from __future__ import annotations

from elman.cpu.codegen import code_cache
from elman.cpu.codegen.formats import Format
from elman.cpu.codegen.program import INT, Program, Value, of_table
from elman.cpu.kernels.product import BLOCK, panels, turned

# Copies the transpose of a matrix W[gate, unit, k] into panels. Units beyond the last become zeros.
#   W        (gates, units, count), address of its first number; read; must not overlap out; any alignment
#   W_row    numbers from one unit's row of W to the next
#   W_gate   numbers from the first row of one gate to the first row of the next
#   gates    number of gates, each a block of rows of W
#   count    steps of k: numbers in a row of W, and depth of a panel
#   units    rows of one gate
#   out      address of panel 0; panels follow each other, each (count, blocks of the panel, vectors, lanes); written,
#            only vectors place to place + gates - 1 of each block; must not overlap W; aligned to a number
#   vectors  vectors that each step of k has for one block of units
#   place    which of these vectors gate 0 fills; gate q fills vector place + q
#   first    number of the first panel to fill
#   panels   number of the panel to stop before
#   narrow   blocks in a panel
#   wider    number of panels that have one block more
TRANSPOSED = ("W", "W_row", "W_gate", "gates", "count", "units", "out", "vectors", "place")
TRANSPOSED += ("first", "panels", "narrow", "wider")


@code_cache.function
def transposed(form: Format) -> Program:
    """Returns the address of the kernel whose table is `TRANSPOSED`."""
    p, word = of_table("transposed", TRANSPOSED, ("W", "out"), form)
    lanes = p.lanes
    row, count, vectors = (word[name] for name in ("W_row", "count", "vectors"))
    for first, width in panels(p, word["panels"], word["narrow"], word["wider"], word["first"]):
        with p.loop(0, width) as block, p.loop(0, word["gates"]) as gate:
            unit = (first + block) * lanes
            inside = word["units"] - unit  # units from here on; the last block may have fewer than a vector
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


# Copies `count` rows of a matrix W[k, unit] into panels. Units beyond the last become zeros.
#   W          (rows, units), address of row 0; read; must not overlap out; any alignment
#   W_row      numbers from one row of W to the next
#   count      rows to copy
#   units      numbers in a row
#   out        address of panel 0; panels follow each other, each (depth, blocks of the panel, lanes); written, only
#              steps from_k to from_k + count - 1; must not overlap W, index or other; aligned to a number
#   depth      steps of k in a panel
#   from_k     step of k that the first row goes to
#   first      number of the first panel to fill
#   panels     number of the panel to stop before
#   narrow     blocks in a panel
#   wider      number of panels that have one block more
#   index      (count,) 64-bit whole numbers, address of the first, or 0 to copy row k from W[k]; read: row k is copied
#              from W[index[k]], or from other[k] if index[k] is negative (layer/rows.py); must not overlap out;
#              aligned to 8 bytes
#   other      (count, units), address of row 0; read where index[k] is negative, and must then not overlap out; not
#              read if the word index is 0, and may then be any address; any alignment
#   other_row  numbers from one row of other to the next
ROWS = ("W", "W_row", "count", "units", "out", "depth", "from_k", "first", "panels", "narrow", "wider")
ROWS += ("index", "other", "other_row")


@code_cache.function
def rows(form: Format) -> Program:
    """Returns the address of the kernel whose table is `ROWS`."""
    p, word = of_table("rows", ROWS, ("W", "out", "other"), form)
    indexed, one = word["index"] > 0, p.scratch_words(1)  # a word to load if there is no index
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


# Copies `count` rows of a matrix W[k, unit] into panels of one block, and sums these rows.
#   W       (count, units), address of row 0; read; must not overlap out or sums; any alignment
#   W_row   numbers from one row of W to the next
#   count   rows to copy
#   units   numbers in a row
#   out     address of panel 0; panels follow each other, each (depth, lanes); written, only steps from_k to
#           from_k + count - 1, with zeros for units beyond the last; must not overlap W or sums; any alignment
#   depth   steps of k in a panel
#   from_k  step of k that the first row goes to
#   first   number of the first block, and panel, to fill
#   blocks  number of the block to stop before
#   sums    (units,), address of unit 0; the sum over k of W[k, unit]; read and written, only the units of these blocks;
#           must not overlap W or out; any alignment
#   add     1: the sum over k is added to what sums holds; 0: it replaces that
COLUMNS = ("W", "W_row", "count", "units", "out", "depth", "from_k", "first", "blocks", "sums", "add")
AT_ONCE = 4  # blocks that are done together, so that a row is read in pieces of four vectors


@code_cache.function
def columns(form: Format) -> Program:
    """Returns the address of the kernel whose table is `COLUMNS`."""
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


# Copies rows, followed by zeros: out[r, n] = source[r, n] for n below `units`, and 0 from there up to `padded`.
#   source      (rows, units), address of row 0; read; must not overlap out, but may be out itself if row r lies in the
#               same place in both, or if units is 0, which reads nothing; any alignment
#   source_row  numbers from one row of source to the next; 0 copies one row to all
#   out         (rows, padded), address of row 0; written, and with `add` read too; any alignment
#   out_row     numbers from one row of out to the next
#   rows        number of rows
#   units       numbers in a row of source
#   padded      numbers to write in a row of out, at least units
COPY = ("source", "source_row", "out", "out_row", "rows", "units", "padded")


@code_cache.function
def copy(form: Format, add: bool = False) -> Program:
    """Returns the address of the kernel whose table is `COPY`. With `add` it adds to what `out` holds."""
    p, word = of_table("copy", COPY, ("source", "out"), form)
    with p.loop(0, word["rows"]) as r, p.loop(0, word["padded"], p.lanes) as n:
        inside, wanted = p.first_lanes(word["units"] - n), p.first_lanes(word["padded"] - n)
        value, target = p.load(word["source"], r * word["source_row"] + n, inside), r * word["out_row"] + n
        p.store(value + p.load(word["out"], target, wanted) if add else value, word["out"], target, wanted)
    return p


# Sums rows: out[n] = sum over r of source[r, n].
#   source  (rows, units), address of row 0; read; must not overlap out; any alignment
#   row     numbers from one row of source to the next
#   out     (units,), address of unit 0; written; must not overlap source; any alignment
#   rows    number of rows
#   units   numbers in a row
TOTAL = ("source", "row", "out", "rows", "units")


@code_cache.function
def total(form: Format) -> Program:
    """Returns the address of the kernel whose table is `TOTAL`."""
    p, word = of_table("total", TOTAL, ("source", "out"), form)
    with p.loop(0, word["units"], p.lanes) as n:
        mask = p.first_lanes(word["units"] - n)
        loop = p.loop_carrying(0, word["rows"], 1, p.splat(0.0))
        value = p.load(word["source"], loop.index * word["row"] + n, mask)
        (sums,) = loop.end([loop.carried[0] + value])
        p.store(sums, word["out"], n, mask)
    return p


# Copies rows by an index, followed by zeros: out[i, n] = source[index[i], n] for n below `units`, and 0 from there up
# to `padded`. If index[i] is -1, row i of out is zeros. If index[i] is below -1, row i of out is other[i] or zeros, by
# `handed on` (layer/rows.py).
#   index       (end,) 64-bit whole numbers, address of number 0; read, only from number `first` on; must not overlap
#               out; aligned to 8 bytes
#   first       number of the first row of out to fill
#   end         number of the row to stop before
#   source      (rows, units), address of row 0; read; must not overlap out; aligned to a number
#   source_row  numbers from one row of source to the next
#   other       (end, units), address of row 0; read if `handed on` is 1 and must then not overlap out; otherwise it may
#               be any address, out included; aligned to a number
#   other_row   numbers from one row of other to the next; 0 if all rows are the same
#   handed on   1: an index below -1 stands for the row of other; 0: it stands for zeros
#   out         (end, padded), address of row 0; written from row `first` on, and with `add` read too; must not overlap
#               index, source or other; aligned to a number
#   out_row     numbers from one row of out to the next
#   units       numbers in a row of source and of other
#   padded      numbers to write in a row of out, at least units
GATHER = ("index", "first", "end", "source", "source_row", "other", "other_row", "handed on", "out", "out_row")
GATHER += ("units", "padded")
AHEAD, LINE = 4, 64  # rows by which a prefetch is ahead of the copying; bytes in a cache line


@code_cache.function
def gather(form: Format, add: bool = False) -> Program:
    """Returns the address of the kernel whose table is `GATHER`. With `add` it adds to what `out` holds."""
    p, word = of_table("gather", GATHER, ("index", "source", "other", "out"), form)
    last = word["end"] - 1

    def row_of(which: Value) -> Value:
        return p.at(word["source"], p.maximum(which, p.int(0)) * word["source_row"])

    with p.loop(word["first"], word["end"]) as i:
        which = p.load_word(word["index"], i, INT)
        here, own = which > -1, which < -1
        start = p.select(here, row_of(which), p.at(word["other"], i * word["other_row"]))
        units = p.select(here, word["units"], p.select(own, word["units"] * word["handed on"], 0))
        soon = row_of(p.load_word(word["index"], p.minimum(i + AHEAD, last), INT))  # hardware does not foresee this row
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
