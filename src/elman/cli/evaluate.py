"""`elman evaluate`: how well a trained model predicts a file."""

from __future__ import annotations

from pathlib import Path

import typer

from elman.cli.common import opened, trained, without_training

EXAMPLE = "Example:  elman evaluate runs/first chapter.txt"


def evaluate(
    run: Path = typer.Argument(..., help="Directory of a run, or the file that `elman export` made of it."),
    file: Path = typer.Argument(..., help="Data in the form that the run was trained on."),
    device_name: str = typer.Option("auto", "--device", help="auto, cpu, cuda, ..."),
) -> None:
    """Judge a trained model on any file of its task.

    A language model predicts every token from all before it; it reads a text of 8,000 tokens or more in up to 64 parts,
    each after at least 1,000 tokens of the part before. Other models are compared with the labels or the values that the
    file has.
    """
    with without_training():
        for name, figure in trained(*opened(run, device_name)).evaluate(file):
            print(f"{name:<20} {figure}")
