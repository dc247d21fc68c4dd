"""What a batch of a size never seen before costs: writing the scripts of both passes, in milliseconds.

    python bench/new_shapes.py

Medians over many new lengths T at B = 32, and over many new batches B at T = 50, for layers of 128 units, when
everything that such a script needs was compiled before. A table for eyes: it is no part of `make bench`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable

import torch

import elman
from elman.cpu import layer_scripts, passes
from elman.cpu.layer_scripts import Wanted

UNITS = 128


def milliseconds(of: elman.Recurrent, steps: int, batch: int) -> float:
    """Of writing the scripts of forward and backward, with every gradient."""
    state = tuple(torch.empty(of.num_directions, batch, UNITS) for _ in of.cell.states)
    call = of.call(0, torch.empty(steps, batch, UNITS), state)
    cotangents = [torch.empty(steps, batch, UNITS * of.num_directions), *(None for _ in state)]
    weights = tuple(tuple(w is not None for w in weights) for weights, _ in call.directions)
    forms = passes.form_of(call), passes.form_of(call, cotangents)
    begin = time.perf_counter()
    layer_scripts.forward_script(of.cell, forms[0])
    layer_scripts.backward_script(of.cell, forms[1], Wanted(True, weights, (True,) * len(state)))
    return (time.perf_counter() - begin) * 1e3


def median(of: elman.Recurrent, sizes: Iterable[tuple[int, int]]) -> float:
    return statistics.median(milliseconds(of, steps, batch) for steps, batch in sizes)


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'':24}new length   new batch (ms)")
    for cell in ("lstm", "gru", "rnn"):
        for bidirectional in (False, True):
            of = elman.Recurrent(elman.cells.by_name(cell), UNITS, UNITS, bidirectional=bidirectional)
            median(of, [(steps, 32) for steps in range(41, 44)])
            found = median(of, [(T, 32) for T in range(60, 180)]), median(of, [(50, B) for B in range(33, 64)])
            print(f"{cell + (', bidirectional' if bidirectional else ''):24}{found[0]:10.3f}{found[1]:12.3f}")


if __name__ == "__main__":
    main()
