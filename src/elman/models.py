"""Models from Python in one call: what `elman train`, `evaluate` and `predict` do, also for data that a program holds.

    model = elman.train("classify", frame, "runs/gestures", sequence="id", label="kind", minutes=5)
    print(model.evaluate(test))

trains a model of a frame, judges it, and keeps it in a run, which `elman.load` opens again.
"""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from elman import beginning, tasks
from elman.datasets.given import Data, as_file, is_path
from elman.errors import InputError
from elman.tasks.options import quoted
from elman.training.fitting import check_free, fit
from elman.training.options import with_names
from elman.training.run import Run
from elman.training.team import ALONE, joined, started_together

if TYPE_CHECKING:
    from elman.training.loop import Report
    from elman.training.options import Options
    from elman.training.record import Record

LISTS = {"columns", "categories", "known", "observed"}  # options that name columns
MINUTES = 3.0  # of a training, if nothing is said of it
# What a call has besides the options of a task.
OTHERS = (
    "validation",
    "start_from",
    "overwrite",
    "device",
    "show",
    "group",
    "compare",
    "folds",
    "trials",
    "directory",
    "language_model",
    "language_weight",
)


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts data. As a text, it is what `elman evaluate` prints.

    scores: by what they are called; NaN where there is nothing to judge by.
    intervals: the 95 % interval of each; None where there is none.
    examples: a row for each example, if they were asked for.
    """

    scores: dict[str, float]
    intervals: dict[str, tuple[float, float] | None]
    examples: list[dict[str, Any]] | None
    text: str

    def __str__(self) -> str:
        return self.text


class Model:
    """What a training has learned. `elman.train` and `elman.load` return one.

    path: of the run, or of the file that `elman export` made.
    task: its name.
    remarks: what there is to say of the last predictions, such as rows that were left out; at first, of the training data.
    trained: what the task's own module makes of a run: the network, and what it knows of the data.
    """

    def __init__(self, path: Path, record: Record, device: str):
        self.path = path
        self.task: str = record.task(tasks.MODULES)
        self.trained: Any = beginning.trained(record, device)
        self.remarks: list[str] = []

    def __repr__(self) -> str:
        return f"<elman model of {self.path}, task {self.task!r}>"

    def evaluate(
        self, data: Data, *, compare: Model | Sequence[Model] = (), group: str | None = None, examples: bool = False
    ) -> Evaluation:
        """Judges the model by data of its task that say what is true.

        data: a path; a frame of pandas, polars or Arrow, or a mapping of columns; rows as mappings, as JSON lines have them;
            or an open text for "lm" and "tag".
        compare: another model, or several, which the text sets beside this one.
        group: the column of a person or machine whose sequences are judged together.
        examples: whether to return a row for each example, too.

        Scores of "regress" and "forecast" are in standard deviations of the training data; the text also has their own unit.
        Raises InputError if the data do not fit the model.
        """
        others = [compare] if isinstance(compare, Model) else list(compare or ())
        if strange := [each for each in others if not isinstance(each, Model)]:
            raise InputError(f"compare has {strange[0]!r}; give models, such as elman.load({str(strange[0])!r})")
        with _file(data, self.task) as (file, in_words):
            models = [(each.path, each.trained) for each in (self, *others)]
            judged, compared = beginning.judge(models, file, group)
            text = "\n".join(f"{name:<20} {figure}" for name, figure in (*judged.lines, *compared))
            rows = [json.loads(row) for row in judged.table(".jsonl")] if examples else None
        # Of nothing, there is no score.
        scores = {name: each.value if each.weights.any() else math.nan for name, each in judged.tallies.items()}
        return Evaluation(scores, {name: each.interval for name, each in judged.tallies.items()}, rows, in_words(text))

    def predict(self, data: Data) -> list[dict[str, Any]]:
        """Returns a row for each sequence, step, sentence, time ahead or line, as `elman predict` writes it into JSON lines.

        data: as for `evaluate`; nothing need be known of what is true. `remarks` then has what there is to say of them.
        Raises InputError if the data do not fit the model.
        """
        with _file(data, self.task) as (file, in_words):
            rows = [json.loads(row) for row in self.trained.predict(file, ".jsonl")]
            self.remarks = [*map(in_words, self.trained.remarks)]
        return rows


def train(
    task: str,
    data: Data | None,
    run: str | Path,
    *,
    validation: Data | None = None,
    start_from: str | Path | None = None,
    overwrite: bool = False,
    device: str = "auto",
    show: Callable[[Report], object] | None = None,
    **options: Any,
) -> Model:
    """Trains a model of data, as `elman train TASK` does, and returns it with its best parameters.

    task: "lm", "tag", "classify", "multilabel", "regress", "transcribe", "translate" or "forecast".
    data: a path; a frame of pandas, polars or Arrow, or a mapping of columns; rows as mappings, as JSON lines have them; an open
        text for "lm" and "tag"; or None for the data that come with elman.
    run: the directory of the run. Data that are no file are kept there, too: a training that was stopped reads them again (`elman
        train TASK --resume RUN`), and so do baselines when the model is judged.
    validation: held-out data, instead of a part of these.
    start_from: a run from whose model the training starts.
    overwrite: whether to replace a run in the directory.
    device: "auto", "cpu", "cuda", ...
    show: a function that is called after every step with a `Report`.
    options: those of the command, such as hidden_size=64; 3 minutes if neither minutes nor epochs is given.

    Random numbers of torch are seeded. Raises InputError for data or an option that is wrong, before a run is overwritten.
    """
    _check_path(run)
    directory, start, given = Path(run), None if start_from is None else Path(start_from), dict[Path, str]()
    place = Run(directory)
    with from_python(given) as in_words:
        check_task(task)
        check_show(show)
        if started_together():
            if not all(each is None or is_path(each) for each in (data, validation)):
                raise InputError("several processes cannot share data that each of them holds; give a file")
        elif place.exists and not overwrite:
            raise InputError(
                f"{directory} already holds a run; replace it with overwrite=True, or choose another directory"
            )
        else:
            check_free(place, overwrite, ALONE)
        new = not directory.exists()
        try:
            file = None if data is None else _kept(data, directory, "data", task, given)
            if validation is not None:
                options["validation"] = str(_kept(validation, directory, "validation", task, given))
            made = options_of(tasks.module(task).Options, options, MINUTES)
            if start is not None:
                made = beginning.options_from(options.keys(), start, made)
            made.check()
            beginning.refuse_useless(options.keys(), file, made)
            begun, remarks = beginning.make_task(file, made, beginning.device(device), start)
            fit(begun, directory, overwrite=overwrite, given=given, show=show)
        finally:
            kept = place.given
            for path in given:  # those of a training that was refused
                if path.name not in kept:
                    path.unlink(missing_ok=True)
            if new:
                with contextlib.suppress(OSError):
                    directory.rmdir()  # which is empty then
        model = load(directory, device)
        model.remarks = [*map(in_words, remarks)]
        return model


def resume(
    run: str | Path,
    *,
    epochs: float | None = None,
    minutes: float | None = None,
    device: str = "auto",
    show: Callable[[Report], object] | None = None,
) -> Model:
    """Goes on with a training that was stopped, as `elman train TASK --resume RUN` does, and returns its model.

    run: the directory of the run. It keeps its options.
    epochs, minutes: a new budget for the training in all, in place of its own.
    device, show: as for `train`.

    Raises InputError if there is no such run, if its data have changed, or if nothing is left to train with a new budget.
    """
    _check_path(run)
    directory = Path(run)
    with from_python({}):
        check_show(show)
        record, _ = beginning.opened(directory, device)
        if not isinstance(record, Run):
            raise InputError(f"{run} is the file of a model; give the directory of its run")
        of = tasks.module(record.task(tasks.MODULES)).Options
        budget = {"epochs": epochs, "minutes": minutes}
        _check_types(of, budget)
        with joined(beginning.device(device)) as (team, chosen):
            begin = beginning.resumed(directory, of, epochs, minutes, chosen, team)
            training, _ = begin()
            for report in training.steps():
                if show is not None:
                    show(report)
            team.any(False)  # the first process has written everything
        return load(directory, device)


def load(
    run: str | Path,
    device: str = "auto",
    *,
    language_model: str | Path | None = None,
    language_weight: float | None = None,
) -> Model:
    """Returns the model of a run, with its best parameters, or that of a file that `elman export` made.

    device: "auto", "cpu", "cuda", ...
    language_model: a run of `elman train lm`, or its file, that helps a model of "transcribe" to write.
    language_weight: how much it counts; 0.5 if left out.

    Raises InputError if there is no such model.
    """
    _check_path(run)
    with from_python({}):
        path, helper = Path(run), None if language_model is None else Path(language_model)
        model = Model(path, *beginning.opened(path, device))
        beginning.let_help(model.trained, path, helper, language_weight, device)
        return model


def check_task(task: Any) -> None:
    if not isinstance(task, str) or task not in tasks.MODULES:
        raise InputError(f"unknown task {task!r}; choose one of {', '.join(tasks.MODULES)}")


def check_show(show: Any) -> None:
    if show is not None and not callable(show):
        raise InputError(f"show is {show!r}; give a function of a report, or leave it out")


def _check_path(run: Any) -> None:
    if not is_path(run):
        raise InputError(f"run is {run!r}; give the directory of a run")


def options_of(of: type[Options], given: dict[str, Any], minutes: float) -> Any:
    """Returns the options of a task. Raises InputError for a name that it does not have, and for a value of another type.

    minutes: of a training, if neither minutes nor epochs is given.
    """
    names = {field.name: field for field in fields(of)}
    for name, value in given.items():
        if name not in names:
            near = [] if name in OTHERS else get_close_matches(name, [*names, *OTHERS], 1)
            remedy = f"did you mean {near[0]}?" if near else f"those of the task are {', '.join(sorted(names))}"
            raise InputError(f"elman train {of.task} has no option {name}; {remedy}")
        if isinstance(value, np.generic):
            given[name] = value = value.item()
        if name == "elsewhere" and type(value) in (int, float):  # as labels may be numbers
            given[name] = str(value).removesuffix(".0")
        elif isinstance(value, (list, tuple)):  # of columns, such as the command has in one text
            several = LISTS | ({"label"} if getattr(of, "several", False) else set())
            given[name] = quoted(map(str, value)) if name in several else ",".join(map(str, value))
    _check_types(of, given)
    budget: dict[str, Any] = (
        {} if any(given.get(name) is not None for name in ("epochs", "minutes")) else {"minutes": minutes}
    )
    return of(**given | budget)


def _check_types(of: type[Options], given: Mapping[str, Any]) -> None:
    """Raises InputError for a value of another type than its option has."""
    for field in fields(of):
        if field.name in given and (kind := of.wrong_type(field, given[field.name])):
            raise InputError(f"{field.name} is {given[field.name]!r} but should be {kind}")


def _kept(data: Data, directory: Path, name: str, task: str, given: dict[Path, str]) -> Path:
    """Returns the path of data, and notes it among those that a program gave if it is a new file. name: of "data" or "validation"."""
    path = as_file(data, directory, name, task)
    if not is_path(data):
        given[path] = "the data" if name == "data" else "the validation data"
    return path


@contextlib.contextmanager
def _file(data: Data, task: str) -> Iterator[tuple[Path, Callable[[str], str]]]:
    """Yields the path of data, which are written for the while if they are none, and what `from_python` yields."""
    given = dict[Path, str]()
    with (
        tempfile.TemporaryDirectory(prefix="elman-") as place,
        from_python(given) as in_words,
        beginning.without_training(),
    ):
        yield _kept(data, Path(place), "data", task, given), in_words


@contextlib.contextmanager
def from_python(given: Mapping[Path, str]) -> Iterator[Callable[[str], str]]:
    """Yields a function that says in a text, and says in messages, what a call has: names of options, and data it gave.

    given: files of these, and what they are called; more may come.
    """

    def in_words(text: str) -> str:
        for path, name in given.items():
            for written in (str(path.resolve()), str(path), path.name):
                text = text.replace(written, name)
        return with_names(text, _names())

    try:
        yield in_words
    except InputError as error:
        raise InputError(in_words(str(error))) from None  # what a user did is told in one sentence


@cache
def _names() -> set[str]:
    """Returns what calls and commands have as options."""
    return {field.name for name in tasks.MODULES for field in fields(tasks.module(name).Options)} | {*OTHERS}
