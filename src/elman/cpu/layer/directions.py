"""What the scripts of all passes share: the arrays that each direction is given, and those that its kernels read.

Whatever does not depend on the step before is computed for all steps at once (large_products.py): the input's share
of every gate, the gradient of x, and the gradients of the weights. The kernels run the recurrence after the input's
share is made, and before the gradients of x and of the weights are (kernel_tasks.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from elman.arrays import width_of
from elman.cell import Cell
from elman.cpu.codegen.formats import FLOAT64
from elman.cpu.kernels import product
from elman.cpu.layer.form import Form
from elman.cpu.layer.kernel_tasks import Kernels, Sizes, fill, gather
from elman.cpu.layer.large_products import Linear
from elman.cpu.layer.rows import INDICES
from elman.cpu.scripts.script import Array, Script, Task
from elman.layout import Weights
from elman.leaves import width_of_state


class Given(NamedTuple):
    """The arrays of a script that one direction is given."""

    weights: dict[str, Array]  # by field of `Weights`
    state: list[Array]  # the initial states, each (B, width)
    reverse: bool
    afresh: list[Array]  # the states from which rows start afresh, each (width,); empty if they start from zero
    streams: dict[str, Array]  # (T, B, H), by the names that kernels have for them


def given_directions(script: Script, cell: Cell, form: Form, apart: bool = False) -> list[Given]:
    """Declares the weights, states and streams of a layer; returns what each direction is given of them.

    apart: whether each direction has streams of its own, named u.NAME.D, since each begins at another step.
    """
    strides, weights = form.given(), []
    for d in range(len(form.reverse)):
        names = {field: f"{field}.{d}" for field in Weights._fields if f"{field}.{d}" in strides}
        weights.append({field: script.given(name, row=strides[name][0]) for field, name in names.items()})
    states = [by_direction(script, f"initial.{s}", strides[f"initial.{s}"], len(form.reverse)) for s in cell.states]
    afresh = [
        script.given(f"afresh.{s}", row=strides[f"afresh.{s}"][0]) for s in cell.states if f"afresh.{s}" in strides
    ]
    streams = [_streams(script, cell, form, f".{d}" if apart else "") for d in range(len(weights) if apart else 1)]
    streams = streams if apart else streams * len(weights)
    return [
        Given(of, [s[d] for s in states], form.reverse[d], [s.at(row=d) for s in afresh], streams[d])
        for d, of in enumerate(weights)
    ]


def by_direction(script: Script, name: str, stride: tuple[int, ...], directions: int) -> list[Array]:
    """Declares a given array (D, B, width); returns the part (B, width) of each direction."""
    array = script.given(name, row=stride[1])
    return [array.at(column=d * stride[0]) for d in range(directions)]


def input_array(script: Script, form: Form, name: str = "x") -> Array:
    """Declares x; returns it as (T*B, I)."""
    return of_rows(script, form, name, form.given()["x"])


def _streams(script: Script, cell: Cell, form: Form, suffix: str) -> dict[str, Array]:
    """Declares the streams, each (T, B, H), under their names in kernels with a suffix; returns them by those names."""
    strides = form.given()
    return {f"u.{name}": of_rows(script, form, f"u.{name}{suffix}", strides[f"u.{name}"]) for name in cell.streams}


def of_rows(script: Script, form: Form, name: str, strides: tuple[int, ...]) -> Array:
    """Declares an array (T, B, width); returns it as (T*B, width), for arrays whose rows are evenly spaced.

    With one sequence, the next row is the next step, whatever stride torch says that the batch has.
    """
    array = script.given(name, *strides[:2])
    batch = form.batch if form.packed is None else form.packed.batch
    return array._replace(row=array.time) if batch == 1 else array


def index_arrays(script: Script, form: Form) -> dict[str, Array]:
    """Declares the arrays of `rows.Rows`; returns them by name. There are none if all sequences have all steps."""
    if form.packed is None:
        return {}
    # Their entries are 64-bit whole numbers; FLOAT64 stands for them, since it has eight bytes, too.
    return {name: script.given(name, form=FLOAT64) for name in index_names(len(form.reverse))}


@cache
def index_names(directions: int) -> tuple[str, ...]:
    """Returns the names of the index arrays, in the order in which a pass gives their addresses."""
    single = [name for name in INDICES if not name.endswith(".")]
    return *single, *(f"{name}{d}" for d in range(directions) for name in INDICES if name.endswith("."))


def widths_of_states(cell: Cell, sizes: Sizes) -> list[int]:
    """Returns the width of each state. The first state is the output."""
    return [sizes.of(width_of_state(cell, state)) for state in cell.states]


def output_arrays(script: Script, sizes: Sizes, width: int, name: str = "output") -> list[Array]:
    """Declares the output (T, B, D*Y); returns the part (T, B, width) of each direction."""
    row = sizes.directions * width
    output = script.given(name, sizes.sequences * row, row)
    return [output.at(column=d * width) for d in range(sizes.directions)]


def final_arrays(script: Script, cell: Cell, sizes: Sizes) -> list[list[Array]]:
    """Declares the final states (D, B, width); returns for each direction its parts (B, width)."""
    finals = [
        by_direction(script, f"final.{state}", (sizes.sequences * width, width, 1), sizes.directions)
        for state, width in zip(cell.states, widths_of_states(cell, sizes), strict=True)
    ]
    return [list(of) for of in zip(*finals, strict=True)]


class Prepared(NamedTuple):
    """A direction as its kernels see it. Rows of different lengths are packed (rows.py)."""

    given: Given
    x: Array  # (T*B, I); packed rows find their rows of x by the index "index."
    where: dict[str, Array]  # the index arrays of packed rows, by the names in `INDICES`; otherwise empty
    tasks: list[Task]  # these gather the state that each packed row begins with, and the streams


def prepare(
    script: Script, cell: Cell, sizes: Sizes, indices: dict[str, Array], d: int, given: Given, x: Array
) -> Prepared:
    """Returns direction d as its kernels see it. Packed rows get rooms for the states that they begin with."""
    if sizes.packed is None:
        return Prepared(given, x, {}, [])
    index = {name: indices[f"{name}{d}"] for name in INDICES if name.endswith(".")}
    index |= {name: array for name, array in indices.items() if name in INDICES}
    states: list[Array] = []
    tasks: list[Task] = []
    for number, (state, width) in enumerate(zip(given.state, widths_of_states(cell, sizes), strict=True)):
        states.append(script.room(sizes.batch * width, row=width))
        afresh = given.afresh[number]._replace(row=0) if given.afresh else None  # one for all rows
        tasks += gather(sizes, index["starts."], state, states[-1], sizes.batch, width, other=afresh)
    streams: dict[str, Array] = {}
    for name, stream in given.streams.items():
        # Its rows are counted as those of x are, evenly spaced (readable.py).
        streams[name] = script.room(sizes.total * sizes.units, row=sizes.units, time=sizes.units)
        tasks += gather(sizes, index["index."], stream, streams[name], sizes.total, sizes.units)
    return Prepared(Given(given.weights, states, False, given.afresh, streams), x, index, tasks)


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
    """Returns the tasks that gather the output and the final states from packed rows.

    sequences: packed rows of each state. initial: what a sequence without steps hands on as its final state.
    index: which of "ends." and "turns." finds the final states, except the first state, which "ends." finds always.
    """
    widths = widths_of_states(cell, sizes)
    tasks = gather(sizes, prepared.where["places."], sequences[0], output, sizes.places, widths[0])
    for number, (sequence, of, final, width) in enumerate(zip(sequences, initial, finals, widths, strict=True)):
        ends = prepared.where[index if number else "ends."]
        tasks += gather(sizes, ends, sequence, final, sizes.sequences, width, other=of)
    return tasks


def start(script: Script, kernels: Kernels, prepared: Prepared) -> tuple[dict[str, Array], list[Task], list[Task]]:
    """Returns the arrays that all kernels read, and two lists of tasks that run before the kernels.

    A frozen layer runs the first list only once: it packs the weights. Every call runs the second list.
    """
    sizes, given = kernels.sizes, prepared.given
    arrays, tasks = kernels.pack(script, given.weights)
    arrays["zeros"] = script.kept(product.ACCUMULATORS * sizes.lanes)
    tasks.append(fill(arrays["zeros"], 1, product.ACCUMULATORS * sizes.lanes))
    for name, slots in kernels.planned.arrays("memory").items():
        row = slots * sizes.padded(width_of(kernels.cell, name))
        arrays[name] = script.room(sizes.batch * row, row=row)
    arrays["p"] = given.weights.get("ch", arrays["zeros"])._replace(row=0)
    arrays |= {name: array for name, array in prepared.where.items() if name in ("runs", "runs back")}
    arrays["meeting"] = script.room(128 // sizes.format.bytes)  # 128 bytes: no other array shares its cache lines
    arrays |= given.streams
    for state, array in zip(kernels.cell.states, given.state, strict=True):
        arrays[f"s0.{state}"] = array
    meeting = fill(arrays["meeting"], 1, 128 // sizes.format.bytes)
    return arrays, tasks, [meeting] if kernels.parties > 1 else []


def input_share(script: Script, sizes: Sizes, prepared: Prepared, width: int, rows: int) -> Linear:
    """Returns the product W_ih x_t + b_ih for all steps and rows, (T*B, I) -> (T*B, G*H)."""
    weights, shape = prepared.given.weights, (width, sizes.inputs)
    return Linear(script, sizes, weights["ih"], weights.get("b_ih"), shape, rows, index=prepared.where.get("index."))
