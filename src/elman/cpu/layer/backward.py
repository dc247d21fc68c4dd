"""Writes the script of the gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from elman.arrays import Place, width_of
from elman.cell import Cell
from elman.cpu.kernels import packing
from elman.cpu.layer.directions import (
    Prepared,
    by_direction,
    given_directions,
    index_arrays,
    input_array,
    of_rows,
    output_arrays,
    prepare,
    start,
    widths_of_states,
)
from elman.cpu.layer.form import Form, for_all_sizes
from elman.cpu.layer.forward import kept_arrays
from elman.cpu.layer.kernel_tasks import Kernels, Sizes, copy, fill, gather
from elman.cpu.layer.large_products import Factor, Gradient, Linear, gradients
from elman.cpu.scripts.script import Array, Script, Task
from elman.layout import Weights
from elman.leaves import HIDDEN, PROJECTED, width_of_state
from elman.plan import Plan, joined_products, plan


class Wanted(NamedTuple):
    """Which gradients the caller asks for."""

    x: bool
    weights: tuple[tuple[bool, ...], ...]  # for each direction, in the order of the fields of `Weights`
    state: tuple[bool, ...]  # for each initial state
    afresh: tuple[bool, ...] = ()  # for each state that rows start afresh from; empty if none is given
    streams: tuple[bool, ...] = ()  # for each stream


class Side(NamedTuple):
    """What the script of the gradients knows of one direction."""

    number: int  # of the direction
    prepared: Prepared
    arrays: dict[str, Array]  # what its kernel reads and writes
    sequences: list[Array]  # of every state, over all steps
    d_finals: list[Array | None]  # the cotangents of the final states


@for_all_sizes
def backward_script(cell: Cell, form: Form, wanted: Wanted) -> Script:
    sizes, planned = form.sizes(cell, 2), plan(cell)
    script = Script(sizes.format, sizes.threads)
    kernels = Kernels(cell, "backward", sizes)
    sides, first = _sides(script, planned, sizes, form, kernels)
    packing_tasks, stages = _gradient_of_x(script, planned, sizes, sides) if wanted.x else ([], [])
    products, after = _gradients_of_weights(script, planned, sizes, sides, wanted)
    after += _gradients_of_states(script, cell, sizes, sides, wanted)
    of_afresh, sums = _gradients_of_afresh(script, cell, sizes, sides, wanted)
    for tasks, later in _gradients_of_streams(script, planned, sizes, sides, wanted):
        after += tasks
        sums += later
    runs = [task for side in sides for task in kernels.run(side.arrays, form.steps, side.prepared.given.reverse)]

    script.stage([*first, *packing_tasks])
    script.stage(runs, together=kernels.parties > 1)
    for tasks in stages:
        script.stage(tasks)
    if products:
        gradients(script, sizes, products)
    script.stage([*after, *of_afresh])
    script.stage(sums)
    return script.close()


def _sides(script: Script, planned: Plan, sizes: Sizes, form: Form, kernels: Kernels) -> tuple[list[Side], list[Task]]:
    """The directions, and the tasks that come before their kernels."""
    cell, strides, width = planned.cell, form.given(), widths_of_states(planned.cell, sizes)[0]
    x, directions = input_array(script, form), given_directions(script, cell, form)
    d_output = of_rows(script, form, "d_output", strides["d_output"]) if "d_output" in strides else None
    d_finals: list[list[Array | None]] = [[] for _ in directions]
    for state in cell.states:
        name = f"d_final.{state}"
        parts: list[Array | None] = [None] * len(directions)
        if name in strides:
            parts[:] = by_direction(script, name, strides[name], len(directions))
        for of, part in zip(d_finals, parts, strict=True):
            of.append(part)
    outputs, indices = output_arrays(script, sizes, width), index_arrays(script, form)

    sides: list[Side] = []
    tasks: list[Task] = []
    for d, given in enumerate(directions):
        prepared = prepare(script, cell, sizes, indices, d, given, x)
        arrays, *before = start(script, kernels, prepared)
        tasks += chain(prepared.tasks, *before)
        sequences = kept_arrays(script, cell, sizes, d, arrays, outputs[d])
        d_out = None if d_output is None else d_output.at(column=d * width)
        if sizes.packed is not None and d_out is not None:
            packed = script.room(sizes.total * width, width, width)
            tasks += gather(sizes, prepared.where["index."], d_out, packed, sizes.total, width)
            d_out = packed
        tasks += _adjoints(script, planned, sizes, arrays, d_out, d_finals[d], prepared.where.get("final."))
        sides.append(Side(d, prepared, arrays, sequences, d_finals[d]))
    return sides, tasks


def _gradient_of_x(
    script: Script, planned: Plan, sizes: Sizes, sides: Sequence[Side]
) -> tuple[list[Task], list[list[Task]]]:
    """Tasks that pack weights; and stages, one after the other, since each adds its direction's share to d_x."""
    d_x, units, inputs = script.given("d_x", row=sizes.inputs), sizes.units, sizes.inputs
    packing_tasks: list[Task] = []
    stages: list[list[Task]] = []
    for side in sides if planned.shares else ():
        target, adds = d_x, bool(stages)
        if sizes.packed is not None:
            target, adds = script.room(sizes.total * inputs, row=inputs), False
        for gate, count in planned.shares:
            shape, rows = (count * units, inputs), side.prepared.given.weights["ih"].at(row=gate * units)
            back = Linear(script, sizes, rows, None, shape, sizes.total, transposed=False)
            packing_tasks += back.packing
            stages.append(back(side.arrays["d_x"].at(column=gate * units), target, sizes.total, add=adds))
            adds = True
        if sizes.packed is not None:
            places = side.prepared.where["places."]
            stages.append(gather(sizes, places, target, d_x, sizes.places, inputs, add=side.number > 0))
    return packing_tasks, stages or [[fill(d_x, sizes.places, inputs)]]


