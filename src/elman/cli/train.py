"""`elman train`: one command per task, all made from the task's options."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from elman.beginning import make_task, options_from, refuse_useless, resumed
from elman.cli.common import dated, device, given, interruptible, with_options
from elman.errors import InputError
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
    from elman.training.loop import Report, Training
    from elman.training.team import Team

FEW = 5  # passes over the data, below which a model is likely to need more of them
SLOW = {"transcribe": 50}  # likewise, of a task whose models say nothing for long, and then learn quickly

EXAMPLE = "Example:  elman train lm novel.txt --cell gru --minutes 10 --run runs/novel"

app = typer.Typer(help="Train a model of your data.", epilog=EXAMPLE, no_args_is_help=True, rich_markup_mode=None)


# What FILE may be.
DATA = {
    "lm": "UTF-8 text, may be packed with gzip or Zstandard; Python's own documentation topics if left out.",
    "tag": "CoNLL-U (.conllu), JSON lines (.jsonl: words, tags), or lines of a word and its tag, with an empty line after "
    "each sentence; lines of Python's standard library if left out.",
    "classify": "The UEA/UCR archive's form (.ts), JSON lines (.jsonl: values or a text, and label), or a table (.csv, .tsv, "
    ".parquet) with a row for each step, or a text or a file of audio in each row, or a folder of recordings; outlines of digits if left out.",
    "multilabel": "JSON lines (.jsonl: values or a text, and label), the UEA/UCR archive's form (.ts), or a table (.csv, .tsv, "
    ".parquet) with a row for each step, or a text or a file of audio in each row, or a folder of recordings; noisy signals in which events happen if left out.",
    "regress": "The UEA/UCR archive's form (.ts), JSON lines (.jsonl: values or a text, and label), or a table (.csv, .tsv, "
    ".parquet) with a row for each step, or a text or a file of audio in each row, or a folder of recordings; marked numbers to add if left out.",
    "transcribe": "JSON lines (.jsonl: values or a text, and label), the UEA/UCR archive's form (.ts), or a table (.csv, .tsv, "
    ".parquet) with a row for each step, or a text or a file of audio in each row; outlines of numbers if left out.",
    "translate": "JSON lines (.jsonl: a text or values, and label), or a table (.csv, .tsv, .parquet) with a text or a file of audio in "
    "each row or a row for each step; dates in words and figures if left out.",
    "forecast": "A table (.csv, .tsv, .parquet, .jsonl) with a row for each time; a Mackey-Glass series if left out.",
}


def _command(options: type[Options], help: str, example: str) -> None:
    """Adds the command of a task, with an option for each of its options."""

    @with_options(options)
    def train(
        context: typer.Context,
        file: Path | None = typer.Argument(None, help=DATA[options.task], metavar="FILE", show_default=False),
        run: Path | None = typer.Option(
            None, help=f"Directory for the run; default runs/{options.task}-DATE-TIME.", show_default=False
        ),
        resume: Path | None = typer.Option(
            None,
            metavar="RUN",
            help="Go on with a run that was stopped; only --minutes, --epochs, --tensorboard and --device may be given with it.",
            show_default=False,
        ),
        start_from: Path | None = typer.Option(
            None,
            metavar="RUN",
            help="Start from the model of this run, with its options where no others are given, and train it on FILE.",
            show_default=False,
        ),
        overwrite: bool = typer.Option(False, "--overwrite", help="Replace the run in --run, if there is one."),
        find_lr: bool = typer.Option(
            False, "--find-lr", help="Instead of training, find the --learning-rate that the model can bear."
        ),
        tensorboard: bool = typer.Option(
            False, "--tensorboard", help="Write the metrics for TensorBoard, too, into the run's directory."
        ),
        device_name: str = typer.Option("auto", "--device", help="auto, cpu, cuda, ..."),
        **values: Any,
    ) -> None:
        if resume is not None:
            _refuse_with_resume(context, resume)
        elif values["epochs"] is None and values["minutes"] is None:
            values["minutes"] = 3.0
        made = options(**values)
        if start_from is not None:
            made = options_from(given(context), start_from, made)
        if resume is None:
            made.check()
            refuse_useless(given(context), file, made)
        chosen = device(device_name)
        if find_lr:
            if useless := sorted(given(context) & {"run", "overwrite", "tensorboard"}):
                raise InputError(f"--find-lr makes no run, so {', '.join(map(flag, useless))} cannot be given with it")
            if made.precision != "float32":
                raise InputError(
                    f"--find-lr measures in float32, so --precision {made.precision} has no effect; leave it out"
                )
            refuse_together("--find-lr")
            _find_learning_rate(read_task(file, made, chosen, start_from))
            return
        writer = _summary_writer() if tensorboard else None
        from elman.training.team import joined

        with joined(chosen) as (team, chosen):
            if resume is None:
                directory = run or Path(team.told(dated(options.task)))
                begin = begun(directory, file, made, chosen, overwrite, team, start_from)
            else:
                begin = resumed(resume, options, values["epochs"], values["minutes"], chosen, team)
            train_to_the_end(begin, _conclude, writer)

    app.command(options.task, help=help, epilog=example)(train)


_command(
    LanguageModelOptions,
    "Train a language model on a text.\n\n"
    "It is validated on a held-out part of the text, next to n-gram baselines on the same part. "
    "Ctrl-C saves and stops; --resume continues from there.",
    EXAMPLE,
)
_command(
    TaggingOptions,
    "Train a tagger: it gives every word of a sentence a tag, such as its part of speech.\n\n"
    "It is validated on held-out sentences, next to a baseline that gives every word its most frequent tag. "
    "Ctrl-C saves and stops; --resume continues from there.",
    "Example:  elman train tag train.conllu --validation dev.conllu --minutes 10 --run runs/tagger",
)
_command(
    ClassificationOptions,
    "Train a classifier: it gives a whole sequence, of numbers, of text or of audio, one label; or with --each-step each step of numbers, or moments of recordings.\n\n"
    "It is validated on held-out sequences, next to two baselines: the largest class, and a linear function of a few features. "
    "Ctrl-C saves and stops; --resume continues from there.",
    "Example:  elman train classify gestures.csv --sequence id --label kind --minutes 5 --run runs/gestures",
)
_command(
    MultilabelOptions,
    "Train a multi-label classifier: it says which classes a whole sequence has, of numbers, of text or of audio: several, one or "
    "none; or with --each-step each step of numbers, or moments of recordings.\n\n"
    "It is validated on held-out sequences, next to two baselines: the same classes for all, and a linear function of a few features. "
    "Ctrl-C saves and stops; --resume continues from there.",
    "Example:  elman train multilabel tickets.csv --text message --label topics --minutes 5 --run runs/topics",
)
_command(
    RegressionOptions,
    "Train a model that gives a whole sequence, of numbers, of text or of audio, one number or several; or with --each-step each step of numbers, or moments of recordings.\n\n"
    "It is validated on held-out sequences, next to two baselines: a constant, and a linear function of a few features. "
    "Ctrl-C saves and stops; --resume continues from there.",
    "Example:  elman train regress pumps.csv --sequence id --label hours_left --minutes 5 --run runs/pumps",
)
_command(
    TranscriptionOptions,
    "Train a model that writes down what a sequence says: characters or words, without knowing which step says what.\n\n"
    "It is validated on held-out sequences, next to two baselines: the same for all, and what the nearest training sequence says. "
    "Ctrl-C saves and stops; --resume continues from there.",
    "Example:  elman train transcribe strokes.jsonl --label text --minutes 5 --run runs/strokes",
)
_command(
    TranslationOptions,
    "Train a model that translates: it writes a text for a text, of any length and in any order, or for a sequence of numbers.\n\n"
    "It is validated on held-out sequences, next to baselines: the same for all, what belongs to the nearest training sequence, "
    "and the text as it is. Ctrl-C saves and stops; --resume continues from there.",
    "Example:  elman train translate words.csv --text word --label pronunciation --minutes 10 --run runs/words",
)
_command(
    ForecastingOptions,
    "Train a forecaster: from the last values of a series, the values that follow.\n\n"
    "It is validated and tested on times after its training data, next to baselines that repeat the last value and the last season, "
    "from every place where a forecast can begin. Ctrl-C saves and stops; --resume continues from there.",
    "Example:  elman train forecast load.csv --time date --horizon 96 --period 24 --minutes 5 --run runs/load",
)


def refuse_together(what: str) -> None:
    """Raises InputError if several processes were started to do together what one does."""
    from elman.training.team import started_together

    if started_together():
        raise InputError(f"{what} runs in one process; start it without torchrun")


def _refuse_with_resume(context: typer.Context, run: Path) -> None:
    """Raises InputError for options that a run was begun with and keeps."""
    refused = sorted(given(context) - {"resume", "minutes", "epochs", "tensorboard", "device_name"})
    if refused:
        names = ", ".join("FILE" if name == "file" else flag(name) for name in refused)
        raise InputError(
            f"--resume continues {run} with its own options, so {names} cannot be given; leave {'them' if len(refused) > 1 else 'it'} out"
        )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def begun(
    directory: Path,
    file: Path | None,
    options: Options,
    device: str,
    overwrite: bool,
    team: Team,
    start: Path | None,
) -> Callable[[], tuple[Training[CommandLineTask], dict[str, Any]]]:
    """Reads the data. Returns a function that begins the run: fits the baselines, and writes files and a checkpoint."""
    from elman.training.fitting import begin, check_free
    from elman.training.run import Run

    check_free(Run(directory), overwrite, team)  # before the data are read, which takes a while
    task = read_task(file, options, device, start)
    return lambda: begin(task, directory, overwrite=overwrite, team=team)


def read_task(file: Path | None, options: Options, device: str, start: Path | None = None) -> CommandLineTask:
    """Returns the task of learning from a file, as `make_task` does, and says what there is to say of its rows."""
    task, remarks = make_task(file, options, device, start)
    for remark in remarks:
        _say(remark)
    return task


def _find_learning_rate(task: CommandLineTask) -> None:
    """Prints how the loss answers to rising learning rates, and a suggestion."""
    from elman.training.range_test import range_test

    found = range_test(task)
    shown = range(0, len(found.rates), 6)
    for k in shown:
        print(f"{found.rates[k]:<12.3g} {found.losses[k]:.4f}")
    print(f"suggested    --learning-rate {found.suggested:.2g}")


def train_to_the_end(
    begin: Callable[[], tuple[Training[CommandLineTask], dict[str, Any]]],
    conclude: Callable[[Training[CommandLineTask], dict[str, Any]], object],
    writer: Any = None,
    again: str = "",
) -> None:
    """Trains to the end and concludes, or saves and exits where a signal asks for it.

    begin: begins the run or loads it; a signal that comes meanwhile finds a run that can be gone on with. conclude: is
    called in the first process, with the content of config.json. writer: TensorBoard's class that writes events; None if it
    gets none. again: how the training is gone on with; `elman train --resume` if left out.
    """
    with contextlib.ExitStack() as until_the_end:
        with interruptible("stopping after this step; press Ctrl-C again to stop without saving") as stopped_by:
            training, config = begin()
            until_the_end.enter_context(training.run.locked())
            first = training.team.first
            if first:
                _introduce(training, config)
            with _tensorboard(training.run.directory, writer if first else None) as write:
                stopped = _follow(training, write, stopped_by)
        if stopped is None:
            if first:
                conclude(training, config)
            return
    again = again or f"resume with: elman train {training.task.name} --resume {training.run.directory}"
    if first:
        _say(f"interrupted at step {training.place.step}, everything is saved; {again}")
    raise typer.Exit(128 + stopped)


def _introduce(training: Training[CommandLineTask], config: dict[str, Any]) -> None:
    from elman.training.fitting import START

    task, options, place = training.task, config["options"], training.place
    lines = [("run", str(training.run.directory)), *task.introduction()]
    layers = _layers(options)
    lines.append(("model", f"{layers}, {config['parameters']:,} parameters, on {training.device}"))
    if START in config:
        lines.append(("start", f"from the model of {config[START]}"))
    baselines = ", ".join(f"{name} {value:.3f}" for name, value in config["baselines"].items())
    if baselines:
        lines.append(("baselines", f"{baselines} {task.score_unit}, on the same held-out {task.data}"))
    if place.step:
        lines.append(("resumed", f"at step {place.step}, epoch {place.step / task.steps_per_epoch:.2f}"))
    for name, what in lines:
        _say(f"{name:<11} {what}")


def _summary_writer() -> Any:
    """Returns TensorBoard's class that writes events. Raises InputError if it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError("--tensorboard needs TensorBoard: pip install tensorboard") from error
    return SummaryWriter


