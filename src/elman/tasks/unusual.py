"""How unusual the rows of a series are: how far their numbers are from what was expected of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from elman.datasets import examples, series, tables
from elman.datasets.reading import BadRows
from elman.datasets.series import Series
from elman.errors import InputError
from elman.files import Kept
from elman.tasks.forecasting import Forecaster, check_steps, parts
from elman.tasks.separate import digits, many
from elman.tasks.windows import CHUNK
from elman.training.record import NOT_KEPT

OURS = "the model"
LEAST = 20  # usual rows for each column, of which it is known how the errors of columns go together
RIDGE = 1e-3  # of each variance, which is added to it, so that columns which are sums of others do no harm
LASTS = 3  # times `ahead` that a fault lasts at most; what lasts longer is a change for good
KEPT = 10_000  # scores of usual rows that a file has
USUAL = "usual.json"
FARTHEST = 1e30  # deviations that a number may be from the mean, so that its square is a number, too
SMALLEST = 1e-6  # of a deviation, in deviations of the column: that of one which never changes


class Expected(NamedTuple):
    """What some rows of a series have and what was expected of them, (rows, targets), in deviations.

    NaN stands where a number was filled in.
    """

    values: NDArray[np.float64]
    expected: NDArray[np.float64]
    width: NDArray[np.float64]  # half of the band between the outer quantiles; 1 without them

    @property
    def errors(self) -> NDArray[np.float64]:
        return (self.values - self.expected) / self.width


Expecting = Callable[[Series, int, int], Expected]  # of the rows of a series from one to another


@dataclass(frozen=True)
class Usual:
    """How large errors are in rows that are known to be usual, and how those of the columns go together.

        S = mean of e e^T over usual rows, with RIDGE of its diagonal added     e: the errors of a row, (targets,)
        P = S^-1
        departure of e_k = e_k - what the errors of the other columns lead one to expect of it = (P e)_k / P_kk
        score of a number = |departure| / its deviation = |(P e)_k| / sqrt(P_kk)
        score of a row    = the largest score of its numbers
        share of a row    = (1 + usual rows with this score or a larger one) / (1 + usual rows)

    In rows like the usual ones, a share of at most p comes up with a probability of about p. Sources: K. V. Mardia, J. T. Kent,
    J. M. Bibby, Multivariate analysis (1979), for the conditional distribution; V. Vovk, A. Gammerman, G. Shafer,
    Algorithmic learning in a random world (2005), for the share.
    """

    together: NDArray[np.float64]  # S of all series, (targets, targets)
    own: Mapping[str, NDArray[np.float64]]  # of each series that has enough usual rows: its own S
    sorted: NDArray[np.float64]  # scores of usual rows

    @classmethod
    def of(cls, every: Iterable[tuple[str, NDArray[np.float64]]]) -> Usual:
        """every: the group of each series and its errors, (rows, targets), NaN where there is none."""
        kept = list(every)
        enough = ((group, errors) for group, errors in kept if _complete(errors) >= LEAST * errors.shape[1])
        together = _products(np.concatenate([errors for _, errors in kept]))
        found = cls(together, {group: _products(errors) for group, errors in enough}, np.empty(0))
        largest = np.concatenate([np.fmax.reduce(found.scored(*each)[1], axis=1, initial=-1) for each in kept])
        return replace(found, sorted=np.sort(largest[largest >= 0]))

    def as_json(self) -> dict[str, Any]:
        """Returns what `of_json` reads, with so many scores at most that stand for all of them."""
        places = np.unique(np.linspace(0, len(self) - 1, min(KEPT, len(self))).astype(np.int64))
        own = {group: _listed(products) for group, products in self.own.items()}
        return {"together": _listed(self.together), "own": own, "scores": [digits(x) for x in self.sorted[places]]}

    @classmethod
    def of_json(cls, content: Any, targets: int) -> Usual:
        """Raises KeyError, TypeError or ValueError if it is damaged."""
        every = [content["together"], *content["own"].values()]
        together, *own = (np.array(products, float).reshape(targets, targets) for products in every)
        scores = np.array(content["scores"], float)
        if not len(scores) or np.any(np.diff(scores) < 0) or not np.isfinite(scores).all():
            raise ValueError("the scores of usual rows do not rise")
        return cls(together, dict(zip(content["own"], own, strict=True)), scores)

    def __len__(self) -> int:
        return len(self.sorted)

    def scored(self, group: str, errors: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns what the others lead one to expect of the errors of a series, and their scores, (rows, targets)."""
        products = self.own.get(group, self.together)
        found = np.full((2, *errors.shape), np.nan)
        told = np.isfinite(errors) & np.isfinite(np.diag(products))
        for columns in np.unique(told, axis=0):  # of rows that have the same ones
            if columns.any():
                rows = (told == columns).all(axis=1)
                inverse = np.linalg.inv(products[np.ix_(columns, columns)])
                of, own = np.diag(inverse), errors[np.ix_(rows, columns)]
                found[0][np.ix_(rows, columns)] = own @ (np.diag(of) - inverse) / of
                found[1][np.ix_(rows, columns)] = np.abs(own @ inverse) / np.sqrt(of)
        return found[0], found[1]

    def corrected(self, group: str, errors: NDArray[np.float64], limit: float) -> NDArray[np.float64]:
        """Returns the errors of a row, (targets,), with what the others lead one to expect in place of unusual ones.

        The worst one is taken out first, and the others are judged without it.
        """
        kept, scores = errors.copy(), np.nan_to_num(self.scored(group, errors[None])[1][0])
        while scores.max() > limit:
            kept[scores.argmax()] = np.nan
            scores = np.nan_to_num(self.scored(group, kept[None])[1][0])
        products, told = self.own.get(group, self.together), np.isfinite(kept) & np.isfinite(np.diag(self.together))
        gone = np.isfinite(errors) & np.isnan(kept)
        found = errors.copy()
        found[gone] = products[np.ix_(gone, told)] @ np.linalg.solve(products[np.ix_(told, told)], kept[told])
        return found

    def shares(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns the shares of rows with these scores, (rows,). NaN has NaN."""
        above = len(self) - np.searchsorted(self.sorted, scores, side="left")
        return np.where(np.isnan(scores), np.nan, (1 + above) / (1 + len(self)))

    def limit(self, share: float) -> float:
        """Returns the score above which rows have at most this share. Raises InputError if none could have it."""
        above = int(share * (1 + len(self)) + 1e-9) if 0 < share < 1 else 0
        if not above:
            least = 1 / (1 + len(self))
            digit = 10.0 ** (math.floor(math.log10(least)) - 1)  # the second digit, which is rounded up
            raise InputError(
                f"--false-alarms must be below 1, and at least {math.ceil(least / digit - 1e-9) * digit:.2g} with {many(len(self), 'usual row')}, got {share:g}; choose another one, or give more rows with --usual"
            )
        return float(self.sorted[len(self) - above])


def _listed(products: NDArray[np.float64]) -> list[list[float | None]]:
    return [[None if math.isnan(value) else value for value in row] for row in products.tolist()]


def _complete(errors: NDArray[np.float64]) -> int:
    """Returns how many rows have all numbers."""
    return int(np.isfinite(errors).all(axis=1).sum())


def _products(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns S of `Usual`, (targets, targets): without what goes together if few rows have all numbers.

    The variance of a column that has no number is NaN.
    """
    c = errors.shape[1]
    if _complete(errors) >= LEAST * c:
        own = errors[np.isfinite(errors).all(axis=1)]
        products = own.T @ own / len(own)
    else:
        count = np.isfinite(errors).sum(axis=0)
        products = np.diag(np.where(count, np.nansum(errors**2, axis=0) / count.clip(1), np.nan))
    return products + np.diag(RIDGE * np.diag(products) + SMALLEST**2)


def forecasts(forecaster: Forecaster, ahead: int) -> Expecting:
    """Returns what expects the forecast that was made so many steps before."""
    o, scales, criterion = forecaster.options, forecaster.scales, forecaster.criterion

    def of(one: Series, begin: int, end: int) -> Expected:
        c, scale = len(scales.targets), scales.of_series(one, o)
        first = begin - o.lookback - ahead + 1  # the row that the first of the forecasts reads first
        own = _near((one.targets[first:end] - scale.mean) / scale.deviation).astype(np.float32)
        past = sliding_window_view(own[: len(own) - ahead], o.lookback, axis=0)  # (rows, targets, lookback)
        known = _near(scales.scaled_known(one.known[first : end - ahead + o.horizon])).astype(np.float32)
        lacking = end - ahead + o.horizon - first - len(known)  # what is known goes on as in the last row that says it
        known = np.concatenate([known, known[-1:].repeat(lacking, 0)])
        beside = sliding_window_view(known, o.lookback + o.horizon, axis=0)  # (rows, known and observed, steps)
        n = end - begin
        found = forecaster.forecast(
            torch.from_numpy(past.reshape(n * c, o.lookback).T.copy()),
            torch.arange(c).repeat(n),
            torch.from_numpy(beside.repeat(c, 0).transpose(2, 0, 1).copy()),
        )[ahead - 1].double()  # (rows * targets, outputs)
        expected = criterion.middle(found).numpy().reshape(n, c)
        width = np.ones((n, c))
        if criterion.outputs > 1:
            width = ((found[:, -1] - found[:, 0]) / 2).numpy().reshape(n, c).clip(min=SMALLEST)
        return Expected(_values(one, begin, end, own[-n:].astype(np.float64)), expected, width)

    return of


def repeated(forecaster: Forecaster, ahead: int, period: int) -> Expecting:
    """Returns what expects the value that a baseline would have forecast so many steps before: `forecasting.naive`."""
    o, scales, lag = forecaster.options, forecaster.scales, math.ceil(ahead / period) * period

    def of(one: Series, begin: int, end: int) -> Expected:
        scale = scales.of_series(one, o)
        own = _near((one.targets[begin - lag : end] - scale.mean) / scale.deviation)
        values = _values(one, begin, end, own[lag:])
        return Expected(values, own[:-lag], np.ones_like(values))

    return of


def _near(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values.clip(-FARTHEST, FARTHEST)


def _values(one: Series, begin: int, end: int, own: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the numbers of some rows with NaN for those that were filled in, and before a column's first one."""
    if one.given is None:
        return own
    given = one.given[begin:end].copy()
    first = one.given.argmax(axis=0)
    given[np.arange(begin, end)[:, None] <= first] = False  # it stands in the place of all before it
    return np.where(given, own, np.nan)


class Judged(NamedTuple):
    """What is said of the rows of a series: (rows,) and (rows, targets), NaN where nothing is."""

    one: Series
    first: int  # of the rows, from 0
    scores: NDArray[np.float64]  # of the rows
    shares: NDArray[np.float64]
    columns: NDArray[np.int64]  # those that the scores are of
    expected: NDArray[np.float64]  # of each number, once the others of its row are known, in its own unit

    @property
    def values(self) -> NDArray[np.float64]:
        return self.one.targets[self.first :]


class Detector:
    """Says which rows of a file are unusual to a forecaster, and to what baselines expect."""

    def __init__(self, forecaster: Forecaster, ahead: int | None = None):
        o = forecaster.options
        ahead = min(o.horizon, o.period) if ahead is None else ahead
        if not 1 <= ahead <= o.horizon:
            raise InputError(f"--ahead must be between 1 and {o.horizon}, which the run forecasts, got {ahead}")
        forecaster.model.eval()
        self.forecaster, self.ahead = forecaster, ahead
        self.reads = o.lookback + ahead - 1  # rows that there must be before one that is judged
        self.expecting = {OURS: forecasts(forecaster, ahead)}
        for name, period in forecaster.baselines():
            self.expecting[name] = repeated(forecaster, ahead, period)
        self.usual: dict[str, Usual] = {}
        self.source = ""  # where the usual rows are from
        self.remarks: list[str] = []

    @classmethod
    def of(cls, forecaster: Forecaster, ahead: int | None = None, usual: Path | None = None) -> Detector:
        """Returns a detector that measures what is usual.

        ahead: how many steps before a row the forecast was made that it is compared with; None for a season at most.
        usual: a file of rows that are known to be usual; None for the validation part of the training data.
        Raises InputError if there are no such rows.
        """
        found = cls(forecaster, ahead)
        found.source, spans = found._spans(usual)
        for name, expecting in found.expecting.items():
            found.usual[name] = Usual.of((one.group, found._errors(expecting, one, a, b)) for one, a, b in spans)
        if not len(found.usual[OURS]):
            raise InputError(
                f"{found.source} has no row that a forecast can be compared with, since there must be {found.reads} rows before it; give more with --usual"
            )
        return found

    @classmethod
    def load(cls, forecaster: Forecaster, kept: Kept, ahead: int | None = None) -> Detector:
        """Returns a detector that knows what is usual from a file that `elman detect` wrote."""
        content, place = kept.json(USUAL), kept.place(USUAL)
        if ahead not in (None, content.get("ahead")):
            raise InputError(
                f"{place} is about forecasts of {content.get('ahead')} steps before, not of {ahead}; leave --ahead out, or give usual rows with --usual"
            )
        try:
            found = cls(forecaster, int(content["ahead"]))
            for name in found.expecting:
                found.usual[name] = Usual.of_json(content["usual"][name], len(forecaster.scales.targets))
            found.source = "as the file has them"
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{place} is damaged: {error!r}; write the file again") from error
        return found

    def as_json(self) -> dict[str, Any]:
        """Returns what `load` reads."""
        usual = {name: usual.as_json() for name, usual in self.usual.items()}
        return {"ahead": self.ahead, "usual": usual}

    def _spans(self, usual: Path | None) -> tuple[str, list[tuple[Series, int, int]]]:
        """Returns where the usual rows come from, and the series with the rows of each that are usual."""
        if usual is not None:
            return str(usual), [(one, 0, len(one.targets)) for one, _ in self.read(usual)]
        f, remedy = self.forecaster, "give a file of rows that are usual with --usual"
        if f.path == NOT_KEPT:
            raise InputError(f"an exported model does not say what it was trained on; {remedy}")
        try:
            every = f.read_again()
        except InputError as error:
            raise InputError(f"{error}; or {remedy}", f"{error.elsewhere}; or {remedy}") from error
        spans = [(one, *parts(len(one.targets), f.options)[:2]) for one in every]
        return f"the validation part of {f.path or examples.SERIES}", spans

    def read(self, path: Path, label: str | None = None) -> list[tuple[Series, NDArray[np.bool_]]]:
        """Returns the series of a file, and of each which rows a column says are unusual, (rows,)."""
        f, bad = self.forecaster, BadRows(self.forecaster.options.skip_bad)
        columns = f.scales.columns(f.options)
        if label is not None:
            named = {*columns.targets, *columns.others, columns.time, columns.group}
            if label in named:
                raise InputError(f"--label names {label!r}, which the run reads as something else; name another column")
            have = next(iter(tables.pieces(path, bad=BadRows(True)))).columns
            if label not in have:
                has = ", ".join(repr(name) for name in have if name != tables.LINE)
                raise InputError(
                    f"{path} has no column {label!r} for --label; its columns are {has}: choose one of them"
                )
            words = {**columns.words, label: Truth(label, path)}
            columns = columns._replace(observed=(*columns.observed, label), words=words)
        every, _ = series.read(path, columns, bad, fill_gaps=f.options.fill_gaps)
        self.remarks += bad.remarks
        check_steps(every, f.scales, path)
        if label is None:
            return [(one, np.zeros(len(one.targets), np.bool_)) for one in every]
        return [(one._replace(known=one.known[:, :-1]), one.known[: len(one.targets), -1] == 1) for one in every]

    def judge(self, one: Series, limit: float = math.inf, name: str = OURS) -> Judged:
        """Returns what is said of the rows of a series by the model, or by a baseline.

        limit: the largest score of a usual row. Later forecasts do not read the unusual numbers of a row that scores more.
        """
        o, usual, (end, c) = self.forecaster.options, self.usual[name], one.targets.shape
        scale, history = self.forecaster.scales.of_series(one, o), History(one, o.lookback, self.ahead)
        row, size, found = min(self.reads, end), self._block(c), [(np.empty((0, c)), np.empty((0, c)))]
        while row < end:
            rows = self.expecting[name](history.read, row, min(end, row + size))
            errors, stop = rows.errors, min(end, row + size)
            led, scores = usual.scored(one.group, errors)
            for k in np.flatnonzero(np.fmax.reduce(scores, axis=1, initial=-1) > limit).tolist():
                if row + k < stop:
                    usually = usual.corrected(one.group, errors[k], limit)
                    values = (rows.expected[k] + usually * rows.width[k]) * scale.deviation + scale.mean
                    changed = np.isfinite(errors[k]) & (usually != errors[k])
                    stop = min(stop, history.replace(row + k, changed, values))
            expected, n = (rows.expected + led * rows.width) * scale.deviation + scale.mean, stop - row
            found.append((scores[:n], expected[:n]))
            row, size = stop, self.ahead if n < len(errors) else min(self._block(c), 2 * size)
        scores, expected = (np.concatenate(each) for each in zip(*found, strict=True))
        columns = np.where(np.isnan(scores), -1, scores).argmax(axis=1)
        largest = scores[np.arange(len(scores)), columns]
        return Judged(one, min(self.reads, end), largest, usual.shares(largest), columns, expected)

    def _errors(self, expecting: Expecting, one: Series, begin: int, end: int) -> NDArray[np.float64]:
        """Returns the errors of those rows from one to another that are judged, (rows, targets)."""
        begin, size = max(begin, self.reads), self._block(one.targets.shape[1])
        every = [expecting(one, row, min(end, row + size)).errors for row in range(begin, end, size)]
        return np.concatenate([np.empty((0, one.targets.shape[1])), *every])

    def _block(self, columns: int) -> int:
        """Returns how many rows are judged side by side."""
        return max(self.ahead, CHUNK // columns)


class History:
    """What forecasts read of a series: its numbers, and what was expected in the place of unusual ones.

    Else they would expect more of the same, and take what is usual for unusual afterwards. Forecasts that go on from what was
    expected may leave the series, the sooner the less they look ahead. So once LASTS times `ahead` numbers of a column were
    replaced, or half of what a forecast reads, all of it is read as it is.
    """

    def __init__(self, one: Series, lookback: int, ahead: int):
        self.own, self.read = one, one._replace(targets=one.targets.copy())
        self.replaced = np.zeros(one.targets.shape, np.bool_)
        self.lookback, self.ahead, self.most = lookback, ahead, min(lookback / 2, LASTS * ahead)

    def replace(self, row: int, unusual: NDArray[np.bool_], values: NDArray[np.float64]) -> int:
        """Puts values in the place of unusual numbers of a row, (targets,) each, in their own units.

        Returns the first row whose forecast reads other numbers now.
        """
        past = slice(row - self.lookback - self.ahead + 1, row)  # all that later forecasts read
        gone = unusual & (self.replaced[past][-self.lookback :].sum(axis=0) >= self.most)
        self.read.targets[past, gone], self.replaced[past, gone] = self.own.targets[past, gone], False
        for column in np.flatnonzero(unusual & ~gone).tolist():
            rows = slice(row, _next(self.own, row, column))
            self.read.targets[rows, column], self.replaced[rows, column] = values[column], True
        if gone.any():
            return row + 1
        return row + self.ahead if unusual.any() else len(self.replaced)


def _next(one: Series, row: int, column: int) -> int:
    """Returns the row of the next number of a column that was not filled in: all before it repeat this one."""
    if one.given is None:
        return row + 1
    later = one.given[row + 1 :, column]
    return row + 1 + (int(later.argmax()) if later.any() else len(later))


class Truth(dict[str, int]):
    """What the words of a column of labels say: 1 where a row is unusual."""

    def __init__(self, label: str, path: Path):
        super().__init__({"1": 1, "true": 1, "yes": 1, "": 0, "0": 0, "false": 0, "no": 0})
        self.label, self.path = label, path

    def __missing__(self, word: str) -> int:
        if word.lower() in self:
            return self[word.lower()]
        raise InputError(
            f"{self.path}: column {self.label!r} should be 1 or 0, true or false, yes or no, but is {word!r} in a row; change it"
        )
