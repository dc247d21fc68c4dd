"""`elman onnx`: what to know of an ONNX file."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from elman.beginning import needs_onnx
from elman.errors import InputError

EXAMPLE = "Example:  elman onnx check model.onnx"

app = typer.Typer(help="Look at ONNX files.", epilog=EXAMPLE, no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    pass


@app.command("check", epilog=EXAMPLE)
def check(
    file: Path = typer.Argument(..., help="ONNX file of any origin."),
    seconds: float = typer.Option(60.0, help="Time that running the file may take."),
) -> None:
    """List the recurrent nodes of a file, and warn of what computes something else than it seems to, or does not run.

    The file is run in ONNX Runtime at several sizes, in a process of its own with limits on time and memory.
    """
    if not 0 < seconds < float("inf"):
        raise InputError(f"--seconds must be greater than 0 and finite, got {seconds}")
    report = needs_onnx("checking").check(file, seconds)
    for line in report.nodes:
        print(line)
    for warning in report.warnings:
        print(f"warning: {warning}")
    if not report.warnings:
        print("no warnings")
    print(f"the file ran in ONNX Runtime {report.runs} times", file=sys.stderr)
