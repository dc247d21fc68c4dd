"""Does a language model train faster on all threads than on one, also while another program runs?

    python bench/threads.py                # about four minutes

Takes training steps of the model that `elman train lm` makes by default, on its default text: on one thread and on as
many as there are processors, in turn, on an otherwise idle machine and beside one program that never rests. OpenMP's
threads wait for work by spinning, or passively as the command line asks for (OMP_WAIT_POLICY). Prints the median of the
steps per second.
"""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from elman.datasets.text import read
from elman.tasks.language_model import LanguageModel, LanguageModelling, Options
from elman.training.loop import Training
from elman.training.run import Run

ROUNDS, STEPS, WARM_UP = 3, 60, 10


def steps_per_second(threads: int, policy: str) -> float:
    """Of one training, in a process of its own, so that every measurement begins alike."""
    words = [sys.executable, __file__, str(threads)]
    environment = os.environ | {"OMP_WAIT_POLICY": policy}
    return float(subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout)


def measure(threads: int) -> float:
    options = Options(epochs=1000.0, threads=threads)  # so long that no evaluation comes in between
    corpus = read(None, options.unit, options.held_out)
    with tempfile.TemporaryDirectory() as directory:
        torch.manual_seed(0)
        task = LanguageModelling(LanguageModel(corpus.vocabulary.size, options), corpus, options)
        training = Training(Run(Path(directory)), task)
        steps = training.steps()
        for _ in itertools.islice(steps, WARM_UP):
            pass
        begin = time.perf_counter()
        for _ in itertools.islice(steps, STEPS):
            pass
        return STEPS / (time.perf_counter() - begin)


def main() -> None:
    every = len(os.sched_getaffinity(0))
    print(f"steps per second{'':16}{'1 thread':>10}{f'{every} threads':>12}   ratio")
    for busy, policy in itertools.product((False, True), ("active", "passive")):
        other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
        found: dict[int, list[float]] = {1: [], every: []}
        try:
            for _ in range(ROUNDS):
                for threads, rates in found.items():
                    rates.append(steps_per_second(threads, policy))
        finally:
            if other is not None:
                other.kill()
        one, many = (statistics.median(rates) for rates in found.values())
        state = f"{'beside a program' if busy else 'idle'}, {policy}"
        print(f"{state:<32}{one:10.1f}{many:12.1f}{many / one:8.2f}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(measure(int(sys.argv[1])))
    else:
        main()
