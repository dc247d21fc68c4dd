"""Data that a program holds, written as the files that tasks read."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, time, timedelta
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from elman.errors import InputError
from elman.files import write_atomically

# A file; a table as a frame of pandas, polars or Arrow, or as a mapping of columns; rows as mappings, as JSON lines have
# them; or an open text.
Data: TypeAlias = Any
WHAT = "a path, a frame of pandas, polars or Arrow, a mapping of columns, rows as mappings, or an open text"


def as_file(data: Data, directory: Path, name: str) -> Path:
    """Returns the path of data, which are written into a directory if they are none. name: of the file, without an ending.

    A frame becomes Parquet, or JSON lines if it has lists; rows become JSON lines, in which arrays are lists and NaN is null.
    Raises InputError for anything else.
    """
    if isinstance(data, (str, os.PathLike)):
        return Path(data)
    path = directory / f"{name}-{secrets.token_hex(4)}"
    if hasattr(data, "read"):
        text = data.read()
        return _written(path.with_suffix(".txt"), text.encode() if isinstance(text, str) else text)
    frame = _frame(data)
    if frame is None:
        if not isinstance(data, Iterable):
            raise InputError(f"the data are {type(data).__name__}; give {WHAT}")
        return _written(path.with_suffix(".jsonl"), _json_lines(data))
    if any(kind.is_nested() for kind in frame.dtypes):
        return _written(path.with_suffix(".jsonl"), _json_lines(frame.iter_rows(named=True)))
    path = path.with_suffix(".parquet")
    directory.mkdir(parents=True, exist_ok=True)
    try:
        frame.write_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        path.unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {error}; free some space, or give a file") from error
    return path


def _written(path: Path, content: bytes | Iterator[bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    return path


def _frame(data: Any) -> pl.DataFrame | None:
    """Returns a table as polars has it; None if it is no table."""
    if isinstance(data, (pl.DataFrame, pl.LazyFrame)):
        return data.lazy().collect()
    if hasattr(data, "reset_index") and hasattr(data, "columns"):
        # The index of pandas may have a column, such as times. If it has no name, it only counts the rows.
        data = data.reset_index() if any(name is not None for name in data.index.names) else data
        return _table((name, data.iloc[:, k]) for k, name in enumerate(data.columns))
    if hasattr(data, "__arrow_c_stream__"):
        return pl.DataFrame(data)
    return _table(data.items()) if isinstance(data, Mapping) else None


def _table(columns: Iterable[tuple[Any, Any]]) -> pl.DataFrame:
    """Returns the table of these columns, each with its name. Raises InputError if they make none."""
    found = dict[str, pl.Series]()
    for name, values in columns:
        if str(name) in found:
            raise InputError(f"two columns are called {str(name)!r}; rename one of them")
        found[str(name)] = _column(str(name), values)
    lengths = {name: len(each) for name, each in found.items()}
    if len({*lengths.values()}) > 1:
        told = ", ".join(f"{name!r} has {length}" for name, length in lengths.items())
        raise InputError(f"the columns have different lengths: {told}; give columns of the same length")
    return pl.DataFrame([*found.values()])


def _column(name: str, values: Any) -> pl.Series:
    """Returns a column of a program as polars has it, with null where a value of pandas is missing."""
    if isinstance(values, pl.Series):
        return values.alias(name)
    if hasattr(values, "isna") and (not isinstance(values.dtype, np.dtype) or values.dtype.kind == "O"):
        every: Any = [None if missing else value for value, missing in zip(values.tolist(), values.isna(), strict=True)]
    elif hasattr(values, "dtype"):
        every = np.asarray(values)
        if every.dtype.kind == "M" and np.datetime_data(every.dtype)[0] not in ("D", "ms", "us", "ns"):
            every = every.astype("datetime64[us]")  # polars has no other
    else:
        every = list(values)
    try:
        return pl.Series(name, every)
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError) as error:
        kinds = ", ".join(sorted({type(value).__name__ for value in every if value is not None}))
        raise InputError(
            f"column {name!r} cannot be kept, with values of {kinds}; give one kind of numbers, texts or times"
        ) from error


def _json_lines(rows: Iterable[Any]) -> Iterator[bytes]:
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise InputError(f"row {number} of the data is {type(row).__name__}, and no mapping; give {WHAT}")
        yield json.dumps(_plain(row, number), ensure_ascii=False).encode() + b"\n"


def _plain(value: Any, number: int) -> Any:
    """Returns a value as JSON has it. number: of the row, from 1."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, Mapping):
        return {str(name): _plain(each, number) for name, each in value.items()}
    if isinstance(value, (date, time)):  # and datetime
        return None if value != value else value.isoformat()  # NaT of pandas differs from itself
    if isinstance(value, timedelta):
        return value.total_seconds()
    if hasattr(value, "detach"):  # a tensor
        value = value.detach().cpu()
        value = (value.double() if value.is_floating_point() else value).numpy()
    if isinstance(value, (np.ndarray, np.generic)):
        return _list(np.asarray(value), number)
    if type(value).__name__ == "NAType":  # of pandas
        return None
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        return [_plain(each, number) for each in value]
    raise InputError(f"row {number} of the data has a {type(value).__name__}; give numbers, texts, or lists of them")


def _list(values: NDArray[Any], number: int) -> Any:
    """Returns what `_plain` does of an array: lists in lists, or a single value."""
    kind = values.dtype.kind
    if kind == "f" and np.isnan(values).any():
        found = values.astype(object)
        found[np.isnan(values)] = None
        return found.tolist()
    if kind in "biufUS":
        return values.tolist()
    every = (
        values.astype(f"{values.dtype.char}8[us]") if kind in "mM" else values
    )  # nanoseconds would become whole numbers
    return _plain(every.tolist(), number)