def _gradients_of_weights(
    script: Script, planned: Plan, sizes: Sizes, sides: Sequence[Side], wanted: Wanted
) -> tuple[list[Gradient], list[Task]]:
    """The large products that are the gradients of matrices and biases; and the tasks for all other parameters."""
    columns = {"ih": sizes.inputs, "hh": widths_of_states(planned.cell, sizes)[0], "hr": sizes.units, "ch": sizes.units}
    products: list[Gradient] = []
    tasks: list[Task] = []
    for side, wants in zip(sides, wanted.weights, strict=True):
        weights = side.prepared.given.weights
        out = {
            name: script.given(f"d_{name}.{side.number}", row=columns.get(name, 1))
            for name, wish in zip(Weights._fields, wants, strict=True)
            if wish and name in weights
        }
        products += _of_weights(planned, sizes, side.prepared, side.sequences, side.arrays, out)
        if "ch" in out:
            tasks += _of_vectors(planned, sizes, side.arrays["d_p"], out["ch"])
        tasks += _without_effect(planned, sizes, out, columns)
    return products, tasks


def _gradients_of_states(script: Script, cell: Cell, sizes: Sizes, sides: Sequence[Side], wanted: Wanted) -> list[Task]:
    """Tasks that copy what the kernels leave of the adjoints of states to the gradients of the initial states."""
    tasks: list[Task] = []
    for number, (state, width) in enumerate(zip(cell.states, widths_of_states(cell, sizes), strict=True)):
        if not wanted.state[number]:
            continue
        parts = by_direction(script, f"d_initial.{state}", (sizes.sequences * width, width, 1), sizes.directions)
        for side, part in zip(sides, parts, strict=True):
            carry = side.arrays[f"carry.{state}"]
            if sizes.packed is None:
                tasks.append(copy(carry, part, sizes.batch, width))
            else:  # a sequence without steps hands its final state's cotangent on
                begins, other = side.prepared.where["first."], side.d_finals[number]
                tasks += gather(sizes, begins, carry, part, sizes.sequences, width, other=other)
    return tasks


def _gradients_of_afresh(
    script: Script, cell: Cell, sizes: Sizes, sides: Sequence[Side], wanted: Wanted
) -> tuple[list[Task], list[Task]]:
    """Tasks that gather the adjoints of rows that start afresh; and then those that add them up over the rows."""
    gathers: list[Task] = []
    sums: list[Task] = []
    for state, width, wish in zip(cell.states, widths_of_states(cell, sizes), wanted.afresh, strict=False):
        if not wish:
            continue
        out = script.given(f"d_afresh.{state}", row=width)
        for side in sides:
            room = script.room(sizes.batch * width, row=width)
            fresh, carry = side.prepared.where["fresh."], side.arrays[f"carry.{state}"]
            gathers += gather(sizes, fresh, carry, room, sizes.batch, width)
            words = room, room.row, out.at(row=side.number), sizes.batch, width
            sums.append(Task(packing.total(room.format), words))
    return gathers, sums


def _gradients_of_streams(
    script: Script, planned: Plan, sizes: Sizes, sides: Sequence[Side], wanted: Wanted
) -> Iterator[tuple[list[Task], list[Task]]]:
    """Gives kernels the arrays of the adjoints of streams. For each stream, yields the tasks that make its gradient of them.

    The second list comes after the first, since it adds the other direction's share.
    """
    units = sizes.units
    for name, wish in zip(planned.cell.streams, wanted.streams, strict=True):
        array = f"d_u.{name}"
        effect = any(place.array == array for of_phase in planned.backward.stores for _, place in of_phase)
        if not wish:  # each step overwrites what the step before has left
            for side in sides:
                side.arrays[array] = script.room(sizes.batch * units, row=units)
            continue
        out = script.given(array, sizes.sequences * units, units)
        tasks: tuple[list[Task], list[Task]] = ([], [])
        if not effect:
            tasks[0].append(fill(out._replace(row=units), sizes.places, units))
        for side in sides if effect else ():
            add = side.number > 0
            if sizes.packed is not None:
                room = side.arrays[array] = script.room(sizes.total * units, units, units)
                tasks[add].extend(
                    gather(sizes, side.prepared.where["places."], room, out, sizes.places, units, add=add)
                )
            elif add:
                room = side.arrays[array] = script.room(sizes.total * units, sizes.time(units), units)
                tasks[add].append(copy(room, out, sizes.total, units, add=True))
            else:
                side.arrays[array] = out
        yield tasks


