"""What forecasters read and are judged on: series in deviations from their means, cut into windows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elman.datasets import series
from elman.datasets.codes import Codes
from elman.datasets.series import Columns, Series
from elman.datasets.store import Store
from elman.errors import InputError
from elman.files import Kept, write_json
from elman.tasks.options import ForecastingOptions as Options
from elman.tasks.separate import many, moments
from elman.tasks.tallies import LEAST, Tally, stretches, values
from elman.tasks.words import RARE, check_words, frequent

CHUNK = 2048  # windows that are taken side by side
SCALES = "scales.json"
DROPPED = ("dates",)  # of it, which runs of earlier versions have


class Scale(NamedTuple):
    """What the targets of a series are measured in, (targets,) each."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    seasonal: NDArray[np.float64]  # the mean change over a season, in deviations; MASE is told in it


class Scales(NamedTuple):
    """The names of the columns, and what they are measured in, by the part of the data that is learned from.

    Each series of a table with groups has a scale of its own, so that a large one does not outweigh the others.
    """

    targets: list[str]
    known: list[str]
    mean: list[float]  # of the targets in all series together, then of the known and the observed columns
    deviation: list[float]
    seasonal: list[float]  # of the targets, as `Scale` has it
    step: str | None = None  # between two times, such as "1 h"; None where most are not alike, or series differ
    series: Mapping[str, Sequence[Sequence[float]]] = {}  # of each group: its `Scale`
    observed: Sequence[str] = ()  # columns that are read, but neither forecast nor known in advance
    # The words of known or observed columns, frequent ones first; code 0 stands for all others.
    words: Mapping[str, Sequence[str]] = {}

    @classmethod
    def of(
        cls,
        parts: Sequence[Series],
        targets: Sequence[str],
        options: Options,
        words: Mapping[str, Sequence[str]] = {},
    ) -> Scales:
        """parts: the part of every series that is learned from. words: those of each category, as `words_of` has them."""
        steps = {part.pace.said() if part.pace else None for part in parts} - {None}
        step = steps.pop() if len(steps) == 1 else None
        for k, name in enumerate(targets):
            if not any(part.given is None or part.given[:, k].any() for part in parts):
                raise InputError(
                    f"column {name!r} has no number in the training part; name the other columns with --columns"
                )
        beside, known = (*options.known_list, *options.observed_list), len(options.known_list)
        for k, name in enumerate(beside):
            # A known column has a number in all rows of a series, or in none.
            if not any(np.isfinite(part.known[: 1 if k < known else None, k]).any() for part in parts):
                flag = "--known" if k < known else "--observed"
                raise InputError(f"column {name!r} has no number in the training part; leave it out of {flag}")
        mean, deviation = moments(_blocks(parts, filled=False), len(targets) + len(beside))
        seasonal = _changes(parts, options.period) / deviation[: len(targets)]
        coded = [len(targets) + beside.index(name) for name in words]
        mean[coded], deviation[coded] = 0.0, 1.0  # codes are no amounts
        names = list(targets), list(options.known_list)
        found = cls(*names, mean.tolist(), deviation.tolist(), _positive(seasonal).tolist(), step)
        found = found._replace(observed=list(options.observed_list), words=dict(words))
        if options.group is None:
            return found
        return found._replace(
            series={part.group: [each.tolist() for each in found._alone(part, options.period)] for part in parts}
        )

    def of_series(self, one: Series, options: Options) -> Scale:
        """Returns the scale of a series. One that is new is measured by the first rows that a forecast reads."""
        if one.group in self.series:
            return Scale(*map(np.array, self.series[one.group]))
        return self._alone(one.first(options.lookback), options.period) if self.series else self._together()

    @property
    def others(self) -> list[str]:
        """The columns that are read and not forecast, in the order of `Series.known`."""
        return [*self.known, *self.observed]

    @property
    def beside(self) -> list[str]:
        """These in the order in which a network reads them: numbers first, then codes of words."""
        return sorted(self.others, key=lambda name: name in self.words)

    def scaled_known(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns what a network reads of known and observed columns (n, known + observed), in the order of `beside`.

        Numbers are in deviations from their means, which stand where there is none.
        """
        c, every = len(self.targets), self.others
        scaled = np.nan_to_num((values - np.array(self.mean[c:])) / np.array(self.deviation[c:]))
        return scaled[:, [every.index(name) for name in self.beside]]

    def unknown(self, every: Iterable[Series]) -> Iterator[str]:
        """Yields of each category in how many rows its word is unknown, if there are some."""
        of = {name: [0, 0] for name in self.words}
        for one in every:
            for name, count in of.items():
                codes = one.known[: len(one.targets), self.others.index(name)]
                count[0] += int(np.count_nonzero(codes == 0))
                count[1] += len(codes)
        for name, (rows, whole) in of.items():
            if rows:
                yield f"words in {name!r}, in {many(rows, 'row')}, {rows / whole:.1%}: the network reads one stand-in for all"

    def new(self, every: Sequence[Series]) -> list[str]:
        """Returns the names of the series that the training data do not have, if it matters."""
        return [one.group for one in every if one.group not in self.series] if self.series else []

    def _alone(self, one: Series, period: int) -> Scale:
        """Returns the scale of one series by itself, with the deviations of all where it never changes."""
        if not len(one.targets):
            return self._together()
        c, names, all_of = len(self.targets), len(self.deviation), self._together()
        mean, deviation = moments(_blocks([one], filled=False), names, np.array(self.deviation))
        mean = mean[:c] if one.given is None else np.where(np.any(one.given, axis=0), mean[:c], all_of.mean)
        return Scale(mean, deviation[:c], _positive(_changes([one], period) / deviation[:c]))

    def _together(self) -> Scale:
        c = len(self.targets)
        return Scale(np.array(self.mean[:c]), np.array(self.deviation[:c]), np.array(self.seasonal))

    def save(self, directory: Path) -> None:
        write_json(directory / SCALES, self._asdict())

    @classmethod
    def load(cls, kept: Kept) -> Scales:
        content = kept.json(SCALES)
        try:
            found = cls(**{name: value for name, value in content.items() if name not in DROPPED})
            names, seasons = len(found.targets) + len(found.beside), len(found.seasonal)
            if len(found.mean) != names or len(found.deviation) != names or seasons != len(found.targets):
                raise ValueError("names and numbers do not fit each other")
            check_words(found.words)
            if not {*found.words} <= {*found.others}:
                raise ValueError("a category is no column that is read")
            for group, own in found.series.items():
                if np.shape(own) != (3, len(found.targets)):
                    raise ValueError(f"the numbers of {group!r} do not fit the names")
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(f"{kept.place(SCALES)} is damaged: {error}; restore it or train again") from error
        return found

    def columns(self, options: Options) -> Columns:
        words = {name: Codes(words) for name, words in self.words.items()}
        return Columns(tuple(self.targets), tuple(self.known), options.time, options.group, tuple(self.observed), words)


def words_of(parts: Sequence[Series], options: Options, codes: Mapping[str, Mapping[str, int]]) -> dict[str, list[str]]:
    """Returns the words of each category that occur in several rows of what is learned from, frequent ones first.

    codes: those that words have in these parts.
    """
    found, beside = dict[str, list[str]](), (*options.known_list, *options.observed_list)
    for name, own in codes.items():
        often = np.zeros(len(own) + 1, np.int64)
        for part in parts:
            often += np.bincount(part.known[:, beside.index(name)].astype(np.int64), minlength=len(often))
        found[name] = frequent([*own], often[1:].tolist(), often[1:] >= RARE)
        if not found[name]:
            raise InputError(f"no word in {name!r} occurs in two rows of the training part; leave it out")
    return found


def _changes(parts: Sequence[Series], period: int) -> NDArray[np.float64]:
    """Returns the mean absolute change of each target over a season, (targets,), of numbers that were not filled in."""
    changes, count = np.zeros(parts[0].targets.shape[1]), np.zeros(parts[0].targets.shape[1])
    for part in parts:
        earlier, later = part.targets[:-period], part.targets[period:]
        for begin in range(0, len(later), series.BLOCK):
            own = slice(begin, begin + series.BLOCK)
            change = np.abs(later[own] - earlier[own])
            told = np.broadcast_to(True, change.shape)
            if part.given is not None:
                told = part.given[:-period][own] & part.given[period:][own]
            changes += np.where(told, change, 0.0).sum(0)
            count += told.sum(0)
    return changes / count.clip(1)


def _positive(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the numbers, which are divisors, with 1 where one is not finite or 0."""
    return np.where(np.isfinite(numbers) & (numbers > 0), numbers, 1.0)


def _blocks(every: Sequence[Series], filled: bool = True) -> Iterator[NDArray[np.float64]]:
    """Yields the rows of all series that have targets, (n, targets and known and observed), many at a time.

    filled: whether with numbers that were filled in; else these are NaN, and so is what is known of rows that have no other.
    """
    for one in every:
        for begin in range(0, len(one.targets), series.BLOCK):
            targets = one.targets[begin : begin + series.BLOCK]
            block = np.concatenate([targets, one.known[begin : begin + len(targets)]], 1)
            if not filled and one.given is not None:
                told = one.given[begin : begin + len(targets)]
                whole = np.broadcast_to(np.any(told, axis=1, keepdims=True), one.known[: len(told)].shape)
                block = np.where(np.concatenate([told, whole], 1), block, np.nan)
            yield block


class Scaled(NamedTuple):
    """All values of some series in deviations from the mean, which may be more than memory holds."""

    values: Tensor  # one series and column after the other, so that a window is a slice
    scale: Scale  # of one series and column after the other, (series * columns,) each
    known: Tensor  # (rows of all, known + observed)
    rows: list[int]  # of each series
    columns: int  # those to be forecast
    given: Tensor | None  # as `values`: False where a number was filled in; None where none was

    @classmethod
    def of(cls, every: Sequence[Series], scales: Scales, options: Options) -> Scaled:
        c, rows = len(scales.targets), [len(s.targets) for s in every]
        each = [scales.of_series(one, options) for one in every]
        values, known = Store(np.float32), Store(np.float32)
        for s, own in zip(every, each, strict=True):
            for k in range(c):
                for begin in range(0, len(s.targets), series.BLOCK):
                    values.append((s.targets[begin : begin + series.BLOCK, k] - own.mean[k]) / own.deviation[k])
        for block in _blocks(every):
            known.append(scales.scaled_known(block[:, c:]))
        every_known = known.array().reshape(sum(rows), len(scales.beside))
        given = None
        if any(s.given is not None for s in every):
            told = Store(np.bool_)
            for s, k in product(every, range(c)):
                told.append(np.broadcast_to(True, len(s.targets)) if s.given is None else s.given[:, k])
            given = torch.from_numpy(told.array())
        scale = Scale(*(np.concatenate(numbers) for numbers in zip(*each, strict=True)))
        return cls(torch.from_numpy(values.array()), scale, torch.from_numpy(every_known), rows, c, given)


class Windows:
    """All windows of some series: every place where a forecast may begin, and what came before and after it.

    A column in which all the numbers to be forecast were filled in has none, and none begins before its first number.
    """

    def __init__(self, scaled: Scaled, spans: Sequence[tuple[int, int]], past: int, ahead: int):
        """spans: the rows of each series that must contain the forecast times; the past may be before them."""
        self.values, self.known, self.past, self.ahead = scaled.values, scaled.known, past, ahead
        self.given, self.scale, self.columns = scaled.given, scaled.scale, scaled.columns
        first, count, row, begins, before = [], [], [], [], 0  # before: rows of the series before this one
        for (begin, end), n in zip(spans, scaled.rows, strict=True):
            for k in range(scaled.columns):
                place = scaled.columns * before + k * n  # of the first value
                earliest, told = max(begin, past), end > begin  # the earliest row to be forecast
                if self.given is not None and told:
                    given = self.given[place : place + end].numpy()
                    earliest = max(earliest, int(given.argmax()) + 1)
                    told = bool(given[earliest:].any())
                begins.append(earliest)
                first.append(place + earliest - past)
                row.append(before + earliest - past)
                count.append(max(0, end - ahead - earliest + 1) if told else 0)
            before += n
        self.first, self.row = np.array(first), np.array(row)
        self.begins = np.array(begins)  # of each series and column: the row, from 0, where its first forecast begins
        self.before = np.concatenate([[0], np.cumsum(count)])  # windows before those of each series and column

    def __len__(self) -> int:
        return int(self.before[-1])

    def take(self, own: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns past (past, N), the numbers of the columns (N,), known (past + ahead, N, known + observed), ahead (ahead, N).

        What was filled in is NaN in the values ahead, as it is not known to be true.
        """
        block = self.block(own)
        offset = own - self.before[block]
        steps = torch.arange(self.past + self.ahead)[:, None]
        places = torch.from_numpy(self.first[block] + offset) + steps
        values = self.values[places]
        rows = torch.from_numpy(self.row[block] + offset) + steps
        past, truth = values[: self.past], values[self.past :]
        if self.given is not None:
            truth = truth.masked_fill(~self.given[places[self.past :]], torch.nan)
        return past, torch.from_numpy(block % self.columns), self.known[rows], truth

    def block(self, own: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns which series and column windows are of: its place in `scale`."""
        return np.searchsorted(self.before, own, side="right") - 1

    def chunks(self, most: int) -> Iterator[NDArray[np.int64]]:
        """Yields the numbers of all windows, or of `most` at equal distances, some at a time."""
        chosen = range(len(self)) if most >= len(self) else self.evenly(most)
        for begin in range(0, len(chosen), CHUNK):
            yield np.asarray(chosen[begin : begin + CHUNK])

    def evenly(self, most: int) -> NDArray[np.int64]:
        """Returns the numbers of all windows, or of `most` at equal distances."""
        return np.unique(np.linspace(0, len(self) - 1, min(most, len(self))).astype(np.int64))


class Errors:
    """Means over windows, steps and columns, in deviations; MASE in changes over a season. Truths may be missing."""

    def __init__(self, windows: Windows, unit: NDArray[np.float64] | None = None):
        """unit: deviations, and changes over a season in these, (2, series * columns); those of the windows if left out."""
        own = windows.scale
        self.deviation, self.seasonal = (own.deviation, own.seasonal) if unit is None else unit
        self.ratio = own.deviation / self.deviation
        self.windows, longest = windows, int(np.diff(windows.before).max(initial=1))
        # Windows that begin together share what they read and what follows, so that the units are parts of the time.
        self.parts, series = stretches(longest, 2 * windows.ahead), len(windows.first) // windows.columns
        self.by_series = self.parts < LEAST <= series  # many short ones, of which each is a unit
        self.units = series if self.by_series else self.parts
        self.sums = np.zeros((4, self.units))  # squares, absolute errors, and these in changes over a season; how many
        self.columns = np.zeros(
            (2, windows.columns)
        )  # of each: the sum of absolute errors in its own unit, and how many
        self.of_windows = list[
            NDArray[np.float64]
        ]()  # mean absolute errors, (N,) at a time; NaN of one without a truth

    def add(self, forecast: Tensor, truth: Tensor, own: NDArray[np.int64]) -> None:
        """forecast and truth: (H, N), of the windows with these numbers. A truth that is NaN does not count."""
        told = ~truth.isnan()
        error = (forecast - truth).double().masked_fill(~told, 0.0)
        block, before = self.windows.block(own), self.windows.before
        error *= torch.from_numpy(self.ratio[block])
        absolute, count = error.abs().sum(0).numpy(), told.sum(0).numpy()
        self.of_windows.append(np.where(count, absolute / count.clip(1), np.nan))
        part = (own - before[block]) * self.parts // (before[block + 1] - before[block])
        unit = block // self.windows.columns if self.by_series else part
        for sums, each in zip(
            self.sums, (error.square().sum(0).numpy(), absolute, absolute / self.seasonal[block], count), strict=True
        ):
            sums += np.bincount(unit, each, self.units)
        for sums, each in zip(self.columns, (absolute * self.deviation[block], count), strict=True):
            sums += np.bincount(block % self.windows.columns, each, self.windows.columns)

    @property
    def tallies(self) -> dict[str, Tally]:
        *every, count = self.sums
        return {
            name: Tally(np.stack([each, count], -1)) for name, each in zip(("mse", "mae", "mase"), every, strict=True)
        }

    def means(self) -> dict[str, float]:
        return values(self.tallies)
