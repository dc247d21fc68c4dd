"""Which form of the time loop runs a pass, and the loops that are kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import torch

from elman.gpu.loop import Form, Loop
from elman.gpu.resident import Resident, Tile, candidates, fits, grid, processors, refusal
from elman.gpu.steps import Steps

PRECISIONS = {"ieee": "", "tf32": ", products in TF32", "tf32x3": ", each product as three in TF32"}
KEPT = 8  # loops whose buffers and graphs are kept

_loops: OrderedDict[Form, Loop] = OrderedDict()
_lock = threading.Lock()


@contextmanager
def loop_for(form: Form) -> Iterator[Loop]:
    """Gives the loop for calls of this form, to one thread at a time.

    While the caller records a graph of its own, the loop is a new one: the caller's graph will run at any time.
    """
    if form.device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        yield make(form, graphs=False)
        return
    with _lock:
        loop = _loops.pop(form, None) or make(form, graphs=True)
        _loops[form] = loop
        while len(_loops) > KEPT:
            _loops.popitem(last=False)
    with loop.lock:
        yield loop


def make(form: Form, graphs: bool) -> Loop:
    tile = choose(form._replace(stream=0)).tile
    return Steps(form, graphs) if tile is None else Resident(form, tile)


class Choice(NamedTuple):
    """The tile of a resident kernel, or None for the form `steps`, and why."""

    tile: Tile | None
    why: str


@cache
def choose(form: Form) -> Choice:
    """Chooses the first tile with which all programs can run at the same time. Compiling tells; nothing is timed.

    RuntimeError while the caller records a graph: what is tried out then would not run, and would be recorded.
    """
    if form.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            f"the pass `{form.name}` of {form.cell.name} with {form.batch} rows and {form.units} units in "
            f"{str(form.dtype).removeprefix('torch.')} has to run once before a CUDA graph records it, since only then "
            "are its kernels compiled and tried out; call the layer in the same way before you record"
        )
    why = refusal(form)
    if why is not None:
        return Choice(None, f"a product and a kernel for each step, since {why}")
    for tile in candidates(form):
        if fits(form, tile):
            units, rows, _ = grid(form, tile)
            return Choice(
                tile,
                f"one kernel for all steps, {units} x {rows} programs of {tile.units} units and {tile.rows} rows "
                f"for each direction{PRECISIONS[tile.precision]}{', weights in registers' if tile.registers else ''}",
            )
    return Choice(
        None,
        f"a product and a kernel for each step, since a kernel for all of them does not fit {form.units} units and "
        f"{form.batch} rows on the {processors(form.device)} multiprocessors of the device",
    )
