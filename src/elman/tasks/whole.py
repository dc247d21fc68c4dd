"""What the tasks share that predict something of a sequence of numbers or of a text, or of each step of numbers."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from elman import cells
from elman.datasets.codes import Codes
from elman.datasets.gaps import MEASURED, ages, filled
from elman.datasets.reading import BadRows
from elman.datasets.sequences import Columns, Labelled, sequences
from elman.datasets.store import Rows
from elman.errors import InputError
from elman.files import Kept, write_json
from elman.layout import Hidden
from elman.recurrent import Recurrent
from elman.tasks.options import LabelOptions, SequenceOptions
from elman.tasks.pieces import Pieces, ranges, steps_of
from elman.tasks.separate import (
    SeparateSequences,
    check_same,
    folds,
    group_folds,
    groups,
    held_out,
    held_out_groups,
    moments,
    padded,
    table,
)
from elman.tasks.words import RARE, Categories, check_words, frequent
from elman.training.dropout import Dropout
from elman.training.record import DATA, Record, data_of, device_of
from elman.training.run import Run
from elman.training.task import Batch

STEPS = 1 << 16  # of numbers, which are worked on at once
CHUNK = 256  # sequences that are read side by side
MANY = 1 << 20  # steps of several sequences that memory holds at a time while they are predicted
FAR = 1e30  # deviations from the mean, of which sums are still finite
MOVED = 1 << 34  # of the random numbers that move pieces
OLD = 1e4  # usual steps, beyond which all ages are the same
DRAWN = 1000  # steps of a picture at most
NAMED = 8  # channels, or groups, that are named
MOST = 0.8  # a share of unknown words of the training texts that is worth a remark
WORD = re.compile(r"\w+|[^\w\s]")


class SequenceModel(nn.Module):
    """Recurrent layers in both directions; the mean, the maximum and the last of their outputs; and a linear layer.

    forward(x, lengths) takes numbers (T, B, channels), or tokens (T, B), and lengths (B,). It returns (B, outputs).
    With each_step the linear layer reads the layers' output at each step: it returns (T, B, outputs). A causal model
    has one direction only.
    """

    def __init__(self, inputs: Inputs, outputs: int, options: SequenceOptions):
        super().__init__()
        o = options
        self.embedding = nn.Embedding(inputs.size, o.embedding_size) if inputs.size else None
        self.fading = Fading(len(inputs.mean)) if o.mark_gaps and inputs.mean else None
        self.categories = (
            Categories(map(len, inputs.categories.values()), o.embedding_size) if inputs.categories else None
        )
        self.numbers = inputs.width  # that are read of a step; 0 of texts
        width = inputs.width + (self.categories.more if self.categories is not None else 0)
        self.recurrent = Recurrent(
            cells.by_name(o.cell),
            o.embedding_size if inputs.size else width,
            o.hidden_size,
            o.num_layers,
            bidirectional=not o.causal,
            dropout=o.dropout if o.num_layers > 1 else 0.0,
            weight_dropout=o.weight_dropout,
        )
        self.dropout = Dropout(o.dropout)
        self.each_step = not o.pooled
        width = self.recurrent.num_directions * o.hidden_size
        self.output = nn.Linear(width if self.each_step else 3 * width, outputs)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.read(x, lengths)[0]

    def read(self, x: Tensor, lengths: Tensor, state: Hidden | None = None) -> tuple[Tensor, Hidden]:
        """Returns what `forward` does, and the states after x. state: those before."""
        x = self.inputs(x)
        x = x if self.embedding is None else self.dropout(x)
        h, after = self.recurrent(x, state, lengths=lengths)
        return self.head(h, after, lengths), after

    def inputs(self, x: Tensor) -> Tensor:
        """Returns what the recurrent layers read of numbers, or of tokens."""
        if self.embedding is not None:
            return self.embedding(x)
        x = x if self.fading is None else self.fading(x)
        return x if self.categories is None else self.categories(x)

    def head(self, h: Tensor, state: Hidden, lengths: Tensor) -> Tensor:
        """Returns (B, outputs) of h (T, B, 2 H), which is zero past the end of a sequence, and of final states.

        With each_step (T, B, outputs), of h alone.
        """
        if self.each_step:
            return self.output(self.dropout(h))
        states = state if isinstance(state, Tensor) else state[0]
        last = states[-2:].transpose(0, 1).flatten(1)  # (B, 2 H): each direction where it ends
        mean = h.sum(0) / lengths[:, None].to(h)
        past = torch.arange(len(h), device=h.device)[:, None] >= lengths  # (T, B)
        largest = h.masked_fill(past[..., None], -torch.inf).amax(0)
        return self.output(self.dropout(torch.cat([mean, largest, last], -1)))


class Fading(nn.Module):
    """Numbers that fade to their mean, 0, while they grow old: exp(-max(rate, 0) age) x for each channel.

    forward(x) takes numbers, their ages and whatever else there is, (..., channels + channels + n). In place of the ages
    it returns 1 where a number is missing and 0 where it is measured, at which the age is negative.

    Source: Z. Che et al., Recurrent neural networks for multivariate time series with missing values (2018), GRU-D. Its
    rates have a bias, which is left out, so that a number that was just measured is itself.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.rate = nn.Parameter(torch.full((channels,), 0.1))  # by the usual time from a step to the next

    def forward(self, x: Tensor) -> Tensor:
        channels = len(self.rate)
        numbers, age, others = x.split([channels, channels, x.shape[-1] - 2 * channels], -1)
        faded = torch.exp(-self.rate.relu() * age.relu()) * numbers
        return torch.cat([faded, (age >= 0).to(x), others], -1)


