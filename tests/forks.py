"""New processes that do not begin with the seconds it takes to import torch.

They are forks of a process that has imported what takes long, and nothing of elman.
"""

from __future__ import annotations

import gc
import inspect
import multiprocessing
import os
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent

# Modules that tests import and that know nothing of elman.
PRELOADED = ["torch._dynamo.testing", "torch._subclasses.fake_tensor", "torch.distributed", "onnx", "pytest"]
PRELOADED += ["hypothesis.strategies", "llvmlite.binding", "typer", "rich.progress", "safetensors.torch", "tokenizers"]
PRELOADED += ["triton.runtime.interpreter", "onnxscript.function_libs.torch_lib.ops", "polars", "numpy.testing"]


class Child(NamedTuple):
    """What a process does: as `python -c CODE ARGUMENTS`, in ROOT."""

    code: str
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] | None = None  # or that of the test


# `python FILE ARGUMENTS`, where FILE is the first argument.
RUN = """
import os, runpy, sys
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Forks:
    """The process that forks. It is started for the first child."""

    inherited: Forks | None = None  # where elman is not imported yet, for tests that come later

    def __init__(self) -> None:
        self._server: Any = None  # a connection

    def start(self, method: str = "spawn") -> None:
        """Starts it as a new process, or by "fork": then this one has imported what takes long, and nothing of elman."""
        context: Any = multiprocessing.get_context(method)
        self._server, theirs = context.Pipe()
        context.Process(target=_serve, args=(theirs, self._server if method == "fork" else None)).start()
        theirs.close()

    def run(self, *children: Child, timeout: float = 300) -> list[CompletedProcess[str]]:
        """Runs children at the same time. One that takes too long is killed."""
        if self._server is None:
            self.start()
        server: Any = self._server
        given = [child._replace(environment=child.environment or dict(os.environ)) for child in children]
        with tempfile.TemporaryDirectory() as folder:
            server.send((given, folder, timeout))
            return [
                CompletedProcess(
                    ["-c", *child.arguments],
                    code,
                    *[path.read_text(encoding="utf-8", errors="replace") for path in _printed(folder, number)],
                )
                for number, (child, code) in enumerate(zip(children, server.recv(), strict=True))
            ]

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None


def _printed(folder: str, number: int) -> list[Path]:
    return [Path(folder) / f"{number}.{name}" for name in ("out", "error")]


def _serve(connection: Any, others: Any) -> None:
    if others is not None:
        others.close()  # or it would never end
    for name in PRELOADED:
        import_module(name)
    import torchlib

    torchlib.remember(20)  # the opset that elman writes
    # Looks for the module of a file that none has, and so at every module, once. torch asks where operators are registered.
    inspect.getmodule(sys._getframe(), "none")
    assert not any(name.startswith("elman") for name in sys.modules)
    gc.collect()
    gc.freeze()  # no child looks for garbage among what it inherits
    fork = multiprocessing.get_context("fork")
    while True:
        try:
            given, folder, timeout = connection.recv()
        except EOFError:
            os._exit(0)  # no destructors: Triton's complain
        running = [fork.Process(target=_run, args=(child, _printed(folder, n))) for n, child in enumerate(given)]
        for process in running:
            process.start()
        for process in running:
            process.join(timeout)
            process.kill()
            process.join()
        connection.send([process.exitcode for process in running])


def _run(child: Child, printed: list[Path]) -> None:
    for descriptor, path in zip((1, 2), printed, strict=True):
        with path.open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    os.environ.clear()
    os.environ.update(child.environment or {})
    os.chdir(ROOT)
    sys.path[:0] = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    sys.argv = ["-c", *child.arguments]
    exec(compile(child.code, "<child>", "exec"), {"__name__": "__main__"})
