"""Times in tables: dates, or numbers, as numbers; how they go on; and how they are written."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from elman.datasets import tables
from elman.datasets.reading import BadRows
from elman.errors import InputError

KINDS = 1000  # different steps that are counted; of times that are measured, nearly all differ
USUAL = 1 / 3  # the share of all steps above which the most common one is the usual one
UNITS = (("d", 86_400_000_000), ("h", 3_600_000_000), ("min", 60_000_000), ("s", 1_000_000))  # in microseconds
PER_SECOND = {"ms": 10**3, "us": 10**6, "ns": 10**9}  # units of a Duration, whose times are told in seconds
OFFSET = "\0offset"  # a column that is added to times with an offset from UTC: how much it is, in microseconds


class Pace:
    """How the times of a series go on: their usual step, which may be whole months, and their offset from UTC."""

    def __init__(self, dates: bool):
        self.dates = dates
        self.offset: int | None = None  # of the last row, in microseconds; None where the times have none
        self._last: Any = None
        self._steps, self._months, self._total = Counter[float](), Counter[int](), 0
        self._since, self._until = set[int](), set[int]()  # from the beginning of a month to each time, and to its end
        self._month = 0  # that of the last time
        self._places = 0  # digits after the point, of times that are numbers

    def add(self, times: NDArray[Any], offsets: NDArray[np.int64] | None = None) -> None:
        """Counts the steps to these times, which follow those before. offsets: those of the times from UTC."""
        first = self._last is None
        if self.dates:
            self.offset = None if offsets is None else int(offsets[-1])
            self._add_months(times if offsets is None else times + offsets, first)
        else:
            self._places = max(self._places, *(_places(time) for time in times[:100].tolist()))
        steps: NDArray[Any] = np.diff(times if first else np.concatenate([[self._last], times]))
        kinds, counts = np.unique(steps if self.dates else np.round(steps, self._places), return_counts=True)
        for kind, count in zip(kinds.tolist(), counts.tolist(), strict=True):
            if kind > 0 and (kind in self._steps or len(self._steps) < KINDS):  # rounding may leave nothing of a step
                self._steps[kind] += count
        self._total, self._last = self._total + len(steps), times[-1]

    def _add_months(self, local: NDArray[np.int64], first: bool) -> None:
        if len(self._since) > 1 and len(self._until) > 1:
            return
        months = _months(local)
        self._since.update(np.unique(local - _beginnings(months))[:2].tolist())
        self._until.update(np.unique(_beginnings(months + 1) - local)[:2].tolist())
        self._months.update(np.diff(months if first else np.concatenate([[self._month], months])).tolist())
        self._month = int(months[-1])

    @property
    def step(self) -> float | None:
        """The usual step, in the unit of the times; None where none is usual."""
        return self._common(USUAL)

    def _common(self, share: float) -> float | None:
        """Returns the most common step, if more than this share of all steps are like it."""
        kinds = self._steps.most_common(1)
        return kinds[0][0] if kinds and kinds[0][1] > share * self._total else None

    @property
    def months(self) -> int | None:
        """Of how many months a step is; None where the times are not all at one place in their months."""
        whole = len(self._since) == 1 or len(self._until) == 1
        return self._months.most_common(1)[0][0] if whole and self._months else None

    def said(self) -> str | None:
        """Returns the step in words; None unless most steps are alike, as they are not where times are measured."""
        step = self._common(0.5)
        if self.months is not None:
            return f"{self.months} month" + ("s" if self.months > 1 else "")
        if step is None or not self.dates:
            return None if step is None else f"{step:.12g}"
        unit, size = next((each for each in UNITS if step % each[1] == 0), UNITS[-1])
        return f"{step / size:.9g} {unit}"

    def after(self, last: Any, count: int, otherwise: float) -> NDArray[Any]:
        """Returns the `count` times that follow a time. otherwise: the step where none is usual."""
        ahead = np.arange(1, count + 1)
        if self.months is None:
            times = last + (otherwise if self.step is None else self.step) * ahead
            digits = self._places + (self.step is None)  # a median may lie between two steps
            return times.astype(np.int64) if self.dates else np.round(times, digits)
        offset = self.offset or 0
        months = _months(np.array([last + offset])) + self.months * ahead
        if len(self._since) == 1 and (len(self._until) > 1 or min(self._since) < 28 * UNITS[0][1]):
            return _beginnings(months) + min(self._since) - offset
        return _beginnings(months + 1) - min(self._until) - offset


def _months(times: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns the months of times in microseconds, counted from January 1970."""
    return times.astype("datetime64[us]").astype("datetime64[M]").astype(np.int64)


