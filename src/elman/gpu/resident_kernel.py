"""Writes the kernel of the form `resident`: all steps of a pass in one kernel, with the products inside.

A program computes a tile, some units of some rows, in every step. It keeps the part of the recurrent weights that its
units need, and in registers what only it reads. Programs of the same rows read each other's results from memory. This can
only work if all programs run at the same time. How they meet is in resident_source.py.

The depth of a product is split among warps, S parts that are summed up at the end. Triton would let every warp repeat
the whole product of so small a tile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

from elman.arrays import Place
from elman.cell import Cell
from elman.gpu import resident_source
from elman.gpu.kernels import AFRESH, PARAMETERS, Kernels, Operand, Writer, operand_of
from elman.gpu.resident_source import HOLD, MEET, ROUND, SUM, WORDS, Way, take
from elman.gpu.source import HEADER
from elman.graph import Node, Value
from elman.plan import Product

AT_ONCE = 4  # blocks of 16 rows and 8 units that should not wait for each other


class Blocks(NamedTuple):
    """Blocks of a weight that follow each other, one for each of so many gates."""

    first: int
    gates: int


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
    column = "spot"
    buffers = 4

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
        self.takes: dict[tuple[int, ...], str] = {}  # functions that read parts of operands, by where these begin

    def done(self) -> Kernels:
        self.begin()
        for number in range(len(self.todo.phases)):
            self.enter(number)
            (self.backward if self.back else self.forward)()
            self.lines += self.later
            self.later = []
        for array, offset in self.slots():
            self.miss(array, offset, f"done + {self.buffers - 1}")
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
            "counter = counters + d * tl.num_programs(1) + tl.program_id(1)",
            "rows_of_tile = tl.program_id(1) * BB + tl.arange(0, BB)",
            "first_unit = tl.program_id(0) * BU",
            "row = rows_of_tile.to(tl.int64)[:, None]",
            "unit = (first_unit + tl.arange(0, BU))[None, :]",
            f"spot = {self.way.spot()}",
            "row_of_operand = tl.minimum(row, B - 1)[None, :, :]",
            f"columns = {self.columns()}",
            f"columns_of_words = {self.columns(self.way.words * self.way.word // self.way.bytes)}",
            *(f"{name} = {value}" for name, value in self.first_lines.items()),
            *(f"hold({name}, counters, steps, S, BB, PRECISION)" for name in self.weights if self.way.registers),
            "done = steps * 0",
            *ahead,
            *self.lines,
            "arrive(counter)",
            "wait(counter, tl.num_programs(0))",
            "while done < steps:" if self.way.registers else "for _ in range(0, steps):",
            *(f"    {line}" for line in step),
            "    done = done + 1",
            *(f"    {line}" for line in ahead),
            *end,
            "leave(counter, counter + tl.num_programs(1) * tl.num_programs(2))",
        ]
        numbers = [name for array in self.arrays for name in self.words(array)]
        head = [
            f"@triton.jit(do_not_specialize={['B', 'steps', *numbers]})",
            f"def {self.name}(counters, B, steps: tl.int64, {', '.join(f'{name}: tl.int64' for name in numbers)}, {PARAMETERS}, "
            "BB: tl.constexpr, BU: tl.constexpr, S: tl.constexpr, PRECISION: tl.constexpr, BITS: tl.constexpr):",
        ]
        text = "\n".join([*head, *(f"    {line}" for line in body), ""])
        takes = [take(name, offsets, self.way) for offsets, name in self.takes.items()]
        parts = [HEADER, MEET, WORDS, ROUND, SUM, *([HOLD] if self.way.registers else []), *takes, text]
        return Kernels("\n\n".join(parts), self.arrays)

    def slots(self) -> list[tuple[str, str]]:
        """Returns the arrays that are operands and the columns in which their slots begin, each once."""
        return list(
            dict.fromkeys((operand.array, offset) for operand, _ in self.operands for offset in operand.offsets)
        )

    def miss(self, array: str, offset: str, buffer: str) -> None:
        """Puts the line that makes this program's part of a slot missing."""
        self.put(f"tl.store({self.at(array, offset, buffer=buffer)}, missing(BB, BU, LOW, BITS), {self.exist('B')})")

    def start(self) -> None:
        """Puts the lines before the first step: what registers hold, and what the first products multiply."""
        for array, offset in self.slots():
            for buffer in range(self.buffers):
                self.miss(array, offset, str(buffer))
        self.put("tl.debug_barrier()")  # another thread may store what is given
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
                self.store(self.at(operand.array, offset, buffer="0"), "tl.zeros([BB, BU], LOW)", "LOW")

    def words(self, name: str) -> list[str]:
        return [f"at_{name.replace('.', '_')}_{d}" for d in range(self.directions)]

    def word(self, name: str) -> str:
        one, *other = self.words(name)
        # Triton's interpreter takes a small number for an int32.
        return f"tl.where(d == 0, {one}, {other[0]}).to(tl.int64)" if other else f"{one}.to(tl.int64)"

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
            self.store_at(Place(f"before.{state}"), self.of_operand(value), buffer)

    def store_operands(self, place: Place, value: str, buffer: str = "done") -> None:
        super().store_operands(place, self.of_operand(value), buffer)

    def of_operand(self, value: str) -> str:
        """Returns a value as it is stored for products."""
        return f"there(rounded({value}, PRECISION), LOW, BITS)"

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
        way = self.way
        many = len(operand.offsets) * (way.depth // way.piece)
        turns = {}
        for name, group in zip(sums, groups, strict=True):
            count = min(many, max(1, AT_ONCE // (way.blocks * group.gates)))
            turns[name] = [f"{name}_turn_{turn}" for turn in range(count)]
            for turn in turns[name]:
                self.put(f"{turn} = tl.zeros([S, BB, BU * {group.gates}], WIDE)")
        every = [(k, first) for k in range(len(operand.offsets)) for first in range(0, way.depth, way.piece)]
        for begin in range(0, many, way.most):
            part = every[begin : begin + way.most]
            self.take(operand, [k * way.depth + first for k, first in part])
            for i, (k, first) in enumerate(part):
                for name, blocks in zip(sums, held[k : k + 1] if back else held, strict=True):
                    weight = self.weight(blocks, first, transposed=back)
                    turn = turns[name][(begin + i) % len(turns[name])]
                    self.put(f"{turn} = tl.dot(o_{i}, {weight}, {turn}, input_precision=PRECISION, out_dtype=WIDE)")
        if not self.products:  # the first one of the step
            self.put("fence()")
        results = [f"product_{number}_{j}_{column}" for column in range(len(product.nodes))]
        names = iter(results)
        for name, group in zip(sums, groups, strict=True):
            self.put(f"{name} = sum_of_parts({' + '.join(turns[name])}, S, BB, BU * {group.gates})")
            self.separate(name, [next(names) for _ in range(group.gates)])
        return results

    def take(self, operand: Operand, columns: list[int]) -> None:
        """Puts the lines that read pieces of an operand, which begin at these columns, as o_0, o_1 and so on."""
        way = self.way
        offsets = tuple([column * way.bytes for column in columns])
        name = self.takes.setdefault(offsets, f"take_{len(self.takes)}")
        pointer = self.at(operand.array, "0", row="row_of_operand", unit="columns_of_words[:, None, :]")
        words = [f"word_{k}" for k in range(way.words * len(columns))]
        self.put(f"{', '.join(words)} = {name}(({pointer}).to(tl.int64, bitcast=True))")
        for k in range(len(columns)):
            own = words[way.words * k : way.words * (k + 1)]
            self.put(
                f"o_{k} = {'of_four' if way.words == 4 else 'of_two'}({', '.join(own)}, {resident_source.NEAR}, S, BB, LOW)"
            )

    def columns(self, step: int = 1) -> str:
        """Returns the columns of the first piece that each part of the depth has, (S, piece / S / step)."""
        piece = self.way.piece
        return f"tl.arange(0, S)[:, None] * ({piece} // S) + tl.arange(0, {piece // step} // S)[None, :] * {step}"

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

    def weight(self, blocks: Blocks, first: int, transposed: bool) -> str:
        """Returns the name of a piece of blocks of the weight, (S, piece / S, BU * gates)."""
        at, name = self.array("weight.hh"), f"w_{blocks.first}_{blocks.gates}_{first}"
        self.used.setdefault("weight.hh")
        k, column = f"({first} + columns)[:, :, None]", f"column_{blocks.gates}"
        self.first_lines.setdefault(column, f"tl.arange(0, BU * {blocks.gates})[None, None, :]")
        block, of_unit = f"({blocks.first} + {column} % {blocks.gates})", f"(first_unit + {column} // {blocks.gates})"
        offset = f"({block} * H + {k}) * H + {of_unit}" if transposed else f"({block} * H + {of_unit}) * H + {k}"
        read = f"tl.load({at} + {offset}, ({k} < H) & ({of_unit} < H), other=0.0)"
        self.first_lines.setdefault(name, f"rounded({read}, PRECISION)")
        self.weights.setdefault(name)
        return name
