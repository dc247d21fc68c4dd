"""Times layers in bfloat16 and under autocast on the CPU: elman's next to torch.nn's, and next to a loop of torch's operations.

    python bench/half_types.py                 # about two minutes

Prints medians in milliseconds, for training (forward and backward) and inference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lengths import measured
from torch import Tensor, nn

import elman

CASES = [(100, 1, 64), (100, 16, 128), (50, 64, 256)]  # T, B, I = H
NAMES = ("LSTM", "GRU", "PeepholeLSTM")


def main() -> None:
    torch.set_num_threads(2)
    print(f"{'(T, B, H)':17}{'layer':14}{'type':10}{'':10}   elman     torch      loop (ms)")
    for steps, batch, units in CASES:
        for name in NAMES:
            for kind in ("float32", "bfloat16", "autocast"):
                dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
                ours = getattr(elman, name)(units, units, dtype=dtype)
                x, cotangent = torch.randn(steps, batch, units, dtype=dtype), torch.randn(steps, batch, units)
                runs = {"elman": under(kind, ours), "loop": under(kind, ours, "reference")}
                if hasattr(nn, name):
                    theirs = getattr(nn, name)(units, units, dtype=dtype)
                    theirs.load_state_dict(ours.state_dict())
                    runs["torch"] = under(kind, theirs)
                own = {who: lambda x=x, run=run: run(x) for who, run in runs.items()}
                for what, found in measured(own, cotangent).items():
                    times = [f"{found[who]:10.2f}" if who in found else " " * 10 for who in ("elman", "torch", "loop")]
                    shown = f"{(steps, batch, units)!s:17}{name:14}{kind:10}{what:10}"
                    print(f"{shown}{''.join(times)}", flush=True)


def under(kind: str, of: nn.Module, engine: str = "auto") -> Callable[[Tensor], Any]:
    """Returns the output of a layer in float32, run in this type and on this engine."""

    def run(x: Tensor) -> Tensor:
        with elman.use_engine(engine), torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
            return of(x)[0].float()

    return run


if __name__ == "__main__":
    main()
