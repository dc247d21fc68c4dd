"""Times LSTMs with a projected state: elman's proj_size next to torch.nn's, in alternating rounds.

    python bench/projections.py                # about a minute

Prints medians in milliseconds, and torch's time divided by elman's, for training (forward and backward) and inference.
"""

from __future__ import annotations

import statistics

import torch
from lengths import measured

import elman

CASES = [(100, 32, 128, 128, 64), (50, 16, 256, 512, 128), (100, 1, 64, 128, 32)]  # T, B, I, H, proj_size


def main() -> None:
    ratios: list[float] = []
    print(f"{'(T, B, I, H, P)':34}threads   elman     torch   ratio (ms)")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for steps, batch, size, units, proj in CASES:
            ours, theirs = elman.LSTM(size, units, proj_size=proj), torch.nn.LSTM(size, units, proj_size=proj)
            theirs.load_state_dict(ours.state_dict())
            x, cotangent = torch.randn(steps, batch, size), torch.randn(steps, batch, proj)
            runs = {"elman": lambda x=x, of=ours: of(x)[0], "torch": lambda x=x, of=theirs: of(x)[0]}
            for what, found in measured(runs, cotangent).items():
                ratios.append(found["torch"] / found["elman"])
                shown = f"{(steps, batch, size, units, proj)!s:23} {what:10}"
                print(f"{shown} {threads} {found['elman']:12.3f}{found['torch']:10.3f}{ratios[-1]:8.2f}", flush=True)
    print(f"torch / elman: geometric mean {statistics.geometric_mean(ratios):.2f}, worst {min(ratios):.2f}")


if __name__ == "__main__":
    main()
