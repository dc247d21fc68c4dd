"""What a command and a call from Python begin with: options that fit each other, the task of learning from data, and what runs hold."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elman.errors import InputError
from elman.training.options import Options, flag

if TYPE_CHECKING:
    from elman.tasks import CommandLineTask, Trained
    from elman.tasks.scores import Judged
    from elman.training.loop import Training
    from elman.training.record import Record
    from elman.training.team import Team

MOST_WEIGHT = 100  # of a language model


def device(name: str) -> str:
    """Returns the device's name; for "auto", cuda where there is one, else cpu. Raises InputError if it cannot be used."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.ones(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].split(". ")[0][:120]
        raise InputError(f"--device {name} cannot be used: {reason}; choose auto or cpu") from error
    return name


def refuse_useless(names: Set[str], file: Path | None, options: Options) -> None:
    """Raises InputError for an option that is given and has no effect together with the others. names: of those given."""
    if {"validation", "held_out"} <= names:
        raise InputError("--validation names a validation file and --held-out a part of FILE; give only one of them")
    for name, why in options.useless(file).items():
        if name in names:
            raise InputError(f"{flag(name)} {why}")


def options_from(names: Set[str], start: Path, options: Options) -> Options:
    """Returns the options of a training that starts from the model of a run: those that are given, and else that run's.

    What belongs to the new data and this machine is not taken over: the budget, the validation file, the fold, precision
    and threads. Raises InputError if an option is given that the model was made for.
    """
    from elman import tasks
    from elman.training.run import Run

    if made_for := [field.name for field in fields(options) if field.metadata["of_model"] and field.name in names]:
        refused = ", ".join(map(flag, made_for))
        raise InputError(
            f"--start-from keeps the model of {start}, so {refused} cannot be given; leave {'them' if len(made_for) > 1 else 'it'} out"
        )
    kept, _ = Run(start).options(type(options), tasks.module(options.task).CONFIG)
    own = {*names, "epochs", "minutes", "validation", "fold", "precision", "threads"}
    return replace(kept, **{name: value for name, value in asdict(options).items() if name in own})


def make_task(
    file: Path | None, options: Options, device: str, start: Path | None = None
) -> tuple[CommandLineTask, list[str]]:
    """Returns the task of learning from a file, and what there is to say of its rows.

    start: a run from whose model it starts; None for a new one.
    """
    from elman import tasks
    from elman.datasets.reading import BadRows
    from elman.training.run import Run

    options.check()
    if getattr(options, "validation", None) is not None:  # a resumed run may be started elsewhere
        options = replace(options, validation=str(Path(options.validation).resolve()))  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    bad = BadRows(getattr(options, "skip_bad", False))
    with in_memory(options), contextlib.nullcontext() if start is None else without_training():
        task = tasks.module(options.task).begin(file, options, device, bad, None if start is None else Run(start))
    return task, bad.remarks


def resumed(
    directory: Path, of: type[Options], epochs: float | None, minutes: float | None, device: str, team: Team
) -> Callable[[], tuple[Training[CommandLineTask], dict[str, Any]]]:
    """Reads the data. Returns a function that loads the run from its checkpoint, with a new budget if one is given."""
    from elman import tasks
    from elman.training.fitting import check_in_all
    from elman.training.loop import Training
    from elman.training.record import data_of
    from elman.training.run import Run

    module, run = tasks.module(of.task), Run(directory, team.first)
    options, config = run.options(of, module.CONFIG)
    begun_with = options
    check_in_all(run.check_untrained, team)
    if epochs is not None or minutes is not None:
        options = replace(options, epochs=epochs, minutes=minutes)
        options.check()
    path = data_of(config)
    for each in (path, getattr(options, "validation", None)):
        if each is not None:
            _check_there(Path(each), directory)
    with without_training():  # a resumed run keeps its options
        task = module.resume(run, path, options, device)

    def begin() -> tuple[Training[CommandLineTask], dict[str, Any]]:
        with without_training():
            training = Training(run, task, team)
        training.restore()
        if options != begun_with:
            if training.place.finished:
                raise InputError(_used_up(training))
            config["options"] = asdict(options)
            run.save_config(config)
        return training, config

    return begin


def _check_there(file: Path, run: Path) -> None:
    """Raises InputError if a file cannot be read that a run was begun with."""
    try:
        os.scandir(file).close() if file.is_dir() else file.open("rb").close()
    except OSError as error:
        raise InputError(
            f"cannot read {file}: {error.strerror}; put the file back there, since {run} was begun with it"
        ) from error


def _used_up(training: Training[CommandLineTask]) -> str:
    """Returns why a run has nothing left to train with its new budget, and what to do."""
    place, o, run = training.place, training.options, training.run.directory
    passes = place.step / training.task.steps_per_epoch
    if training.progress() < 1:
        return f"--patience {o.patience} has ended {run} after {passes:.2f} epochs, so nothing is left to train; train again with more patience"
    budget = [(o.epochs, passes, "epochs"), (o.minutes, place.seconds / 60, "minutes")]
    used = " and ".join(f"{spent:.2f} {unit}" for limit, spent, unit in budget if limit is not None)
    given = " and ".join(f"--{unit} {limit:g}" for limit, _, unit in budget if limit is not None)
    return f"{run} has trained for {used} already, so nothing is left to train with {given}; give more"


