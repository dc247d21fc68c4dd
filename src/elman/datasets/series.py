"""Time series: tables whose rows are times, checked for order, gaps and duplicates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from elman.datasets import tables
from elman.datasets.reading import BadRows
from elman.datasets.store import Rows, Store
from elman.datasets.times import OFFSET, Pace, as_numbers
from elman.errors import InputError

BLOCK = 1 << 16  # rows that are worked on at a time
GAP = 1.5  # a step of more than this many usual steps is a gap; months differ by less
GIVEN = "\0given "  # before the names of columns that are added, which say where a target has a number
FILL = "fill in missing numbers with --fill-gaps"


class Columns(NamedTuple):
    """What the columns of a table are called."""

    targets: tuple[str, ...] = ()  # to be forecast; all others if empty
    known: tuple[str, ...] = ()  # known in advance, such as prices or holidays
    time: str | None = None
    group: str | None = None  # what tells the series of a table apart
    observed: tuple[str, ...] = ()  # read, but neither forecast nor known in advance
    words: Mapping[str, Mapping[str, int]] = {}  # the codes of words in known or observed columns that have some

    @property
    def others(self) -> tuple[str, ...]:
        return *self.known, *self.observed

    @property
    def in_rows(self) -> Columns:
        """These columns without the name of the series as a word, which is the same in all of its rows."""
        if self.group not in self.words:
            return self
        known, observed = (tuple(name for name in names if name != self.group) for names in (self.known, self.observed))
        words = {name: codes for name, codes in self.words.items() if name != self.group}
        return self._replace(known=known, observed=observed, words=words)


class Series(NamedTuple):
    """One series. Times are in their own unit: microseconds of a date, or the numbers of the file."""

    group: str
    times: NDArray[Any]  # (N,) of int64 or float64; (0,) where there is no column of times
    targets: NDArray[np.float64]  # (N, targets)
    # (N + ahead, known + observed): also for the times ahead, where they are given. Of words their codes.
    known: NDArray[np.float64]
    given: NDArray[np.bool_] | None = None  # (N, targets): False where a number was filled in; None where none was
    later: NDArray[Any] | None = None  # (ahead,): the times of the rows ahead; None where there is no column of times
    pace: Pace | None = None  # of its times in the whole file

    @property
    def filled(self) -> int:
        """How many numbers were filled in."""
        return 0 if self.given is None else self.given.size - int(np.count_nonzero(self.given))

    def first(self, rows: int) -> Series:
        """Returns the series as if it ended after so many rows."""
        given = None if self.given is None else self.given[:rows]
        return self._replace(
            times=self.times[:rows], targets=self.targets[:rows], known=self.known[:rows], given=given, later=None
        )


def read(
    path: Path, columns: Columns, bad: BadRows, *, fill_gaps: bool = False, tail: int | None = None
) -> tuple[list[Series], tuple[str, ...]]:
    """Returns the series of a file, and the names of its targets.

    fill_gaps: puts in the rows that are missing in gaps of the times, and the numbers that are missing in rows. Each is the
    last one before it. A straight line to the number after it would tell a forecast that begins in the gap what follows.
    Before the first number of a column stands this one, and NaN in a column that has none.
    tail: keeps only so many rows of each series, its last ones, so that the file may be larger than memory. Then rows
    whose targets are empty may follow, which say what is known of the times ahead.
    Raises InputError with the file, the line and the value where something is wrong.
    """
    targets, every, paces = _gathered(path, columns, bad, tail, fill_gaps)
    usual = [None if pace is None else pace.step for pace in paces.values()]
    if fill_gaps:
        every = every.filled(usual)
    else:
        for group, step, (times, lines, values) in zip(paces, usual, every, strict=True):
            if tail is not None:
                _check_values(values[: len(targets)], lines, path)
            _check_gaps(times, step, lines, path, group)
    found = []
    for k, ((group, pace), (times, _, values)) in enumerate(zip(paces.items(), every, strict=True)):
        told = every.told(k) if fill_gaps else None
        end = values.shape[1]
        if tail is not None:
            end = _end(np.isfinite(values[: len(targets)]) if told is None else told)
        given = None if told is None or told[:, :end].all() else told[:, :end].T
        own, known = values[: len(targets), :end].T, values[len(targets) :].T
        found.append(Series(group, times[:end], own, known, given, times[end:], pace))
    return found, targets


def _gathered(
    path: Path, columns: Columns, bad: BadRows, tail: int | None, fill: bool
) -> tuple[tuple[str, ...], _Parts, dict[str, Pace | None]]:
    """Returns the names of the targets, a part for each series, and how its times go on, by its group."""
    kept: _Parts | None = None
    places: dict[str, list[int]] = {}  # of each group: which parts of `kept` are its own
    tails: dict[str, pl.DataFrame] = {}
    carried: dict[str, pl.DataFrame] = {}  # of each group: the latest number of each column, a row
    last: dict[str, tuple[Any, int]] = {}  # of each group: its latest time and the line
    paces: dict[str, Pace] = {}
    targets, dates = columns.targets, False
    named = [*columns.targets, *columns.others, *(name for name in (columns.time, columns.group) if name is not None)]
    # Where rows have no times, one without any value is a step, too.
    empty = fill and columns.time is None and columns.group is None
    for piece in tables.pieces(path, bad=bad, empty=empty):
        have = [name for name in piece.columns if name != tables.LINE]
        tables.check_columns(named, have, path)
        targets = targets or tuple(name for name in have if name not in named)
        if not targets:
            raise InputError(f"{path} has no column to forecast besides {', '.join(map(repr, named))}; add one")
        piece = _numbers(piece, targets, columns.in_rows, path, bad, tail is not None, fill)
        if columns.time is not None:
            piece, dates = as_numbers(piece, columns.time, path, bad)
        for group, part in _by_group(piece, columns.group, path, bad):
            if columns.group is not None and columns.group in columns.words:  # the same word in all rows of a series
                part = part.with_columns(pl.lit(columns.words[columns.group][group], pl.Float64).alias(columns.group))
            if columns.time is not None:
                _check_order(part, columns.time, last.get(group), path, group)
                last[group] = part[columns.time][-1], part[tables.LINE][-1]
                offsets = part[OFFSET].to_numpy() if OFFSET in part.columns else None
                paces.setdefault(group, Pace(dates)).add(part[columns.time].to_numpy(), offsets)
            kept = _Parts(targets, columns, dates, fill) if kept is None else kept
            if fill:
                part = _carried(part, targets, kept.names, carried.get(group))
                carried[group] = part[-1:]
            if tail is None:
                places.setdefault(group, []).append(kept.add(part))
                continue
            told = [GIVEN + name for name in targets if fill]
            wanted = [*targets, *columns.others, *([columns.time] if columns.time else []), *told, tables.LINE]
            part = part.select(list(dict.fromkeys(wanted)))
            tails[group] = _tail(pl.concat([tails[group], part]) if group in tails else part, targets, tail)
    if kept is None:
        raise InputError(f"{path} has no usable row; give a table with numbers")
    for group, table in tails.items():
        places[group] = [kept.add(table)]
    return targets, kept.joined(places.values()), {group: paces.get(group) for group in places}


def _by_group(piece: pl.DataFrame, column: str | None, path: Path, bad: BadRows) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yields the rows of each group, with its name. column: what tells groups apart; None where all rows are one."""
    if column is not None:
        piece = tables.texts(piece, [column], path, bad)
        for key, part in piece.partition_by(column, as_dict=True, maintain_order=True).items():
            yield str(key[0]), part
    elif len(piece):
        yield "", piece


