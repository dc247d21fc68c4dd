"""Writes kernels from a cell's plan: what a phase of a step reads, computes and stores, as lines of Triton.

Here are the kernels of the form `steps`: one for each phase of a step, which does everything but the matrix products.
The form `resident` (resident_kernel.py) has the same lines in one kernel for all steps.

A kernel of `steps` is given a table of 64-bit words: how many steps are done, the number of steps, and the addresses of
all arrays in every direction. So a kernel that a CUDA graph has recorded can run other steps, on other arrays.

The arrays are those of elman/arrays.py. These are added:

    output, d_output       the first state after every step, and its cotangent; the directions lie beside each other
    before.NAME            here two buffers or four, in turn: each step reads one and writes the next
    operand.K.J            the operand of product J of phase K, as one matrix; before.NAME if it is the first state.
                           It has as many buffers
    product.K.J            the result of that product
    bias.FIELD             the biases of a matrix, one for each of its rows
    initial.NAME           the initial states
    final.NAME             the final states
    cotangent.NAME         the cotangents of the final states
    weight.FIELD           the weights of a matrix
    code                   for every step and row: `ORDINARY`, `AFRESH` or `ABSENT`
    afresh.NAME            the states to go on from after a reset, one row for all rows of the batch
    d_afresh.NAME          their adjoints, for each row of the batch
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

from elman.arrays import Place, width_of
from elman.cell import Cell
from elman.gpu.source import HEADER, value_lines
from elman.graph import Node, Value
from elman.leaves import HIDDEN, width_of_state
from elman.plan import Pass, Product, plan

# A step of a row goes on from the step before, or starts afresh, or does not exist.
ORDINARY, AFRESH, ABSENT = 0, 1, 2
ADDRESSES = 2  # the word of the table at which addresses begin

# What every kernel is compiled for.
PARAMETERS = ", ".join(f"{name}: tl.constexpr" for name in ("H", "HP", "P", "D", "REVERSE", "LOW", "WIDE"))


class Array(NamedTuple):
    """How an array lies in memory. A kernel is given one address of it for each direction."""

    columns: tuple[tuple[int, str], ...]  # of a row: slots of each width; () for `code`
    steps: bool = False  # True: the array holds every step, (T, B, columns); False: (B, columns)
    buffers: int = 1  # more: the array has buffers for steps in turn, (buffers, D, B, columns)
    rows: bool = True  # False: a row for all rows of the batch
    wide: bool = False  # whether its type is WIDE and not LOW
    joined: bool = False  # whether the directions lie beside each other in a row
    padded: bool = False  # whether slots of H units are HP units wide


class Kernels(NamedTuple):
    """The kernels of one pass."""

    source: str
    arrays: dict[str, Array]  # in the order of their addresses
    phases: Sequence[str] = ()  # of the form `steps`: the width of each phase, whose kernel is the function PASS_NUMBER


class Operand(NamedTuple):
    """Where a product reads its operand: `places` beside each other."""

    array: str
    places: tuple[Place, ...]
    offsets: tuple[str, ...]  # of each place in a row


def length(width: str, padded: bool = False) -> str:
    """Returns the length of a slot as kernels write it."""
    return "P" if width != HIDDEN else "HP" if padded else "H"


@cache
def kernels(cell: Cell, name: str, coded: bool, afresh: bool) -> Kernels:
    """Returns the kernels of a pass of the cell. name: "infer", "forward" or "backward".

    coded: whether there are lengths or resets. afresh: whether rows start afresh from states that are given.
    """
    return _Steps(cell, name, coded, afresh).done()


def operand_of(cell: Cell, number: int, j: int, product: Product) -> Operand:
    """Returns where the product j of phase `number` reads its operand."""
    if not product.segments:
        place = product.operand
        array = place.array if place.array == f"before.{cell.states[0]}" else f"operand.{number}.{j}"
        return Operand(array, (place,), ("0",))
    places, offsets, sums = [], [], "0"
    for segment in product.segments:
        for slot in range(segment.slots):
            places.append(Place(segment.place.array, segment.place.slot + slot))
            offsets.append(sums)
            sums += f" + {length(segment.width, padded=True)}"
    return Operand(f"operand.{number}.{j}", tuple(places), tuple(offsets))


class Writer:
    """Writes what one phase of a step does. How values come and go is for each form to say."""

    column = "unit"  # of a slot of an operand in which a unit lies
    buffers = 2  # of what products read, for steps in turn

    def __init__(self, cell: Cell, name: str, coded: bool, afresh: bool) -> None:
        self.cell, self.name, self.coded, self.afresh = cell, name, coded, afresh
        self.plan = plan(cell)
        self.todo: Pass = getattr(self.plan, name)
        self.back = name == "backward"
        self.first = cell.states[0]
        self.arrays: dict[str, Array] = {}
        self.operands = [
            (operand_of(cell, number, j, product), product)
            for number, products in enumerate(self.todo.products)
            for j, product in enumerate(products)
        ]
        for operand, product in self.operands:
            self.array(operand.array, product)

    # Arrays.

    def array(self, name: str, product: Product | None = None) -> str:
        """Adds an array to those of the pass, and returns the name of its address in a kernel."""
        if name not in self.arrays:
            self.arrays[name] = self.layout(name, product)
        return f"address_{name.replace('.', '_')}"

    def layout(self, name: str, product: Product | None) -> Array:
        cell, (kind, _, rest) = self.cell, name.partition(".")
        gates, wide = len(cell.anatomy.input_gates), rest != self.first
        if kind in ("output", "d_output"):
            return Array(((1, width_of_state(cell, self.first)),), steps=True, joined=True)
        if kind == "operand":
            assert product is not None
            columns = [(segment.slots, segment.width) for segment in product.segments]
            columns = columns or [(1, width_of(cell, product.operand.array))]
            return Array(tuple(columns), buffers=self.buffers, padded=True)
        if kind == "product":
            assert product is not None
            return Array(((len(product.nodes), product.width),), wide=True)
        if kind in ("bias", "weight"):
            return Array(((1, HIDDEN),), rows=False)
        if kind == "code":
            return Array((), steps=True)
        if kind in ("final", "cotangent"):
            return Array(((1, width_of_state(cell, rest)),))
        if kind in ("initial", "afresh", "carry", "d_afresh", "before"):
            columns = ((1, width_of_state(cell, rest)),)
            wide = wide or kind in ("carry", "d_afresh")
            if kind == "before":
                return Array(columns, buffers=self.buffers, wide=wide, padded=True)
            return Array(columns, rows=kind != "afresh", wide=wide)
        if kind == "s":
            return Array(((1, width_of_state(cell, rest)),), steps=True, wide=wide)
        if kind in ("u", "d_u"):
            return Array(((1, HIDDEN),), steps=True)
        if kind in ("x", "d_x"):
            return Array(((gates, HIDDEN),), steps=True)
        if kind in ("p", "d_p"):
            return Array(((len(cell.vectors), HIDDEN),), rows=kind == "d_p", wide=True)
        if kind == "memory":
            return Array(((self.todo.slots[name], width_of(cell, name)),), wide=True)
        slots = self.plan.forward.slots if kind == "extra" else self.plan.backward.slots
        return Array(((slots[name], width_of(cell, name)),), steps=True)

    def history(self, state: str) -> Place:
        return Place("output") if state == self.first else Place(f"s.{state}")

    # Lines.

    def begin(self) -> None:
        self.used: dict[str, None] = {}  # addresses that the kernel reads from the table
        self.lines: list[str] = []
        self.adjoints: set[str] = set()  # states whose adjoint the kernel has

    def enter(self, number: int) -> None:
        self.number, self.phase = number, self.todo.phases[number]
        self.width = length(self.phase.width)

    def addresses(self) -> list[str]:
        """Returns the lines that make the addresses of arrays."""
        lines = []
        for name in self.used:
            kind = "tl.uint8" if name == "code" else self.stored_type(name)
            lines.append(f"{self.array(name)} = {self.word(name)}.to(tl.pointer_type({kind}))")
        return lines

    def word(self, name: str) -> str:
        """Returns the address of an array as a number; 0 if the array is left out."""
        return f"tl.load(table + ({ADDRESSES} + {list(self.arrays).index(name)} * D + d))"

    def times(self) -> list[str]:
        """Returns the lines that find the step n after `done` others, the time t that it reads, and which rows exist."""
        return [
            "n = steps - 1 - done" if self.back else "n = done",
            "rows = tl.where((n >= 0) & (n < steps), B, 0)",
            "here = " + self.exist("rows"),
            "here_before = " + self.exist("tl.where(n > 0, rows, 0)"),
            "here_after = " + self.exist("tl.where(n + 1 < steps, rows, 0)"),
            "t = tl.where(back, steps - 1 - n, n)",
            "t_before = tl.where(back, t + 1, t - 1)",
            "t_after = tl.where(back, t - 1, t + 1)",
        ]

    def exist(self, rows: str) -> str:
        """Returns the mask of a kernel's units in the first so many rows."""
        return f"row < {rows}"

    def put(self, line: str) -> None:
        self.lines.append(line)

    def at(
        self, name: str, column: str, time: str = "t", buffer: str = "done", row: str = "row", unit: str = ""
    ) -> str:
        """Returns the addresses of this kernel's units, or of other rows and units, in a column of an array."""
        own, array = self.array(name), self.arrays[name]
        self.used.setdefault(name)
        width = " + ".join(f"{slots} * {length(width, array.padded)}" for slots, width in array.columns) or "1"
        if array.joined:
            width = f"D * ({width})"
        where = f"({time} * B + {row})" if array.steps else row
        unit = unit or (self.column if array.padded else "unit")
        if not array.columns:
            return f"{own} + ({where} + 0 * unit)"
        parts = [f"({buffer}) % {array.buffers} * (D * B * ({width}))"] if array.buffers > 1 else []
        parts += [f"{where} * ({width})"] if array.rows else []
        parts += [] if column in ("0", "0 * H", "0 * P") else [column]
        return f"{own} + ({' + '.join([*parts, unit])})"

    def slot(self, place: Place, time: str = "t", buffer: str = "done") -> str:
        return self.at(place.array, f"{place.slot} * {self.width}", time, buffer)

    def load(self, pointer: str, when: str = "here") -> str:
        return f"tl.load({pointer}, {when}, other=0.0).to(WIDE)"

    def store(self, pointer: str, value: str, kind: str) -> None:
        self.put(f"tl.store({pointer}, ({value}).to({kind}), here)")

    def stored_type(self, name: str) -> str:
        return "WIDE" if self.arrays[name].wide else "LOW"

    def store_at(self, place: Place, value: str, buffer: str = "done") -> None:
        pointer = self.slot(place, buffer=buffer)
        self.store(pointer, value, self.stored_type(place.array))

    def store_operands(self, place: Place, value: str, buffer: str = "done") -> None:
        """Stores a value for every product whose operand it belongs to."""
        for operand, product in self.operands:
            if operand.array.startswith("operand."):
                for other, offset in zip(operand.places, operand.offsets, strict=True):
                    if other == place:
                        later = "done + 1" if product.state else buffer
                        self.store(self.at(operand.array, offset, buffer=later), value, "LOW")

    def is_operand(self, place: Place) -> bool:
        return any(place in operand.places for operand, _ in self.operands)

    # How values come and go. A form may keep them in registers.

    def of_step(self, name: str, value: str) -> str:
        """Returns what a step reads of an array that no step of this pass writes. A form may read it before the step begins."""
        return value

    def fixed(self, name: str, pointer: str) -> str:
        """Returns a value that is the same in every step."""
        return self.load(pointer)

    def result(self, product: Product, number: int, j: int, column: int) -> str:
        """Returns a result of the product j of phase `number`."""
        self.array(f"product.{number}.{j}", product)
        return self.load(self.at(f"product.{number}.{j}", f"{column} * {length(product.width)}"))

    def from_earlier_phase(self, place: Place) -> str:
        return self.load(self.slot(place))

    def before(self, state: str) -> str:
        """Returns the state before the step."""
        return self.load(self.slot(Place(f"before.{state}")))

    def hand_on(self, state: str, value: str) -> None:
        """Keeps the state before the next step."""
        self.store_at(Place(f"before.{state}"), value, "done + 1")

    def carry(self, state: str) -> str:
        """Returns the adjoint of the state after the step, but for what comes back through products."""
        return self.load(self.slot(Place(f"carry.{state}")))

    def hand_back(self, state: str, value: str) -> None:
        """Keeps the adjoint of the state for the step before."""
        self.store_at(Place(f"carry.{state}"), value)

    def add_to(self, place: Place, value: str) -> None:
        """Adds to a sum over all steps."""
        self.store_at(place, f"{self.load(self.slot(place))} + {value}")

    # A phase.

    def codes(self, *times: str) -> None:
        """Puts lines that read the codes of steps. A step before the first or after the last is ordinary."""
        for time in times if self.coded else ():
            of = time.removeprefix("t")  # "", "_before" or "_after"
            self.put_code(f"code{of}", f"tl.load({self.at('code', '', time)}, here{of}, other={ORDINARY})")

    def put_code(self, name: str, value: str) -> None:
        self.put(f"{name} = {value}")

    def present(self, value: str, otherwise: str = "0.0") -> str:
        """Returns the value, and another one at a step that the row does not have."""
        return f"tl.where(code == {ABSENT}, {otherwise}, {value})" if self.coded else value

    def products_here(self) -> dict[int, str]:
        """Returns the expressions of the products of this phase, with their biases, by node."""
        found: dict[int, str] = {}
        for j, product in enumerate(self.todo.products[self.number]):
            for column, node in enumerate(product.nodes):
                found[node.index] = self.result(product, self.number, j, column)
                if product.bias:
                    block = product.blocks[column]
                    pointer = self.at(f"bias.{product.bias}", f"{block} * {self.width}")
                    found[node.index] += f" + {self.fixed(f'bias_{product.bias}_{block}', pointer)}"
        return found

    def over_rows(self, found: dict[int, str], read: Callable[[Node], str]) -> None:
        """Adds the expressions of the operations over whole rows of this phase, by node."""
        for each in self.todo.over_rows(self.number):
            found[each.node.index] = self.over_row(each.node.op, read(each.node.arguments[0]))

    def over_row(self, op: str, value: str) -> str:
        """Returns the sum or the mean of a value over all units of a row."""
        raise NotImplementedError

    def values(self, read: Callable[[Node], str]) -> Value:
        """Returns what gives the values of this phase. read(node): the expression of a node that no phase computes."""
        return value_lines(self.phase.nodes, read, self.put)

    def forward(self) -> None:
        products = self.products_here()
        self.codes("t", "t_after")

        def read(node: Node) -> str:
            if node.index in products:
                return products[node.index]
            place = self.todo.places[node.index]
            kind, _, name = place.array.partition(".")
            if kind == "before":
                return self.before(name)
            if kind == "p":
                return self.fixed(f"p_{place.slot}", self.slot(place))
            if kind == "x" and node.op == "x":
                return self.of_step(f"x_{place.slot}", self.load(self.slot(place)))
            if kind == "u":
                return self.of_step(f"u_{name}", self.load(self.slot(place)))
            return self.from_earlier_phase(self.history(name) if kind == "s" else place)

        self.over_rows(products, read)
        value = self.values(read)
        for node in self.phase.nodes:
            value(node)
        for node, place in self.todo.stores[self.number]:
            kind, _, name = place.array.partition(".")
            if kind == "s":
                self.store_state(name, value(node))
                continue
            result = self.present(value(node)) if self.is_operand(place) else value(node)
            self.keep(place, result)
            self.store_operands(place, result)

    def keep(self, place: Place, value: str) -> None:
        self.store_at(place, value)

    def read_later(self, state: str) -> bool:
        """Whether a later phase of this step reads the new state."""
        return any(
            self.todo.places.get(argument.index) == Place(f"s.{state}")
            for phase in self.todo.phases[self.number + 1 :]
            for node in phase.nodes
            for argument in node.arguments
        )

    def store_state(self, state: str, new: str) -> None:
        """Stores a new state where backward or a later phase reads it, and for the next step."""
        if state == self.first or self.name == "forward" or self.read_later(state):
            self.keep(self.history(state), self.present(new))
        self.store_operands(Place(f"s.{state}"), self.present(new))
        after = self.present(new, self.before(state))
        if self.coded:
            after = f"tl.where(code_after == {AFRESH}, {self.fresh(state)}, {after})"
        self.put(f"after_{state} = {after}")
        self.hand_on(state, f"after_{state}")
        self.store_operands(Place(f"before.{state}"), f"after_{state}", "done + 1")

    def fresh(self, state: str) -> str:
        """Returns the state to go on from after a reset."""
        return self.fixed(f"afresh_{state}", self.at(f"afresh.{state}", "0")) if self.afresh else "0.0"

    def backward(self) -> None:
        products = self.products_here()
        self.codes("t", "t_before", "t_after")
        begun = [s for s in self.cell.states if self.begins_here(s)]
        for state in begun:
            self.adjoint(state)
        computed = {node.index for phase in self.todo.phases for node in phase.nodes}

        def read(node: Node) -> str:
            if node.op == "adjoint" and node.index not in computed:  # no product adds to it
                carried = self.carry(node.name)
                return f"tl.where(code_after == {AFRESH}, 0.0, {carried})" if self.coded else carried
            if node.op == "adjoint" and node.name in self.adjoints:
                if node.name != self.first:
                    return f"adjoint_{node.name}"
                d_output = self.of_step("d_output", self.load(self.at("d_output", "0")))
                return f"adjoint_{node.name} + {self.present(d_output)}"
            if node.index in products:
                return products[node.index]
            place = self.todo.places[node.index]
            kind, _, name = place.array.partition(".")
            if kind == "before":
                return self.of_step(f"before_{name}", self.state_before(name))
            if kind == "p":
                return self.fixed(f"p_{place.slot}", self.slot(place))
            if node.op == "kept":
                pointer = self.slot(self.history(name) if kind == "s" else place)
                return self.of_step(f"{kind}_{name}_{place.slot}", self.load(pointer))
            return self.from_earlier_phase(place)

        self.over_rows(products, read)
        value = self.values(read)
        for node in self.phase.nodes:
            value(node)
        for state in begun:
            if f"s.{state}" not in self.todo.graph.outputs:  # all of its adjoint comes back through products
                self.hand_back(state, self.present("tl.full((), 0.0, WIDE)", f"adjoint_{state}"))
        for node, place in self.todo.stores[self.number]:
            kind, _, name = place.array.partition(".")
            if kind == "d_p":
                self.add_to(place, self.present(value(node)))
            elif kind == "carry":
                if self.coded and name not in self.adjoints:
                    self.adjoint(name)
                self.hand_back(name, self.present(value(node), f"adjoint_{name}"))
            else:
                of_all_steps = kind in ("d_x", "d_u", "d_extra")
                self.keep(place, self.present(value(node)) if of_all_steps else value(node))
                self.store_operands(place, self.present(value(node)))

    def begins_here(self, state: str) -> bool:
        """Whether this is the first phase with values as wide as the state."""
        width = width_of_state(self.cell, state)
        return width == self.phase.width and all(phase.width != width for phase in self.todo.phases[: self.number])

    def adjoint(self, state: str) -> None:
        """Puts the line that computes `adjoint_STATE`: that of the state after the step, without the output's part."""
        parts = [self.carry(state)]
        for number, products in enumerate(self.todo.products):
            for j, product in enumerate(products):
                if product.state == state:  # what comes back from the step after
                    parts.append(self.result(product, number, j, 0))
        line = " + ".join(parts)
        if self.coded:
            self.put(f"all_{state} = {line}")
            line = f"tl.where(code_after == {AFRESH}, 0.0, all_{state})"
            if self.afresh and self.begins_here(state):
                self.array(f"d_afresh.{state}")
                fresh = f"tl.where(code_after == {AFRESH}, all_{state}, 0.0)"
                self.add_to(Place(f"d_afresh.{state}"), fresh)
        self.put(f"adjoint_{state} = {line}")
        self.adjoints.add(state)

    def state_before(self, state: str) -> str:
        """Returns the state before the step: the initial one at the row's first step."""
        initial, start = self.load(self.at(f"initial.{state}", "0")), "n == 0"
        history = self.load(self.slot(self.history(state), "t_before"), "here_before")
        if self.coded:
            start = f"(n == 0) | (code_before == {ABSENT})"
        found = f"tl.where({start}, {initial}, {history})"
        return f"tl.where(code == {AFRESH}, {self.fresh(state)}, {found})" if self.coded else found


