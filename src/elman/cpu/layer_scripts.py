"""The scripts of a layer: what inference, forward and backward do, for given sizes, strides and threads.

What does not depend on the step before is done for all steps at once (matrices.py): the input's share of
every gate, its gradient, the weights' gradients. The kernels run the recurrence between them (tables.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache, wraps
from itertools import chain, islice
from typing import Any, Concatenate, NamedTuple, ParamSpec, cast

from elman.cell import Cell
from elman.cpu import packing, product, threads
from elman.cpu.arrays import Place, width_of
from elman.cpu.formats import FLOAT64, Format
from elman.cpu.matrices import Factor, Gradient, Linear, gradients
from elman.cpu.plan import Plan, plan
from elman.cpu.rows import INDICES
from elman.cpu.script import Array, Script, Task
from elman.cpu.tables import Kernels, Packed, Sizes, copy, fill, gather, multiplications
from elman.cpu.tape import Tape
from elman.layout import Weights
from elman.leaves import HIDDEN, PROJECTED, width_of_state

SHARE_BYTES = 1 << 20  # in inference each thread makes the input's share for so many bytes of steps at a time
MOST_BYTES = 1 << 23  # or where its weights are larger, for as many bytes as these, up to so many
CHUNKS = 64  # at most so many times in one script
TEMPLATES = 16  # at most, that are kept of a form


class Form(NamedTuple):
    """What a script depends on, besides the cell."""

    steps: int
    batch: int
    inputs: int
    units: int
    proj: int  # 0 where no state is projected
    format: Format  # of every number
    threads: int
    reverse: tuple[bool, ...]
    names: tuple[str, ...]  # of what is given
    strides: tuple[tuple[int, ...] | None, ...]  # of each; None if it is not there
    packed: Packed | None = None  # where there are lengths or resets; then `steps` and `batch` are of the rows

    def given(self) -> dict[str, tuple[int, ...]]:
        """The strides of what is there, by name."""
        return {name: stride for name, stride in zip(self.names, self.strides, strict=True) if stride is not None}

    def opened(self) -> tuple[Form, list[int]]:
        """The form without the sizes that change from batch to batch, and these: T, B, strides of sequences and states."""
        sizes = [self.steps, self.batch]
        strides: list[tuple[int, ...] | None] = []
        for stride in self.strides:
            if stride is not None and len(stride) == 3:
                sizes += stride
                stride = 0, 0, 0
            strides.append(stride)
        if self.packed is not None:
            *numbers, edges = self.packed
            sizes += *numbers, *edges
            packed = Packed(0, 0, 0, 0, 0, (0,) * len(edges))
            return self._replace(steps=0, batch=0, strides=tuple(strides), packed=packed), sizes
        return self._replace(steps=0, batch=0, strides=tuple(strides)), sizes

    def with_sizes(self, sizes: Sequence[int]) -> Form:
        """The opposite of `opened`."""
        steps, batch, *rest = sizes
        numbers = iter(rest)
        strides = [
            tuple(islice(numbers, 3)) if stride is not None and len(stride) == 3 else stride for stride in self.strides
        ]
        packed = self.packed
        if packed is not None:
            total, length, sequences, runs, last = islice(numbers, 5)
            packed = Packed(total, length, sequences, runs, last, tuple(numbers))
        return self._replace(steps=steps, batch=batch, strides=tuple(strides), packed=packed)

    def sizes(self, cell: Cell, products: int = 1) -> Sizes:
        """With one thread where a team is not worth calling, for so many products with every weight."""
        directions = len(self.reverse)
        row = len(cell.anatomy.input_gates) * self.inputs * self.units + multiplications(cell, self.units, self.proj)
        sizes = Sizes(*self[:6], directions, self.threads, packed=self.packed)
        return sizes._replace(
            threads=threads.of_team(products * threads.of_rows(sizes.total) * row * directions, self.threads)
        )


P = ParamSpec("P")


@lru_cache(maxsize=128)
def templates(*_: Any) -> list[tuple[Tape, Script]]:
    """Of a kind of script and a form without sizes: scripts as they were written, the latest in use first."""
    return []


def for_all_sizes(write: Callable[Concatenate[Cell, Form, P], Script]) -> Callable[Concatenate[Cell, Form, P], Script]:
    """The script that `write` writes, kept. It is written on a tape (tape.py), which is played for other sizes."""

    def script(cell: Cell, form: Form, *more: P.args, **named: P.kwargs) -> Script:
        form, sizes = form.opened()
        known = templates(write, cell, form, *more, *named.items())
        for template in known:
            values = template[0].play(sizes)
            if values is not None:
                known[:] = template, *(other for other in known if other is not template)
                return template[1].again(values)
        tape = Tape(sizes)
        written = write(cell, form.with_sizes(tape.sizes), *more, **named)
        known[:] = (tape, written), *known[: TEMPLATES - 1]
        return written

    return wraps(write)(cast("Callable[Concatenate[Cell, Form, P], Script]", lru_cache(maxsize=256)(script)))


class Given(NamedTuple):
    """What a direction runs on, in a script."""

    weights: dict[str, Array]  # by field of `Weights`
    state: list[Array]
    reverse: bool
    afresh: list[Array]  # the states from which rows start afresh, each (width,); none for zero


class Wanted(NamedTuple):
    """Which gradients are asked for."""

    x: bool
    weights: tuple[tuple[bool, ...], ...]  # of each direction, by field of `Weights`
    state: tuple[bool, ...]
    afresh: tuple[bool, ...] = ()


def _given(script: Script, cell: Cell, form: Form) -> list[Given]:
    """The directions: their weights, and their parts of the initial states."""
    strides, weights = form.given(), []
    for d in range(len(form.reverse)):
        names = {field: f"{field}.{d}" for field in Weights._fields if f"{field}.{d}" in strides}
        weights.append({field: script.given(name, row=strides[name][0]) for field, name in names.items()})
    states = [_by_direction(script, f"initial.{s}", strides[f"initial.{s}"], len(form.reverse)) for s in cell.states]
    afresh = [
        script.given(f"afresh.{s}", row=strides[f"afresh.{s}"][0]) for s in cell.states if f"afresh.{s}" in strides
    ]
    return [
        Given(of, [s[d] for s in states], form.reverse[d], [s.at(row=d) for s in afresh])
        for d, of in enumerate(weights)
    ]


def _by_direction(script: Script, name: str, stride: tuple[int, ...], directions: int) -> list[Array]:
    """The parts (B, width) of a given array (D, B, width)."""
    array = script.given(name, row=stride[1])
    return [array.at(column=d * stride[0]) for d in range(directions)]


def _x(script: Script, form: Form, name: str = "x") -> Array:
    """x as (T*B, I): steps follow each other as rows do."""
    x = script.given(name, *form.given()["x"][:2])
    batch = form.batch if form.packed is None else form.packed.batch
    return x._replace(row=x.time) if batch == 1 else x


def _indices(script: Script, form: Form) -> dict[str, Array]:
    """What `rows.Rows` has, by name; nothing if all sequences have all steps."""
    if form.packed is None:
        return {}
    return {name: script.given(name, form=FLOAT64) for name in index_names(len(form.reverse))}  # of eight bytes, too


@cache
def index_names(directions: int) -> tuple[str, ...]:
    """In the order in which a pass gives them."""
    single = [name for name in INDICES if not name.endswith(".")]
    return *single, *(f"{name}{d}" for d in range(directions) for name in INDICES if name.endswith("."))


class Entered(NamedTuple):
    """A direction as the kernels see it: the rows of the batch, packed if they have different lengths."""

    given: Given
    x: Array  # (N, I), or (T*B, I) and an index
    where: dict[str, Array]  # of its rows, by names of `INDICES`
    tasks: list[Task]  # that make all this


def _enter(
    script: Script, cell: Cell, sizes: Sizes, indices: dict[str, Array], d: int, given: Given, x: Array
) -> Entered:
    if sizes.packed is None:
        return Entered(given, x, {}, [])
    index = {name: indices[f"{name}{d}"] for name in INDICES if name.endswith(".")}
    index |= {name: array for name, array in indices.items() if name in INDICES}
    states: list[Array] = []
    tasks: list[Task] = []
    for number, (state, width) in enumerate(zip(given.state, _widths(cell, sizes), strict=True)):
        states.append(script.room(sizes.batch * width, row=width))
        afresh = given.afresh[number]._replace(row=0) if given.afresh else None  # the same for every row
        tasks += gather(sizes, index["starts."], state, states[-1], sizes.batch, width, other=afresh)
    return Entered(Given(given.weights, states, False, given.afresh), x, index, tasks)


def _chunk(cell: Cell, form: Form) -> int:
    """For how many steps the input's share is made at a time.

    A cache should still hold it when it is read, but weights that no cache holds should not be read often.
    An even number: every chunk then finds the states in the second of their two places.
    """
    columns = len(cell.anatomy.input_gates) * form.units * form.format.bytes
    most = max(SHARE_BYTES * form.threads, min(columns * form.inputs, MOST_BYTES))
    return max(2, most // max(1, form.batch * columns) // 2 * 2)


@for_all_sizes
def infer_script(cell: Cell, form: Form, part: str = "whole") -> Script:
    """As many steps as one script may have. part: as `Script` has them; the first brings the weights into panels."""
    chunk = _chunk(cell, form) if form.packed is None else form.steps
    form = form._replace(steps=min(form.steps, CHUNKS * chunk))
    sizes, (steps, batch, _, units) = form.sizes(cell)._replace(frozen=part != "whole"), form[:4]
    script = Script(sizes.format, sizes.threads, part)
    script.steps = steps
    originals = _given(script, cell, form)
    widths = _widths(cell, sizes)
    xs = [_x(script, form, f"x.{d}") for d in range(sizes.directions)]  # each direction begins at a step of its own
    outputs = [_output(script, sizes, widths[0], f"output.{d}")[d] for d in range(sizes.directions)]
    finals = _finals(script, cell, sizes)
    indices = _indices(script, form)
    directions = [
        _enter(script, cell, sizes, indices, d, given, x)
        for d, (given, x) in enumerate(zip(originals, xs, strict=True))
    ]

    gates = len(cell.anatomy.input_gates)
    chunk = min(steps, chunk)
    rows = sizes.total if sizes.packed is not None else chunk * batch
    kernels = Kernels(cell, "infer", sizes)
    packing: list[Task] = []
    zeros: list[Task] = []
    shares: list[Linear] = []
    arrays: list[dict[str, Array]] = []
    for entered, output in zip(directions, outputs, strict=True):
        own, before, after = _start(script, kernels, entered)
        packing += before
        zeros += [*entered.tasks, *after]
        width = gates * units
        if gates:
            shares.append(_input_share(script, sizes, entered, width, rows))
            packing += shares[-1].packing
        own["x"] = script.room(rows * width, sizes.time(width), width)
        own[f"s.{cell.states[0]}"] = output
        if sizes.packed is not None:
            own[f"s.{cell.states[0]}"] = script.room(sizes.total * widths[0], widths[0], widths[0])
        for state, width in zip(cell.states[1:], widths[1:], strict=True):  # by turns in two places
            own[f"s.{state}"] = script.room(2 * batch * width, batch * width, width)
        arrays.append(own)
    script.begin(packing, zeros)

    number = int(-(-steps // chunk))
    for n in range(number):
        begin = n * chunk
        count = steps - begin if n == number - 1 else chunk
        starts = [steps - begin - count if given.reverse else begin for given, *_ in directions]
        of = zip(shares, directions, arrays, starts, strict=bool(gates))
        here_rows = rows if number == 1 else count * batch
        script.stage(task for share, e, own, t in of for task in share(e.x.at(t), own["x"], here_rows))
        tasks: list[Task] = []
        for entered, own, t in zip(directions, arrays, starts, strict=True):
            given, output = entered.given, own[f"s.{cell.states[0]}"]
            here = own | {f"s.{cell.states[0]}": output.at(t)}
            if n:  # the states are where the chunk before has left them
                here[f"s0.{cell.states[0]}"] = output.at(t + count if given.reverse else t - 1)
                here |= {f"s0.{state}": own[f"s.{state}"].at(1) for state in cell.states[1:]}
            tasks += kernels.run(here, count, given.reverse, begin)
        script.stage(tasks, together=kernels.parties > 1)

    last: list[Task] = []
    for d, (entered, own, output, of) in enumerate(zip(directions, arrays, outputs, finals, strict=True)):
        if sizes.packed is not None:
            sequences = [own[f"s.{state}"] for state in cell.states]
            last += _leave(cell, sizes, entered, sequences, "turns.", originals[d].state, output, of)
            continue
        present = [output.at(0 if entered.given.reverse else steps - 1)]
        present += [own[f"s.{state}"].at((steps - 1) % chunk % 2) for state in cell.states[1:]]
        ends = zip(present, of, widths, strict=True)
        last += [copy(state, final, batch, width) for state, final, width in ends]
    script.stage(last)
    return script.close()


def _leave(
    cell: Cell,
    sizes: Sizes,
    entered: Entered,
    sequences: Sequence[Array],
    index: str,
    initial: Sequence[Array],
    output: Array,
    finals: Sequence[Array],
) -> list[Task]:
    """Output and final states, back from packed rows. index: where the last rows of states but the first are found."""
    widths = _widths(cell, sizes)
    tasks = gather(sizes, entered.where["places."], sequences[0], output, sizes.places, widths[0])
    for number, (sequence, of, final, width) in enumerate(zip(sequences, initial, finals, widths, strict=True)):
        ends = entered.where[index if number else "ends."]
        tasks += gather(sizes, ends, sequence, final, sizes.sequences, width, other=of)
    return tasks


def _widths(cell: Cell, sizes: Sizes) -> list[int]:
    """Of the states, the first of which is the output."""
    return [sizes.of(width_of_state(cell, state)) for state in cell.states]


def _output(script: Script, sizes: Sizes, width: int, name: str = "output") -> list[Array]:
    """The parts (T, B, width) of each direction."""
    row = sizes.directions * width
    output = script.given(name, sizes.sequences * row, row)
    return [output.at(column=d * width) for d in range(sizes.directions)]


def _finals(script: Script, cell: Cell, sizes: Sizes) -> list[list[Array]]:
    """For each direction, the places of its final states in arrays (D, B, width)."""
    finals = [
        _by_direction(script, f"final.{state}", (sizes.sequences * width, width, 1), sizes.directions)
        for state, width in zip(cell.states, _widths(cell, sizes), strict=True)
    ]
    return [list(of) for of in zip(*finals, strict=True)]


def _start(script: Script, kernels: Kernels, entered: Entered) -> tuple[dict[str, Array], list[Task], list[Task]]:
    """The arrays that all kernels read, and what is to be done before they do: once for the weights, and for every call."""
    sizes, given = kernels.sizes, entered.given
    arrays, tasks = kernels.pack(script, given.weights)
    arrays["zeros"] = script.kept(product.ACCUMULATORS * sizes.lanes)
    tasks.append(fill(arrays["zeros"], 1, product.ACCUMULATORS * sizes.lanes))
    for name, slots in kernels.todo.arrays("memory").items():
        row = slots * sizes.padded(width_of(kernels.cell, name))
        arrays[name] = script.room(sizes.batch * row, row=row)
    arrays["p"] = given.weights.get("ch", arrays["zeros"])._replace(row=0)
    arrays |= {name: array for name, array in entered.where.items() if name in ("runs", "runs back")}
    arrays["meeting"] = script.room(128 // sizes.format.bytes)  # cache lines of its own
    for state, array in zip(kernels.cell.states, given.state, strict=True):
        arrays[f"s0.{state}"] = array
    meeting = fill(arrays["meeting"], 1, 128 // sizes.format.bytes)
    return arrays, tasks, [meeting] if kernels.parties > 1 else []


def _input_share(script: Script, sizes: Sizes, entered: Entered, width: int, rows: int) -> Linear:
    """W x_t + b_ih for steps and rows, (T*B, I) -> (T*B, G*H)."""
    weights, shape = entered.given.weights, (width, sizes.inputs)
    return Linear(script, sizes, weights["ih"], weights.get("b_ih"), shape, rows, index=entered.where.get("index."))


@for_all_sizes
def forward_script(cell: Cell, form: Form) -> Script:
    sizes, (steps, batch, _, units) = form.sizes(cell), form[:4]
    script = Script(sizes.format, sizes.threads)
    x, directions = _x(script, form), _given(script, cell, form)
    widths = _widths(cell, sizes)
    outputs, finals = _output(script, sizes, widths[0]), _finals(script, cell, sizes)
    indices = _indices(script, form)
    kernels, gates = Kernels(cell, "forward", sizes), len(cell.anatomy.input_gates)
    stages: list[list[Task]] = [[], [], [], []]
    for d, (original, of) in enumerate(zip(directions, finals, strict=True)):
        entered = _enter(script, cell, sizes, indices, d, original, x)
        given = entered.given
        own, *before = _start(script, kernels, entered)
        stages[0] += chain(entered.tasks, *before)
        sequences = _kept(script, cell, sizes, d, own, outputs[d])
        if gates:
            share = _input_share(script, sizes, entered, gates * units, sizes.total)
            stages[0] += share.packing
            stages[1] += share(entered.x, own["x"], sizes.total)
        stages[2] += kernels.run(own, steps, given.reverse)
        if sizes.packed is not None:
            stages[3] += _leave(cell, sizes, entered, sequences, "ends.", original.state, outputs[d], of)
            continue
        last = 0 if given.reverse else steps - 1
        ends = zip(sequences, of, widths, strict=True)
        stages[3] += [copy(sequence.at(last), final, batch, width) for sequence, final, width in ends]
    for number, tasks in enumerate(stages):
        script.stage(tasks, together=number == 2 and kernels.parties > 1)
    return script.close()


class Kept(NamedTuple):
    """An array that forward keeps for backward."""

    array: str  # of the plan
    width: str
    slots: int


@cache
def kept(cell: Cell, packed: bool) -> list[Kept]:
    """What forward keeps in each direction, besides the output; of packed rows, that too."""
    slots = {"x": len(cell.anatomy.input_gates), "extra": 0} | plan(cell).forward.arrays("extra")
    slots |= {f"s.{state}": 1 for state in cell.states[0 if packed else 1 :]}
    return [Kept(array, width_of(cell, array), count) for array, count in slots.items()]


def kept_names(cell: Cell, directions: int, packed: bool) -> list[str]:
    """The names of all of it, in the order of `passes.saves`."""
    return [f"kept {each.array}.{d}" for d in range(directions) for each in kept(cell, packed)]


def _kept(script: Script, cell: Cell, sizes: Sizes, d: int, arrays: dict[str, Array], output: Array) -> list[Array]:
    """Where forward writes, and backward reads, in direction d: added to `arrays`. Returns the sequence of every state."""
    arrays[f"s.{cell.states[0]}"] = output
    for each in kept(cell, sizes.packed is not None):
        row = each.slots * sizes.of(each.width)
        arrays[each.array] = script.given(f"kept {each.array}.{d}", sizes.time(row), row)
    return [arrays[f"s.{state}"] for state in cell.states]


@for_all_sizes
def backward_script(cell: Cell, form: Form, wanted: Wanted) -> Script:
    sizes, (steps, batch, inputs, units) = form.sizes(cell, 2), form[:4]
    made, widths = plan(cell), _widths(cell, sizes)
    script = Script(sizes.format, sizes.threads)
    x, directions, strides = _x(script, form), _given(script, cell, form), form.given()
    d_output = script.given("d_output", *strides["d_output"][:2]) if "d_output" in strides else None
    d_finals: list[list[Array | None]] = [[] for _ in directions]
    for state in cell.states:
        name = f"d_final.{state}"
        given_here = name in strides
        parts = _by_direction(script, name, strides[name], len(directions)) if given_here else [None] * len(directions)
        for of, part in zip(d_finals, parts, strict=True):
            of.append(part)
    outputs, kernels = _output(script, sizes, widths[0]), Kernels(cell, "backward", sizes)
    indices = _indices(script, form)

    first: list[Task] = []
    runs: list[Task] = []
    all_arrays, all_sequences, all_entered = [], [], []
    for d, original in enumerate(directions):
        entered = _enter(script, cell, sizes, indices, d, original, x)
        own, *before = _start(script, kernels, entered)
        first += chain(entered.tasks, *before)
        all_sequences.append(_kept(script, cell, sizes, d, own, outputs[d]))
        d_out = None if d_output is None else d_output.at(column=d * widths[0])
        if sizes.packed is not None and d_out is not None:
            packed = script.room(sizes.total * widths[0], widths[0], widths[0])
            first += gather(sizes, entered.where["index."], d_out, packed, sizes.total, widths[0])
            d_out = packed
        first += _adjoints(script, made, sizes, own, d_out, d_finals[d], entered.where.get("final."))
        all_arrays.append(own)
        all_entered.append(entered)
        runs += kernels.run(own, steps, entered.given.reverse)

    d_x = script.given("d_x", row=inputs) if wanted.x else None
    backs: list[list[Task]] = []  # d_x is added up over the directions
    products: list[Gradient] = []
    after: list[Task] = []
    of_directions = zip(all_entered, wanted.weights, all_arrays, all_sequences, strict=True)
    for d, (entered, wants, own, sequences) in enumerate(of_directions):
        given, target, adds = entered.given, d_x, bool(backs)
        if d_x is not None and sizes.packed is not None:
            target, adds = script.room(sizes.total * inputs, row=inputs), False
        want = {name for name, wish in zip(Weights._fields, wants, strict=True) if wish and name in given.weights}
        for gate, count in made.shares:
            if target is None:
                break
            shape, rows = (count * units, inputs), given.weights["ih"].at(row=gate * units)
            back = Linear(script, sizes, rows, None, shape, sizes.total, transposed=False)
            first += back.packing
            backs.append(back(own["d_x"].at(column=gate * units), target, sizes.total, add=adds))
            adds = True
        if d_x is not None and target is not None and target is not d_x and made.shares:
            places = entered.where["places."]
            backs.append(gather(sizes, places, target, d_x, sizes.places, inputs, add=d > 0))
        columns = {"ih": inputs, "hh": widths[0], "hr": units, "ch": units}
        out = {
            name: script.given(f"d_{name}.{d}", row=columns.get(name, 1)) for name in Weights._fields if name in want
        }
        products += _of_weights(made, sizes, entered, sequences, own, out)
        if "ch" in out:
            after += _of_vectors(made, sizes, own["d_p"], out["ch"])
        after += _without_effect(made, sizes, out, columns)
    for state, width, wish in zip(cell.states, widths, wanted.state, strict=True):
        if wish:
            strides_here = (sizes.sequences * width, width, 1)
            parts = _by_direction(script, f"d_initial.{state}", strides_here, sizes.directions)
            number = cell.states.index(state)
            for own, part, entered, d_final in zip(all_arrays, parts, all_entered, d_finals, strict=True):
                carry = own[f"carry.{state}"]
                if sizes.packed is None:
                    after.append(copy(carry, part, batch, width))
                else:
                    begins, other = entered.where["first."], d_final[number]
                    after += gather(sizes, begins, carry, part, sizes.sequences, width, other=other)
    sums: list[Task] = []
    for state, width, wish in zip(cell.states, widths, wanted.afresh or (False,) * len(widths), strict=True):
        out = script.given(f"d_afresh.{state}", row=width) if wish else None
        for d, (own, entered) in enumerate(zip(all_arrays, all_entered, strict=True) if out else ()):
            room = script.room(batch * width, row=width)
            after += gather(sizes, entered.where["fresh."], own[f"carry.{state}"], room, batch, width)
            sums.append(
                Task(packing.total(room.format), (room, room.row, out.at(row=d) if out else room, batch, width))
            )
    if d_x is not None and not backs:
        after.append(fill(d_x, sizes.places, inputs))
    script.stage(first)
    script.stage(runs, together=kernels.parties > 1)
    for tasks in backs:
        script.stage(tasks)
    if products:
        gradients(script, sizes, products)
    script.stage(after)
    script.stage(sums)
    return script.close()


def _adjoints(
    script: Script,
    made: Plan,
    sizes: Sizes,
    arrays: dict[str, Array],
    d_output: Array | None,
    d_finals: Sequence[Array | None],
    final: Array | None,
) -> list[Task]:
    """What the backward kernel begins with and leaves: added to `arrays`; tasks that fill it.

    final: of packed rows, the index of whose final state each row ends with.
    """
    batch, cell = sizes.batch, made.cell
    slots_of = {"d_x": len(cell.anatomy.input_gates)} | made.backward.arrays("d_extra")
    for name, slots in slots_of.items():
        row = slots * sizes.of(width_of(cell, name))
        arrays[name] = script.room(sizes.total * row, sizes.time(row), row)
    vectors = len(cell.vectors) * sizes.padded(HIDDEN)
    arrays["d_p"] = script.room(batch * vectors, row=vectors)
    tasks = [fill(arrays["d_p"], batch, vectors)] if vectors else []
    for state, d_final in zip(cell.states, d_finals, strict=True):
        width = width_of_state(cell, state)
        padded = sizes.padded(width)
        carry = arrays[f"carry.{state}"] = script.room(batch * padded, row=padded)
        if d_final is None:
            tasks.append(fill(carry, batch, padded))
        elif final is not None:
            tasks += gather(sizes, final, d_final, carry, batch, sizes.of(width), padded=padded)
        else:
            tasks.append(copy(d_final, carry, batch, sizes.of(width), padded=padded))
    if d_output is None:  # the same zeros for every step and row
        padded = sizes.padded(width_of(cell, "d_out"))
        d_output = script.room(padded)
        tasks.append(fill(d_output, 1, padded))
    arrays["d_out"] = d_output
    return tasks


def _of_vectors(made: Plan, sizes: Sizes, d_p: Array, out: Array) -> list[Task]:
    """The gradients of the per-unit weights: sums over the rows of the batch."""
    kernel, padded = packing.total(d_p.format), sizes.padded(HIDDEN)
    return [
        Task(kernel, (d_p.at(column=v * padded), d_p.row, out.at(row=v), sizes.batch, sizes.units))
        for v in range(len(made.cell.vectors))
    ]


def _without_effect(made: Plan, sizes: Sizes, out: dict[str, Array], columns: dict[str, int]) -> list[Task]:
    """Zeros for the gradients of blocks of rows that the step uses without effect, whatever x and the states hold."""
    live = {("ih", gate) for begin, count in made.shares for gate in range(begin, begin + count)}
    live |= {(each.weight, each.block) for each in made.multiplied}
    anatomy, tasks = made.cell.anatomy, []
    for weight, blocks, width in (
        ("ih", len(anatomy.input_gates), HIDDEN),
        ("hh", len(anatomy.recurrent_gates), HIDDEN),
        ("hr", 1, PROJECTED),
    ):
        rows = sizes.of(width)
        for block in range(blocks):
            if (weight, block) in live:
                continue
            if weight in out:
                tasks.append(fill(out[weight].at(row=block * rows), rows, columns[weight]))
            if f"b_{weight}" in out:
                tasks.append(fill(out[f"b_{weight}"].at(column=block * rows), 1, rows))
    return tasks


def _of_weights(
    made: Plan,
    sizes: Sizes,
    entered: Entered,
    sequences: Sequence[Array],
    arrays: dict[str, Array],
    out: dict[str, Array],
) -> list[Gradient]:
    """The gradients of a direction's matrices and biases: sums over all steps and rows, as few large products."""
    units, rows = sizes.units, sizes.total
    products: list[Gradient] = []
    for gate, count in made.shares if "ih" in out or "b_ih" in out else ():
        left = Factor(((arrays["d_x"].at(column=gate * units), rows),), count * units)
        right = Factor(((entered.x, rows),), sizes.inputs, entered.where.get("index.")) if "ih" in out else None
        d_ih = out["ih"].at(row=gate * units) if "ih" in out else None
        d_b_ih = out["b_ih"].at(column=gate * units) if "b_ih" in out else None
        products.append(Gradient(left, right, d_ih, d_b_ih, add=False))
    for run in _runs(made):
        if run.weight not in out and run.bias not in out:
            continue
        width = sizes.of(width_of(made.cell, run.d.array))
        left = Factor(((arrays[run.d.array].at(column=run.d.slot * width), rows),), run.blocks * width)
        right = _operand(made, sizes, run.operand, entered, sequences, arrays) if run.weight in out else None
        d_weight = out[run.weight].at(row=run.block * width) if run.weight in out else None
        d_bias = out[run.bias].at(column=run.block * width) if run.bias in out else None
        products.append(Gradient(left, right, d_weight, d_bias, run.add))
    return products


