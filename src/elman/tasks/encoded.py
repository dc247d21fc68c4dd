"""Sequences of numbers, of words or of texts as what a network reads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elman.datasets.codes import Codes
from elman.datasets.gaps import MEASURED
from elman.errors import InputError
from elman.files import Kept, write_json
from elman.tasks.gathered import Gathered
from elman.tasks.pieces import Pieces, ranges
from elman.tasks.separate import moments, padded
from elman.tasks.tallies import Units, stretches
from elman.tasks.words import RARE, check_words, frequent

FAR = 1e30  # deviations from the mean, of which sums are still finite
OLD = 1e4  # usual steps, beyond which all ages are the same
RUNS = 5  # of equal labels in a part of a sequence by which a score is judged
SHORT = 10  # steps of a part of a sequence, at least, by which a score is judged
NAMED = 8  # channels, or groups, that are named


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
    samples: int = 0  # of a recording that a step has, where the network of an exported file hears them itself

    @classmethod
    def learn(cls, sequences: Gathered, own: NDArray[np.int64], options: Any) -> Self:
        """Learns it, and what a task needs besides, from the sequences at these places."""
        raise NotImplementedError

    def fitted(self, options: Any) -> Any:
        """Returns the options of a run that learned this, which earlier versions may have understood in another way."""
        return options

    def grown(self, sequences: Gathered, own: NDArray[np.int64], options: Any) -> Self:
        """Returns the same for a training that goes on with the sequences at these places. What weights depend on is kept."""
        return self

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
        if type(self.samples) is not int or self.samples not in (0, len(self.mean)):
            raise ValueError("the samples of a step do not fit the channels")
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


def slowest(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Returns of several values, (n, V), whether the one that crosses its mean least often is above this, (n,).

    A value that is missing, NaN, is as before. One that is missing everywhere is left out.
    """
    values = values[:, ~np.isnan(values).all(0)]
    known = np.where(np.isnan(values), 0, np.arange(len(values))[:, None])
    last = np.maximum.accumulate(known)
    last = np.maximum(last, (~np.isnan(values)).argmax(0))  # before the first one: as it
    above = np.take_along_axis(values, last, 0) > np.nanmean(values, 0)
    return above[:, np.count_nonzero(np.diff(above, axis=0), axis=0).argmin()]


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

    def units(self, places: NDArray[np.int64], kind: NDArray[Any] | None = None) -> Units:
        """Returns to which sequences the labels at these places belong, or to which groups of them, or parts of the only one.

        kind: something of them that changes as they do, (n,); that of `kind` if left out.
        """
        (of, _), groups = self.step_at(places), self.sequences.group_of
        if len(groups) == len(self.rows):
            return Units(np.array(groups)[of], len(self.sequences.groups))
        if self.each_step and len(of) and (of == of[0]).all():
            # Errors come in runs as labels do, so that a part must have several.
            changes = int(np.count_nonzero(np.diff(self.kind(places) if kind is None else kind)))
            parts = stretches(len(places), max(SHORT, RUNS * len(places) // (1 + changes)))
            return Units(np.arange(len(places)) * parts // len(places), parts, parts=True)
        return Units(of, len(self.rows))

    @property
    def texts_of_labels(self) -> list[str]:
        """The different labels as they are written."""
        return [*self.sequences.different]

    @property
    def digest(self) -> str:
        """Returns a digest of all labels, and of whose they are."""
        names = [self.sequences.name(k) for k in range(len(self.rows))]
        found = hashlib.sha256(repr((names, self.texts_of_labels)).encode())
        for numbers in (self._labels.steps, self._labels.bounds):
            found.update(np.ascontiguousarray(numbers).data)
        return found.hexdigest()

    def kind(self, places: NDArray[np.int64]) -> NDArray[Any]:
        """Returns something of the labels at these places that changes as they do, (n,)."""
        raise NotImplementedError

    def named(
        self, own: NDArray[np.int64], same: NDArray[Any] | None = None
    ) -> Iterator[tuple[int, dict[str, Any], str | None, slice]]:
        """Yields of each row about these sequences, or about their steps: the place of the sequence, how the row begins, and the label as it is written.

        At last which of the places of these sequences it is about. same: (n,), a number of each place. Steps of a recording
        in a row that have the same one, and the same label, are an event together, with its begin and its end in seconds.
        """
        labels, first, how = [*self.sequences.different, None], 0, self.sequences.events
        for k in own.tolist():
            name, numbers = {"sequence": self.sequences.name(k)}, self._labels[k].tolist()
            starts = np.arange(len(numbers))
            if how is not None and same is not None:
                changes = np.diff(same[first : first + len(numbers)]) | np.diff(numbers)
                starts = np.append(0, np.flatnonzero(changes) + 1)
            for begin, end in pairwise([*starts.tolist(), len(numbers)]):
                of = {"step": begin + 1} if self.each_step else {}
                if how is not None:
                    of = {"begin": round(begin * how.seconds, 6), "end": round(end * how.seconds, 6)}
                yield k, name | of, labels[numbers[begin]], slice(first + begin, first + end)
            first += len(numbers)

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
