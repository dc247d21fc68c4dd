"""The interface between the training loop and a task. The task decides everything else about data, model and loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

if TYPE_CHECKING:  # so that the command line can say its help without torch
    from torch import Tensor, nn


class Batch(NamedTuple):
    """The data of one update."""

    loss: Callable[[], Tensor]  # runs the model; the mean loss, from which gradients are taken
    advance: int  # how far the epoch has come after this batch, from where it was before
    size: int  # in the unit in which speed is told, such as tokens
    weight: float | None = None  # of how many the loss is the mean, where that is not `size`


class Recipe(Protocol):
    """The options of a task that the loop uses itself: a dataclass, such as `elman.training.options.Options`."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def learning_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def clip(self) -> float: ...
    @property
    def epochs(self) -> float | None: ...
    @property
    def minutes(self) -> float | None: ...
    @property
    def evaluations(self) -> int: ...
    @property
    def patience(self) -> int | None: ...
    @property
    def threads(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def precision(self) -> str: ...


class Task(Protocol):
    """A model, its training data, its loss and its score.

    A task whose model is that of a run when the training starts has the directory of that run as `start`. One whose `evaluate`
    chooses numbers of the model by the validation data has a method `as_it_is`, which does the same without that.

    To be trained by several processes, it also needs `share(rank, world)`. After that call, `batches` yields the part of
    each batch that belongs to process `rank`, with the loss and size of this part. A part may be empty, with size 0; its
    loss is then not computed. `carried` returns the tensors of the part, (any, rows, any); `carry` receives all rows.
    """

    @property
    def name(self) -> str: ...  # in config.json and on the command line: "lm"
    @property
    def data(self) -> str: ...  # what the data are called in messages: "text"
    @property
    def measure(self) -> str: ...  # the unit of the loss: "nats"
    @property
    def score(self) -> str: ...  # the column of `evaluate` that decides which model is kept: "validation_nats"
    @property
    def higher_is_better(self) -> bool: ...  # whether more of this score is better
    @property
    def model(self) -> nn.Module: ...
    @property
    def options(self) -> Recipe: ...
    @property
    def digest(self) -> str: ...  # of the data: a checkpoint goes on with the same data only
    @property
    def steps_per_epoch(self) -> int: ...

    def batches(self, epoch: int, at: int) -> Iterator[Batch]:
        """Yields the batches of an epoch, starting at `at` (0 at its beginning); always the same for the same epoch."""
        ...

    def evaluate(self) -> Mapping[str, float]:
        """Returns the columns of metrics.csv for the validation data, including `score`."""
        ...

    def carried(self) -> Mapping[str, Tensor]:
        """Returns what the next batch needs from the last one besides the parameters, such as recurrent states."""
        ...

    def about(self) -> Mapping[str, Any]:
        """Returns the entries of config.json about the task besides its options, such as baselines."""
        ...

    def write(self, directory: Path) -> None:
        """Writes the additional files that a run of this task needs, such as a vocabulary."""
        ...

    def carry(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        """Restores what `carried` returned when a checkpoint was written. Raises InputError, naming path, if it does not fit."""
        ...


def as_it_is(task: Task) -> Mapping[str, float]:
    """Returns what `evaluate` does, of the model as it is."""
    own: Callable[[], Mapping[str, float]] = getattr(task, "as_it_is", task.evaluate)
    return own()
