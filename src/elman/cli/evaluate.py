"""`elman evaluate`: how well a trained model predicts a file."""

from __future__ import annotations

from pathlib import Path

import typer

from elman.beginning import judge, let_help, trained, without_training
from elman.cli.common import LANGUAGE_MODEL, LANGUAGE_WEIGHT, check_rows, opened
from elman.files import write_atomically

EXAMPLE = "Example:  elman evaluate runs/first chapter.txt"


def evaluate(
    run: Path = typer.Argument(..., help="Directory of a run, or the file that `elman export` made of it."),
    file: Path = typer.Argument(..., help="Data in the form that the run was trained on."),
    output: Path | None = typer.Option(
        None,
        help="File to write as well, .csv or .jsonl: a row for each example with what is true and what the model says.",
        show_default=False,
    ),
    group: str | None = typer.Option(
        None,
        help="Column of a person or machine, or its name in JSON lines, of whom there are several sequences: for the intervals.",
        show_default=False,
    ),
    compare: list[Path] = typer.Option(
        [],
        help="Another run, or its file, that is judged by the same data; may be given several times.",
        show_default=False,
    ),
    language_model: Path | None = LANGUAGE_MODEL,
    language_weight: float | None = LANGUAGE_WEIGHT,
    device_name: str = typer.Option("auto", "--device", help="auto, cpu, cuda, ..."),
) -> None:
    """Judge a trained model on any file of its task.

    A language model predicts every token from all before it; it reads a text of 8,000 tokens or more in up to 64 parts,
    each after at least 1,000 tokens of the part before. Other models are compared with the labels or the values that the
    file has.

    A score is followed by its 95 % interval. It says how much the score may owe to the choice of these data: to these sequences,
    sentences, or parts of one text. docs/evaluation.md says how it is found.

    --compare says how much better the model is than another one, and whether it may be chance: one of another cell, of other
    options, or without a column.

    --output shows where a model is wrong: sorted by nats or by the error, the worst examples come first, and labels that are
    wrong are among them. Of a language model it is what `elman predict` writes.
    """
    record, device = opened(run, device_name)
    if output is not None:
        check_rows(output)
    with without_training():
        model = trained(record, device)
        let_help(model, run, language_model, language_weight, device_name)
        others = [(path, trained(*opened(path, device_name))) for path in compare]
        judged, compared = judge([(run, model), *others], file, group)
        for name, figure in judged.lines:
            print(f"{name:<20} {figure}")
        if output is not None:
            write_atomically(output, (row.encode() for row in judged.table(output.suffix.lower())))
        for name, figure in compared:
            print(f"{name:<20} {figure}")
