"""Runs one peer in a process of its own, pinned to its cores, and answers the driver's requests line by line.

    python bench/worker.py MODULE CORES

It is started by `workers.py`, which also sets the environment. Requests and answers are JSON.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
import time
from typing import Any


def own_output() -> Any:
    """Returns the pipe to the driver. Whatever a framework prints goes to standard error instead."""
    pipe = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return pipe


def die_with_the_driver() -> None:
    """Has the system kill this process when the driver dies. A stopped process would outlive a killed driver."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Worker:
    def __init__(self, module: str):
        self.peer = importlib.import_module(f"peers.{module}")
        self.prepared: Any = None

    def hello(self) -> dict[str, Any]:
        return {"version": self.peer.VERSION}

    def prepare(self, cell: str, file: str, training: bool) -> dict[str, Any]:
        """Prepares a problem and calls it once, so that compiling and allocating at first use are not timed."""
        import numpy as np

        self.prepared = None  # free the last problem first: two large ones may not fit into memory
        with np.load(file) as stored:
            arrays = dict(stored)
        self.prepared = self.peer.prepare(cell, arrays, training)
        if self.prepared is None:
            return {"lacks": True}
        self.prepared.call()
        return {"lacks": False, "engine": self.prepared.engine}

    def round(self, repetitions: int) -> dict[str, Any]:
        """Returns the mean seconds of a call. If calls are repeated, one that is not timed fills the caches first."""
        call = self.prepared.call
        if repetitions > 1:
            call()
        begin = time.perf_counter()
        for _ in range(repetitions):
            call()
        return {"seconds": (time.perf_counter() - begin) / repetitions}

    def results(self, file: str) -> dict[str, Any]:
        import numpy as np

        np.savez(file, **self.prepared.results())
        return {}

    def matmul(self) -> dict[str, Any]:
        import matmul

        return {"rates": matmul.rates()}


def main() -> None:
    answers = own_output()
    die_with_the_driver()
    os.sched_setaffinity(0, {int(core) for core in sys.argv[2].split(",")})
    try:
        worker = Worker(sys.argv[1])
    except ImportError as error:
        print(json.dumps({"absent": str(error)}), file=answers)
        return
    print(json.dumps(worker.hello()), file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(getattr(worker, request.pop("do"))(**request)), file=answers)


if __name__ == "__main__":
    main()
