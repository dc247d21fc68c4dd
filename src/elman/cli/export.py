"""`elman export`: a run as an ONNX file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

from elman.beginning import needs_onnx, without_training
from elman.cli.common import device
from elman.errors import InputError

EXAMPLE = "Example:  elman export runs/first model.onnx"


def export(
    run: Path = typer.Argument(..., help="Directory of a run."),
    output: Path = typer.Argument(..., help="File to write, such as model.onnx."),
    streaming: bool = typer.Option(
        False,
        "--streaming",
        help="One step of a language model, or of a --causal model, for a loop of your own; its states are inputs and outputs.",
    ),
    int8: bool = typer.Option(
        False,
        "--int8",
        help="Compute products with weights in integers of 8 bits: a quarter of the size, faster, less exact.",
    ),
) -> None:
    """Write the model of a run to an ONNX file, which runs wherever ONNX Runtime runs.

    The file is compared with the model before it appears. It has the vocabulary and all else that is needed: elman sample,
    evaluate and predict take it in place of the run.
    """
    if output.suffix.lower() != ".onnx":
        raise InputError(f"{output} does not end in .onnx; choose such a name")
    onnx = needs_onnx("exporting")
    device("cpu")
    with without_training():
        proof = onnx.runs.export_run(run, output, streaming=streaming, int8=int8)
    how = "error" if int8 else "as exact as PyTorch: error"
    for name, error in proof.errors.items():
        same = f"the same but for {error:.2g} of them" if error else "the same"
        line = same if isinstance(error, onnx.proof.Share) else f"{how} {error:.2g} of its size"
        print(f"{name:<11} {line}")
    if int8:
        _tell_losses(run, output, onnx.runs)
    files = [output] if proof.beside is None else [output, proof.beside]
    told = (f"{file}, {file.stat().st_size:,} bytes" for file in files)
    print(f"model in {' and '.join(told)}", file=sys.stderr)


def _tell_losses(run: Path, output: Path, runs: Any) -> None:
    try:
        name, before, after = runs.losses(run, output)
    except InputError as error:
        print(f"validation  not known, because the data cannot be read: {error}")
    else:
        print(f"validation  {after:.4f} {name} in integers, {before:.4f} before: {after - before:+.4f}")
