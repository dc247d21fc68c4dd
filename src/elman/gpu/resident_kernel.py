"""Writes the kernel of the form `resident`: all steps of a pass in one kernel, with the products inside.

A program computes a tile, some units of some rows, in every step. It keeps in shared memory the part of the recurrent
weights that its units need, and in registers what only it reads. Other programs read its results from memory. So all
programs of the same rows meet after each phase: none goes on before all have stored. This can only work if all programs
run at the same time. Between saying that it is done and waiting for the others, a program does what nobody waits for: it
stores what is kept for backward, and reads its own part of the next step.

The depth of a product is split among warps, S parts that are summed up at the end. Triton would let every warp repeat
the whole product of so small a tile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

from elman.arrays import Place
from elman.cell import Cell
from elman.gpu.kernels import PARAMETERS, Kernels, Writer, operand_of
from elman.gpu.source import HEADER
from elman.graph import Node, Value
from elman.plan import Product

# The counter of a meeting only grows. A program that waits for longer than any step takes ends with an error. A program
# that has all units of its rows meets nobody: its own warps wait for each other.
MEET = '''
@triton.jit
def arrive(counter):
    tl.debug_barrier()
    tl.atomic_add(counter, 1, sem="release", scope="gpu")


@triton.jit
def wait(counter, target):
    tl.inline_asm_elementwise(
        """
        {
        .reg .pred p;
        .reg .u32 seen, tries, thread;
        mov.u32 tries, 0;
        mov.u32 thread, %tid.x;
        setp.ne.u32 p, thread, 0;
        @p bra done;
        again:
        ld.acquire.gpu.global.u32 seen, [$1];
        setp.ge.u32 p, seen, $2;
        @p bra done;
        add.u32 tries, tries, 1;
        setp.lt.u32 p, tries, 16777216;
        @p bra again;
        trap;
        done:
        mov.u32 $0, 0;
        }
        """,
        "=r,l,r",
        [counter.to(tl.int64, bitcast=True), target],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )
    tl.debug_barrier()


@triton.jit
def say_done(counter, ALONE: tl.constexpr):
    if not ALONE:
        arrive(counter)


@triton.jit
def wait_for_all(counter, target, ALONE: tl.constexpr):
    if ALONE:
        tl.debug_barrier()
    else:
        wait(counter, target)
'''


# Tensor cores cut float32 off to TF32. Rounding to the nearest halves the error. Weights are rounded when they are read,
# operands when they are stored.
ROUND = """
@triton.jit
def rounded(x, PRECISION: tl.constexpr):
    if PRECISION == "tf32":
        bits = tl.inline_asm_elementwise(
            "cvt.rna.tf32.f32 $0, $1;", "=r,r", [x.to(tl.int32, bitcast=True)], dtype=tl.int32, is_pure=True, pack=1
        )
        x = bits.to(tl.float32, bitcast=True)
    return x
"""


# Triton's own sum over warps would cost more than the product. Here one half is added to the other until one is left.
SUM = """
@triton.jit
def sum_of_parts(parts, S: tl.constexpr, BB: tl.constexpr, BU: tl.constexpr):
    for k in tl.static_range(0, 5):
        if S >> k > 1:
            halves = tl.permute(tl.reshape(parts, (2, S >> (k + 1), BB, BU)), (1, 2, 3, 0))
            first, second = tl.split(halves)
            parts = first + second
    return tl.reshape(parts, (BB, BU))
