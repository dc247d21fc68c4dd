"""The command line, one file per command. Results go to standard output, messages to standard error.

Each command imports what it needs when it runs, so that `--help` is quick.
"""

from __future__ import annotations

import os

# OpenMP reads this when torch is loaded. Threads that spin while they wait would take processors from other programs:
# beside another program, two threads train nearly twice as fast if they do not spin (docs/decisions/0005).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import contextlib
import io
import re
import sys
from typing import TextIO

import typer

import elman
from elman.cli import (
    cells,
    crossvalidate,
    detect,
    doctor,
    evaluate,
    explain,
    export,
    onnx,
    predict,
    sample,
    train,
    tune,
)
from elman.errors import InputError

app = typer.Typer(
    name="elman",
    help="Recurrent neural networks: train them on your own sequences, judge them, look inside.",
    epilog="Example:  elman train lm --run runs/first",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(train.app, name="train")
app.add_typer(tune.app, name="tune")
app.add_typer(crossvalidate.app, name="cross-validate")
app.command("sample", epilog=sample.EXAMPLE)(sample.sample)
app.command("evaluate", epilog=evaluate.EXAMPLE)(evaluate.evaluate)
app.command("predict", epilog=predict.EXAMPLE)(predict.predict)
app.command("detect", epilog=detect.EXAMPLE)(detect.detect)
app.command("explain", epilog=explain.EXAMPLE)(explain.explain)
app.command("export", epilog=export.EXAMPLE)(export.export)
app.add_typer(onnx.app, name="onnx")
app.command("cells", epilog=cells.EXAMPLE)(cells.cells)
app.command("doctor", epilog=doctor.EXAMPLE)(doctor.doctor)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"elman {elman.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and stop."
    ),
) -> None:
    pass


_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]  # its base class: any mistake in options or arguments


def main() -> None:
    """Runs the command line. A user's mistake prints one sentence and exits with status 2, Ctrl-C with status 130."""
    _open_what_is_closed()
    for stream in (sys.stdout, sys.stderr):  # a terminal that has no σ shows an escape sequence, instead of an error
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = app(standalone_mode=False, prog_name="elman")
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as error:  # typer and rich turn the former into the latter
        if not isinstance(error, BrokenPipeError) and not isinstance(error.__context__, BrokenPipeError):
            raise
        # The reader of standard output has closed it, as `head` does.
        _forget(sys.stdout, sys.stderr)
        status = 128 + 13  # as the shell says it of a program that SIGPIPE ended
    except InputError as error:
        status = _complain(str(error))
    except typer.Abort:
        status = 130
    except KeyboardInterrupt:
        status = 130
    except _USAGE_ERROR as error:
        message: str = error.format_message()  # pyright: ignore[reportAttributeAccessIssue]
        if message.startswith("Usage:"):  # a group was called without a command: the message is its help
            print(message, file=sys.stderr)
            status = 2
        else:
            status = _complain(f"{_with_value(message).rstrip('.')}; see --help".replace("?; see --help", "?"))
    except OSError as error:
        if error.filename is None:
            _forget(sys.stdout)
        what = error.filename or "standard output"
        status = _complain(f"cannot use {what}: {error.strerror or error}")
    sys.exit(status if isinstance(status, int) else 0)


def _open_what_is_closed() -> None:
    """Opens standard streams that the shell has closed (`>&-`), since the next file to be opened would take their place."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            setattr(sys, name, open(null, mode, closefd=null != number))  # noqa: SIM115 - for the life of the process


def _forget(*streams: TextIO) -> None:
    """Lets what is still to be written go nowhere, or Python would try to write it once more when it ends."""
    for stream in streams:
        with contextlib.suppress(OSError):  # a stream that is no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _with_value(message: str) -> str:
    """Returns the message, with the given value added if the message names only the option."""
    option = re.match(r"Invalid value for '(--[\w-]+)'", message)
    if option is None:
        return message
    words = [part for word in sys.argv for part in word.split("=", 1)]
    value = words[words.index(option[1]) + 1 :][:1] if option[1] in words else []
    if not value:
        return message
    for kind, name in (("valid integer", "a whole number"), ("valid number", "a number"), ("valid float", "a number")):
        if kind in message:
            return f"{option[1]} must be {name}, got {value[0]!r}"
    return f"{option[1]} got {value[0]!r}: {message.partition(': ')[2]}"


def _complain(sentence: str) -> int:
    with contextlib.suppress(OSError):  # nobody can be told
        print("elman: " + " ".join(sentence.split()), file=sys.stderr)
    return 2
