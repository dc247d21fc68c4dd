"""Writes the script of a pass that keeps what backward needs."""

from __future__ import annotations

from itertools import chain

from elman.cell import Cell
from elman.cpu.layer.directions import (
    final_arrays,
    given_directions,
    index_arrays,
    input_array,
    input_share,
    output_arrays,
    prepare,
    scatter_results,
    start,
    widths_of_states,
)
from elman.cpu.layer.form import Form, for_all_sizes
from elman.cpu.layer.kernel_tasks import Kernels, Sizes, copy
from elman.cpu.scripts.script import Array, Script, Task
from elman.plan import kept


@for_all_sizes
def forward_script(cell: Cell, form: Form) -> Script:
    sizes, (steps, batch, _, units) = form.sizes(cell), form[:4]
    script = Script(sizes.format, sizes.threads)
    x, directions = input_array(script, form), given_directions(script, cell, form)
    widths = widths_of_states(cell, sizes)
    outputs, finals = output_arrays(script, sizes, widths[0]), final_arrays(script, cell, sizes)
    indices = index_arrays(script, form)
    kernels, gates = Kernels(cell, "forward", sizes), len(cell.anatomy.input_gates)
    stages: list[list[Task]] = [[], [], [], []]
    for d, (original, of) in enumerate(zip(directions, finals, strict=True)):
        prepared = prepare(script, cell, sizes, indices, d, original, x)
        given = prepared.given
        own, *before = start(script, kernels, prepared)
        stages[0] += chain(prepared.tasks, *before)
        sequences = kept_arrays(script, cell, sizes, d, own, outputs[d])
        if gates:
            share = input_share(script, sizes, prepared, gates * units, sizes.total)
            stages[0] += share.packing
            stages[1] += share(prepared.x, own["x"], sizes.total)
        stages[2] += kernels.run(own, steps, given.reverse)
        if sizes.packed is not None:
            stages[3] += scatter_results(cell, sizes, prepared, sequences, "ends.", original.state, outputs[d], of)
            continue
        last = 0 if given.reverse else steps - 1
        ends = zip(sequences, of, widths, strict=True)
        stages[3] += [copy(sequence.at(last), final, batch, width) for sequence, final, width in ends]
    for number, tasks in enumerate(stages):
        script.stage(tasks, together=number == 2 and kernels.parties > 1)
    return script.close()


def kept_names(cell: Cell, directions: int, packed: bool) -> list[str]:
    """Returns the names of the kept arrays of all directions, in the order of `passes.saves`."""
    return [f"kept {each.array}.{d}" for d in range(directions) for each in kept(cell, packed)]


def kept_arrays(
    script: Script, cell: Cell, sizes: Sizes, d: int, arrays: dict[str, Array], output: Array
) -> list[Array]:
    """Adds the arrays of direction d that forward writes and backward reads to `arrays`.

    Returns the sequence of every state.
    """
    arrays[f"s.{cell.states[0]}"] = output
    for each in kept(cell, sizes.packed is not None):
        row = each.slots * sizes.of(each.width)
        arrays[each.array] = script.given(f"kept {each.array}.{d}", sizes.time(row), row)
    return [arrays[f"s.{state}"] for state in cell.states]