class _Steps(Writer):
    """Writes a kernel for each phase. Between kernels, everything is in memory.

    A program computes BLOCK units of all rows, one after the other; in a phase with operations over whole rows, one row.
    """

    def done(self) -> Kernels:
        text = [HEADER, *[self.kernel(number) for number in range(len(self.todo.phases))]]
        widths = [phase.width for phase in self.todo.phases]
        return Kernels("\n\n".join(text), self.arrays, widths)

    def kernel(self, number: int) -> str:
        self.begin()
        self.enter(number)
        (self.backward if self.back else self.forward)()
        at = "tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)"
        place = [f"at = {at}", f"row = (at // {self.width}).to(tl.int64)", f"unit = at % {self.width}"]
        if self.todo.over_rows(number):
            place = ["unit = tl.arange(0, BLOCK)", "row = (tl.program_id(0) + 0 * unit).to(tl.int64)"]
        head = [
            '@triton.jit(do_not_specialize=["k", "B"])',
            f"def {self.name}_{number}(table, k, B, {PARAMETERS}, BLOCK: tl.constexpr):",
        ]
        body = [
            "d = tl.program_id(1)",
            "done = tl.load(table) + k",
            "steps = tl.load(table + 1)",
            "back = ((REVERSE >> d) & 1) == 1",
            *self.addresses(),
            *place,
            *self.times(),
            *self.lines,
        ]
        return "\n".join([*head, *(f"    {line}" for line in body), ""])

    def exist(self, rows: str) -> str:
        every = super().exist(rows)
        return f"({every}) & (unit < {self.width})" if self.todo.over_rows(self.number) else every

    def over_row(self, op: str, value: str) -> str:
        every = f" / {self.width}" if op == "mean" else ""
        return f"tl.broadcast_to(tl.sum({value}, 0){every}, [BLOCK])"  # beyond the last unit, what is loaded is zero
