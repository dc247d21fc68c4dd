"""Measures how long a call takes after a pause, in which others may have used the processors and their caches.

    python bench/pauses.py [CELL T B I H]

Prints the median, 90th percentile and maximum of 60 calls of inference, for one and two threads. The table is only
printed. It is no part of `make bench`, which leaves no pauses.
"""

from __future__ import annotations

import sys
import time

import torch

import elman

PAUSES = (0.0, 0.002, 0.02, 0.1)  # seconds
CALLS = 60


def durations(layer: elman.Recurrent, x: torch.Tensor, pause: float) -> list[float]:
    """Returns the milliseconds of each call, sorted."""
    found = []
    layer(x)
    for _ in range(CALLS):
        time.sleep(pause) if pause else None
        begin = time.perf_counter()
        layer(x)
        found.append((time.perf_counter() - begin) * 1e3)
    return sorted(found)


def main() -> None:
    name, *sizes = sys.argv[1:] or ("gru_before", 100, 1, 256, 256)
    T, B, I, H = map(int, sizes)  # noqa: E741
    layer, x = elman.Recurrent(elman.cells.by_name(name), I, H), torch.randn(T, B, I)
    print(f"{name} ({T}, {B}, {I}, {H})   threads   pause (ms)   median   90 %   maximum (ms)")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with torch.inference_mode():
            for pause in PAUSES:
                found = durations(layer, x, pause)
                shown = (found[CALLS // 2], found[CALLS * 9 // 10], found[-1])
                print(f"{threads:8}{pause * 1e3:8.0f}   " + "".join(f"{ms:10.3f}" for ms in shown))


if __name__ == "__main__":
    main()