@contextlib.contextmanager
def in_memory(options: Options) -> Iterator[None]:
    """Raises InputError if the model that is made in this context does not fit into memory."""
    try:
        yield
    except (RuntimeError, TypeError, MemoryError) as error:
        if not re.search("memory|overflow|storage size", str(error), re.IGNORECASE):
            raise
        sizes = [f"{flag(name)} {value}" for name, value in asdict(options).items() if re.search("size|layers", name)]
        raise InputError(f"a model with {', '.join(sizes)} does not fit into memory; make it smaller") from error


@contextlib.contextmanager
def without_training() -> Iterator[None]:
    """Leaves out of messages the advice that only a training can follow."""
    try:
        yield
    except InputError as error:
        raise InputError(error.elsewhere) from error


def opened(run: Path, device_name: str) -> tuple[Record, str]:
    """Returns what a training has left, in the directory of a run or in the file of a model, and the device to use."""
    from elman.training.run import Run

    if not run.exists():
        raise InputError(
            f"{run} does not exist; give the directory of a run, or the file that `elman export` made of it"
        )
    if not run.is_file():
        return Run(run), device(device_name)
    if device_name not in ("auto", "cpu"):
        raise InputError(f"--device {device_name} is not for {run}: ONNX Runtime computes on the CPU; leave it out")
    return needs_onnx(f"reading {run}").model_file.ModelFile(run), "cpu"


def needs_onnx(what: str) -> Any:
    """Returns `elman.onnx`. Raises InputError if its libraries are not installed. what: what needs them."""
    try:
        import elman.onnx.model_file
    except ImportError as error:
        raise InputError(f"{what} needs {error.name}, which is not installed: pip install 'elman[onnx]'") from error
    return elman.onnx


def trained(record: Record, device: str) -> Trained:
    """Returns what a training has learned, whatever its task is."""
    from elman import tasks

    return tasks.module(record.task(tasks.MODULES)).load(record, device)


def judge(
    models: Sequence[tuple[Path, Trained]], file: Path, group: str | None
) -> tuple[Judged, Iterator[tuple[str, str]]]:
    """Judges the first of some models by a file. Returns what it is, and names and figures that compare it with the others.

    models: each with the run, or the file, that it comes from. group: a column of what is judged together, such as a person.
    Raises InputError if another one predicts something else.
    """
    from elman.tasks.forecasting import Forecaster
    from elman.tasks.scores import beside

    (run, model), *others = models
    for path, other in others:
        if type(other) is not type(model):
            raise InputError(f"{path} has another task than {run}; compare runs of the same task")
        if other.predicts != model.predicts:
            raise InputError(
                f"{path} predicts {other.predicts}, and {run} {model.predicts}; compare models that predict the same"
            )
    forecasters = [each for _, each in models if isinstance(each, Forecaster)]
    for each in forecasters:
        each.after = max(each.options.lookback for each in forecasters)
    for path, each in models:
        judge_together(each, path, group)
    judged = model.evaluate(file)

    def compared() -> Iterator[tuple[str, str]]:
        for path, other in others:
            yield "compared with", str(path)
            try:
                found = other.evaluate(file, judged)
            except InputError as error:
                raise InputError(f"{path}: {error}", f"{path}: {error.elsewhere}") from error
            yield from beside(judged, found, run, path)

    return judged, compared()


def judge_together(model: Trained, run: Path, group: str | None) -> None:
    """Lets `evaluate` judge together what has the same value in a column; each for itself if it is None.

    Raises InputError if there is a column and a model's task has none.
    """
    from elman.tasks.whole import Trained as Whole

    if isinstance(model, Whole):
        model.judged_by = group
    elif group is not None:
        tasks = "elman train classify, multilabel, regress, transcribe and translate"
        raise InputError(f"--group {group} is for runs of {tasks}, and {run} is none; leave it out")


def let_help(model: Trained, run: Path, language_model: Path | None, weight: float | None, device_name: str) -> None:
    """Lets a language model, if one is given, help a model that writes texts. Raises InputError if it does not write any."""
    from elman import tasks
    from elman.tasks import language_model as language_models
    from elman.tasks.transcription import WEIGHT, Transcriber

    if language_model is None:
        if weight is not None:
            raise InputError(
                f"--language-weight {weight:g} is for a language model; give --language-model, or leave it out"
            )
        return
    if not isinstance(model, Transcriber):
        raise InputError(
            f"--language-model {language_model} is for runs of elman train transcribe, and {run} is none; leave it out"
        )
    weight = WEIGHT if weight is None else weight
    if not 0 <= weight <= MOST_WEIGHT:
        raise InputError(f"--language-weight is {weight:g} but must be from 0 to {MOST_WEIGHT}; 0.25 to 1 do well")
    if not language_model.exists():
        raise InputError(f"--language-model {language_model} does not exist; give a run of elman train lm, or its file")
    record, device = opened(language_model, device_name)
    if (task := record.task(tasks.MODULES)) != "lm":
        raise InputError(
            f"--language-model {language_model} is a run of elman train {task}; give one of elman train lm"
        )
    model.spell_with(language_models.load(record, device), weight, str(language_model))