def _carried(
    part: pl.DataFrame, targets: Sequence[str], names: Sequence[str], before: pl.DataFrame | None
) -> pl.DataFrame:
    """Returns rows in which a number that is missing is the last one before it, with columns GIVEN for the targets.

    before: the row before them, which has its numbers from rows before it; None for the first row of a series.
    """
    part = part.with_columns(pl.col(name).fill_nan(None) for name in names)
    part = part.with_columns(pl.col(name).is_not_null().alias(GIVEN + name) for name in targets)
    part = part.with_columns(pl.col(name).forward_fill() for name in names)
    if before is None:
        return part
    return part.with_columns(pl.col(name).fill_null(pl.lit(before[name][0], pl.Float64)) for name in names)


class _Parts:
    """Parts of series, one behind the other: of each the times, the lines, and the values of a column after the other.

    fill: whether numbers may be missing; `given` then says of each target, one after the other, where it has some.
    """

    def __init__(self, targets: tuple[str, ...], columns: Columns, dates: bool, fill: bool):
        self.names, self.time, self.targets, self.fill = (*targets, *columns.others), columns.time, targets, fill
        self.early = len(targets) + len(columns.known)  # columns that have a number before their first one
        self.times = Rows(np.float64 if columns.time is not None and not dates else np.int64)
        self.lines, self.values = Rows(np.int64), Rows(np.float64)
        self.given = Rows(np.bool_)
        self._new = partial(_Parts, targets, columns, dates, fill)

    def __getitem__(self, k: int) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.float64]]:
        """Returns times (n,), lines (n,) and values (columns, n)."""
        return self.times[k], self.lines[k], self.values[k].reshape(len(self.names), -1)

    def __iter__(self) -> Iterator[tuple[NDArray[Any], NDArray[np.int64], NDArray[np.float64]]]:
        return (self[k] for k in range(len(self.values)))

    def add(self, table: pl.DataFrame) -> int:
        """Appends a part. Returns its number."""
        self.times.append(np.empty(0) if self.time is None else table[self.time].to_numpy())
        self.lines.append(table[tables.LINE].to_numpy())
        self.values.join(table[name].to_numpy() for name in self.names)
        if self.fill:
            self.given.join(table[GIVEN + name].to_numpy() for name in self.targets)
        return len(self.values) - 1

    def joined(self, groups: Iterable[list[int]]) -> _Parts:
        """Returns one part for each group, which consists of the parts with these numbers."""
        found = self._new()
        for own in groups:
            found.times.join(self.times[k] for k in own)
            found.lines.join(self.lines[k] for k in own)
            found.values.join(self[k][2][column] for column in range(len(self.names)) for k in own)
            if self.fill:
                found.given.join(self.told(k)[target] for target in range(len(self.targets)) for k in own)
        return found

    def told(self, k: int) -> NDArray[np.bool_]:
        """Returns where the targets of a part have a number of their own, (targets, n)."""
        return self.given[k].reshape(len(self.targets), -1)

    def filled(self, usual: Sequence[float | None]) -> _Parts:
        """Returns the parts with the rows that are missing in gaps. usual: the step of each, or None."""
        found = self._new()
        for step, (times, _, _) in zip(usual, self, strict=True):
            step, wide, _ = _gaps(times, step)
            found.times.join(_filled(times, step) if wide else (times,))
            found.lines.append(np.empty(0))  # no message names them any more
        for k, (times, lines, values) in enumerate(self):
            places = partial(_places, found.times[k], times, len(lines))
            found.given.join(told[own] & there for told in self.told(k) for own, there in places())
            begun = (_begun(column) if n < self.early else column for n, column in enumerate(values))
            found.values.join(column[own] for column in begun for own, _ in places())
        return found


