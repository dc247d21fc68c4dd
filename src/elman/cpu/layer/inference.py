"""Writes the script of a pass without gradients. It keeps nothing, and makes the input's share some steps at a time."""

from __future__ import annotations

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
from elman.cpu.layer.kernel_tasks import Kernels, copy
from elman.cpu.layer.large_products import Linear
from elman.cpu.scripts.script import Array, Script, Task

# The input's share is made in chunks of steps. A chunk has this many bytes for each thread.
SHARE_BYTES = 1 << 20
# If the weights of the share have more bytes than that, a chunk has as many as the weights, but at most this many.
MOST_BYTES = 1 << 23
CHUNKS = 64  # chunks in one script, at most


@for_all_sizes
def infer_script(cell: Cell, form: Form, part: str = "whole") -> Script:
    """Returns the script for the form's steps, or for the first of them if these are too many for one script.

    part: one of the parts of `Script`; "first" brings the weights into panels.
    """
    chunk = _chunk(cell, form) if form.packed is None else form.steps
    form = form._replace(steps=min(form.steps, CHUNKS * chunk))
    sizes, (steps, batch, _, units) = form.sizes(cell)._replace(frozen=part != "whole"), form[:4]
    script = Script(sizes.format, sizes.threads, part)
    script.steps = steps
    originals = given_directions(script, cell, form, apart=True)
    widths = widths_of_states(cell, sizes)
    # x, the streams and the output are an array for each direction, since each begins at another step.
    xs = [input_array(script, form, f"x.{d}") for d in range(sizes.directions)]
    outputs = [output_arrays(script, sizes, widths[0], f"output.{d}")[d] for d in range(sizes.directions)]
    finals = final_arrays(script, cell, sizes)
    indices = index_arrays(script, form)
    directions = [
        prepare(script, cell, sizes, indices, d, given, x)
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
    for prepared, output in zip(directions, outputs, strict=True):
        own, before, after = start(script, kernels, prepared)
        packing += before
        zeros += [*prepared.tasks, *after]
        width = gates * units
        if gates:
            shares.append(input_share(script, sizes, prepared, width, rows))
            packing += shares[-1].packing
        own["x"] = script.room(rows * width, sizes.time(width), width)
        own[f"s.{cell.states[0]}"] = output
        if sizes.packed is not None:
            own[f"s.{cell.states[0]}"] = script.room(sizes.total * widths[0], widths[0], widths[0])
        for state, width in zip(cell.states[1:], widths[1:], strict=True):  # two places, which steps use in turn
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
        for prepared, own, t in zip(directions, arrays, starts, strict=True):
            given, output = prepared.given, own[f"s.{cell.states[0]}"]
            here = own | {name: own[name].at(t) for name in (f"s.{cell.states[0]}", *given.streams)}
            if n:  # this chunk starts from the states that the chunk before has left
                here[f"s0.{cell.states[0]}"] = output.at(t + count if given.reverse else t - 1)
                here |= {f"s0.{state}": own[f"s.{state}"].at(1) for state in cell.states[1:]}
            tasks += kernels.run(here, count, given.reverse, begin)
        script.stage(tasks, together=kernels.parties > 1)

    last: list[Task] = []
    for d, (prepared, own, output, of) in enumerate(zip(directions, arrays, outputs, finals, strict=True)):
        if sizes.packed is not None:
            sequences = [own[f"s.{state}"] for state in cell.states]
            last += scatter_results(cell, sizes, prepared, sequences, "turns.", originals[d].state, output, of)
            continue
        present = [output.at(0 if prepared.given.reverse else steps - 1)]
        present += [own[f"s.{state}"].at((steps - 1) % chunk % 2) for state in cell.states[1:]]
        ends = zip(present, of, widths, strict=True)
        last += [copy(state, final, batch, width) for state, final, width in ends]
    script.stage(last)
    return script.close()


def _chunk(cell: Cell, form: Form) -> int:
    """Returns the number of steps for which the input's share is made at a time: a chunk.

    A chunk should be small enough for a cache to hold the share until the recurrence reads it. It should be so large
    that weights too large for a cache are not read often. The number is even: then every chunk but the first finds the
    states in the second of their two places.
    """
    columns = len(cell.anatomy.input_gates) * form.units * form.format.bytes
    most = max(SHARE_BYTES * form.threads, min(columns * form.inputs, MOST_BYTES))
    return max(2, most // max(1, form.batch * columns) // 2 * 2)