@contextlib.contextmanager
def _tensorboard(directory: Path, writer: Any) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yields a function that writes a row of metrics.csv as TensorBoard's events; without a writer, as nothing."""
    if writer is None:
        yield lambda row: None
        return
    with writer(str(directory / "tensorboard")) as events:

        def write(row: dict[str, Any]) -> None:
            for name, value in row.items():
                if name != "step":
                    events.add_scalar(name, float(value), int(row["step"]))

        yield write


def _follow(
    training: Training[CommandLineTask], write: Callable[[dict[str, Any]], None], stopped_by: Callable[[], int | None]
) -> int | None:
    """Trains and shows the progress. Returns the signal that stopped the training, whose state is saved then."""

    def stopped() -> int | None:
        """Returns the signal that some process got; which one it was, another process need not know."""
        if training.place.finished or not training.team.any(stopped_by() is not None):
            return None
        training.save()
        return stopped_by() or signal.SIGTERM

    if number := stopped():  # it came before the first step
        return number
    with _display(training) as show:
        for report in training.steps():
            show(report)
            if report.row is not None:
                write(report.row)
            if number := stopped():
                return number
    return None


@contextlib.contextmanager
def _display(training: Training[CommandLineTask]) -> Iterator[Callable[[Report], None]]:
    """Yields a function that shows a report: in a live bar on a terminal, and always in a line for each evaluation."""
    if not training.team.first:
        yield lambda report: None
        return

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (
        TextColumn("{task.fields[figures]}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=console, disable=not console.is_terminal)
    bar = progress.add_task("", total=1.0, figures="")
    smooth, size, began = 0.0, 0, time.monotonic()
    about = training.task
    measure, unit, score = about.measure, about.unit, about.score
    loss_unit = f"{measure}/{unit}" if measure == "nats" else measure

    def show(report: Report) -> None:
        nonlocal smooth, size
        smooth = 0.9 * smooth + 0.1 * report.loss if smooth else report.loss
        size += report.size
        rate = size / (time.monotonic() - began)
        progress.update(
            bar,
            completed=report.progress,
            figures=f"step {report.place.step}  loss {smooth:.3f}  {rate:,.0f} {unit}s/s",
        )
        for remark in report.remarks:
            console.print(f"      step {report.place.step}  {remark}")
        if report.row is not None:
            row = report.row
            own = "" if score == f"validation_{measure}" else f"{score.replace('_', ' ')} {row[score]:.4f}  "
            console.print(
                f"{report.progress:4.0%}  step {row['step']}  epoch {row['epoch']:.2f}  training {row[f'train_{measure}']:.3f}  "
                f"validation {row[f'validation_{measure}']:.3f} {loss_unit}  {own}{rate:,.0f}/s"
            )
            if text := about.remark():
                training.run.append_sample(row["step"], text)

    with progress:
        yield show


def _title(options: dict[str, Any], source: str) -> str:
    """What a run trained, and on what."""
    name = Path(source).name
    return f"{_layers(options)} on {name if len(name) <= 50 else name[:47] + '...'}"


def _layers(options: dict[str, Any]) -> str:
    return f"{options['num_layers']} x {options['hidden_size']} {options['cell']}"


def _conclude(training: Training[CommandLineTask], config: dict[str, Any]) -> None:
    """Prints the result next to the baselines, and draws the pictures, with the parameters that were kept."""
    from elman import charts
    from elman.training.fitting import START

    run, task, baselines = training.run, training.task, config["baselines"]
    kept = run.fill(task.model)
    rows = run.metrics("epoch", f"train_{task.measure}", f"validation_{task.measure}", task.score)
    best = next((row for row in rows if int(row["step"]) == kept.get("step")), None)
    if best is None:
        raise InputError(
            f"{run.directory / 'metrics.csv'} has no row for step {kept.get('step')}, whose parameters were kept; restore it"
        )
    path = run.directory / "loss.png"
    charts.save(
        charts.losses(
            rows,
            measure=task.measure,
            score=task.score,
            baselines=baselines,
            per=task.unit if task.measure == "nats" else "",
            kept=int(best["step"]),
            title=_title(config["options"], task.source),
            higher_is_better=task.higher_is_better,
        ),
        path,
    )
    pictures = [path, *task.draw(run.directory)]
    print(f"validation  {task.result(best)}")
    score, unit, beaten = float(best[task.score]), task.score_unit, True
    for name, baseline in baselines.items():
        difference, better = f"{abs(score - baseline):.4f}", (score > baseline) == task.higher_is_better
        equal = difference == "0.0000" or f"{score:.4f}" == f"{baseline:.4f}"  # for a reader of these digits
        beaten = beaten and better and not equal
        nats = " nats" if unit.startswith("nats") else ""
        what = "the model that the training started from" if name == START else task.baseline(name)
        judged = "as good" if equal else f"{difference}{nats} {'better' if better else 'worse'}"
        print(f"{name:<11} {baseline:.4f} {unit} ({what}): the model is {judged}")
    for name, what in task.conclusion():
        print(f"{name:<11} {what}")
    perfect = f"{score:.4f}" == ("1.0000" if task.higher_is_better else "0.0000")
    if not beaten and not perfect:
        passes = float(best["epoch"])
        advice = (
            "--minutes or --epochs" if passes < SLOW.get(task.name, FEW) else "--find-lr, more --dropout, or more data"
        )
        print(f"{'advice':<11} the model has seen the {task.data} {passes:.1f} times; try {advice}")
    following = "sample" if task.name == "lm" else "predict"
    _say(
        f"kept the parameters of step {best['step']}, the best by the validation score, so that score flatters them a little; "
        f"elman evaluate {run.directory} FILE tests them on other data"
    )
    _say(f"pictures in {', '.join(map(str, pictures))}; next: elman {following} {run.directory}")
