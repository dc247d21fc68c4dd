"""What a training loop asks of a task. Everything else about data, model and loss is the task's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

if TYPE_CHECKING:  # so that the command line can say its help without torch
    from torch import Tensor, nn


class Batch(NamedTuple):
    """What one update learns from."""

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
    """A model, the data it learns from, its loss and its score.

    To be trained by several processes it also needs `share(rank, world)`: from then on `batches` yields, of every batch,
    the part of process `rank`, with the loss and size of this part. A part may be empty, with size 0; the loss is then not
    asked for. What `carried` returns is then that of the part, tensors (any, rows, any); `carry` is given all rows.
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
        """Yields the batches of an epoch from `at` on, which is 0 at its beginning; always the same for the same epoch."""
        ...

    def evaluate(self) -> Mapping[str, float]:
        """Returns the columns of metrics.csv for held-out data, `score` among them."""
        ...

    def carried(self) -> Mapping[str, Tensor]:
        """Returns what the next batch needs of the last one besides the parameters, such as states of a recurrence."""
        ...

    def about(self) -> Mapping[str, Any]:
        """Returns what config.json says of the task besides its options, such as baselines."""
        ...

    def write(self, directory: Path) -> None:
        """Writes the files of its own that a run of this task needs, such as a vocabulary."""
        ...

    def carry(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        """Takes what `carried` returned when a checkpoint was written. Raises InputError, naming path, if it does not fit."""
        ...
