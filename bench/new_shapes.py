"""Measures the cost of a batch of a size never seen before: the milliseconds to get the scripts of both passes.

    python bench/new_shapes.py

Layers have 128 units, and all that such a script needs was compiled before. Columns are median / mean over many sizes:

    new length    T is new, B = 32
    new batch     B is new, T = 50
    random        T and B are both small and random
    lengths       sets of 32 lengths up to 100; the time includes preparing their rows
    a new kind    sizes that no known script fits, so that a new one is written (docs/decisions/0011); the median

The table is only printed. It is no part of `make bench`.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterable

import torch

import elman
from elman.cpu.layer import passes
from elman.cpu.layer.backward import Wanted, backward_script
from elman.cpu.layer.form import templates
from elman.cpu.layer.forward import forward_script

UNITS = 128


def milliseconds(of: elman.Recurrent, steps: int, batch: int, lengths: torch.Tensor | None = None) -> float:
    """Returns the milliseconds that it takes to get the scripts of forward and backward, with every gradient."""
    state = tuple(torch.empty(of.num_directions, batch, UNITS) for _ in of.cell.states)
    call = of.call(0, torch.empty(steps, batch, UNITS), state, lengths)
    cotangents = [torch.empty(steps, batch, UNITS * of.num_directions), *(None for _ in state)]
    weights = tuple(tuple(w is not None for w in weights) for weights, _ in call.directions)
    begin = time.perf_counter()
    rows = passes.rows_of(call)
    forms = passes.form_of(call, (), rows), passes.form_of(call, cotangents, rows)
    forward_script(of.cell, forms[0])
    backward_script(of.cell, forms[1], Wanted(True, weights, (True,) * len(state)))
    return (time.perf_counter() - begin) * 1e3


def all_of(of: elman.Recurrent, sizes: Iterable[tuple[int, int]]) -> list[float]:
    return [milliseconds(of, steps, batch) for steps, batch in sizes]


def every_one_written(of: elman.Recurrent, sizes: Iterable[tuple[int, int]]) -> Iterable[float]:
    for steps, batch in sizes:
        templates.cache_clear()
        yield milliseconds(of, steps, batch)


def main() -> None:
    torch.set_num_threads(1)
    draw = random.Random(1)
    small = [(draw.randint(2, 40), draw.randint(2, 40)) for _ in range(100)]
    print(f"{'(ms)':24}{'new length':>16}{'new batch':>16}{'random':>16}{'lengths':>16}{'a new kind':>16}")
    for cell in ("lstm", "gru", "rnn"):
        for bidirectional in (False, True):
            of = elman.Recurrent(elman.cells.by_name(cell), UNITS, UNITS, bidirectional=bidirectional)
            all_of(of, [(steps, 32) for steps in range(41, 44)])
            found = [all_of(of, [(T, 32) for T in range(60, 180)]), all_of(of, [(50, B) for B in range(33, 64)])]
            templates.cache_clear()
            found.append(all_of(of, small))
            of_lengths = [torch.randint(1, 101, (32,), generator=torch.Generator().manual_seed(n)) for n in range(140)]
            found.append([milliseconds(of, 100, 32, each) for each in of_lengths][20:])
            written = statistics.median(every_one_written(of, [(T, 32) for T in range(180, 220)]))
            name = cell + (", bidirectional" if bidirectional else "")
            columns = "".join(f"{statistics.median(t):8.3f} / {statistics.mean(t):.3f}" for t in found)
            print(f"{name:24}{columns}{written:16.2f}")


if __name__ == "__main__":
    main()
