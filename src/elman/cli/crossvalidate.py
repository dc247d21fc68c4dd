"""`elman cross-validate`: as many trainings as parts of the data, each judged by the part that it does not see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from elman.beginning import refuse_useless
from elman.cli.common import check_rows, dated, device, given, with_options
from elman.cli.train import DATA, begun, refuse_together, resumed, train_to_the_end
from elman.errors import InputError
from elman.files import check_directory, write_atomically
from elman.tasks.options import (
    ClassificationOptions,
    RegressionOptions,
    SequenceOptions,
    TranscriptionOptions,
    TranslationOptions,
)
from elman.training.options import said

if TYPE_CHECKING:
    from elman.training.loop import Training

EXAMPLE = "Example:  elman cross-validate classify gestures.csv --sequence id --label kind --folds 5"
OF_NO_EFFECT = ("threads",)  # options that may differ between the trainings

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
        if folds < 2:
            raise InputError(f"--folds must be 2 or more, got {folds}")
        if "fold" in given(context):
            raise InputError("--fold is for one training, and a cross-validation makes all of them; leave it out")
        if output is not None:
            check_rows(output)
        if values["epochs"] is None and values["minutes"] is None:
            values["minutes"] = 1.0
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
        _conclude(found, place)
        if output is not None:
            _write(output, found)

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
_command(RegressionOptions, "pumps.csv --sequence id --label hours_left")
_command(TranscriptionOptions, "strokes.jsonl --label text")
_command(TranslationOptions, "words.csv --text word --label pronunciation")


class Fold(NamedTuple):
    """What became of the part that a model did not see."""

    name: str
    score: str  # what the score that counts is called
    higher_is_better: bool
    unit: float  # what a score of 1 is in the unit of the data; 1 where it has none
    model: float  # the score
    baselines: Mapping[str, float]
    rows: list[
        tuple[int, dict[str, Any]]
    ]  # about each label, after the place of its sequence in the file; if asked for


def _fold(file: Path, options: SequenceOptions, directory: Path, device: str, rows: bool) -> Fold:
    """Trains one model, or goes on with it, and judges it by the part that it does not see. rows: whether these are wanted."""
    from elman.training.run import CHECKPOINT, MODEL, Run
    from elman.training.team import ALONE

    assert options.fold is not None
    run, found = Run(directory / f"fold-{options.fold.partition('/')[0]}"), list[Fold]()

    def conclude(training: Training[Any], config: dict[str, Any]) -> None:
        task = training.task
        training.run.fill(task.model)
        scores, baselines = task.tested()
        told = task.result({name: repr(value) for name, value in scores.items()})
        print(f"{f'fold {options.fold}':<11} {told}", flush=True)
        found.append(
            Fold(
                str(options.fold),
                task.score_unit,
                task.higher_is_better,
                task.unit_of_score,
                scores[task.score],
                baselines,
                list(task.examples()) if rows else [],
            )
        )

    # A run that was killed before its first checkpoint has nothing to go on with.
    empty = run.exists and not run.has(CHECKPOINT) and not run.has(MODEL)
    if run.exists and not empty:
        _check_same(run, file, options)
        begin = resumed(run.directory, type(options), None, None, device, ALONE)
    else:
        begin = begun(run.directory, file, options, device, empty, ALONE, None)
    again = f"continue with the same command and its directory: --directory {directory}"
    train_to_the_end(begin, conclude, again=again)
    return found[0]


def _check_same(run: Any, file: Path, options: SequenceOptions) -> None:
    """Raises InputError if a run was begun with other data or options."""
    from elman import tasks
    from elman.training.record import data_of

    kept, config = run.options(type(options), tasks.module(options.task).CONFIG)
    if data_of(config) != file.resolve():
        raise InputError(f"{run.directory} was begun with {data_of(config)} and not {file}; give another --directory")
    before, now = asdict(kept), asdict(options)
    for name in (field.name for field in fields(options) if field.name not in OF_NO_EFFECT):
        if before[name] != now[name]:
            raise InputError(
                f"{run.directory} was begun {said(name, before[name])}, and this one is {said(name, now[name])}; give the same options, or another --directory"
            )


def _conclude(found: list[Fold], directory: Path) -> None:
    """Prints the mean of all parts, beside the baselines."""
    first, n = found[0], len(found)
    scores = [each.model for each in found]
    print(f"{'mean':<11} {_mean(scores)} {first.score}, from {min(scores):.4f} to {max(scores):.4f}")
    for name in first.baselines:
        own = [each.baselines[name] for each in found]
        better = sum((a > b) == first.higher_is_better and a != b for a, b in zip(scores, own, strict=True))
        print(f"{name:<11} {_mean(own)} {first.score}: the model is better in {better} of {n} folds")
    if any(each.unit != 1.0 for each in found):
        in_unit = [each.model * each.unit for each in found]
        print(f"{'in unit':<11} {sum(in_unit) / n:.6g} {first.score}, from {min(in_unit):.6g} to {max(in_unit):.6g}")
    print(f"the models are in {directory}; next: train one on all of the file with elman train")


def _mean(values: list[float]) -> str:
    return f"{sum(values) / len(values):.4f}"


def _write(output: Path, found: list[Fold]) -> None:
    """Writes the rows about all labels, in the order of the file."""
    from elman.tasks.separate import table

    every = [(place, row | {"fold": each.name}) for each in found for place, row in each.rows]
    rows = (row for _, row in sorted(every, key=lambda pair: pair[0]))
    write_atomically(output, (row.encode() for row in table(rows, output.suffix.lower())))
