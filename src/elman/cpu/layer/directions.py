"""A layer's directions, as the scripts of all passes see them: what they are given, and what the kernels read.

What does not depend on the step before is done for all steps at once (large_products.py): the input's share of
every gate, its gradient, the weights' gradients. The kernels run the recurrence between them (kernel_tasks.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from elman.cell import Cell
from elman.cpu.codegen.formats import FLOAT64
from elman.cpu.kernels import product
from elman.cpu.kernels.arrays import width_of
from elman.cpu.layer.form import Form
from elman.cpu.layer.kernel_tasks import Kernels, Sizes, fill, gather
from elman.cpu.layer.large_products import Linear
from elman.cpu.layer.rows import INDICES
from elman.cpu.scripts.script import Array, Script, Task
from elman.layout import Weights
from elman.leaves import width_of_state


class Given(NamedTuple):
    """What a direction runs on, in a script."""

    weights: dict[str, Array]  # by field of `Weights`
    state: list[Array]
    reverse: bool
    afresh: list[Array]  # the states from which rows start afresh, each (width,); none for zero


def given_directions(script: Script, cell: Cell, form: Form) -> list[Given]:
    """The directions: their weights, and their parts of the initial states."""
    strides, weights = form.given(), []
    for d in range(len(form.reverse)):
        names = {field: f"{field}.{d}" for field in Weights._fields if f"{field}.{d}" in strides}
        weights.append({field: script.given(name, row=strides[name][0]) for field, name in names.items()})
    states = [by_direction(script, f"initial.{s}", strides[f"initial.{s}"], len(form.reverse)) for s in cell.states]
    afresh = [
        script.given(f"afresh.{s}", row=strides[f"afresh.{s}"][0]) for s in cell.states if f"afresh.{s}" in strides
    ]
    return [
        Given(of, [s[d] for s in states], form.reverse[d], [s.at(row=d) for s in afresh])
        for d, of in enumerate(weights)
    ]


def by_direction(script: Script, name: str, stride: tuple[int, ...], directions: int) -> list[Array]:
    """The parts (B, width) of a given array (D, B, width)."""
    array = script.given(name, row=stride[1])
    return [array.at(column=d * stride[0]) for d in range(directions)]


def input_array(script: Script, form: Form, name: str = "x") -> Array:
    """x as (T*B, I): steps follow each other as rows do."""
    x = script.given(name, *form.given()["x"][:2])
    batch = form.batch if form.packed is None else form.packed.batch
    return x._replace(row=x.time) if batch == 1 else x


def index_arrays(script: Script, form: Form) -> dict[str, Array]:
    """What `rows.Rows` has, by name; nothing if all sequences have all steps."""
    if form.packed is None:
        return {}
    return {name: script.given(name, form=FLOAT64) for name in index_names(len(form.reverse))}  # of eight bytes, too


@cache
def index_names(directions: int) -> tuple[str, ...]:
    """In the order in which a pass gives them."""
    single = [name for name in INDICES if not name.endswith(".")]
    return *single, *(f"{name}{d}" for d in range(directions) for name in INDICES if name.endswith("."))


def widths_of_states(cell: Cell, sizes: Sizes) -> list[int]:
    """Of the states, the first of which is the output."""
    return [sizes.of(width_of_state(cell, state)) for state in cell.states]


def output_arrays(script: Script, sizes: Sizes, width: int, name: str = "output") -> list[Array]:
    """The parts (T, B, width) of each direction."""
    row = sizes.directions * width
    output = script.given(name, sizes.sequences * row, row)
    return [output.at(column=d * width) for d in range(sizes.directions)]


def final_arrays(script: Script, cell: Cell, sizes: Sizes) -> list[list[Array]]:
    """For each direction, the places of its final states in arrays (D, B, width)."""
    finals = [
        by_direction(script, f"final.{state}", (sizes.sequences * width, width, 1), sizes.directions)
        for state, width in zip(cell.states, widths_of_states(cell, sizes), strict=True)
    ]
    return [list(of) for of in zip(*finals, strict=True)]


class Prepared(NamedTuple):
    """A direction as the kernels see it: the rows of the batch, packed if they have different lengths."""

    given: Given
    x: Array  # (N, I), or (T*B, I) and an index
    where: dict[str, Array]  # of its rows, by names of `INDICES`
    tasks: list[Task]  # that make all this


def prepare(
    script: Script, cell: Cell, sizes: Sizes, indices: dict[str, Array], d: int, given: Given, x: Array
) -> Prepared:
    if sizes.packed is None:
        return Prepared(given, x, {}, [])
    index = {name: indices[f"{name}{d}"] for name in INDICES if name.endswith(".")}
    index |= {name: array for name, array in indices.items() if name in INDICES}
    states: list[Array] = []
    tasks: list[Task] = []
    for number, (state, width) in enumerate(zip(given.state, widths_of_states(cell, sizes), strict=True)):
        states.append(script.room(sizes.batch * width, row=width))
        afresh = given.afresh[number]._replace(row=0) if given.afresh else None  # the same for every row
        tasks += gather(sizes, index["starts."], state, states[-1], sizes.batch, width, other=afresh)
    return Prepared(Given(given.weights, states, False, given.afresh), x, index, tasks)


def scatter_results(
    cell: Cell,
    sizes: Sizes,
    prepared: Prepared,
    sequences: Sequence[Array],
    index: str,
    initial: Sequence[Array],
    output: Array,
    finals: Sequence[Array],
) -> list[Task]:
    """Output and final states, back from packed rows. index: where the last rows of states but the first are found."""
    widths = widths_of_states(cell, sizes)
    tasks = gather(sizes, prepared.where["places."], sequences[0], output, sizes.places, widths[0])
    for number, (sequence, of, final, width) in enumerate(zip(sequences, initial, finals, widths, strict=True)):
        ends = prepared.where[index if number else "ends."]
        tasks += gather(sizes, ends, sequence, final, sizes.sequences, width, other=of)
    return tasks


def start(script: Script, kernels: Kernels, prepared: Prepared) -> tuple[dict[str, Array], list[Task], list[Task]]:
    """The arrays that all kernels read, and what is to be done before they do: once for the weights, and for every call."""
    sizes, given = kernels.sizes, prepared.given
    arrays, tasks = kernels.pack(script, given.weights)
    arrays["zeros"] = script.kept(product.ACCUMULATORS * sizes.lanes)
    tasks.append(fill(arrays["zeros"], 1, product.ACCUMULATORS * sizes.lanes))
    for name, slots in kernels.planned.arrays("memory").items():
        row = slots * sizes.padded(width_of(kernels.cell, name))
        arrays[name] = script.room(sizes.batch * row, row=row)
    arrays["p"] = given.weights.get("ch", arrays["zeros"])._replace(row=0)
    arrays |= {name: array for name, array in prepared.where.items() if name in ("runs", "runs back")}
    arrays["meeting"] = script.room(128 // sizes.format.bytes)  # cache lines of its own
    for state, array in zip(kernels.cell.states, given.state, strict=True):
        arrays[f"s0.{state}"] = array
    meeting = fill(arrays["meeting"], 1, 128 // sizes.format.bytes)
    return arrays, tasks, [meeting] if kernels.parties > 1 else []


def input_share(script: Script, sizes: Sizes, prepared: Prepared, width: int, rows: int) -> Linear:
    """W x_t + b_ih for steps and rows, (T*B, I) -> (T*B, G*H)."""
    weights, shape = prepared.given.weights, (width, sizes.inputs)
    return Linear(script, sizes, weights["ih"], weights.get("b_ih"), shape, rows, index=prepared.where.get("index."))
