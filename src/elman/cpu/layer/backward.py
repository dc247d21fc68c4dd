"""The script of the gradients."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

from elman.cell import Cell
from elman.cpu.kernels import packing
from elman.cpu.kernels.arrays import Place, width_of
from elman.cpu.kernels.plan import Plan, plan
from elman.cpu.layer.directions import (
    Prepared,
    by_direction,
    given_directions,
    index_arrays,
    input_array,
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


class Wanted(NamedTuple):
    """Which gradients are asked for."""

    x: bool
    weights: tuple[tuple[bool, ...], ...]  # of each direction, by field of `Weights`
    state: tuple[bool, ...]
    afresh: tuple[bool, ...] = ()


@for_all_sizes
def backward_script(cell: Cell, form: Form, wanted: Wanted) -> Script:
    sizes, (steps, batch, inputs, units) = form.sizes(cell, 2), form[:4]
    planned, widths = plan(cell), widths_of_states(cell, sizes)
    script = Script(sizes.format, sizes.threads)
    x, directions, strides = input_array(script, form), given_directions(script, cell, form), form.given()
    d_output = script.given("d_output", *strides["d_output"][:2]) if "d_output" in strides else None
    d_finals: list[list[Array | None]] = [[] for _ in directions]
    for state in cell.states:
        name = f"d_final.{state}"
        given_here = name in strides
        parts = by_direction(script, name, strides[name], len(directions)) if given_here else [None] * len(directions)
        for of, part in zip(d_finals, parts, strict=True):
            of.append(part)
    outputs, kernels = output_arrays(script, sizes, widths[0]), Kernels(cell, "backward", sizes)
    indices = index_arrays(script, form)

    first: list[Task] = []
    runs: list[Task] = []
    all_arrays, all_sequences, all_entered = [], [], []
    for d, original in enumerate(directions):
        prepared = prepare(script, cell, sizes, indices, d, original, x)
        own, *before = start(script, kernels, prepared)
        first += chain(prepared.tasks, *before)
        all_sequences.append(kept_arrays(script, cell, sizes, d, own, outputs[d]))
        d_out = None if d_output is None else d_output.at(column=d * widths[0])
        if sizes.packed is not None and d_out is not None:
            packed = script.room(sizes.total * widths[0], widths[0], widths[0])
            first += gather(sizes, prepared.where["index."], d_out, packed, sizes.total, widths[0])
            d_out = packed
        first += _adjoints(script, planned, sizes, own, d_out, d_finals[d], prepared.where.get("final."))
        all_arrays.append(own)
        all_entered.append(prepared)
        runs += kernels.run(own, steps, prepared.given.reverse)

    d_x = script.given("d_x", row=inputs) if wanted.x else None
    backs: list[list[Task]] = []  # d_x is added up over the directions
    products: list[Gradient] = []
    after: list[Task] = []
    of_directions = zip(all_entered, wanted.weights, all_arrays, all_sequences, strict=True)
    for d, (prepared, wants, own, sequences) in enumerate(of_directions):
        given, target, adds = prepared.given, d_x, bool(backs)
        if d_x is not None and sizes.packed is not None:
            target, adds = script.room(sizes.total * inputs, row=inputs), False
        want = {name for name, wish in zip(Weights._fields, wants, strict=True) if wish and name in given.weights}
        for gate, count in planned.shares:
            if target is None:
                break
            shape, rows = (count * units, inputs), given.weights["ih"].at(row=gate * units)
            back = Linear(script, sizes, rows, None, shape, sizes.total, transposed=False)
            first += back.packing
            backs.append(back(own["d_x"].at(column=gate * units), target, sizes.total, add=adds))
            adds = True
        if d_x is not None and target is not None and target is not d_x and planned.shares:
            places = prepared.where["places."]
            backs.append(gather(sizes, places, target, d_x, sizes.places, inputs, add=d > 0))
        columns = {"ih": inputs, "hh": widths[0], "hr": units, "ch": units}
        out = {
            name: script.given(f"d_{name}.{d}", row=columns.get(name, 1)) for name in Weights._fields if name in want
        }
        products += _of_weights(planned, sizes, prepared, sequences, own, out)
        if "ch" in out:
            after += _of_vectors(planned, sizes, own["d_p"], out["ch"])
        after += _without_effect(planned, sizes, out, columns)
    for state, width, wish in zip(cell.states, widths, wanted.state, strict=True):
        if wish:
            strides_here = (sizes.sequences * width, width, 1)
            parts = by_direction(script, f"d_initial.{state}", strides_here, sizes.directions)
            number = cell.states.index(state)
            for own, part, prepared, d_final in zip(all_arrays, parts, all_entered, d_finals, strict=True):
                carry = own[f"carry.{state}"]
                if sizes.packed is None:
                    after.append(copy(carry, part, batch, width))
                else:
                    begins, other = prepared.where["first."], d_final[number]
                    after += gather(sizes, begins, carry, part, sizes.sequences, width, other=other)
    sums: list[Task] = []
    for state, width, wish in zip(cell.states, widths, wanted.afresh or (False,) * len(widths), strict=True):
        out = script.given(f"d_afresh.{state}", row=width) if wish else None
        for d, (own, prepared) in enumerate(zip(all_arrays, all_entered, strict=True) if out else ()):
            room = script.room(batch * width, row=width)
            after += gather(sizes, prepared.where["fresh."], own[f"carry.{state}"], room, batch, width)
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
    planned: Plan,
    sizes: Sizes,
    arrays: dict[str, Array],
    d_output: Array | None,
    d_finals: Sequence[Array | None],
    final: Array | None,
) -> list[Task]:
    """What the backward kernel begins with and leaves: added to `arrays`; tasks that fill it.

    final: of packed rows, the index of whose final state each row ends with.
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
    if d_output is None:  # the same zeros for every step and row
        padded = sizes.padded(width_of(cell, "d_out"))
        d_output = script.room(padded)
        tasks.append(fill(d_output, 1, padded))
    arrays["d_out"] = d_output
    return tasks


