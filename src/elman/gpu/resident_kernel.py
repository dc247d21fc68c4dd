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
from elman.gpu.kernels import AFRESH, PARAMETERS, Kernels, Writer, operand_of
from elman.gpu.source import HEADER
from elman.graph import Node, Value
from elman.plan import Product

# The counter of a meeting only grows. A program that waits for longer than any step takes ends with an error. The last
# program to leave the kernel sets the counters to zero, for the next launch. A program that has all units of its rows
# meets nobody: its own warps wait for each other.
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


@triton.jit
def leave(counter, leaving, ALONE: tl.constexpr):
    if not ALONE:
        others = tl.atomic_add(leaving, 1, sem="relaxed")
        if others == tl.num_programs(0) - 1:
            tl.store(counter, 0)
            tl.store(leaving, 0)
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


# Triton takes an operand of a product into registers right before the product. If that is in a `for` loop, it does so in
# every step, also with weights. In a `while` loop it leaves weights in registers if a product before the loop needs them,
# too. So here is one whose result nobody sees.
HOLD = """
@triton.jit
def hold(weight, counters, steps, S: tl.constexpr, BB: tl.constexpr, PRECISION: tl.constexpr):
    nothing = tl.zeros([S, BB, weight.shape[1]], weight.dtype)
    product = tl.dot(nothing, weight, input_precision=PRECISION, out_dtype=tl.float32)
    at = tl.zeros([S, BB, weight.shape[2]], tl.int32)
    tl.store(counters + at, product.to(tl.int32), at > steps)
"""


AT_ONCE = 4  # blocks of 16 rows and 8 units that should not wait for each other


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
    registers: bool  # whether weights are held in registers, and not in shared memory
    blocks: int  # of 16 rows and 8 units, which tensor cores compute at a time, in a product for one gate


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
def resident_kernel(cell: Cell, name: str, coded: bool, afresh: bool, directions: int, way: Way) -> Kernels:
    """Returns the kernel of a pass. Its function has the name of the pass, and is given the addresses as numbers."""
    return _Resident(cell, name, coded, afresh, directions, way).done()


