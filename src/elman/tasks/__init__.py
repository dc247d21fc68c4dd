"""Tasks: what a network is trained to do, and how it is evaluated. Each task has one file.

A task that the command line knows is a module with three functions:

    begin(path, options, device, bad, start) a task that trains a model on a file: a new one, or that of a run
    resume(run, path, options, device)       the task of a run that was begun, with its data read again from path
    load(record, device)                     what a run has learned, with `evaluate(path)` and perhaps `predict(path)`
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from elman.training.task import Task

if TYPE_CHECKING:
    from elman.datasets.reading import BadRows
    from elman.tasks.scores import Judged
    from elman.training.options import Options
    from elman.training.record import Entries, Record
    from elman.training.run import Run

MODULES = {
    "lm": "language_model",
    "tag": "tagging",
    "classify": "classification",
    "multilabel": "multilabel",
    "regress": "regression",
    "transcribe": "transcription",
    "translate": "translation",
    "forecast": "forecasting",
}


class CommandLineTask(Task, Protocol):
    """A task with the texts that the command line prints about it."""

    @property
    def options(self) -> Options: ...
    @property
    def unit(self) -> str: ...  # what is counted, and what the loss is the mean of: "word"
    @property
    def score_unit(self) -> str: ...  # what the score is called: "nats per character", "accuracy"

    @property
    def source(self) -> str: ...  # where its data come from: a file, or what the built-in data are called

    def anew(self, options: Any) -> CommandLineTask:
        """Returns a task on the same data, which is shared, with other options and a new model.

        It is what `begin` makes, without reading again, if the options differ only in what `elman tune` searches.
        """
        ...

    def baseline(self, name: str) -> str:
        """Returns what a baseline does, in words: `about` names them."""
        ...

    def introduction(self) -> list[tuple[str, str]]:
        """Returns lines about the data: a name and a text each."""
        ...

    def result(self, row: dict[str, str]) -> str:
        """Returns the scores in a row of metrics.csv as a sentence."""
        ...

    def remark(self) -> str:
        """Returns a text that shows the current state of the model, such as a sample. It is kept in samples.txt."""
        ...

    def conclusion(self) -> list[tuple[str, str]]:
        """Returns lines about the test set, with the current parameters of the model."""
        ...

    def draw(self, directory: Path) -> list[Path]:
        """Draws the task's own pictures, with the current parameters of the model. Returns their files."""
        ...


class Trained(Protocol):
    """What a run has learned."""

    @property
    def predicts(self) -> str:
        """What, in words. Models that predict the same can be compared."""
        ...

    def evaluate(self, path: Path, like: Judged | None = None) -> Judged:
        """Returns how well the model predicts a file: names and figures, and rows about all examples, in order.

        like: what another model is judged to be by this file, in whose unit scores are told.
        """
        ...

    def predict(self, path: Path, form: str) -> Iterator[str]:
        """Yields the text of the predictions for a file, in its order. form: ".csv", ".jsonl", another ending, or "" for the task's own."""
        ...

    @property
    def remarks(self) -> list[str]:
        """What there is to say of the last predictions."""
        ...


class TaskModule(Protocol):
    """The functions of a task's module, and the entries that config.json must have for it."""

    @property
    def CONFIG(self) -> Entries: ...
    @property
    def Options(self) -> Any: ...  # a subclass of elman.training.options.Options
    def begin(
        self, path: Path | None, options: Any, device: str, bad: BadRows, start: Run | None = None
    ) -> CommandLineTask: ...
    def resume(self, run: Run, path: Path | None, options: Any, device: str) -> CommandLineTask: ...
    def load(self, record: Record | Path, device: str = "cpu") -> Trained: ...


def module(name: str) -> TaskModule:
    """Returns the module of a task: "lm", "tag", ..."""
    from importlib import import_module

    return import_module(f"elman.tasks.{MODULES[name]}")  # pyright: ignore[reportReturnType]
