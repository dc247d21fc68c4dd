"""What the tasks of separate sequences share: batches of similar lengths in a random order, and nothing carried."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import fields
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from elman.datasets.tables import JSON_LINES
from elman.errors import InputError
from elman.training.options import Options
from elman.training.record import Entries
from elman.training.run import Run
from elman.training.task import Batch

T = TypeVar("T")
SHUFFLED = 1 << 24  # sequences that are shuffled together, of which memory holds the order
POOL = 50  # batches whose sequences are sorted by length together: less padding, and still another order every epoch


def batches_of(lengths: NDArray[Any], batch_size: int, seed: int, epoch: int) -> Iterator[NDArray[np.int64]]:
    """Yields the batches of an epoch: places in `lengths` (N,), every one of them once.

    The sequences are shuffled; within each pool of 50 batches they are sorted by length, so that a batch holds similar
    ones; then the batches are shuffled. The same seed and epoch give the same batches. Of very many sequences every
    second, third, ... is shuffled at a time, so that memory holds no order of all.
    """
    random = np.random.default_rng([seed, epoch])
    count = shares(len(lengths))
    for first in random.permutation(count):
        order = first + count * random.permutation(len(range(first, len(lengths), count)))
        found = []
        for begin in range(0, len(order), POOL * batch_size):
            pool = order[begin : begin + POOL * batch_size]
            pool = pool[np.argsort(lengths[pool], kind="stable")]
            found += [pool[k : k + batch_size] for k in range(0, len(pool), batch_size)]
        for k in random.permutation(len(found)):
            yield found[k]


def shares(sequences: int) -> int:
    """Returns in how many shares so many sequences are shuffled."""
    return max(1, -(-sequences // SHUFFLED))


def held_out(count: int, share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the indices for training and for validation, drawn at random. At least one is for validation."""
    order = np.random.default_rng([seed, 1 << 32]).permutation(count)
    cut = count - max(1, round(count * share))
    return np.sort(order[:cut]), np.sort(order[cut:])


def held_out_groups(of: NDArray[Any], share: float, seed: int) -> NDArray[np.int64]:
    """Returns the groups for validation, drawn at random: as many as have about this share of what is in groups.

    of: (N,), the group of each, from 0. At least one group is for validation and one for training, if there are two.
    """
    sizes, taken, found = np.bincount(of), 0, list[int]()
    wanted = share * len(of)
    order = np.random.default_rng([seed, 1 << 32]).permutation(len(sizes))
    for group in order:
        nearer = abs(taken + sizes[group] - wanted) < abs(taken - wanted)
        if nearer and len(found) < len(sizes) - 1:
            found.append(int(group))
            taken += sizes[group]
    if not found:  # all are large
        found = [int(order[sizes[order].argmin()])] if len(sizes) > 1 else []
    return np.sort(np.array(found, np.int64))


def folds(kinds: NDArray[Any], count: int, seed: int) -> NDArray[np.int64]:
    """Returns in which of `count` parts each item is, from 0, (N,): drawn at random, with the same share of each kind.

    kinds: (N,), such as the number of each item's class.
    """
    order = np.random.default_rng([seed, 1 << 33]).permutation(len(kinds))
    order, found = order[np.argsort(kinds[order], kind="stable")], np.empty(len(kinds), np.int64)
    found[order] = np.arange(len(kinds)) % count
    return found


def group_folds(of: NDArray[Any], count: int, seed: int) -> NDArray[np.int64]:
    """Returns in which of `count` parts each item is, from 0, (N,), such that groups stay together.

    of: (N,), the group of each, from 0. The largest groups are dealt out first, each to the part that has least.
    """
    sizes = np.bincount(of)
    order = np.random.default_rng([seed, 1 << 33]).permutation(len(sizes))
    part, filled = np.empty(len(sizes), np.int64), np.zeros(count)
    for group in order[np.argsort(-sizes[order], kind="stable")]:
        part[group] = filled.argmin()
        filled[part[group]] += sizes[group]
    return part[of]


