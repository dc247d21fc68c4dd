"""`elman tune`: a search for good options, by many short trainings."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from elman.beginning import in_memory, refuse_useless
from elman.cli.common import dated, device, given, interruptible, with_options
from elman.cli.train import DATA, read_task, refuse_together
from elman.errors import InputError
from elman.files import check_directory
from elman.tasks.options import (
    ClassificationOptions,
    ForecastingOptions,
    LanguageModelOptions,
    MultilabelOptions,
    RegressionOptions,
    TaggingOptions,
    TranscriptionOptions,
    TranslationOptions,
)
from elman.training.options import Options, flag

if TYPE_CHECKING:
    from elman.tasks import CommandLineTask
    from elman.training.loop import Report

EXAMPLE = "Example:  elman tune forecast load.csv --time date --trials 20 --minutes 1 --directory runs/tune"

app = typer.Typer(
    help="Search for good options: many short trainings, of which the worse ones are stopped early.",
    epilog=EXAMPLE,
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _command(options: type[Options], file: str) -> None:
    """Adds the command of a task. An option that is given is fixed; others are searched, if they are worth it.

    file: the beginning of an example.
    """

    @with_options(options)
    def tune(
        context: typer.Context,
        file: Path | None = typer.Argument(None, help=DATA[options.task], metavar="FILE", show_default=False),
        trials: int = typer.Option(20, help="Trainings in all, those of earlier searches in the directory among them."),
        directory: Path | None = typer.Option(
            None,
            help=f"Directory for the runs; a search in it is continued. Default runs/tune-{options.task}-DATE-TIME.",
            show_default=False,
        ),
        device_name: str = typer.Option("auto", "--device", help="auto, cpu, cuda, ..."),
        **values: Any,
    ) -> None:
        refuse_together("a search")
        if trials < 1:
            raise InputError(f"--trials must be 1 or more, got {trials}")
        if values["epochs"] is None and values["minutes"] is None:
            values["minutes"] = 1.0
        made = options(**values)
        made.check()
        refuse_useless(given(context), file, made)
        chosen, fixed = device(device_name), given(context)
        place = directory or Path(dated(f"tune-{options.task}"))
        _search(file, made, place, trials, fixed, chosen)

    searched = "--learning-rate, --hidden-size, --num-layers, --dropout and --cell"
    app.command(
        options.task,
        help=f"Search for good options of `elman train {options.task}`.\n\n"
        f"{searched} are searched, unless they are given; --minutes is the time of each training, 1 if left out. "
        "Ctrl-C stops; the same --directory continues the search, and several processes may share it.",
        epilog=f"Example:  elman tune {options.task} {file} --trials 20 --minutes 1 --directory runs/tune",
    )(tune)


_command(LanguageModelOptions, "novel.txt")
_command(TaggingOptions, "train.conllu --validation dev.conllu")
_command(ClassificationOptions, "gestures.csv --sequence id --label kind")
_command(MultilabelOptions, "tickets.csv --text message --label topics")
_command(RegressionOptions, "pumps.csv --sequence id --label hours_left")
_command(TranscriptionOptions, "strokes.jsonl --label text")
_command(TranslationOptions, "words.csv --text word --label pronunciation")
_command(ForecastingOptions, "load.csv --time date")


def _search(file: Path | None, options: Options, directory: Path, trials: int, fixed: set[str], device: str) -> None:
    from elman import charts
    from elman.training.search import search

    waits = False

    def stop_if_asked() -> None:
        if stopped_by():
            raise KeyboardInterrupt

    def show(number: int, report: Report) -> None:
        stop_if_asked()
        if report.place.finished and report.row is not None:
            print(f"trial {number:<4} step {report.place.step}, finished", file=sys.stderr, flush=True)

    def wait() -> None:
        nonlocal waits
        stop_if_asked()
        if not waits:
            print("waiting for the last trainings, which other processes have begun", file=sys.stderr, flush=True)
        waits = True

    check_directory(directory)
    with interruptible() as stopped_by:
        try:
            task = read_task(file, options, device)  # what is drawn says nothing of the data, so they are read once
            stop_if_asked()

            def make(drawn: Options) -> CommandLineTask:
                with in_memory(drawn):
                    return task.anew(drawn)

            results = search(make, task.options, directory, trials, fixed, show, wait)
        except KeyboardInterrupt:
            again = f"elman tune {options.task} ... --directory {directory}"
            print(f"interrupted; continue with the same command and its directory: {again}", file=sys.stderr)
            raise typer.Exit(128 + (stopped_by() or signal.SIGINT)) from None
    path = directory / "tune.png"
    scores = [(each.number, each.score) for each in results]
    charts.save(charts.trials(scores, task.score_unit, task.higher_is_better), path)
    for each in sorted(results, key=lambda each: (each.score is None, each.number)):
        score = "stopped early" if each.score is None else f"{each.score:.5g}"
        shown = " ".join(
            f"{flag(k)} {v:.3g}" if isinstance(v, float) else f"{flag(k)} {v}" for k, v in each.options.items()
        )
        print(f"{'best' if each.best else '':<5}trial {each.number:<4} {score:<14} {shown}")
    best = next((each for each in results if each.best), None)
    if best is None:
        raise InputError(f"no training of {directory} came to its end; give more --trials, or a lower --learning-rate")
    print(f"the best run is {best.directory}; picture in {path}; next: train it for longer", file=sys.stderr)