"""


def pieces(depth: int, split: int) -> tuple[tuple[int, int], ...]:
    """Cuts the depth of a product into powers of two, each (first, length), which `split` parts of 16 or more divide.

    The last one may end beyond the depth. There the weights are zero, and the operands too.
    """
    found, first = [], 0
    while first < depth:
        length = 16 * split
        while 2 * length <= depth - first:
            length *= 2
        found.append((first, length))
        first += length
    return tuple(found)


class Blocks(NamedTuple):
    """Blocks of a weight that follow each other, one for each of so many gates."""

    first: int
    gates: int


class Way(NamedTuple):
    """How a kernel multiplies."""

    cut: tuple[tuple[int, int], ...]  # the pieces of the depth: see `pieces`
    ahead: int  # how many pieces of an operand are read before the first of them is needed
    together: int  # how many gates one product is for, at most


def joined(blocks: Sequence[int], most: int) -> list[Blocks]:
    """Joins blocks that follow each other, as many as a power of two, and `most` at most."""
    found, k = [], 0
    while k < len(blocks):
        count = 1
        while 2 * count <= most and blocks[k : k + 2 * count] == tuple(range(blocks[k], blocks[k] + 2 * count)):
            count *= 2
        found.append(Blocks(blocks[k], count))
        k += count
    return found


def held_for(product: Product, together: int) -> list[Blocks]:
    """Returns what a program holds of the weight for a product."""
    if product.segments:
        return [Blocks(segment.block + k, 1) for segment in product.segments for k in range(segment.slots)]
    return joined(product.blocks, together)


@cache
def resident_kernel(cell: Cell, name: str, coded: bool, afresh: bool, way: Way) -> Kernels:
    """Returns the kernel of a pass; its function has the name of the pass."""
    return _Resident(cell, name, coded, afresh, way).done()


class _Resident(Writer):
    def __init__(self, cell: Cell, name: str, coded: bool, afresh: bool, way: Way) -> None:
        super().__init__(cell, name, coded, afresh)
        self.way = way
        self.first_lines: dict[str, str] = {}  # values that are the same in every step, by name
        self.ahead: dict[str, str] = {}  # values that are read before the step begins
        self.registers: dict[str, tuple[str, str]] = {}  # by name: what they hold at first, where they end up
        self.next: dict[str, str] = {}  # the values of registers in the next step
        self.known: dict[int, str] = {}  # by node: values that this step has computed
        self.products: dict[tuple[int, int], list[str]] = {}
        self.later: list[str] = []  # stores that no program of this kernel waits for

    def done(self) -> Kernels:
        self.begin()
        phases = len(self.todo.phases)
        for number in range(phases):
            self.enter(number)
            (self.backward if self.back else self.forward)()
            if number + 1 < phases:
                self.say_done()
                target = f"((done * {phases} + {number + 1}) * tl.num_programs(0)).to(tl.int32)"
                self.put(f"wait_for_all(counter, {target}, ALONE)")
        self.say_done()
        self.lines += [f"{name} = {value}" for name, value in self.next.items()]
        ahead = [*self.times(), *(f"{name} = {value}" for name, value in self.ahead.items())]
        start = [f"{name} = {first}" for name, (first, _) in self.registers.items()]
        end = [line for _, line in self.registers.values() if line]
        head = [
            '@triton.jit(do_not_specialize=["B"])',
            f"def {self.name}(table, counters, B, {PARAMETERS}, BB: tl.constexpr, BU: tl.constexpr, S: tl.constexpr, PRECISION: tl.constexpr, ALONE: tl.constexpr):",
        ]
        body = [
            "d = tl.program_id(2)",
            "steps = tl.load(table + 1)",
            "back = ((REVERSE >> d) & 1) == 1",
            *self.addresses(),
            *(f"{name} = tl.multiple_of({name}, 16)" for name in self.aligned()),
            "counter = counters + d * tl.num_programs(1) + tl.program_id(1)",
            "rows_of_tile = tl.program_id(1) * BB + tl.arange(0, BB)",
            "first_unit = tl.program_id(0) * BU",
            "row = rows_of_tile.to(tl.int64)[:, None]",
            "unit = (first_unit + tl.arange(0, BU))[None, :]",
            "row_of_operand = row[None, :, :]",
            "live = (row < B) & (unit < H)",
            *(f"{name} = {value}" for name, value in self.first_lines.items()),
            *start,
            "done = steps * 0",
            *ahead,
            "for _ in range(0, steps):",
            *(f"    {line}" for line in self.lines),
            "    done = done + 1",
            *(f"    {line}" for line in ahead),
            f"    wait_for_all(counter, (done * {phases} * tl.num_programs(0)).to(tl.int32), ALONE)",
            *end,
        ]
        text = "\n".join([*head, *(f"    {line}" for line in body), ""])
        widths = [phase.width for phase in self.todo.phases]
        return Kernels("\n\n".join([HEADER, MEET, ROUND, SUM, text]), self.arrays, widths)

    def say_done(self) -> None:
        self.lines += ["say_done(counter, ALONE)", *self.later]
        self.later = []

    def aligned(self) -> list[str]:
        """Returns the addresses of operands. Their rows are padded, so that each is read in words of 16 bytes."""
        return list(dict.fromkeys(self.array(operand.array) for operand, _ in self.operands))

    def exist(self, rows: str) -> str:
        return f"(row < {rows}) & (unit < H)"

    def values(self, read: Callable[[Node], str]) -> Value:
        """Returns what gives the values of this phase. Those of earlier phases are still in registers."""
        value = super().values(lambda node: self.known.get(node.index) or read(node))

        def known(node: Node) -> str:
            self.known[node.index] = value(node)
            return self.known[node.index]

        return known

    def of_step(self, name: str, value: str) -> str:
        name = f"l_{name.replace('.', '_')}"
        self.ahead.setdefault(name, value)
        return name

    def put_code(self, name: str, value: str) -> None:
        self.ahead.setdefault(name, value)

    def fixed(self, name: str, pointer: str) -> str:
        self.first_lines.setdefault(name, f"tl.load({pointer}, unit < H, other=0.0).to(WIDE)")
        return name

    def register(self, name: str, place: Place) -> str:
        """Returns the name of a register that begins with what is at a place, and ends up there."""
        if name not in self.registers:
            first = self.slot(place, buffer="0")
            kind = self.stored_type(place.array)
            last = f"tl.store({self.slot(place, buffer='steps')}, ({name}).to({kind}), live)"
            self.registers[name] = f"tl.load({first}, live, other=0.0).to(WIDE)", last
        return name

    def before(self, state: str) -> str:
        return self.register(f"before_{state}", Place(f"before.{state}"))

    def hand_on(self, state: str, value: str) -> None:
        self.next[self.before(state)] = value
        if any(operand.array == f"before.{state}" for operand, _ in self.operands):
            super().hand_on(state, f"rounded({value}, PRECISION)")

    def store_operands(self, place: Place, value: str, buffer: str = "done") -> None:
        super().store_operands(place, f"rounded({value}, PRECISION)", buffer)

    def carry(self, state: str) -> str:
        return self.register(f"carry_{state}", Place(f"carry.{state}"))

    def hand_back(self, state: str, value: str) -> None:
        self.put(f"back_{state} = {value}")
        self.next[self.carry(state)] = f"back_{state} + tl.zeros([BB, BU], WIDE)"

    def add_to(self, place: Place, value: str) -> None:
        name = self.register(f"sum_{place.array.replace('.', '_')}_{place.slot}", place)
        self.put(f"{name} = {name} + {value}")

    def keep(self, place: Place, value: str) -> None:
        if not place.array.startswith("memory"):
            super().keep(place, value)
            self.later.append(self.lines.pop())

    def read_later(self, state: str) -> bool:
        return False

    def result(self, product: Product, number: int, j: int, column: int) -> str:
        if (number, j) not in self.products:
            self.products[number, j] = self.multiply(product, number, j)
        return self.products[number, j][column]

    def multiply(self, product: Product, number: int, j: int) -> list[str]:
        """Puts the lines of a product, and returns the names of its results."""
        operand = operand_of(self.cell, number, j, product)
        held = held_for(product, self.way.together)
        # Forward, one operand meets all blocks. Backward, each block has an operand of its own, and all add up.
        back = bool(product.segments)
        groups = [Blocks(0, 1)] if back else held
        sums = [f"sums_{number}_{j}_{k}" for k in range(len(groups))]
        for name, group in zip(sums, groups, strict=True):
            self.put(f"{name} = tl.zeros([S, BB, BU * {group.gates}], WIDE)")
        reads: list[str] = []
        dots: list[list[str]] = []
        for k, offset in enumerate(operand.offsets):
            for c, (first, size) in enumerate(self.way.cut):
                depth = f"({first} + tl.arange(0, S)[:, None] * ({size} // S) + tl.arange(0, {size} // S)[None, :])"
                pointer = self.at(operand.array, offset).replace("row *", "row_of_operand *").removesuffix(" + unit)")
                pointer = f"{pointer} + {depth}[:, None, :])"
                o = f"operand_{len(reads)}"
                reads.append(f"{o} = tl.load({pointer}, row_of_operand < B, other=0.0, cache_modifier='.cg')")
                dots.append([])
                for name, blocks in zip(sums, held[k : k + 1] if back else held, strict=True):
                    weight = self.weight(blocks, c, depth, transposed=back)
                    dots[-1].append(
                        f"{name} = tl.dot({o}, {weight}, {name}, input_precision=PRECISION, out_dtype=WIDE)"
                    )
        # A piece takes as long to arrive as several take to multiply.
        ahead = self.way.ahead
        self.lines += reads[:ahead]
        for k, lines in enumerate(dots):
            self.lines += [*reads[ahead + k : ahead + k + 1], *lines]
        results = [f"product_{number}_{j}_{column}" for column in range(len(product.nodes))]
        names = iter(results)
        for name, group in zip(sums, groups, strict=True):
            self.put(f"{name} = sum_of_parts({name}, S, BB, BU * {group.gates})")
            self.separate(name, [next(names) for _ in range(group.gates)])
        return results

    def separate(self, name: str, results: list[str]) -> None:
        """Puts the lines that give each result its part of (BB, BU * gates), where those of a unit lie beside each other."""
        count = len(results)
        if count == 1:
            self.put(f"{results[0]} = {name}")
            return
        even, odd = f"{name}_0", f"{name}_1"
        self.put(f"{even}, {odd} = tl.split(tl.reshape({name}, (BB, BU * {count // 2}, 2)))")
        self.separate(even, results[::2])
        self.separate(odd, results[1::2])

    def weight(self, blocks: Blocks, c: int, depth: str, transposed: bool) -> str:
        """Returns the name of a piece of blocks of the weight, (S, depth / S, BU * gates)."""
        at, name = self.array("weight.hh"), f"w_{blocks.first}_{blocks.gates}_{c}"
        self.used.setdefault("weight.hh")
        k, column = f"{depth}[:, :, None]", f"tl.arange(0, BU * {blocks.gates})[None, None, :]"
        block, of_unit = f"({blocks.first} + {column} % {blocks.gates})", f"(first_unit + {column} // {blocks.gates})"
        offset = f"({block} * H + {k}) * H + {of_unit}" if transposed else f"({block} * H + {of_unit}) * H + {k}"
        read = f"tl.load({at} + {offset}, ({k} < H) & ({of_unit} < H), other=0.0)"
        self.first_lines.setdefault(name, f"rounded({read}, PRECISION)")
        return name
