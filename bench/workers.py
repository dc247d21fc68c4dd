"""The driver's side of the peers' processes. Only the process that was asked runs; all others are stopped."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from peers import MODULES

HERE = Path(__file__).resolve().parent
PATIENCE = 180.0  # seconds to wait for one answer, long enough for slow compilers


class Failed(Exception):
    """A peer's process ended or did not answer; the message says how."""


class Worker:
    """One peer's process on its cores. Between requests it is stopped, so that it takes no time from other peers."""

    def __init__(self, peer: str, cores: list[int], engine: str, source: Path | None = None):
        """source: a folder with a package `elman`, which is used instead of the installed one."""
        self.peer = peer
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed in end()
        count = str(len(cores))
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "worker.py"), MODULES[peer], ",".join(map(str, cores))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            start_new_session=True,  # so that Ctrl-C reaches the driver only
            env=os.environ
            | {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count}
            | {"TF_NUM_INTRAOP_THREADS": count, "TF_NUM_INTEROP_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
            | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "BENCH_ENGINE": engine}
            | ({"PYTHONPATH": str(source)} if source else {}),
        )
        hello = self._answer()
        self.absent: str | None = hello.get("absent")
        self.version: str = hello.get("version", "")

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.stdin.write(json.dumps({"do": do} | arguments) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failed(self._last_words()) from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        """Returns the process's next line, then stops the process until it is asked again."""
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(PATIENCE):
                self.end()
                raise Failed(f"no answer in {PATIENCE:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            raise Failed(self._last_words())
        self.process.send_signal(signal.SIGSTOP)
        return json.loads(line)

    def _last_words(self) -> str:
        status = self.process.wait()
        if self.log.closed:
            return "has already ended"
        self.log.seek(0)
        lines = [line.strip() for line in self.log if line.strip()]
        return f"ended with status {status}: {lines[-1] if lines else 'and said nothing'}"

    def end(self) -> None:
        self.process.kill()  # a stopped process reacts to no other signal
        self.process.wait()
        self.log.close()
