"""Code that several commands use."""

from __future__ import annotations

import contextlib
import inspect
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import typer

from elman import beginning
from elman.errors import InputError
from elman.training.options import Options

if TYPE_CHECKING:
    from elman.training.record import Record

Command = TypeVar("Command", bound=Callable[..., None])


def device(name: str) -> str:
    """Returns the device's name, as `elman.beginning.device` does. From then on torch uses one thread on the CPU: see
    docs/decisions/0005."""
    import torch

    torch.set_num_threads(1)
    return beginning.device(name)


def dated(name: str) -> str:
    """Returns the name of a directory for what is begun now."""
    return f"runs/{name}-{datetime.now():%Y%m%d-%H%M%S}"


def given(context: typer.Context) -> set[str]:
    """Returns the names of the arguments and options that the command line gives."""
    return {name for name in context.params if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"}


def with_options(options: type[Options]) -> Callable[[Command], Command]:
    """Gives a command an option for each field of a class of options. The command takes their values as `**values`.

    Those of the task come first, those of every task after them.
    """

    def add(command: Command) -> Command:
        of_all = {field.name for field in fields(Options)}
        parameters, values = inspect.signature(command).parameters, []
        for field in sorted(fields(options), key=lambda field: field.name in of_all):
            default = typer.Option(field.default, help=field.metadata["help"], show_default=field.default is not None)
            values.append(inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default))
        own = [p for p in parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        positional = [p.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD) for p in own]
        command.__dict__["__signature__"] = inspect.Signature([*positional, *values])
        hints: dict[str, Any] = {**get_type_hints(command), **get_type_hints(options)}
        command.__annotations__ = {name: hints[name] for name in [*(p.name for p in own), *(p.name for p in values)]}
        return command

    return add


@contextlib.contextmanager
def interruptible(then: str = "") -> Iterator[Callable[[], int | None]]:
    """Yields a function that returns the signal that asked to stop: Ctrl-C, or SIGTERM as a cluster sends it.

    then: what is said when it comes. A second Ctrl-C stops the program at once.
    """
    received: list[int] = []

    def receive(number: int, frame: Any) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        # Standard error may have been closed, or the signal came while something was written to it.
        with contextlib.suppress(OSError, RuntimeError):
            if then:
                print(then, file=sys.stderr, flush=True)

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def opened(run: Path, device_name: str) -> tuple[Record, str]:
    """Returns what `elman.beginning.opened` does, and torch uses one thread."""
    device("cpu")
    return beginning.opened(run, device_name)


def check_rows(output: Path) -> None:
    """Raises InputError if rows about examples cannot be written to this file."""
    from elman.datasets.tables import JSON_LINES
    from elman.files import check_writable

    if output.suffix.lower() not in (forms := (".csv", *JSON_LINES)):
        raise InputError(f"{output}: examples are written as {', '.join(forms)}; choose one of these endings")
    check_writable(output)


LANGUAGE_MODEL = typer.Option(
    None,
    "--language-model",
    help="Run of elman train lm, or its file, that helps to write down what sequences say (elman train transcribe).",
    show_default=False,
)
LANGUAGE_WEIGHT = typer.Option(
    None,
    "--language-weight",
    help="How much the language model counts; 0.5 if left out. 0.25 to 1 do well, and a large number adds symbols.",
    show_default=False,
)
