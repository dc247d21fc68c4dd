"""`elman predict`: what a trained model says of a file."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import typer

from elman.cli.common import device, trained
from elman.errors import InputError

EXAMPLE = "Example:  elman predict runs/tagger new.conllu --output tagged.conllu"
FORMS = (".csv", ".jsonl", ".ndjson", ".conllu", ".conll", ".txt", ".tsv")


def predict(
    run: Path = typer.Argument(..., help="Directory of a run."),
    file: Path = typer.Argument(..., help="Data in the form that the run was trained on; labels are not needed."),
    output: Path | None = typer.Option(
        None, help="File to write: .csv, .jsonl, or as FILE is; standard output if left out.", show_default=False
    ),
    device_name: str = typer.Option("auto", "--device", help="auto, cpu, cuda, ..."),
) -> None:
    """Predict tags, classes or future values for a file.

    The rows come in the order of the file, which is read in pieces, so that it may be larger than memory.
    """
    if output is not None and output.suffix.lower() not in FORMS:
        raise InputError(
            f"{output}: predictions are not written as {output.suffix or 'this'}; choose one of {', '.join(FORMS)}"
        )
    rows = trained(run, device(device_name)).predict(file, output.suffix.lower() if output else "")
    if output is None:
        for row in rows:
            sys.stdout.write(row)
    else:
        _write(output, rows)


def _write(path: Path, rows: Iterator[str]) -> None:
    """Writes rows beside the file and renames them into its place, so that it is whole or as it was."""
    temporary = ""
    try:
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=f".{path.name}.", encoding="utf-8", newline="", delete=False
        ) as file:
            temporary = file.name
            file.writelines(rows)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; what was there before is intact; make room or choose another place"
        ) from error
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