def _adjoints(
    script: Script,
    planned: Plan,
    sizes: Sizes,
    arrays: dict[str, Array],
    d_output: Array | None,
    d_finals: Sequence[Array | None],
    final: Array | None,
) -> list[Task]:
    """Adds the adjoints that the backward kernel reads and writes to `arrays`; returns the tasks that initialise them.

    final: for packed rows, the index that says which sequence's final state each row ends with; otherwise None.
    """
    batch, cell = sizes.batch, planned.cell
    slots_of = {"d_x": len(cell.anatomy.input_gates)} | planned.backward.arrays("d_extra")
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
    if d_output is None:  # one row of zeros stands for every step and row
        padded = sizes.padded(width_of(cell, "d_out"))
        d_output = script.room(padded)
        tasks.append(fill(d_output, 1, padded))
    arrays["d_out"] = d_output
    return tasks


def _of_vectors(planned: Plan, sizes: Sizes, d_p: Array, out: Array) -> list[Task]:
    """Returns the tasks that make the gradients of the per-unit weights: they sum d_p over the rows of the batch."""
    kernel, padded = packing.total(d_p.format), sizes.padded(HIDDEN)
    return [
        Task(kernel, (d_p.at(column=v * padded), d_p.row, out.at(row=v), sizes.batch, sizes.units))
        for v in range(len(planned.cell.vectors))
    ]


def _without_effect(planned: Plan, sizes: Sizes, out: dict[str, Array], columns: dict[str, int]) -> list[Task]:
    """Returns the tasks that write zeros to the gradients of weight blocks without effect on the results.

    A block is the rows of one gate, or of the projection. Its gradient is zero whatever x and the states hold.
    """
    live = {("ih", gate) for begin, count in planned.shares for gate in range(begin, begin + count)}
    live |= {(each.weight, each.block) for each in planned.multiplied}
    anatomy, tasks = planned.cell.anatomy, []
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
    planned: Plan,
    sizes: Sizes,
    prepared: Prepared,
    sequences: Sequence[Array],
    arrays: dict[str, Array],
    out: dict[str, Array],
) -> list[Gradient]:
    """Returns the large products that make the gradients of a direction's matrices and biases, as few as possible.

    Each product sums over all steps and rows.
    """
    units, rows = sizes.units, sizes.total
    products: list[Gradient] = []
    for gate, count in planned.shares if "ih" in out or "b_ih" in out else ():
        left = Factor(((arrays["d_x"].at(column=gate * units), rows),), count * units)
        right = Factor(((prepared.x, rows),), sizes.inputs, prepared.where.get("index.")) if "ih" in out else None
        d_ih = out["ih"].at(row=gate * units) if "ih" in out else None
        d_b_ih = out["b_ih"].at(column=gate * units) if "b_ih" in out else None
        products.append(Gradient(left, right, d_ih, d_b_ih, add=False))
    for run in joined_products(planned):
        if run.weight not in out and run.bias not in out:
            continue
        width = sizes.of(width_of(planned.cell, run.d.array))
        left = Factor(((arrays[run.d.array].at(column=run.d.slot * width), rows),), run.blocks * width)
        right = _operand(planned, sizes, run.operand, prepared, sequences, arrays) if run.weight in out else None
        d_weight = out[run.weight].at(row=run.block * width) if run.weight in out else None
        d_bias = out[run.bias].at(column=run.block * width) if run.bias in out else None
        products.append(Gradient(left, right, d_weight, d_bias, run.add))
    return products


def _operand(
    planned: Plan,
    sizes: Sizes,
    operand: Place,
    prepared: Prepared,
    sequences: Sequence[Array],
    arrays: dict[str, Array],
) -> Factor:
    """Returns the operand of a recurrent product in all steps, as a factor of the weight's gradient.

    If the operand is the state before each step, the first step needs the initial state, which no sequence holds.
    """
    kind, _, state = operand.array.partition(".")
    rows, width = sizes.total, sizes.of(width_of(planned.cell, operand.array))
    if kind == "extra":
        return Factor(((arrays[operand.array].at(column=operand.slot * width), rows),), width)
    number = planned.cell.states.index(state)
    if kind == "s":
        return Factor(((sequences[number], rows),), width)
    given = prepared.given
    if sizes.packed is not None:
        return Factor(((sequences[number], rows),), width, prepared.where["before"], given.state[number])
    initial, others = (given.state[number], sizes.batch), rows - sizes.batch
    if given.reverse:
        return Factor(((sequences[number].at(1), others), initial), width)
    return Factor((initial, (sequences[number], others)), width)
