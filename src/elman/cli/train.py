"""`elman train`: one command per task."""

from __future__ import annotations

import contextlib
import re
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from elman.cli.common import PER, device, with_options
from elman.errors import InputError
from elman.tasks.options import LanguageModelOptions
from elman.training.options import flag

if TYPE_CHECKING:
    from elman.tasks.language_model import LanguageModelling
    from elman.training.loop import Report, Training
    from elman.training.run import Run

EXAMPLE = "Example:  elman train lm novel.txt --cell gru --minutes 10 --run runs/novel"

app = typer.Typer(help="Train a model of your data.", epilog=EXAMPLE, no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _tasks() -> None:
    pass


@app.command("lm", epilog=EXAMPLE)
@with_options(LanguageModelOptions)
def lm(
    context: typer.Context,
    file: Path | None = typer.Argument(
        None,
        help="UTF-8 text, may be gzipped; Python's own documentation topics if left out.",
        metavar="FILE",
        show_default=False,
    ),
    run: Path | None = typer.Option(None, help="Directory for the run; default runs/lm-DATE-TIME.", show_default=False),
    resume: Path | None = typer.Option(
        None,
        metavar="RUN",
        help="Go on with a run that was stopped; only --minutes, --epochs and --device may be given with it.",
        show_default=False,
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace the run in --run, if there is one."),
    device_name: str = typer.Option("auto", "--device", help="auto, cpu, cuda, ..."),
    **values: Any,
) -> None:
    """Train a language model on a text.

    It is judged on a part of the text held out, next to n-gram baselines on the same part.
    Ctrl-C saves and stops; --resume goes on from there.
    """
    given = {
        name for name in context.params if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    }
    if resume is not None:
        refused = sorted(given - {"resume", "minutes", "epochs", "device_name"})
        if refused:
            names = ", ".join("FILE" if name == "file" else flag(name) for name in refused)
            raise InputError(
                f"--resume goes on with what {resume} was begun with, so {names} cannot be given; leave it out"
            )
    elif values["epochs"] is None and values["minutes"] is None:
        values["minutes"] = 3.0

    chosen = device(device_name)
    if resume is None:
        options = LanguageModelOptions(**values)
        options.check()
        training, config = _begin(
            run or Path(f"runs/lm-{datetime.now():%Y%m%d-%H%M%S}"), file, options, chosen, overwrite
        )
    else:
        training, config = _resume(resume, values["epochs"], values["minutes"], chosen)
    if _follow(training, config):
        _conclude(training.run, config)
    else:
        directory = training.run.directory
        _say(
            f"interrupted at step {training.place.step}, everything is saved; go on with: elman train lm --resume {directory}"
        )
        raise typer.Exit(130)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _begin(
    directory: Path, file: Path | None, options: LanguageModelOptions, device: str, overwrite: bool
) -> tuple[Training[LanguageModelling], dict[str, Any]]:
    """Begins a run: reads the text, fits the baselines, and writes config.json, the vocabulary and a checkpoint."""
    import torch

    from elman.datasets.text import DEFAULT, read
    from elman.tasks.language_model import LanguageModel, LanguageModelling, stream_length
    from elman.training import begin
    from elman.training.run import Run

    Run(directory).check_free(overwrite)  # before the text is read, which takes a while
    corpus = read(file, options.unit, options.held_out, options.vocabulary_size)
    stream_length(corpus.train, options)
    if len(corpus.validation) < 2:
        raise InputError(
            f"{options.held_out} of {file or DEFAULT} holds out {len(corpus.validation)} tokens; give more text or a larger --held-out"
        )
    torch.manual_seed(options.seed)
    try:
        model = LanguageModel(corpus.vocabulary.size, options).to(device)
    except (RuntimeError, TypeError, MemoryError) as error:
        if not re.search("memory|overflow|storage size", str(error), re.IGNORECASE):
            raise
        sizes = f"--hidden-size {options.hidden_size}, --embedding-size {options.embedding_size} and --num-layers {options.num_layers}"
        raise InputError(f"a model with {sizes} does not fit into memory; make it smaller") from error
    return begin(LanguageModelling(model, corpus, options, file), directory, overwrite=overwrite)


def _resume(
    directory: Path, epochs: float | None, minutes: float | None, device: str
) -> tuple[Training[LanguageModelling], dict[str, Any]]:
    """Loads a run from its checkpoint, with a new budget if one is given."""
    from elman.datasets.text import read
    from elman.datasets.vocabulary import load
    from elman.tasks.language_model import CONFIG, LanguageModel, LanguageModelling
    from elman.training.loop import Training
    from elman.training.run import Run

    run = Run(directory)
    config = run.config("lm", CONFIG)
    options = LanguageModelOptions.from_json(config["options"], str(directory / "config.json"))
    if epochs is not None or minutes is not None:
        options = replace(options, epochs=epochs, minutes=minutes)
        options.check()
    vocabulary = load(directory)
    path = config["data"]["path"]
    corpus = read(None if path is None else Path(path), options.unit, options.held_out, vocabulary=vocabulary)
    model = LanguageModel(vocabulary.size, options).to(device)
    training = Training(run, LanguageModelling(model, corpus, options, None if path is None else Path(path)))
    training.restore()
    if asdict(options) != config["options"]:
        config["options"] = asdict(options)
        run.save_config(config)
    return training, config


def _follow(training: Training[LanguageModelling], config: dict[str, Any]) -> bool:
    """Trains and shows the progress. Returns False if Ctrl-C stopped the training, whose state is saved then."""
    from elman.datasets.text import DEFAULT

    options, data, place = training.task.options, config["data"], training.place
    per = PER[options.unit]
    _say(f"run         {training.run.directory}")
    _say(
        f"text        {data['path'] or DEFAULT}: {data['train_tokens']:,} {options.unit if per != 'token' else 'tokens'} to learn from, {data['validation_tokens']:,} held out"
    )
    _say(
        f"model       {options.num_layers} x {options.hidden_size} {options.cell}, {config['parameters']:,} parameters, on {training.device}"
    )
    _say(
        "baselines   "
        + ", ".join(f"{name} {nats:.3f}" for name, nats in config["baselines"].items())
        + f" nats per {per}, on the same held-out text"
    )
    if place.step:
        _say(f"resumed     at step {place.step}, epoch {place.step / training.task.steps_per_epoch:.2f}")
    with _interruptible() as interrupted, _display(training, per) as show:
        for report in training.steps():
            show(report)
            if interrupted() and not report.place.finished:
                training.save()
                return False
    return True


@contextlib.contextmanager
def _interruptible() -> Iterator[Any]:
    """Yields a function that says whether Ctrl-C was pressed. A second Ctrl-C stops the program at once."""
    pressed: list[int] = []

    def press(number: int, frame: Any) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)
        _say("stopping after this step; press Ctrl-C again to stop without saving")

    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _display(training: Training[LanguageModelling], per: str) -> Iterator[Any]:
    """Yields a function that shows a report: in a live bar on a terminal, and always in a line for each evaluation."""
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
    task = progress.add_task("", total=1.0, figures="")
    smooth, tokens, began = 0.0, 0, time.monotonic()

    def show(report: Report) -> None:
        nonlocal smooth, tokens
        smooth = 0.9 * smooth + 0.1 * report.loss if smooth else report.loss
        tokens += report.size
        rate = tokens / (time.monotonic() - began)
        progress.update(
            task,
            completed=report.progress,
            figures=f"step {report.place.step}  loss {smooth:.3f}  {rate:,.0f} {per}s/s",
        )
        if report.row is not None:
            row = report.row
            console.print(
                f"{report.progress:4.0%}  step {row['step']}  epoch {row['epoch']:.2f}  training {row['train_nats']:.3f}  "
                f"validation {row['validation_nats']:.3f} nats/{per}  {rate:,.0f}/s"
            )

    with progress:
        yield show


def _conclude(run: Run, config: dict[str, Any]) -> None:
    """Prints the result next to the baselines, and draws the losses."""
    from elman.explain import pictures

    per, baselines = PER[config["options"]["unit"]], config["baselines"]
    rows = run.metrics("epoch", "train_nats", "validation_nats", "bits_per_character", "perplexity")
    _, kept = run.load_tensors("model.safetensors")
    best = next((row for row in rows if int(row["step"]) == kept.get("step")), None)
    if best is None:
        raise InputError(
            f"{run.directory / 'metrics.csv'} has no row for step {kept.get('step')}, whose parameters were kept; restore it"
        )
    nats = float(best["validation_nats"])
    pictures.save(pictures.losses(rows, baselines, per), run.directory / "loss.png")
    print(
        f"validation  {nats:.4f} nats per {per}, {float(best['bits_per_character']):.4f} bits per character, perplexity {float(best['perplexity']):.3f}"
    )
    for name, baseline in baselines.items():
        verdict = f"the model is {abs(nats - baseline):.4f} nats {'better' if nats < baseline else 'worse'}"
        print(f"{name:<11} {baseline:.4f} nats per {per}: {verdict}")
    _say(
        f"kept the parameters of step {best['step']}; picture in {run.directory / 'loss.png'}; next: elman sample {run.directory}"
    )
