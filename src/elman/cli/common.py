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

from elman.errors import InputError
from elman.training.options import Options

if TYPE_CHECKING:
    from elman.tasks import Trained
    from elman.training.record import Record

Command = TypeVar("Command", bound=Callable[..., None])


def device(name: str) -> str:
    """Returns the device's name; for "auto", cuda where there is one, else cpu.

    From then on torch uses one thread on the CPU: see docs/decisions/0005. Raises InputError for a device that
    cannot be used.
    """
    import torch

    torch.set_num_threads(1)

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.ones(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].split(". ")[0][:120]
        raise InputError(f"--device {name} cannot be used: {reason}; choose auto or cpu") from error
    return name


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


@contextlib.contextmanager
def without_training() -> Iterator[None]:
    """Leaves out of messages the advice that only a training can follow."""
    try:
        yield
    except InputError as error:
        raise InputError(error.elsewhere) from error


def opened(run: Path, device_name: str) -> tuple[Record, str]:
    """Returns what a training has left, in the directory of a run or in the file of a model, and the device to use."""
    from elman.training.run import Run

    if not run.exists():
        raise InputError(
            f"{run} does not exist; give the directory of a run, or the file that `elman export` made of it"
        )
    if not run.is_file():
        return Run(run), device(device_name)
    if device_name not in ("auto", "cpu"):
        raise InputError(f"--device {device_name} is not for {run}: ONNX Runtime computes on the CPU; leave it out")
    device("cpu")
    return needs_onnx(f"reading {run}").model_file.ModelFile(run), "cpu"


def check_rows(output: Path) -> None:
    """Raises InputError if rows about examples cannot be written to this file."""
    from elman.datasets.tables import JSON_LINES
    from elman.files import check_writable

    if output.suffix.lower() not in (forms := (".csv", *JSON_LINES)):
        raise InputError(f"{output}: examples are written as {', '.join(forms)}; choose one of these endings")
    check_writable(output)


def needs_onnx(what: str) -> Any:
    """Returns `elman.onnx`. Raises InputError if its libraries are not installed. what: what needs them."""
    try:
        import elman.onnx.model_file
    except ImportError as error:
        raise InputError(f"{what} needs {error.name}, which is not installed: pip install 'elman[onnx]'") from error
    return elman.onnx


def trained(record: Record, device: str) -> Trained:
    """Returns what a training has learned, whatever its task is."""
    from elman import tasks

    return tasks.module(record.task(tasks.MODULES)).load(record, device)


MOST_WEIGHT = 100  # of a language model

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


def let_help(model: Trained, run: Path, language_model: Path | None, weight: float | None, device_name: str) -> None:
    """Lets a language model, if one is given, help a model that writes texts. Raises InputError if it does not write any."""
    from elman import tasks
    from elman.tasks import language_model as language_models
    from elman.tasks.transcription import WEIGHT, Transcriber

    if language_model is None:
        if weight is not None:
            raise InputError(
                f"--language-weight {weight:g} is for a language model; give --language-model, or leave it out"
            )
        return
    if not isinstance(model, Transcriber):
        raise InputError(
            f"--language-model {language_model} is for runs of elman train transcribe, and {run} is none; leave it out"
        )
    weight = WEIGHT if weight is None else weight
    if not 0 <= weight <= MOST_WEIGHT:
        raise InputError(f"--language-weight is {weight:g} but must be from 0 to {MOST_WEIGHT}; 0.25 to 1 do well")
    if not language_model.exists():
        raise InputError(f"--language-model {language_model} does not exist; give a run of elman train lm, or its file")
    record, device = opened(language_model, device_name)
    if (task := record.task(tasks.MODULES)) != "lm":
        raise InputError(
            f"--language-model {language_model} is a run of elman train {task}; give one of elman train lm"
        )
    model.spell_with(language_models.load(record, device), weight, str(language_model))
