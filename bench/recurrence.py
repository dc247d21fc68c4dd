"""Forward and backward of one layer, elman next to torch.nn, in one process with alternating rounds.

    python bench/recurrence.py [--threads N] [--rounds N]

Prints, for every case and cell, the median time of each and the ratio torch.nn / elman: above 1 elman
is faster. torch.nn has no peepholes and no coupled gates; those columns are left blank.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import elman

CASES = ((100, 1, 64, 64), (100, 16, 128, 128), (35, 20, 650, 650), (64, 16, 64, 256))  # T, B, I, H
PEERS: dict[str, Callable[[int, int], nn.Module]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def once(layer: nn.Module, x: Tensor) -> float:
    """Seconds of one forward and backward pass, all gradients."""
    begin = time.perf_counter()
    output, _ = layer(x)
    output.backward(torch.ones_like(output))
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description="Time one layer's training step, elman next to torch.nn.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads, milliseconds, median of {arguments.rounds}")
    print(f"{'T, B, I, H':<20} {'cell':<22} {'engine':<10} {'elman':>8} {'torch.nn':>9} {'ratio':>6}")
    for steps, batch, inputs, hidden in CASES:
        x = torch.randn(steps, batch, inputs, requires_grad=True)
        for name in ("rnn", "lstm", "gru", "gru_before", "peephole_lstm", "coupled_lstm", "coupled_peephole_lstm"):
            mine = elman.Recurrent(elman.cells.by_name(name), inputs, hidden)
            layers: dict[str, nn.Module] = {"elman": mine}
            engine = elman.describe(mine, x).engines[0].engine
            if name in PEERS:
                layers["torch.nn"] = PEERS[name](inputs, hidden)
            times: dict[str, list[float]] = {which: [] for which in layers}
            for number in range(arguments.rounds + 1):  # the first round warms up
                for which, layer in layers.items():
                    seconds = once(layer, x)
                    if number:
                        times[which].append(1000 * seconds)
            median = {which: statistics.median(found) for which, found in times.items()}
            peer = f"{median['torch.nn']:9.2f} {median['torch.nn'] / median['elman']:6.2f}" if name in PEERS else ""
            print(
                f"{f'{steps}, {batch}, {inputs}, {hidden}':<20} {name:<22} {engine:<10} {median['elman']:8.2f} {peer}".rstrip(),
                flush=True,
            )


if __name__ == "__main__":
    main()
