"""How much faster several processes train one model than one process does, on this machine.

    python bench/scaling.py              # about two minutes

Each line is `elman train lm` on the text that comes along, with the same batches, for the same number of steps. Several
processes are started by torchrun.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
from pathlib import Path

WAYS = ((1, 1), (1, 2), (2, 1))  # processes, threads of each
SIZES = (("--hidden-size", 256, "--num-layers", 1), ("--hidden-size", 512, "--num-layers", 1))
EPOCHS, BATCH, ROUNDS = 0.12, 32, 3


def rate(processes: int, threads: int, size: tuple[object, ...]) -> tuple[float, float]:
    """Returns the steps in a second between the first and the last evaluation, and the last loss in training."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["train", "lm", *size, "--batch-size", BATCH, "--epochs", EPOCHS, "--held-out", 0.005]
        command += ["--evaluations", 4, "--dropout", 0, "--threads", threads, "--run", Path(folder) / "run"]
        start = [sys.executable, "-m"]
        if processes > 1:
            start += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", "--"]
        subprocess.run([*start, "elman", *map(str, command)], check=True, capture_output=True)
        with (Path(folder) / "run" / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
    first, last = rows[0], rows[-1]
    steps = int(last["step"]) - int(first["step"])
    return steps / (float(last["seconds"]) - float(first["seconds"])), float(last["train_nats"])


def main() -> None:
    print("| units | processes | threads of each | steps a second | ratio | loss |\n|---|---|---|---|---|---|")
    for size in SIZES:
        found = {way: [rate(*way, size) for _ in range(ROUNDS)] for way in WAYS}
        alone = sorted(speed for speed, _ in found[WAYS[0]])[ROUNDS // 2]
        for (processes, threads), pairs in found.items():
            speed = sorted(speed for speed, _ in pairs)[ROUNDS // 2]
            print(
                f"| {size[1]} | {processes} | {threads} | {speed:.1f} | {speed / alone:.2f} | {pairs[0][1]:.4f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
