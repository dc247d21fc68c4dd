"""The kernels of the form `steps`: one for each phase of a step, which does everything but the matrix products.

A kernel computes one phase of the step n for every unit of every row. It is given a table of 64-bit words: how many
steps are done, the number of steps, and the addresses of all arrays in every direction. So a kernel that a CUDA graph
has recorded can run other steps, on other arrays.

The arrays are those of elman/arrays.py. These are added:

    output, d_output       the first state after every step, and its cotangent; the directions lie beside each other
    before.NAME            here two buffers: even steps read the first and write the second, odd steps the reverse
    operand.K.J            the operand of product J of phase K, as one matrix; before.NAME if it is the first state
    product.K.J            the result of that product
    bias.FIELD             the biases of a matrix, one for each of its rows
    initial.NAME           the initial states
    code                   for every step and row: `ORDINARY`, `AFRESH` or `ABSENT`
    afresh.NAME            the states to go on from after a reset, one row for all rows of the batch
    d_afresh.NAME          their adjoints, for each row of the batch
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from elman.arrays import Place, width_of
from elman.cell import Cell
from elman.gpu.source import HEADER, value_lines
from elman.graph import Node
from elman.leaves import HIDDEN, width_of_state
from elman.plan import Pass, Product, plan

# A step of a row goes on from the step before, or starts afresh, or does not exist.
ORDINARY, AFRESH, ABSENT = 0, 1, 2
ADDRESSES = 2  # the word of the table at which addresses begin

LENGTH = {HIDDEN: "H"}  # of a slot, as kernels write it; "P" for other widths


class Array(NamedTuple):
    """How an array lies in memory. Its words in the table are one address for each direction."""

    columns: tuple[tuple[int, str], ...]  # of a row: slots of each width; () for `code`
    steps: bool = False  # True: the array holds every step, (T, B, columns); False: (B, columns)
    buffers: int = 1  # 2: the array has two buffers for steps in turn, (2, D, B, columns)
    rows: bool = True  # False: a row for all rows of the batch
    wide: bool = False  # whether its type is WIDE and not LOW
    joined: bool = False  # whether the directions lie beside each other in a row


class Kernels(NamedTuple):
    """The kernels of one pass."""

    source: str
    arrays: dict[str, Array]  # in the order of their addresses in the table
    phases: list[str]  # the width of each phase; its kernel is the function PASS_NUMBER
    products: list[list[Product]]  # of each phase


class Operand(NamedTuple):
    """Where a product reads its operand: `places` beside each other."""

    array: str
    places: tuple[Place, ...]
    offsets: tuple[str, ...]  # of each place in a row


def length(width: str) -> str:
    return LENGTH.get(width, "P")


def is_backward(name: str) -> bool:
    return name == "backward"


@cache
def kernels(cell: Cell, name: str, coded: bool, afresh: bool) -> Kernels:
    """Returns the kernels of a pass of the cell. name: "infer", "forward" or "backward".

    coded: whether there are lengths or resets. afresh: whether rows start afresh from states that are given.
    """
    return _Writer(cell, name, coded, afresh).done()


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
            sums += f" + {length(segment.width)}"
    return Operand(f"operand.{number}.{j}", tuple(places), tuple(offsets))


class _Writer:
    def __init__(self, cell: Cell, name: str, coded: bool, afresh: bool) -> None:
        self.cell, self.name, self.coded, self.afresh = cell, name, coded, afresh
        self.plan = plan(cell)
        self.todo: Pass = getattr(self.plan, name)
        self.back = is_backward(name)
        self.first = cell.states[0]
        self.arrays: dict[str, Array] = {}
        self.operands = [
            (operand_of(cell, number, j, product), product)
            for number, products in enumerate(self.todo.products)
            for j, product in enumerate(products)
        ]

    def done(self) -> Kernels:
        for operand, product in self.operands:
            self.array(operand.array, product)
        text = [HEADER, *[self.kernel(number) for number in range(len(self.todo.phases))]]
        widths = [phase.width for phase in self.todo.phases]
        return Kernels("\n\n".join(text), self.arrays, widths, self.todo.products)

    # Arrays.

    def array(self, name: str, product: Product | None = None) -> str:
        """Adds an array to those of the pass, and returns the name of its address in a kernel."""
        if name not in self.arrays:
            self.arrays[name] = self.layout(name, product)
        return f"{name.replace('.', '_')}_at"

    def layout(self, name: str, product: Product | None) -> Array:
        cell, (kind, _, rest) = self.cell, name.partition(".")
        gates, wide = len(cell.anatomy.input_gates), rest != self.first
        if kind in ("output", "d_output"):
            return Array(((1, width_of_state(cell, self.first)),), steps=True, joined=True)
        if kind == "operand":
            assert product is not None
            of_state = product.operand.array.startswith("before.")
            columns = [(segment.slots, segment.width) for segment in product.segments]
            return Array(tuple(columns) or ((1, width_of(cell, product.operand.array)),), buffers=2 if of_state else 1)
        if kind == "product":
            assert product is not None
            return Array(((len(product.nodes), product.width),), wide=True)
        if kind == "bias":
            return Array(((1, HIDDEN),), rows=False)
        if kind == "code":
            return Array((), steps=True)
        if kind in ("initial", "afresh", "carry", "d_afresh", "before"):
            columns = ((1, width_of_state(cell, rest)),)
            wide = wide or kind in ("carry", "d_afresh")
            return Array(columns, buffers=2 if kind == "before" else 1, rows=kind != "afresh", wide=wide)
        if kind == "s":
            return Array(((1, width_of_state(cell, rest)),), steps=True, wide=wide)
        if kind in ("x", "d_x"):
            return Array(((gates, HIDDEN),), steps=True)
        if kind in ("p", "d_p"):
            return Array(((len(cell.vectors), HIDDEN),), rows=kind == "d_p", wide=True)
        if kind == "memory":
            return Array(((self.todo.slots[name], width_of(cell, name)),), wide=True)
        slots = self.plan.forward.slots if kind == "extra" else self.plan.backward.slots
        return Array(((slots[name], width_of(cell, name)),), steps=True)

    # One kernel.

    def kernel(self, number: int) -> str:
        self.number, self.phase = number, self.todo.phases[number]
        self.width = length(self.phase.width)
        self.used: dict[str, None] = {}  # addresses that the kernel reads from the table
        self.lines: list[str] = []
        self.adjoints: set[str] = set()  # states whose adjoint this kernel has
        (self.backward if self.back else self.forward)()
        head = [
            '@triton.jit(do_not_specialize=["k", "B"])',
            f"def {self.name}_{number}(table, k, B, H: tl.constexpr, P: tl.constexpr, D: tl.constexpr, REVERSE: tl.constexpr, LOW: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr):",
        ]
        order = list(self.arrays)
        body = [
            "d = tl.program_id(1)",
            "done = tl.load(table) + k",
            "steps = tl.load(table + 1)",
            *(self.address(name, order.index(name)) for name in self.used),
            "at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)",
            f"row = (at // {self.width}).to(tl.int64)",
            f"unit = at % {self.width}",
            "n = steps - 1 - done" if self.back else "n = done",
            "rows = tl.where((n >= 0) & (n < steps), B, 0)",
            "here = row < rows",
            "here_before = row < tl.where(n > 0, rows, 0)",
            "here_after = row < tl.where(n + 1 < steps, rows, 0)",
            "back = ((REVERSE >> d) & 1) == 1",
            "t = tl.where(back, steps - 1 - n, n)",
            "t_before = tl.where(back, t + 1, t - 1)",
            "t_after = tl.where(back, t - 1, t + 1)",
            *self.lines,
        ]
        return "\n".join([*head, *(f"    {line}" for line in body), ""])

    def address(self, name: str, place: int) -> str:
        kind = "tl.uint8" if name == "code" else "WIDE" if self.arrays[name].wide else "LOW"
        word = f"{ADDRESSES} + {place} * D + d"
        return f"{self.array(name)} = tl.load(table + ({word})).to(tl.pointer_type({kind}))"

    def put(self, line: str) -> None:
        self.lines.append(line)

    def at(self, name: str, column: str, time: str = "t", buffer: str = "") -> str:
        """Returns the addresses of this kernel's units in a column of an array."""
        own, array = self.array(name), self.arrays[name]
        self.used.setdefault(name)
        width = " + ".join(f"{slots} * {length(width)}" for slots, width in array.columns) or "1"
        if array.joined:
            width = f"D * ({width})"
        where = f"({time} * B + row)" if array.steps else "row"
        offset = f"{where} * ({width}) + " if array.rows else ""
        if array.buffers == 2:
            offset = f"({buffer}) % 2 * (D * B * ({width})) + " + offset
        return f"{own} + ({offset}{column} + unit)" if array.columns else f"{own} + {where}"

    def slot(self, place: Place, time: str = "t", buffer: str = "n") -> str:
        return self.at(place.array, f"{place.slot} * {self.width}", time, buffer)

    def load(self, pointer: str, when: str = "here") -> str:
        return f"tl.load({pointer}, {when}, other=0.0).to(WIDE)"

    def store(self, pointer: str, value: str, kind: str) -> None:
        self.put(f"tl.store({pointer}, ({value}).to({kind}), here)")

    def stored_type(self, name: str) -> str:
        return "WIDE" if self.arrays[name].wide else "LOW"

    def store_at(self, place: Place, value: str, buffer: str = "n") -> None:
        pointer = self.slot(place, buffer=buffer)
        self.store(pointer, value, self.stored_type(place.array))

    def store_operands(self, place: Place, value: str, buffer: str = "n") -> None:
        """Stores a value for every product whose operand it belongs to."""
        for operand, _ in self.operands:
            if operand.array.startswith("operand."):
                for other, offset in zip(operand.places, operand.offsets, strict=True):
                    if other == place:
                        self.store(self.at(operand.array, offset, buffer=buffer), value, "LOW")

    def codes(self, *times: str) -> None:
        """Puts lines that read the codes of steps. A step before the first or after the last is ordinary."""
        if not self.coded:
            return
        for time in times:
            of = time.removeprefix("t")  # "", "_before" or "_after"
            self.put(f"code{of} = tl.load({self.at('code', '', time)}, here{of}, other={ORDINARY})")

    def present(self, value: str, otherwise: str = "0.0") -> str:
        """Returns the value, and another one at a step that the row does not have."""
        return f"tl.where(code == {ABSENT}, {otherwise}, {value})" if self.coded else value

    def states_of_width(self) -> list[str]:
        return [s for s in self.cell.states if width_of_state(self.cell, s) == self.phase.width]

    def products_here(self) -> dict[int, tuple[str, str]]:
        """Returns the expressions of the products of this phase, and of their biases, by node."""
        found: dict[int, tuple[str, str]] = {}
        for j, product in enumerate(self.todo.products[self.number]):
            name = f"product.{self.number}.{j}"
            self.array(name, product)
            for column, node in enumerate(product.nodes):
                bias = ""
                if product.bias:
                    pointer = self.at(f"bias.{product.bias}", f"{product.blocks[column]} * {self.width}")
                    bias = f" + {self.load(pointer)}"
                found[node.index] = self.load(self.at(name, f"{column} * {self.width}")), bias
        return found

    # The step.

    def forward(self) -> None:
        products = self.products_here()
        self.codes("t", "t_after")

        def read(node: Node) -> str:
            if node.index in products:
                return "".join(products[node.index])
            place = self.todo.places[node.index]
            kind, _, name = place.array.partition(".")
            if kind == "s":  # computed by an earlier phase of this step
                return self.load(self.slot(self.history(name)))
            return self.load(self.slot(place))

        value = value_lines(self.phase.nodes, read, self.put)
        for node in self.phase.nodes:
            value(node)
        for node, place in self.todo.stores[self.number]:
            kind, _, name = place.array.partition(".")
            if kind == "s":
                self.store_state(name, value(node))
                continue
            is_operand = any(place in operand.places for operand, _ in self.operands)
            result = self.present(value(node)) if is_operand else value(node)
            self.store_at(place, result)
            self.store_operands(place, result)

    def history(self, state: str) -> Place:
        return Place("output") if state == self.first else Place(f"s.{state}")

    def store_state(self, state: str, new: str) -> None:
        """Stores a new state where backward or a later phase reads it, and for the next step."""
        later = any(
            self.todo.places.get(argument.index) == Place(f"s.{state}")
            for phase in self.todo.phases[self.number + 1 :]
            for node in phase.nodes
            for argument in node.arguments
        )
        if state == self.first:
            self.store_at(Place("output"), self.present(new))
        elif self.name == "forward" or later:
            self.store_at(Place(f"s.{state}"), self.present(new))
        self.store_operands(Place(f"s.{state}"), self.present(new))
        before = Place(f"before.{state}")
        after = self.present(new, self.load(self.slot(before)))
        if self.coded:
            start = self.load(self.at(f"afresh.{state}", "0")) if self.afresh else "0.0"
            after = f"tl.where(code_after == {AFRESH}, {start}, {after})"
        self.put(f"after_{state} = {after}")
        self.store_at(before, f"after_{state}", "n + 1")
        self.store_operands(before, f"after_{state}", "n + 1")

    # Its derivative.

    def backward(self) -> None:
        products = self.products_here()
        self.codes("t", "t_before", "t_after")
        here = self.states_of_width() if self.is_first_of_width() else []
        for state in here:
            self.adjoint(state)
        kept = {node.index for node in self.phase.nodes}

        def read(node: Node) -> str:
            if node.op == "adjoint" and node.index in self.todo.places and node.index not in kept:
                place = self.todo.places[node.index]
                if place.array.startswith("carry.") and self.coded:
                    return f"tl.where(code_after == {AFRESH}, 0.0, {self.load(self.slot(place))})"
                return self.load(self.slot(place))
            if node.op == "adjoint":
                d_output = f" + {self.present(self.load(self.at('d_output', '0')))}" if node.name == self.first else ""
                return f"adjoint_{node.name}{d_output}"
            if node.index in products:
                return products[node.index][0]
            place = self.todo.places[node.index]
            kind, _, name = place.array.partition(".")
            if kind == "before":
                return self.state_before(name)
            return self.load(self.slot(self.history(name) if kind == "s" else place))

        value = value_lines(self.phase.nodes, read, self.put)
        for node in self.phase.nodes:
            value(node)
        for state in here:
            if f"s.{state}" not in self.todo.graph.outputs:  # all of its adjoint comes back through products
                self.store_at(Place(f"carry.{state}"), self.present("tl.full((), 0.0, WIDE)", f"adjoint_{state}"))
        for node, place in self.todo.stores[self.number]:
            kind, _, name = place.array.partition(".")
            if kind == "d_p":
                sums = f"{self.load(self.slot(place))} + {self.present(value(node))}"
                self.store_at(place, sums)
            elif kind == "carry":
                if self.coded and name not in self.adjoints:
                    self.adjoint(name)
                self.store_at(place, self.present(value(node), f"adjoint_{name}"))
            else:
                of_leaf = kind in ("d_x", "d_extra")
                self.store_at(place, self.present(value(node)) if of_leaf else value(node))
                self.store_operands(place, self.present(value(node)))

    def is_first_of_width(self) -> bool:
        return all(phase.width != self.phase.width for phase in self.todo.phases[: self.number])

    def adjoint(self, state: str) -> None:
        """Puts the line that computes `adjoint_STATE`: that of the state after the step, without the output's part."""
        parts = [self.load(self.slot(Place(f"carry.{state}")))]
        for number, products in enumerate(self.todo.products):
            for j, product in enumerate(products):
                if product.state == state:  # what comes back from the step after
                    self.array(f"product.{number}.{j}", product)
                    parts.append(self.load(self.at(f"product.{number}.{j}", "0")))
        line = " + ".join(parts)
        if self.coded:
            self.put(f"all_{state} = {line}")
            line = f"tl.where(code_after == {AFRESH}, 0.0, all_{state})"
            if self.afresh and self.is_first_of_width():
                pointer = self.at(f"d_afresh.{state}", "0")
                self.put(f"fresh_{state} = tl.where(code_after == {AFRESH}, all_{state}, 0.0)")
                self.store(pointer, f"{self.load(pointer)} + fresh_{state}", "WIDE")
        self.put(f"adjoint_{state} = {line}")
        self.adjoints.add(state)

    def state_before(self, state: str) -> str:
        """Returns the state before the step: the initial one at the row's first step."""
        initial, start = self.load(self.at(f"initial.{state}", "0")), "n == 0"
        history = self.load(self.slot(self.history(state), "t_before"), "here_before")
        if self.coded:
            start = f"(n == 0) | (code_before == {ABSENT})"
        found = f"tl.where({start}, {initial}, {history})"
        if self.coded:
            fresh = self.load(self.at(f"afresh.{state}", "0")) if self.afresh else "0.0"
            found = f"tl.where(code == {AFRESH}, {fresh}, {found})"
        return found
