"""Time series: tables whose rows are times, checked for order, gaps and duplicates."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from elman.datasets import tables
from elman.datasets.reading import BadRows
from elman.errors import InputError

GAP = 1.5  # a step of more than this many usual steps is a gap; months differ by less


class Columns(NamedTuple):
    """What the columns of a table are called."""

    targets: tuple[str, ...] = ()  # to be forecast; all others if empty
    known: tuple[str, ...] = ()  # known in advance, such as prices or holidays
    time: str | None = None
    group: str | None = None  # what tells the series of a table apart


class Series(NamedTuple):
    """One series. Times are in their own unit: microseconds of a date, or the numbers of the file."""

    group: str
    times: NDArray[Any]  # (N,) of int64 or float64; the numbers of the rows where there is no column of times
    targets: NDArray[np.float64]  # (N, targets)
    known: NDArray[np.float64]  # (N + ahead, known): also for the times ahead, where they are given


def read(
    path: Path, columns: Columns, bad: BadRows, *, fill_gaps: bool = False, tail: int | None = None
) -> tuple[list[Series], tuple[str, ...], bool]:
    """Returns the series of a file, the names of its targets, and whether its times are dates.

    fill_gaps: puts the rows that are missing in a gap on a straight line between its ends.
    tail: keeps only so many rows of each series, its last ones, so that the file may be larger than memory. Then rows
    whose targets are empty may follow, which say what is known of the times ahead.
    Raises InputError with the file, the line and the value where something is wrong.
    """
    kept: dict[str, pl.DataFrame] = {}
    last: dict[str, tuple[Any, int]] = {}  # of each group: its latest time and the line
    targets, dates = columns.targets, False
    for piece in tables.pieces(path):
        have = [name for name in piece.columns if name != tables.LINE]
        named = [*columns.targets, *columns.known, *(name for name in (columns.time, columns.group) if name)]
        missing = [name for name in named if name not in have]
        if missing:
            raise InputError(
                f"{path} has no column {missing[0]!r}; its columns are {', '.join(map(repr, have))}: choose one of them"
            )
        if not targets:
            targets = tuple(name for name in have if name not in named)
            if not targets:
                raise InputError(f"{path} has no column to forecast besides {', '.join(map(repr, named))}; add one")
        piece = _numbers(piece, targets, columns.known, path, bad, tail is not None)
        if columns.time is not None:
            piece, dates = _times(piece, columns.time, path, bad)
        if columns.group is not None:
            piece = tables.texts(piece, [columns.group], path, bad)
            parts = {
                str(key[0]): part
                for key, part in piece.partition_by(columns.group, as_dict=True, maintain_order=True).items()
            }
        else:
            parts = {"": piece}
        for name, part in parts.items():
            if columns.time is not None and len(part):
                _check_order(part, columns.time, last.get(name), path, name)
                last[name] = part[columns.time][-1], part[tables.LINE][-1]
            wanted = [*targets, *columns.known, *([columns.time] if columns.time else []), tables.LINE]
            part = part.select(list(dict.fromkeys(wanted)))
            together = pl.concat([kept[name], part]) if name in kept else part
            kept[name] = together if tail is None else _tail(together, targets, tail)
    found = [
        _series(name, table, targets, columns, path, fill_gaps, tail is not None)
        for name, table in kept.items()
        if len(table)
    ]
    if not found:
        raise InputError(f"{path} has no row that can be used; give a table with numbers")
    return found, targets, dates


def _numbers(
    piece: pl.DataFrame, targets: tuple[str, ...], known: tuple[str, ...], path: Path, bad: BadRows, ahead: bool
) -> pl.DataFrame:
    """Returns the piece with numbers. ahead: whether rows with empty targets are allowed."""
    empty = pl.all_horizontal(pl.col(name).is_null() for name in targets)
    try:
        if not ahead or not piece.select(empty.any()).item():
            return tables.numbers(piece, [*targets, *known], path, bad)
        future = tables.numbers(piece.filter(empty), known, path, bad) if known else piece.filter(empty).head(0)
        future = future.with_columns(pl.col(name).cast(pl.Float64, strict=False) for name in targets)
        past = tables.numbers(piece.filter(~empty), [*targets, *known], path, bad)
        return pl.concat([past, future]).sort(tables.LINE)
    except InputError as error:
        raise InputError(
            f"{error}; if the column is no series, name the others with --columns, or it with --time or --group"
        ) from error


def _times(piece: pl.DataFrame, time: str, path: Path, bad: BadRows) -> tuple[pl.DataFrame, bool]:
    """Returns the piece with times as numbers, and whether they are dates."""
    column = piece[time]
    if column.dtype.is_temporal():
        return piece.with_columns(column.cast(pl.Datetime("us")).cast(pl.Int64)), True
    if column.dtype == pl.String:
        numbers = column.cast(pl.Float64, strict=False)
        if numbers.null_count() < len(column):
            return tables.numbers(piece, [time], path, bad), False
        try:
            moments = column.str.to_datetime(strict=False, time_unit="us")
        except pl.exceptions.PolarsError:
            moments = pl.Series(time, [None] * len(column), dtype=pl.Datetime("us"))
        wrong = moments.is_null().to_list()
        for row in [k for k, null in enumerate(wrong) if null]:
            bad.found(
                f"{path}, line {piece[tables.LINE][row]}: column {time!r} should be a time such as 2026-01-31 12:00:00 or a number and is {column[row]!r}"
            )
        return piece.with_columns(moments.cast(pl.Int64).alias(time)).filter(~pl.Series(wrong)), True
    return tables.numbers(piece, [time], path, bad), False


def _check_order(part: pl.DataFrame, time: str, last: tuple[Any, int] | None, path: Path, group: str) -> None:
    values, lines = part[time].to_list(), part[tables.LINE].to_list()
    if last is not None:
        values, lines = [last[0], *values], [last[1], *lines]
    for k in range(1, len(values)):
        if values[k] <= values[k - 1]:
            of = f" of {group!r}" if group else ""
            what = "the same time as" if values[k] == values[k - 1] else "an earlier time than"
            raise InputError(
                f"{path}, line {lines[k]}: the row{of} has {what} the one before it, on line {lines[k - 1]}; sort the rows by {time!r} and leave one of each time"
            )


def _tail(table: pl.DataFrame, targets: tuple[str, ...], rows: int) -> pl.DataFrame:
    """Returns the last rows that have targets, and all that lie ahead of them."""
    past = table[targets[0]].is_not_null().to_numpy()
    end = int(np.flatnonzero(past)[-1]) + 1 if past.any() else 0
    return table[max(0, end - rows) :]


def _series(
    name: str, table: pl.DataFrame, targets: tuple[str, ...], columns: Columns, path: Path, fill: bool, ahead: bool
) -> Series:
    values = table.select(targets).to_numpy().astype(np.float64)
    known = table.select(columns.known).to_numpy().astype(np.float64) if columns.known else np.empty((len(table), 0))
    given: NDArray[np.bool_] = np.any(np.isfinite(values), axis=1) if ahead else np.full(len(table), True)
    end = int(np.flatnonzero(given)[-1]) + 1 if given.any() else 0
    if not given[:end].all():
        line = table[tables.LINE][int(np.flatnonzero(~given)[0])]
        raise InputError(f"{path}, line {line}: the row has no values, and later rows do; fill it in, or leave it out")
    times = table[columns.time].to_numpy() if columns.time is not None else np.arange(len(table))
    if len(times) > 2:
        steps = np.diff(times)
        usual = np.median(steps)
        wide = np.flatnonzero(steps > GAP * usual)
        if len(wide) and not fill:
            k = int(wide[0])
            raise InputError(
                f"{path}, line {table[tables.LINE][k + 1]}: {round(steps[k] / usual) - 1} rows are missing before it, one of {len(wide)} gaps in the times{f' of {name!r}' if name else ''}; fill them in, or let --fill-gaps draw straight lines across them"
            )
        if len(wide):
            where = _filled(times, usual)
            values = np.stack([np.interp(where, times[:end], column[:end]) for column in values[:end].T], 1)
            known = (
                np.stack([np.interp(where, times, column) for column in known.T], 1)
                if known.size
                else np.empty((len(where), 0))
            )
            end = int(np.searchsorted(where, times[end - 1], side="right"))
            times = where
    return Series(name, times[:end], values[:end], known)


def _filled(times: NDArray[Any], usual: float) -> NDArray[Any]:
    """Returns the times with those put in that are missing, evenly between their neighbours."""
    parts = [times[:1]]
    for a, b in pairwise(times):
        count = max(1, round((b - a) / usual))
        parts.append(np.linspace(a, b, count + 1)[1:].astype(times.dtype))
    return np.concatenate(parts)


def times_ahead(series: Series, count: int) -> NDArray[Any]:
    """Returns the `count` times after the last one, one usual step apart."""
    step = np.median(np.diff(series.times)) if len(series.times) > 1 else 1
    return (series.times[-1] + step * np.arange(1, count + 1)).astype(series.times.dtype)


def written(times: NDArray[Any], dates: bool) -> Iterator[str]:
    """Yields times as text: dates in ISO form, numbers as they are."""
    for time in times:
        yield str(np.datetime64(int(time), "us").astype("datetime64[s]")).replace("T", " ") if dates else f"{time:g}"
