"""New processes that do not begin with the seconds it takes to import torch.

They are forks of a process that has imported what takes long, and nothing of elman.
"""

from __future__ import annotations

import gc
import inspect
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, NamedTuple

from _pytest.config import default_plugins

ROOT = Path(__file__).parent.parent

# Modules that tests import and that know nothing of elman.
PRELOADED = ["torch._dynamo.testing", "torch._subclasses.fake_tensor", "torch.distributed", "onnx", "pytest"]
PRELOADED += ["hypothesis.strategies", "llvmlite.binding", "typer", "rich.progress", "safetensors.torch", "tokenizers"]
PRELOADED += ["triton.runtime.interpreter", "onnxscript.function_libs.torch_lib.ops", "polars", "numpy.testing"]
PRELOADED += ["triton.experimental.gluon", "matplotlib.backends.backend_agg", "matplotlib.figure", "typer._adapters"]
PRELOADED += ["platformdirs.unix", "tomllib", "pdb", "pydantic.type_adapter", "sympy.combinatorics", "zstandard"]
PRELOADED += ["rapidfuzz.distance", "rapidfuzz.process", "numpy.ctypeslib", "onnxruntime", "torch.export._trace"]
PRELOADED += [f"_pytest.{name}" for name in default_plugins]


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
        with ExitStack() as ends:
            running = [ends.enter_context(self.begin(child)) for child in children]
            return [each.end(timeout) for each in running]

    @contextmanager
    def begin(self, child: Child) -> Iterator[Running]:
        """Starts a child, which is killed if the block leaves it running."""
        if self._server is None:
            self.start()
        given = child._replace(environment=child.environment or dict(os.environ))
        with tempfile.TemporaryDirectory() as folder:
            for path in _printed(folder):
                path.touch()
            running = Running(self._ask, self._ask("begin", given, folder), given, folder)
            try:
                yield running
            finally:
                running.end(0)

    def _ask(self, *what: Any) -> Any:
        self._server.send(what)
        return self._server.recv()

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None


class Running:
    """A child that may still run."""

    def __init__(self, ask: Callable[..., Any], pid: int, child: Child, folder: str) -> None:
        self.pid, self._ask, self._child, self._folder = pid, ask, child, folder
        self._code: int | None = None

    def printed(self) -> list[str]:
        """What there is by now on standard output and standard error."""
        return [path.read_text(encoding="utf-8", errors="replace") for path in _printed(self._folder)]

    def poll(self, timeout: float = 0) -> int | None:
        """Its exit code, or None if it has not ended after so many seconds."""
        if self._code is None:
            self._code = self._ask("wait", self.pid, timeout)
        return self._code

    def send_signal(self, number: int) -> None:
        self._ask("signal", self.pid, number)  # the server knows whether the number is still that of this process

    def end(self, timeout: float = 120) -> CompletedProcess[str]:
        """Waits for its end; kills it if that takes too long."""
        if self.poll(timeout) is None:
            self.send_signal(signal.SIGKILL)
            while self.poll(10) is None:
                pass
        return CompletedProcess(["-c", *self._child.arguments], self._code or 0, *self.printed())


def _printed(folder: str) -> list[Path]:
    return [Path(folder) / name for name in ("out", "error")]


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
    children: dict[int, Any] = {}
    while True:
        try:
            what, *rest = connection.recv()
        except EOFError:
            os._exit(0)  # no destructors: Triton's complain
        if what == "begin":
            child, folder = rest
            process: Any = fork.Process(target=_run, args=(child, _printed(folder)))
            process.start()
            children[process.pid] = process
            connection.send(process.pid)
        elif what == "wait":
            pid, timeout = rest
            children[pid].join(timeout)
            connection.send(children[pid].exitcode)
        else:
            pid, number = rest
            if children[pid].is_alive():
                os.kill(pid, number)
            connection.send(None)


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