def _of_vectors(planned: Plan, sizes: Sizes, d_p: Array, out: Array) -> list[Task]:
    """The gradients of the per-unit weights: sums over the rows of the batch."""
    kernel, padded = packing.total(d_p.format), sizes.padded(HIDDEN)
    return [
        Task(kernel, (d_p.at(column=v * padded), d_p.row, out.at(row=v), sizes.batch, sizes.units))
        for v in range(len(planned.cell.vectors))
    ]


def _without_effect(planned: Plan, sizes: Sizes, out: dict[str, Array], columns: dict[str, int]) -> list[Task]:
    """Zeros for the gradients of blocks of rows that the step uses without effect, whatever x and the states hold."""
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
    """The gradients of a direction's matrices and biases: sums over all steps and rows, as few large products."""
    units, rows = sizes.units, sizes.total
    products: list[Gradient] = []
    for gate, count in planned.shares if "ih" in out or "b_ih" in out else ():
        left = Factor(((arrays["d_x"].at(column=gate * units), rows),), count * units)
        right = Factor(((prepared.x, rows),), sizes.inputs, prepared.where.get("index.")) if "ih" in out else None
        d_ih = out["ih"].at(row=gate * units) if "ih" in out else None
        d_b_ih = out["b_ih"].at(column=gate * units) if "b_ih" in out else None
        products.append(Gradient(left, right, d_ih, d_b_ih, add=False))
    for run in _runs(planned):
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
    """What a recurrent product has multiplied, over all steps; the state before the first step is in no sequence."""
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


class Run(NamedTuple):
    """Products of one operand whose adjoints lie side by side, and whose blocks of rows follow each other."""

    weight: str  # fields of `Weights`
    bias: str | None
    operand: Place
    d: Place  # the first adjoint
    block: int  # the first
    blocks: int
    add: bool  # whether others have written the gradients of these blocks


def _runs(planned: Plan) -> list[Run]:
    """Products as few as possible."""
    runs: list[Run] = []
    written: set[tuple[str, int]] = set()
    for weight, bias, block, operand, d in planned.multiplied:
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
