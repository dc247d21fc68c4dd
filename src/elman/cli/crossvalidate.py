"""`elman cross-validate`: as many trainings as parts of the data, each judged by the part that it does not see."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from elman import folds as folds_of
from elman.beginning import refuse_useless, resumed
from elman.cli.common import check_rows, dated, device, given, with_options
from elman.cli.train import DATA, begun, refuse_together, train_to_the_end
from elman.errors import InputError
from elman.files import check_directory, write_atomically
from elman.folds import MINUTES, Fold
from elman.tasks.options import (
    ClassificationOptions,
    MultilabelOptions,
    RegressionOptions,
    SequenceOptions,
    TranscriptionOptions,
    TranslationOptions,
)

if TYPE_CHECKING:
    from elman.training.loop import Training

EXAMPLE = "Example:  elman cross-validate classify gestures.csv --sequence id --label kind --folds 5"

app = typer.Typer(
    help="Judge by all of a file: each of several models is judged by the part that it does not see.",
    epilog=EXAMPLE,
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _command(options: type[SequenceOptions], file: str) -> None:
    """Adds the command of a task. file: the beginning of an example."""
    data = DATA[options.task].partition("; ")[0] + "."  # without what is read in its place

    @with_options(options)
    def crossvalidate(
        context: typer.Context,
        file: Path = typer.Argument(..., help=data, metavar="FILE"),
        folds: int = typer.Option(5, help="Parts of the data, and trainings."),
        directory: Path | None = typer.Option(
            None,
            help=f"Directory for the runs; trainings in it go on. Default runs/folds-{options.task}-DATE-TIME.",
            show_default=False,
        ),
        output: Path | None = typer.Option(
            None,
            help="File to write, .csv or .jsonl: a row for each label with what the model says that did not see it.",
            show_default=False,
        ),
        device_name: str = typer.Option("auto", "--device", help="auto, cpu, cuda, ..."),
        **values: Any,
    ) -> None:
        refuse_together("a cross-validation")
        folds_of.check_count(folds)
        if "fold" in given(context):
            raise InputError("--fold is for one training, and a cross-validation makes all of them; leave it out")
        if output is not None:
            check_rows(output)
        if values["epochs"] is None and values["minutes"] is None:
            values["minutes"] = MINUTES
        values["fold"] = f"1/{folds}"
        made = options(**values)
        made.check()
        refuse_useless(given(context), file, made)
        if made.validation is not None:  # as `elman train` keeps it
            made = replace(made, validation=str(Path(made.validation).resolve()))
        place = directory or Path(dated(f"folds-{options.task}"))
        check_directory(place)
        chosen = device(device_name)
        every = (replace(made, fold=f"{k}/{folds}") for k in range(1, folds + 1))
        found = [_fold(file, each, place, chosen, output is not None) for each in every]
        for line in folds_of.together(found):
            print(line)
        print(f"the models are in {place}; next: train one on all of the file with elman train")
        if output is not None:
            _write(output, found, made.between_classes)

    app.command(
        options.task,
        help=f"Judge `elman train {options.task}` by all of a file.\n\n"
        "The sequences are dealt into --folds parts. For each part a model is trained on the others, a share of which decides "
        "which parameters are kept, and judged by the part; so no sequence is judged by a model that knows it. --group keeps "
        "the sequences of a person or machine in one part. --minutes is the time of each training, 1 if left out. Ctrl-C stops; "
        "the same command with its --directory goes on.",
        epilog=f"Example:  elman cross-validate {options.task} {file} --folds 5 --output rows.csv",
    )(crossvalidate)


_command(ClassificationOptions, "gestures.csv --sequence id --label kind")
_command(MultilabelOptions, "tickets.csv --text message --label topics")
_command(RegressionOptions, "pumps.csv --sequence id --label hours_left")
_command(TranscriptionOptions, "strokes.jsonl --label text")
_command(TranslationOptions, "words.csv --text word --label pronunciation")


def _fold(file: Path, options: SequenceOptions, directory: Path, device: str, rows: bool) -> Fold:
    """Trains one model, or goes on with it, and judges it by the part that it does not see. rows: whether these are wanted."""
    from elman.training.team import ALONE

    run, found = folds_of.of(directory, options), list[Fold]()

    def conclude(training: Training[Any], config: dict[str, Any]) -> None:
        training.run.fill(training.task.model)
        found.append(folds_of.judged(training.task, rows))
        print(found[0].line, flush=True)

    if folds_of.goes_on(run, file, options):
        begin = resumed(run.directory, type(options), None, None, device, ALONE)
    else:
        begin = begun(run.directory, file, options, device, run.exists, ALONE, None)
    again = f"continue with the same command and its directory: --directory {directory}"
    train_to_the_end(begin, conclude, again=again)
    return found[0]


def _write(output: Path, found: list[Fold], between: str | None) -> None:
    """Writes the rows about all labels, in the order of the file. between: what stands between the classes of a label."""
    from elman.tasks.separate import table

    rows = table(folds_of.rows_of(found), output.suffix.lower(), between)
    write_atomically(output, (row.encode() for row in rows))
