"""Sequences of different lengths: elman with `lengths`, next to torch.nn on packed sequences and elman with padding.

    python bench/lengths.py                    # about six minutes
    python bench/lengths.py --threads 1 --cells lstm

Lengths are drawn uniformly from 1..T. The first five columns are milliseconds, the last three are ratios:

    torch     the time of torch.nn on packed sequences, including the padding of its output, divided by elman's time
              with lengths
    packed    torch.nn's time divided by elman's, where both get packed sequences and leave their output packed
    saved     the share of time that lengths save, divided by the share of steps that are padding: 1 if the time falls
              in proportion to the steps

The last table is one long stream that 20 resets cut, next to the stream without resets. Every round runs everything
that is compared, in a random order.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import elman
from elman.recurrent import _places

LAYERS = {"lstm": (elman.LSTM, torch.nn.LSTM), "gru": (elman.GRU, torch.nn.GRU), "rnn": (elman.RNN, torch.nn.RNN)}
CASES = [(100, 32, 128, 128), (100, 32, 256, 256), (60, 16, 64, 64), (100, 32, 512, 512)]  # T, B, I, H
ROUNDS = 15


def medians(runs: dict[str, Callable[[], Any]], rounds: int = ROUNDS) -> dict[str, float]:
    """Returns the median milliseconds of each run. Two rounds before are not counted."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    draw = random.Random(0)
    for number in range(-2, rounds):
        for name in draw.sample(list(runs), len(runs)):
            begin = time.perf_counter()
            runs[name]()
            if number >= 0:
                times[name].append((time.perf_counter() - begin) * 1e3)
    return {name: statistics.median(of) for name, of in times.items()}


def training(run: Callable[[], torch.Tensor], cotangent: torch.Tensor) -> Callable[[], None]:
    rows = cotangent.flatten(0, 1)  # for a packed output, in which the steps of all sequences are rows

    def once() -> None:
        output = run()
        output.backward((rows if output.dim() == 2 else cotangent)[: len(output)])

    return once


def measured(runs: dict[str, Callable[[], torch.Tensor]], cotangent: torch.Tensor) -> dict[str, dict[str, float]]:
    trained = medians({name: training(run, cotangent) for name, run in runs.items()})
    with torch.no_grad():
        return {"training": trained, "inference": medians(runs)}


def lengths(cell: str, case: tuple[int, int, int, int], ratios: dict[str, list[float]]) -> None:
    steps, batch, size, units = case
    ours, theirs = (kind(size, units) for kind in LAYERS[cell])
    theirs.load_state_dict(ours.state_dict())
    x, cotangent = torch.randn(steps, batch, size), torch.randn(steps, batch, units)
    own = torch.randint(1, steps + 1, (batch,), generator=torch.Generator().manual_seed(1))
    packed = pack_padded_sequence(x, own, enforce_sorted=False)
    runs: dict[str, Callable[[], torch.Tensor]] = {
        "lengths": lambda: ours(x, lengths=own)[0],
        "padded": lambda: ours(x)[0],
        "torch": lambda: pad_packed_sequence(theirs(packed)[0])[0],
        "packed": lambda: ours(packed)[0].data,
        "(torch)": lambda: theirs(packed)[0].data,
    }
    spared = 1 - own.sum().item() / (steps * batch)
    for what, found in measured(runs, cotangent).items():
        ratio, saved = found["torch"] / found["lengths"], (1 - found["lengths"] / found["padded"]) / spared
        packs, threads = found["(torch)"] / found["packed"], torch.get_num_threads()
        ratios.setdefault(f"{what}, {threads} threads", []).append(ratio)
        ratios.setdefault(f"{what}, packed, {threads} threads", []).append(packs)
        times = "".join(f"{found[name]:10.3f}" for name in runs)
        print(f"{cell:5} {case!s:21} {what:10} {threads} {times} {ratio:7.2f} {packs:7.2f} {saved:7.2f}", flush=True)


def unpacking() -> None:
    """Packed sequences padded and packed again, forward and backward: elman's way next to torch's functions."""
    steps, batch, size = 100, 32, 128
    own = torch.randint(1, steps + 1, (batch,), generator=torch.Generator().manual_seed(1))
    packed = pack_padded_sequence(torch.randn(steps, batch, size), own, enforce_sorted=False)
    data, cotangent = packed.data.requires_grad_(), torch.randn_like(packed.data)

    def ours() -> torch.Tensor:
        sources, places, _ = _places(packed.batch_sizes, batch, len(data))
        padded = data.index_select(0, sources.flatten()).unflatten(0, sources.shape)
        return padded.flatten(0, 1).index_select(0, places)

    def theirs() -> torch.Tensor:
        padded, lengths = pad_packed_sequence(PackedSequence(data, packed.batch_sizes))
        return pack_padded_sequence(padded, lengths).data

    found = medians({"elman": lambda: ours().backward(cotangent), "torch": lambda: theirs().backward(cotangent)})
    times = ", ".join(f"{name} {time:.2f}" for name, time in found.items())
    print(f"(100, 32, 128) padded and packed again, forward and backward (ms): {times}")


def stream(cell: str) -> None:
    steps, units = 1000, 128
    of = LAYERS[cell][0](units, units)
    x, cotangent = torch.randn(steps, 1, units), torch.randn(steps, 1, units)
    reset = torch.zeros(steps, 1, dtype=torch.bool)
    reset[random.Random(0).sample(range(1, steps), 20)] = True
    runs: dict[str, Callable[[], torch.Tensor]] = {"resets": lambda: of(x, reset=reset)[0], "none": lambda: of(x)[0]}
    for what, found in measured(runs, cotangent).items():
        print(
            f"{cell:5} (1000, 1, 128, 128) {what:10} {found['resets']:10.3f} {found['none']:10.3f} {found['resets'] / found['none']:7.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--cells", nargs="*", default=list(LAYERS), choices=list(LAYERS))
    given = parser.parse_args()
    ratios: dict[str, list[float]] = {}
    print(
        f"{'':39}threads {'lengths':>8} {'padded':>9} {'torch':>9} {'packed':>9} {'(torch)':>9}   torch  packed   saved (ms)"
    )
    for threads in given.threads:
        torch.set_num_threads(threads)
        for case in CASES:
            for cell in given.cells:
                lengths(cell, case, ratios)
    for what, found in ratios.items():
        print(f"torch / elman, {what}: geometric mean {statistics.geometric_mean(found):.2f}, worst {min(found):.2f}")
    torch.set_num_threads(1)
    print("\none stream, 20 resets            (ms)       resets       none   ratio")
    for cell in given.cells:
        stream(cell)
    print()
    unpacking()


if __name__ == "__main__":
    main()