def _operand(
    made: Plan, sizes: Sizes, operand: Place, entered: Entered, sequences: Sequence[Array], arrays: dict[str, Array]
) -> Factor:
    """What a recurrent product has multiplied, over all steps; the state before the first step is in no sequence."""
    kind, _, state = operand.array.partition(".")
    rows, width = sizes.total, sizes.of(width_of(made.cell, operand.array))
    if kind == "extra":
        return Factor(((arrays[operand.array].at(column=operand.slot * width), rows),), width)
    number = made.cell.states.index(state)
    if kind == "s":
        return Factor(((sequences[number], rows),), width)
    given = entered.given
    if sizes.packed is not None:
        return Factor(((sequences[number], rows),), width, entered.where["before"], given.state[number])
    initial, others = (given.state[number], sizes.batch), rows - sizes.batch
    if given.reverse:
        return Factor(((sequences[number].at(1), others), initial), width)
    return Factor((initial, (sequences[number], others)), width)


class Run(NamedTuple):
    """Products of one operand whose adjoints lie side by side, and whose blocks of rows follow each other."""

    weight: str  # fields of `Weights`
    bias: str | None
    operand: Place
    d: Place  # the first adjoint
    block: int  # the first
    blocks: int
    add: bool  # whether others have written the gradients of these blocks


def _runs(made: Plan) -> list[Run]:
    """Products as few as possible."""
    runs: list[Run] = []
    written: set[tuple[str, int]] = set()
    for weight, bias, block, operand, d in made.multiplied:
        add = (weight, block) in written
        written.add((weight, block))
        here, last = Run(weight, bias, operand, d, block, 1, add), runs[-1] if runs else None
        if last is not None:
            place = last.d._replace(slot=last.d.slot + last.blocks)
            if last._replace(d=place, block=last.block + last.blocks, blocks=1) == here:
                runs[-1] = last._replace(blocks=last.blocks + 1)
                continue
        runs.append(here)
    return runs
