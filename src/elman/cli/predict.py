"""`elman predict`: what a trained model says of a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from elman.beginning import let_help, trained, without_training
from elman.cli.common import LANGUAGE_MODEL, LANGUAGE_WEIGHT, opened
from elman.errors import InputError
from elman.files import check_writable, write_atomically

if TYPE_CHECKING:
    from elman.training.record import Record

EXAMPLE = "Example:  elman predict runs/tagger new.conllu --output tagged.conllu"
COLUMNS = (".conll", ".txt", ".tsv")  # of words and tags


def predict(
    run: Path = typer.Argument(..., help="Directory of a run, or the file that `elman export` made of it."),
    file: Path = typer.Argument(..., help="Data in the form that the run was trained on; labels are not needed."),
    output: Path | None = typer.Option(
        None,
        help="File to write: .csv, .jsonl, for tags as FILE is, or for moments of a recording .txt; standard output if left out.",
        show_default=False,
    ),
    language_model: Path | None = LANGUAGE_MODEL,
    language_weight: float | None = LANGUAGE_WEIGHT,
    device_name: str = typer.Option("auto", "--device", help="auto, cpu, cuda, ..."),
) -> None:
    """Predict tags, classes, numbers, texts, future values or how odd each line is.

    A language model says how much each line of a text surprises it. The rows come in the order of the file, which is
    read in pieces, so that it may be larger than memory.
    """
    from elman.datasets.events import TRACK

    record, device = opened(run, device_name)
    if output is not None:
        if output.suffix.lower() not in (forms := _forms(record, file)):
            problem = f"are not written as {output.suffix}" if output.suffix else "need a name with an ending"
            raise InputError(f"{output}: these predictions {problem}; choose one of {', '.join(forms)}")
        if output.suffix.lower() == TRACK and output.exists() and _of_moments(record):
            raise InputError(
                f"{output} is there, and may have labels made by hand; give another name, or remove it first"
            )
        check_writable(output)
    with without_training():
        model = trained(record, device)
        let_help(model, run, language_model, language_weight, device_name)
        rows = model.predict(file, output.suffix.lower() if output else "")
        if output is None:
            for row in rows:
                sys.stdout.write(row)
        else:
            write_atomically(output, (row.encode() for row in rows))
    for remark in model.remarks:
        print(remark, file=sys.stderr)


def _of_moments(record: Record) -> bool:
    """Returns whether a model says what is heard when."""
    from elman import tasks

    options = record.json("config.json").get("options") or {}
    heard = bool(options.get("each_step")) and options.get("audio") is not None
    return heard and record.task(tasks.MODULES) in ("classify", "multilabel")


def _forms(record: Record, file: Path) -> tuple[str, ...]:
    """Returns the endings of the files that the predictions of a model for a file may be written to."""
    from elman import tasks
    from elman.datasets.events import TRACK
    from elman.datasets.tables import JSON_LINES, form, is_audio

    tables = (".csv", *JSON_LINES)
    if record.task(tasks.MODULES) == "tag":
        # CoNLL-U has more than words and tags.
        return tables + COLUMNS + ((".conllu",) if form(file) == ".conllu" else ())
    if not _of_moments(record):
        return tables
    return (*tables, TRACK) if is_audio(file) and not file.is_dir() else (*tables, f"for a single recording {TRACK}")