def _beginnings(months: NDArray[np.int64]) -> NDArray[np.int64]:
    return months.astype("datetime64[M]").astype("datetime64[us]").astype(np.int64)


def _places(number: float) -> int:
    """Returns how many digits after the point a number is written with."""
    exponent = Decimal(repr(number)).as_tuple().exponent
    return 0 if number == int(number) or not isinstance(exponent, int) else max(0, -exponent)


def as_numbers(
    piece: pl.DataFrame, time: str, path: Path, bad: BadRows, most: float = math.inf
) -> tuple[pl.DataFrame, bool]:
    """Returns the piece with times as numbers, and with OFFSET where they have one; and whether they are dates.

    most: how far from zero a number may be.
    """
    column = piece[time]
    if column.dtype == pl.Time:
        raise InputError(
            f"{path}: column {time!r} holds times of day, such as {column.drop_nulls().first()}, without their dates; give dates and times in one column"
        )
    if isinstance(column.dtype, pl.Duration):
        piece = piece.with_columns(column.to_physical() / PER_SECOND[column.dtype.time_unit])
        return tables.numbers(piece, [time], path, bad, most), False
    if column.dtype.is_temporal():
        if isinstance(column.dtype, pl.Datetime) and column.dtype.time_zone is not None:
            offset = column.dt.base_utc_offset() + column.dt.dst_offset()
            piece = piece.with_columns(offset.dt.total_microseconds().alias(OFFSET))
        moments = column.cast(pl.Datetime("us"))
    elif column.dtype == pl.String:
        numbers = column.cast(pl.Float64, strict=False)
        if numbers.null_count() < len(column):
            return tables.numbers(piece, [time], path, bad, most), False
        try:
            moments = column.str.to_datetime(strict=False, time_unit="us")
        except pl.exceptions.PolarsError:
            moments = pl.Series(time, [None] * len(column), dtype=pl.Datetime("us"))
        if isinstance(moments.dtype, pl.Datetime) and moments.dtype.time_zone is not None:
            piece = piece.with_columns(_offsets(pl.col(time)).alias(OFFSET))
    else:
        return tables.numbers(piece, [time], path, bad, most), False
    for row in moments.is_null().arg_true():
        what = "nothing" if column[row] is None else repr(column[row])
        bad.found(
            f"{path}, line {piece[tables.LINE][row]}: column {time!r} should be a time such as 2026-01-31 12:00:00 or a number, but is {what}"
        )
    return piece.with_columns(moments.cast(pl.Int64).alias(time)).filter(moments.is_not_null()), True


def as_seconds(piece: pl.DataFrame, time: str, path: Path, bad: BadRows, most: float) -> tuple[pl.DataFrame, bool]:
    """Returns the piece with times as float64: dates in seconds since 1970, numbers, at most this far from zero, as they are.

    And whether they are dates.
    """
    piece, dates = as_numbers(piece, time, path, bad, most)
    return piece.with_columns(pl.col(time).cast(pl.Float64) / (UNITS[-1][1] if dates else 1)), dates


def _offsets(texts: pl.Expr) -> pl.Expr:
    """Returns the offsets from UTC that times end with, such as +02:00, in microseconds; 0 where there is none."""
    found = texts.str.extract_groups(r":\d\d(?:[.,]\d+)?(?<sign>[+-])(?<hours>\d\d)(?::?(?<minutes>\d\d))?$").struct
    hours, minutes = (found.field(name).cast(pl.Int64).fill_null(0) for name in ("hours", "minutes"))
    return (hours * 60 + minutes) * UNITS[2][1] * pl.when(found.field("sign") == "-").then(-1).otherwise(1)


def written(times: NDArray[Any], pace: Pace | None) -> Iterator[str | float]:
    """Yields times as they are written: dates as text in ISO form, numbers as they are, whole ones without a point."""
    if pace is None or not pace.dates:
        yield from (int(time) if time == int(time) else time for time in times.tolist())
        return
    unit = next(name for name, size in (("s", 10**6), ("ms", 1000), ("us", 1)) if not np.any(times % size))
    hours, minutes = divmod(abs(pace.offset or 0) // UNITS[2][1], 60)
    offset = "" if pace.offset is None else f"{'-' if pace.offset < 0 else '+'}{hours:02}:{minutes:02}"
    for time in times + (pace.offset or 0):
        yield str(np.datetime64(int(time), "us").astype(f"datetime64[{unit}]")).replace("T", " ") + offset