class Changed(InputError):
    """The data that a model was trained on are not what they were, so that nothing says which were held out."""


def check_same(digest: str | None, now: str, *sources: str | Path | None) -> None:
    """Raises Changed if data do not have the digest that they had. digest: None if that is not known."""
    if digest not in (None, now):
        raise Changed(f"{' or '.join(str(each) for each in sources if each is not None)} changed after the training")


class Startable(Protocol):
    """A task that may start from the model of a run."""

    start: Path | None

    @property
    def model(self) -> nn.Module: ...


Started = TypeVar("Started", bound=Startable)


def started(task: Started, run: Run | None) -> Started:
    """Returns the task, with the parameters of the run's model if there is one; the task has what that run learned of its data."""
    if run is not None:
        run.fill(task.model)
        task.start = run.directory
    return task


def check_made_for(run: Run | None, options: Options, entries: Entries) -> None:
    """Raises InputError if the model of a run was made for other options. entries: those that config.json must have."""
    if run is None:
        return
    kept, _ = run.options(type(options), entries)
    for name in (field.name for field in fields(options) if field.metadata["of_model"]):
        own, given = getattr(kept, name), getattr(options, name)
        if own != given:
            raise InputError(
                f"the model of {run.directory} was made for {name}={own!r}, but the options have {given!r}; give the same, or train a new model"
            )


