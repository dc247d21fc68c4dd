"""Sequences as they are kept while a model learns of them, or is judged by them."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman.datasets.events import Events
from elman.datasets.gaps import MEASURED, ages, filled
from elman.datasets.sequences import Labelled
from elman.datasets.store import Rows
from elman.errors import InputError
from elman.tasks.pieces import ranges

STEPS = 1 << 16  # of numbers, which are worked on at once
WORD = re.compile(r"\w+|[^\w\s]")


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
        self.events: Events | None = None  # how labels of moments are written, if there are any
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
            self._digest.update((each.digest or own) + "\0".join(label or "" for label in labels).encode())
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


def split(text: str, unit: str) -> list[str]:
    """Returns the words of a text in lower case, and its signs; or its characters."""
    return WORD.findall(text.lower()) if unit == "words" else list(text)