class Gathered:
    """Sequences as numbers, of which there may be more than memory holds: a text as those of tokens as they first occur."""

    def __init__(
        self,
        unit: str | None,
        channels: int | None = None,
        each_step: bool = False,
        mark_gaps: bool = False,
        causal: bool = False,
        time: str | None = None,
        categories: Sequence[str] = (),
    ):
        """unit: what texts are read in; None for numbers. each_step: whether every step has a label, or none.

        channels: those that every sequence must have, 0 for texts; if left out, those that the first one has. mark_gaps:
        whether numbers may be missing; if causal, no later one stands in. time: what the times of the steps are called;
        None where these are not read. categories: what those of the steps are called.
        """
        self.unit, self.channels, self.each_step = unit, channels, each_step
        self.mark_gaps, self.causal, self.time = mark_gaps, causal, time
        self.dates: bool | None = None  # whether times are dates; None where that is not known yet
        self.names: tuple[str, ...] = ()  # of the channels, where they are columns of a table
        # Tokens (T,), or numbers (T, channels), beside which are their ages (T, channels) if they may be missing, the time
        # since the step before (T, 1), and the numbers of words (T, categories) as they first occur. A channel far from
        # zero changes by less than float32 can tell apart.
        self.rows = Rows(np.float64 if self.unit is None else np.int32)
        self._ids = Rows(np.uint8)  # what each is called in its file
        self.labels = Rows(np.int32)  # a number for each sequence, or for each of its steps; -1 where there is none
        self.words: dict[str, dict[str, int]] = {name: {} for name in categories}  # those of each category, numbered
        self.different: dict[str, int] = {}  # labels, and the number of each
        self.tokens = {"": 0}  # likewise; the first one stands in a text without any
        self.groups: dict[str, int] = {}  # likewise: who or what sequences are of, if that is known
        self.group_of = array("q")  # the number of each sequence's
        self.in_time = False  # whether the second of two sequences is what comes after the first one
        self._digest = hashlib.sha256()

    @classmethod
    def of(cls, options: SequenceOptions, unit: str | None, inputs: Inputs | None) -> Gathered:
        """Returns none yet, of the kind that the options say. inputs: what was learned of the data before."""
        o, channels = options, None if inputs is None else len(inputs.mean)
        found = cls(unit, channels, o.label_each_step, o.mark_gaps, o.causal, o.time, o.category_list)
        found.dates = None if inputs is None else inputs.dates
        return found

    def __len__(self) -> int:
        return len(self.labels)

    def add(self, every: Iterable[Labelled], path: Path) -> None:
        """Appends the sequences of a file. Raises InputError if one is not of the kind that it must be."""
        tokens = self.tokens
        for each in every:
            content, different = each.content, self.different
            labels = [str(each.label)] if each.labels is None else each.labels
            self._check(each, path)
            self.names = self.names or each.channels
            if isinstance(content, str):
                numbers = [tokens.setdefault(token, len(tokens)) for token in split(content, self.unit or "words")]
                self.rows.append(np.array(numbers or [0], np.int32))
            else:
                self.rows.append(self._row(content, each.times, each.words))
            self._ids.append(np.frombuffer(bytearray(each.name.encode()), np.uint8))
            numbers = [-1 if label is None else different.setdefault(label, len(different)) for label in labels]
            self.labels.append(np.array(numbers, np.int32))
            # In float32, so that runs go on that were begun when numbers were kept in it.
            own = content.encode() if isinstance(content, str) else content.astype(np.float32).tobytes()
            self._digest.update(own + "\0".join(label or "" for label in labels).encode())
            if each.times is not None:
                self._digest.update(each.times.tobytes())
            if each.words is not None:
                self._digest.update("\0".join(each.words.ravel()).encode())
            if each.group is not None:
                self.group_of.append(self.groups.setdefault(each.group, len(self.groups)))
                self._digest.update(f"\0{each.group}".encode())
        self._digest.update(b"end of a file")

    def _row(
        self, values: NDArray[Any], times: NDArray[np.float64] | None, words: NDArray[Any] | None
    ) -> NDArray[np.float64]:
        """Returns what is kept of the numbers of a sequence, (T, channels), of its times, (T,), and of its words, (T, categories)."""
        causal = self.causal
        found = [filled(values, causal), ages(values, times, causal)] if self.mark_gaps else [values]
        if self.time is not None:
            assert times is not None
            found.append(np.diff(times, prepend=times[:1])[:, None])
        for column, known in zip(() if words is None else words.T, self.words.values(), strict=True):
            found.append(np.array([known.setdefault(word, len(known)) for word in column], np.float64)[:, None])
        return np.concatenate(found, 1)

    def labelled(self, own: Iterable[int]) -> Iterator[Labelled]:
        """Yields sequences as they were read. Of a text there are its tokens, with blanks between words."""
        labels, tokens = list(self.different), list(self.tokens)
        words = [np.array(list(known), dtype=object) for known in self.words.values()]
        for k in own:
            given = [None if n < 0 else labels[n] for n in self.labels[k]]
            label, each = (None, given) if self.each_step else (given[0], None)
            if self.unit is not None:
                text = (" " if self.unit == "words" else "").join(tokens[n] for n in self.rows[k])
                yield Labelled(self.name(k), text, label)
            else:
                values, times = self.values(k)
                numbers = self.codes(self.rows[k]).T
                spoken = [known[numbers[n]] for n, known in enumerate(words)]
                said = np.stack(spoken, 1) if spoken else None
                dates = bool(self.dates)
                yield Labelled(self.name(k), values, label, labels=each, times=times, words=said, dates=dates)

    def measured(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns the numbers of steps as they are kept, (n, channels), NaN where one is missing."""
        channels = self.channels or 0
        if not self.mark_gaps:
            return rows[:, :channels]
        return np.where(rows[:, channels : 2 * channels] == MEASURED, rows[:, :channels], np.nan)

    def values(self, k: int) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Returns the numbers of a sequence, (T, channels), NaN where one is missing; and its times from 0 on, (T,), if they are read."""
        row = self.rows[k]
        return self.measured(row), None if self.time is None else self.between(row).cumsum()

    def codes(self, rows: NDArray[np.float64]) -> NDArray[np.int64]:
        """Returns the numbers of the words of steps as they are kept, (n, categories)."""
        return rows[..., rows.shape[-1] - len(self.words) :].astype(np.int64)

    def between(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns the times since the step before of steps as they are kept, (n,)."""
        return rows[:, -1 - len(self.words)]

    def missing(self, own: Iterable[int]) -> NDArray[np.float64]:
        """Returns the share of the steps of these sequences at which the number of each channel is missing, (channels,)."""
        steps, found = 0, np.zeros(self.channels or 0)
        for block in map(self.measured, self.blocks(own)):
            steps, found = steps + len(block), found + np.isnan(block).sum(0)
        return found / steps

    def interval(self, own: Iterable[int]) -> float:
        """Returns the usual time from a step of these sequences to the next: the geometric mean of all times that are not 0."""
        total, count = 0.0, 0
        for block in self.blocks(own):
            between = self.between(block)
            between = between[between > 0]
            total, count = total + float(np.log(between).sum()), count + len(between)
        return float(np.exp(total / count)) if count else 1.0

    def given(self, own: NDArray[np.int64]) -> NDArray[np.int32]:
        """Returns the numbers of the labels of the sequences at these places, one after the other."""
        return self.labels.steps[ranges(self.labels.bounds[own], self.labels.lengths[own])]

    def name(self, k: int) -> str:
        """Returns what a sequence is called in its file."""
        return self._ids[k].tobytes().decode()

    def _check(self, each: Labelled, path: Path) -> None:
        text = isinstance(each.content, str)
        channels = 0 if isinstance(each.content, str) else each.content.shape[1]
        if self.channels is None:
            self.channels = channels
        if text != (self.unit is not None):
            kinds = ("a text", "numbers") if text else ("numbers", "texts")
            raise InputError(f"{path}: sequence {each.name} is {kinds[0]}, but the run was trained on {kinds[1]}")
        if channels != self.channels:
            raise InputError(
                f"{path}: sequence {each.name} has {channels} channels, but the run was trained on {self.channels}"
            )
        if self.time is not None and self.dates is None:
            self.dates = each.dates
        if self.time is not None and each.dates != self.dates:
            kinds = ("dates", "numbers") if each.dates else ("numbers", "dates")
            raise InputError(
                f"{path}: the times of sequence {each.name} are {kinds[0]}, but those learned from are {kinds[1]}; give {kinds[1]} in {self.time!r}"
            )

    def blocks(self, own: Iterable[int]) -> Iterator[NDArray[np.float64]]:
        """Yields what is kept of the steps of these sequences, (n, numbers), many at a time."""
        held, steps = [], 0
        for k in own:
            held.append(self.rows[k])
            steps += len(held[-1])
            if steps >= STEPS:
                yield np.concatenate(held)
                held, steps = [], 0
        if held:
            yield np.concatenate(held)

    @property
    def digest(self) -> str:
        """SHA-256 of all sequences, by which changed files are noticed."""
        return self._digest.hexdigest()


@dataclass(frozen=True)
class Inputs:
    """How a sequence is turned into what a network reads."""

    mean: Sequence[float]  # of each channel; empty for texts
    deviation: Sequence[float]
    tokens: Sequence[str]  # words or characters; token 0 stands for all others. Empty for numbers.
    channels: Sequence[str] = ()  # the columns of a table that they are; empty where they have no names
    # The numbers of the channels, from 0, that lacked numbers in training; None where none may be missing.
    marked: Sequence[int] | None = None
    time: str | None = None  # what the times of the steps are called; None where these are not read
    interval: float = 1.0  # the usual time from a step to the next, by which all times are divided
    dates: bool | None = None  # whether times are dates; None where these are not read, and in runs of earlier versions
    # The words of each category, frequent ones first; code 0 stands for all others.
    categories: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, sequences: Gathered, own: Sequence[int] | NDArray[np.int64]) -> Inputs:
        """Learns it from the sequences at these places. Raises InputError if a channel has no number in them."""
        if sequences.unit is None:
            return cls._of_numbers(sequences, own)
        counts = np.zeros(len(sequences.tokens), np.int64)  # of the sequences that have a token
        for k in own:
            counts[np.unique(sequences.rows[k])] += 1
        least = RARE if sequences.unit == "words" else 1
        return Inputs([], [], sorted(t for t, n in zip(sequences.tokens, counts, strict=True) if t and n >= least))

    @classmethod
    def _of_numbers(cls, sequences: Gathered, own: Sequence[int] | NDArray[np.int64]) -> Inputs:
        channels, found = sequences.channels or 0, Inputs([], [], [], list(sequences.names))
        mean, deviation = moments(map(sequences.measured, sequences.blocks(own)), channels)
        if sequences.mark_gaps:
            share = sequences.missing(own)
            for k in np.flatnonzero(share == 1)[:1]:
                name = f"column {sequences.names[k]!r}" if sequences.names else f"channel {k + 1}"
                raise InputError(f"{name} has no number in the sequences to learn from; leave it out")
            found = replace(found, marked=np.flatnonzero(share).tolist())
        if sequences.time is not None:
            found = replace(found, time=sequences.time, interval=sequences.interval(own), dates=sequences.dates)
        if sequences.words:
            found = replace(found, categories=cls._of_words(sequences, own))
        return replace(found, mean=mean.tolist(), deviation=deviation.tolist())

    @staticmethod
    def _of_words(sequences: Gathered, own: Sequence[int] | NDArray[np.int64]) -> dict[str, list[str]]:
        """Returns the words of each category that occur in several sequences, or of a single one at several steps.

        Raises InputError if a category has none: it says nothing of other sequences, as the name of a sequence.
        """
        sizes = [len(words) for words in sequences.words.values()]
        steps, among = ([np.zeros(size, np.int64) for size in sizes] for _ in range(2))
        for k in own:
            for n, codes in enumerate(sequences.codes(sequences.rows[k]).T):
                there, counts = np.unique(codes, return_counts=True)
                steps[n][there] += counts
                among[n][there] += 1
        found = {}
        for (name, words), often, spread in zip(sequences.words.items(), steps, among, strict=True):
            enough = (often if len(own) == 1 else spread) >= RARE
            found[name] = frequent([*words], often.tolist(), enough)
            if not found[name]:
                two = "at two of the steps" if len(own) == 1 else "in two of the sequences"
                raise InputError(
                    f"no word in {name!r} occurs {two} to learn from, so nothing can be learned of it; leave it out"
                )
        return found

    def save(self, directory: Path) -> None:
        write_json(directory / "vocabulary.json", asdict(self))

    @classmethod
    def load(cls, kept: Kept) -> Self:
        content = kept.json("vocabulary.json")
        try:
            found = cls(**content)
            found.check()
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{kept.place('vocabulary.json')} is damaged: {error}; restore it or train again"
            ) from error
        return found

    def check(self) -> None:
        """Raises ValueError, or TypeError, if these cannot be what was learned of data."""
        if len(self.mean) != len(self.deviation) or bool(self.mean or self.categories) == bool(self.tokens):
            raise ValueError("channels and tokens do not fit each other")
        check_words(self.categories)
        if len(self.channels) not in (0, len(self.mean)):
            raise ValueError("the names of the channels do not fit their numbers")
        if not set(self.marked or ()) <= set(range(len(self.mean))) or not 0 < self.interval < np.inf:
            raise ValueError("what it says of gaps or of times does not fit the channels")

    @property
    def width(self) -> int:
        """How many numbers a network reads of a step, as `Encoded.scaled` has them; 0 of texts."""
        of_channels = len(self.mean) * (1 if self.marked is None else 2)
        return of_channels + (self.time is not None) + len(self.categories)

    @property
    def size(self) -> int:
        """The number of tokens, with the one that stands for all others; 0 for numbers."""
        return len(self.tokens) + 1 if self.tokens else 0


def split(text: str, unit: str) -> list[str]:
    """Returns the words of a text in lower case, and its signs; or its characters."""
    return WORD.findall(text.lower()) if unit == "words" else list(text)


class Encoded:
    """Sequences as what a network reads."""

    told: NDArray[np.bool_]  # (M,): which labels there are; a subclass says so

    def __init__(self, sequences: Gathered, inputs: Inputs):
        self.rows, self._labels, self.each_step = sequences.rows, sequences.labels, sequences.each_step
        tokens = {token: k for k, token in enumerate(inputs.tokens, 1)}
        self._written = list(sequences.tokens)
        self.numbers = np.array([tokens.get(token, 0) for token in self._written])  # of tokens, that a network knows
        self.sequences = sequences
        # Of each category the codes of words, by their numbers.
        self.codes = list[NDArray[np.int64]]()
        for name, words in inputs.categories.items():
            codes = Codes(words)
            self.codes.append(np.array([codes[word] for word in sequences.words[name]]))
        self.inputs, self.mean, self.deviation = inputs, np.array(inputs.mean), np.array(inputs.deviation)

    def places(self, pieces: Pieces) -> NDArray[np.int64]:
        """Returns where the labels of these pieces are among all: one of each sequence, or those of the steps."""
        if not self.each_step:
            return pieces.of
        return ranges(self._labels.bounds[pieces.of] + pieces.begin, pieces.lengths)

    def all_places(self, own: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns where the labels of these sequences are among all."""
        return self.places(Pieces.whole(own, self.rows.lengths))

    def told_places(self, own: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns where the labels that these sequences have are among all. Some steps may have none."""
        places = self.all_places(own)
        return places[self.told[places]]

    def step_at(self, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns which sequences have the labels at these places, and at which of their steps, from 0."""
        of = np.searchsorted(self._labels.bounds, places, side="right") - 1
        return of, places - self._labels.bounds[of]

    def tokens(self, own: Iterable[int], words: bool = False) -> tuple[int, int]:
        """Returns how many tokens these texts have, and how many of them are unknown. words: leaves out signs."""
        counts = np.zeros(len(self.numbers), np.int64)
        for k in own:
            np.add.at(counts, self.rows[k], 1)
        real = np.array([bool(t) and (not words or t[0].isalnum()) for t in self._written])
        return int(counts[real].sum()), int(counts[real & (self.numbers == 0)].sum())

    def missing(self, own: Iterable[int]) -> str:
        """Returns at which share of the steps of these sequences the numbers of each channel are missing, in words; "" if none is."""
        share = self.sequences.missing(own)
        order, names = np.argsort(-share, kind="stable"), self.inputs.channels
        shown = [
            f"{names[k] if names else f'channel {k + 1}'} at {share[k]:.1%} of the steps" for k in order if share[k]
        ]
        return ", ".join(shown[:NAMED]) + ", ..." * (len(shown) > NAMED)

    def strange(self, own: Iterable[int]) -> dict[str, tuple[int, int]]:
        """Returns of each category at how many steps of these sequences its word is unknown, and how many different ones are."""
        found = {name: (0, set[int]()) for name in self.inputs.categories}
        for block in self.sequences.blocks(own) if found else ():
            for (name, (steps, words)), codes, known in zip(
                found.items(), self.sequences.codes(block).T, self.codes, strict=True
            ):
                unknown = codes[known[codes] == 0]
                found[name] = steps + len(unknown), words | {*unknown.tolist()}
        return {name: (steps, len(words)) for name, (steps, words) in found.items()}

    def batch(self, pieces: Pieces) -> tuple[Tensor, Tensor]:
        """Returns numbers (T, B, n), as `scaled` has them, or tokens (T, B), and the lengths (B,)."""
        rows = [self.rows[of][begin:end] for of, begin, end in zip(*pieces, strict=True)]
        if self.inputs.width:
            x, lengths = padded(rows)
            return torch.from_numpy(self.scaled(x.numpy())).float(), lengths
        return padded([self.numbers[row] for row in rows])

    def scaled(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns what a network reads of steps as they are kept, (..., n).

        This is every channel in deviations from its mean, which stands for a number that was not measured; then, if
        numbers may be missing, how old each is, and -1 for one that is measured or whose channel never lacked any in
        training; then log(1 + the time since the step before), if times are read; then the code of the word of each
        category. Ages and times are divided by the usual time from a step to the next.
        """
        inputs, channels = self.inputs, len(self.mean)
        # A number may be further from what was learned from than float32 reaches.
        found = [((rows[..., :channels] - self.mean) / self.deviation).clip(-FAR, FAR)]
        if inputs.marked is not None:
            age = rows[..., channels : 2 * channels]
            known = (age == MEASURED) | ~np.isin(np.arange(channels), inputs.marked)
            found = [np.nan_to_num(found[0]), np.where(known, -1.0, (age / inputs.interval).clip(max=OLD))]
        if inputs.time is not None:
            end = rows.shape[-1] - len(self.codes)
            found.append(np.log1p(rows[..., end - 1 : end] / inputs.interval))
        if self.codes:
            words = self.sequences.codes(rows)
            found += [codes[words[..., n : n + 1]] for n, codes in enumerate(self.codes)]
        return np.concatenate(found, -1) if len(found) > 1 else found[0]


class Parts(NamedTuple):
    """Sequences, and the places of those to learn from, to choose by, and to judge by at the end, which there need not be."""

    sequences: Gathered
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


Learned = TypeVar("Learned", bound=Inputs)
Given = TypeVar("Given", bound=SequenceOptions)


class Trained(Generic[Learned, Given]):
    """A model with what it knows of the data: what a run holds when it is trained."""

    encoded: ClassVar[Any]  # an `Encoded` that has labels, made of sequences that were gathered and of what was learned
    learned: ClassVar[type[Inputs]]  # what is learned of the data besides weights
    made_for: ClassVar[type[SequenceOptions]]  # the options
    built_in: ClassVar[str]  # what the data without a file are called

    def __init__(
        self,
        model: SequenceModel,
        reading: Learned,
        options: Given,
        path: Path | None = None,
        digest: str | None = None,
    ):
        """path: the training data; None for the built-in sequences. digest: that of these data, if it is known."""
        self.model, self.reading, self.options, self.path, self.digest = model, reading, options, path, digest
        self.skipped = BadRows()  # what the last call of `predict` leaves out

    @staticmethod
    def model_of(reading: Any, options: Any) -> SequenceModel:
        """Returns a new model for what was learned of the data."""
        raise NotImplementedError

    @classmethod
    def new(cls, reading: Learned, options: Given, device: str, path: Path | None) -> Self:
        """Returns one whose model is new."""
        return cls(cls.model_of(reading, options).to(device), reading, options, path)

    @classmethod
    def load(cls, record: Record | Path, device: str = "cpu") -> Self:
        """Returns that of a run, with the parameters that were best on the validation sequences."""
        record = Run(record) if isinstance(record, Path) else record
        options, config = record.options(cls.made_for, DATA)
        reading = cls.learned.load(record)
        model: Any = record.model(lambda: cls.model_of(reading, options), device)
        return cls(model, cast("Learned", reading), cast("Given", options), data_of(config), record.digest())

    @property
    def remarks(self) -> list[str]:
        """What there is to say of the last predictions."""
        return self.skipped.remarks

    @property
    def width(self) -> int:
        """The number of outputs of the model."""
        raise NotImplementedError

    def rows(
        self, group: Sequence[Labelled], encoded: Any, own: NDArray[np.int64] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yields a row for each label of some sequences: what it is, and what the model says. own: their places; all if left out."""
        raise NotImplementedError

    def examples(self, path: Path, form: str) -> Iterator[str]:
        """Yields a row for each label of a file, as `rows` has it, in CSV or JSON lines."""
        every = self.read_groups(path, True, BadRows(self.options.skip_bad))
        return table((row for group, encoded in every for row in self.rows(group, encoded)), form)

    def read_groups(self, path: Path, labelled: bool, bad: BadRows) -> Iterator[tuple[list[Labelled], Any]]:
        """Yields the sequences of a file, some at a time, and these as what the model reads."""
        for group in in_groups(sequences(path, columns_of(self.options, self.reading), labelled, bad)):
            yield group, self.encode(group, path)

    def encode(self, every: Iterable[Labelled], path: Path) -> Any:
        """Raises InputError, naming the path, for a sequence that is not of the kind that was learned from."""
        gathered = Gathered.of(self.options, unit_of(self.options), self.reading)
        gathered.add(every, path)
        return self.encoded(gathered, self.reading)

    @torch.inference_mode()
    def outputs(self, encoded: Encoded, own: NDArray[np.int64] | None = None) -> Tensor:
        """Returns what the model says of sequences, (N, outputs), in the order of `encoded.all_places(own)`.

        own: the places of the sequences; all if left out.
        """
        own = np.arange(len(encoded.rows)) if own is None else own
        lengths, training = encoded.rows.lengths[own], self.model.training
        count = lengths.astype(np.int64) if encoded.each_step else np.ones(len(own), np.int64)
        first, found = np.cumsum(count) - count, torch.empty(int(count.sum()), self.width)
        self.model.eval()
        read, options = self._whole, self.options
        if isinstance(options, LabelOptions) and options.each_step:
            read = partial(self._forward if options.causal else self._both_ways, options.window)
        for pieces, values in read(encoded, own):
            rows = ranges(first[pieces.of] + pieces.begin, pieces.lengths)
            found[torch.from_numpy(rows)] = values.float().cpu()
        self.model.train(training)
        return found

    def _input(self, encoded: Encoded, own: NDArray[np.int64], pieces: Pieces) -> tuple[Tensor, Tensor]:
        """Returns what the model reads. pieces: those of the sequences at the places `own`, by their numbers among these."""
        x, lengths = encoded.batch(pieces._replace(of=own[pieces.of]))
        device = device_of(self.model)
        return x.to(device), lengths.to(device)

    def _whole(self, encoded: Encoded, own: NDArray[np.int64]) -> Iterator[tuple[Pieces, Tensor]]:
        """Yields sequences, in place of which their first steps stand, and what the model says of them."""
        lengths = encoded.rows.lengths[own]
        order = np.argsort(lengths, kind="stable")
        for begin in range(0, len(order), CHUNK):
            pieces = Pieces.whole(order[begin : begin + CHUNK], lengths)
            yield pieces.first, self.model(*self._input(encoded, own, pieces))

    def _both_ways(self, window: int, encoded: Encoded, own: NDArray[np.int64]) -> Iterator[tuple[Pieces, Tensor]]:
        """Yields pieces and what the model says of their steps.

        It has never read more than a window, so that it reads no more here. Of a longer sequence it reads windows that
        overlap, and what it says of the middle half of each is taken: so it knows what is around every step.
        """
        lengths = encoded.rows.lengths[own]
        most = np.where(lengths <= window, window, window // 2)
        every = Pieces.cut(np.arange(len(own)), lengths, most)
        around = every.widened(lengths, (window - window // 2) // 2)
        order = np.argsort(around.lengths, kind="stable")
        side_by_side = max(1, min(CHUNK, STEPS // window))
        for begin in range(0, len(order), side_by_side):
            chunk = order[begin : begin + side_by_side]
            pieces, read = every.take(chunk), around.take(chunk)
            y = self.model(*self._input(encoded, own, read))
            yield pieces, steps_of(y, pieces.begin - read.begin, pieces.end - read.begin)

    def _forward(self, window: int, encoded: Encoded, own: NDArray[np.int64]) -> Iterator[tuple[Pieces, Tensor]]:
        """Yields pieces and what the model says of their steps; it goes on from the states after the piece before."""
        lengths = encoded.rows.lengths[own].astype(np.int64)
        order = np.argsort(-lengths, kind="stable")
        side_by_side = max(1, min(CHUNK, STEPS // window))
        for first in range(0, len(order), side_by_side):
            chunk, state = order[first : first + side_by_side], None
            for begin in range(0, int(lengths[chunk[0]]), window):
                chunk = chunk[lengths[chunk] > begin]
                pieces = Pieces(chunk, np.full(len(chunk), begin), np.minimum(lengths[chunk], begin + window))
                if state is not None:  # of the sequences that go on
                    B = len(chunk)
                    state = state[:, :B] if isinstance(state, Tensor) else tuple(each[:, :B] for each in state)
                x, steps = self._input(encoded, own, pieces)
                y, state = self.model.read(x, steps, state)
                yield pieces, steps_of(y, np.zeros_like(pieces.begin), pieces.lengths)

    def parts(self) -> Parts:
        """Returns the training data, read again."""
        raise NotImplementedError

    def read_again(self) -> Parts:
        """Returns what `parts` does. Raises InputError if the data cannot be read, or have changed."""
        found = self.parts()
        check_same(self.digest, found.sequences.digest, self.path or self.built_in, self.options.validation)
        return found

    def read(self, path: Path) -> tuple[Any, list[tuple[str, str]]]:
        """Returns the labelled sequences of a file, and what there is to say of them before they are judged."""
        bad = BadRows(self.options.skip_bad)
        encoded = self.encode(sequences(path, columns_of(self.options, self.reading), bad=bad), path)
        if not len(encoded.rows):
            raise InputError(f"{path} has no sequence; give at least one, with its label")
        if not encoded.told.any():
            raise InputError(f"{path} has no label; give at least one")
        lines = [("sequences", str(len(encoded.rows)))]
        if self.options.label_each_step:
            lines.append(
                ("steps", f"{int(encoded.rows.lengths.sum())}, {int(encoded.told.sum())} of them with a label")
            )
        if self.options.mark_gaps:
            lines.append(("missing", encoded.missing(range(len(encoded.rows))) or "none"))
        if self.reading.time is not None:  # another unit would show here
            usual = encoded.sequences.interval(range(len(encoded.rows)))
            lines.append(
                ("times", f"{usual:.6g} is usual from a step to the next, and {self.reading.interval:.6g} in training")
            )
        lines += unknown_words(encoded, range(len(encoded.rows)), "steps")
        if unit_of(self.options):
            tokens, strange = encoded.tokens(range(len(encoded.rows)))
            share = f"{strange}, {strange / max(1, tokens):.1%}"
            lines.append((f"unknown {self.options.unit}", f"{share}: the network reads one stand-in for all"))
        if bad.count:
            lines.append(("skipped", f"{bad.count}, the first: {bad.first}"))
        return encoded, lines


class WholeSequences(SeparateSequences):
    """A part of a task (`elman.training.task.Task`), in which something is learned of each sequence, or of its steps."""

    data, unit = "sequences", "sequence"
    made_of: ClassVar[type[Trained[Any, Any]]]  # what a run of this task holds
    score_unit: str  # what the score is called
    unit_of_score = 1.0  # what a score of 1 is in the unit of the data; 1 where it has none

    @classmethod
    def resume(cls, run: Run, path: Path | None, options: SequenceOptions, device: str) -> Self:
        """Returns the task of a run. Its data are read again; its model does not have its parameters yet."""
        trained = cls.made_of.new(cls.made_of.learned.load(run), options, device, path)
        return cls(trained, trained.parts(), path)

    def __init__(self, trained: Trained[Any, Any], parts: Parts, path: Path | None):
        """path: where the sequences come from; None for the built-in ones."""
        sequences, train, validation, self.test = parts
        self.path, self.source = path, str(path or trained.built_in)
        self.use(trained)
        self.train, self.validation, self.digest = train, validation, sequences.digest
        self.encoded, self.in_time = trained.encoded(sequences, trained.reading), sequences.in_time
        self.places, self.judged = map(self.encoded.told_places, (train, validation))  # of labels to learn, to judge by
        self.pieces = Pieces.whole(train, self.encoded.rows.lengths)
        if self.options.label_each_step:
            self.unit, pieces = "step", Pieces.cut(train, self.encoded.rows.lengths, self.options.window)
            labels = self._labels_of(pieces)
            self.pieces, self.labels = pieces.take(labels > 0), labels[labels > 0]  # how many each piece has
            self.labels_as_cut = self.labels
        self.cut, self.lengths = self.pieces, self.pieces.lengths  # as they were cut; they may be moved
        names, of = list(sequences.groups), sequences.group_of
        self.groups = len(names)
        # Those of a validation file have none.
        apart = {"held out": validation[validation < len(of)], "left out": self.test} if names else {}
        self.apart = {what: [names[k] for k in sorted({of[k] for k in own})] for what, own in apart.items() if len(own)}

    def _labels_of(self, pieces: Pieces) -> NDArray[np.int64]:
        """Returns how many labels each of these pieces has."""
        before, first = np.append(0, np.cumsum(self.encoded.told)), self.encoded.places(pieces.first)
        return before[first + pieces.lengths] - before[first]

    def batches(self, epoch: int, at: int) -> Iterator[Batch]:
        """Yields the batches of an epoch. With each_step, the pieces of long sequences are elsewhere in each epoch.

        So none of their steps always lies at an end, where less is around it. A piece that would have no label stays.
        """
        if self.options.label_each_step:
            moved = self.cut.moved(self.encoded.rows.lengths, np.random.default_rng([self.options.seed, epoch, MOVED]))
            labels = self._labels_of(moved)
            stays = labels == 0
            self.pieces = Pieces(*(np.where(stays, old, new) for old, new in zip(self.cut, moved, strict=True)))
            self.labels = np.where(stays, self.labels_as_cut, labels)
        yield from super().batches(epoch, at)

    def untrained(self, options: Any) -> Trained[Any, Any]:
        return self.made_of.new(self.trained.reading, options, str(device_of(self.model)), self.path)

    def use(self, trained: Any) -> None:
        self.trained, self.model, self.options = trained, trained.model, trained.options

    def outputs(self, own: NDArray[np.int64]) -> tuple[Tensor, NDArray[np.int64]]:
        """Returns what the model says of training pieces, (N, outputs), with noise added to their numbers, and the places of the labels."""
        device, pieces = device_of(self.model), self.pieces.take(own)
        x, lengths = self.encoded.batch(pieces)
        if x.is_floating_point():
            numbers = x[..., : len(self.encoded.mean)]  # and not how old they are
            numbers += self.options.noise * torch.randn_like(numbers)
        found, places = self.model(x.to(device), lengths.to(device)), self.encoded.places(pieces)
        if not self.options.label_each_step:
            return found, places
        found, told = steps_of(found, np.zeros_like(pieces.begin), pieces.lengths), self.encoded.told[places]
        return found[torch.from_numpy(told).to(device)], places[told]

    def shown(self) -> tuple[int, slice, NDArray[np.float64]]:
        """Returns which validation sequence a picture shows: the first one with labels; which of its steps, from the first
        label on; and their numbers, (n, channels), NaN where one is missing."""
        k = int(self.encoded.step_at(self.judged[:1])[0][0])
        first = int(self.encoded.told[self.encoded.all_places(np.array([k]))].argmax())
        part = slice(first, first + DRAWN)
        return k, part, self.encoded.sequences.values(k)[0][part]

    def tested(self) -> tuple[dict[str, float], dict[str, float]]:
        """Returns the scores of the sequences that --fold leaves out, and those of the baselines."""
        raise NotImplementedError

    def conclusion(self) -> list[tuple[str, str]]:
        if not len(self.test):
            return []
        found, baselines = self.tested()
        lines = [("test", self.result({name: repr(value) for name, value in found.items()}))]
        return lines + [(name, f"{value:.4f} {self.score_unit}") for name, value in baselines.items()]

    def result(self, row: Mapping[str, str], /) -> str:
        raise NotImplementedError

    def examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields a row for each label of the sequences that --fold leaves out, after the place of its sequence in FILE."""
        for begin in range(0, len(self.test), CHUNK):
            own = self.test[begin : begin + CHUNK]
            places, _ = self.encoded.step_at(self.encoded.told_places(own))
            group = list(self.encoded.sequences.labelled(own))
            yield from zip(places.tolist(), self.trained.rows(group, self.encoded, own), strict=True)

    def size(self, own: NDArray[np.int64]) -> int:
        return int(self.lengths[own].sum()) if self.options.label_each_step else len(own)

    def weight(self, own: NDArray[np.int64]) -> float | None:
        return float(self.labels[own].sum()) if self.options.label_each_step else None

    def sizes(self) -> dict[str, Any]:
        """Returns where the data are, and how many."""
        return {
            "path": None if self.path is None else str(self.path.resolve()),
            "train_sequences": len(self.train),
            "validation_sequences": len(self.validation),
        } | ({"test_sequences": len(self.test)} if self.options.fold else {})

    def write(self, directory: Path) -> None:
        self.trained.reading.save(directory)

    def introduction(self) -> list[tuple[str, str]]:
        reading, unit = self.trained.reading, self.options.unit
        what = f"{len(reading.tokens)} different {unit}" if reading.tokens else _read(reading)
        lengths = self.encoded.rows.lengths[self.train]
        counts = f"{len(self.train):,} for training, {len(self.validation):,} for validation"
        counts += f", {len(self.test):,} for testing" * bool(self.options.fold)
        counts += f"; {lengths.min()} to {lengths.max()} steps"
        if self.in_time:
            later = int(self.encoded.rows.lengths[self.validation].sum())
            counts = f"one, of which the first {int(lengths.sum()):,} steps are for training and the last {later:,} for validation"
        lines = [("sequences", f"{self.source}: {counts}, {what}")]
        if reading.categories:
            counts = [f"{len(words):,} in {name!r}" for name, words in reading.categories.items()]
            lines.append(("words", ", ".join(counts)))
            lines += unknown_words(self.encoded, self.validation, "of the validation steps")
        if self.options.mark_gaps:
            without = "none in training, so nothing is learned of those that are missing later"
            lines.append(("missing", self.encoded.missing(self.train) or without))
        if reading.time is not None:
            unit = " seconds are" if reading.dates else " is"
            told = f"{reading.interval:.6g}{unit} usual from a step to the next in {reading.time!r}"
            still = f"all steps of a sequence have the same in {reading.time!r}, so nothing is learned of them"
            between = map(self.encoded.sequences.between, self.encoded.sequences.blocks(self.train))
            moving = any(block.any() for block in between)
            lines.append(("times", told if moving else still))
        for part, held in self.apart.items():
            shown = [" ".join(name.split())[:60] for name in held[:NAMED]] + ["..."] * (len(held) > NAMED)
            lines.append((part, f"{len(held)} of {self.groups} values of {self.options.group!r}: {', '.join(shown)}"))
        if len(self.places) < len(own := self.encoded.all_places(self.train)):
            lines.append(
                ("labels", f"{len(self.places):,} of {len(own):,} training steps have one; only these are learned")
            )
        if unit == "words" and reading.tokens:
            words, strange = self.encoded.tokens(self.train, words=True)
            if strange > MOST * words:
                only = f"{strange:,} of {words:,} words of the training occur in one text only, and are not told apart"
                lines.append(("words", f"{only}; --unit characters may learn more"))
        return lines


def _read(reading: Inputs) -> str:
    """Returns how many channels there are, and the names of some: a column of times or numbers of rows may be among them."""
    count, names = len(reading.mean), reading.channels
    if not count:
        return "no channel of numbers"
    shown = f": {', '.join(names[:NAMED])}{', ...' if count > NAMED else ''}" if names else ""
    return f"{count} channel{'s' * (count > 1)}{shown}"


def unknown_words(encoded: Encoded, own: Sequence[int] | NDArray[np.int64], of: str) -> Iterator[tuple[str, str]]:
    """Yields what there is to say of words that the training lacks. of: what the steps of these sequences are called."""
    steps = int(encoded.rows.lengths[np.asarray(own)].sum())
    for name, (count, words) in encoded.strange(own).items():
        if count:
            where = f"{words:,} word{'s' * (words > 1)} in {name!r}, at {count:,} {of}, {count / steps:.1%}"
            yield "unknown", f"{where}: the network reads one stand-in for all"


def unit_of(options: SequenceOptions) -> str | None:
    """Returns what texts are read in, None for numbers."""
    return None if options.text is None else options.unit


def columns_of(options: SequenceOptions, inputs: Inputs | None = None) -> Columns:
    """Returns what is read of a table. inputs: what was learned; channels are then its own, whatever their order."""
    o, own = options, options.column_list
    if inputs is not None and (inputs.channels or not inputs.mean):
        own = tuple(inputs.channels)
    return Columns(
        o.label,
        o.sequence,
        o.text,
        own,
        o.category_list,
        o.fill_gaps,
        o.mark_gaps,
        o.time,
        o.numeric,
        o.label_each_step,
        o.empty_label,
    )


def gathered(
    path: Path | None, options: SequenceOptions, bad: BadRows, built_in: Iterable[Labelled], inputs: Inputs | None
) -> tuple[Gathered, int]:
    """Returns all sequences, and how many of them are not of the validation file.

    built_in: what is read without a file. inputs: what was learned of the data before, whose channels they must have.
    """
    o, columns = options, columns_of(options, inputs)
    found = Gathered.of(o, unit_of(o) if path else None, inputs)
    own = columns._replace(group=o.group if o.validation is None or o.fold else None)
    every = iter(built_in if path is None else sequences(path, own, bad=bad))
    if o.label_each_step and o.validation is None:
        start = list(islice(every, 2))
        found.in_time = len(start) == 1
        every = chain(_cut(start[0], o.held_out) if found.in_time else start, every)
    found.add(every, path or Path("the built-in data"))
    count = len(found)
    if o.validation is not None:
        if found.names or not found.channels:
            columns = columns._replace(channels=found.names)
        found.add(sequences(Path(o.validation), columns, bad=bad), Path(o.validation))
    return found, count


def _cut(only: Labelled, held_out: float) -> Iterator[Labelled]:
    """Yields the beginning of a sequence whose steps have labels, to learn from, and its end, to judge by."""
    steps = len(only.content)
    cut = max(1, steps - max(1, round(steps * held_out)))
    yield only.part(0, cut, only.name)
    if cut < steps:
        yield only.part(cut, steps, f"{only.name}, its end")


def left_out(
    sequences: Gathered, options: SequenceOptions, count: int, kinds: NDArray[Any], path: Path | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the places of the sequences that --fold leaves for training and validation, and of those that it leaves out.

    count: how many sequences are not of the validation file. kinds: (N,), of which each part has the same share. Raises
    InputError if there are fewer sequences, or groups of them, than parts.
    """
    own = np.arange(count)
    if options.fold_of is None:
        return own, own[:0]
    if sequences.in_time:
        raise InputError(f"--fold leaves whole sequences out, and {path} is one; give several")
    k, n = options.fold_of
    items, what = (len(sequences.groups), f"values of {options.group!r}") if sequences.groups else (count, "sequences")
    if items < n:
        raise InputError(f"--fold {options.fold} wants {n} parts, but {path} has {items} {what}; give fewer parts")
    if sequences.groups:
        part = group_folds(np.array(sequences.group_of), n, options.seed)
    else:
        part = folds(kinds[:count], n, options.seed)
    return own[part != k - 1], own[part == k - 1]


def parted(
    sequences: Gathered, options: SequenceOptions, own: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the places of the sequences for training and for validation: drawn at random, or the end of the only one.

    own: the places of the sequences that are drawn from. Those of the same group stay together. Raises InputError if there
    is only one group.
    """
    if sequences.groups and len(own):
        names, of = np.unique(np.array(sequences.group_of)[own], return_inverse=True)
        if len(names) < 2:
            only = list(sequences.groups)[names[0]]
            if options.fold:
                raise InputError(
                    f"--fold {options.fold} leaves only sequences with {only!r} in {options.group!r}, and some must be held out; give those of more, or make more parts"
                )
            raise InputError(
                f"all sequences have {only!r} in {options.group!r}; give those of several, or leave --group out"
            )
        apart = np.isin(of, held_out_groups(of, options.held_out, options.seed))
        return own[~apart], own[apart]
    if sequences.in_time:
        return np.arange(1), np.arange(1, len(sequences))
    if not len(own):
        return own, own
    train, validation = held_out(len(own), options.held_out, options.seed)
    return own[train], own[validation]


def check_labels(
    parts: Parts,
    path: Path,
    least: str,
    few: int,
    bad: BadRows,
) -> None:
    """Raises InputError if there are less than `few` sequences to learn from, no one to judge by, or no labels in them.

    least: how many whole ones are needed, in words. bad: what was left out.
    """
    sequences, train, validation, test = parts
    if sequences.each_step:
        least, few = "give at least two sequences, or one of at least two steps", 1
    if len(train) < few or not len(validation):
        counts = f"{len(train)} sequence{'s' * (len(train) != 1)} for training and {len(validation)} for validation"
        skipped = f", with {bad.count} malformed skipped, the first: {bad.first}" if bad.count else ""
        raise InputError(f"{path} leaves {counts}{skipped}; {least}")
    if sequences.each_step:
        remedy = "give at least one there" if sequences.in_time else "give labels in more sequences, or another --seed"
        for own, where in ((train, "training"), (validation, "validation"), (test, "testing")):
            if len(own) and not (sequences.given(own) >= 0).any():
                raise InputError(f"no step that {path} leaves for {where} has a label; {remedy}")


def in_groups(every: Iterable[Labelled]) -> Iterator[list[Labelled]]:
    """Yields sequences in lists of `CHUNK`, or fewer where these have more than `MANY` steps with labels of their own."""
    return groups(every, CHUNK, lambda each: len(each.labels or ()), MANY)


def named(group: Iterable[Labelled]) -> Iterator[dict[str, Any]]:
    """Yields how the rows about these sequences begin, or those about each of their steps if these have labels."""
    for each in group:
        if each.labels is None:
            yield {"sequence": each.name}
        else:
            yield from ({"sequence": each.name, "step": step} for step in range(1, len(each.labels) + 1))


def labels_of(group: Iterable[Labelled]) -> Iterator[str | None]:
    """Yields the labels of these sequences, or of their steps, as they are written."""
    for each in group:
        yield from (each.label,) if each.labels is None else each.labels


def check_tokens(inputs: Inputs, sequences: Gathered, path: Path | None, count: int) -> None:
    """Raises InputError if nothing was learned of texts. count: how many there are."""
    if sequences.unit is not None and not inputs.tokens:
        lacks = "word that occurs in two" if sequences.unit == "words" else "character in any"
        remedy = (
            "read them with --unit characters, or give more" if sequences.unit == "words" else "give texts with some"
        )
        raise InputError(f"{path} has no {lacks} of its {count} training texts; {remedy}")