class _Resident(Writer):
    def __init__(self, cell: Cell, name: str, coded: bool, afresh: bool, directions: int, way: Way) -> None:
        super().__init__(cell, name, coded, afresh)
        self.directions, self.way = directions, way
        self.first_lines: dict[str, str] = {}  # values that are the same in every step, by name
        self.weights: dict[str, None] = {}  # the names of those that are weights
        self.ahead: dict[str, str] = {}  # values that are read before the step begins
        self.registers: dict[str, Place] = {}  # by name: where they end up
        self.next: dict[str, str] = {}  # the values of registers in the next step
        self.known: dict[int, str] = {}  # by node: values that this step has computed
        self.products: dict[tuple[int, int], list[str]] = {}
        self.later: list[str] = []  # stores that no program of this kernel waits for

    def done(self) -> Kernels:
        self.begin()
        phases = len(self.todo.phases)
        everybody = "tl.num_programs(0)"
        for number in range(phases):
            self.enter(number)
            (self.backward if self.back else self.forward)()
            if number + 1 < phases:
                self.say_done()
                target = f"((done * {phases} + {number + 2}) * {everybody}).to(tl.int32)"
                self.put(f"wait_for_all(counter, {target}, ALONE)")
        self.say_done()
        self.lines += [f"{name} = {value}" for name, value in self.next.items()]
        ahead = [*self.times(), *(f"{name} = {value}" for name, value in self.ahead.items())]
        step, self.lines = self.lines, []
        self.start()
        end = [
            f"tl.store({self.slot(last)}, ({name}).to({self.stored_type(last.array)}), {self.if_given(last.array)})"
            for name, last in self.registers.items()
        ]
        body = [
            "d = tl.program_id(2)",
            "back = ((REVERSE >> d) & 1) == 1",
            *self.addresses(),
            *(f"{name} = tl.multiple_of({name}, 16)" for name in self.aligned()),
            "counter = counters + d * tl.num_programs(1) + tl.program_id(1)",
            "rows_of_tile = tl.program_id(1) * BB + tl.arange(0, BB)",
            "first_unit = tl.program_id(0) * BU",
            "row = rows_of_tile.to(tl.int64)[:, None]",
            "unit = (first_unit + tl.arange(0, BU))[None, :]",
            "row_of_operand = row[None, :, :]",
            *(f"{name} = {value}" for name, value in self.first_lines.items()),
            *(f"hold({name}, counters, steps, S, BB, PRECISION)" for name in self.weights if self.way.registers),
            "done = steps * 0",
            *ahead,
            *self.lines,
            "say_done(counter, ALONE)",
            f"wait_for_all(counter, {everybody}, ALONE)",
            "while done < steps:" if self.way.registers else "for _ in range(0, steps):",
            *(f"    {line}" for line in step),
            "    done = done + 1",
            *(f"    {line}" for line in ahead),
            f"    wait_for_all(counter, ((done * {phases} + 1) * {everybody}).to(tl.int32), ALONE)",
            *end,
            "leave(counter, counter + tl.num_programs(1) * tl.num_programs(2), ALONE)",
        ]
        numbers = [name for array in self.arrays for name in self.words(array)]
        head = [
            f"@triton.jit(do_not_specialize={['B', 'steps', *numbers]})",
            f"def {self.name}(counters, B, steps: tl.int64, {', '.join(f'{name}: tl.int64' for name in numbers)}, {PARAMETERS}, "
            "BB: tl.constexpr, BU: tl.constexpr, S: tl.constexpr, PRECISION: tl.constexpr, ALONE: tl.constexpr):",
        ]
        text = "\n".join([*head, *(f"    {line}" for line in body), ""])
        widths = [phase.width for phase in self.todo.phases]
        parts = [HEADER, MEET, ROUND, SUM, *([HOLD] if self.way.registers else []), text]
        return Kernels("\n\n".join(parts), self.arrays, widths)

    def say_done(self) -> None:
        self.lines += ["say_done(counter, ALONE)", *self.later]
        self.later = []

    def start(self) -> None:
        """Puts the lines before the first step: what registers hold, and what the first products multiply."""
        for name, last in self.registers.items():
            kind, _, state = last.array.partition(".")
            if kind == "final":
                initial = self.load(self.at(f"initial.{state}", "0"))
                if self.coded:
                    initial = f"tl.where(code == {AFRESH}, {self.fresh(state)}, {initial})"
                self.put(f"{name} = {initial}")
                self.hand_over(state, name, "0")
                self.store_operands(Place(f"before.{state}"), name, "0")
            elif kind == "carry":
                cotangent = f"cotangent.{state}"
                self.put(f"{name} = {self.load(self.at(cotangent, '0'), self.if_given(cotangent))}")
            else:
                self.put(f"{name} = tl.zeros([BB, BU], WIDE)")
        for operand, product in self.operands:
            for offset in operand.offsets if product.state else ():  # nothing comes back to the last step
                self.store(self.at(operand.array, offset, buffer="0"), "tl.zeros([BB, BU], WIDE)", "LOW")

    def words(self, name: str) -> list[str]:
        return [f"at_{name.replace('.', '_')}_{d}" for d in range(self.directions)]

    def word(self, name: str) -> str:
        one, *other = self.words(name)
        # Triton's interpreter takes a small number for an int32.
        return f"tl.where(d == 0, {one}, {other[0]}).to(tl.int64)" if other else f"{one}.to(tl.int64)"

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

    def if_given(self, name: str) -> str:
        """Returns the mask of a program's part of an array that may be left out."""
        self.array(name)
        return self.exist(f"tl.where({self.word(name)} != 0, B, 0)")

    def register(self, name: str, last: Place) -> str:
        """Returns the name of a register that ends up at a place."""
        self.registers.setdefault(name, last)
        return name

    def before(self, state: str) -> str:
        return self.register(f"before_{state}", Place(f"final.{state}"))

    def hand_on(self, state: str, value: str) -> None:
        self.next[self.before(state)] = value
        self.hand_over(state, value, "done + 1")

    def hand_over(self, state: str, value: str, buffer: str) -> None:
        """Stores the state before a step where the products of the step read it."""
        if any(operand.array == f"before.{state}" for operand, _ in self.operands):
            self.store_at(Place(f"before.{state}"), f"rounded({value}, PRECISION)", buffer)

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
        # A product waits for the last one that was added to the same sum. So there are several sums in turn.
        many = len(operand.offsets) * len(self.way.cut)
        turns = {}
        for name, group in zip(sums, groups, strict=True):
            count = min(many, max(1, AT_ONCE // (self.way.blocks * group.gates)))
            turns[name] = [f"{name}_turn_{turn}" for turn in range(count)]
            for turn in turns[name]:
                self.put(f"{turn} = tl.zeros([S, BB, BU * {group.gates}], WIDE)")
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
                    turn = turns[name][(len(dots) - 1) % len(turns[name])]
                    dots[-1].append(
                        f"{turn} = tl.dot({o}, {weight}, {turn}, input_precision=PRECISION, out_dtype=WIDE)"
                    )
        # A piece takes as long to arrive as several take to multiply.
        ahead = self.way.ahead
        self.lines += reads[:ahead]
        for k, lines in enumerate(dots):
            self.lines += [*reads[ahead + k : ahead + k + 1], *lines]
        results = [f"product_{number}_{j}_{column}" for column in range(len(product.nodes))]
        names = iter(results)
        for name, group in zip(sums, groups, strict=True):
            self.put(f"{name} = sum_of_parts({' + '.join(turns[name])}, S, BB, BU * {group.gates})")
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
        self.weights.setdefault(name)
        return name