class SeparateSequences:
    """A part of a task (`elman.training.task.Task`): its batches are sequences that know nothing of each other."""

    start: Path | None = None  # the run whose model the training starts from
    lengths: NDArray[Any]  # (N,) of the sequences to learn from
    options: Any  # with a batch_size and a seed
    part: tuple[int, int] = (0, 1)  # the number of this process, and of all that train together

    def anew(self, options: Any) -> Self:
        """Returns a task on the same data, which is shared, with other options and a new model."""
        torch.manual_seed(options.seed)
        task = copy(self)
        task.use(self.untrained(options))
        return task

    def untrained(self, options: Any) -> Any:
        """Returns a new model for other options, with what is known of the data."""
        raise NotImplementedError

    def use(self, trained: Any, /) -> None:
        """trained: the model to train, with what is known of the data."""
        raise NotImplementedError

    @property
    def steps_per_epoch(self) -> int:
        n, count = len(self.lengths), shares(len(self.lengths))
        return sum(-(-len(range(first, n, count)) // self.options.batch_size) for first in range(count))

    def loss(self, own: NDArray[np.int64]) -> Tensor:
        """Returns the mean loss of the sequences at these places."""
        raise NotImplementedError

    def size(self, own: NDArray[np.int64]) -> int:
        """Returns how much these sequences are, in the unit in which speed is told."""
        return len(own)

    def batches(self, epoch: int, at: int) -> Iterator[Batch]:
        """Yields the batches of an epoch; at: those that were trained on."""
        every = batches_of(self.lengths, self.options.batch_size, self.options.seed, epoch)
        for own in islice(every, at, None):
            rank, world = self.part
            own = own[rank::world]
            yield Batch(partial(self.loss, own), 1, self.size(own), self.weight(own))

    def share(self, rank: int, world: int) -> None:
        """Takes from now on every world-th sequence of each batch, from number `rank` on."""
        self.part = rank, world

    def weight(self, own: NDArray[np.int64]) -> float | None:
        """Returns of how many the loss is the mean, if not of `size`."""
        return None

    def remark(self) -> str:
        return ""

    def conclusion(self) -> list[tuple[str, str]]:
        return []

    def carried(self) -> dict[str, Tensor]:
        return {}

    def carry(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        if tensors:
            raise InputError(
                f"{path} is damaged: it has states {', '.join(tensors)}, but this task has none; restore it or train again"
            )


def moments(
    blocks: Iterable[NDArray[Any]], channels: int, otherwise: NDArray[np.float64] | float = 1.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the mean of all rows of some blocks (n, channels), and their deviation, `otherwise` where it is 0.

    A number that is missing, NaN, does not count. Each block is added to the moments of those before it.
    Source: T. F. Chan, G. H. Golub & R. J. LeVeque, Updating formulae and a pairwise algorithm for computing sample
    variances (1979).
    """
    count, mean, squares = np.zeros(channels), np.zeros(channels), np.zeros(channels)
    for block in blocks:
        there = ~np.isnan(block)
        n = there.sum(0)
        first = block[there.argmax(0), np.arange(channels)].astype(np.float64)
        mean = np.where((count > 0) | (n == 0), mean, first)
        x = np.where(there, block - mean, 0.0)  # a channel that never changes is then exactly zero
        change = x.sum(0) / n.clip(1)
        spread = np.where(there, x - change, 0.0)
        total = (count + n).clip(1)
        squares = squares + n * ((spread**2).sum(0) / n.clip(1)) + change**2 * count * n / total
        mean, count = mean + change * n / total, count + n
    deviation = np.sqrt(squares / count.clip(1))
    return mean, np.where(deviation > 0, deviation, otherwise)


def padded(rows: Sequence[NDArray[Any]]) -> tuple[Tensor, Tensor]:
    """Returns arrays of unequal lengths as one tensor (T, B, ...), zero past their ends, and their lengths (B,)."""
    lengths = torch.tensor([len(row) for row in rows])
    tensor = torch.zeros(int(lengths.max()), len(rows), *rows[0].shape[1:], dtype=torch.from_numpy(rows[0]).dtype)
    for k, row in enumerate(rows):
        tensor[: len(row), k] = torch.from_numpy(row)
    return tensor, lengths


def groups(
    items: Iterable[T], size: int, weight: Callable[[T], int] = lambda item: 0, most: int = 1
) -> Iterator[list[T]]:
    """Yields items in lists of `size`, or fewer where these weigh `most` together, and the last one perhaps shorter."""
    group, heavy = list[T](), 0
    for each in items:
        group.append(each)
        heavy += weight(each)
        if len(group) == size or heavy >= most:
            yield group
            group, heavy = [], 0
    if group:
        yield group


def table(rows: Iterable[Mapping[str, Any]], form: str, between: str | None = None) -> Iterator[str]:
    """Yields rows of the same names as CSV with a header, or as JSON lines. A float has as many digits as it is given with.

    between: what stands between the texts of a list in a cell of CSV, a semicolon if left out.
    """
    header = form not in JSON_LINES
    for row in rows:
        if header:
            yield csv_row(row)
            header = False
        if form in JSON_LINES:
            yield json.dumps(row, ensure_ascii=False) + "\n"
        else:
            yield csv_row(_cell(value, between or ";") for value in row.values())


def _cell(value: Any, between: str) -> Any:
    if isinstance(value, list):
        return between.join(value)
    return "" if value is None else repr(value).removesuffix(".0") if isinstance(value, float) else value


def of_classes(names: Sequence[str], chances: Sequence[float], form: str) -> dict[str, Any]:
    """Returns the part of a row that has the probability of each class: in CSV a column for each of them."""
    found = dict(zip(names, map(digits, chances), strict=True))
    return {"probabilities": found} if form in JSON_LINES else {f"p_{name}": chance for name, chance in found.items()}


def many(count: int, name: str, ending: str = "s") -> str:
    """Returns how many there are of something, such as "1 row" or "2,000 rows"."""
    return f"{count:,} {name}{'' if count == 1 else ending}"


def digits(value: float) -> float:
    """Returns six digits of a number."""
    return float(f"{value:.6g}")


def csv_row(values: Iterable[str | float]) -> str:
    """Returns a line of CSV: floats with six digits, texts in quotation marks where they need them."""
    words = [f"{value:.6g}" if isinstance(value, float) else str(value) for value in values]
    return ",".join('"' + w.replace('"', '""') + '"' if any(c in w for c in ',"\n\r') else w for w in words) + "\n"