def _begun(column: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns a column with its first number in the place of those that are missing before it."""
    first = int(np.isfinite(column).argmax()) if len(column) else 0
    return np.concatenate([np.full(first, column[first]), column[first:]]) if first else column


def _numbers(
    piece: pl.DataFrame,
    targets: tuple[str, ...],
    columns: Columns,
    path: Path,
    bad: BadRows,
    ahead: bool,
    fill: bool,
) -> pl.DataFrame:
    """Returns the piece with numbers, and the codes of words. ahead: whether rows with empty targets are allowed.

    fill: whether any number may be missing.
    """
    known, every = columns.known, [*targets, *columns.others]
    piece = tables.words(piece, list(columns.words), path)
    piece = piece.with_columns(
        pl.Series(name, [codes[word or ""] for word in piece[name]], pl.Float64)
        for name, codes in columns.words.items()
    )
    empty = pl.all_horizontal(pl.col(name).is_null() for name in targets)
    try:
        if fill or not ahead or not piece.select(empty.any()).item():
            remedy = "" if fill else FILL
            return tables.numbers(piece, every, path, bad, lacking=fill, remedy=remedy)
        past = tables.numbers(piece.filter(~empty), every, path, bad)
        future = tables.numbers(piece.filter(empty), known, path, bad) if known else piece.filter(empty).head(0)
        unknown = [*targets, *columns.observed]
        future = future.with_columns(pl.col(name).cast(pl.Float64, strict=False) for name in unknown)
        return pl.concat([past, future]).sort(tables.LINE)
    except InputError as error:
        raise InputError(
            f"{error}; if this column is not a series, name the series with --columns, or name this column with --time, --group or --categories",
            error.elsewhere,
        ) from error


def _check_order(part: pl.DataFrame, time: str, last: tuple[Any, int] | None, path: Path, group: str) -> None:
    values, lines = part[time].to_list(), part[tables.LINE].to_list()
    if last is not None:
        values, lines = [last[0], *values], [last[1], *lines]
    for k in range(1, len(values)):
        if values[k] <= values[k - 1]:
            of = f" of {group!r}" if group else ""
            what = "the same time as" if values[k] == values[k - 1] else "an earlier time than"
            raise InputError(
                f"{path}, line {lines[k]}: the row{of} has {what} the one before it, on line {lines[k - 1]}; sort the rows by {time!r} and keep one row for each time"
            )


def _tail(table: pl.DataFrame, targets: tuple[str, ...], rows: int) -> pl.DataFrame:
    """Returns the last rows that have targets, and all that lie ahead of them."""
    told = [GIVEN + name for name in targets if GIVEN + name in table.columns]
    past = (table.select(pl.any_horizontal(told)).to_series() if told else table[targets[0]].is_not_null()).to_numpy()
    end = int(np.flatnonzero(past)[-1]) + 1 if past.any() else 0
    return table[max(0, end - rows) :]


def _end(told: NDArray[np.bool_]) -> int:
    """Returns where the rows end that have a target. told: (targets, N), whether there is one."""
    rows = np.flatnonzero(told.any(0))
    return int(rows[-1]) + 1 if len(rows) else 0


def _check_values(targets: NDArray[np.float64], lines: NDArray[np.int64], path: Path) -> None:
    told = np.isfinite(targets)
    missing = np.flatnonzero(~told.any(0))
    if len(missing) and missing[0] < _end(told):
        raise InputError(
            f"{path}, line {lines[missing[0]]}: the row has no values, but later rows do; fill it in, or leave it out"
        )


def _check_gaps(times: NDArray[Any], usual: float | None, lines: NDArray[np.int64], path: Path, group: str) -> None:
    usual, wide, k = _gaps(times, usual)
    if wide:
        missing, of = round((times[k + 1] - times[k]) / usual) - 1, f" of {group!r}" if group else ""
        rows = "1 row is" if missing == 1 else f"{missing} rows are"
        where, them = ("the only gap", "it") if wide == 1 else (f"one of {wide} gaps", "them")
        gaps = f"{path}, line {lines[k + 1]}: {rows} missing before it, {where} in the times{of}; fill {them} in"
        raise InputError(f"{gaps}, or repeat the last value across {them} with --fill-gaps", gaps)


def _gaps(times: NDArray[Any], usual: float | None) -> tuple[float, int, int]:
    """Returns the usual step of times, how many steps are gaps, and the number of the first of these.

    usual: the usual step; None where it is not known, and the median takes its place.
    """
    if len(times) < 3:
        return 1.0, 0, 0
    wide, first = 0, 0
    if usual is None:
        steps = Store(times.dtype)
        for part in _steps(times):
            steps.append(part)
        usual = float(np.median(steps.array(), overwrite_input=True))  # in place, as there may be many
    for begin, part in zip(range(0, len(times) - 1, BLOCK), _steps(times), strict=True):
        found = np.flatnonzero(part > GAP * usual)
        if len(found) and not wide:
            first = begin + int(found[0])
        wide += len(found)
    return usual, wide, first


def _steps(times: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yields the differences of neighbouring times, BLOCK at a time."""
    for begin in range(0, len(times) - 1, BLOCK):
        yield np.diff(times[begin : begin + BLOCK + 1])


def _filled(times: NDArray[Any], usual: float) -> Iterator[NDArray[Any]]:
    """Yields the times with those put in that are missing, evenly between their neighbours."""
    yield times[:1]
    for begin, steps in zip(range(0, len(times) - 1, BLOCK), _steps(times), strict=True):
        counts = np.maximum(1, np.rint(steps / usual)).astype(np.int64)
        ends = counts.cumsum()
        place = np.arange(1, ends[-1] + 1) - (ends - counts).repeat(counts)  # 1 ... count, after each time
        where = times[begin : begin + len(steps)].repeat(counts) + place * (steps / counts).repeat(counts)
        where = where.astype(times.dtype)
        where[ends - 1] = times[begin + 1 : begin + 1 + len(steps)]
        yield where


def _places(
    where: NDArray[Any], times: NDArray[Any], rows: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """Yields, BLOCK at a time, the row that stands at each of these times, and whether it is of this time.

    It is the last one that is not after it. times: those of the rows; (0,) where they have none, and each stands for itself.
    """
    for begin in range(0, max(len(where), rows if not len(times) else 0), BLOCK):
        if not len(times):
            own = np.arange(begin, min(begin + BLOCK, rows))
            yield own, np.ones(len(own), np.bool_)
            continue
        part = where[begin : begin + BLOCK]
        first, end = np.searchsorted(times, part[0], side="right") - 1, np.searchsorted(times, part[-1]) + 1
        own = first + np.searchsorted(times[first:end], part, side="right") - 1
        yield own, times[own] == part


def times_ahead(series: Series, count: int) -> NDArray[Any]:
    """Returns the `count` times after the last one: those that the file gives, and then one usual step apart."""
    assert series.pace is not None
    times = series.times if series.later is None else np.concatenate([series.times, series.later[:count]])
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    given = times[len(series.times) :]
    return np.concatenate([given, series.pace.after(times[-1], count - len(given), step)])
